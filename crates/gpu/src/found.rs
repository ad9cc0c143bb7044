//! A report of the CUDA libraries and GPUs that were found, for `admiral device`.

use std::fmt;

use crate::driver::{Device, Driver};
use crate::library::{Library, SearchPath};
use crate::nccl::Nccl;
use crate::nvrtc::{Architecture, Nvrtc};

/// A library that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLibrary {
    /// The name or path under which it was loaded.
    pub path: String,
    /// Its version; for the driver, the newest CUDA version that it supports.
    pub version: String,
}

/// A GPU that the driver reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDevice {
    /// Its index, the same as in libtorch.
    pub ordinal: usize,
    /// The name that NVIDIA gives it.
    pub name: String,
    /// Its architecture.
    pub architecture: Architecture,
    /// The number of multiprocessors.
    pub multiprocessors: u32,
    /// The total memory in bytes.
    pub total_memory: usize,
    /// The free memory in bytes.
    pub free_memory: usize,
    /// Whether the compiler that was found supports its architecture; `None` if no compiler was found.
    pub is_compiled_for: Option<bool>,
}

/// The result of the search. Everything that is missing has a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Each library, or the reason why it cannot be used.
    pub libraries: Vec<(Library, Result<FoundLibrary, String>)>,
    /// Each GPU, or the reason why it cannot be used. Empty if there is no driver.
    pub devices: Vec<Result<FoundDevice, String>>,
}

/// Searches for all libraries and GPUs. Each GPU is opened, which temporarily takes some hundred MiB of its memory for
/// the context.
#[must_use]
pub fn find_all(search: &SearchPath) -> Found {
    let nvrtc = Nvrtc::load(search);
    let driver = Driver::load(search);
    let architectures = nvrtc.as_ref().ok().map(Nvrtc::architectures);
    let devices = driver.as_ref().map_or_else(
        |_| Vec::new(),
        |driver| {
            let count = driver.device_count().unwrap_or(0);
            (0..count)
                .map(|ordinal| {
                    let device = Device::open(driver, ordinal).map_err(|error| error.to_string())?;
                    describe(&device, architectures.as_deref()).map_err(|error| error.to_string())
                })
                .collect()
        },
    );
    let libraries = vec![
        (
            Library::Driver,
            driver
                .map(|driver| FoundLibrary { path: driver.path().to_owned(), version: driver.version() })
                .map_err(|error| error.to_string()),
        ),
        (
            Library::Nvrtc,
            nvrtc
                .map(|nvrtc| FoundLibrary { path: nvrtc.path().to_owned(), version: nvrtc.version() })
                .map_err(|error| error.to_string()),
        ),
        (
            Library::Nccl,
            Nccl::load(search)
                .map(|nccl| FoundLibrary { path: nccl.path().to_owned(), version: nccl.version() })
                .map_err(|error| error.to_string()),
        ),
    ];
    Found { libraries, devices }
}

fn describe(device: &Device, compiled: Option<&[Architecture]>) -> Result<FoundDevice, crate::driver::DriverError> {
    let architecture = device.architecture()?;
    Ok(FoundDevice {
        ordinal: device.ordinal(),
        name: device.name()?,
        architecture,
        multiprocessors: device.multiprocessors()?,
        total_memory: device.total_memory()?,
        free_memory: device.free_memory()?,
        is_compiled_for: compiled.map(|all| all.contains(&architecture)),
    })
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (library, found) in &self.libraries {
            match found {
                Ok(found) => writeln!(f, "{library}: {} from {}", found.version, found.path)?,
                // Most reasons already name the library.
                Err(reason) if reason.starts_with(&library.to_string()) => writeln!(f, "{reason}")?,
                Err(reason) => writeln!(f, "{library}: {reason}")?,
            }
        }
        for device in &self.devices {
            match device {
                Ok(device) => {
                    let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
                    writeln!(
                        f,
                        "GPU {}: {}, {}, {} multiprocessors, {:.1} of {:.1} GiB free{}",
                        device.ordinal,
                        device.name,
                        device.architecture,
                        device.multiprocessors,
                        gib(device.free_memory),
                        gib(device.total_memory),
                        match device.is_compiled_for {
                            Some(true) => "",
                            Some(false) => "; NVRTC does not know it: another release is needed",
                            None => "; no kernels without NVRTC",
                        }
                    )?;
                }
                Err(reason) => writeln!(f, "a GPU that cannot be used: {reason}")?,
            }
        }
        if self.devices.is_empty() { writeln!(f, "no GPU") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_lists_what_was_found_and_reasons_for_the_rest() {
        let device = FoundDevice {
            ordinal: 0,
            name: "NVIDIA H100 80GB HBM3".into(),
            architecture: Architecture { major: 9, minor: 0 },
            multiprocessors: 132,
            total_memory: 80 << 30,
            free_memory: 79 << 30,
            is_compiled_for: Some(true),
        };
        let old = FoundDevice { ordinal: 1, is_compiled_for: Some(false), ..device.clone() };
        let found = Found {
            libraries: vec![
                (Library::Driver, Ok(FoundLibrary { path: "libcuda.so.1".into(), version: "12.8".into() })),
                (Library::Nvrtc, Err("it is not here".into())),
                (Library::Nccl, Err("NCCL (libnccl.so.2) was not found".into())),
            ],
            devices: vec![Ok(device), Ok(old), Err("it is lost".into())],
        };
        let text = found.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "the CUDA driver library (libcuda.so.1): 12.8 from libcuda.so.1");
        assert_eq!(lines[1], "the run-time compiler NVRTC (libnvrtc.so): it is not here");
        assert_eq!(lines[2], "NCCL (libnccl.so.2) was not found");
        assert_eq!(lines[3], "GPU 0: NVIDIA H100 80GB HBM3, sm_90, 132 multiprocessors, 79.0 of 80.0 GiB free");
        assert!(lines[4].ends_with("another release is needed"), "{text}");
        assert_eq!(lines[5], "a GPU that cannot be used: it is lost");
        assert!(Found { libraries: vec![], devices: vec![] }.to_string().contains("no GPU"));
    }
}
