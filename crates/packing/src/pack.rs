//! Packs the images of a source into shards.
//!
//! Threads read, decode and encode; one thread writes the shards in the order of the images. A shard is described in the
//! state, then published whole. A process that is killed leaves whole shards, and at most one of them is not yet there
//! although the state describes it, so that the next process knows where to continue.

use std::collections::BTreeMap;

use admiral_containers::{Container, Kind, Settings as ContainerSettings};
use admiral_data::{DataError, ImageSource};

use crate::error::Error;
use crate::ordered::in_order;
use crate::output::Output;
use crate::sample::{Made, key, make};
use crate::settings::{OnBroken, Settings};
use crate::shard::ShardWriter;
use crate::state::{Broken, Identity, ShardRecord, State};

/// How far a packing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The images that are in published shards or were left out.
    pub images: u64,
    /// The number of all images.
    pub total: u64,
    /// The published shards.
    pub shards: usize,
}

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The images in the shards.
    pub images: u64,
    /// The images of the source that this call has looked at. The others were packed before.
    pub images_now: u64,
    /// The number of shards.
    pub shards: usize,
    /// The bytes of the images in the source.
    pub bytes_in: u64,
    /// The bytes of the shards.
    pub bytes_out: u64,
    /// The images that were left out.
    pub broken: Vec<Broken>,
}

/// Packs the images of a source, or continues a packing that was interrupted, and writes the index beside the shards.
/// `report` is called after each shard.
///
/// # Errors
/// If a setting is wrong, the place has other files or another packing, the source cannot be packed, an image is broken and
/// the setting is to stop, or a file system or store fails. Until the first image is read, nothing is written.
pub fn pack(
    source: &dyn ImageSource,
    output: &mut Output,
    settings: &Settings,
    report: impl FnMut(Progress),
) -> Result<Summary, Error> {
    settings.check()?;
    check_source(source, settings)?;
    let identity = Identity::new(source, settings);
    // Before anything is written.
    begin(output, identity.clone())?;
    output.prepare()?;
    // Another process may have packed until this one got the lock.
    let mut state = begin(output, identity)?;
    forget_unpublished(output, &mut state)?;
    let first = state.next();
    if !state.is_done {
        output.write_state(state.to_bytes())?;
        let total = source.num_images();
        let mut packing = Packing { output, settings, source, state, shard: None, broken: Vec::new(), total, report };
        let make = |item| make(source, item, settings);
        let bytes_of = |made: &Result<Made, Error>| match made {
            Ok(Made::Image(image)) => (image.file.len() + image.json.len()) as u64,
            _ => 0,
        };
        let packed = in_order(first..total, settings.threads, make, bytes_of, |item, made| packing.take(item, made?));
        let ended = packed.and_then(|()| packing.end());
        if ended.is_err() {
            output.remove_aside();
        }
        state = ended?;
    }
    let summary = summary(&state, source.num_images() - first);
    write_index(output, settings, summary.images)?;
    Ok(summary)
}

/// Checks whether the packed images can have the pixels of the source.
fn check_source(source: &dyn ImageSource, settings: &Settings) -> Result<(), Error> {
    if source.is_padded() && settings.reduction.is_none() {
        let reason = "images of IDX files get a black border up to the size of training; give that size";
        return Err(Error::Option { option: "--size", reason: reason.into() });
    }
    Ok(())
}

/// Returns the state of the packing at a place, or a new one. Looks at the place and writes nothing.
fn begin(output: &Output, identity: Identity) -> Result<State, Error> {
    let state = match output.read_state()? {
        None => State::new(output.name(), identity),
        Some(bytes) => {
            let state = State::from_bytes(&bytes).map_err(|reason| {
                let reason = format!("its .admiral/pack.json is damaged: {reason}; remove the place, or give another");
                output.refused(reason)
            })?;
            if state.shards.is_empty() {
                // Nothing depends on the options of a packing that has no shard yet.
                State::new(&state.name, identity)
            } else if let Some(difference) = identity.difference(&state.identity) {
                let reason =
                    format!("a packing with {difference} has begun there; give another place, or the same options");
                return Err(output.refused(reason));
            } else {
                state
            }
        }
    };
    let mut files: BTreeMap<String, u64> = output.files()?.into_iter().collect();
    for (number, shard) in state.shards.iter().enumerate() {
        let name = state.shard_name(number);
        let length = files.remove(&name);
        let may_be_missing = number + 1 == state.shards.len() && !state.is_done;
        let wrong = match length {
            None if may_be_missing => continue,
            None => "it is missing".to_owned(),
            Some(length) if length != shard.length => format!("it has {length} bytes instead of {}", shard.length),
            Some(_) => continue,
        };
        let reason = format!("{wrong}; remove the place and pack again");
        return Err(Error::File { path: output.shown(&name), reason });
    }
    if let Some(other) = files.keys().next() {
        let reason = format!("it holds {other}, which is no shard of this packing; give an empty or a new place");
        return Err(output.refused(reason));
    }
    Ok(state)
}

