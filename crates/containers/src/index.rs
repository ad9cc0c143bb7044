//! The index of a container: where each image is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::kind::Kind;
use crate::names::shown;

/// A file of a container, as it was when it was indexed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// The name relative to the container's place.
    pub name: String,
    /// The length in bytes.
    pub length: u64,
    /// A text that changes when the file does.
    pub version: String,
}

/// What the bytes of an image are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// An image file.
    File,
    /// An image file of `length` bytes, compressed by deflate.
    Deflated {
        /// The length of the image file in bytes.
        length: u32,
    },
    /// Values of 8 bits, `[height, width, channels]`.
    Pixels {
        /// The height in pixels.
        height: u32,
        /// The width in pixels.
        width: u32,
        /// The number of channels, 1 or 3.
        channels: u32,
    },
    /// A page of a Parquet file or a part of one, compressed, which has the image file at `offset`.
    Page {
        /// The number of the compression in the format.
        codec: u32,
        /// The length without compression, in bytes.
        page: u32,
        /// The offset of the image file in what is unpacked.
        offset: u32,
        /// The length of the image file in bytes.
        length: u32,
    },
}

impl Encoding {
    /// Returns the size in bytes of an image after decompression, if it is stored in `length` bytes.
    pub(crate) fn unpacked_bytes(self, length: u32) -> u64 {
        match self {
            Self::File => length.into(),
            Self::Deflated { length } => length.into(),
            Self::Page { page, length, .. } => page.max(length).into(),
            Self::Pixels { height, width, channels } => {
                u64::from(height).saturating_mul(width.into()).saturating_mul(channels.into())
            }
        }
    }
}

/// The label of an image in its container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Label {
    /// The number of a class.
    Number(u32),
    /// The name of a class.
    Name(Vec<u8>),
}

/// An image that was found in a file of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The name, unique in its file.
    pub name: Vec<u8>,
    /// The offset of the bytes in the file.
    pub offset: u64,
    /// The number of bytes, packed as they are.
    pub length: u32,
    /// The CRC-32 of these bytes.
    pub crc: u32,
    /// What the bytes are.
    pub encoding: Encoding,
    /// The label, if the container has one for the image.
    pub label: Option<Label>,
    /// Whether the name is that of the image from which this one was packed. Packed images may have equal names, like the
    /// images of several shards. They are in the order of their offsets.
    pub is_packed: bool,
}

/// What was found in a file of a container.
#[derive(Debug, Default)]
pub(crate) struct InFile {
    pub(crate) found: Vec<Found>,
    /// The names of the classes in the order of their numbers, if the file has them.
    pub(crate) class_names: Option<Vec<Vec<u8>>>,
    /// The number of classes, if the file says it and they have no names.
    pub(crate) num_classes: Option<u32>,
    /// Why the file may lack its last images, if it may.
    pub(crate) doubt: Option<String>,
}

impl From<Vec<Found>> for InFile {
    fn from(found: Vec<Found>) -> Self {
        Self { found, ..Self::default() }
    }
}

/// The labels of all images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Labels {
    /// The container has no labels.
    None,
    /// Numbers of classes, one for each image.
    Numbers(Vec<u32>),
    /// The place of each image's class among the names, which are in the container's order if it numbers them, and else
    /// sorted byte by byte.
    Names(Vec<u32>, Vec<Vec<u8>>),
}

/// The place of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) shard: u32,
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) crc: u32,
}

/// Where each image of a container is, in the order of their names.
#[derive(Debug, Clone, PartialEq)]
pub struct Index {
    pub(crate) kind: Kind,
    /// The files. For a tree, its folders.
    pub(crate) shards: Vec<Shard>,
    /// The ends of the names in `name_bytes`.
    pub(crate) name_ends: Vec<u64>,
    pub(crate) name_bytes: Vec<u8>,
    /// Empty for a tree, whose images are files of their own.
    pub(crate) spans: Vec<Span>,
    /// Empty if all images are image files as they are.
    pub(crate) encodings: Vec<Encoding>,
    pub(crate) labels: Labels,
    /// The number of classes, if the container says it and they have no names.
    pub(crate) num_classes: Option<u32>,
}

