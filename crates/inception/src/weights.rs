//! The weights of the network.

use std::collections::HashMap;
use std::fmt;
use std::io::{Cursor, Read};
use std::path::Path;

use admiral_contract::files::open_to_read;
use admiral_torch_files::StateDict;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::fingerprint::{fingerprint, hex};
use crate::known::{KNOWN_FILES, KnownFile};
use crate::read::{Problem, Values};
use crate::tensors::{TensorShape, tensors};
use crate::{state_dict, tensorflow};

/// The largest file that is read, in bytes. The weights have 96 MB in float32.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A state dict of `torch.save`.
    PyTorch,
    /// A safetensors file.
    Safetensors,
    /// A `GraphDef` of TensorFlow.
    TensorFlow,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PyTorch => "a PyTorch state dict",
            Self::Safetensors => "safetensors",
            Self::TensorFlow => "a TensorFlow graph",
        })
    }
}

/// The weights of the network, float32.
#[derive(Debug, Clone)]
pub struct Weights {
    tensors: Vec<(TensorShape, Vec<f32>)>,
    places: HashMap<String, usize>,
    file: Option<(FileKind, String)>,
}

impl Weights {
    /// Reads the weights in a file. The bytes of the file, not its name, tell the format.
    ///
    /// Tensors may have a common prefix, such as `module.`, and `num_batches_tracked` is ignored. The last layer may be
    /// missing. Values of other floating-point types are converted to float32.
    ///
    /// # Errors
    /// - [`Error::File`] if the file cannot be read.
    /// - [`Error::Foreign`] if it has another format, or more than 1 GiB.
    /// - [`Error::Damaged`] if it is truncated or contradicts itself.
    /// - [`Error::OtherNetwork`] if tensors are missing, have other shapes, or do not belong to the network.
    /// - [`Error::Value`] if a value is not finite, or a variance is negative.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let error = |problem: Problem| {
            let path = path.to_owned();
            match problem {
                Problem::Io(source) => Error::File { path, source },
                Problem::Foreign(reason) => Error::Foreign { path, reason },
                Problem::Damaged(reason) => Error::Damaged { path, reason },
                Problem::OtherNetwork(reason) => Error::OtherNetwork { path, reason },
            }
        };
        let bytes = read_file(path).map_err(error)?;
        let (kind, values) = read(&bytes).map_err(error)?;
        let mut found = values.finish().map_err(error)?;
        let sha256 = hex(Sha256::digest(&bytes));
        drop(bytes);
        let present =
            tensors().into_iter().filter_map(|tensor| found.remove(&tensor.name).map(|values| (tensor, values)));
        Self::checked(present.collect(), Some((kind, sha256)), path)
    }

    /// Returns weights that are not from a file: the values of each tensor are those that `fill` returns.
    ///
    /// # Errors
    /// [`Error::Value`] if a value is not finite, or a variance is negative.
    ///
    /// # Panics
    /// If `fill` returns another number of values than the tensor has.
    pub fn computed(mut fill: impl FnMut(&TensorShape) -> Vec<f32>) -> Result<Self, Error> {
        let filled = tensors().into_iter().map(|tensor| {
            let values = fill(&tensor);
            assert_eq!(values.len(), tensor.num_elements(), "values of {}", tensor.name);
            (tensor, values)
        });
        Self::checked(filled.collect(), None, Path::new("computed weights"))
    }

    fn checked(
        tensors: Vec<(TensorShape, Vec<f32>)>,
        file: Option<(FileKind, String)>,
        path: &Path,
    ) -> Result<Self, Error> {
        for (tensor, values) in &tensors {
            let is_variance = tensor.name.ends_with("running_var");
            let is_wrong = |value: &f32| !value.is_finite() || (is_variance && *value < 0.0);
            if let Some(index) = values.iter().position(is_wrong) {
                let (path, tensor) = (path.to_owned(), tensor.name.clone());
                return Err(Error::Value { path, tensor, index, value: values[index] });
            }
        }
        let places = tensors.iter().enumerate().map(|(place, (tensor, _))| (tensor.name.clone(), place)).collect();
        Ok(Self { tensors, places, file })
    }

    /// Returns the tensors and their values in row-major order, in the order of [`tensors`].
    #[must_use]
    pub fn tensors(&self) -> &[(TensorShape, Vec<f32>)] {
        &self.tensors
    }

    /// Returns the values of a tensor, in row-major order.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.places.get(name).map(|&place| self.tensors[place].1.as_slice())
    }

    /// Whether the weights have the last layer. Without it there is no Inception Score.
    #[must_use]
    pub fn has_classes(&self) -> bool {
        self.places.contains_key("fc.weight")
    }

    /// Returns the weights without the last layer.
    #[must_use]
    pub fn without_classes(mut self) -> Self {
        self.tensors.retain(|(tensor, _)| !tensor.is_last_layer());
        self.places.retain(|_, place| *place < self.tensors.len());
        self
    }

    /// Returns the SHA-256 over names, shapes and values, as hexadecimal digits. The same weights have the same
    /// fingerprint in each format. Weights without the last layer have another one.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.tensors)
    }

    /// Returns the format of the file, if the weights are from a file.
    #[must_use]
    pub fn file_kind(&self) -> Option<FileKind> {
        self.file.as_ref().map(|(kind, _)| *kind)
    }

    /// Returns the SHA-256 of the file, as hexadecimal digits, if the weights are from a file.
    #[must_use]
    pub fn file_sha256(&self) -> Option<&str> {
        self.file.as_ref().map(|(_, sha256)| sha256.as_str())
    }

    /// Returns the published file that these weights are from. Only the unchanged file is recognised: a converted one
    /// has another SHA-256.
    #[must_use]
    pub fn known(&self) -> Option<&'static KnownFile> {
        KNOWN_FILES.iter().find(|known| Some(known.sha256) == self.file_sha256())
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, Problem> {
    let file = open_to_read(path).map_err(Problem::Io)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(Problem::Io)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Problem::Foreign(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

fn read(bytes: &[u8]) -> Result<(FileKind, Values), Problem> {
    match StateDict::open(Cursor::new(bytes)) {
        Ok(state) => {
            let is_safetensors = bytes.get(8) == Some(&b'{');
            let kind = if is_safetensors { FileKind::Safetensors } else { FileKind::PyTorch };
            Ok((kind, state_dict::read(state)?))
        }
        Err(admiral_torch_files::Error::Foreign(_)) if tensorflow::is_graph(bytes) => {
            Ok((FileKind::TensorFlow, tensorflow::read(bytes)?))
        }
        Err(error) => Err(state_dict::problem(error)),
    }
}
