//! Conversion to safetensors.

use std::collections::HashMap;
use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use admiral_contract::files::open_to_read;
use safetensors::tensor::{Dtype, TensorView};

use crate::error::Error;
use crate::weights::Weights;

/// What [`Weights::write_safetensors`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversion {
    /// The file was written.
    Written,
    /// The file existed with the same bytes, and was left alone.
    Same,
}

impl Weights {
    /// Writes the weights as a safetensors file. The file is written beside its place first, and appears complete. The
    /// same weights give the same bytes.
    ///
    /// # Errors
    /// - [`Error::Exists`] if the file exists with other bytes. It is not changed.
    /// - [`Error::File`] if it cannot be written.
    pub fn write_safetensors(&self, path: &Path) -> Result<Conversion, Error> {
        let failed = |source: std::io::Error| Error::File { path: path.to_owned(), source };
        let bytes = self.to_safetensors().map_err(|error| failed(std::io::Error::other(error)))?;
        if path.try_exists().map_err(failed)? {
            return compare(path, &bytes);
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or(".".into(), PathBuf::from);
        let mut file = tempfile::Builder::new()
            .prefix(".inception-")
            // The usual permissions of a new file, from which the umask takes away.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)
            .map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        match file.persist_noclobber(path) {
            Ok(_) => Ok(Conversion::Written),
            Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => compare(path, &bytes),
            Err(error) => Err(failed(error.error)),
        }
    }

    fn to_safetensors(&self) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        let bytes: Vec<Vec<u8>> = self
            .tensors()
            .iter()
            .map(|(_, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
            .collect();
        let views = self.tensors().iter().zip(&bytes).map(|((tensor, _), bytes)| {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?;
            Ok((tensor.name.as_str(), view))
        });
        let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        // One entry, because the order of several is not fixed.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize(views, Some(metadata))
    }
}

fn compare(path: &Path, expected: &[u8]) -> Result<Conversion, Error> {
    let mut found = Vec::new();
    open_to_read(path)
        .and_then(|file| file.take(expected.len() as u64 + 1).read_to_end(&mut found))
        .map_err(|source| Error::File { path: path.to_owned(), source })?;
    if found == expected { Ok(Conversion::Same) } else { Err(Error::Exists { path: path.to_owned() }) }
}
