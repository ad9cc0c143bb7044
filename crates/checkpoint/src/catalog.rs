//! The checkpoints of a store: which steps there are, which is the newest, opening and setting aside.

use admiral_checkpoints_schema::Latest;
use admiral_comm::Collective;
use admiral_storage::{Location, Store, StoreOptions};

use crate::error::Error;
use crate::read::Checkpoint;
use crate::{agree, layout};

/// The checkpoints of a store. It is as cheap to make as a reference.
#[derive(Debug, Clone)]
pub struct Catalog {
    pub(crate) store: Store,
}

/// The newest checkpoint whose manifest can be read, and the newer ones whose manifests cannot.
#[derive(Debug)]
pub struct Newest {
    /// The checkpoint; none where there is none.
    pub checkpoint: Option<Checkpoint>,
    /// The step of each newer one, with what is wrong with it.
    pub damaged: Vec<(u64, Error)>,
}

impl Catalog {
    /// The checkpoints in `store`.
    #[must_use]
    pub fn new(store: &Store) -> Self {
        Self { store: store.clone() }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }


    /// The steps of the published checkpoints, ascending. Folders without a manifest are passed over.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn steps(&self) -> Result<Vec<u64>, Error> {
        self.store.wait(published_steps(&self.store, ""))
    }

    /// The step of the newest published checkpoint; none where there is none.
    ///
    /// The listing decides, because a run may have ended between a manifest and `latest.json`; a `latest.json` that
    /// points past the newest checkpoint, which has then been lost, is warned of.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn latest(&self) -> Result<Option<u64>, Error> {
        self.store.wait(newest_under(&self.store, ""))
    }

    /// Opens the checkpoint of a step.
    ///
    /// # Errors
    /// [`Error::NotFound`], which says what steps there are; [`Error::Damaged`], [`Error::Schema`]; [`Error::Store`].
    pub fn checkpoint(&self, step: u64) -> Result<Checkpoint, Error> {
        let folder = layout::step_folder(step);
        match self.store.wait(Checkpoint::in_folder(&self.store, &folder))? {
            Some(checkpoint) => Ok(checkpoint),
            None => {
                let steps: Vec<String> = self.steps()?.iter().map(u64::to_string).collect();
                let there = if steps.is_empty() { "none".to_owned() } else { steps.join(", ") };
                let reason = format!("it has no {}; steps that can be read: {there}", layout::MANIFEST);
                Err(Error::NotFound { url: self.store.url(&folder), reason })
            }
        }
    }

    /// Opens the checkpoint of a step on all ranks: rank 0 reads the manifest, and sends it. Every rank calls it.
    ///
    /// # Errors
    /// Those of [`checkpoint`](Self::checkpoint), the same on every rank.
    pub fn checkpoint_on_all_ranks(&self, step: u64, collective: &dyn Collective) -> Result<Checkpoint, Error> {
        let manifest = (collective.rank() == 0).then(|| self.checkpoint(step).map(|checkpoint| checkpoint.manifest));
        let manifest = agree::of_root(collective, 0, manifest)?;
        Ok(Checkpoint { store: self.store.clone(), folder: layout::step_folder(step), manifest })
    }

    /// Opens the newest checkpoint whose manifest is whole on all ranks: rank 0 reads, and sends it. Nothing is changed.
    /// Every rank calls it.
    ///
    /// # Errors
    /// The same on every rank: [`Error::Schema`] where a newer Admiral wrote the newest one, [`Error::Store`].
    pub fn newest_on_all_ranks(&self, collective: &dyn Collective) -> Result<Newest, Error> {
        self.newest_before_on_all_ranks(u64::MAX, collective)
    }

    /// [`newest_on_all_ranks`](Self::newest_on_all_ranks) among the checkpoints of steps before `end`.
    ///
    /// # Errors
    /// The same.
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
        let open = |(step, manifest)| Checkpoint { store: self.store.clone(), folder: layout::step_folder(step), manifest };
        Ok(Newest { checkpoint: found.map(open), damaged })
    }

    /// Takes a damaged checkpoint out of the list, so that the one before it is the newest. Its manifest becomes
    /// `manifest.damaged.json`, and its files stay until the step is saved again. Every rank calls it.
    ///
    /// # Errors
    /// The same on every rank: [`Error::Store`].
    pub fn set_aside(&self, step: u64, collective: &dyn Collective) -> Result<(), Error> {
        agree::of_root(collective, 0, (collective.rank() == 0).then(|| set_aside(&self.store, step)))
    }
}

/// Opens what a user names: a checkpoint's own folder, a place that holds checkpoints, or a run's folder; of the
/// latter two the newest checkpoint. A path or an `s3://` URL.
///
/// # Errors
/// [`Error::Url`], [`Error::NotFound`], [`Error::Schema`], [`Error::Store`].
pub fn find_checkpoint(place: &str, options: &StoreOptions) -> Result<Checkpoint, Error> {
    let store = Store::open(&Location::parse(place)?, options)?;
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

/// The steps under `base` that have a folder, ascending.
pub(super) async fn steps_under(store: &Store, base: &str) -> Result<Vec<u64>, Error> {
    let folders = store.folders(base).await?;
    let mut steps: Vec<u64> = folders.iter().filter_map(|folder| layout::step_of(folder)).collect();
    steps.sort_unstable();
    Ok(steps)
}

async fn is_published(store: &Store, base: &str, step: u64) -> Result<bool, Error> {
    let path = layout::join(&layout::join(base, &layout::step_folder(step)), layout::MANIFEST);
    Ok(store.length(&path).await?.is_some())
}

/// The steps under `base` that are published, ascending.
pub(super) async fn published_steps(store: &Store, base: &str) -> Result<Vec<u64>, Error> {
    let mut published = Vec::new();
    for step in steps_under(store, base).await? {
        if is_published(store, base, step).await? {
            published.push(step);
        }
    }
    Ok(published)
}

async fn newest_under(store: &Store, base: &str) -> Result<Option<u64>, Error> {
    let pointed = store
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
    if let Some(step) = pointed
        && newest < pointed
    {
        let found = newest.map_or_else(|| "no checkpoint".to_owned(), |step| format!("step {step}"));
        let pointer = store.url(&layout::join(base, layout::LATEST));
        tracing::warn!("{pointer} points to step {step}, which is not there; the newest is {found}");
    }
    Ok(newest)
}

/// Takes a damaged checkpoint out of the list: its manifest gets another name, and its files stay where they are until
/// the step is saved again.
///
/// # Errors
/// [`Error::Store`].
pub(super) fn set_aside(store: &Store, step: u64) -> Result<(), Error> {
    let folder = layout::step_folder(step);
    let path = layout::join(&folder, layout::MANIFEST);
    Ok(store.wait(store.rename(&path, &layout::join(&folder, layout::DAMAGED_MANIFEST)))?)
}

