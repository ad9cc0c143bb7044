//! The safetensors format: the length of the header in eight bytes, the JSON header, the values.

use std::collections::HashMap;
use std::io::{Read, Seek};

use safetensors::tensor::{Dtype as Named, Metadata};

use crate::dtype::Dtype;
use crate::error::Error;
use crate::pickle::{Storage, TensorView};
use crate::source::Source;
use crate::state_dict::Views;
use crate::storages::{Extent, Storages};

/// The largest header that is read, in bytes. The format allows no larger one.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The bytes before the header, which hold its length.
const LENGTH_BYTES: u64 = 8;

/// Returns whether a file that begins with these bytes may be a safetensors file.
pub(crate) fn is_safetensors(start: &[u8]) -> bool {
    start.get(8) == Some(&b'{') && start[4..8] == [0; 4]
}

/// Reads the tensors in the order of their values, and finds the values.
pub(crate) fn open<R: Read + Seek>(source: &mut Source<R>) -> Result<(Views, Storages), Error> {
    let mut length = [0; LENGTH_BYTES as usize];
    source.fill(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Error::unsupported(format!("its header has {length} bytes; more than {MAX_HEADER_BYTES} are not read"));
    }
    let header = source.bytes(LENGTH_BYTES, length)?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| Error::Damaged(format!("its header: {error}")))?;
    let start = LENGTH_BYTES + length;
    if source.length() != start + metadata.data_len() as u64 {
        return Error::damaged(format!(
            "it has {} bytes, and its header speaks of {}: it was cut off",
            source.length(),
            start + metadata.data_len() as u64
        ));
    }
    let (mut tensors, mut storages) = (Vec::new(), HashMap::new());
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let Some(dtype) = dtype_of(info.dtype) else {
            return Error::unsupported(format!("{name} is {:?}, which is not read", info.dtype));
        };
        let (from, until) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        let extent = Extent { offset: start + from, length: until - from, crc32: None };
        let shape: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
        let mut strides = vec![1_i64; shape.len()];
        for dimension in (1..shape.len()).rev() {
            strides[dimension - 1] = strides[dimension].saturating_mul(shape[dimension]);
        }
        let storage = Storage { key: name.clone(), dtype: None, length: extent.length, first: 0 };
        storages.insert(name.clone(), extent);
        tensors.push((name, TensorView { storage, dtype, offset: 0, shape, strides }));
    }
    Ok((tensors, storages))
}

fn dtype_of(dtype: Named) -> Option<Dtype> {
    Some(match dtype {
        Named::F64 => Dtype::F64,
        Named::F32 => Dtype::F32,
        Named::F16 => Dtype::F16,
        Named::BF16 => Dtype::BF16,
        Named::I64 => Dtype::I64,
        Named::I32 => Dtype::I32,
        Named::I16 => Dtype::I16,
        Named::I8 => Dtype::I8,
        Named::U64 => Dtype::U64,
        Named::U32 => Dtype::U32,
        Named::U16 => Dtype::U16,
        Named::U8 => Dtype::U8,
        Named::BOOL => Dtype::Bool,
        _ => return None,
    })
}
