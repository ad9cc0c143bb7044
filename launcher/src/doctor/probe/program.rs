//! The program and the libtorch of a host.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use admiral_contract::files::open_to_read;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::command::{NoOutput, last_line, output};

/// The first load of libtorch may go over a slow network.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The files of libtorch with code. Those that exist are compared.
const LIBRARIES: [&str; 5] = ["libtorch.so", "libtorch_cpu.so", "libtorch_cuda.so", "libc10.so", "libc10_cuda.so"];
/// A library without a build id is hashed in this many pieces at equal distances, including both ends.
const PIECES: u64 = 33;
const PIECE_BYTES: u64 = 64 << 10;
/// Notes have a few hundred bytes; larger segments are not notes.
const MAX_NOTE_BYTES: u64 = 64 << 10;

/// The identity of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileIdentity {
    /// The length in bytes.
    pub bytes: u64,
    /// SHA-256 of the whole file, the linker's build id, or a hash of samples, in hexadecimal; begins with which of
    /// these it is.
    pub identity: String,
}

/// The program's report of its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramVersion {
    /// The version of `admiral`.
    pub admiral: String,
    /// The version of the loaded libtorch, if it reports one.
    pub libtorch_loaded: Option<String>,
    /// The file of libtorch; `None` if it is linked into the program.
    pub libtorch_path: Option<PathBuf>,
    /// The MPI library's description of itself.
    pub mpi: String,
}

/// Returns the identity of a file by its whole content.
pub(super) fn identity(path: &Path) -> Result<FileIdentity, String> {
    let read = || -> io::Result<FileIdentity> {
        let mut file = open_to_read(path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                length => {
                    hash.update(&buffer[..length]);
                    bytes += length as u64;
                }
            }
        }
        Ok(FileIdentity { bytes, identity: format!("sha256 {}", hex(&hash.finalize())) })
    };
    read().map_err(|error| format!("{}: {error}", path.display()))
}

/// Returns the program's version; `None` if this build has no such command.
pub(super) fn version(program: &Path) -> Result<Option<ProgramVersion>, String> {
    match output(Command::new(program).args(["version", "--json"]), TIMEOUT) {
        Ok(said) if said.status.success() => serde_json::from_slice(&said.stdout)
            .map(Some)
            .map_err(|error| format!("`admiral version` gives no answer that can be read: {error}")),
        // The argument parser's exit code for an unknown command.
        Ok(said) if said.status.code() == Some(2) => Ok(None),
        Ok(said) => Err(format!("{}: {}", program.display(), last_line(&said))),
        Err(NoOutput::Absent) => Err(format!("{} is not there", program.display())),
        Err(NoOutput::Failed(reason)) => Err(reason),
    }
}

/// Returns the files of libtorch in a folder, or beside a file.
pub(super) fn libraries(place: &Path) -> BTreeMap<String, FileIdentity> {
    let folders = [place.to_owned(), place.join("lib"), place.parent().unwrap_or(place).to_owned()];
    let Some(folder) = folders.iter().find(|folder| LIBRARIES.iter().any(|name| folder.join(name).is_file())) else {
        return BTreeMap::new();
    };
    let identities = LIBRARIES.iter().filter_map(|&name| Some((name.to_owned(), library(&folder.join(name)).ok()?)));
    identities.collect()
}

/// Returns the identity of a library. Hashing all of libtorch would take longer than the rest of the preflight, so it
/// consists of length and build id, which the linker computes from the whole content; without a build id, of length and
/// samples.
fn library(path: &Path) -> io::Result<FileIdentity> {
    let file = open_to_read(path)?;
    let bytes = file.metadata()?.len();
    let identity = match build_id(&file) {
        Ok(Some(id)) => format!("build {}", hex(&id)),
        _ => format!("samples {}", hex(&samples(&file, bytes)?)),
    };
    Ok(FileIdentity { bytes, identity })
}

fn samples(file: &File, bytes: u64) -> io::Result<Vec<u8>> {
    let mut hash = Sha256::new();
    let last = bytes.saturating_sub(PIECE_BYTES);
    let mut buffer = vec![0; PIECE_BYTES.min(bytes) as usize];
    for piece in 0..PIECES {
        // In 128 bits, because this is a product of two 64-bit numbers.
        let at = (u128::from(last) * u128::from(piece) / u128::from(PIECES - 1)) as u64;
        file.read_exact_at(&mut buffer, at)?;
        hash.update(&buffer);
    }
    Ok(hash.finalize().to_vec())
}

/// Returns the build id of a 64-bit little-endian ELF file: the note of type 3 by "GNU" in a note segment.
fn build_id(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0)?;
    if header[..6] != *b"\x7fELF\x02\x01" {
        return Ok(None);
    }
    let (table, size, count) = (number(&header, 32, 8), number(&header, 54, 2), number(&header, 56, 2));
    for i in 0..count {
        let mut segment = [0; 56];
        file.read_exact_at(&mut segment, table.saturating_add(i * size))?;
        let (kind, at, length) = (number(&segment, 0, 4), number(&segment, 8, 8), number(&segment, 32, 8));
        if kind != 4 {
            continue;
        }
        let mut notes = vec![0; length.min(MAX_NOTE_BYTES) as usize];
        file.read_exact_at(&mut notes, at)?;
        if let Some(id) = find_build_id(&notes) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

fn find_build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    let padded = |length: u64| (length as usize).next_multiple_of(4);
    while notes.len() >= 12 {
        let (name, value, kind) = (number(notes, 0, 4), number(notes, 4, 4), number(notes, 8, 4));
        let start = 12 + padded(name);
        let id = notes.get(start..start + value as usize)?;
        if kind == 3 && notes.get(12..16) == Some(b"GNU\0") {
            return Some(id.to_owned());
        }
        notes = notes.get(start + padded(value)..)?;
    }
    None
}

fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes[at..at + length].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_is_identified_by_its_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "abc").unwrap();
        let expected = "sha256 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(identity(&path).unwrap(), FileIdentity { bytes: 3, identity: expected.into() });
        assert!(identity(&folder.path().join("none")).unwrap_err().contains("No such file"));
    }

    #[test]
    fn the_build_id_equals_readelfs() {
        let said = Command::new("readelf").args(["-n", "/bin/sh"]).output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let expected = said.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")).unwrap();
        assert_eq!(library("/bin/sh".as_ref()).unwrap().identity, format!("build {expected}"));
    }

    #[test]
    fn a_library_without_build_id_is_identified_by_samples() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libtorch.so");
        let mut content = vec![7; 3 << 20];
        std::fs::write(&path, &content).unwrap();
        let first = libraries(folder.path());
        assert!(first["libtorch.so"].identity.starts_with("samples "));
        assert_eq!(first, libraries(&path));
        *content.last_mut().unwrap() = 8;
        std::fs::write(&path, &content).unwrap();
        assert_ne!(first, libraries(folder.path()));
        std::fs::write(&path, "").unwrap();
        assert_eq!(libraries(folder.path())["libtorch.so"].bytes, 0);
    }

    proptest! {
        #[test]
        fn malformed_elf_notes_are_refused(notes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = find_build_id(&notes);
        }
    }
}
