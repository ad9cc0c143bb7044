//! Reading state dicts.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Seek};

use crate::dtype::Dtype;
use crate::error::Error;
use crate::pickle::{self, Pickled, Storage, TensorView};
use crate::source::Source;
use crate::storages::{Extent, Storages};
use crate::zip::{self, Archive};
use crate::{legacy, safetensors, state_dict};

/// The largest pickle that is read, in bytes. A state dict needs about 200 bytes per tensor.
const MAX_PICKLE_BYTES: u64 = 16 << 20;

/// The description of a tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its data type.
    pub dtype: Dtype,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Returns the number of values.
    #[must_use]
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A state dict in a file, whose tensors are read one at a time.
#[derive(Debug)]
pub struct StateDict<R> {
    source: Source<R>,
    tensors: Vec<TensorInfo>,
    views: Vec<StridedView>,
    /// The offsets of the storages whose checksums have been verified.
    verified: HashSet<u64>,
}

/// The location of a tensor's values in the file.
#[derive(Debug)]
struct StridedView {
    storage: Extent,
    /// The offset of its first value in the file, in bytes.
    start: u64,
    /// For each dimension, the distance between consecutive values in bytes.
    strides: Vec<usize>,
    /// The bytes from its first value to the end of its last value.
    span: u64,
}

impl<R: Read + Seek> StateDict<R> {
    /// Reads the names, types and shapes of the tensors in a file of any of the three formats.
    ///
    /// # Errors
    /// - [`Error::Refused`] if the pickle uses names or operations that a state dict does not need.
    /// - [`Error::NotAStateDict`] if it holds something else than names with tensors.
    /// - [`Error::Foreign`] if the file has another format.
    /// - [`Error::Damaged`], [`Error::Unsupported`] or [`Error::Io`] if it cannot be read.
    pub fn open(file: R) -> Result<Self, Error> {
        let mut source = Source::new(file)?;
        let start = source.bytes(0, source.length().min(64))?;
        let (views, storages) = if start.starts_with(zip::MAGIC) {
            let (pickled, storages) = open_archive(&mut source)?;
            (state_dict::tensors(&pickled)?, storages)
        } else if legacy::is_legacy(&start) {
            let (pickled, storages) = legacy::open(&mut source)?;
            (state_dict::tensors(&pickled)?, storages)
        } else if safetensors::is_safetensors(&start) {
            safetensors::open(&mut source)?
        } else {
            return Err(Error::Foreign(describe(&start)));
        };
        let (mut tensors, mut strided) = (Vec::new(), Vec::new());
        for (name, view) in views {
            let (shape, location) = locate(&view, &storages, source.length())
                .map_err(|reason| Error::Damaged(format!("{name}: {reason}")))?;
            tensors.push(TensorInfo { name, dtype: view.dtype, shape });
            strided.push(location);
        }
        Ok(Self { source, tensors, views: strided, verified: HashSet::new() })
    }

    /// Returns the tensors, in the order of the file.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Returns the values of the tensor at `index` in [`Self::tensors`] as little-endian bytes in row-major order. They
    /// never take more memory than the file has bytes.
    ///
    /// # Errors
    /// If a checksum differs ([`Error::Damaged`]), or the file cannot be read ([`Error::Io`]).
    ///
    /// # Panics
    /// If there is no tensor at `index`.
    pub fn read(&mut self, index: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(self.tensors[index].num_elements() * self.tensors[index].dtype.size());
        self.pieces(index, |piece| bytes.extend_from_slice(piece))?;
        Ok(bytes)
    }

    /// Reads the tensor at `index` into `values`, converted to float32. Returns the number of values that float32
    /// cannot represent exactly; those are rounded to nearest. It can be positive only for types of 32 and 64 bits.
    ///
    /// # Errors
    /// As for [`Self::read`].
    ///
    /// # Panics
    /// If there is no tensor at `index`, or `values` does not have its number of values.
    pub fn read_f32(&mut self, index: usize, values: &mut [f32]) -> Result<usize, Error> {
        assert_eq!(values.len(), self.tensors[index].num_elements(), "values for {}", self.tensors[index].name);
        let dtype = self.tensors[index].dtype;
        let (mut remaining, mut rounded) = (values, 0);
        self.pieces(index, |piece| {
            let count = piece.len() / dtype.size();
            let (these, later) = std::mem::take(&mut remaining).split_at_mut(count);
            rounded += dtype.to_f32(piece, these);
            remaining = later;
        })?;
        Ok(rounded)
    }

