//! The paths of a launch's files in the run's folder.

use std::path::{Path, PathBuf};

/// The longest file of a run's folder that is read, in bytes.
pub(crate) const MAX_FILE: u64 = 16 << 20;

/// Returns the path of the newest preflight's result.
#[must_use]
pub fn receipt_of(run: &Path) -> PathBuf {
    run.join("launch/receipt.json")
}

/// Returns the path of the launch's state.
#[must_use]
pub fn state_of(run: &Path) -> PathBuf {
    run.join("launch/state.json")
}

/// Returns the path of an incident. Incidents count from 1.
#[must_use]
pub fn incident_of(run: &Path, number: u64) -> PathBuf {
    run.join(format!("launch/incidents/{number:03}/failure.json"))
}
