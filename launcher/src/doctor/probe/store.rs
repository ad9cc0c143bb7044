//! The store, tried from this host by the program itself: the launcher has no client for object stores.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use admiral_contract::ExitCode;
use serde::{Deserialize, Serialize};

use super::command::{NoOutput, last_words, output};

/// The store's own patience is shorter.
const PATIENCE: Duration = Duration::from_secs(45);

/// A trial that went well.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StoreAccess {
    /// What writing, listing, reading back and deleting a small object took.
    pub seconds: f64,
}

pub(super) fn write_probe(program: &Path, url: &str) -> Result<StoreAccess, String> {
    let said = output(Command::new(program).args(["checkpoint", "probe", url, "--json"]), PATIENCE);
    match said {
        Ok(said) if said.status.success() => serde_json::from_slice(&said.stdout)
            .map_err(|error| format!("`admiral checkpoint probe` gives no answer that can be read: {error}")),
        // One that was refused says why; the code behind its words tells people nothing.
        Ok(said) if said.status.code() == Some(ExitCode::Store as i32) => {
            let words = last_words(&said);
            let words = words.rsplit_once(" (").map_or(words.as_str(), |(words, _)| words);
            Err(words.trim_start_matches("error: ").to_owned())
        }
        Ok(said) => Err(last_words(&said)),
        Err(NoOutput::Absent) => Err(format!("{} is not there", program.display())),
        Err(NoOutput::Failed(reason)) => Err(reason),
    }
}
