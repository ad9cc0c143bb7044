//! Files of latents: the noise that DDIM encodes images to, and from which it decodes them. They are safetensors files:
//! `latents` float32 `[number, channels, height, width]`, and `labels` int64 `[number]` if the images have classes.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use admiral_contract::files::{create_anew, open_to_read};
use admiral_storage::hex;
use safetensors::tensor::{Dtype, Metadata};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::settings::SCHEMA_VERSION;

/// The names of the tensors.
const LATENTS: &str = "latents";
const LABELS: &str = "labels";

/// The key of the settings in the metadata.
const ENCODING: &str = "encoding";

/// The longest header that is read, in bytes. That of two tensors has less than 2000.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// The largest number of labels that are read.
const MAX_LABELS: u64 = 1 << 26;

/// The size of one read when the digest is computed.
const CHUNK_BYTES: usize = 1 << 20;

/// How latents were made, in the metadata of their file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoding {
    /// The version of this description.
    pub schema_version: u32,
    /// The weights that encoded the images.
    pub checkpoint: Value,
    /// The timesteps that were visited, as in `sampling.timestep_respacing`. Decoding visits the same.
    pub respacing: String,
    /// Whether the last timestep was visited too. Decoding starts at the noise level of the last timestep, which is that of
    /// the latents if it was not.
    pub all_steps: bool,
    /// A digest of the images.
    pub images: Value,
}

impl Encoding {
    /// Describes latents in the version of this crate.
    #[must_use]
    pub fn new(checkpoint: Value, respacing: &str, all_steps: bool, images: Value) -> Self {
        Self { schema_version: SCHEMA_VERSION, checkpoint, respacing: respacing.to_owned(), all_steps, images }
    }
}

/// The latents of a file. They are read when they are needed. Clones share the file.
#[derive(Debug, Clone)]
pub struct Latents {
    path: PathBuf,
    file: Arc<File>,
    /// The offset of the latents' values in the file.
    start: u64,
    num: u64,
    shape: [usize; 3],
    labels: Option<Arc<[i64]>>,
    encoding: Encoding,
    digest: String,
}

impl Latents {
    /// Opens a local file, and reads it once for its digest.
    ///
    /// # Errors
    /// [`Error::Latents`] with what was found and what is expected.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let refuse = |reason: String| Error::Latents { file: path.display().to_string(), reason };
        let failed = |error: io::Error| refuse(format!("it cannot be read ({error})"));
        let file = open_to_read(path).map_err(failed)?;
        let (length, header) = read_header(&file).map_err(refuse)?;
        let data = 8 + length;
        let file_bytes = file.metadata().map_err(failed)?.len();
        if data.checked_add(header.data_len() as u64) != Some(file_bytes) {
            return Err(refuse(format!("it has {file_bytes} bytes, and its header speaks of another number")));
        }
        let encoding = header.metadata().as_ref().and_then(|entries| entries.get(ENCODING));
        let encoding = encoding.ok_or_else(|| refuse("it does not say how its tensors were encoded".into()))?;
        let encoding: Encoding = serde_json::from_str(encoding)
            .map_err(|error| refuse(format!("its metadata {ENCODING:?} cannot be read: {error}")))?;
        if encoding.schema_version != SCHEMA_VERSION {
            return Err(refuse(format!(
                "it has schema version {}, and this Admiral reads {SCHEMA_VERSION}",
                encoding.schema_version
            )));
        }
        let latents = header.info(LATENTS).ok_or_else(|| refuse(format!("it has no tensor {LATENTS:?}")))?;
        let &[num, channels, height, width] = &latents.shape[..] else {
            return Err(refuse(format!("{LATENTS} has shape {:?}, and not [N, C, H, W]", latents.shape)));
        };
        if latents.dtype != Dtype::F32 || latents.shape.contains(&0) {
            return Err(refuse(format!("{LATENTS} is {:?} of shape {:?}; F32 is read", latents.dtype, latents.shape)));
        }
        let labels = match header.info(LABELS) {
            None => None,
            Some(info) if info.dtype == Dtype::I64 && info.shape == [num] && num as u64 <= MAX_LABELS => {
                let mut bytes = vec![0; 8 * num];
                file.read_exact_at(&mut bytes, data + info.data_offsets.0 as u64).map_err(failed)?;
                Some(bytes.as_chunks::<8>().0.iter().map(|&label| i64::from_le_bytes(label)).collect())
            }
            Some(info) => {
                return Err(refuse(format!(
                    "{LABELS} is {:?} of shape {:?}; I64 [{num}] fits",
                    info.dtype, info.shape
                )));
            }
        };
        Ok(Self {
            path: path.to_owned(),
            start: data + latents.data_offsets.0 as u64,
            num: num as u64,
            shape: [channels, height, width],
            labels,
            encoding,
            digest: digest_of(&file).map_err(failed)?,
            file: Arc::new(file),
        })
    }

    /// Returns the number of latents.
    #[must_use]
    pub fn num(&self) -> u64 {
        self.num
    }

    /// Returns channels, height and width.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Returns the classes of the images, if they have classes.
    #[must_use]
    pub fn labels(&self) -> Option<&[i64]> {
        self.labels.as_deref()
    }

    /// Returns how they were made.
    #[must_use]
    pub fn encoding(&self) -> &Encoding {
        &self.encoding
    }

    /// Returns the SHA-256 of the file as hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Reads the values of latents, `[number, channels, height, width]`.
    ///
    /// # Errors
    /// [`Error::Latents`] if there are not that many, or the file cannot be read.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<f32>, Error> {
        let refuse = |reason: String| Error::Latents { file: self.path.display().to_string(), reason };
        if range.start > range.end || range.end > self.num {
            return Err(refuse(format!("it has {} latents, and {range:?} are needed", self.num)));
        }
        let row = 4 * self.shape.iter().product::<usize>();
        // The file has that many bytes.
        let mut bytes = vec![0; row * (range.end - range.start) as usize];
        let read = self.file.read_exact_at(&mut bytes, self.start + row as u64 * range.start);
        read.map_err(|error| refuse(format!("it cannot be read ({error})")))?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect())
    }
}

