//! Writing state dicts.

use std::io::{Seek, Write};

use crate::dtype::Dtype;
use crate::error::Error;
use crate::zip::ArchiveWriter;

/// The folder inside the archive, as PyTorch calls it where a file has no name of its own.
const ROOT: &str = "archive";

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// The type of its values: [`Dtype::F32`] or [`Dtype::F16`].
    pub dtype: Dtype,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
}

/// Writes a file that `torch.load` reads as an `OrderedDict` of contiguous tensors, one tensor at a time.
///
/// The file is whole when [`Writer::finish`] has returned; write it aside and rename it then.
pub struct Writer<W> {
    archive: ArchiveWriter<W>,
    /// Name and bytes of each tensor.
    tensors: Vec<(String, u64)>,
    written: usize,
}

impl<W: Write + Seek> Writer<W> {
    /// Begins a file with `tensors`, in their order.
    ///
    /// # Errors
    /// [`Error::Write`] for types that are not written, [`Error::Io`].
    pub fn new(out: W, tensors: &[TensorSpec]) -> Result<Self, Error> {
        let mut pickle = vec![0x80, 2];
        pickle.extend(b"ccollections\nOrderedDict\n)R(");
        let mut sizes = Vec::new();
        for (index, tensor) in tensors.iter().enumerate() {
            sizes.push((tensor.name.clone(), put_tensor(&mut pickle, index, tensor)?));
        }
        pickle.extend(b"u.");
        let mut archive = ArchiveWriter::new(out);
        archive.entry(format!("{ROOT}/data.pkl"), pickle.len() as u64, std::iter::once(pickle))?;
        archive.entry(format!("{ROOT}/byteorder"), 6, std::iter::once("little"))?;
        Ok(Self { archive, tensors: sizes, written: 0 })
    }

    /// Writes the next tensor: its little-endian bytes row by row, in pieces.
    ///
    /// # Errors
    /// [`Error::Write`] where they are not as many as its shape says or all tensors have been written; [`Error::Io`].
    /// The file is unusable then.
    pub fn tensor<P: AsRef<[u8]>>(&mut self, pieces: impl Iterator<Item = P>) -> Result<(), Error> {
        let Some((name, length)) = self.tensors.get(self.written) else {
            return Err(Error::Write(format!("there are only {} tensors", self.tensors.len())));
        };
        let entry = format!("{ROOT}/data/{}", self.written);
        self.archive.entry(entry, *length, pieces).map_err(|error| match error {
            Error::Write(reason) => Error::Write(format!("{name}: {reason}")),
            error => error,
        })?;
        self.written += 1;
        Ok(())
    }

    /// Ends the file, and gives back what it was written to.
    ///
    /// # Errors
    /// [`Error::Write`] where tensors are missing, [`Error::Io`].
    pub fn finish(mut self) -> Result<W, Error> {
        if let Some((name, _)) = self.tensors.get(self.written) {
            return Err(Error::Write(format!("{name} has not been written")));
        }
        self.archive.entry(format!("{ROOT}/version"), 2, std::iter::once("3\n"))?;
        self.archive.finish()
    }
}

/// A name and its tensor; gives the tensor's bytes.
fn put_tensor(pickle: &mut Vec<u8>, index: usize, tensor: &TensorSpec) -> Result<u64, Error> {
    let class = match tensor.dtype {
        Dtype::F32 => "FloatStorage",
        Dtype::F16 => "HalfStorage",
        other => return Err(Error::Write(format!("{}: {other:?} is not written", tensor.name))),
    };
    let too_large = || Error::Write(format!("{}: shape {:?} is too large", tensor.name, tensor.shape));
    let sizes: Vec<i64> =
        tensor.shape.iter().map(|&n| i64::try_from(n)).collect::<Result<_, _>>().map_err(|_| too_large())?;
    // Strides from the last dimension on; where a dimension is empty, PyTorch counts it as one.
    let mut strides = vec![1_i64; sizes.len()];
    for dimension in (1..sizes.len()).rev() {
        strides[dimension - 1] = strides[dimension].checked_mul(sizes[dimension].max(1)).ok_or_else(too_large)?;
    }
    let count = sizes.iter().try_fold(1_i64, |product, &n| product.checked_mul(n)).ok_or_else(too_large)?;
    let length = count.checked_mul(tensor.dtype.size() as i64).ok_or_else(too_large)?;
    put_text(pickle, &tensor.name)?;
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    put_text(pickle, "storage")?;
    pickle.extend(format!("ctorch\n{class}\n").as_bytes());
    put_text(pickle, &index.to_string())?;
    put_text(pickle, "cpu")?;
    put_number(pickle, count);
    // The persistent id ends here; the storage begins at its first value.
    pickle.extend(b"tQK\x00");
    for numbers in [&sizes, &strides] {
        pickle.push(b'(');
        numbers.iter().for_each(|&number| put_number(pickle, number));
        pickle.push(b't');
    }
    // No gradient, no hooks.
    pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    Ok(length as u64)
}

fn put_text(pickle: &mut Vec<u8>, text: &str) -> Result<(), Error> {
    let length = u32::try_from(text.len()).map_err(|_| Error::Write("a name has more than 4 GiB".into()))?;
    pickle.push(b'X');
    pickle.extend(length.to_le_bytes());
    pickle.extend(text.as_bytes());
    Ok(())
}

fn put_number(pickle: &mut Vec<u8>, number: i64) {
    match i32::try_from(number) {
        Ok(number) => {
            pickle.push(b'J');
            pickle.extend(number.to_le_bytes());
        }
        Err(_) => {
            pickle.extend([0x8a, 8]);
            pickle.extend(number.to_le_bytes());
        }
    }
}
