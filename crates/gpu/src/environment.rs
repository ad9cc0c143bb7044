//! The environment variables that name the places of libraries and compiled kernels.

use std::ffi::OsString;
use std::path::PathBuf;

/// The values of the environment variables that this package uses. `None` is a variable that is not set.
///
/// A program reads them once, at its start, and passes them on. Nothing else in this package reads the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuEnvironment {
    /// `ADMIRAL_CUDA_DRIVER`: the CUDA driver library, or its folder. No other place is searched.
    pub driver: Option<PathBuf>,
    /// `ADMIRAL_NVRTC`: the run-time compiler, or its folder. No other place is searched.
    pub nvrtc: Option<PathBuf>,
    /// `ADMIRAL_NCCL`: the NCCL library, or its folder. No other place is searched.
    pub nccl: Option<PathBuf>,
    /// `ADMIRAL_KERNEL_CACHE`: the folder for compiled kernels.
    pub kernel_cache: Option<PathBuf>,
    /// `XDG_CACHE_HOME`: the user's cache folder. Compiled kernels are stored in its subfolder `admiral`.
    pub xdg_cache_home: Option<PathBuf>,
    /// `HOME`: the user's home folder. Compiled kernels are stored in its subfolder `.cache/admiral`.
    pub home: Option<PathBuf>,
    /// `LIBTORCH`: the folder of libtorch. CUDA libraries are searched in its subfolder `lib` and in the Python
    /// packages next to it.
    pub libtorch: Option<PathBuf>,
    /// `VIRTUAL_ENV`: the active Python environment. CUDA libraries are searched in its packages.
    pub virtual_env: Option<PathBuf>,
}

impl GpuEnvironment {
    /// Reads the variables with `get`, which returns the value of a variable. Programs pass
    /// `|name| std::env::var_os(name)`.
    #[must_use]
    pub fn from_vars(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name| get(name).map(PathBuf::from);
        Self {
            driver: path("ADMIRAL_CUDA_DRIVER"),
            nvrtc: path("ADMIRAL_NVRTC"),
            nccl: path("ADMIRAL_NCCL"),
            kernel_cache: path("ADMIRAL_KERNEL_CACHE"),
            xdg_cache_home: path("XDG_CACHE_HOME"),
            home: path("HOME"),
            libtorch: path("LIBTORCH"),
            virtual_env: path("VIRTUAL_ENV"),
        }
    }

    /// Returns the folder for compiled kernels: `ADMIRAL_KERNEL_CACHE`, else `XDG_CACHE_HOME/admiral`, else
    /// `HOME/.cache/admiral`. Empty variables count as not set. Returns `None` if none of them is set.
    #[must_use]
    pub fn kernel_cache_folder(&self) -> Option<PathBuf> {
        let set = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        set(&self.kernel_cache)
            .or_else(|| set(&self.xdg_cache_home).map(|cache| cache.join("admiral")))
            .or_else(|| set(&self.home).map(|home| home.join(".cache/admiral")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> GpuEnvironment {
        GpuEnvironment::from_vars(|name| {
            variables.iter().find(|(set, _)| *set == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_cache_folder_is_the_users_then_xdgs_then_in_home() {
        let (own, xdg, home) = (("ADMIRAL_KERNEL_CACHE", "/own"), ("XDG_CACHE_HOME", "/xdg"), ("HOME", "/home/me"));
        assert_eq!(environment(&[own, xdg, home]).kernel_cache_folder(), Some("/own".into()));
        let empty = ("ADMIRAL_KERNEL_CACHE", "");
        assert_eq!(environment(&[empty, xdg, home]).kernel_cache_folder(), Some("/xdg/admiral".into()));
        assert_eq!(environment(&[home]).kernel_cache_folder(), Some("/home/me/.cache/admiral".into()));
        assert_eq!(environment(&[]).kernel_cache_folder(), None);
    }

    #[test]
    fn every_variable_is_read_under_its_own_name() {
        let read = GpuEnvironment::from_vars(|name| Some(name.into()));
        let all = [
            (&read.driver, "ADMIRAL_CUDA_DRIVER"),
            (&read.nvrtc, "ADMIRAL_NVRTC"),
            (&read.nccl, "ADMIRAL_NCCL"),
            (&read.kernel_cache, "ADMIRAL_KERNEL_CACHE"),
            (&read.xdg_cache_home, "XDG_CACHE_HOME"),
            (&read.home, "HOME"),
            (&read.libtorch, "LIBTORCH"),
            (&read.virtual_env, "VIRTUAL_ENV"),
        ];
        for (value, name) in all {
            assert_eq!(value.as_deref(), Some(name.as_ref()));
        }
    }
}
