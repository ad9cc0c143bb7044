//! Reads IDX files, plain or gzipped. A file consists of a big-endian header and the values.

use std::io::{BufRead, BufReader, Chain, Read};
use std::path::Path;

use admiral_containers::{may_pass, retry};
use admiral_contract::files::open_to_read;
use flate2::bufread::GzDecoder;

use super::error::DataError;

/// The type code of unsigned bytes in the header.
pub(crate) const UNSIGNED_BYTES: u8 = 0x08;

/// What an IDX file says of its values.
#[derive(Debug, PartialEq)]
pub(crate) struct Header {
    /// The code of the type.
    pub(crate) kind: u8,
    pub(crate) shape: Vec<usize>,
}

/// The content of an IDX file.
#[derive(Debug, PartialEq)]
pub(crate) struct Values {
    pub(crate) header: Header,
    pub(crate) bytes: Vec<u8>,
}

/// The length in bytes of a file as it is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stored {
    Plain(u64),
    Gzipped(u64),
}

/// Why an IDX file could not be read.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Its content is wrong.
    Wrong(String),
    /// It cannot be read, or not be unpacked.
    Unread(std::io::Error),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Unread(error)
    }
}

/// Returns the name and the size in bytes of the type with this code; `None` if there is no such type.
fn kind_of(code: u8) -> Option<(&'static str, usize)> {
    Some(match code {
        UNSIGNED_BYTES => ("unsigned bytes", 1),
        0x09 => ("signed bytes", 1),
        0x0B => ("16-bit integers", 2),
        0x0C => ("32-bit integers", 4),
        0x0D => ("32-bit floats", 4),
        0x0E => ("64-bit floats", 8),
        _ => return None,
    })
}

pub(crate) fn kind_name(code: u8) -> &'static str {
    kind_of(code).map_or("of an unknown type", |(name, _)| name)
}

/// Returns the content of a file. `field` is the configuration field that names it. What `check` refuses of its header, and
/// what takes more than `memory` bytes, is not read.
pub(crate) fn read(
    path: &Path,
    field: &'static str,
    memory: u64,
    check: impl Fn(&Header) -> Result<(), String>,
) -> Result<Values, DataError> {
    let name = || path.display().to_string();
    let malformed = |reason: String| DataError::Malformed { path: name(), reason };
    if path.is_dir() {
        return Err(malformed(format!("it is a folder; `{field}` must name one IDX file")));
    }
    let attempt = || {
        let file = open_to_read(path)?;
        let length = file.metadata()?.len();
        let mut file = BufReader::new(file);
        let parsed = if file.fill_buf()?.starts_with(&GZIP) {
            parse(GzipMembers::new(file), Stored::Gzipped(length), memory, &check)
        } else {
            parse(file, Stored::Plain(length), memory, &check)
        };
        match parsed {
            Ok(values) => Ok(Ok(values)),
            Err(Failure::Wrong(reason)) => Ok(Err(reason)),
            Err(Failure::Unread(error)) if may_pass(&error) => Err(error),
            Err(Failure::Unread(error)) => Ok(Err(error.to_string())),
        }
    };
    let values = retry(attempt, std::thread::sleep).map_err(|error| match may_pass(&error) {
        true => DataError::Unavailable { path: name(), reason: error.to_string() },
        false => DataError::Unreadable { path: name(), reason: error.to_string(), field },
    })?;
    values.map_err(malformed)
}

/// The start of a gzip file, and of each of its members (RFC 1952, section 2.3.1).
const GZIP: [u8; 2] = [0x1F, 0x8B];

/// The content of a gzip file, which may have several members (RFC 1952, section 2.2). What follows the last member, such as
/// zeros that fill a block, is ignored, as by `gzip` itself. The start of a member is read before the member is.
struct GzipMembers<R>(Option<GzDecoder<Chain<&'static [u8], R>>>);

impl<R: BufRead> GzipMembers<R> {
    fn new(file: R) -> Self {
        Self(Some(GzDecoder::new(Read::chain(&[][..], file))))
    }
}

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while let Some(mut member) = self.0.take() {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                self.0 = Some(member);
                return Ok(count);
            }
            let mut rest = member.into_inner().into_inner().1;
            let mut start = Vec::new();
            rest.by_ref().take(GZIP.len() as u64).read_to_end(&mut start)?;
            self.0 = (start == GZIP).then(|| GzDecoder::new(Read::chain(&GZIP[..], rest)));
        }
        Ok(0)
    }
}

/// The largest factor by which gzip makes data smaller.
const MAX_GZIP_FACTOR: u64 = 1032;

/// Returns the content of an IDX file. Reads no more than its header promises, and nothing after a header that `check` or
/// `memory`, in bytes, forbids.
pub(crate) fn parse(
    mut file: impl Read,
    stored: Stored,
    memory: u64,
    check: &dyn Fn(&Header) -> Result<(), String>,
) -> Result<Values, Failure> {
    let wrong = |reason: String| Err(Failure::Wrong(reason));
    let damaged = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Failure::Wrong("it ends within its header".to_owned()),
        _ => error.into(),
    };
    let mut start = [0; 4];
    file.read_exact(&mut start).map_err(damaged)?;
    let [0, 0, kind, num_dimensions] = start else { return wrong("it is no IDX file".into()) };
    let Some((_, size)) = kind_of(kind) else {
        return wrong(format!("it is no IDX file: there is no type {kind:#04x}"));
    };
    let mut shape = Vec::with_capacity(num_dimensions.into());
    for _ in 0..num_dimensions {
        let mut word = [0; 4];
        file.read_exact(&mut word).map_err(damaged)?;
        shape.push(u32::from_be_bytes(word) as usize);
    }
    let expected = shape.iter().try_fold(size, |product, &n| product.checked_mul(n));
    let Some(expected) = expected else { return wrong(format!("its header promises {shape:?} values, too many")) };
    let header = Header { kind, shape };
    check(&header).map_err(Failure::Wrong)?;
    let contradicts = |follow: String| {
        let shape = &header.shape;
        wrong(format!("its header promises {shape:?} values of {size} bytes, but {follow} bytes follow"))
    };
    let (bytes_of_header, wanted) = ((start.len() + 4 * header.shape.len()) as u64, expected as u64);
    match stored {
        Stored::Plain(length) if length.saturating_sub(bytes_of_header) < wanted => {
            return contradicts(format!("only {}", length.saturating_sub(bytes_of_header)));
        }
        Stored::Gzipped(length) if length.saturating_mul(MAX_GZIP_FACTOR) < wanted => {
            return contradicts(format!("at most {}", length.saturating_mul(MAX_GZIP_FACTOR)));
        }
        _ => {}
    }
    let too_large =
        || format!("its {expected} bytes do not fit into the memory of this host, of which {memory} are free");
    if wanted > memory {
        return wrong(too_large());
    }
    // In one piece, because a growing one is copied. Memory is only used for the bytes that are there.
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(expected).map_err(|_| Failure::Wrong(too_large()))?;
    file.by_ref().take(wanted).read_to_end(&mut bytes)?;
    if bytes.len() < expected {
        return contradicts(format!("only {}", bytes.len()));
    }
    if file.read(&mut [0])? > 0 {
        return contradicts("more".into());
    }
    Ok(Values { header, bytes })
}
