//! What the tests share.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::Path;

use admiral_gpu::library::{Library, SearchPath, load, python_folders};
use admiral_gpu::nvrtc::Nvrtc;

/// The compiler: `ADMIRAL_NVRTC`, or the one that `ci/setup test` installs, or any that is found.
pub fn nvrtc() -> Nvrtc {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps/venv");
    let mut search = SearchPath::from_environment();
    search.python.extend(python_folders(&root));
    match load(Library::Nvrtc, &search) {
        Ok(loaded) => Nvrtc::from_library(loaded).unwrap(),
        Err(error) => panic!("run `ci/setup test`, which installs NVRTC for the tests, or set ADMIRAL_NVRTC: {error}"),
    }
}