    /// Calls `visit` with a tensor's bytes in row-major order, in chunks of whole values.
    fn pieces(&mut self, index: usize, mut visit: impl FnMut(&[u8])) -> Result<(), Error> {
        let (tensor, view) = (&self.tensors[index], &self.views[index]);
        let StridedView { storage, start, span, .. } = *view;
        let damaged =
            || Error::Damaged(format!("{}: the bytes of its storage are not those that were written", tensor.name));
        let unverified = storage.crc32.filter(|_| !self.verified.contains(&storage.offset));
        let is_whole = (start, span) == (storage.offset, storage.length) && is_contiguous(tensor, &view.strides);
        if let Some(expected) = unverified.filter(|_| !is_whole) {
            let mut hash = crc32fast::Hasher::new();
            self.source.pieces(storage.offset, storage.length, |piece| hash.update(piece))?;
            if hash.finalize() != expected {
                return Err(damaged());
            }
        }
        if is_contiguous(tensor, &view.strides) {
            let mut hash = crc32fast::Hasher::new();
            self.source.pieces(start, span, |piece| {
                if is_whole && unverified.is_some() {
                    hash.update(piece);
                }
                visit(piece);
            })?;
            if is_whole && unverified.is_some_and(|expected| hash.finalize() != expected) {
                return Err(damaged());
            }
        } else {
            let bytes = self.source.bytes(start, span)?;
            gather(&bytes, tensor.dtype.size(), &tensor.shape, &view.strides, visit);
        }
        self.verified.insert(storage.offset);
        Ok(())
    }
}

/// Reads the pickle of an archive, and finds the storages that it names.
fn open_archive<R: Read + Seek>(source: &mut Source<R>) -> Result<(Pickled, Storages), Error> {
    let archive = Archive::open(source)?;
    let mut roots: Vec<&str> = archive.names().filter_map(|name| name.strip_suffix("/data.pkl")).collect();
    roots.sort_unstable();
    let root = match roots.as_slice() {
        [root] => (*root).to_owned(),
        [] => return Err(Error::Foreign("the zip archive has no data.pkl".into())),
        _ => {
            return Err(Error::Foreign(format!("the zip archive has several data.pkl, in {}", roots.join(" and in "))));
        }
    };
    if archive.names().any(|name| name == format!("{root}/constants.pkl")) {
        return Err(Error::NotAStateDict(
            "it is a TorchScript module, code and all: load it in Python and save its state_dict()".into(),
        ));
    }
    if let Some(entry) = archive.entry(source, &format!("{root}/byteorder"))?
        && entry.length <= 16
        && source.bytes(entry.offset, entry.length)? == b"big"
    {
        return Error::unsupported("it was written by a big-endian machine, which is not read");
    }
    let name = format!("{root}/data.pkl");
    let Some(entry) = archive.entry(source, &name)? else { return Error::damaged(format!("{name} is missing")) };
    if entry.length > MAX_PICKLE_BYTES {
        return Error::unsupported(format!(
            "its pickle has {} bytes; more than {MAX_PICKLE_BYTES} are not read, and no state dict needs as many",
            entry.length
        ));
    }
    let bytes = source.bytes(entry.offset, entry.length)?;
    if entry.crc32.is_some_and(|expected| crc32fast::hash(&bytes) != expected) {
        return Error::damaged("the bytes of its pickle are not those that were written");
    }
    let pickled = pickle::run(&bytes)?;
    let mut storages = HashMap::new();
    for Storage { key, .. } in pickled.storages() {
        if storages.contains_key(key) {
            continue;
        }
        match archive.entry(source, &format!("{root}/data/{key}"))? {
            Some(entry) => storages.insert(key.clone(), entry),
            None => return Error::damaged(format!("storage {key} is missing from the archive")),
        };
    }
    // Overlapping entries would let a small file expand to a large one.
    let mut ranges: Vec<(u64, u64)> =
        storages.values().chain([&entry]).map(|entry| (entry.offset, entry.offset + entry.length)).collect();
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return Error::damaged("entries of the archive overlap");
    }
    Ok((pickled, storages))
}