/// Reads the header and its length.
fn read_header(file: &File) -> Result<(u64, Metadata), String> {
    let failed = |error: io::Error| format!("it is no safetensors file ({error})");
    let mut length = [0; 8];
    file.read_exact_at(&mut length, 0).map_err(failed)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err("it is no safetensors file with latents: its header would be too long".into());
    }
    let mut header = vec![0; length as usize];
    file.read_exact_at(&mut header, 8).map_err(failed)?;
    let header = serde_json::from_slice(&header).map_err(|error| format!("it is no safetensors file ({error})"))?;
    Ok((length, header))
}

fn digest_of(mut file: &File) -> io::Result<String> {
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK_BYTES]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hex(hash.finalize())),
            count => hash.update(&chunk[..count]),
        }
    }
}

/// Writes a file of latents front to back. The file gets its name when it is complete: before, it is `<path>.partial`, which
/// is removed if the writer is dropped.
#[derive(Debug)]
pub struct LatentsWriter {
    path: PathBuf,
    /// `None` when the file has its name.
    aside: Option<PathBuf>,
    out: BufWriter<File>,
    bytes_left: u64,
}

impl LatentsWriter {
    /// Begins a file of `num` latents of `shape` (channels, height, width). Creates its folder if it is missing.
    ///
    /// # Errors
    /// If the file cannot be created or written.
    ///
    /// # Panics
    /// If the number of labels is not `num`.
    pub fn create(
        path: &Path,
        num: u64,
        shape: [usize; 3],
        labels: Option<&[i64]>,
        encoding: &Encoding,
    ) -> io::Result<Self> {
        assert!(labels.is_none_or(|labels| labels.len() as u64 == num), "one label for each of {num} latents");
        let mut entries = Map::new();
        // Common loaders look for "format". Values are text.
        let encoding = serde_json::to_string(encoding)?;
        entries.insert("__metadata__".into(), json!({"format": "pt", ENCODING: encoding}));
        let label_bytes = labels.map_or(0, |labels| 8 * labels.len() as u64);
        if labels.is_some() {
            entries.insert(LABELS.into(), json!({"dtype": "I64", "shape": [num], "data_offsets": [0, label_bytes]}));
        }
        let bytes_left = 4 * num * shape.iter().product::<usize>() as u64;
        let [channels, height, width] = shape.map(|side| side as u64);
        let latents = json!({
            "dtype": "F32",
            "shape": [num, channels, height, width],
            "data_offsets": [label_bytes, label_bytes + bytes_left],
        });
        entries.insert(LATENTS.into(), latents);
        let mut header = Value::Object(entries).to_string().into_bytes();
        // The values start at a multiple of eight bytes.
        header.resize(header.len().next_multiple_of(8), b' ');

        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut aside = path.as_os_str().to_owned();
        aside.push(".partial");
        let aside = PathBuf::from(aside);
        let out = BufWriter::new(create_anew(&aside)?);
        let mut writer = Self { path: path.to_owned(), aside: Some(aside), out, bytes_left };
        writer.out.write_all(&(header.len() as u64).to_le_bytes())?;
        writer.out.write_all(&header)?;
        for label in labels.unwrap_or_default() {
            writer.out.write_all(&label.to_le_bytes())?;
        }
        Ok(writer)
    }

