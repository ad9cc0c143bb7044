//! Finds and loads NVIDIA's libraries at run time, so that a program that was built without CUDA can use it.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::path::{Path, PathBuf};

use libloading::os::unix::Library as UnixLibrary;

use crate::environment::GpuEnvironment;

/// A library that Admiral loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Library {
    /// The driver API. It comes with the driver, never with a toolkit.
    Driver,
    /// NVRTC, the run-time compiler.
    Nvrtc,
    /// NCCL, the collectives between GPUs.
    Nccl,
}

impl Library {
    /// All libraries, in the order in which they are needed.
    pub const ALL: [Self; 3] = [Self::Driver, Self::Nvrtc, Self::Nccl];

    /// Returns the environment variable that names the library's file, or its folder.
    #[must_use]
    pub fn variable(self) -> &'static str {
        match self {
            Self::Driver => "ADMIRAL_CUDA_DRIVER",
            Self::Nvrtc => "ADMIRAL_NVRTC",
            Self::Nccl => "ADMIRAL_NCCL",
        }
    }

    /// Returns the file names, in order of preference.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Driver => &["libcuda.so.1"],
            Self::Nvrtc => &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so.11.1"],
            Self::Nccl => &["libnccl.so.2"],
        }
    }

    /// Returns its folders in pip packages, relative to a folder of Python packages.
    fn pip_folders(self) -> &'static [&'static str] {
        match self {
            Self::Driver => &[],
            Self::Nvrtc => &["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"],
            Self::Nccl => &["nvidia/nccl/lib"],
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Driver => {
                "it comes with NVIDIA's driver: install that, or give the container the GPU (--gpus all, or \
                 nvidia.com/gpu in its resources); compute nodes often have it where login nodes do not"
            }
            Self::Nvrtc => {
                "it comes with the CUDA toolkit and with PyTorch's CUDA wheels; to install it alone: \
                 pip install nvidia-cuda-nvrtc-cu12; if it is in an unusual place, set ADMIRAL_NVRTC to its path"
            }
            Self::Nccl => {
                "it comes with PyTorch's CUDA wheels; to install it alone: pip install nvidia-nccl-cu12, or the \
                 distribution's libnccl2; if it is in an unusual place, set ADMIRAL_NCCL to its path"
            }
        }
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Driver => "the CUDA driver library (libcuda.so.1)",
            Self::Nvrtc => "the run-time compiler NVRTC (libnvrtc.so)",
            Self::Nccl => "NCCL (libnccl.so.2)",
        })
    }
}

/// The reason why a library cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LibraryError {
    /// The library was not found.
    #[error("{library} was not found; {}", missing(*.library, .tried))]
    NotFound {
        /// The library.
        library: Library,
        /// Each place that was searched, with the reason why it did not work.
        tried: Vec<String>,
    },
    /// The library was loaded but lacks a function: it is too old, or a different library under the same name.
    #[error("{library}, loaded from {path}, has no function `{symbol}`: it is too old, or another library with this name; {}", .library.remedy())]
    Symbol {
        /// The library.
        library: Library,
        /// The name or path under which it was loaded.
        path: String,
        /// The missing function.
        symbol: String,
    },
}

fn missing(library: Library, tried: &[String]) -> String {
    let places = tried.iter().map(|place| format!("\n  {place}")).collect::<String>();
    format!("{}. Looked at:{places}", library.remedy())
}

/// A loaded library. It is never unloaded, because CUDA's libraries do not support that.
#[derive(Debug)]
pub struct Loaded {
    which: Library,
    path: String,
    handle: std::mem::ManuallyDrop<UnixLibrary>,
}

impl Loaded {
    /// Returns which library it is.
    #[must_use]
    pub fn which(&self) -> Library {
        self.which
    }

