//! The versions of Admiral, libtorch and MPI. They must be the same on all hosts of a run.

use std::fmt;
use std::path::PathBuf;

use admiral_comm::Mpi;
use serde::Serialize;

use crate::gpus::loaded_file;
use crate::ops::{self, bridge};

/// The versions that can differ between the hosts of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// Admiral's version.
    pub admiral: String,
    /// The version of libtorch that Admiral was compiled with.
    pub libtorch_built: String,
    /// The version of the loaded libtorch, or `None` if libtorch does not report it.
    pub libtorch_loaded: Option<String>,
    /// The file of the loaded libtorch, or `None` if it is linked into the program.
    pub libtorch_path: Option<PathBuf>,
    /// The MPI library's description of itself.
    pub mpi: String,
}

impl Versions {
    /// Returns the versions of this process. Does not initialize MPI.
    ///
    /// # Errors
    /// When libtorch cannot report its version.
    pub fn of_this_process() -> Result<Self, ops::Error> {
        Ok(Self {
            admiral: env!("CARGO_PKG_VERSION").to_owned(),
            libtorch_built: bridge::torch_built_with().to_owned(),
            libtorch_loaded: bridge::torch_loaded()?,
            libtorch_path: loaded_file("libtorch_cpu"),
            mpi: Mpi::library(),
        })
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loaded = self.libtorch_loaded.as_deref().unwrap_or("of unknown version");
        let path = self.libtorch_path.as_ref().map_or("the program itself".into(), |path| path.display().to_string());
        writeln!(f, "admiral   {}", self.admiral)?;
        writeln!(f, "libtorch  {loaded} from {path}; compiled with {}", self.libtorch_built)?;
        writeln!(f, "MPI       {}", self.mpi)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaded_libtorch_has_the_version_of_the_headers() {
        let versions = Versions::of_this_process().expect("libtorch reports its version");
        let loaded = versions.libtorch_loaded.expect("libtorch names its version");
        assert!(versions.libtorch_built.starts_with(&loaded), "{loaded}, built with {}", versions.libtorch_built);
        assert!(versions.libtorch_path.expect("a shared library").exists());
        assert!(!versions.mpi.is_empty());
    }
}
