//! The format before PyTorch 1.6: five pickles (magic number, version, machine, state dict, keys of the storages),
//! followed by the storages. Each storage is preceded by its number of values.

use std::collections::HashMap;
use std::io::{Read, Seek};

use crate::dtype::Dtype;
use crate::error::Error;
use crate::pickle::{self, Pickled, Value};
use crate::source::Source;
use crate::storages::{Extent, Storages};

/// The magic number in the first pickle, as its bytes in the file.
const MAGIC_NUMBER: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The only version of the format.
const VERSION: i64 = 1001;

/// The largest size of all pickles of a file together, in bytes.
const MAX_PICKLE_BYTES: u64 = 16 << 20;

/// Returns whether a file that begins with these bytes has the old format.
pub(crate) fn is_legacy(start: &[u8]) -> bool {
    start.first() == Some(&0x80) && start.windows(MAGIC_NUMBER.len()).any(|window| window == MAGIC_NUMBER)
}

/// Reads the pickle of the state dict, and finds the storages.
pub(crate) fn open<R: Read + Seek>(source: &mut Source<R>) -> Result<(Pickled, Storages), Error> {
    let length = source.length().min(MAX_PICKLE_BYTES);
    let bytes = source.bytes(0, length)?;
    let mut start = 0;
    let mut next = |part: &str| -> Result<Pickled, Error> {
        let pickled = pickle::run(&bytes[start..]).map_err(|error| match error {
            // Errors give positions from the start of the file.
            Error::Refused { name, position } => Error::Refused { name, position: position + start },
            Error::Damaged(reason) => Error::Damaged(format!("in {part}, which begins at byte {start}: {reason}")),
            error => error,
        })?;
        start += pickled.length;
        Ok(pickled)
    };
    next("the magic number")?;
    let version = next("the version")?;
    match version.get(version.top) {
        Value::Int(VERSION) => {}
        Value::Int(other) => return Error::unsupported(format!("it is of version {other}; {VERSION} is read")),
        _ => return Error::damaged("its version is no number"),
    }
    let machine = next("the machine")?;
    if let Value::Dict(entries) = machine.get(machine.top) {
        let is_big = |(key, value): &(_, _)| {
            machine.text(*key) == Some("little_endian") && matches!(machine.get(*value), Value::Bool(false))
        };
        if entries.iter().any(is_big) {
            return Error::unsupported("it was written by a big-endian machine, which is not read");
        }
    }
    let state = next("the state dict")?;
    let keys = next("the storages")?;
    let Value::List(listed) = keys.get(keys.top) else {
        return Error::damaged("the keys of its storages are no list");
    };
    let names = listed.iter().map(|key| keys.text(*key).map(str::to_owned)).collect::<Option<Vec<_>>>();
    let Some(names) = names else { return Error::damaged("the key of a storage is no text") };
    let storages = storages(source, &state, &names, start as u64)?;
    Ok((state, storages))
}

/// Finds the storages with these keys, which begin at `offset`.
fn storages<R: Read + Seek>(
    source: &mut Source<R>,
    state: &Pickled,
    keys: &[String],
    mut offset: u64,
) -> Result<Storages, Error> {
    let dtypes: HashMap<&str, Option<Dtype>> =
        state.storages().map(|storage| (storage.key.as_str(), storage.dtype)).collect();
    let mut storages = HashMap::new();
    for key in keys {
        let Some(dtype) = dtypes.get(key.as_str()) else {
            return Error::damaged(format!("storage {key} belongs to no tensor, so that its length cannot be known"));
        };
        let mut count = [0; 8];
        source.fill(offset, &mut count)?;
        let length = u64::from_le_bytes(count).checked_mul(dtype.map_or(1, Dtype::size) as u64);
        offset += 8;
        let Some(end) = length.and_then(|length| offset.checked_add(length)).filter(|end| *end <= source.length())
        else {
            return Error::damaged(format!("storage {key} reaches beyond its end: it was cut off"));
        };
        storages.insert(key.clone(), Extent { offset, length: end - offset, crc32: None });
        offset = end;
    }
    Ok(storages)
}