/// Removes the last shard from the state if it was not published.
fn forget_unpublished(output: &Output, state: &mut State) -> Result<(), Error> {
    let Some(last) = state.shards.last() else { return Ok(()) };
    let name = state.shard_name(state.shards.len() - 1);
    match output.sha256(&name, last.length)? {
        Some(sha256) if sha256 == last.sha256 => Ok(()),
        Some(_) => {
            let reason = "it has other bytes than were packed; remove the place and pack again".into();
            Err(Error::File { path: output.shown(&name), reason })
        }
        None => {
            state.shards.pop();
            Ok(())
        }
    }
}

/// A packing that is going on.
struct Packing<'a, R> {
    output: &'a Output,
    settings: &'a Settings,
    /// The source, whose classes the first image of each shard lists.
    source: &'a dyn ImageSource,
    state: State,
    /// The shard that is being written, with its images and the bytes that were read for them.
    shard: Option<(ShardWriter, u64, u64)>,
    /// The images since the last shard that are left out.
    broken: Vec<Broken>,
    total: u64,
    report: R,
}

impl<R: FnMut(Progress)> Packing<'_, R> {
    /// Takes the next image.
    fn take(&mut self, item: u64, made: Made) -> Result<(), Error> {
        let mut image = match made {
            Made::Image(image) => image,
            Made::Broken { path, reason } if self.settings.on_broken == OnBroken::Stop => {
                return Err(Error::Broken { path, reason });
            }
            Made::Broken { path: name, reason } => {
                self.broken.push(Broken { item, name, reason });
                return Ok(());
            }
        };
        if self.shard.as_ref().is_some_and(|(shard, ..)| shard.length_with(&image) > self.settings.shard_bytes) {
            self.end_shard(item)?;
        }
        let (mut shard, images, bytes_in) = match self.shard.take() {
            Some(shard) => shard,
            None => {
                image.list_classes(self.source).map_err(Error::Source)?;
                (ShardWriter::new(self.output.new_shard()?), 0, 0)
            }
        };
        let appended = shard.append(&key(item, self.total), &image);
        appended.map_err(|error| self.failed(&error))?;
        self.shard = Some((shard, images + 1, bytes_in + image.bytes_in));
        Ok(())
    }

    /// Publishes the shard with the images before `end`, if there is one.
    fn end_shard(&mut self, end: u64) -> Result<(), Error> {
        let Some((shard, images, bytes_in)) = self.shard.take() else { return Ok(()) };
        let finished = shard.finish().map_err(|error| self.failed(&error))?;
        let name = self.state.shard_name(self.state.shards.len());
        let (length, sha256) = (finished.length, finished.sha256.clone());
        let broken = std::mem::take(&mut self.broken);
        self.state.shards.push(ShardRecord { end, images, bytes_in, length, sha256, broken });
        self.output.write_state(self.state.to_bytes())?;
        self.output.publish(&finished, &name)?;
        (self.report)(Progress { images: end, total: self.total, shards: self.state.shards.len() });
        Ok(())
    }

    fn failed(&self, error: &std::io::Error) -> Error {
        Error::of_file(self.output.shown("the shard that is being written").as_ref(), error)
    }

    /// Publishes the last shard, and marks the packing as done.
    fn end(mut self) -> Result<State, Error> {
        self.end_shard(self.total)?;
        self.state.rest = std::mem::take(&mut self.broken);
        if self.state.shards.is_empty() {
            let first = self.state.rest.first();
            let reason =
                first.map_or_else(String::new, |first| format!("; the first is {}: {}", first.name, first.reason));
            return Err(Error::Source(format!("all images are broken{reason}")));
        }
        self.state.is_done = true;
        self.output.write_state(self.state.to_bytes())?;
        Ok(self.state)
    }
}

fn summary(state: &State, images_now: u64) -> Summary {
    let sum = |of: fn(&ShardRecord) -> u64| state.shards.iter().map(of).sum();
    Summary {
        images: sum(|shard| shard.images),
        images_now,
        shards: state.shards.len(),
        bytes_in: sum(|shard| shard.bytes_in),
        bytes_out: sum(|shard| shard.length),
        broken: state.broken().cloned().collect(),
    }
}

/// Writes the index beside the shards, as the first run would.
fn write_index(output: &Output, settings: &Settings, images: u64) -> Result<(), Error> {
    let (kind, stores) = (Some(Kind::Tar), output.stores());
    let opened =
        Container::open(output.place(), &ContainerSettings { kind, cache: None, threads: settings.threads, stores });
    let found = opened.map_err(DataError::from)?.index().num_images();
    if found == images {
        return Ok(());
    }
    Err(output.refused(format!("its shards have {found} images, and {images} were packed; pack again elsewhere")))
}
