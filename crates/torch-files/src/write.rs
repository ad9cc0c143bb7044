//! Writing state dicts.

use std::io::{Seek, Write};

use crate::dtype::Dtype;
use crate::error::Error;
use crate::zip::ArchiveWriter;

/// The folder inside the archive. PyTorch uses this name if the archive is not written to a named file.
const ROOT: &str = "archive";

/// The announcement of a tensor to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its data type: [`Dtype::F32`] or [`Dtype::F16`].
    pub dtype: Dtype,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
}

/// Writes a file that `torch.load` reads as an `OrderedDict` of contiguous tensors, one tensor at a time.
///
/// The file is complete only after [`Writer::finish`] has returned. Write to a temporary name and rename it then.
pub struct Writer<W> {
    archive: ArchiveWriter<W>,
    /// The name and the size in bytes of each tensor.
    tensors: Vec<(String, u64)>,
    written: usize,
}

impl<W: Write + Seek> Writer<W> {
    /// Starts a file with `tensors`, in this order.
    ///
    /// # Errors
    /// If a tensor has an unsupported type ([`Error::Write`]), or writing fails ([`Error::Io`]).
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

    /// Writes the next tensor: its little-endian bytes in row-major order, in chunks of any size.
    ///
    /// # Errors
    /// If the number of bytes differs from the announced shape, or all tensors have been written ([`Error::Write`]), or
    /// writing fails ([`Error::Io`]). The file is unusable afterwards.
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

    /// Completes the file and returns the underlying writer.
    ///
    /// # Errors
    /// If tensors are missing ([`Error::Write`]), or writing fails ([`Error::Io`]).
    pub fn finish(mut self) -> Result<W, Error> {
        if let Some((name, _)) = self.tensors.get(self.written) {
            return Err(Error::Write(format!("{name} has not been written")));
        }
        self.archive.entry(format!("{ROOT}/version"), 2, std::iter::once("3\n"))?;
        self.archive.finish()
    }
}

/// Appends a name and its tensor to the pickle. Returns the size of the tensor in bytes.
fn put_tensor(pickle: &mut Vec<u8>, index: usize, tensor: &TensorSpec) -> Result<u64, Error> {
    let class = match tensor.dtype {
        Dtype::F32 => "FloatStorage",
        Dtype::F16 => "HalfStorage",
        other => return Err(Error::Write(format!("{}: {other:?} is not written", tensor.name))),
    };
    let too_large = || Error::Write(format!("{}: shape {:?} is too large", tensor.name, tensor.shape));
    let sizes: Vec<i64> =
        tensor.shape.iter().map(|&n| i64::try_from(n)).collect::<Result<_, _>>().map_err(|_| too_large())?;
    // Row-major strides. PyTorch counts an empty dimension as 1.
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
    // The end of the persistent id, and the offset 0 in the storage.
    pickle.extend(b"tQK\x00");
    for numbers in [&sizes, &strides] {
        pickle.push(b'(');
        numbers.iter().for_each(|&number| put_number(pickle, number));
        pickle.push(b't');
    }
    // requires_grad is False, and there are no hooks.
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
