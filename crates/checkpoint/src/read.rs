//! Reading a checkpoint.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use admiral_checkpoints_schema::{FileRecord, Manifest, ManifestError, Role, TensorRecord};

use admiral_comm::{Collective, Single};
use admiral_storage::Store;

use crate::encoding;
use crate::error::Error;
use crate::manifests::{shortened, tensors_of};
use crate::{agree, layout};

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
    pub(crate) store: Store,
    pub(crate) folder: String,
    pub(crate) manifest: Manifest,
}

/// Whether the manifest in `folder` can be read and is of its step.
///
/// # Errors
/// [`Error::Damaged`], [`Error::Store`].
pub(super) async fn verify_manifest(store: &Store, folder: &str) -> Result<(), Error> {
    match Checkpoint::in_folder(store, folder).await? {
        Some(_) => Ok(()),
        None => {
            let url = store.url(&layout::join(folder, layout::MANIFEST));
            Err(Error::Damaged { url, difference: "it is missing".into() })
        }
    }
}

/// Reads a file, `into` a buffer or in little memory, and holds it to what its manifest says.
///
/// What differs is read once more: a connection that loses bytes is not a damaged checkpoint.
///
/// # Errors
/// [`Error::Damaged`], [`Error::Store`].
pub(super) async fn verify_file(
    store: &Store,
    folder: &str,
    file: &FileRecord,
    mut into: Option<&mut Vec<u8>>,
) -> Result<(), Error> {
    let path = layout::join(folder, &file.path);
    let damaged = |difference: String| Error::Damaged { url: store.url(&path), difference };
    let mut difference = String::new();
    for _ in 0..2 {
        // Asked before reading, so that no more memory is taken than the manifest says.
        let Some(length) = store.length(&path).await? else {
            difference = "it is missing".into();
            continue;
        };
        if length != file.length {
            difference = format!("it has {length} bytes and the manifest says {}", file.length);
            continue;
        }
        let read = store.read(&path, length, into.as_deref_mut()).await?;
        let Some(sha256) = read else {
            difference = "it is missing".into();
            continue;
        };
        if sha256 == file.sha256 {
            return Ok(());
        }
        difference = format!("its SHA-256 is {sha256} and the manifest says {}", file.sha256);
    }
    Err(damaged(difference))
}

impl Checkpoint {
    pub(super) async fn in_folder(store: &Store, folder: &str) -> Result<Option<Self>, Error> {
        let path = layout::join(folder, layout::MANIFEST);
        let Some(bytes) = store.get(&path).await? else { return Ok(None) };
        let manifest = Manifest::from_json(&bytes).map_err(|error| match error {
            ManifestError::Newer { .. } => Error::Schema { url: store.url(&path), reason: error.to_string() },
            error => Error::Damaged { url: store.url(&path), difference: error.to_string() },
        })?;
        let step = folder.rsplit('/').next().and_then(layout::step_of);
        if let Some(step) = step.filter(|step| *step != manifest.training.step) {
            let difference = format!("it is of step {}, and lies in the folder of step {step}", manifest.training.step);
            return Err(Error::Damaged { url: store.url(&path), difference });
        }
        Ok(Some(Self { store: store.clone(), folder: folder.to_owned(), manifest }))
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
                    let values = places.get_mut(&(tensor.role.folder(), tensor.name.as_str()));
                    let own =
                        own.and_then(|read| read.as_ref().ok()).map(|(file, stretches)| &file[stretches[i].clone()]);
                    match (own, collective.world_size(), values) {
                        (Some(bytes), 1, Some(values)) => encoding::decode_into(bytes, values),
                        (own, _, Some(values)) => {
                            let mut bytes = own.map_or_else(Vec::new, <[u8]>::to_vec);
                            agree::bytes_of_root(collective, reader, &mut bytes)?;
                            encoding::decode_into(&bytes, values);
                        }
                        (_, _, None) => {}
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
        self.has_files_of(role)?;
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

    /// Whether every rank finds the file damaged that `error` names: where one finds it whole, not the checkpoint is
    /// bad but what the others read it through. Every rank calls it.
    ///
    /// # Errors
    /// The same on every rank: [`Error::BadReader`] where a rank finds it whole; [`Error::Store`].
    pub fn confirm_damage(&self, error: &Error, collective: &dyn Collective) -> Result<(), Error> {
        let named = |file: &&FileRecord| matches!(error, Error::Damaged { url, .. } if *url == self.store.url(&layout::join(&self.folder, &file.path)));
        let found = match self.manifest.files.iter().find(named) {
            Some(file) => match self.store.wait(verify_file(&self.store, &self.folder, file, None)) {
                // Right bytes that are no such file are wrong for everybody.
                Ok(()) => Ok(self.read_file(file, &tensors_of(&self.manifest, file).collect::<Vec<_>>()).is_ok()),
                Err(Error::Damaged { .. }) => Ok(false),
                Err(error) => Err(error),
            },
            None => Ok(false),
        };
        match agree::all(collective, found)?.iter().position(|is_whole| *is_whole) {
            Some(rank) => Err(Error::BadReader { rank, error: error.to_string() }),
            None => Ok(()),
        }
    }

    /// Whether the store has the files of a role at the lengths that the manifest says: what is read into memory then
    /// is no more than what is there.
    fn has_files_of(&self, role: Role) -> Result<(), Error> {
        for path in self.files_of(role) {
            let at = layout::join(&self.folder, path);
            let said = self.manifest.files.iter().find(|file| file.path == path).map(|file| file.length);
            let found = self.store.wait(self.store.length(&at))?;
            if found != said {
                let found = found.map_or_else(|| "it is missing".into(), |length| format!("it has {length} bytes"));
                let difference = format!("{found} and the manifest says {}", said.unwrap_or(0));
                return Err(Error::Damaged { url: self.store.url(&at), difference });
            }
        }
        Ok(())
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

    /// The bytes of the file, verified, and where each of `tensors` lies in it.
    pub(super) fn read_file(
        &self,
        file: &FileRecord,
        tensors: &[&TensorRecord],
    ) -> Result<(Vec<u8>, Vec<Range<usize>>), Error> {
        let mut bytes = Vec::new();
        self.store.wait(verify_file(&self.store, &self.folder, file, Some(&mut bytes)))?;
        let url = self.store.url(&layout::join(&self.folder, &file.path));
        let values = encoding::values_of(&bytes, tensors).map_err(|difference| Error::Damaged { url, difference })?;
        let start = bytes.as_ptr() as usize;
        let stretch = |values: &[u8]| {
            let from = values.as_ptr() as usize - start;
            from..from + values.len()
        };
        let stretches = values.into_iter().map(stretch).collect();
        Ok((bytes, stretches))
    }

    /// Verifies length and SHA-256 of every file, and that each holds the tensors that the manifest says. Gives what
    /// is wrong, file by file; nothing where all is well.
    ///
    /// # Errors
    /// [`Error::Store`] where the store cannot tell.
    pub fn verify(&self) -> Result<Vec<Error>, Error> {
        let mut damage = Vec::new();
        for file in &self.manifest.files {
            match self.read_file(file, &tensors_of(&self.manifest, file).collect::<Vec<_>>()) {
                Ok(_) => {}
                Err(error @ Error::Damaged { .. }) => damage.push(error),
                Err(error) => return Err(error),
            }
        }
        Ok(damage)
    }
}
