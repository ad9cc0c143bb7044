//! Writes a checkpoint: each rank writes its share of the tensors, then rank 0 writes the manifest.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use admiral_checkpoints_schema::{
    FileRecord, Latest, Manifest, Parameter, Role, SCHEMA_VERSION, TrainingState, Writer,
};
use admiral_comm::Collective;
use admiral_storage::{Cancelled, Store, never, upload};
use futures::StreamExt;

use crate::error::Error;
use crate::manifests::{json, shortened};
use crate::staging::{OutgoingFile, Staging, tensor_records};
use crate::{agree, layout};

/// The number of files that a rank uploads at the same time. While one waits for the disk, another is hashed.
const FILES_IN_FLIGHT: usize = 2;

/// The contents of a checkpoint besides its tensors. The same on every rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// The run and the attempt that write the checkpoint.
    pub writer: Writer,
    /// The task of the network: `diffusion`, `classifier` or `super_resolution`.
    pub task: String,
    /// The complete effective configuration.
    pub configuration: serde_json::Value,
    /// The state of training after the step.
    pub training: TrainingState,
    /// All parameters of the network, in the order of the released checkpoints.
    pub parameters: Arc<Vec<Parameter>>,
}

/// A tensor in the memory of the caller.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// The role of the tensor.
    pub role: Role,
    /// The name of the parameter.
    pub name: &'a str,
    /// The shape.
    pub shape: &'a [usize],
    /// The values in row-major order.
    pub values: &'a [f32],
}

impl Content {
    /// Returns the manifest of a checkpoint with `files`, which the ranks have written.
    pub(crate) fn manifest(&self, roles: &[Role], world_size: usize, files: Vec<FileRecord>) -> Manifest {
        Manifest {
            schema_version: SCHEMA_VERSION,
            created: jiff::Timestamp::now().to_string(),
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
            writer: self.writer.clone(),
            task: self.task.clone(),
            configuration: self.configuration.clone(),
            training: self.training.clone(),
            world_size,
            parameters: self.parameters.to_vec(),
            files,
            tensors: tensor_records(&self.parameters, roles, &self.writer.attempt_id, world_size),
        }
    }
}

/// Writes and publishes a checkpoint, and returns the manifest that is in the store then. If another attempt of the same run
/// has published the step, that is its manifest. No run may write to the store meanwhile. Every rank must call it with the same `content`, and with
/// views of the same roles and names in any order. Training uses a [`Saver`](crate::Saver) instead, which does not block.
///
/// # Errors
/// [`Error::AlreadyPublished`] if another run has published the step, because a published step is never overwritten;
/// [`Error::DoesNotFit`] if the views are not all parameters of `content`, once for each role; [`Error::Store`] if a rank
/// could not write. The same on every rank. A failed save leaves no manifest.
pub fn save(
    store: &Store,
    collective: &dyn Collective,
    content: &Content,
    tensors: &[TensorView],
) -> Result<Manifest, Error> {
    let (rank, world_size) = (collective.rank(), collective.world_size());
    let folder = layout::step_folder(content.training.step);
    let roles = roles_of(&content.parameters, tensors)
        .map_err(|problems| Error::DoesNotFit { url: store.url(&folder), problems });
    let roles: Vec<Role> = agree::all(collective, roles)?.swap_remove(0);
    let views: HashMap<(String, &str), &TensorView> =
        tensors.iter().map(|view| ((view.role.folder(), view.name), view)).collect();
    let mut staging =
        Staging::new(Arc::clone(&content.parameters), &roles, &content.writer.attempt_id, rank, world_size);
    for (role, parameter, values) in staging.targets().into_iter().flatten() {
        values.copy_from_slice(views[&(role.folder(), content.parameters[parameter].name.as_str())].values);
    }
    let step = content.training.step;
    let deadline = Instant::now() + store.options().patience;
    let written = store.wait(write_share(store, step, staging.outgoing(step), &content.writer, deadline, &never()));
    let files: Vec<FileRecord> = agree::all(collective, written)?.into_iter().flatten().collect();
    let published = (rank == 0).then(|| {
        let manifest = content.manifest(&roles, world_size, files);
        store.wait(async {
            let published = publish(store, manifest).await?;
            delete_unnamed(store, &published).await;
            Ok(published)
        })
    });
    agree::of_root(collective, 0, published)
}