impl Index {
    /// Makes the index of the images that were found in each shard.
    ///
    /// # Errors
    /// If there are none, if two images of a file have the same name, or if some images have labels and others have none.
    pub(crate) fn new(kind: Kind, shards: Vec<Shard>, found: Vec<Vec<Found>>, place: &str) -> Result<Self, Error> {
        let shard_name = |shard: u32| &shards[shard as usize].name;
        let mut all: Vec<(u32, Found)> =
            (0..).zip(found).flat_map(|(shard, found)| found.into_iter().map(move |found| (shard, found))).collect();
        if all.is_empty() {
            return Err(Error::Empty { path: place.to_owned(), what: "image".into() });
        }
        all.sort_by(|(shard, one), (other_shard, other)| {
            (&one.name, shard, one.offset).cmp(&(&other.name, other_shard, other.offset))
        });
        for pair in all.windows(2) {
            let ((shard, one), (other_shard, other)) = (&pair[0], &pair[1]);
            if shard == other_shard && one.name == other.name && !(one.is_packed && other.is_packed) {
                return Err(Error::malformed(
                    format!("{place}, file {}", shard_name(*shard)),
                    format!(
                        "two images have the name {}, at the bytes {} and {}; names in a file must differ",
                        shown(&one.name),
                        one.offset,
                        other.offset
                    ),
                ));
            }
        }
        let labels = labels_of(&all, |item| {
            let (shard, found) = &all[item];
            format!("{place}, file {}, image {}", shard_name(*shard), shown(&found.name))
        })?;
        let mut index = Self {
            kind,
            shards: Vec::new(),
            name_ends: Vec::with_capacity(all.len()),
            name_bytes: Vec::with_capacity(all.iter().map(|(_, found)| found.name.len()).sum()),
            spans: Vec::with_capacity(all.len()),
            encodings: Vec::new(),
            labels,
            num_classes: None,
        };
        let is_plain = all.iter().all(|(_, found)| found.encoding == Encoding::File);
        for (shard, Found { name, offset, length, crc, encoding, .. }) in all {
            index.name_bytes.extend(name);
            index.name_ends.push(index.name_bytes.len() as u64);
            index.spans.push(Span { shard, offset, length, crc });
            if !is_plain {
                index.encodings.push(encoding);
            }
        }
        index.shards = shards;
        Ok(index)
    }

    /// Names the classes whose numbers the images have. `place` is that of the container.
    ///
    /// # Errors
    /// If an image has a number without a name.
    pub(crate) fn with_class_names(mut self, names: Vec<Vec<u8>>, place: &str) -> Result<Self, Error> {
        if let Labels::Numbers(numbers) = &self.labels {
            if let Some(item) = numbers.iter().position(|&number| number as usize >= names.len()) {
                let name = shown(self.name(item as u64));
                let reason = format!("it has the label {}, and there are {} classes", numbers[item], names.len());
                return Err(Error::malformed(format!("{place}, image {name}"), reason));
            }
            self.labels = Labels::Names(numbers.clone(), names);
        }
        Ok(self)
    }

    /// Makes the index of a tree of files, from their paths.
    pub(crate) fn of_tree(folders: Vec<Shard>, mut paths: Vec<Vec<u8>>) -> Self {
        paths.sort();
        let (mut name_ends, mut name_bytes) = (Vec::with_capacity(paths.len()), Vec::new());
        for path in paths {
            name_bytes.extend(path);
            name_ends.push(name_bytes.len() as u64);
        }
        let (spans, encodings) = (Vec::new(), Vec::new());
        let (labels, num_classes) = (Labels::None, None);
        Self { kind: Kind::Tree, shards: folders, name_ends, name_bytes, spans, encodings, labels, num_classes }
    }

    /// Returns the number of images.
    #[must_use]
    pub fn num_images(&self) -> u64 {
        self.name_ends.len() as u64
    }

    /// Returns the name of an image: its path in the container.
    #[must_use]
    pub fn name(&self, item: u64) -> &[u8] {
        let item = item as usize;
        let start = if item == 0 { 0 } else { self.name_ends[item - 1] };
        &self.name_bytes[start as usize..self.name_ends[item] as usize]
    }

    /// Returns the labels.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Returns the number of classes that the container says it has, if they have no names. Images may have labels up to it,
    /// or above it.
    #[must_use]
    pub fn num_classes(&self) -> Option<u32> {
        self.num_classes
    }

