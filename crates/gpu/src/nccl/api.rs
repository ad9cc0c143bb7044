//! The loaded NCCL and its functions.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use super::error::NcclError;
use crate::library::{self, Library, LibraryError, Loaded, SearchPath};

pub(super) const SUCCESS: c_int = 0;
pub(super) const IN_PROGRESS: c_int = 7;
const ID_BYTES: usize = 128;

/// The unique ID of a communicator. One rank makes it, and all ranks need it to find each other.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct UniqueId([u8; ID_BYTES]);

impl UniqueId {
    /// Its size in bytes.
    pub const BYTES: usize = ID_BYTES;

    /// Returns its bytes, to send them to the other ranks.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }

    /// Makes the ID from the bytes of the rank that created it.
    #[must_use]
    pub fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It contains an address and a secret of the job.
        f.write_str("UniqueId(..)")
    }
}

pub(super) type Comm = *mut c_void;

/// `ncclConfig_t` of NCCL 2.14, the first version that has it. Later versions read only `size` bytes.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

impl Config {
    pub(super) fn non_blocking() -> Self {
        Self { size: size_of::<Self>(), magic: 0xcafe_beef, version: 21_400, blocking: 0 }
    }
}

type Gather = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Comm, *mut c_void) -> c_int;
type Reduce = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, *mut c_void) -> c_int;
type OfComm = unsafe extern "C" fn(Comm) -> c_int;

pub(super) struct Functions {
    pub(super) version: unsafe extern "C" fn(*mut c_int) -> c_int,
    pub(super) error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    pub(super) unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    pub(super) init_rank: unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int) -> c_int,
    pub(super) async_error: unsafe extern "C" fn(Comm, *mut c_int) -> c_int,
    pub(super) all_reduce: Reduce,
    pub(super) reduce_scatter: Reduce,
    pub(super) all_gather: Gather,
    pub(super) broadcast: Reduce,
    pub(super) group_start: unsafe extern "C" fn() -> c_int,
    pub(super) group_end: unsafe extern "C" fn() -> c_int,
    pub(super) destroy: OfComm,
    pub(super) abort: OfComm,
    // Since NCCL 2.14; without them, creating a communicator blocks.
    pub(super) init_rank_config: Option<unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int, *mut Config) -> c_int>,
    pub(super) finalize: Option<OfComm>,
    // Since NCCL 2.13.
    pub(super) last_error: Option<unsafe extern "C" fn(Comm) -> *const c_char>,
}

/// The loaded NCCL.
pub struct Nccl {
    loaded: Loaded,
    pub(super) functions: Functions,
}

impl std::fmt::Debug for Nccl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NCCL {} from {}", self.version(), self.loaded.path())
    }
}

impl Nccl {
    /// Loads NCCL. If the process has already loaded it (as a part of libtorch), that one is used.
    ///
    /// # Errors
    /// If NCCL is not found, or lacks a function.
    pub fn load(search: &SearchPath) -> Result<Arc<Self>, LibraryError> {
        Self::from_library(library::load(Library::Nccl, search)?)
    }

    /// Uses a library that is already loaded.
    ///
    /// # Errors
    /// If the library lacks a function that every NCCL 2 has ([`LibraryError::Symbol`]).
    pub fn from_library(loaded: Loaded) -> Result<Arc<Self>, LibraryError> {
        // SAFETY: the types are those of nccl.h. The `root` of ncclBroadcast has the position of the reduction
        // operation.
        let functions = unsafe {
            Functions {
                version: loaded.function("ncclGetVersion")?,
                error_string: loaded.function("ncclGetErrorString")?,
                unique_id: loaded.function("ncclGetUniqueId")?,
                init_rank: loaded.function("ncclCommInitRank")?,
                async_error: loaded.function("ncclCommGetAsyncError")?,
                all_reduce: loaded.function("ncclAllReduce")?,
                reduce_scatter: loaded.function("ncclReduceScatter")?,
                all_gather: loaded.function("ncclAllGather")?,
                broadcast: loaded.function("ncclBroadcast")?,
                group_start: loaded.function("ncclGroupStart")?,
                group_end: loaded.function("ncclGroupEnd")?,
                destroy: loaded.function("ncclCommDestroy")?,
                abort: loaded.function("ncclCommAbort")?,
                init_rank_config: loaded.function("ncclCommInitRankConfig").ok(),
                finalize: loaded.function("ncclCommFinalize").ok(),
                last_error: loaded.function("ncclGetLastError").ok(),
            }
        };
        Ok(Arc::new(Self { loaded, functions }))
    }

    /// Returns the name or path under which it was loaded.
    #[must_use]
    pub fn path(&self) -> &str {
        self.loaded.path()
    }

    /// Returns its version: `2.27.5`.
    #[must_use]
    pub fn version(&self) -> String {
        let mut version: c_int = 0;
        // SAFETY: the pointer is valid. The version stays 0 if the call fails.
        unsafe { (self.functions.version)(&mut version) };
        release(version)
    }

    /// Makes the ID of a new communicator. One rank calls this and sends the ID to all ranks.
    ///
    /// # Errors
    /// If NCCL finds no network interface to listen on.
    pub fn unique_id(&self) -> Result<UniqueId, NcclError> {
        let mut id = UniqueId([0; ID_BYTES]);
        // SAFETY: the pointer is valid.
        let code = unsafe { (self.functions.unique_id)(&mut id) };
        self.check("ncclGetUniqueId", (0, 1), std::ptr::null_mut(), code)?;
        Ok(id)
    }

    pub(super) fn check(
        &self,
        call: &'static str,
        (rank, world): (usize, usize),
        comm: Comm,
        code: c_int,
    ) -> Result<(), NcclError> {
        if code == SUCCESS || code == IN_PROGRESS {
            return Ok(());
        }
        // SAFETY: NCCL returns constant strings, or strings that live as long as the process.
        let (description, last_error) = unsafe {
            let last = self.functions.last_error.map_or(std::ptr::null(), |last| last(comm));
            (library::text((self.functions.error_string)(code), "an unknown error"), library::text(last, ""))
        };
        Err(NcclError::Call { call, rank, world, code, description, last_error })
    }
}

/// Formats NCCL's version number: 2708 is 2.7.8; since 2.9, 22705 is 2.27.5.
fn release(version: c_int) -> String {
    let (major, rest) =
        if version < 10_000 { (version / 1000, version % 1000) } else { (version / 10_000, version % 10_000) };
    format!("{major}.{}.{}", rest / 100, rest % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed_in_both_of_nccls_formats() {
        assert_eq!(release(2708), "2.7.8");
        assert_eq!(release(22_705), "2.27.5");
        assert_eq!(release(21_403), "2.14.3");
    }

    #[test]
    fn an_id_is_unchanged_as_bytes_and_not_printed() {
        let id = UniqueId::from_bytes([7; ID_BYTES]);
        assert_eq!(UniqueId::from_bytes(*id.as_bytes()), id);
        assert_eq!(format!("{id:?}"), "UniqueId(..)");
    }
}
