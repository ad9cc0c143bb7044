//! A cache of compiled kernels on disk, so that only the first start on a machine compiles them.
//!
//! An entry is a file named by the SHA-256 of everything that determines its content: the source, the options (which
//! include the architecture), and the version of the compiler. The file begins with the SHA-256 of the rest, so that a
//! damaged entry is detected and compiled again.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::nvrtc::{Architecture, CompileError, Cubin, Nvrtc};
use crate::program::Program;

/// The environment variable that names the folder of the cache.
pub const VARIABLE: &str = "ADMIRAL_KERNEL_CACHE";
const DIGEST: usize = 32;

/// The origin of a compiled program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It was read from the cache.
    Cache,
    /// It was compiled and written to the cache.
    Compiled,
    /// It was compiled but not written to the cache, for the given reason. The next start compiles it again.
    NotCached(String),
}

/// A cache of compiled kernels in a folder. Several processes may share the folder.
#[derive(Debug, Clone)]
pub struct KernelCache {
    folder: Option<PathBuf>,
}

impl KernelCache {
    /// Makes a cache in `folder`, which is created when the first entry is written. Without a folder nothing is stored
    /// and every start compiles. [`GpuEnvironment::kernel_cache_folder`](crate::GpuEnvironment::kernel_cache_folder) returns the folder that the environment names.
    #[must_use]
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// Returns the folder of the cache.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Returns the machine code of a program. It is read from the cache, or compiled and written to the cache.
    ///
    /// # Errors
    /// If the program is not in the cache and does not compile. A failure to write the entry is not an error.
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
            return Ok((compile()?, Origin::NotCached("there is no folder for it: HOME is not set".into())));
        };
        let path = folder.join(format!("{}.cubin", key(source, options, version)));
        // The digest in an entry finds damage, but not a wrong entry of another user.
        if !make_safe(folder) {
            let reason =
                format!("users other than this one may write to {}; {VARIABLE} names another folder", folder.display());
            return Ok((compile()?, Origin::NotCached(reason)));
        }
        if let Some(cubin) = read(&path).and_then(|bytes| decode(&bytes)) {
            return Ok((cubin, Origin::Cache));
        }
        let cubin = compile()?;
        let origin = match write(folder, &path, &encode(&cubin)) {
            Ok(()) => Origin::Compiled,
            Err(error) => Origin::NotCached(format!("{}: {error}; {VARIABLE} names another folder", folder.display())),
        };
        Ok((cubin, origin))
    }
}

/// Reads an entry, unless it is a link or others may have written it.
fn read(path: &Path) -> Option<Vec<u8>> {
    if !fs::symlink_metadata(path).ok()?.is_file() || !is_own(&fs::metadata(path).ok()?) {
        return None;
    }
    fs::read(path).ok()
}

