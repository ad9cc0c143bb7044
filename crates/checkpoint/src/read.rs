//! Reads and verifies a checkpoint.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use admiral_checkpoints_schema::{FileRecord, Manifest, ManifestError, Role, TensorRecord};
use admiral_comm::{Collective, Single};
use admiral_storage::Store;

use crate::encoding;
use crate::error::Error;
use crate::manifests::{shortened, tensors_of};
use crate::{agree, layout};

/// The tensors of a role by name. Each has its shape and its values in row-major order.
pub type RoleTensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A tensor to be read, and the caller's buffer for its values.
#[derive(Debug)]
pub struct TensorTarget<'a> {
    /// The role of the tensor.
    pub role: Role,
    /// The name of the parameter.
    pub name: &'a str,
    /// The expected shape.
    pub shape: &'a [usize],
    /// The buffer for the values in row-major order. Its length is the product of the shape.
    pub values: &'a mut [f32],
}

/// A published checkpoint. Its manifest has been read, but not its tensors.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub(crate) store: Store,
    pub(crate) folder: String,
    pub(crate) manifest: Manifest,
}

/// Checks that the manifest in `folder` can be read and belongs to the step of the folder.
///
/// # Errors
/// [`Error::Damaged`] if not; [`Error::Schema`]; [`Error::Store`].
pub(crate) async fn verify_manifest(store: &Store, folder: &str) -> Result<(), Error> {
    match Checkpoint::in_folder(store, folder).await? {
        Some(_) => Ok(()),
        None => {
            let url = store.url(&layout::join(folder, layout::MANIFEST));
            Err(Error::Damaged { url, difference: "it is missing".into() })
        }
    }
}

/// Reads a file and compares its length and SHA-256 with its record in the manifest. If `into` is given, it is replaced by
/// the bytes of the file.
///
/// A file that differs is read a second time, because the connection may have lost bytes.
///
/// # Errors
/// [`Error::Damaged`] if it differs again; [`Error::Store`].
pub(crate) async fn verify_file(
    store: &Store,
    folder: &str,
    file: &FileRecord,
    mut into: Option<&mut Vec<u8>>,
) -> Result<(), Error> {
    let path = layout::join(folder, &file.path);
    let damaged = |difference: String| Error::Damaged { url: store.url(&path), difference };
    let mut difference = String::new();
    for _ in 0..2 {
        // Checked before reading, so that the file takes no more memory than the manifest says.
        let Some(length) = store.length(&path).await.map_err(or_damaged)? else {
            difference = "it is missing".into();
            continue;
        };
        if length != file.length {
            difference = format!("it has {length} bytes and the manifest says {}", file.length);
            continue;
        }
        let read = store.read(&path, length, into.as_deref_mut()).await.map_err(or_damaged)?;
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

/// Returns the error of reading a file of a checkpoint. A pipe or a device in its place is damage.
fn or_damaged(error: admiral_storage::Error) -> Error {
    match error {
        admiral_storage::Error::Unusable { url, reason, .. } => Error::Damaged { url, difference: reason },
        error => error.into(),
    }
}

/// Returns whether a tensor of this shape has `length` values. The product of a shape from a file may overflow.
fn has_length(shape: &[usize], length: usize) -> bool {
    shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size)) == Some(length)
}

impl Checkpoint {
    /// Opens the checkpoint in `folder`. Returns `None` if the folder has no manifest.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the manifest cannot be read or belongs to another step; [`Error::Schema`] if a newer Admiral
    /// wrote it; [`Error::Store`].
    pub(crate) async fn in_folder(store: &Store, folder: &str) -> Result<Option<Self>, Error> {
        let path = layout::join(folder, layout::MANIFEST);
        let Some(bytes) = store.get(&path).await.map_err(or_damaged)? else { return Ok(None) };
        let manifest = Manifest::from_json(&bytes).map_err(|error| match error {
            ManifestError::Newer { .. } => Error::Schema { url: store.url(&path), reason: error.to_string() },
            error => Error::Damaged { url: store.url(&path), difference: error.to_string() },
        })?;
        let step = folder.rsplit('/').next().and_then(layout::step_of);
        if let Some(step) = step.filter(|step| *step != manifest.training.step) {
            let difference = format!("it is of step {}, but in the folder of step {step}", manifest.training.step);
            return Err(Error::Damaged { url: store.url(&path), difference });
        }
        Ok(Some(Self { store: store.clone(), folder: folder.to_owned(), manifest }))
    }