/// Writes the files of this rank without communicating with the others. Does not change a published checkpoint: if this
/// attempt has already published the step, in a save whose end it did not see, it returns the existing files. If another
/// attempt of this run has, it returns none.
///
/// # Errors
/// [`Error::AlreadyPublished`] if another run has published the step; [`Error::Store`].
pub(crate) async fn write_share(
    store: &Store,
    step: u64,
    files: Vec<OutgoingFile>,
    writer: &Writer,
    deadline: Instant,
    signal: &Cancelled,
) -> Result<Vec<FileRecord>, Error> {
    let folder = layout::step_folder(step);
    if let Some(bytes) = store.get(&layout::join(&folder, layout::MANIFEST)).await? {
        let is_own = |record: &FileRecord| files.iter().any(|file| file.path == record.path);
        return match Manifest::from_json(&bytes) {
            Ok(manifest) if manifest.writer.attempt_id == writer.attempt_id => {
                Ok(manifest.files.into_iter().filter(is_own).collect())
            }
            Ok(manifest) if is_other_attempt(&manifest.writer, writer) => Ok(Vec::new()),
            _ => Err(already_published(store, &folder, &bytes)),
        };
    }
    let uploads = files.into_iter().map(|file| {
        let path = layout::join(&folder, &file.path);
        async move {
            let (length, sha256) = upload(store, &path, &file.pieces, deadline, signal).await?;
            Ok(FileRecord { path: file.path, length, sha256 })
        }
    });
    let written: Vec<Result<FileRecord, Error>> =
        futures::stream::iter(uploads).buffered(FILES_IN_FLIGHT).collect().await;
    written.into_iter().collect()
}

/// Returns the roles of the views. Each role must have each parameter once.
///
/// # Errors
/// The problems, if it does not.
fn roles_of(parameters: &[Parameter], tensors: &[TensorView]) -> Result<Vec<Role>, Vec<String>> {
    let mut by_role: Vec<(Role, HashMap<&str, &TensorView>)> = Vec::new();
    let mut problems = Vec::new();
    for view in tensors {
        let index = by_role.iter().position(|(role, _)| *role == view.role).unwrap_or_else(|| {
            by_role.push((view.role, HashMap::new()));
            by_role.len() - 1
        });
        if by_role[index].1.insert(view.name, view).is_some() {
            problems.push(format!("{} {} is given twice", view.role, view.name));
        }
    }
    let roles = by_role.iter().map(|(role, _)| *role).collect();
    for (role, mut views) in by_role {
        for parameter in parameters {
            match views.remove(parameter.name.as_str()) {
                None => problems.push(format!("{role} {} is missing", parameter.name)),
                Some(view) if view.shape != parameter.shape || Some(view.values.len()) != parameter.num_elements() => {
                    problems.push(format!(
                        "{role} {} has shape {:?} and {} values, the parameter has shape {:?}",
                        parameter.name,
                        view.shape,
                        view.values.len(),
                        parameter.shape
                    ));
                }
                Some(_) => {}
            }
        }
        let mut unknown: Vec<&str> = views.into_keys().collect();
        unknown.sort_unstable();
        problems.extend(unknown.iter().map(|name| format!("{role} {name} is not a parameter")));
    }
    if problems.is_empty() { Ok(roles) } else { Err(shortened(problems)) }
}

