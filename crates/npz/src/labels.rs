//! Labels in npz files: vectors of integers.

use crate::error::Error;
use crate::file::Npz;
use crate::header::NpyHeader;

/// The largest number of labels that are read.
const MAX_LABELS: u64 = 1 << 24;

impl Npz {
    /// Reads labels: the array `key`, a vector of integers.
    ///
    /// # Errors
    /// [`Error::NoLabels`] if there is no such array, with those that are there; [`Error::File`] if the array has another
    /// form, or is damaged.
    pub fn labels(&self, key: &str) -> Result<Vec<i64>, Error> {
        let Some(member) = self.member(key) else {
            return Err(Error::NoLabels { file: self.name.clone(), key: key.to_owned(), found: self.shown_keys() });
        };
        let refuse = |found: &NpyHeader| {
            self.refuse(format!(
                "{key} has type {} and shape {:?}; labels are integers (int8 to int64) of shape [N]",
                found.descr, found.shape
            ))
        };
        let found = self.header(member)?;
        let decode: fn(&[u8]) -> Option<i64> = match found.descr.as_str() {
            "|u1" => |bytes| Some(u8::from_le_bytes(bytes.try_into().ok()?).into()),
            "|i1" => |bytes| Some(i8::from_le_bytes(bytes.try_into().ok()?).into()),
            "<u2" => |bytes| Some(u16::from_le_bytes(bytes.try_into().ok()?).into()),
            "<i2" => |bytes| Some(i16::from_le_bytes(bytes.try_into().ok()?).into()),
            "<u4" => |bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?).into()),
            "<i4" => |bytes| Some(i32::from_le_bytes(bytes.try_into().ok()?).into()),
            "<u8" => |bytes| u64::from_le_bytes(bytes.try_into().ok()?).try_into().ok(),
            "<i8" => |bytes| Some(i64::from_le_bytes(bytes.try_into().ok()?)),
            _ => return Err(refuse(&found)),
        };
        let element_bytes = found.descr[2..].parse::<usize>().unwrap_or(1);
        self.check_length(member, &found, element_bytes)?;
        let &[count] = &found.shape[..] else { return Err(refuse(&found)) };
        if count > MAX_LABELS {
            return Err(self.refuse(format!("{key} has {count} labels; at most {MAX_LABELS} are read")));
        }
        let labels = self.values(member, &found, element_bytes, decode)?;
        labels.ok_or_else(|| self.refuse(format!("{key} has a label above 2^63 - 1")))
    }
}
