//! What is known of a packing that has begun: a small file beside the shards, from which it continues.

use admiral_data::{Cropping, ImageSource};
use admiral_storage::hex;
use serde::{Deserialize, Serialize};

use crate::settings::{Settings, StoredAs};

/// The version of the file.
const VERSION: u32 = 2;

/// An image that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// Its number in the source.
    pub item: u64,
    /// Its name.
    pub name: String,
    /// Why it is broken.
    pub reason: String,
}

/// All that determines the bytes of the shards, except the contents of the images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// A digest of the names and classes of the images.
    source: String,
    images: u64,
    format: StoredAs,
    size: Option<u64>,
    is_cropped: bool,
    shard_bytes: u64,
}

impl Identity {
    pub(crate) fn new(source: &dyn ImageSource, settings: &Settings) -> Self {
        Self {
            source: hex(source.digest()),
            images: source.num_images(),
            format: settings.stored_as,
            size: settings.reduction.map(|reduction| reduction.size as u64),
            is_cropped: settings.reduction.is_some_and(|reduction| reduction.cropping == Cropping::Center),
            shard_bytes: settings.shard_bytes,
        }
    }

    /// Returns in what the packing that has begun differs from this one; `None` if in nothing.
    pub(crate) fn difference(&self, begun: &Self) -> Option<&'static str> {
        [
            (self.images != begun.images || self.source != begun.source, "other images or classes"),
            (self.format != begun.format, "another --format or --quality"),
            (self.size != begun.size, "another --size"),
            (self.is_cropped != begun.is_cropped, "another --crop"),
            (self.shard_bytes != begun.shard_bytes, "another --shard-mb"),
        ]
        .into_iter()
        .find_map(|(differs, what)| differs.then_some(what))
    }
}

/// A shard that is published, or about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardRecord {
    /// The number of the image after its last one.
    pub(crate) end: u64,
    /// The images in it.
    pub(crate) images: u64,
    /// The bytes that were read for them.
    pub(crate) bytes_in: u64,
    /// Its length in bytes.
    pub(crate) length: u64,
    pub(crate) sha256: String,
    /// The images that were left out.
    pub(crate) broken: Vec<Broken>,
}

/// What is known of a packing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// The first part of the names of the shards.
    pub(crate) name: String,
    pub(crate) identity: Identity,
    /// The shards in their order. The last one may not be published.
    pub(crate) shards: Vec<ShardRecord>,
    /// Images after the last shard that were left out. Only set at the end.
    pub(crate) rest: Vec<Broken>,
    /// Whether all images are packed.
    pub(crate) is_done: bool,
}

impl State {
    pub(crate) fn new(name: &str, identity: Identity) -> Self {
        let (shards, rest) = (Vec::new(), Vec::new());
        Self { version: VERSION, name: name.to_owned(), identity, shards, rest, is_done: false }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// Reads the file.
    ///
    /// # Errors
    /// If it is damaged, or of another version. The error is the reason.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let state: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if state.version != VERSION {
            return Err(format!("it has the version {}, and this program writes {VERSION}", state.version));
        }
        let ends: Vec<u64> = state.shards.iter().map(|shard| shard.end).collect();
        let is_possible = ends.is_sorted_by(|one, other| one < other)
            && ends.last().is_none_or(|&end| end <= state.identity.images)
            && !state.name.is_empty()
            && !state.name.contains('/');
        if is_possible { Ok(state) } else { Err("its shards contradict each other".into()) }
    }

    /// Returns the name of a shard.
    pub(crate) fn shard_name(&self, number: usize) -> String {
        format!("{}-{number:06}.tar", self.name)
    }

    /// Returns the number of the first image that is not in a shard.
    pub(crate) fn next(&self) -> u64 {
        self.shards.last().map_or(0, |shard| shard.end)
    }

    /// Returns all images that were left out.
    pub(crate) fn broken(&self) -> impl Iterator<Item = &Broken> {
        self.shards.iter().flat_map(|shard| &shard.broken).chain(&self.rest)
    }
}