    /// Returns the name or path under which it was loaded.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns a function of the library.
    ///
    /// # Errors
    /// If the library has no function of this name ([`LibraryError::Symbol`]).
    ///
    /// # Safety
    /// `F` must be a function pointer of the function's type in C.
    pub unsafe fn function<F: Copy>(&self, name: &str) -> Result<F, LibraryError> {
        let absent = || LibraryError::Symbol { library: self.which, path: self.path.clone(), symbol: name.to_owned() };
        let symbol = CString::new(name).map_err(|_| absent())?;
        // SAFETY: the caller guarantees the type. The library is never unloaded, so the pointer stays valid.
        unsafe { self.handle.get::<F>(symbol.as_bytes_with_nul()) }.map(|found| *found).map_err(|_| absent())
    }
}

const RTLD_NOW: i32 = libloading::os::unix::RTLD_NOW;
/// The value in glibc and musl on every platform that CUDA supports.
const RTLD_NOLOAD: i32 = 0x4;

fn open(name: &OsStr, flags: i32) -> Result<UnixLibrary, String> {
    // SAFETY: the initializers of NVIDIA's libraries may run at any time. Other libraries are opened only if the user
    // names them.
    unsafe { UnixLibrary::open(Some(name), flags) }.map_err(|error| error.to_string())
}

/// The places to search for libraries, in addition to those of the dynamic loader.
#[derive(Debug, Clone, Default)]
pub struct SearchPath {
    /// The file or folder that the user named for a library. No other place is searched for it.
    pub files: HashMap<Library, PathBuf>,
    /// Folders of libtorch (`.../torch/lib`). The wheels of PyTorch have CUDA's packages next to `torch`.
    pub torch: Vec<PathBuf>,
    /// Folders of Python packages (`.../site-packages`).
    pub python: Vec<PathBuf>,
}

impl SearchPath {
    /// Returns the places that the environment variables name.
    #[must_use]
    pub fn new(environment: &GpuEnvironment) -> Self {
        let named = [
            (Library::Driver, &environment.driver),
            (Library::Nvrtc, &environment.nvrtc),
            (Library::Nccl, &environment.nccl),
        ];
        Self {
            files: named.into_iter().filter_map(|(library, path)| Some((library, path.clone()?))).collect(),
            torch: environment.libtorch.iter().map(|libtorch| libtorch.join("lib")).collect(),
            python: environment.virtual_env.iter().flat_map(|folder| python_folders(folder)).collect(),
        }
    }

    /// Sets the file or folder of a library. No other place is searched for it.
    #[must_use]
    pub fn with_file(mut self, library: Library, path: impl Into<PathBuf>) -> Self {
        self.files.insert(library, path.into());
        self
    }
}

/// Returns the package folders of a virtual environment: `lib/python3*/site-packages`.
#[must_use]
pub fn python_folders(environment: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(environment.join("lib")) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"))
        .map(|entry| entry.path().join("site-packages"))
        .collect();
    folders.sort();
    folders
}

/// Returns the paths to try, in order: the user's choice only, if there is one; else next to libtorch, the loader's
/// places, CUDA toolkits, Python packages.
fn candidates(library: Library, search: &SearchPath) -> Vec<PathBuf> {
    let names = library.names();
    if let Some(own) = search.files.get(&library) {
        // No fallback, because another library than the one that the user named would be a surprise.
        return if own.is_dir() { names.iter().map(|name| own.join(name)).collect() } else { vec![own.clone()] };
    }
    let mut folders = Vec::new();
    for torch in &search.torch {
        // torch/lib -> site-packages. The folder may be a link, so the parents are those of its real path.
        let real = torch.canonicalize().unwrap_or_else(|_| torch.clone());
        folders.push(real.clone());
        if let Some(packages) = real.parent().and_then(Path::parent) {
            folders.extend(library.pip_folders().iter().map(|folder| packages.join(folder)));
        }
    }
    let mut all: Vec<PathBuf> = in_folders(names, &folders);
    all.extend(names.iter().map(PathBuf::from));
    let mut later: Vec<PathBuf> = match library {
        Library::Driver => vec!["/usr/lib/wsl/lib".into(), "/usr/local/nvidia/lib64".into()],
        Library::Nvrtc | Library::Nccl => vec!["/usr/local/cuda/lib64".into()],
    };
    for packages in &search.python {
        later.extend(library.pip_folders().iter().map(|folder| packages.join(folder)));
    }
    all.extend(in_folders(names, &later));
    all
}

