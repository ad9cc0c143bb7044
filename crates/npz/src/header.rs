//! The header of an npy file: the type and shape of its array, as the text of a Python dictionary.

use std::io::Read;

use crate::error::shown;

/// The first bytes of every npy file.
const MAGIC: &[u8] = b"\x93NUMPY";

/// The length of the header is a multiple of this.
const ALIGNMENT: usize = 64;

/// The longest header that is read, in bytes. That of an array of numbers has about 100.
const MAX_BYTES: usize = 1 << 16;

/// The largest number of dimensions that are read. NumPy has no arrays with more.
const MAX_DIMENSIONS: usize = 64;

/// The type and shape of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NpyHeader {
    /// The type of an element, for example `|u1` or `<i8`. One that is not read may be shortened for messages.
    pub(crate) descr: String,
    /// Whether the first dimension varies fastest.
    pub(crate) fortran_order: bool,
    /// The dimensions.
    pub(crate) shape: Vec<u64>,
    /// The length of the header in bytes. The values follow.
    pub(crate) length: u64,
}

/// Returns the header of an array whose last dimension varies fastest, in version 1.0 of the format.
pub(crate) fn encode(descr: &str, shape: &[u64]) -> Vec<u8> {
    let mut dimensions: Vec<String> = shape.iter().map(u64::to_string).collect();
    if dimensions.len() == 1 {
        // The comma makes it a tuple.
        dimensions.push(String::new());
    }
    let shape = dimensions.join(", ");
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", shape.trim_end());
    let before = MAGIC.len() + 4;
    let length = (before + text.len() + 1).next_multiple_of(ALIGNMENT) - before;
    text.extend(std::iter::repeat_n(' ', length - text.len() - 1));
    text.push('\n');
    // At most 64 bytes for the fixed text, and 22 for each dimension.
    [MAGIC, &[1, 0], &(length as u16).to_le_bytes(), text.as_bytes()].concat()
}

/// Reads a header. The values follow in `reader`.
///
/// # Errors
/// The reason, if it is not the header of an npy file.
pub(crate) fn read(reader: &mut impl Read) -> Result<NpyHeader, String> {
    let mut exactly = |count: usize| {
        let mut bytes = vec![0; count];
        reader.read_exact(&mut bytes).map_err(|error| format!("it cannot be read ({error})")).map(|()| bytes)
    };
    let start = exactly(MAGIC.len() + 2)?;
    if !start.starts_with(MAGIC) {
        return Err("it does not begin like an npy file".into());
    }
    let length_bytes = match start[MAGIC.len()] {
        1 => 2,
        2 | 3 => 4,
        version => return Err(format!("it has version {version} of the npy format; 1 to 3 are read")),
    };
    let mut length = [0; 4];
    length[..length_bytes].copy_from_slice(&exactly(length_bytes)?);
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_BYTES {
        return Err(format!("its header has {length} bytes; at most {MAX_BYTES} are read"));
    }
    let text = exactly(length)?;
    let text = String::from_utf8(text).map_err(|_| "its header is not text".to_owned())?;
    let (descr, fortran_order, shape) =
        parse(&text).ok_or_else(|| format!("its header is not that of an array of numbers: {}", shown(text.trim())))?;
    if shape.len() > MAX_DIMENSIONS {
        return Err(format!("it has {} dimensions; at most {MAX_DIMENSIONS} are read", shape.len()));
    }
    let descr = shown(&descr);
    Ok(NpyHeader { descr, fortran_order, shape, length: (MAGIC.len() + 2 + length_bytes + length) as u64 })
}

/// Parses the dictionary. Returns `None` if it has another form, or a field is missing or unknown.
fn parse(text: &str) -> Option<(String, bool, Vec<u64>)> {
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    while !rest.is_empty() {
        let (key, after) = quoted(rest)?;
        let value = after.trim_start().strip_prefix(':')?.trim_start();
        rest = match key {
            "descr" => {
                let (value, after) = quoted(value)?;
                descr = Some(value.to_owned());
                after
            }
            "fortran_order" => {
                let is_true = value.starts_with("True");
                fortran_order = Some(is_true);
                value.strip_prefix(if is_true { "True" } else { "False" })?
            }
            "shape" => {
                let (dimensions, after) = value.strip_prefix('(')?.split_once(')')?;
                shape = Some(tuple(dimensions)?);
                after
            }
            _ => return None,
        };
        rest = rest.trim_start();
        rest =
            rest.strip_prefix(',').map_or_else(|| rest.is_empty().then_some(rest), |rest| Some(rest.trim_start()))?;
    }
    Some((descr?, fortran_order?, shape?))
}

/// Returns the text in quotes at the start, and what follows.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|letter| matches!(letter, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// Returns the numbers of a tuple without its parentheses.
fn tuple(text: &str) -> Option<Vec<u64>> {
    let text = text.trim();
    let text = text.strip_suffix(',').unwrap_or(text);
    if text.is_empty() {
        return Some(Vec::new());
    }
    // Python 2 wrote long integers with an L.
    text.split(',').map(|number| number.trim().trim_end_matches('L').parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn headers_are_read_as_they_were_written() {
        for (descr, shape) in [("|u1", vec![50_000, 64, 64, 3]), ("<i8", vec![7]), ("<i8", vec![])] {
            let bytes = encode(descr, &shape);
            assert!(bytes.len().is_multiple_of(ALIGNMENT) && bytes.ends_with(b" \n"));
            let found = read(&mut &bytes[..]).unwrap();
            assert_eq!((found.descr.as_str(), found.shape, found.fortran_order), (descr, shape, false));
            assert_eq!(found.length, bytes.len() as u64);
        }
    }

    #[test]
    fn dictionaries_of_other_writers_are_read() {
        let parsed = |text| parse(text);
        let expected = Some(("<i4".to_owned(), true, vec![3, 4]));
        assert_eq!(parsed("{\"shape\": (3L, 4L), 'fortran_order': True , 'descr':'<i4'}"), expected);
        assert_eq!(parsed("{'descr': '<i4', 'fortran_order': True, 'shape': (3, 4), }   \n"), expected);
    }

    #[test]
    fn other_headers_are_refused() {
        for text in [
            "",
            "{}",
            "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (3,), }",
            "{'descr': '<i4', 'fortran_order': False, }",
            "{'descr': '<i4', 'fortran_order': 0, 'shape': (3,), }",
            "{'descr': '<i4', 'fortran_order': False, 'shape': (-3,), }",
            "{'descr': '<i4', 'fortran_order': False, 'shape': (99999999999999999999,), }",
            "{'descr': '<i4', 'fortran_order': False, 'shape': (3,), 'more': 1}",
            "{'descr': '<i4' 'fortran_order': False, 'shape': (3,)}",
            "{é",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(read(&mut &b"\x93NUMPY\x04\x00"[..]).unwrap_err().contains("version 4"));
        assert!(read(&mut &b"\x93NUMPY\x02\x00\xff\xff\xff\xff"[..]).unwrap_err().contains("bytes"));
        assert!(read(&mut &b"PK\x03\x04 and so on"[..]).unwrap_err().contains("begin"));
        assert!(read(&mut &b"\x93NUM"[..]).is_err());
    }
}
