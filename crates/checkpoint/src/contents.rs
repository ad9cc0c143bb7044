//! Reads the files of a checkpoint one at a time, for readers that cannot hold a whole checkpoint in memory.

use std::collections::HashMap;
use std::ops::Range;

use admiral_checkpoints_schema::Role;

use crate::error::Error;
use crate::manifests::tensors_of;
use crate::read::Checkpoint;

/// A file of tensors that has been read and verified.
#[derive(Debug)]
pub struct TensorFile {
    bytes: Vec<u8>,
    tensors: HashMap<String, Range<usize>>,
}

impl TensorFile {
    /// Returns the values of a tensor as little-endian float32 in row-major order. `None` if the file does not hold it.
    #[must_use]
    pub fn values(&self, name: &str) -> Option<&[u8]> {
        self.tensors.get(name).map(|range| &self.bytes[range.clone()])
    }

    /// Returns the names of its tensors, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
}

impl Checkpoint {
    /// Returns the paths of the files that hold tensors of a role, in the order of the manifest.
    #[must_use]
    pub fn files_of(&self, role: Role) -> Vec<&str> {
        let holds = |path: &str| self.manifest().tensors.iter().any(|t| t.role == role && t.file == path);
        self.manifest().files.iter().map(|file| file.path.as_str()).filter(|path| holds(path)).collect()
    }

    /// Reads and verifies the file with this path in the manifest. The result has the tensors of `role`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the manifest has no such file; [`Error::Damaged`]; [`Error::Store`].
    pub fn open_file(&self, path: &str, role: Role) -> Result<TensorFile, Error> {
        let Some(file) = self.manifest().files.iter().find(|file| file.path == path) else {
            return Err(Error::NotFound { url: self.url(), reason: format!("it has no {path}") });
        };
        let records: Vec<_> = tensors_of(self.manifest(), file).filter(|tensor| tensor.role == role).collect();
        let (bytes, ranges) = self.read_file(file, &records)?;
        Ok(TensorFile { bytes, tensors: records.iter().map(|record| record.name.clone()).zip(ranges).collect() })
    }
}
