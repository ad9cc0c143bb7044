//! A checkpoint's files one at a time, for readers that cannot hold a whole one.

use std::collections::HashMap;
use std::ops::Range;

use admiral_checkpoints_schema::Role;

use crate::error::Error;
use crate::manifests::tensors_of;
use crate::read::Checkpoint;

/// A file that has been read and verified.
#[derive(Debug)]
pub struct TensorFile {
    bytes: Vec<u8>,
    tensors: HashMap<String, Range<usize>>,
}

impl TensorFile {
    /// The values of a tensor, little-endian and row by row; none where the file does not hold it.
    #[must_use]
    pub fn values(&self, name: &str) -> Option<&[u8]> {
        self.tensors.get(name).map(|range| &self.bytes[range.clone()])
    }

    /// The names of its tensors, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
}

impl Checkpoint {
    /// The paths of the files that hold tensors of a role, in the manifest's order.
    #[must_use]
    pub fn files_of(&self, role: Role) -> Vec<&str> {
        let holds = |path: &str| self.manifest().tensors.iter().any(|t| t.role == role && t.file == path);
        self.manifest().files.iter().map(|file| file.path.as_str()).filter(|path| holds(path)).collect()
    }

    /// Reads one file, by its path in the manifest, with what it holds of a role.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the manifest has no such file; [`Error::Damaged`]; [`Error::Store`].
    pub fn open_file(&self, path: &str, role: Role) -> Result<TensorFile, Error> {
        let Some(file) = self.manifest().files.iter().find(|file| file.path == path) else {
            return Err(Error::NotFound { url: self.url(), reason: format!("it has no {path}") });
        };
        let records: Vec<_> = tensors_of(self.manifest(), file).filter(|tensor| tensor.role == role).collect();
        let (bytes, stretches) = self.read_file(file, &records)?;
        Ok(TensorFile { bytes, tensors: records.iter().map(|record| record.name.clone()).zip(stretches).collect() })
    }
}