/// Publishes the files of all ranks: writes the manifest atomically unless one exists, then `latest.json`. Returns the
/// manifest that is in the store then: the given one, or that of another attempt of this run.
///
/// # Errors
/// [`Error::Store`] if a file is missing or has another length; [`Error::AlreadyPublished`] if another run has published
/// the step.
pub(crate) async fn publish(store: &Store, manifest: Manifest) -> Result<Manifest, Error> {
    let step = manifest.training.step;
    let folder = layout::step_folder(step);
    let path = layout::join(&folder, layout::MANIFEST);
    if let Some(existing) = store.get(&path).await? {
        return accept(store, &folder, &existing, manifest).await;
    }
    let lengths: HashMap<String, u64> = store.files(&folder).await?.into_iter().collect();
    for file in &manifest.files {
        let found = lengths.get(&file.path).copied();
        if found != Some(file.length) {
            let found = found.map_or_else(|| "no such file".to_owned(), |length| format!("{length} bytes"));
            let cause = format!("a rank wrote {} bytes and rank 0 finds {found}", file.length);
            let url = store.url(&layout::join(&folder, &file.path));
            return Err(Error::Store { operation: "see".into(), url, cause });
        }
    }
    let written: BTreeSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    if let Some(tensor) = manifest.tensors.iter().find(|tensor| !written.contains(tensor.file.as_str())) {
        // A rank found the step published and has written nothing, but its manifest is gone now.
        let url = store.url(&layout::join(&folder, &tensor.file));
        return Err(Error::Store { operation: "see".into(), url, cause: "no rank has written it".into() });
    }
    if !store.put_new(&path, json(store, &path, &manifest)?).await? {
        let existing = store.get(&path).await?.unwrap_or_default();
        return accept(store, &folder, &existing, manifest).await;
    }
    point_to(store, step, folder).await;
    Ok(manifest)
}

/// Returns the existing manifest of a step that is to be published, if this run has written it.
///
/// # Errors
/// [`Error::AlreadyPublished`] if another run has.
async fn accept(store: &Store, folder: &str, existing: &[u8], own: Manifest) -> Result<Manifest, Error> {
    match Manifest::from_json(existing) {
        Ok(found) if found.writer.attempt_id == own.writer.attempt_id && found.files == own.files => {
            // The answer to an earlier try got lost.
            point_to(store, own.training.step, folder.to_owned()).await;
            Ok(own)
        }
        Ok(found) if is_other_attempt(&found.writer, &own.writer) => {
            tracing::warn!("{} is already published by {}; this save is left out", store.url(folder), found.writer);
            Ok(found)
        }
        _ => Err(already_published(store, folder, existing)),
    }
}

/// Writes `latest.json`. A failure is only logged: the checkpoint is published and is found by listing, and the next save
/// writes the pointer again.
async fn point_to(store: &Store, step: u64, folder: String) {
    let latest = Latest { schema_version: SCHEMA_VERSION, step, folder };
    let pointer = match json(store, layout::LATEST, &latest) {
        Ok(bytes) => store.put(layout::LATEST, bytes).await.map_err(Error::from),
        Err(error) => Err(error),
    };
    if let Err(error) = pointer {
        tracing::warn!("{error}");
    }
}

/// Deletes the files of failed saves from the folder of a published step. The caller must hold the lease: another attempt
/// that holds it may be writing there. Failures are only logged.
pub(crate) async fn delete_unnamed(store: &Store, manifest: &Manifest) {
    let folder = layout::step_folder(manifest.training.step);
    let named: BTreeSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    let deleted = async {
        for (path, _) in store.files(&folder).await? {
            if path != layout::MANIFEST && layout::is_file_of_step(&path) && !named.contains(path.as_str()) {
                store.delete(&layout::join(&folder, &path)).await?;
            }
        }
        Ok::<_, Error>(())
    };
    if let Err(error) = deleted.await {
        tracing::warn!("{error}; files that belong to no checkpoint take up space");
    }
}

/// Returns whether `found` is another attempt of the run of `own`: one that was taken for dead and has published the step
/// after all.
fn is_other_attempt(found: &Writer, own: &Writer) -> bool {
    found.attempt_id != own.attempt_id && found.run_id == own.run_id
}

/// Makes the error that names the writer of an existing manifest.
fn already_published(store: &Store, folder: &str, manifest: &[u8]) -> Error {
    let by = match Manifest::from_json(manifest) {
        Ok(manifest) => manifest.writer.to_string(),
        Err(_) => "an unknown writer, whose manifest cannot be read".to_owned(),
    };
    Error::AlreadyPublished { url: store.url(folder), by }
}
