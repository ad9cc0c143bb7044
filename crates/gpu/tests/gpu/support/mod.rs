//! Common code of the tests.
#![allow(dead_code, clippy::unwrap_used)]

pub mod emulator;
pub mod machine;
pub mod numbers;
pub mod reference;

use std::path::Path;

use admiral_gpu::GpuEnvironment;
use admiral_gpu::library::{Library, SearchPath, load, python_folders};
use admiral_gpu::nvrtc::Nvrtc;

/// Returns the search path of the tests: that of a run, and the folder where `ci/setup test` installs libraries. A test
/// program that was copied to another machine does not find that folder, and needs `ADMIRAL_NVRTC`.
pub fn search() -> SearchPath {
    let mut search = SearchPath::new(&GpuEnvironment::from_vars(|name| std::env::var_os(name)));
    search.python.extend(python_folders(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.deps/venv")));
    search
}

/// Loads the compiler.
pub fn nvrtc() -> Nvrtc {
    match load(Library::Nvrtc, &search()) {
        Ok(loaded) => Nvrtc::from_library(loaded).unwrap(),
        Err(error) => panic!("run `ci/setup test`, which installs NVRTC for the tests, or set ADMIRAL_NVRTC: {error}"),
    }
}

/// Returns the largest error, relative to the largest of the expected values and of `terms`. The expected values are
/// sums of `terms`: they may cancel, but the rounding error is relative to the terms.
pub fn relative_error(expected: &[f64], found: &[f64], terms: &[&[f64]]) -> f64 {
    assert_eq!(expected.len(), found.len());
    let largest = terms.iter().copied().flatten().chain(expected).fold(1e-30f64, |a, b| a.max(b.abs()));
    // `max` would ignore a NaN.
    expected.iter().zip(found).fold(0.0, |worst: f64, (w, f)| {
        let error = (w - f).abs() / largest;
        if error.is_nan() || error > worst { error } else { worst }
    })
}
