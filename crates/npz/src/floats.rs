//! Vectors and matrices of floating-point numbers in npz files, such as the statistics that published references hold.

use crate::error::{Error, shown};
use crate::file::{Member, Npz};
use crate::header::NpyHeader;
use crate::objects;

/// The largest number of values that are read: those of a covariance of 8192 features.
const MAX_VALUES: u64 = 1 << 26;

/// An array of floating-point numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatArray {
    /// The dimensions.
    pub shape: Vec<usize>,
    /// The values in C order.
    pub values: Vec<f64>,
    /// Whether the file has them in float32.
    pub is_float32: bool,
}

impl Npz {
    /// Reads the array `key`: float32 or float64 in C order, or Python objects that are numbers or arrays of numbers of one
    /// shape. Returns `None` if there is no such array.
    ///
    /// # Errors
    /// [`Error::File`] if the array has another form, or is damaged. Pickles of other Python objects are refused: reading
    /// them would execute them.
    pub fn floats(&self, key: &str) -> Result<Option<FloatArray>, Error> {
        let Some(member) = self.member(key) else { return Ok(None) };
        let refuse = |what: String| self.refuse(format!("{key} has {what}; it must be float32 or float64 in C order"));
        let found = self.header(member)?;
        let is_float32 = match found.descr.as_str() {
            "<f4" => true,
            "<f8" => false,
            "|O" => return self.object_floats(member, &found).map(Some),
            other => return Err(refuse(format!("type {other}"))),
        };
        if found.fortran_order {
            return Err(refuse("Fortran order".into()));
        }
        let element_bytes = if is_float32 { 4 } else { 8 };
        self.check_length(member, &found, element_bytes)?;
        if (member.length - found.length) / element_bytes as u64 > MAX_VALUES {
            return Err(self.refuse(format!("{key} has shape {:?}; at most {MAX_VALUES} values are read", found.shape)));
        }
        let decode: fn(&[u8]) -> Option<f64> = match is_float32 {
            true => |bytes| Some(f32::from_le_bytes(bytes.try_into().ok()?).into()),
            false => |bytes| Some(f64::from_le_bytes(bytes.try_into().ok()?)),
        };
        let values = self.values(member, &found, element_bytes, decode)?.unwrap_or_default();
        let shape = found.shape.iter().map(|&side| side as usize).collect();
        Ok(Some(FloatArray { shape, values, is_float32 }))
    }

    /// Reads an array of Python objects that are numbers.
    fn object_floats(&self, member: &Member, header: &NpyHeader) -> Result<FloatArray, Error> {
        let refuse = |reason: String| self.refuse(format!("{} has {reason}", shown(&member.key)));
        let Some(length) = member.length.checked_sub(header.length) else {
            return Err(self.damaged(member, None));
        };
        if length > objects::MAX_BYTES {
            return Err(refuse(format!(
                "{length} bytes of pickled Python objects; at most {} are read",
                objects::MAX_BYTES
            )));
        }
        let pickle = self.values(member, header, 1, |bytes| bytes.first().copied())?.unwrap_or_default();
        let found = objects::numbers(&pickle, MAX_VALUES as usize).map_err(refuse)?;
        // NumPy repeats the shape in the pickle. Arrays as elements add dimensions.
        let is_same = header.shape.len() <= found.shape.len()
            && header.shape.iter().zip(&found.shape).all(|(&side, &pickled)| side == pickled as u64);
        if !is_same {
            return Err(refuse(format!("shape {:?}, and its pickle has shape {:?}", header.shape, found.shape)));
        }
        Ok(FloatArray { shape: found.shape, values: found.values, is_float32: false })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::npz_of;

    fn read(bytes: Vec<u8>, key: &str) -> Result<Option<FloatArray>, Error> {
        Npz::from_bytes(bytes.into(), "file")?.floats(key)
    }

    #[test]
    fn vectors_are_read_and_missing_arrays_are_none() {
        let bytes = npz_of(&[("mu.npy", &[1.0, -2.5])]);
        let found = read(bytes.clone(), "mu").unwrap().unwrap();
        assert_eq!(found, FloatArray { shape: vec![2], values: vec![1.0, -2.5], is_float32: false });
        assert_eq!(read(bytes, "sigma").unwrap(), None);
    }

    #[test]
    fn a_changed_byte_is_an_error() {
        let mut bytes = npz_of(&[("mu.npy", &[1.0, -2.5])]);
        let place = bytes.windows(8).position(|window| window == 1.0f64.to_le_bytes()).unwrap();
        bytes[place] ^= 1;
        assert!(read(bytes, "mu").unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn an_array_of_objects_without_a_pickle_is_refused() {
        let mut bytes = npz_of(&[("mu.npy", &[1.0])]);
        let place = bytes.windows(5).position(|window| window == b"'<f8'").unwrap();
        bytes[place..place + 5].copy_from_slice(b"'|O' ");
        let error = read(bytes, "mu").unwrap_err().to_string();
        assert!(error.contains("mu"), "{error}");
    }
}
