//! Converts the configured faults into those that a store injects.

use std::sync::Arc;

use admiral_comm::{FaultInjector, FaultsConfig};
use admiral_storage::InjectedFaults;

use crate::layout;

/// Returns the faults of the store of `rank` in the start of the run with number `attempt`. `injector` determines when the
/// storage is cut off.
#[must_use]
pub fn store_faults(
    faults: &FaultsConfig,
    rank: usize,
    attempt: u64,
    injector: Option<&Arc<FaultInjector>>,
) -> InjectedFaults {
    if !faults.is_active(attempt) {
        return InjectedFaults::default();
    }
    let from_step = faults.die_from_step;
    let starts_count =
        move |path: &str| path.split('/').find_map(layout::step_of).is_some_and(|step| step >= from_step);
    let injector = injector.filter(|_| faults.cut_storage_seconds.is_some()).map(Arc::clone);
    InjectedFaults {
        abort_before: faults.die_at_store_operation.filter(|_| faults.die_rank == rank),
        starts_count: Some(Arc::new(starts_count)),
        is_cut: injector
            .map(|injector| Arc::new(move || injector.is_storage_cut()) as Arc<dyn Fn() -> bool + Send + Sync>),
    }
}
