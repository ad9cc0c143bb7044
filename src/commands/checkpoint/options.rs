//! The options of the stores that commands open.

use admiral_storage::{CloudSettings, StoreOptions};

/// Returns the default options with these settings of object stores.
pub(super) fn options_of(clouds: &CloudSettings) -> StoreOptions {
    StoreOptions { clouds: clouds.clone(), ..StoreOptions::default() }
}