/// Makes a folder of this user writable by this user only. Returns whether no other user may write to it then. A folder that is not there yet will be this user's.
fn make_safe(folder: &Path) -> bool {
    match fs::metadata(folder) {
        Ok(meta) if is_own(&meta) => true,
        // Earlier versions created it with the rights of the umask. Each entry is checked as well.
        Ok(_) => {
            let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
            fs::metadata(folder).is_ok_and(|meta| is_own(&meta))
        }
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Returns whether a file or folder belongs to this user or to root, and no other user may write to it.
fn is_own(meta: &fs::Metadata) -> bool {
    // The owner of a process's entry is its effective user.
    let own = fs::metadata("/proc/self").map_or(0, |process| process.uid());
    (meta.uid() == own || meta.uid() == 0) && meta.mode() & 0o022 == 0
}

/// Returns the name of an entry. The options include the architecture.
fn key(source: &str, options: &[String], version: &str) -> String {
    let mut hash = Sha256::new();
    // Each part is preceded by its length, so that different lists of parts never give the same bytes.
    for part in [source, version].into_iter().chain(options.iter().map(String::as_str)) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Encodes an entry: the digest of the rest, the length of the log, the log, the image.
fn encode(cubin: &Cubin) -> Vec<u8> {
    let mut rest = (cubin.log.len() as u64).to_le_bytes().to_vec();
    rest.extend_from_slice(cubin.log.as_bytes());
    rest.extend_from_slice(&cubin.image);
    let mut bytes = Sha256::digest(&rest).to_vec();
    bytes.append(&mut rest);
    bytes
}

/// Decodes an entry. Returns `None` if it is damaged.
fn decode(bytes: &[u8]) -> Option<Cubin> {
    let (digest, rest) = bytes.split_at_checked(DIGEST)?;
    if Sha256::digest(rest).as_slice() != digest {
        return None;
    }
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (log, image) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some(Cubin { image: image.to_vec(), log: String::from_utf8(log.to_vec()).ok()? })
}

/// Writes an entry. It is written under a temporary name and renamed, so that processes that start together on one
/// machine never see incomplete entries.
fn write(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let (partial, mut file) = create_partial(folder)?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&partial);
    }
    written
}

/// Creates a temporary file that no other process or thread writes. A name may be taken by another thread of this
/// process, or by an earlier process with the same ID that was killed.
fn create_partial(folder: &Path) -> io::Result<(PathBuf, fs::File)> {
    let mut number = 0;
    loop {
        let path = folder.join(format!("{}-{number}.partial", std::process::id()));
        match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
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
        panic!("the entry must come from the cache")
    }

    fn options() -> Vec<String> {
        vec!["--gpu-architecture=sm_90".to_owned(), "-DKIND=1".to_owned()]
    }

    fn entries(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn entries_that_others_may_have_written_are_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(Some(folder.path().to_owned()));
        let get = || cache.get_with("source", &options(), "12.8", || Ok(cubin("new"))).unwrap();
        assert_eq!(get().1, Origin::Compiled);
        let entry = entries(folder.path()).remove(0);
        assert_eq!(fs::metadata(&entry).unwrap().permissions().mode() & 0o777, 0o600);
        let allow = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        allow(&entry, 0o622);
        assert_eq!(get().1, Origin::Compiled, "an entry that others may write is compiled again");
        assert_eq!(get().1, Origin::Cache);
        let elsewhere = folder.path().join("elsewhere");
        fs::rename(&entry, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &entry).unwrap();
        assert_eq!(get().1, Origin::Compiled, "a link is replaced");
        allow(folder.path(), 0o777);
        assert_eq!(get().1, Origin::Cache);
        assert_eq!(fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn the_second_request_is_read_from_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(Some(folder.path().join("deep/er")));
        let first = cache.get_with("source", &options(), "12.8", || Ok(cubin("code"))).unwrap();
        assert_eq!(first, (cubin("code"), Origin::Compiled));
        assert_eq!(cache.get_with("source", &options(), "12.8", never).unwrap(), (cubin("code"), Origin::Cache));
        assert_eq!(entries(&folder.path().join("deep/er")).len(), 1, "no temporary file is left");
    }

    #[test]
    fn source_options_architecture_and_compiler_distinguish_entries() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(Some(folder.path().to_owned()));
        cache.get_with("source", &options(), "12.8", || Ok(cubin("code"))).unwrap();
        let other_architecture = vec!["--gpu-architecture=sm_80".to_owned(), "-DKIND=1".to_owned()];
        let concatenated = vec!["--gpu-architecture=sm_90-DKIND=1".to_owned()];
        for (source, options, version) in [
            ("source ", options(), "12.8"),
            ("source", other_architecture, "12.8"),
            ("source", concatenated, "12.8"),
            ("source", options(), "12.9"),
        ] {
            let found = cache.get_with(source, &options, version, || Ok(cubin("other"))).unwrap();
            assert_eq!(found, (cubin("other"), Origin::Compiled), "{source:?} {options:?} {version}");
        }
        assert_eq!(entries(folder.path()).len(), 5);
    }

    #[test]
    fn a_damaged_entry_is_compiled_again_and_replaced() {
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
    fn an_unwritable_folder_is_reported_and_does_not_fail() {
        let folder = tempfile::tempdir().unwrap();
        // A file instead of a folder: not even root can write to it.
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let cache = KernelCache::new(Some(file.join("below")));
        for _ in 0..2 {
            let (found, origin) = cache.get_with("source", &options(), "12.8", || Ok(cubin("code"))).unwrap();
            assert_eq!(found, cubin("code"));
            let Origin::NotCached(reason) = origin else { panic!("{origin:?}") };
            assert!(reason.contains("file/below") && reason.contains(VARIABLE), "{reason}");
        }
    }

    #[test]
    fn a_failed_compilation_writes_no_entry() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(Some(folder.path().to_owned()));
        let error = crate::library::LibraryError::NotFound { library: crate::library::Library::Nvrtc, tried: vec![] };
        assert!(cache.get_with("source", &options(), "12.8", || Err(error.into())).is_err());
        assert!(entries(folder.path()).is_empty());
    }
}
