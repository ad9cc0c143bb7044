//! Where the files of a launch lie in the run's folder.

use std::path::{Path, PathBuf};

/// Where the newest preflight of a run lies.
#[must_use]
pub fn receipt_of(run: &Path) -> PathBuf {
    run.join("launch/receipt.json")
}

/// Where the state of a run's launch lies.
#[must_use]
pub fn state_of(run: &Path) -> PathBuf {
    run.join("launch/state.json")
}

/// The file of an incident of a run's launches, from 1.
#[must_use]
pub fn incident_of(run: &Path, number: u64) -> PathBuf {
    run.join(format!("launch/incidents/{number:03}/failure.json"))
}
