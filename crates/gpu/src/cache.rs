//! Compiled kernels on disk, so that only the first start on a machine compiles them.
//!
//! An entry is one file, named by the SHA-256 of all that decides its content: source, options, architecture, and the
//! compiler's release. It begins with the SHA-256 of what follows, so that a damaged one is seen and made anew.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::environment::GpuEnvironment;
use crate::nvrtc::{Architecture, CompileError, Cubin, Nvrtc};
use crate::program::Program;

/// Names the folder of the cache, before all others.
pub const VARIABLE: &str = "ADMIRAL_KERNEL_CACHE";
const DIGEST: usize = 32;

/// Where an answer of the cache came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Read from the file.
    Cache,
    /// Compiled, and written for the next time.
    Compiled,
    /// Compiled, but it could not be written; the reason. The next start compiles again.
    NotKept(String),
}

/// A folder of compiled kernels. Processes may share it.
#[derive(Debug, Clone)]
pub struct KernelCache {
    folder: Option<PathBuf>,
}

impl KernelCache {
    /// Keeps compiled kernels in `folder`, which is made when the first is written. Without a folder nothing is kept, and
    /// every start compiles. [`GpuEnvironment::kernel_cache_folder`] is the folder that the environment names.
    #[must_use]
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    // Goes when src/ hands this down.
    /// Reads the environment of this process.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::new(GpuEnvironment::from_vars(|name| std::env::var_os(name)).kernel_cache_folder())
    }

    /// Where entries lie.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The program's machine code: from the cache, else compiled and kept.
    ///
    /// # Errors
    /// [`CompileError`] where it had to be compiled and could not be. Trouble with the folder is no error.
    pub fn get(
        &self,
        nvrtc: &Nvrtc,
        program: &Program,
        architecture: Architecture,
    ) -> Result<(Cubin, Origin), CompileError> {
        let options = Nvrtc::options(program, architecture);
        self.get_with(&program.source(), &options, &nvrtc.version(), || nvrtc.compile(program, architecture))
    }

    fn get_with(
        &self,
        source: &str,
        options: &[String],
        version: &str,
        compile: impl FnOnce() -> Result<Cubin, CompileError>,
    ) -> Result<(Cubin, Origin), CompileError> {
        let Some(folder) = &self.folder else {
            return Ok((compile()?, Origin::NotKept("there is no folder for it: HOME is not set".into())));
        };
        let path = folder.join(format!("{}.cubin", key(source, options, version)));
        if let Some(cubin) = fs::read(&path).ok().and_then(|bytes| decode(&bytes)) {
            return Ok((cubin, Origin::Cache));
        }
        let cubin = compile()?;
        let origin = match write(folder, &path, &encode(&cubin)) {
            Ok(()) => Origin::Compiled,
            Err(error) => Origin::NotKept(format!("{}: {error}; {VARIABLE} names another folder", folder.display())),
        };
        Ok((cubin, origin))
    }
}