fn in_folders(names: &[&str], folders: &[PathBuf]) -> Vec<PathBuf> {
    folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name))).collect()
}

/// Loads a library.
///
/// If the process has already loaded NCCL (as a part of libtorch), that one is used, because two copies of NCCL in one
/// process do not share their state.
///
/// # Errors
/// If the library is not found ([`LibraryError::NotFound`]). The message lists the searched places and how to install
/// the library.
pub fn load(library: Library, search: &SearchPath) -> Result<Loaded, LibraryError> {
    let mut tried = Vec::new();
    if library == Library::Nccl && !search.files.contains_key(&library) {
        for name in library.names() {
            match open(OsStr::new(name), RTLD_NOW | RTLD_NOLOAD) {
                Ok(handle) => {
                    return Ok(Loaded {
                        which: library,
                        path: (*name).to_owned(),
                        handle: std::mem::ManuallyDrop::new(handle),
                    });
                }
                Err(_) => tried.push(format!("{name}: not loaded in this process yet")),
            }
        }
    }
    for path in candidates(library, search) {
        // The loader's message is useful only for files that exist.
        if path.is_absolute() && !path.exists() {
            tried.push(format!("{}: no such file", path.display()));
            continue;
        }
        match open(path.as_os_str(), RTLD_NOW) {
            Ok(handle) => {
                return Ok(Loaded {
                    which: library,
                    path: path.display().to_string(),
                    handle: std::mem::ManuallyDrop::new(handle),
                });
            }
            Err(error) => tried.push(format!("{}: {error}", path.display())),
        }
    }
    Err(LibraryError::NotFound { library, tried })
}

