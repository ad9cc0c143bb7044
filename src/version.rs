//! What this program is and what it runs on: on every host of a run it has to be the same.

use std::fmt;
use std::path::PathBuf;

use admiral_comm::Mpi;
use serde::Serialize;

use crate::gpus::loaded_file;
use crate::ops::{self, bridge};

/// The parts of a process that can differ between hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// Admiral's version.
    pub admiral: String,
    /// The libtorch that it was compiled with.
    pub libtorch_built: String,
    /// The libtorch that is loaded; none where it does not say.
    pub libtorch_loaded: Option<String>,
    /// The file that the loaded one comes from; none where it is part of the program.
    pub libtorch_path: Option<PathBuf>,
    /// The MPI library's own description.
    pub mpi: String,
}

impl Versions {
    /// Those of this process. MPI is asked, but not started.
    ///
    /// # Errors
    /// When libtorch cannot say what it is.
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
    fn the_loaded_library_is_the_one_of_the_headers() {
        let versions = Versions::of_this_process().expect("libtorch answers");
        let loaded = versions.libtorch_loaded.expect("libtorch names its version");
        assert!(versions.libtorch_built.starts_with(&loaded), "{loaded}, built with {}", versions.libtorch_built);
        assert!(versions.libtorch_path.expect("a shared library").exists());
        assert!(!versions.mpi.is_empty());
    }
}
