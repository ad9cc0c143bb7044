//! The GPUs of this process, opened through the CUDA driver. libtorch uses the same GPUs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use admiral_gpu::GpuEnvironment;
use admiral_gpu::driver::{Device, Driver};
use admiral_gpu::library::SearchPath;

/// Opens the CUDA driver and each GPU at its first use, and keeps them open.
#[derive(Debug)]
pub struct Gpus {
    search: SearchPath,
    kernel_cache: Option<PathBuf>,
    driver: OnceLock<Result<Arc<Driver>, String>>,
    devices: Mutex<HashMap<usize, Arc<Device>>>,
}

impl Gpus {
    /// Searches for NVIDIA's libraries first in the folder of the loaded libtorch, whose wheel contains them, and then
    /// in the locations that `environment` names.
    #[must_use]
    pub fn new(environment: &GpuEnvironment) -> Self {
        let mut search = SearchPath::new(environment);
        if let Some(folder) = loaded_file("libtorch_cpu").as_deref().and_then(Path::parent) {
            // The folder that the environment names may be a link to the folder of the loaded libtorch.
            search.torch.retain(|other| other.canonicalize().is_ok_and(|other| other != folder));
            search.torch.insert(0, folder.to_owned());
        }
        Self {
            search,
            kernel_cache: environment.kernel_cache_folder(),
            driver: OnceLock::new(),
            devices: Mutex::default(),
        }
    }

    /// Returns the locations that are searched for NVIDIA's libraries.
    #[must_use]
    pub fn search(&self) -> &SearchPath {
        &self.search
    }

    /// Returns the folder of the cache of compiled kernels, if there is one.
    #[must_use]
    pub fn kernel_cache(&self) -> Option<PathBuf> {
        self.kernel_cache.clone()
    }

    /// Returns the GPU that libtorch numbers `ordinal`, with the CUDA context that libtorch uses too.
    ///
    /// # Errors
    /// When the driver or the GPU cannot be used. The message says what is missing and how to install it.
    pub fn device(&self, ordinal: usize) -> Result<Arc<Device>, String> {
        let load = || Driver::load(&self.search).map_err(|error| error.to_string());
        let driver = self.driver.get_or_init(load).as_ref()?;
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = devices.get(&ordinal) {
            return Ok(Arc::clone(device));
        }
        let device = Device::open(driver, ordinal).map_err(|error| error.to_string())?;
        devices.insert(ordinal, Arc::clone(&device));
        Ok(device)
    }
}

/// Returns the file of a loaded library, whose name is `name` before `.so`, or `None` if it is not loaded or is linked
/// into the program.
#[must_use]
pub fn loaded_file(name: &str) -> Option<PathBuf> {
    mapped_file(&std::fs::read_to_string("/proc/self/maps").unwrap_or_default(), name)
}

/// Returns the first file in a process's memory map whose name starts with `name` and `.so`.
fn mapped_file(maps: &str, name: &str) -> Option<PathBuf> {
    // Each line is "address permissions offset device inode   path". The path may contain blanks.
    maps.lines().filter_map(|line| line.find('/').map(|start| PathBuf::from(&line[start..]))).find(|path| {
        path.file_name().and_then(|file| file.to_str()).is_some_and(|file| file.starts_with(&format!("{name}.so")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_found_in_the_memory_map() {
        let maps = "7f00-7f10 r-xp 00000000 08:01 12    /usr/lib/libc.so.6\n7f20-7f30 rw-p 00000000 00:00 0 [heap]\n\
                    7f40-7f50 r--p 00000000 08:01 13    /opt/my torch/lib/libtorch_cpu.so\n";
        assert_eq!(mapped_file(maps, "libtorch_cpu"), Some("/opt/my torch/lib/libtorch_cpu.so".into()));
        assert_eq!(mapped_file(maps, "libtorch"), None);
    }

    #[test]
    fn the_folder_of_the_loaded_libtorch_is_searched_first() {
        let folder = Gpus::new(&GpuEnvironment::default()).search.torch.remove(0);
        assert!(folder.join("libtorch_cpu.so").exists(), "{}", folder.display());
    }

    #[test]
    fn a_missing_gpu_is_refused_with_a_remedy() {
        // No machine has this many GPUs.
        let Err(reason) = Gpus::new(&GpuEnvironment::default()).device(10_000) else { panic!("there are 10001 GPUs") };
        assert!(reason.contains("there is no GPU 10000") || reason.contains("libcuda.so.1"), "{reason}");
    }
}
