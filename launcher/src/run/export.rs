//! The endpoint and the file of the launcher's metrics.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use admiral_contract::listen_address;
use admiral_exposition::{ExportSettings, Exporter, WhenBusy};

use super::error::LaunchError;
use super::options::LaunchOptions;
use super::settings::Settings;
use crate::console::Console;
use crate::metrics::{Accounts, LaunchMetrics};

/// The endpoint, the file, and the thread that reads the accounts of the run's time.
#[derive(Debug)]
pub(super) struct Export {
    exporter: Exporter,
    _accounts: Option<Accounts>,
}

impl Export {
    /// Starts what the options and the configuration ask for; the options have priority. Returns `None` if they ask for
    /// nothing.
    ///
    /// # Errors
    /// If the address is in use, or there is no folder for the file.
    pub(super) fn start(
        options: &LaunchOptions,
        settings: &Settings,
        run_folder: &Path,
        metrics: &LaunchMetrics,
        console: &Console,
    ) -> Result<Option<Self>, LaunchError> {
        let limits = &settings.limits;
        metrics.stall_timeout(limits.timeouts().stall);
        let listen = options.listen.or_else(|| limits.listen.as_deref().and_then(listen_address));
        let textfile = options.textfile.clone().or_else(|| limits.textfile.clone());
        if listen.is_none() && textfile.is_none() {
            return Ok(None);
        }
        let warner = console.clone();
        let export =
            ExportSettings { listen, textfile, when_busy: WhenBusy::Refuse, failures: LaunchMetrics::failures() };
        let warn = Arc::new(move |text: &str| warner.warn(text)) as _;
        let exporter = Exporter::start(export, Arc::new(metrics.clone()), &warn).map_err(LaunchError::config)?;
        if let Some(address) = listen {
            console.info(&format!("metrics are served at http://{address}/metrics, the state at /health"));
        }
        let accounts = Accounts::start(run_folder.to_owned(), metrics.clone());
        Ok(Some(Self { exporter, _accounts: accounts.ok() }))
    }

    /// Writes the file a last time, for at most `patience`, and ends.
    pub(super) fn finish(self, patience: Duration) {
        self.exporter.finish(patience);
    }
}
