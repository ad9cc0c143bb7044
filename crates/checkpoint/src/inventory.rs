//! What lies at a place: every checkpoint with its state, the pointer to the newest, and who writes there.

use std::collections::BTreeMap;

use admiral_checkpoints_schema::{Latest, Manifest};
use futures::StreamExt;

use admiral_storage::{Location, Store, StoreOptions};

use crate::catalog::Catalog;
use crate::deletion::delete_checkpoint;
use crate::error::Error;
use crate::layout;
use crate::lease::{self, OwnerState};
use crate::read::Checkpoint;

/// Manifests that are read at the same time.
const MANIFESTS_IN_FLIGHT: usize = 8;

/// What a step's folder is.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// A checkpoint. Its manifest has been read, its files not.
    Published(Box<Manifest>),
    /// A manifest that a newer Admiral wrote.
    Newer(Error),
    /// A manifest that cannot be read.
    Damaged(Error),
    /// A checkpoint that was found damaged and taken out of the list: its manifest is `manifest.damaged.json`.
    SetAside,
    /// Files without a manifest: a save that is under way, or that has failed.
    Incomplete,
}

/// A step's folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The step.
    pub step: u64,
    /// The bytes of all files in the folder.
    pub bytes: u64,
    /// What it is.
    pub state: State,
}

/// What lies at a place.
#[derive(Debug)]
pub struct Inventory {
    /// The steps' folders, by ascending step.
    pub entries: Vec<Entry>,
    /// The step that `latest.json` names; none without the file, or where it says nothing.
    pub pointed: Option<u64>,
    /// The attempt that `owner.json` names.
    pub owner: Option<OwnerState>,
}

impl Inventory {
    /// The newest step that has a manifest, whatever that says.
    #[must_use]
    pub fn newest(&self) -> Option<u64> {
        let has_manifest = |entry: &&Entry| !matches!(entry.state, State::SetAside | State::Incomplete);
        self.entries.iter().rev().find(has_manifest).map(|entry| entry.step)
    }
}

/// Whether a run has written here, or is about to.
async fn holds_checkpoints(store: &Store) -> Result<bool, Error> {
    let has_steps = store.folders("").await?.iter().any(|folder| layout::step_of(folder).is_some());
    Ok(has_steps || store.length(layout::OWNER).await?.is_some())
}

impl Catalog {
    /// Opens the place that a user names: one that holds checkpoints, or a run's folder with `checkpoints` in it. A
    /// path or an `s3://` URL.
    ///
    /// # Errors
    /// [`Error::Url`], [`Error::NotFound`], [`Error::Store`].
    pub fn open(place: &str, options: &StoreOptions) -> Result<Self, Error> {
        let store = Store::open(&Location::parse(place)?, options)?;
        let (holds, is_checkpoint) = store.wait(async {
            Ok::<_, Error>((holds_checkpoints(&store).await?, store.length(layout::MANIFEST).await?.is_some()))
        })?;
        if holds {
            return Ok(Self { store });
        }
        if is_checkpoint {
            let reason = "this is a checkpoint itself; give the place that holds it".into();
            return Err(Error::NotFound { url: store.url(""), reason });
        }
        let url = store.url("");
        let inner = match Store::open(&Location::parse(&format!("{url}/checkpoints"))?, options) {
            Ok(inner) => inner.wait(holds_checkpoints(&inner))?.then_some(inner),
            Err(admiral_storage::Error::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        inner.map(|store| Self { store }).ok_or_else(|| {
            let reason = "looked for step-* (a place for checkpoints) and checkpoints/step-* (a run's folder)".into();
            Error::NotFound { url, reason }
        })
    }

    /// What lies here. Every manifest is read.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn inventory(&self) -> Result<Inventory, Error> {
        self.store.wait(async {
            let mut contents: BTreeMap<u64, Vec<(String, u64)>> = BTreeMap::new();
            for step in self.store.folders("").await?.iter().filter_map(|folder| layout::step_of(folder)) {
                contents.insert(step, Vec::new());
            }
            for (path, length) in self.store.files("").await? {
                if let Some((folder, file)) = path.split_once('/')
                    && let Some(step) = layout::step_of(folder)
                {
                    contents.entry(step).or_default().push((file.to_owned(), length));
                }
            }
            let states = contents.into_iter().map(|(step, files)| async move {
                let bytes = files.iter().map(|(_, length)| length).sum();
                let has = |name: &str| files.iter().any(|(file, _)| file == name);
                let state = if has(layout::MANIFEST) {
                    self.state_of(step).await?
                } else if has(layout::DAMAGED_MANIFEST) {
                    State::SetAside
                } else {
                    State::Incomplete
                };
                Ok(Entry { step, bytes, state })
            });
            let entries: Vec<Result<Entry, Error>> =
                futures::stream::iter(states).buffered(MANIFESTS_IN_FLIGHT).collect().await;
            let pointer = self.store.get(layout::LATEST).await?;
            Ok(Inventory {
                entries: entries.into_iter().collect::<Result<_, _>>()?,
                pointed: pointer.and_then(|bytes| Some(serde_json::from_slice::<Latest>(&bytes).ok()?.step)),
                owner: lease::state(&self.store).await?,
            })
        })
    }

    async fn state_of(&self, step: u64) -> Result<State, Error> {
        match Checkpoint::in_folder(&self.store, &layout::step_folder(step)).await {
            Ok(Some(checkpoint)) => Ok(State::Published(Box::new(checkpoint.manifest().clone()))),
            // It has gone since the listing.
            Ok(None) => Ok(State::Incomplete),
            Err(error @ Error::Schema { .. }) => Ok(State::Newer(error)),
            Err(error @ Error::Damaged { .. }) => Ok(State::Damaged(error)),
            Err(error) => Err(error),
        }
    }

    /// Deletes a step's folder with all that is in it unless it has a manifest, and says whether it did.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn delete_incomplete(&self, step: u64) -> Result<bool, Error> {
        let folder = layout::step_folder(step);
        let is_incomplete = self.store.wait(async {
            let is_incomplete = self.store.length(&layout::join(&folder, layout::MANIFEST)).await?.is_none();
            if is_incomplete {
                delete_checkpoint(&self.store, step).await?;
            }
            Ok::<_, Error>(is_incomplete)
        })?;
        if let (true, Some(Location::Folder(root))) = (is_incomplete, self.store.location()) {
            // What a killed writer was staging, which listings leave out.
            match std::fs::remove_dir_all(root.join(&folder)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    let (operation, url, cause) = ("delete".into(), self.store.url(&folder), error.to_string());
                    return Err(Error::Store { operation, url, cause });
                }
                _ => {}
            }
        }
        Ok(is_incomplete)
    }
}
