//! The endpoint and the file of a program.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::failures::{Failures, Warn};
use crate::server::{Server, bind};
use crate::source::{Health, Source};
use crate::table::{Family, Table};
use crate::textfile::Textfile;

/// The time between two writes of the file.
const TEXTFILE_INTERVAL: Duration = Duration::from_secs(15);

/// The start of a program with an address that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenBusy {
    /// It is an error.
    Refuse,
    /// The endpoint is tried again until the address is free.
    Retry,
}

/// Where metrics go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSettings {
    /// The address of the endpoint; `None` for no endpoint.
    pub listen: Option<SocketAddr>,
    /// What happens if that address cannot be used.
    pub when_busy: WhenBusy,
    /// The file for node_exporter; `None` for no file.
    pub textfile: Option<PathBuf>,
    /// The family that counts failures to write and to accept connections.
    pub failures: Family,
}

/// An endpoint or a file cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The address cannot be used.
    #[error("metrics cannot be served at {address}: {source}; choose another address, or free this one")]
    Address {
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The folder of the file cannot be used.
    #[error("metrics cannot be written to {path}: {source}; its folder must exist")]
    Textfile {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The system provides no thread.
    #[error("no thread can be started for metrics: {0}")]
    Thread(std::io::Error),
}

/// The endpoint and the file. Both end when it is dropped.
#[derive(Debug)]
pub struct Exporter {
    server: Option<Server>,
    textfile: Option<Textfile>,
}

impl Exporter {
    /// Starts what the settings ask for. `warn` gets the first failure of the endpoint, and that of the file.
    ///
    /// # Errors
    /// If the address cannot be used, unless it is to be tried again; if there is no folder for the file.
    pub fn start(settings: ExportSettings, source: Arc<dyn Source>, warn: &Warn) -> Result<Self, ExportError> {
        let ExportSettings { listen, when_busy, textfile, failures } = settings;
        let new = || Failures::new(Arc::clone(warn));
        let counted = Arc::new(Counted { source, family: failures, endpoint: new(), textfile: new() });
        let server = match listen {
            None => None,
            Some(address) => {
                let listener = match (bind(address), when_busy) {
                    (Ok(listener), _) => Some(listener),
                    (Err(_), WhenBusy::Retry) => None,
                    (Err(source), WhenBusy::Refuse) => return Err(ExportError::Address { address, source }),
                };
                let source = Arc::clone(&counted) as Arc<dyn Source>;
                let server = Server::start(listener, address, source, counted.endpoint.clone());
                Some(server.map_err(ExportError::Thread)?)
            }
        };
        let textfile = match textfile {
            None => None,
            Some(path) => {
                if when_busy == WhenBusy::Refuse {
                    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                    let found = std::fs::metadata(folder.unwrap_or(".".as_ref()));
                    found.map_err(|source| ExportError::Textfile { path: path.clone(), source })?;
                }
                let source = Arc::clone(&counted) as Arc<dyn Source>;
                let textfile = Textfile::start(path, TEXTFILE_INTERVAL, source, counted.textfile.clone());
                Some(textfile.map_err(ExportError::Thread)?)
            }
        };
        Ok(Self { server, textfile })
    }

    /// Writes the file a last time, for at most `patience`, and ends.
    pub fn finish(self, patience: Duration) {
        let Self { server, textfile } = self;
        drop(server);
        if let Some(textfile) = textfile {
            textfile.finish(patience);
        }
    }
}

/// Adds the failures to a source.
#[derive(Debug)]
struct Counted {
    source: Arc<dyn Source>,
    family: Family,
    endpoint: Failures,
    textfile: Failures,
}

impl Source for Counted {
    fn table(&self) -> Table {
        let mut table = self.source.table();
        for (destination, failures) in [("endpoint", &self.endpoint), ("textfile", &self.textfile)] {
            table.set_with(&self.family, &[("destination", destination)], failures.count() as f64);
        }
        table
    }

    fn health(&self) -> Health {
        self.source.health()
    }
}
