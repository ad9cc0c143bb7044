//! The inventory of a store: the state of every step, the pointer to the newest checkpoint, and the holder of the lease.

use std::collections::BTreeMap;

use admiral_checkpoints_schema::{Latest, Manifest};
use admiral_storage::Location;
use futures::StreamExt;

use crate::catalog::Catalog;
use crate::deletion::{delete_checkpoint, first_link};
use crate::error::Error;
use crate::layout;
use crate::owner::{OwnerState, owner_state};
use crate::read::Checkpoint;
use crate::staging_files::remove_staging_files_of_step;

/// The number of manifests that are read at the same time.
const MANIFESTS_IN_FLIGHT: usize = 8;

/// The state of the folder of a step.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// A published checkpoint with its manifest. Its files have not been read.
    Published(Box<Manifest>),
    /// A manifest that a newer Admiral wrote.
    Newer(Error),
    /// A manifest that cannot be read.
    Damaged(Error),
    /// A damaged checkpoint that was set aside. Its manifest is `manifest.damaged.json`.
    SetAside,
    /// Files without a manifest, of a save that is running or has failed.
    Incomplete,
}

/// The folder of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The step.
    pub step: u64,
    /// The size of all files in the folder, in bytes.
    pub bytes: u64,
    /// Its state.
    pub state: State,
    /// Whether it, or a folder in it, is a symbolic link. Nothing is deleted through it then.
    pub is_linked: bool,
}

/// The contents of a store.
#[derive(Debug)]
pub struct Inventory {
    /// The folders of steps, by ascending step.
    pub entries: Vec<Entry>,
    /// The step that `latest.json` names. `None` if the file does not exist or cannot be parsed.
    pub pointed: Option<u64>,
    /// The attempt that `owner.json` names, which holds the lease or held it last.
    pub owner: Option<OwnerState>,
}

impl Inventory {
    /// Returns the newest step that has a manifest, even if the manifest cannot be read.
    #[must_use]
    pub fn newest(&self) -> Option<u64> {
        let has_manifest = |entry: &&Entry| !matches!(entry.state, State::SetAside | State::Incomplete);
        self.entries.iter().rev().find(has_manifest).map(|entry| entry.step)
    }
}

impl Catalog {
    /// Returns the contents of the store. Reads every manifest.
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
                let is_linked = first_link(&self.store, step).await?.is_some();
                Ok(Entry { step, bytes, state, is_linked })
            });
            let entries: Vec<Result<Entry, Error>> =
                futures::stream::iter(states).buffered(MANIFESTS_IN_FLIGHT).collect().await;
            let pointer = self.store.get(layout::LATEST).await?;
            Ok(Inventory {
                entries: entries.into_iter().collect::<Result<_, _>>()?,
                pointed: pointer.and_then(|bytes| Some(serde_json::from_slice::<Latest>(&bytes).ok()?.step)),
                owner: owner_state(&self.store).await?,
            })
        })
    }

    /// Returns the state of a step whose folder has a manifest.
    async fn state_of(&self, step: u64) -> Result<State, Error> {
        match Checkpoint::in_folder(&self.store, &layout::step_folder(step)).await {
            Ok(Some(checkpoint)) => Ok(State::Published(Box::new(checkpoint.manifest().clone()))),
            // The manifest was deleted after the listing.
            Ok(None) => Ok(State::Incomplete),
            Err(error @ Error::Schema { .. }) => Ok(State::Newer(error)),
            Err(error @ Error::Damaged { .. }) => Ok(State::Damaged(error)),
            Err(error) => Err(error),
        }
    }

    /// Deletes the files of a save from the folder of a step, unless it has a manifest. Returns whether it had none.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn delete_incomplete(&self, step: u64) -> Result<bool, Error> {
        let folder = layout::step_folder(step);
        self.store.wait(async {
            if self.store.length(&layout::join(&folder, layout::MANIFEST)).await?.is_some() {
                return Ok(false);
            }
            if let Some(Location::Folder(root)) = self.store.location() {
                // Listings omit the staging files of a killed writer.
                remove_staging_files_of_step(root, step).map_err(|error| Error::Store {
                    operation: "delete".into(),
                    url: self.store.url(&folder),
                    cause: error.to_string(),
                })?;
            }
            delete_checkpoint(&self.store, step).await?;
            Ok(true)
        })
    }
}