    /// Returns the manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the URL of the checkpoint's folder.
    #[must_use]
    pub fn url(&self) -> String {
        self.store.url(&self.folder)
    }

    /// Reads tensors into `targets`. Every rank must call it with targets of the same roles, names and shapes. Each file is
    /// read and verified by one rank, which sends the tensors to the others.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] if the checkpoint does not have a target with that shape, in which case nothing is read;
    /// [`Error::Damaged`] if a file differs from its record; [`Error::Store`]. The same on every rank. After the last two,
    /// the values of the targets are undefined.
    pub fn read(&self, collective: &dyn Collective, targets: &mut [TensorTarget]) -> Result<(), Error> {
        agree::all(collective, self.fits(targets))?;
        let mut buffers: HashMap<(String, &str), &mut [f32]> =
            targets.iter_mut().map(|t| ((t.role.folder(), t.name), &mut *t.values)).collect();
        let wanted: Vec<(&FileRecord, Vec<&TensorRecord>)> = self
            .manifest
            .files
            .iter()
            .map(|file| {
                let asked = |t: &&TensorRecord| buffers.contains_key(&(t.role.folder(), t.name.as_str()));
                (file, self.manifest.tensors.iter().filter(|t| t.file == file.path).filter(asked).collect())
            })
            .filter(|(_, tensors): &(_, Vec<_>)| !tensors.is_empty())
            .collect();
        // In each round every rank reads one file, all at the same time. Then each rank sends the tensors of its file.
        for round in wanted.chunks(collective.world_size()) {
            let own_file = round.get(collective.rank()).map(|(file, tensors)| self.read_file(file, tensors));
            for (reader, (_, tensors)) in round.iter().enumerate() {
                let own = if reader == collective.rank() { own_file.as_ref() } else { None };
                agree::of_root(collective, reader, own.map(|read| read.as_ref().map(|_| ()).map_err(Error::clone)))?;
                for (i, tensor) in tensors.iter().enumerate() {
                    let values = buffers.get_mut(&(tensor.role.folder(), tensor.name.as_str()));
                    let own = own.and_then(|read| read.as_ref().ok()).map(|(file, ranges)| &file[ranges[i].clone()]);
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

    /// Reads all tensors of a role, on this rank only.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the existing roles if the checkpoint does not have this one; [`Error::Damaged`];
    /// [`Error::Store`].
    pub fn load_role(&self, role: Role) -> Result<RoleTensors, Error> {
        let roles = self.manifest.roles();
        if !roles.contains(&role) {
            let there = roles.iter().map(Role::folder).collect::<Vec<_>>().join(", ");
            return Err(Error::NotFound { url: self.url(), reason: format!("it has no {role}, but {there}") });
        }
        self.check_files_of(role)?;
        let mut tensors = RoleTensors::new();
        for parameter in &self.manifest.parameters {
            let mut values = Vec::new();
            let length = parameter.num_elements().unwrap_or(usize::MAX);
            values.try_reserve_exact(length).map_err(|error| Error::TooLarge {
                url: self.url(),
                reason: format!("{} of {length} values does not fit into memory ({error})", parameter.name),
            })?;
            values.resize(length, 0.0);
            tensors.insert(parameter.name.clone(), (parameter.shape.clone(), values));
        }
        let mut targets: Vec<TensorTarget> =
            tensors.iter_mut().map(|(name, (shape, values))| TensorTarget { role, name, shape, values }).collect();
        self.read(&Single, &mut targets)?;
        Ok(tensors)
    }

    /// Checks that every rank finds the file damaged that `error` names. If a rank reads it correctly, the checkpoint is not
    /// damaged, but the memory, disk or network of another host. Every rank must call it.
    ///
    /// # Errors
    /// [`Error::BadReader`] if a rank reads it correctly; [`Error::Store`]. The same on every rank.
    pub fn confirm_damage(&self, error: &Error, collective: &dyn Collective) -> Result<(), Error> {
        let url_of = |file: &FileRecord| self.store.url(&layout::join(&self.folder, &file.path));
        let named = |file: &&FileRecord| matches!(error, Error::Damaged { url, .. } if *url == url_of(file));
        let found = match self.manifest.files.iter().find(named) {
            Some(file) => match self.store.wait(verify_file(&self.store, &self.folder, file, None)) {
                // The bytes are correct, but the file may have invalid contents, which all ranks find.
                Ok(()) => Ok(self.read_file(file, &tensors_of(&self.manifest, file).collect::<Vec<_>>()).is_ok()),
                Err(Error::Damaged { .. }) => Ok(false),
                Err(error) => Err(error),
            },
            None => Ok(false),
        };
        match agree::all(collective, found)?.iter().position(|is_correct| *is_correct) {
            Some(rank) => Err(Error::BadReader { rank, error: error.to_string() }),
            None => Ok(()),
        }
    }

    /// Checks that the files of a role have the lengths in the manifest. The memory for the tensors is then no larger than
    /// the files.
    fn check_files_of(&self, role: Role) -> Result<(), Error> {
        for path in self.files_of(role) {
            let at = layout::join(&self.folder, path);
            let expected = self.manifest.files.iter().find(|file| file.path == path).map(|file| file.length);
            let found = self.store.wait(self.store.length(&at)).map_err(or_damaged)?;
            if found != expected {
                let found = found.map_or_else(|| "it is missing".into(), |length| format!("it has {length} bytes"));
                let difference = format!("{found} and the manifest says {}", expected.unwrap_or(0));
                return Err(Error::Damaged { url: self.store.url(&at), difference });
            }
        }
        Ok(())
    }

    /// Checks that the checkpoint has all targets with their shapes.
    fn fits(&self, targets: &[TensorTarget]) -> Result<(), Error> {
        let tensors: HashMap<(String, &str), &TensorRecord> =
            self.manifest.tensors.iter().map(|t| ((t.role.folder(), t.name.as_str()), t)).collect();
        let problems: Vec<String> = targets
            .iter()
            .filter_map(|target| match tensors.get(&(target.role.folder(), target.name)) {
                None => Some(format!("it has no {} {}", target.role, target.name)),
                Some(t) if t.shape != target.shape || !has_length(&t.shape, target.values.len()) => {
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

    /// Reads and verifies a file. Returns its bytes, and the range of bytes of each of `tensors`.
    pub(crate) fn read_file(
        &self,
        file: &FileRecord,
        tensors: &[&TensorRecord],
    ) -> Result<(Vec<u8>, Vec<Range<usize>>), Error> {
        let mut bytes = Vec::new();
        self.store.wait(verify_file(&self.store, &self.folder, file, Some(&mut bytes)))?;
        let url = self.store.url(&layout::join(&self.folder, &file.path));
        let values = encoding::values_of(&bytes, tensors).map_err(|difference| Error::Damaged { url, difference })?;
        let start = bytes.as_ptr() as usize;
        let range = |values: &[u8]| {
            let from = values.as_ptr() as usize - start;
            from..from + values.len()
        };
        let ranges = values.into_iter().map(range).collect();
        Ok((bytes, ranges))
    }

    /// Verifies the length, the SHA-256 and the tensors of every file. Returns an error for each damaged file.
    ///
    /// # Errors
    /// [`Error::Store`] if a file cannot be read.
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
