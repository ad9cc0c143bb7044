//! Reads and writes `owner.json`, the lease file, and finds out whether the process that it names is alive.

use admiral_checkpoints_schema::{Owner, Process, SCHEMA_VERSION, Writer};
use admiral_contract::host::{self, Life, process_identity, start_ticks};
use admiral_storage::Store;

use crate::error::Error;
use crate::layout;
use crate::manifests::json;

/// The attempt that `owner.json` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerState {
    /// The run and the attempt.
    pub writer: Writer,
    /// The step that it resumed from. `None` if it started at step 0.
    pub resumed_from: Option<u64>,
    /// Whether it has released the lease at its end.
    pub is_released: bool,
    /// Whether its process is alive.
    pub life: Life,
}

impl OwnerState {
    /// Returns the step that it resumed from, whose checkpoint must not be deleted, because the attempt or its successor
    /// may resume from it again. `None` if it has released the lease.
    #[must_use]
    pub fn step_in_use(&self) -> Option<u64> {
        self.resumed_from.filter(|_| !self.is_released)
    }

    /// Returns whether it may be writing the checkpoint of `step`. An attempt that may be alive writes the steps after the
    /// one that it resumed from.
    #[must_use]
    pub fn may_be_writing(&self, step: u64) -> bool {
        !self.is_released && self.life != Life::Dead && self.resumed_from.is_none_or(|from| step > from)
    }
}

/// Returns the attempt that holds the lease of a store, or held it last.
///
/// # Errors
/// [`Error::Store`], or [`Error::Schema`] if a newer Admiral wrote the file.
pub(crate) async fn owner_state(store: &Store) -> Result<Option<OwnerState>, Error> {
    Ok(read_owner(store).await?.map(|owner| OwnerState {
        life: life_of(&owner.process),
        writer: owner.writer,
        resumed_from: owner.resumed_from,
        is_released: owner.is_released,
    }))
}

/// Reads `owner.json`. Returns `None` if it does not exist or cannot be parsed.
///
/// # Errors
/// [`Error::Store`], or [`Error::Schema`] if a newer Admiral wrote the file.
pub(crate) async fn read_owner(store: &Store) -> Result<Option<Owner>, Error> {
    let Some(bytes) = store.get(layout::OWNER).await? else { return Ok(None) };
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return Ok(None) };
    match value.get("schema_version").and_then(serde_json::Value::as_u64) {
        Some(version) if version > u64::from(SCHEMA_VERSION) => Err(Error::Schema {
            url: store.url(layout::OWNER),
            reason: format!(
                "a newer Admiral writes here (schema version {version}, and this one knows {SCHEMA_VERSION}): use that \
                 one, or give this run another run.folder or checkpoint.url"
            ),
        }),
        _ => Ok(serde_json::from_value(value).ok()),
    }
}

/// Writes `owner.json`.
///
/// # Errors
/// [`Error::Store`].
pub(crate) async fn write_owner(store: &Store, owner: &Owner) -> Result<(), Error> {
    Ok(store.put(layout::OWNER, json(store, layout::OWNER, owner)?).await?)
}

/// Returns whether `process` is alive.
pub(crate) fn life_of(process: &Process) -> Life {
    host::life_of(&process.machine, process.id, Some(process.start_ticks))
}

/// Returns this process.
pub(crate) fn own_process() -> Process {
    let id = std::process::id();
    Process { machine: process_identity(), id, start_ticks: start_ticks(id).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_identified_by_machine_and_start() {
        let own = own_process();
        assert_eq!(life_of(&own), Life::Alive);
        assert_eq!(life_of(&Process { start_ticks: own.start_ticks + 1, ..own.clone() }), Life::Dead);
        assert_eq!(life_of(&Process { machine: "elsewhere".into(), ..own }), Life::Unknown);
    }
}
