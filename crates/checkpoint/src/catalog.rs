//! The checkpoints of a store: lists their steps, finds the newest, opens them, and sets damaged ones aside.

use admiral_checkpoints_schema::Latest;
use admiral_comm::Collective;
use admiral_storage::{Location, Store, StoreOptions};

use crate::error::Error;
use crate::read::Checkpoint;
use crate::{agree, layout};

/// The checkpoints of a store. It is cheap to create and to clone.
#[derive(Debug, Clone)]
pub struct Catalog {
    pub(crate) store: Store,
}

/// The newest checkpoint whose manifest can be read, and the newer ones whose manifests cannot be read.
#[derive(Debug)]
pub struct Newest {
    /// The checkpoint, if there is one.
    pub checkpoint: Option<Checkpoint>,
    /// The step and the error of each newer one.
    pub damaged: Vec<(u64, Error)>,
}

impl Catalog {
    /// Returns the catalog of `store`.
    #[must_use]
    pub fn new(store: &Store) -> Self {
        Self { store: store.clone() }
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Opens the catalog at a location: a store of checkpoints, or a run's folder that contains `checkpoints`. `location` is
    /// a path or a bucket's URL.
    ///
    /// # Errors
    /// [`Error::Url`], [`Error::NotFound`], [`Error::Store`].
    pub fn open(location: &str, options: &StoreOptions) -> Result<Self, Error> {
        let store = Store::open(&Location::parse(location)?, options)?;
        let (holds, is_checkpoint) = store.wait(async {
            Ok::<_, Error>((holds_checkpoints(&store).await?, store.length(layout::MANIFEST).await?.is_some()))
        })?;
        if holds {
            return Ok(Self { store });
        }
        if is_checkpoint {
            let reason = "this is a checkpoint itself; give the folder or prefix that holds it".into();
            return Err(Error::NotFound { url: store.url(""), reason });
        }
        let url = store.url("");
        let inner = match Store::open(&Location::parse(&format!("{url}/checkpoints"))?, options) {
            Ok(inner) => inner.wait(holds_checkpoints(&inner))?.then_some(inner),
            Err(admiral_storage::Error::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        inner.map(|store| Self { store }).ok_or_else(|| {
            let reason = "looked for step-* (a store of checkpoints) and checkpoints/step-* (a run's folder)".into();
            Error::NotFound { url, reason }
        })
    }

    /// Returns the steps of the published checkpoints, ascending. Folders without a manifest are skipped.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn steps(&self) -> Result<Vec<u64>, Error> {
        self.store.wait(published_steps(&self.store, ""))
    }

    /// Returns the step of the newest published checkpoint, or `None` if there is none.
    ///
    /// It is found by listing, because a run may have ended after it wrote a manifest and before it wrote `latest.json`. If
    /// `latest.json` names a later step, the checkpoint of that step is missing, and a warning is logged.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn latest(&self) -> Result<Option<u64>, Error> {
        self.store.wait(newest_under(&self.store, ""))
    }

    /// Opens the checkpoint of a step.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the steps that exist; [`Error::Damaged`]; [`Error::Schema`]; [`Error::Store`].
    pub fn checkpoint(&self, step: u64) -> Result<Checkpoint, Error> {
        let folder = layout::step_folder(step);
        match self.store.wait(Checkpoint::in_folder(&self.store, &folder))? {
            Some(checkpoint) => Ok(checkpoint),
            None => {
                let steps: Vec<String> = self.steps()?.iter().map(u64::to_string).collect();
                let existing = if steps.is_empty() { "none".to_owned() } else { steps.join(", ") };
                let reason = format!("it has no {}; steps that can be read: {existing}", layout::MANIFEST);
                Err(Error::NotFound { url: self.store.url(&folder), reason })
            }
        }
    }

    /// Opens the checkpoint of a step on all ranks. Rank 0 reads the manifest and sends it. Every rank must call it.
    ///
    /// # Errors
    /// The errors of [`checkpoint`](Self::checkpoint), the same on every rank.
    pub fn checkpoint_on_all_ranks(&self, step: u64, collective: &dyn Collective) -> Result<Checkpoint, Error> {
        let manifest = (collective.rank() == 0).then(|| self.checkpoint(step).map(|checkpoint| checkpoint.manifest));
        let manifest = agree::of_root(collective, 0, manifest)?;
        Ok(Checkpoint { store: self.store.clone(), folder: layout::step_folder(step), manifest })
    }

    /// Opens the newest checkpoint whose manifest can be read, on all ranks. Rank 0 reads the manifest and sends it. The
    /// store is not changed. Every rank must call it.
    ///
    /// # Errors
    /// [`Error::Schema`] if a newer Admiral wrote the newest one; [`Error::Store`]. The same on every rank.
    pub fn newest_on_all_ranks(&self, collective: &dyn Collective) -> Result<Newest, Error> {
        self.newest_before_on_all_ranks(u64::MAX, collective)
    }

    /// [`newest_on_all_ranks`](Self::newest_on_all_ranks) among the checkpoints of steps before `end`.
    ///
    /// # Errors
    /// The errors of [`newest_on_all_ranks`](Self::newest_on_all_ranks).
    pub fn newest_before_on_all_ranks(&self, end: u64, collective: &dyn Collective) -> Result<Newest, Error> {
        let search = || {
            let mut damaged = Vec::new();
            for step in self.steps()?.into_iter().rev().filter(|&step| step < end) {
                match self.checkpoint(step) {
                    Ok(checkpoint) => return Ok((Some((step, checkpoint.manifest)), damaged)),
                    Err(error @ Error::Damaged { .. }) => damaged.push((step, error)),
                    Err(error) => return Err(error),
                }
            }
            Ok((None, damaged))
        };
        let (found, damaged) = agree::of_root(collective, 0, (collective.rank() == 0).then(search))?;
        let open =
            |(step, manifest)| Checkpoint { store: self.store.clone(), folder: layout::step_folder(step), manifest };
        Ok(Newest { checkpoint: found.map(open), damaged })
    }

    /// Sets a damaged checkpoint aside, so that it is no longer listed. Its manifest is renamed to `manifest.damaged.json`,
    /// and its files stay until the step is saved again. Every rank must call it.
    ///
    /// # Errors
    /// [`Error::Store`], the same on every rank.
    pub fn set_aside(&self, step: u64, collective: &dyn Collective) -> Result<(), Error> {
        agree::of_root(collective, 0, (collective.rank() == 0).then(|| set_aside(&self.store, step)))
    }
}

/// Returns whether a run has written to the store, or is about to.
async fn holds_checkpoints(store: &Store) -> Result<bool, Error> {
    let has_steps = store.folders("").await?.iter().any(|folder| layout::step_of(folder).is_some());
    Ok(has_steps || store.length(layout::OWNER).await?.is_some())
}

/// Opens the checkpoint at a location: the folder of a checkpoint, or the newest checkpoint of a store or of a run's folder.
/// `location` is a path or a bucket's URL.
///
/// # Errors
/// [`Error::Url`], [`Error::NotFound`], [`Error::Schema`], [`Error::Store`].
pub fn find_checkpoint(location: &str, options: &StoreOptions) -> Result<Checkpoint, Error> {
    let store = Store::open(&Location::parse(location)?, options)?;
    let found = store.wait(async {
        if let Some(checkpoint) = Checkpoint::in_folder(&store, "").await? {
            return Ok::<_, Error>(Some(checkpoint));
        }
        for base in ["", "checkpoints"] {
            if let Some(step) = newest_under(&store, base).await? {
                return Checkpoint::in_folder(&store, &layout::join(base, &layout::step_folder(step))).await;
            }
        }
        Ok(None)
    })?;
    if let Some(checkpoint) = found {
        return Ok(checkpoint);
    }
    let reason = "looked for manifest.json (a checkpoint's folder), step-*/manifest.json (a folder of checkpoints) \
                  and checkpoints/step-*/manifest.json (a run's folder)";
    Err(Error::NotFound { url: store.url(""), reason: reason.into() })
}

/// Returns the steps that have a folder under `base`, ascending.
pub(crate) async fn steps_under(store: &Store, base: &str) -> Result<Vec<u64>, Error> {
    let folders = store.folders(base).await?;
    let mut steps: Vec<u64> = folders.iter().filter_map(|folder| layout::step_of(folder)).collect();
    steps.sort_unstable();
    Ok(steps)
}

async fn is_published(store: &Store, base: &str, step: u64) -> Result<bool, Error> {
    let path = layout::join(&layout::join(base, &layout::step_folder(step)), layout::MANIFEST);
    match store.length(&path).await {
        // A damaged manifest. Its reader says so.
        Err(admiral_storage::Error::Unusable { .. }) => Ok(true),
        length => Ok(length?.is_some()),
    }
}

/// Returns the published steps under `base`, ascending.
pub(crate) async fn published_steps(store: &Store, base: &str) -> Result<Vec<u64>, Error> {
    let mut published = Vec::new();
    for step in steps_under(store, base).await? {
        if is_published(store, base, step).await? {
            published.push(step);
        }
    }
    Ok(published)
}

/// Returns the newest published step under `base`. Warns if `latest.json` names a later one.
async fn newest_under(store: &Store, base: &str) -> Result<Option<u64>, Error> {
    let named = store
        .get(&layout::join(base, layout::LATEST))
        .await?
        .and_then(|bytes| serde_json::from_slice::<Latest>(&bytes).ok())
        .map(|latest| latest.step);
    let mut newest = None;
    for step in steps_under(store, base).await?.into_iter().rev() {
        if is_published(store, base, step).await? {
            newest = Some(step);
            break;
        }
    }
    if let Some(step) = named
        && newest < named
    {
        let found = newest.map_or_else(|| "no checkpoint".to_owned(), |step| format!("step {step}"));
        let pointer = store.url(&layout::join(base, layout::LATEST));
        tracing::warn!("{pointer} points to step {step}, which does not exist; the newest is {found}");
    }
    Ok(newest)
}

/// Sets a damaged checkpoint aside by renaming its manifest.
///
/// # Errors
/// [`Error::Store`].
pub(crate) fn set_aside(store: &Store, step: u64) -> Result<(), Error> {
    let folder = layout::step_folder(step);
    let path = layout::join(&folder, layout::MANIFEST);
    Ok(store.wait(store.rename(&path, &layout::join(&folder, layout::DAMAGED_MANIFEST)))?)
}
