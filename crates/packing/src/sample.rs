//! One image as the members of a shard.

use admiral_containers::{CLASS_NAMES, Fetched, MAX_LABEL_BYTES, NUM_CLASSES, PACKED_FROM};
use admiral_data::{DataError, Format, ImageSource, decode_fetched};
use serde_json::{Value, json};

use crate::encode::encode;
use crate::error::Error;
use crate::settings::{Settings, StoredAs};

/// An image as it is packed, or why it cannot be.
#[derive(Debug)]
pub(crate) enum Made {
    Image(Packed),
    Broken {
        /// The image.
        path: String,
        reason: String,
    },
}

/// An image as it is packed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    /// The bytes that were read from the source.
    pub(crate) bytes_in: u64,
    pub(crate) format: Format,
    /// The image file.
    pub(crate) file: Vec<u8>,
    /// The member `.json`: the name of the image in its source, and its class.
    pub(crate) json: Vec<u8>,
}

/// Reads an image and makes what is packed. Every image is decoded, also if its file is kept, so that no broken one is
/// packed.
///
/// # Errors
/// If the source fails, and not the image.
pub(crate) fn make(source: &dyn ImageSource, item: u64, settings: &Settings) -> Result<Made, Error> {
    match read(source, item, settings) {
        Ok(packed) => Ok(Made::Image(packed)),
        Err(DataError::Broken { path, reason }) => Ok(Made::Broken { path, reason }),
        Err(error) => Err(error.into()),
    }
}

fn read(source: &dyn ImageSource, item: u64, settings: &Settings) -> Result<Packed, DataError> {
    let broken = |reason| DataError::Broken { path: source.name(item), reason };
    let fetched = source.fetch(item)?;
    let image = decode_fetched(source, item, &fetched, settings.reduction)?;
    let (format, file, bytes_in) = match (fetched, settings.stored_as) {
        (Fetched::File(bytes), StoredAs::Keep) => {
            let format = Format::of(&bytes).ok_or_else(|| broken("its format is not known".into()))?;
            let length = bytes.len();
            (format, bytes, length)
        }
        (Fetched::File(bytes) | Fetched::Pixels { bytes, .. }, stored_as) => {
            let (format, file) = encode(image, stored_as).map_err(broken)?;
            (format, file, bytes.len())
        }
    };
    Ok(Packed { bytes_in: bytes_in as u64, format, file, json: described(source, item) })
}

/// Returns the member `.json` of an image.
fn described(source: &dyn ImageSource, item: u64) -> Vec<u8> {
    let name = match source.path(item) {
        None => json!(key(item, source.num_images())),
        Some(path) => std::str::from_utf8(path).map_or_else(|_| json!(path), |path| json!(path)),
    };
    let mut fields = serde_json::Map::new();
    fields.insert(PACKED_FROM.into(), name);
    if let Some(class) = source.class(item) {
        fields.insert("label".into(), json!(class));
        if let Some(name) = usize::try_from(class).ok().and_then(|class| source.class_names().get(class)) {
            fields.insert("class".into(), json!(name));
        }
    }
    Value::Object(fields).to_string().into_bytes()
}

impl Packed {
    /// Adds the classes of the source to the member `.json`: their names in the order of their numbers, or how many they are
    /// if they have no names.
    ///
    /// # Errors
    /// If the names are too long to be read again. The error is the reason.
    pub(crate) fn list_classes(&mut self, source: &dyn ImageSource) -> Result<(), String> {
        let (names, num) = (source.class_names(), source.num_classes());
        let (key, classes) = match (names.is_empty(), num) {
            (true, 0) => return Ok(()),
            (true, num) => (NUM_CLASSES, json!(num)),
            (false, _) => (CLASS_NAMES, json!(names)),
        };
        let mut fields: serde_json::Map<String, Value> =
            serde_json::from_slice(&self.json).map_err(|error| error.to_string())?;
        fields.insert(key.into(), classes);
        self.json = Value::Object(fields).to_string().into_bytes();
        if self.json.len() as u64 > MAX_LABEL_BYTES {
            return Err(format!("the names of its {} classes take more than {MAX_LABEL_BYTES} bytes", names.len()));
        }
        Ok(())
    }
}

/// Returns the key of an image: its number, with as many digits for each of `num_images` images.
pub(crate) fn key(item: u64, num_images: u64) -> String {
    let digits = num_images.saturating_sub(1).to_string().len().max(9);
    format!("{item:0digits$}")
}
