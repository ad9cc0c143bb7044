//! Vectors and matrices of floating-point numbers in npz files, such as the statistics that published references hold.

use std::path::Path;

use super::header;
use super::read::Npz;
use crate::error::Error;

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

/// Reads the array `key` of a local npz file: float32 or float64 in C order. Returns `None` if there is no such array.
///
/// # Errors
/// [`Error::Npz`] if the file or the array has another form, or is damaged. Arrays of pickled Python objects are refused:
/// reading them would execute them.
pub fn read_floats(path: &Path, key: &str) -> Result<Option<FloatArray>, Error> {
    let npz = Npz::open(path)?;
    let Some(member) = npz.member(key) else { return Ok(None) };
    let refuse = |what: String| npz.refuse(format!("{key} has {what}; it must be float32 or float64 in C order"));
    let found = header::read(&mut npz.reader(member, 0)?).map_err(|reason| npz.refuse(format!("{key}: {reason}")))?;
    let is_float32 = match found.descr.as_str() {
        "<f4" => true,
        "<f8" => false,
        "|O" => return Err(refuse("pickled Python objects, which are never executed".into())),
        other => return Err(refuse(format!("type {other}"))),
    };
    if found.fortran_order {
        return Err(refuse("Fortran order".into()));
    }
    let element_bytes = if is_float32 { 4 } else { 8 };
    let found = npz.header(member, element_bytes)?;
    if (member.length - found.length) / element_bytes > MAX_VALUES {
        return Err(npz.refuse(format!("{key} has shape {:?}; at most {MAX_VALUES} values are read", found.shape)));
    }
    let bytes = npz.read_all(member)?;
    let bytes = &bytes[found.length as usize..];
    let values = match is_float32 {
        true => bytes.as_chunks().0.iter().map(|&value| f64::from(f32::from_le_bytes(value))).collect(),
        false => bytes.as_chunks().0.iter().map(|&value| f64::from_le_bytes(value)).collect(),
    };
    // No larger than the number of values.
    let shape = found.shape.iter().map(|&side| side as usize).collect();
    Ok(Some(FloatArray { shape, values, is_float32 }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::npz::npz_of;

    #[test]
    fn vectors_are_read_and_missing_arrays_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npz");
        std::fs::write(&path, npz_of(&[("mu.npy", &[1.0, -2.5])])).unwrap();
        let found = read_floats(&path, "mu").unwrap().unwrap();
        assert_eq!(found, FloatArray { shape: vec![2], values: vec![1.0, -2.5], is_float32: false });
        assert_eq!(read_floats(&path, "sigma").unwrap(), None);
    }

    #[test]
    fn a_changed_byte_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npz");
        let mut bytes = npz_of(&[("mu.npy", &[1.0, -2.5])]);
        let place = bytes.windows(8).position(|window| window == 1.0f64.to_le_bytes()).unwrap();
        bytes[place] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(read_floats(&path, "mu").unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn pickled_objects_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npz");
        let bytes = npz_of(&[("mu.npy", &[1.0])]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains("'<f8'"));
        let place = bytes.windows(5).position(|window| window == b"'<f8'").unwrap();
        let mut changed = bytes.clone();
        changed[place..place + 5].copy_from_slice(b"'|O' ");
        std::fs::write(&path, changed).unwrap();
        let error = read_floats(&path, "mu").unwrap_err().to_string();
        assert!(error.contains("never executed"), "{error}");
    }
}