/// Copies a C string that a library returned. Returns `fallback` for null.
///
/// # Safety
/// `text` must be null or a C string that stays valid during the call.
pub(crate) unsafe fn text(text: *const std::ffi::c_char, fallback: &str) -> String {
    if text.is_null() {
        return fallback.to_owned();
    }
    // SAFETY: it is not null, and the caller guarantees the rest.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_other_place_is_searched_than_the_users() {
        let search =
            SearchPath { files: HashMap::new(), torch: vec!["/t/torch/lib".into()], python: vec!["/p".into()] };
        assert_eq!(
            candidates(Library::Nccl, &search.clone().with_file(Library::Nccl, "/x/libnccl.so.9")),
            [Path::new("/x/libnccl.so.9")]
        );
        let folder = tempfile::tempdir().unwrap();
        let found = candidates(Library::Nccl, &search.with_file(Library::Nccl, folder.path()));
        assert_eq!(found, [folder.path().join("libnccl.so.2")]);
    }

    #[test]
    fn libtorch_is_searched_first_then_the_loaders_places_toolkits_and_python() {
        let search =
            SearchPath { files: HashMap::new(), torch: vec!["/t/torch/lib".into()], python: vec!["/p".into()] };
        let found: Vec<String> =
            candidates(Library::Nccl, &search).iter().map(|path| path.display().to_string()).collect();
        assert_eq!(
            found,
            [
                "/t/torch/lib/libnccl.so.2",
                "/t/nvidia/nccl/lib/libnccl.so.2",
                "libnccl.so.2",
                "/usr/local/cuda/lib64/libnccl.so.2",
                "/p/nvidia/nccl/lib/libnccl.so.2",
            ]
        );
        let nvrtc = candidates(Library::Nvrtc, &search);
        assert!(nvrtc.contains(&PathBuf::from("/t/nvidia/cu13/lib/libnvrtc.so.13")), "{nvrtc:?}");
        assert!(nvrtc.contains(&PathBuf::from("/p/nvidia/cuda_nvrtc/lib/libnvrtc.so.12")), "{nvrtc:?}");
    }

    #[test]
    fn packages_are_found_next_to_the_real_path_of_libtorch() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap().join("python/torch/lib");
        std::fs::create_dir_all(&real).unwrap();
        std::os::unix::fs::symlink(real.parent().unwrap(), folder.path().join("libtorch")).unwrap();
        let search =
            SearchPath { files: HashMap::new(), torch: vec![folder.path().join("libtorch/lib")], python: Vec::new() };
        let expected = real.parent().unwrap().parent().unwrap().join("nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
        assert!(candidates(Library::Nvrtc, &search).contains(&expected));
    }

    #[test]
    fn the_message_names_the_library_the_places_and_a_remedy() {
        let nowhere = Path::new("/nowhere/libnvrtc.so.12");
        let error = load(Library::Nvrtc, &SearchPath::default().with_file(Library::Nvrtc, nowhere)).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("the run-time compiler NVRTC (libnvrtc.so) was not found"), "{text}");
        assert!(text.contains("/nowhere/libnvrtc.so.12: no such file"), "{text}");
        assert!(text.contains("pip install nvidia-cuda-nvrtc-cu12") && text.contains("ADMIRAL_NVRTC"), "{text}");
    }

    #[test]
    fn a_file_that_is_not_a_library_is_reported_with_the_loaders_message() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("libcuda.so.1");
        std::fs::write(&file, "no library").unwrap();
        let text =
            load(Library::Driver, &SearchPath::default().with_file(Library::Driver, &file)).unwrap_err().to_string();
        assert!(text.contains("libcuda.so.1: ") && text.contains("--gpus all"), "{text}");
        assert!(!text.contains("no such file"), "{text}");
    }

    #[test]
    fn a_library_that_lacks_a_function_is_reported_as_too_old() {
        // Any library works for this test; the C library is always available.
        let loaded = load(Library::Nccl, &SearchPath::default().with_file(Library::Nccl, "libc.so.6")).unwrap();
        // SAFETY: it is not called.
        let error = unsafe { loaded.function::<unsafe extern "C" fn()>("ncclGetVersion") }.unwrap_err();
        assert!(error.to_string().contains("libc.so.6, has no function `ncclGetVersion`"), "{error}");
        // SAFETY: it is not called.
        assert!(unsafe { loaded.function::<unsafe extern "C" fn()>("abort") }.is_ok());
    }

    #[test]
    fn python_folders_are_found_in_a_virtual_environment() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("lib/python3.11/site-packages")).unwrap();
        std::fs::create_dir_all(folder.path().join("lib/other")).unwrap();
        assert_eq!(python_folders(folder.path()), [folder.path().join("lib/python3.11/site-packages")]);
        assert!(python_folders(Path::new("/nowhere")).is_empty());
    }

    #[test]
    fn every_library_is_taken_from_its_own_variable() {
        let search = SearchPath::new(&GpuEnvironment::from_vars(|name| Some(name.into())));
        for library in Library::ALL {
            assert_eq!(search.files.get(&library).map(PathBuf::as_path), Some(Path::new(library.variable())));
        }
    }

    #[test]
    fn libtorch_and_the_virtual_environment_become_folders_to_search() {
        let folder = std::env::temp_dir().join("admiral-no-such-environment");
        let search = SearchPath::new(&GpuEnvironment {
            libtorch: Some("/opt/libtorch".into()),
            virtual_env: Some(folder),
            ..GpuEnvironment::default()
        });
        assert_eq!(search.torch, [PathBuf::from("/opt/libtorch/lib")]);
        assert!(search.python.is_empty() && search.files.is_empty());
    }
}
