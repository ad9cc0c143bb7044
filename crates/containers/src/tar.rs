//! The images of a tar file.
//!
//! Members are grouped into samples as WebDataset does: consecutive members whose paths are equal up to the first dot of
//! the file's name belong together. The label of a sample is its member `.cls`, a number or a name, or the value of
//! `label`, `cls` or `class` in its member `.json`. A member that is a tar file itself, as in ImageNet's archive of archives,
//! is read too; its images have its name as a folder.
//!
//! If the member `.json` has a value [`PACKED_FROM`], the image was packed from another container: the value is its name,
//! and the value of `class` the name of its class, even if it looks like a number. If the first sample of the file has the
//! value [`CLASS_NAMES`], `label` is the number of the class in this list; [`NUM_CLASSES`] is the number of classes without
//! names.

use std::collections::HashMap;
use std::io::{self, Read};

use crate::blob::{Blob, crc_of};
use crate::error::Error;
use crate::index::{Encoding, Found, InFile, Label};
use crate::left_out::LeftOut;
use crate::names::{file_name, image_ending, is_hidden, is_image_name, shown, without_dot};

mod labels;
mod members;

pub(crate) use labels::label;
pub use labels::{CLASS_NAMES, MAX_LABEL_BYTES, NUM_CLASSES, PACKED_FROM};

use labels::{Classes, described_by_cls, described_by_json};
use members::{Ending, Fault, Head, HeadKind, Members};

/// The endings of the names of tar files that are compressed.
const COMPRESSED: [&[u8]; 8] = [b".tar.gz", b".tgz", b".tar.bz2", b".tbz2", b".tar.xz", b".txz", b".tar.zst", b".tzst"];

/// Finds the images of a tar file. Reads the whole file once.
///
/// # Errors
/// If it is no tar file, ends too early, has a label that is neither a number nor a name, or an image that cannot be read.
pub(crate) fn find(blob: &Blob) -> Result<InFile, Error> {
    let mut reader = blob.reader();
    let mut samples = Samples { path: blob.shown(), ..Samples::default() };
    let outcome = walk(&mut reader, b"", 0, &mut samples);
    if let Some(failure) = reader.failure {
        return Err(failure);
    }
    outcome?;
    let Samples { path, found, classes, doubt, left_out, .. } = samples;
    left_out.say(&path);
    Ok(InFile { found, class_names: classes.names, num_classes: classes.num, doubt })
}

/// Adds the members of a tar file to `samples`. `folder` is the name of the file if it is in another one, and comes before
/// the names of its members. `start` is the offset of the file.
fn walk(reader: &mut dyn Read, folder: &[u8], start: u64, samples: &mut Samples) -> Result<(), Error> {
    let mut members = Members::new(reader, start);
    while let Some(head) = members.next().map_err(|fault| samples.damaged(fault))? {
        let member = without_dot(&head.name);
        if is_hidden(member) {
            samples.left_out.add(member);
            continue;
        }
        let name = [folder, member].concat();
        let mut member = Member { name, offset: head.offset, length: head.length, crc: 0, content: Vec::new() };
        let is_archive = ends_with(&member.name, b".tar");
        if !is_archive && !member.is_image() && !member.is_label() {
            if COMPRESSED.iter().any(|ending| ends_with(&member.name, ending)) {
                let reason = "it is a compressed tar file, whose images cannot be read one by one; unpack it";
                return Err(samples.refused(&member, reason));
            }
            // The members of a sample are consecutive, and this one may be of another.
            if head.kind == HeadKind::File {
                samples.left_out.add(&member.name);
                samples.begin_group(&member)?;
            }
            continue;
        }
        if let Some(target) = target_of(&head, folder).map_err(|reason| samples.refused(&member, &reason))? {
            samples.add_link(member, &target)?;
        } else if head.kind == HeadKind::Special {
            // A folder, a device or a pipe holds no image.
        } else if is_archive {
            samples.end_group()?;
            if !folder.is_empty() {
                let reason = "it is a tar file in a tar file in a tar file; unpack the outermost";
                return Err(samples.refused(&member, reason));
            }
            let inner = [&member.name[..member.name.len() - 4], b"/"].concat();
            walk(&mut members, &inner, head.offset, samples)?;
            samples.end_group()?;
        } else {
            samples.read(&mut members, &mut member)?;
            samples.add(member)?;
        }
    }
    samples.end_group()?;
    let doubt = match members.ending {
        Ending::Unmarked => "lacks the blocks of zeros that end a tar file",
        Ending::Long => "ends in more zeros than usual",
        Ending::Open | Ending::Marked => return Ok(()),
    };
    let inner = folder.strip_suffix(b"/").map(|name| format!("the tar file {} in it", shown(name)));
    samples.doubt.get_or_insert_with(|| format!("{} {doubt}", inner.as_deref().unwrap_or("it")));
    Ok(())
}

