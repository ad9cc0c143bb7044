//! The interface of sources of images.

use std::fmt::Debug;
use std::sync::Arc;

use admiral_containers::Fetched;
use sha2::{Digest, Sha256};

use super::buffers::Buffers;
use super::decode::into_pixels;
use super::decoding::Decoding;
use super::error::DataError;
use super::pixels::Pixels;

/// A finite set of images, in a fixed order.
pub trait ImageSource: Debug + Send + Sync {
    /// Returns the number of images. It is never 0.
    fn num_images(&self) -> u64;

    /// Returns the number of classes. It is 0 if the images have no classes.
    fn num_classes(&self) -> usize;

    /// Returns the names of the classes, in the order of their numbers; empty if they have no names.
    fn class_names(&self) -> &[String] {
        &[]
    }

    /// Returns a digest of the images' names and classes, without the folder in which they are. Ranks whose digests are
    /// equal number the same images in the same way.
    fn digest(&self) -> [u8; 32];

    /// Returns a digest that changes when the content of an image may have changed, although the [`digest`](Self::digest) of
    /// the names stays: of their checksums, or of the lengths and versions of their files. Images are not read for it.
    ///
    /// # Errors
    /// If a file cannot be looked at.
    fn stamp(&self) -> Result<[u8; 32], DataError>;

    /// Returns the name of the image `item` for messages.
    fn name(&self, item: u64) -> String;

    /// Returns the name that decides the place of the image `item` in the order: its path in its container. `None` if the
    /// images have only numbers.
    fn path(&self, _item: u64) -> Option<&[u8]> {
        None
    }

    /// Returns what tells the image `item` from others, without the place of the source: its name or number, and its class.
    /// Sources with equal digests have equal entries.
    fn entry(&self, item: u64) -> String;

    /// Returns the class of the image `item`, or `None` if the images have no classes.
    fn class(&self, item: u64) -> Option<i64>;

    /// Returns whether images that are smaller than the samples get a black border, which suits digits. Otherwise they
    /// are enlarged, which suits photographs.
    fn is_padded(&self) -> bool {
        false
    }

    /// Reads the image `item`, as it is stored.
    ///
    /// # Errors
    /// [`DataError::Broken`] if it is damaged, [`DataError::Unavailable`] or [`DataError::Storage`] if it cannot be read.
    fn fetch(&self, item: u64) -> Result<Fetched, DataError>;

    /// Reads and decodes the image `item`, in its stored size.
    ///
    /// # Errors
    /// [`DataError::Broken`] if it cannot be decoded, and those of [`fetch`](Self::fetch).
    fn load(&self, item: u64) -> Result<Pixels, DataError> {
        // Exact decoding has the same pixels for every length.
        self.load_for(item, 0, Decoding::Exact, &mut Buffers::default())
    }

    /// Reads and decodes the image `item`, to resize its short side to `length` pixels next; see [`decode_for`].
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    fn load_for(
        &self,
        item: u64,
        length: usize,
        decoding: Decoding,
        buffers: &mut Buffers,
    ) -> Result<Pixels, DataError> {
        let decoded = into_pixels(self.fetch(item)?, length, decoding, buffers);
        decoded.map_err(|reason| DataError::Broken { path: self.name(item), reason })
    }
}

/// Returns the SHA-256 of parts, each with its length.
pub fn digest_of(parts: impl IntoIterator<Item: AsRef<[u8]>>) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// Returns the entry of an image with its class: `name, class 3 "cat"`.
pub(crate) fn with_class(name: String, class: Option<i64>, names: &[String]) -> String {
    let Some(class) = class else { return name };
    match usize::try_from(class).ok().and_then(|class| names.get(class)) {
        Some(class_name) => format!("{name}, class {class} {class_name:?}"),
        None => format!("{name}, class {class}"),
    }
}

/// A source whose classes have the numbers of another source's classes of the same names.
#[derive(Debug)]
pub(crate) struct Renumbered {
    source: Arc<dyn ImageSource>,
    names: Vec<String>,
    numbers: Vec<i64>,
}

impl Renumbered {
    /// Numbers the classes of `source` by their places in `names`.
    ///
    /// # Errors
    /// If a class is not among `names`: its name.
    pub(crate) fn new(source: Arc<dyn ImageSource>, names: &[String]) -> Result<Self, String> {
        let place = |name: &String| names.iter().position(|other| other == name).ok_or_else(|| name.clone());
        let numbers = source.class_names().iter().map(|name| place(name).map(|place| place as i64));
        let numbers = numbers.collect::<Result<_, _>>()?;
        Ok(Self { source, names: names.to_vec(), numbers })
    }
}

impl ImageSource for Renumbered {
    fn num_images(&self) -> u64 {
        self.source.num_images()
    }

    fn num_classes(&self) -> usize {
        self.names.len()
    }

    fn class_names(&self) -> &[String] {
        &self.names
    }

    fn digest(&self) -> [u8; 32] {
        let numbers: Vec<u8> = self.numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        digest_of([&self.source.digest()[..], &numbers])
    }

    fn stamp(&self) -> Result<[u8; 32], DataError> {
        self.source.stamp()
    }

    fn name(&self, item: u64) -> String {
        self.source.name(item)
    }

    fn path(&self, item: u64) -> Option<&[u8]> {
        self.source.path(item)
    }

    fn entry(&self, item: u64) -> String {
        with_class(self.source.entry(item), self.class(item), &self.names)
    }

    fn class(&self, item: u64) -> Option<i64> {
        self.numbers.get(usize::try_from(self.source.class(item)?).ok()?).copied()
    }

    fn is_padded(&self) -> bool {
        self.source.is_padded()
    }

    fn fetch(&self, item: u64) -> Result<Fetched, DataError> {
        self.source.fetch(item)
    }
}

/// A subset of the images of another source, for example those for validation.
#[derive(Debug)]
pub struct Subset {
    source: Arc<dyn ImageSource>,
    items: Vec<u64>,
}

impl Subset {
    /// Returns the images `items` of `source`, or `None` if `items` is empty.
    #[must_use]
    pub fn new(source: Arc<dyn ImageSource>, items: Vec<u64>) -> Option<Self> {
        (!items.is_empty()).then_some(Self { source, items })
    }
}

impl ImageSource for Subset {
    fn num_images(&self) -> u64 {
        self.items.len() as u64
    }

    fn num_classes(&self) -> usize {
        self.source.num_classes()
    }

    fn class_names(&self) -> &[String] {
        self.source.class_names()
    }

    fn digest(&self) -> [u8; 32] {
        let items: Vec<u8> = self.items.iter().flat_map(|item| item.to_le_bytes()).collect();
        digest_of([&self.source.digest()[..], &items])
    }

    fn stamp(&self) -> Result<[u8; 32], DataError> {
        self.source.stamp()
    }

    fn name(&self, item: u64) -> String {
        self.source.name(self.items[item as usize])
    }

    fn path(&self, item: u64) -> Option<&[u8]> {
        self.source.path(self.items[item as usize])
    }

    fn entry(&self, item: u64) -> String {
        self.source.entry(self.items[item as usize])
    }

    fn class(&self, item: u64) -> Option<i64> {
        self.source.class(self.items[item as usize])
    }

    fn is_padded(&self) -> bool {
        self.source.is_padded()
    }

    fn fetch(&self, item: u64) -> Result<Fetched, DataError> {
        self.source.fetch(self.items[item as usize])
    }
}
