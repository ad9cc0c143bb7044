//! The file of an index.
//!
//! It has a first line that names the format, a line of JSON, and arrays of little-endian integers in the order of
//! [`Index`]: the ends of the names, the names, the spans, the encodings, the labels. The SHA-256 of all that is at its
//! end. A file that is damaged, or that another version of the format wrote, is no error: the index is made anew.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::index::{Encoding, Index, Labels, Shard, Span};
use crate::kind::Kind;

const FIRST_LINE: &[u8] = b"admiral index 4\n";
const DIGEST_BYTES: usize = 32;

#[derive(Serialize, Deserialize)]
struct Header {
    kind: String,
    images: u64,
    name_bytes: u64,
    has_spans: bool,
    has_encodings: bool,
    has_labels: bool,
    /// The names of labels as bytes. `None` for numbers.
    label_names: Option<Vec<Vec<u8>>>,
    num_classes: Option<u32>,
    shards: Vec<Shard>,
}

impl Index {
    /// Returns the bytes of the file.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let (labels, label_names) = match &self.labels {
            Labels::None => (None, None),
            Labels::Numbers(numbers) => (Some(numbers), None),
            Labels::Names(numbers, names) => (Some(numbers), Some(names.clone())),
        };
        let header = Header {
            kind: self.kind.name().to_owned(),
            images: self.num_images(),
            name_bytes: self.name_bytes.len() as u64,
            has_spans: !self.spans.is_empty(),
            has_encodings: !self.encodings.is_empty(),
            has_labels: labels.is_some(),
            label_names,
            num_classes: self.num_classes,
            shards: self.shards.clone(),
        };
        let mut bytes = FIRST_LINE.to_vec();
        bytes.extend(serde_json::to_vec(&header).unwrap_or_default());
        bytes.push(b'\n');
        self.name_ends.iter().for_each(|end| bytes.extend(end.to_le_bytes()));
        bytes.extend(&self.name_bytes);
        for span in &self.spans {
            bytes.extend(span.shard.to_le_bytes());
            bytes.extend(span.offset.to_le_bytes());
            bytes.extend(span.length.to_le_bytes());
            bytes.extend(span.crc.to_le_bytes());
        }
        for &encoding in &self.encodings {
            let numbers = match encoding {
                Encoding::File => [0; 5],
                Encoding::Deflated { length } => [1, length, 0, 0, 0],
                Encoding::Pixels { height, width, channels } => [2, height, width, channels, 0],
                Encoding::Page { codec, page, offset, length } => [3, codec, page, offset, length],
            };
            numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        }
        labels.into_iter().flatten().for_each(|label| bytes.extend(label.to_le_bytes()));
        let digest = Sha256::digest(&bytes);
        bytes.extend(digest);
        bytes
    }

    /// Reads an index. Returns `None` if the bytes are not those of a whole and valid one.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (content, digest) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST_BYTES)?)?;
        if Sha256::digest(content)[..] != *digest {
            return None;
        }
        let rest = content.strip_prefix(FIRST_LINE)?;
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        let header: Header = serde_json::from_slice(&rest[..end]).ok()?;
        let mut rest = &rest[end + 1..];
        let images = usize::try_from(header.images).ok().filter(|&images| images > 0)?;
        let mut take = |length: usize| {
            let (taken, others) = rest.split_at_checked(length)?;
            rest = others;
            Some(taken)
        };
        let name_ends = numbers(take(images.checked_mul(8)?)?, u64::from_le_bytes);
        let name_bytes = take(usize::try_from(header.name_bytes).ok()?)?.to_vec();
        let span_bytes = if header.has_spans { take(images.checked_mul(20)?)? } else { &[] };
        let encoding_bytes = if header.has_encodings { take(images.checked_mul(20)?)? } else { &[] };
        let label_numbers = if header.has_labels { take(images.checked_mul(4)?)? } else { &[] };
        if !rest.is_empty() {
            return None;
        }
        let labels = match (header.has_labels, header.label_names) {
            (false, _) => Labels::None,
            (true, None) => Labels::Numbers(numbers(label_numbers, u32::from_le_bytes)),
            (true, Some(names)) => Labels::Names(numbers(label_numbers, u32::from_le_bytes), names),
        };
        let index = Self {
            kind: Kind::from_name(&header.kind)?,
            shards: header.shards,
            name_ends,
            name_bytes,
            spans: span_bytes.chunks_exact(20).map(span).collect(),
            encodings: encoding_bytes.chunks_exact(20).map(encoding).collect::<Option<_>>()?,
            labels,
            num_classes: header.num_classes,
        };
        index.is_valid().then_some(index)
    }

    /// Returns whether every number lies where it must.
    fn is_valid(&self) -> bool {
        let names = self.name_ends.is_sorted() && self.name_ends.last() == Some(&(self.name_bytes.len() as u64));
        let spans = self.spans.iter().all(|span| {
            let shard = self.shards.get(span.shard as usize);
            shard
                .is_some_and(|shard| span.offset.checked_add(span.length.into()).is_some_and(|end| end <= shard.length))
        });
        let labels = match &self.labels {
            Labels::Names(numbers, names) => numbers.iter().all(|&number| (number as usize) < names.len()),
            Labels::None | Labels::Numbers(_) => true,
        };
        let is_tree = self.kind == Kind::Tree;
        names && spans && labels && is_tree == self.spans.is_empty()
    }
}