    /// Appends the values of the next latents as little-endian float32.
    ///
    /// # Errors
    /// If they cannot be written, or are more than there is place for.
    pub fn append(&mut self, values: &[u8]) -> io::Result<()> {
        let left = self.bytes_left.checked_sub(values.len() as u64);
        self.bytes_left = left.ok_or_else(|| io::Error::other("more latents than the header says"))?;
        self.out.write_all(values)
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// If values are missing, or the file cannot be written or renamed.
    pub fn publish(mut self) -> io::Result<()> {
        if self.bytes_left != 0 {
            return Err(io::Error::other("fewer latents than the header says"));
        }
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        if let Some(aside) = &self.aside {
            std::fs::rename(aside, &self.path)?;
        }
        self.aside = None;
        Ok(())
    }
}

impl Drop for LatentsWriter {
    fn drop(&mut self) {
        if let Some(aside) = &self.aside {
            // The first error is reported, not an error of this removal.
            let _ = std::fs::remove_file(aside);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn encoding() -> Encoding {
        Encoding::new(json!({"step": 4}), "ddim10", false, json!("abc"))
    }

    fn bytes_of(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// Writes three latents of two values.
    fn written(path: &Path, labels: Option<&[i64]>) -> [f32; 6] {
        let values = [1.0, -2.0, 3.5, 4.0, f32::MIN_POSITIVE, 6.0];
        let mut writer = LatentsWriter::create(path, 3, [1, 1, 2], labels, &encoding()).unwrap();
        writer.append(&bytes_of(&values[..4])).unwrap();
        writer.append(&bytes_of(&values[4..])).unwrap();
        assert!(!path.exists());
        writer.publish().unwrap();
        values
    }

    #[test]
    fn latents_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/latents.safetensors");
        let values = written(&path, Some(&[7, 0, 2]));
        let latents = Latents::open(&path).unwrap();
        assert_eq!((latents.num(), latents.shape(), latents.labels()), (3, [1, 1, 2], Some(&[7, 0, 2][..])));
        assert_eq!(latents.encoding(), &encoding());
        assert_eq!(latents.read(0..3).unwrap(), values);
        assert_eq!(latents.read(1..2).unwrap(), values[2..4]);
        assert!(latents.read(2..4).is_err());
        // The library of the format reads the same.
        let bytes = std::fs::read(&path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.tensor("latents").unwrap().data(), bytes_of(&values));

        let plain = folder.path().join("plain.safetensors");
        written(&plain, None);
        let plain = Latents::open(&plain).unwrap();
        assert_eq!((plain.labels(), plain.read(0..1).unwrap()), (None, values[..2].to_vec()));
        assert_ne!(plain.digest(), latents.digest());
    }

    #[test]
    fn an_unfinished_file_gets_no_name_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latents.safetensors");
        let mut writer = LatentsWriter::create(&path, 2, [1, 1, 1], None, &encoding()).unwrap();
        writer.append(&[0; 4]).unwrap();
        assert!(writer.append(&[0; 8]).is_err());
        let mut writer = LatentsWriter::create(&path, 2, [1, 1, 1], None, &encoding()).unwrap();
        writer.append(&[0; 4]).unwrap();
        assert!(writer.publish().is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latents.safetensors");
        written(&path, Some(&[7, 0, 2]));
        let good = std::fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&good[8..]).into_owned();
        let header = &text[..text.rfind('}').unwrap() + 1];
        let values = &good[good.len() - 48..];
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Latents::open(&path).unwrap_err().to_string()
        };
        let changed = |from: &str, to: &str| {
            assert!(header.contains(from), "{from}");
            let header = header.replace(from, to);
            refused(&[&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), values].concat())
        };
        assert!(refused(b"").contains("no safetensors file"));
        assert!(refused(&[255; 64]).contains("too long"));
        assert!(refused(&good[..good.len() - 1]).contains("bytes"));
        assert!(changed("\"latents\"", "\"others\"").contains("no tensor \"latents\""));
        assert!(changed("[3,1,1,2]", "[3,1,2]").contains("[N, C, H, W]"));
        assert!(changed("\"shape\":[3]", "\"shape\":[3,1]").contains("labels is I64"));
        assert!(changed("\"encoding\"", "\"unknown\"").contains("how its tensors were encoded"));
        assert!(changed("\\\"schema_version\\\":1", "\\\"schema_version\\\":2").contains("version 2"));
        assert!(changed("[24,48]", "[24,4800000000]").contains("no safetensors file"));
        assert!(Latents::open(folder.path()).unwrap_err().to_string().contains("not a regular file"));
    }
}