/// Returns the name of the member to which a link leads; `None` if the member is no link. `folder` is that of the tar file
/// in another.
///
/// # Errors
/// If the member is of a type whose content cannot be read.
fn target_of(head: &Head, folder: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let path = match &head.kind {
        HeadKind::File | HeadKind::Special => return Ok(None),
        HeadKind::Sparse => return Err("it is stored as a sparse file; pack it without --sparse".into()),
        HeadKind::Unknown(kind) => {
            let kind = shown(&[*kind]);
            return Err(format!("its type {kind:?} is unknown, or continues a file of another archive; pack it again"));
        }
        HeadKind::HardLink(path) => without_dot(path).to_vec(),
        HeadKind::SymbolicLink(path) => {
            let name = without_dot(&head.name);
            joined(&name[..name.len() - file_name(name).len()], path).unwrap_or_else(|| path.clone())
        }
    };
    Ok(Some([folder, &path].concat()))
}

/// Returns the path of what a link in `folder` leads to. `None` if it is outside of the tar file.
fn joined(folder: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    if path.starts_with(b"/") {
        return None;
    }
    let whole = [folder, path].concat();
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in whole.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => _ = parts.pop()?,
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

fn ends_with(name: &[u8], ending: &[u8]) -> bool {
    name.len().checked_sub(ending.len()).is_some_and(|start| name[start..].eq_ignore_ascii_case(ending))
}

#[derive(Debug)]
struct Member {
    name: Vec<u8>,
    offset: u64,
    length: u64,
    crc: u32,
    content: Vec<u8>,
}

impl Member {
    /// Returns the path up to the first dot of the file's name, and the rest.
    fn parts(&self) -> (&[u8], &[u8]) {
        let file = file_name(&self.name);
        let folder = self.name.len() - file.len();
        match file.iter().position(|&byte| byte == b'.') {
            Some(dot) => (&self.name[..folder + dot], &file[dot + 1..]),
            None => (&self.name, b""),
        }
    }

    fn is_image(&self) -> bool {
        is_image_name(&self.name)
    }

    fn is_label(&self) -> bool {
        let ending = self.parts().1;
        ending.eq_ignore_ascii_case(b"cls") || ending.eq_ignore_ascii_case(b"json")
    }
}

/// The place of an image: its offset, its length, and the CRC-32 of its bytes.
type Place = (u64, u64, u32);

/// The samples of a file.
#[derive(Default)]
struct Samples {
    path: String,
    found: Vec<Found>,
    /// The classes, if a packed image lists them.
    classes: Classes,
    group: Group,
    /// The images that are not taken, because their sample has a preferred one. Links may lead to them.
    others: Vec<Member>,
    /// The places of all images before the current sample, by name. `None` until the first link.
    places: Option<HashMap<Vec<u8>, Place>>,
    /// Why the file may lack its last members.
    doubt: Option<String>,
    left_out: LeftOut,
}

/// The members of a sample.
#[derive(Default)]
struct Group {
    key: Vec<u8>,
    images: Vec<Member>,
    label: Option<Label>,
    packed_from: Option<Vec<u8>>,
    has_cls: bool,
    has_json: bool,
}

impl Samples {
    /// Returns the error of a file that is no whole tar file.
    fn damaged(&self, Fault { offset, reason }: Fault) -> Error {
        let reason = format!("it is no whole tar file: {reason}; copy it again, or unpack it if it is compressed");
        Error::malformed(format!("{}, byte {offset}", self.path), reason)
    }

    /// Returns the error of a member.
    fn refused(&self, member: &Member, reason: &str) -> Error {
        Error::malformed(format!("{}, member {} at byte {}", self.path, shown(&member.name), member.offset), reason)
    }

    /// Reads the content of a label, or the checksum of an image.
    fn read(&self, content: &mut Members<'_>, member: &mut Member) -> Result<(), Error> {
        let fail =
            |error: io::Error| self.refused(member, &format!("it cannot be read: {error}; the file may be cut off"));
        if member.is_image() {
            if u32::try_from(member.length).is_err() {
                return Err(fail(io::Error::other("an image has less than 4 GiB")));
            }
            member.crc = crc_of(content, member.length).map_err(fail)?;
        } else {
            if member.length > MAX_LABEL_BYTES {
                return Err(fail(io::Error::other(format!("a label has at most {MAX_LABEL_BYTES} bytes"))));
            }
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes).map_err(fail)?;
            if (bytes.len() as u64) < member.length {
                return Err(fail(io::ErrorKind::UnexpectedEof.into()));
            }
            member.content = bytes;
        }
        Ok(())
    }

    /// Ends the current sample if `member` is of another one.
    fn begin_group(&mut self, member: &Member) -> Result<(), Error> {
        if self.group.key != member.parts().0 {
            self.end_group()?;
            self.group.key = member.parts().0.to_vec();
        }
        Ok(())
    }

    /// Adds a member that is a link to the member of the name `target`, which must be an image before it.
    fn add_link(&mut self, mut member: Member, target: &[u8]) -> Result<(), Error> {
        let place = if member.is_image() { self.place(target) } else { None };
        let Some((offset, length, crc)) = place else {
            let reason = format!(
                "it is a link to {}, which is no image before it in this file; pack it with the options --dereference \
                 and --hard-dereference of tar",
                shown(target)
            );
            return Err(self.refused(&member, &reason));
        };
        (member.offset, member.length, member.crc) = (offset, length, crc);
        self.add(member)
    }

    /// Returns the place of the image of this name.
    fn place(&mut self, name: &[u8]) -> Option<Place> {
        let place = |member: &Member| (member.offset, member.length, member.crc);
        if let Some(member) = self.group.images.iter().find(|member| member.name == name) {
            return Some(place(member));
        }
        let places = self.places.get_or_insert_with(|| {
            let found = self.found.iter().map(|it| (it.name.clone(), (it.offset, it.length.into(), it.crc)));
            found.chain(self.others.iter().map(|member| (member.name.clone(), place(member)))).collect()
        });
        places.get(name).copied()
    }

    fn add(&mut self, member: Member) -> Result<(), Error> {
        self.begin_group(&member)?;
        if member.is_image() {
            self.group.images.push(member);
        } else if member.is_label() {
            let is_cls = member.parts().1.eq_ignore_ascii_case(b"cls");
            let is_there = if is_cls { &mut self.group.has_cls } else { &mut self.group.has_json };
            if std::mem::replace(is_there, true) {
                let ending = shown(member.parts().1);
                return Err(self.refused(&member, &format!("its sample has two members .{ending}; remove one")));
            }
            let described = match is_cls {
                true => described_by_cls(&member.content),
                false => described_by_json(&member.content, &mut self.classes),
            };
            let described = described.map_err(|reason| self.refused(&member, &reason))?;
            // The member .cls counts more than the member .json, whichever comes first.
            if is_cls || self.group.label.is_none() {
                self.group.label = described.label;
            }
            self.group.packed_from = self.group.packed_from.take().or(described.packed_from);
        }
        Ok(())
    }

    /// Ends the current sample. One of its images is taken: the one whose ending comes first in the list of endings, and
    /// has no other dot before it. Without such an image, the members are files of their own with dots in their names.
    ///
    /// # Errors
    /// If two of its images have the same name.
    fn end_group(&mut self) -> Result<(), Error> {
        let Group { images, label, packed_from, .. } = std::mem::take(&mut self.group);
        let mut order: Vec<&Member> = images.iter().collect();
        order.sort_by(|one, other| (&one.name, one.offset).cmp(&(&other.name, other.offset)));
        if let Some(pair) = order.windows(2).find(|pair| pair[0].name == pair[1].name) {
            let reason =
                format!("the member at byte {} has the same name; names in a file must differ", pair[0].offset);
            return Err(self.refused(pair[1], &reason));
        }
        let rank = |member: &Member| image_ending(member.parts().1);
        let plain = (0..images.len()).filter(|&index| rank(&images[index]).is_some()).min_by_key(|&i| rank(&images[i]));
        let is_taken = |index: usize| plain.is_none_or(|plain| plain == index);
        for (index, member) in images.into_iter().enumerate() {
            if let Some(places) = &mut self.places {
                places.insert(member.name.clone(), (member.offset, member.length, member.crc));
            }
            if !is_taken(index) {
                self.others.push(member);
                continue;
            }
            let Member { name, offset, length, crc, .. } = member;
            // The length was checked when the member was read.
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            let (is_packed, encoding) = (packed_from.is_some(), Encoding::File);
            let name = packed_from.clone().unwrap_or(name);
            self.found.push(Found { name, offset, length, crc, encoding, label: label.clone(), is_packed });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
