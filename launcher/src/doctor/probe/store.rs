//! The store, written to from this host by the program itself. The launcher has no client for object stores.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use admiral_contract::ExitCode;
use serde::{Deserialize, Serialize};

use super::command::{NoOutput, last_line, output};

/// The store's own timeout is shorter.
const TIMEOUT: Duration = Duration::from_secs(45);

/// A successful access to the store.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StoreAccess {
    /// The time to write, list, read and delete a small object, in seconds.
    pub seconds: f64,
}

pub(super) fn write_probe(program: &Path, url: &str) -> Result<StoreAccess, String> {
    let said = output(Command::new(program).args(["checkpoint", "probe", url, "--json"]), TIMEOUT);
    match said {
        Ok(said) if said.status.success() => serde_json::from_slice(&said.stdout)
            .map_err(|error| format!("`admiral checkpoint probe` gives no answer that can be read: {error}")),
        // A failure comes with a message; the exit code says nothing more to people.
        Ok(said) if said.status.code() == Some(ExitCode::Store as i32) => {
            let words = last_line(&said);
            let words = words.rsplit_once(" (").map_or(words.as_str(), |(words, _)| words);
            Err(words.trim_start_matches("error: ").to_owned())
        }
        Ok(said) => Err(last_line(&said)),
        Err(NoOutput::Absent) => Err(format!("{} is not there", program.display())),
        Err(NoOutput::Failed(reason)) => Err(reason),
    }
}