    /// Returns the kind of the container.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns what the bytes of an image are.
    #[must_use]
    pub fn encoding(&self, item: u64) -> Encoding {
        self.encodings.get(item as usize).copied().unwrap_or(Encoding::File)
    }
}

/// Returns the labels of all images. `place` names an image.
fn labels_of(all: &[(u32, Found)], place: impl Fn(usize) -> String) -> Result<Labels, Error> {
    let first = all[0].1.label.as_ref();
    let kind = |label: Option<&Label>| match label {
        None => "no label",
        Some(Label::Number(_)) => "a number as label",
        Some(Label::Name(_)) => "a name as label",
    };
    if let Some(item) = all.iter().position(|(_, found)| kind(found.label.as_ref()) != kind(first)) {
        let (one, other) = (kind(first), kind(all[item].1.label.as_ref()));
        let reason = format!("it has {other}, and {} has {one}; all images need the same kind of label", place(0));
        return Err(Error::malformed(place(item), reason));
    }
    let mut names: BTreeMap<&[u8], u32> = BTreeMap::new();
    let mut numbers = Vec::with_capacity(all.len());
    for (_, found) in all {
        match &found.label {
            None => return Ok(Labels::None),
            Some(Label::Number(number)) => numbers.push(*number),
            Some(Label::Name(name)) => _ = names.insert(name, 0),
        }
    }
    if names.is_empty() {
        return Ok(Labels::Numbers(numbers));
    }
    names.values_mut().zip(0..).for_each(|(number, index)| *number = index);
    let numbers = all.iter().filter_map(|(_, found)| match &found.label {
        Some(Label::Name(name)) => names.get(&name[..]).copied(),
        _ => None,
    });
    Ok(Labels::Names(numbers.collect(), names.keys().map(|name| name.to_vec()).collect()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn found(name: &str, label: Option<Label>) -> Found {
        Found { name: name.into(), offset: 0, length: 1, crc: 2, encoding: Encoding::File, label, is_packed: false }
    }

    fn shards(num: usize) -> Vec<Shard> {
        (0..num).map(|shard| Shard { name: format!("{shard}.tar"), length: 9, version: String::new() }).collect()
    }

    #[test]
    fn images_are_sorted_by_name_over_all_files() {
        let all = vec![vec![found("b", None), found("a/z", None)], vec![found("a-1", None), found("b", None)]];
        let index = Index::new(Kind::Tar, shards(2), all, "x").unwrap();
        let names: Vec<&[u8]> = (0..index.num_images()).map(|item| index.name(item)).collect();
        assert_eq!(names, [&b"a-1"[..], b"a/z", b"b", b"b"]);
        assert_eq!(index.spans.iter().map(|span| span.shard).collect::<Vec<_>>(), [1, 0, 0, 1]);
    }

    #[test]
    fn labels_are_numbers_or_sorted_names() {
        let number = |number| Some(Label::Number(number));
        let name = |name: &str| Some(Label::Name(name.into()));
        let of = |labels: [Option<Label>; 2]| {
            let [one, other] = labels;
            Index::new(Kind::Tar, shards(1), vec![vec![found("a", one), found("b", other)]], "x").map(|it| it.labels)
        };
        assert_eq!(of([number(7), number(0)]).unwrap(), Labels::Numbers(vec![7, 0]));
        assert_eq!(
            of([name("dog"), name("cat")]).unwrap(),
            Labels::Names(vec![1, 0], vec!["cat".into(), "dog".into()])
        );
        let error = of([number(7), None]).unwrap_err().to_string();
        assert!(error.contains("image b") && error.contains("no label"), "{error}");
    }

    #[test]
    fn double_names_in_a_file_and_empty_containers_are_refused() {
        let error = Index::new(Kind::Tar, shards(1), vec![vec![found("a", None), found("a", None)]], "x").unwrap_err();
        assert!(error.to_string().contains("0.tar: two images have the name a"), "{error}");
        assert!(matches!(Index::new(Kind::Tar, shards(1), vec![vec![]], "x"), Err(Error::Empty { .. })));
        // Images that were packed from several shards may have the same name.
        let packed = |offset| Found { offset, is_packed: true, ..found("a", None) };
        let index = Index::new(Kind::Tar, shards(1), vec![vec![packed(5), packed(2)]], "x").unwrap();
        assert_eq!(index.spans.iter().map(|span| span.offset).collect::<Vec<_>>(), [2, 5]);
    }
}
