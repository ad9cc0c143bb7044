//! Finding and reading checkpoints.

use std::collections::{BTreeMap, HashMap};

use admiral_checkpoints_schema::{FileRecord, Latest, TensorRecord};

use super::write::shortened;
use super::{Error, Location, Manifest, Role, Store, agree, encoding, layout};
use crate::collective::{Collective, Single};

/// The tensors of a role by name: the shape and the values, row by row.
pub type RoleTensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Where a tensor's values go: a stretch of a flat buffer of the caller's.
#[derive(Debug)]
pub struct TensorTarget<'a> {
    /// What it is to the run.
    pub role: Role,
    /// The parameter's name.
    pub name: &'a str,
    /// Its shape.
    pub shape: &'a [usize],
    /// As many values as the shape says.
    pub values: &'a mut [f32],
}

/// A published checkpoint. Its manifest has been read, its tensors not.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    store: Store,
    folder: String,
    manifest: Manifest,
}

impl Store {
    /// The steps of the published checkpoints, ascending. Folders without a manifest are passed over.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn list(&self) -> Result<Vec<u64>, Error> {
        let mut published = Vec::new();
        for step in steps_under(self, "")? {
            if self.length(&layout::join(&layout::step_folder(step), layout::MANIFEST))?.is_some() {
                published.push(step);
            }
        }
        Ok(published)
    }

    /// The step of the newest published checkpoint; none where there is none.
    ///
    /// The listing decides, because a run may have ended between a manifest and `latest.json`; a `latest.json` that
    /// points past the newest checkpoint, which has then been lost, is warned of.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn latest(&self) -> Result<Option<u64>, Error> {
        newest_under(self, "")
    }

    /// Opens the checkpoint of a step.
    ///
    /// # Errors
    /// [`Error::NotFound`], which says what steps there are; [`Error::Schema`]; [`Error::Store`].
    pub fn checkpoint(&self, step: u64) -> Result<Checkpoint, Error> {
        let folder = layout::step_folder(step);
        match Checkpoint::in_folder(self, &folder)? {
            Some(checkpoint) => Ok(checkpoint),
            None => {
                let steps: Vec<String> = self.list()?.iter().map(u64::to_string).collect();
                let there = if steps.is_empty() { "none".to_owned() } else { steps.join(", ") };
                let reason = format!("it has no {}; steps that can be read: {there}", layout::MANIFEST);
                Err(Error::NotFound { url: self.url(&folder), reason })
            }
        }
    }
}

fn steps_under(store: &Store, base: &str) -> Result<Vec<u64>, Error> {
    let mut steps: Vec<u64> = store.folders(base)?.iter().filter_map(|folder| layout::step_of(folder)).collect();
    steps.sort_unstable();
    Ok(steps)
}