fn span(bytes: &[u8]) -> Span {
    let four = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    let (low, high) = (u32::from_le_bytes(four(4)), u32::from_le_bytes(four(8)));
    Span {
        shard: u32::from_le_bytes(four(0)),
        offset: u64::from(high) << 32 | u64::from(low),
        length: u32::from_le_bytes(four(12)),
        crc: u32::from_le_bytes(four(16)),
    }
}

fn encoding(bytes: &[u8]) -> Option<Encoding> {
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let [kind, one, two, three, four] = [0, 4, 8, 12, 16].map(number);
    Some(match kind {
        0 => Encoding::File,
        1 => Encoding::Deflated { length: one },
        2 => Encoding::Pixels { height: one, width: two, channels: three },
        3 => Encoding::Page { codec: one, page: two, offset: three, length: four },
        _ => return None,
    })
}

fn numbers<const N: usize, T>(bytes: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&bytes| of(bytes)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::index::{Found, Label};

    fn index() -> Index {
        let found = |name: &str, offset, encoding, label: &str| Found {
            name: name.into(),
            offset,
            length: 10,
            crc: 5,
            encoding,
            label: Some(Label::Name(label.into())),
            is_packed: false,
        };
        let shards = vec![Shard { name: "a.tar".into(), length: 1 << 40, version: "7".into() }];
        let found = vec![vec![
            found("b", 1 << 35, Encoding::Deflated { length: 9 }, "x"),
            found("a", 0, Encoding::File, "y"),
            found("c", 20, Encoding::Pixels { height: 1, width: 2, channels: 3 }, "x"),
            found("d", 30, Encoding::Page { codec: 1, page: 2, offset: 3, length: 4 }, "z"),
        ]];
        Index { num_classes: Some(9), ..Index::new(Kind::Tar, shards, found, "x").unwrap() }
    }

    #[test]
    fn an_index_is_read_as_it_was_written() {
        assert_eq!(Index::from_bytes(&index().to_bytes()).unwrap(), index());
        let tree = Index::of_tree(vec![], vec![b"b".to_vec(), b"a/\xff".to_vec()]);
        assert_eq!(Index::from_bytes(&tree.to_bytes()).unwrap(), tree);
    }

    #[test]
    fn a_damaged_index_is_none() {
        let bytes = index().to_bytes();
        for length in [0, 5, 31, 32, bytes.len() - 1] {
            assert_eq!(Index::from_bytes(&bytes[..length]), None);
        }
        for at in [0, 20, bytes.len() / 2, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Index::from_bytes(&damaged), None, "byte {at}");
        }
    }

    #[test]
    fn an_index_with_places_outside_of_its_files_is_none() {
        for change in [
            (|index| index.spans[0].shard = 1) as fn(&mut Index),
            |index| index.spans[0].offset = u64::MAX,
            |index| index.spans[0].offset = (1 << 40) - 9,
            |index| index.name_ends[0] = 3,
            |index| index.labels = Labels::Names(vec![0, 0, 0, 9], vec![b"x".to_vec()]),
            |index| index.spans.clear(),
        ] {
            let mut index = index();
            change(&mut index);
            assert_eq!(Index::from_bytes(&index.to_bytes()), None);
        }
    }
}