/// Returns the shape and the location of a tensor.
///
/// # Errors
/// If the tensor does not lie within its storage. The text names the contradiction.
fn locate(view: &TensorView, storages: &Storages, file_length: u64) -> Result<(Vec<usize>, StridedView), String> {
    let Storage { key, dtype, length, first } = &view.storage;
    let storage = *storages.get(key).ok_or_else(|| format!("storage {key} is not in the file"))?;
    let too_large = || "its size cannot be counted".to_owned();
    let natural = |number: &i64| usize::try_from(*number).map_err(|_| format!("{number} is no size"));
    let size = view.dtype.size() as u64;
    let shape = view.shape.iter().map(natural).collect::<Result<Vec<_>, _>>()?;
    let strides = view.strides.iter().map(natural).collect::<Result<Vec<_>, _>>()?;
    if shape.len() != strides.len() {
        return Err(format!("it has {} dimensions and {} strides", shape.len(), strides.len()));
    }
    let bytes = shape.iter().try_fold(size, |product, &n| product.checked_mul(n as u64)).ok_or_else(too_large)?;
    if bytes > file_length {
        return Err(format!("its shape {shape:?} has more bytes than the file"));
    }
    // The range of the storage, in bytes from the start of its extent.
    let unit = dtype.map_or(1, Dtype::size) as u64;
    let from = first.checked_mul(unit).ok_or_else(too_large)?;
    let until = length.checked_mul(unit).and_then(|length| from.checked_add(length)).ok_or_else(too_large)?;
    if until > storage.length {
        return Err(format!("storage {key} has {} bytes where {until} are said to be", storage.length));
    }
    let offset = u64::try_from(view.offset).ok().and_then(|offset| offset.checked_mul(size)).ok_or_else(too_large)?;
    let start = from.checked_add(offset).ok_or_else(too_large)?;
    let mut span = 0_u64;
    if bytes > 0 {
        span = size;
        for (&n, &stride) in shape.iter().zip(&strides) {
            let reach = (stride as u64).checked_mul(n as u64 - 1).and_then(|values| values.checked_mul(size));
            span = reach.and_then(|reach| span.checked_add(reach)).ok_or_else(too_large)?;
        }
    }
    if start.checked_add(span).is_none_or(|end| end > until) {
        return Err(format!(
            "shape {shape:?} with strides {strides:?} from {} reaches beyond storage {key}",
            view.offset
        ));
    }
    // The stride of a dimension with one value is not used and may be anything, as are all strides of an empty tensor.
    let is_unused = |n: usize| n <= 1 || bytes == 0;
    let strides = shape.iter().zip(&strides).map(|(&n, &stride)| if is_unused(n) { 0 } else { stride * size as usize });
    Ok((shape.clone(), StridedView { storage, start: storage.offset + start, strides: strides.collect(), span }))
}

/// Returns whether the values lie in row-major order without gaps.
fn is_contiguous(tensor: &TensorInfo, strides: &[usize]) -> bool {
    if tensor.num_elements() == 0 {
        return true;
    }
    let mut expected = tensor.dtype.size();
    for (&n, &stride) in tensor.shape.iter().zip(strides).rev() {
        if n > 1 && stride != expected {
            return false;
        }
        expected *= n;
    }
    true
}

/// Calls `visit` with each value of `size` bytes in row-major order. `bytes` begins at the first value.
fn gather(bytes: &[u8], size: usize, shape: &[usize], strides: &[usize], mut visit: impl FnMut(&[u8])) {
    let mut index = vec![0; shape.len()];
    let mut offset = 0;
    loop {
        visit(&bytes[offset..offset + size]);
        // Advance the index; the last dimension varies fastest.
        let mut dimension = shape.len();
        loop {
            let Some(next) = dimension.checked_sub(1) else { return };
            dimension = next;
            index[dimension] += 1;
            offset += strides[dimension];
            if index[dimension] < shape[dimension] {
                break;
            }
            offset -= strides[dimension] * shape[dimension];
            index[dimension] = 0;
        }
    }
}

/// Describes a file of another format by its first bytes.
fn describe(start: &[u8]) -> String {
    if start.is_empty() {
        "it is empty".into()
    } else if start.starts_with(b"version https://git-lfs") {
        "it is a pointer of Git LFS; fetch the file itself".into()
    } else if start.starts_with(b"<") {
        "it looks like a web page; was the download an error message?".into()
    } else {
        "it begins as neither a zip archive, nor the files before PyTorch 1.6, nor safetensors".into()
    }
}