fn newest_under(store: &Store, base: &str) -> Result<Option<u64>, Error> {
    let pointed = store
        .get(&layout::join(base, layout::LATEST))?
        .and_then(|(bytes, _)| serde_json::from_slice::<Latest>(&bytes).ok())
        .map(|latest| latest.step);
    let published = |step: u64| {
        let path = layout::join(&layout::join(base, &layout::step_folder(step)), layout::MANIFEST);
        Ok::<_, Error>(store.length(&path)?.is_some())
    };
    let mut newest = None;
    for step in steps_under(store, base)?.into_iter().rev() {
        if published(step)? {
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

impl Checkpoint {
    fn in_folder(store: &Store, folder: &str) -> Result<Option<Self>, Error> {
        let path = layout::join(folder, layout::MANIFEST);
        let Some((bytes, _)) = store.get(&path)? else { return Ok(None) };
        let manifest = Manifest::from_json(&bytes)
            .map_err(|error| Error::Schema { url: store.url(&path), reason: error.to_string() })?;
        Ok(Some(Self { store: store.clone(), folder: folder.to_owned(), manifest }))
    }

    /// Opens what a user names: a checkpoint's own folder, a place that holds checkpoints, or a run's folder; of the
    /// latter two the newest checkpoint. A path or an `s3://` URL.
    ///
    /// # Errors
    /// [`Error::Url`], [`Error::NotFound`], [`Error::Schema`], [`Error::Store`].
    pub fn find(place: &str) -> Result<Self, Error> {
        let store = Store::open(&Location::parse(place)?)?;
        if let Some(checkpoint) = Self::in_folder(&store, "")? {
            return Ok(checkpoint);
        }
        for base in ["", "checkpoints"] {
            if let Some(step) = newest_under(&store, base)?
                && let Some(checkpoint) = Self::in_folder(&store, &layout::join(base, &layout::step_folder(step)))?
            {
                return Ok(checkpoint);
            }
        }
        let reason = "looked for manifest.json (a checkpoint's folder), step-*/manifest.json (a folder of checkpoints) \
                      and checkpoints/step-*/manifest.json (a run's folder)";
        Err(Error::NotFound { url: store.url(""), reason: reason.into() })
    }

    /// Everything that the tensors do not say.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The whole address of the checkpoint's folder.
    #[must_use]
    pub fn url(&self) -> String {
        self.store.url(&self.folder)
    }

    /// Fills the targets. Every rank calls it with targets of the same roles, names and shapes; each file is read by
    /// one rank, verified, and sent to the others.
    ///
    /// # Errors
    /// The same on every rank: [`Error::DoesNotFit`] where a target is not in the checkpoint with that shape (then
    /// nothing is read), [`Error::Damaged`] where a file is not what its manifest says, [`Error::Store`]. After the
    /// last two the targets' values are undefined.
    pub fn read(&self, collective: &dyn Collective, targets: &mut [TensorTarget]) -> Result<(), Error> {
        agree::all(collective, self.fits(targets))?;
        let mut places: HashMap<(String, &str), &mut [f32]> =
            targets.iter_mut().map(|t| ((t.role.folder(), t.name), &mut *t.values)).collect();
        let wanted: Vec<(&FileRecord, Vec<&TensorRecord>)> = self
            .manifest
            .files
            .iter()
            .map(|file| {
                let asked = |t: &&TensorRecord| places.contains_key(&(t.role.folder(), t.name.as_str()));
                (file, self.manifest.tensors.iter().filter(|t| t.file == file.path).filter(asked).collect())
            })
            .filter(|(_, tensors): &(_, Vec<_>)| !tensors.is_empty())
            .collect();
        // In a round every rank reads one file, all at the same time; then each sends its own.
        for round in wanted.chunks(collective.world_size()) {
            let mine = round.get(collective.rank()).map(|(file, tensors)| self.read_file(file, tensors));
            for (reader, (_, tensors)) in round.iter().enumerate() {
                let own = if reader == collective.rank() { mine.as_ref() } else { None };
                agree::of_root(collective, reader, own.map(|read| read.as_ref().map(|_| ()).map_err(Error::clone)))?;
                for (i, tensor) in tensors.iter().enumerate() {
                    let mut bytes = match own {
                        Some(Ok(values)) => values[i].clone(),
                        _ => Vec::new(),
                    };
                    agree::bytes_of_root(collective, reader, &mut bytes)?;
                    if let Some(values) = places.get_mut(&(tensor.role.folder(), tensor.name.as_str())) {
                        encoding::decode_into(&bytes, values);
                    }
                }
            }
        }
        Ok(())
    }

    /// The tensors of a role by name, each with its shape and values, read on this rank alone.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the checkpoint has no such role, with the roles that it has; [`Error::Damaged`];
    /// [`Error::Store`].
    pub fn load_role(&self, role: Role) -> Result<RoleTensors, Error> {
        let roles = self.manifest.roles();
        if !roles.contains(&role) {
            let there = roles.iter().map(Role::folder).collect::<Vec<_>>().join(", ");
            return Err(Error::NotFound { url: self.url(), reason: format!("it has no {role}, but {there}") });
        }
        let mut tensors: RoleTensors = self
            .manifest
            .parameters
            .iter()
            .map(|p| (p.name.clone(), (p.shape.clone(), vec![0.0; p.num_elements().unwrap_or(0)])))
            .collect();
        let mut targets: Vec<TensorTarget> =
            tensors.iter_mut().map(|(name, (shape, values))| TensorTarget { role, name, shape, values }).collect();
        self.read(&Single, &mut targets)?;
        Ok(tensors)
    }

    fn fits(&self, targets: &[TensorTarget]) -> Result<(), Error> {
        let tensors: HashMap<(String, &str), &TensorRecord> =
            self.manifest.tensors.iter().map(|t| ((t.role.folder(), t.name.as_str()), t)).collect();
        let problems: Vec<String> = targets
            .iter()
            .filter_map(|target| match tensors.get(&(target.role.folder(), target.name)) {
                None => Some(format!("it has no {} {}", target.role, target.name)),
                Some(t) if t.shape != target.shape || target.values.len() != t.shape.iter().product::<usize>() => {
                    Some(format!("its {} {} has shape {:?}, not {:?}", t.role, t.name, t.shape, target.shape))
                }
                Some(_) => None,
            })
            .collect();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Error::DoesNotFit { url: self.url(), problems: shortened(problems) })
        }
    }

    /// The bytes of each of the file's `tensors`, after the whole file has been verified.
    fn read_file(&self, file: &FileRecord, tensors: &[&TensorRecord]) -> Result<Vec<Vec<u8>>, Error> {
        let path = layout::join(&self.folder, &file.path);
        let damaged = |difference: String| Error::Damaged { url: self.store.url(&path), difference };
        // Asked before reading, so that no more memory is taken than the manifest says.
        let length = self.store.length(&path)?.ok_or_else(|| damaged("it is missing".into()))?;
        if length != file.length {
            return Err(damaged(format!("it has {length} bytes and the manifest says {}", file.length)));
        }
        let (bytes, sha256) = self.store.get(&path)?.ok_or_else(|| damaged("it is missing".into()))?;
        if sha256 != file.sha256 {
            return Err(damaged(format!("its SHA-256 is {sha256} and the manifest says {}", file.sha256)));
        }
        let values = encoding::values_of(&bytes, tensors).map_err(damaged)?;
        Ok(values.into_iter().map(<[u8]>::to_vec).collect())
    }
}
