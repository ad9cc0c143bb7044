//! What the tests share.
#![allow(dead_code, clippy::unwrap_used)]

pub mod emulator;
pub mod machine;
pub mod numbers;
pub mod twin;

use std::path::Path;

use admiral_gpu::GpuEnvironment;
use admiral_gpu::library::{Library, SearchPath, load, python_folders};
use admiral_gpu::nvrtc::Nvrtc;

/// Where the tests look for libraries: where a run does, and where `ci/setup test` installs them. A test program that
/// was carried to another machine finds no such folder there, and takes `ADMIRAL_NVRTC`.
pub fn search() -> SearchPath {
    let mut search = SearchPath::new(&GpuEnvironment::from_vars(|name| std::env::var_os(name)));
    search.python.extend(python_folders(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.deps/venv")));
    search
}

/// The compiler.
pub fn nvrtc() -> Nvrtc {
    match load(Library::Nvrtc, &search()) {
        Ok(loaded) => Nvrtc::from_library(loaded).unwrap(),
        Err(error) => panic!("run `ci/setup test`, which installs NVRTC for the tests, or set ADMIRAL_NVRTC: {error}"),
    }
}

/// The largest difference, as a part of the largest of the wanted values and of `terms` that they are sums of: few values
/// may cancel, and what rounding costs is a part of the terms.
pub fn relative_error(wanted: &[f64], found: &[f64], terms: &[&[f64]]) -> f64 {
    assert_eq!(wanted.len(), found.len());
    let largest = terms.iter().copied().flatten().chain(wanted).fold(1e-30f64, |a, b| a.max(b.abs()));
    // A NaN must not get lost in a maximum.
    wanted.iter().zip(found).fold(0.0, |worst: f64, (w, f)| {
        let error = (w - f).abs() / largest;
        if error.is_nan() || error > worst { error } else { worst }
    })
}