/// The options name the architecture.
fn key(source: &str, options: &[String], version: &str) -> String {
    let mut hash = Sha256::new();
    // Lengths first: no two lists of parts run together to the same bytes.
    for part in [source, version].into_iter().chain(options.iter().map(String::as_str)) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Digest of the rest, length of the log, log, image.
fn encode(cubin: &Cubin) -> Vec<u8> {
    let mut rest = (cubin.log.len() as u64).to_le_bytes().to_vec();
    rest.extend_from_slice(cubin.log.as_bytes());
    rest.extend_from_slice(&cubin.image);
    let mut bytes = Sha256::digest(&rest).to_vec();
    bytes.append(&mut rest);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Cubin> {
    let (digest, rest) = bytes.split_at_checked(DIGEST)?;
    if Sha256::digest(rest).as_slice() != digest {
        return None;
    }
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (log, image) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some(Cubin { image: image.to_vec(), log: String::from_utf8(log.to_vec()).ok()? })
}

/// Writes to another name and renames: processes that start together on one machine see whole entries or none.
fn write(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let (partial, mut file) = create_partial(folder)?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // The error that matters is the first.
        let _ = fs::remove_file(&partial);
    }
    written
}

/// Creates a file that no other process or thread writes. Another thread of this process, or an earlier process of the
/// same number that was killed, may have the first name.
fn create_partial(folder: &Path) -> io::Result<(PathBuf, fs::File)> {
    let mut number = 0;
    loop {
        let path = folder.join(format!("{}-{number}.partial", std::process::id()));
        match fs::File::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn cubin(text: &str) -> Cubin {
        Cubin { image: text.as_bytes().to_vec(), log: format!("log of {text}") }
    }

    fn never() -> Result<Cubin, CompileError> {
        panic!("it was to come from the cache")
    }

    fn options() -> Vec<String> {
        vec!["--gpu-architecture=sm_90".to_owned(), "-DKIND=1".to_owned()]
    }

    fn entries(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn the_second_time_comes_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(Some(folder.path().join("deep/er")));
        let first = cache.get_with("source", &options(), "12.8", || Ok(cubin("code"))).unwrap();
        assert_eq!(first, (cubin("code"), Origin::Compiled));
        assert_eq!(cache.get_with("source", &options(), "12.8", never).unwrap(), (cubin("code"), Origin::Cache));
        assert_eq!(entries(&folder.path().join("deep/er")).len(), 1, "nothing is left aside");
    }

    #[test]
    fn another_source_option_architecture_or_compiler_is_another_entry() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(Some(folder.path().to_owned()));
        cache.get_with("source", &options(), "12.8", || Ok(cubin("code"))).unwrap();
        let other_architecture = vec!["--gpu-architecture=sm_80".to_owned(), "-DKIND=1".to_owned()];
        let run_together = vec!["--gpu-architecture=sm_90-DKIND=1".to_owned()];
        for (source, options, version) in [
            ("source ", options(), "12.8"),
            ("source", other_architecture, "12.8"),
            ("source", run_together, "12.8"),
            ("source", options(), "12.9"),
        ] {
            let found = cache.get_with(source, &options, version, || Ok(cubin("other"))).unwrap();
            assert_eq!(found, (cubin("other"), Origin::Compiled), "{source:?} {options:?} {version}");
        }
        assert_eq!(entries(folder.path()).len(), 5);
    }

    #[test]
    fn a_damaged_entry_is_compiled_again_and_mended() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(Some(folder.path().to_owned()));
        cache.get_with("source", &options(), "12.8", || Ok(cubin("code"))).unwrap();
        let path = entries(folder.path()).pop().unwrap();
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for bad in [flipped, good[..good.len() - 1].to_vec(), good[..10].to_vec(), Vec::new()] {
            fs::write(&path, bad).unwrap();
            let found = cache.get_with("source", &options(), "12.8", || Ok(cubin("code"))).unwrap();
            assert_eq!(found, (cubin("code"), Origin::Compiled));
            assert_eq!(fs::read(&path).unwrap(), good);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_a_compilation_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        // A file where a folder should be: nobody can write there, root neither.
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let cache = KernelCache::new(Some(file.join("below")));
        for _ in 0..2 {
            let (found, origin) = cache.get_with("source", &options(), "12.8", || Ok(cubin("code"))).unwrap();
            assert_eq!(found, cubin("code"));
            let Origin::NotKept(reason) = origin else { panic!("{origin:?}") };
            assert!(reason.contains("file/below") && reason.contains(VARIABLE), "{reason}");
        }
    }

    #[test]
    fn a_failed_compilation_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(Some(folder.path().to_owned()));
        let error = crate::library::LibraryError::NotFound { library: crate::library::Library::Nvrtc, tried: vec![] };
        assert!(cache.get_with("source", &options(), "12.8", || Err(error.into())).is_err());
        assert!(entries(folder.path()).is_empty());
    }
}
