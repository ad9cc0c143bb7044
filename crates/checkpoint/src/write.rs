//! Writing a checkpoint: each rank its share of whole tensors, then rank 0 the manifest.

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

/// Files of one rank that are sent at the same time: while one waits for the disk, another is hashed.
const FILES_IN_FLIGHT: usize = 2;

/// What a checkpoint says besides its tensors. The same on every rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// The run and the attempt that write it.
    pub writer: Writer,
    /// What the network is trained for: `diffusion`, `classifier` or `super_resolution`.
    pub task: String,
    /// The whole effective configuration.
    pub configuration: serde_json::Value,
    /// Where training stands after the step.
    pub training: TrainingState,
    /// Every parameter of the network, in the released checkpoints' order.
    pub parameters: Arc<Vec<Parameter>>,
}

/// A tensor in host memory, where the caller keeps it: a stretch of a flat buffer.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// What it is to the run.
    pub role: Role,
    /// The parameter's name.
    pub name: &'a str,
    /// Its shape.
    pub shape: &'a [usize],
    /// Its values, row by row.
    pub values: &'a [f32],
}

impl Content {
    /// The manifest over what the ranks have written.
    pub(super) fn manifest(&self, roles: &[Role], world_size: usize, files: Vec<FileRecord>) -> Manifest {
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
            tensors: tensor_records(&self.parameters, roles, world_size),
        }
    }
}

/// Writes and publishes a checkpoint; returns when it is there. Every rank calls it with the same `content` and views
/// of the same roles and names, in any order. Training, which does not wait, uses a [`Saver`](crate::Saver) instead.
///
/// # Errors
/// The same on every rank. [`Error::AlreadyPublished`] where the step has a manifest: a resumed run never writes a
/// step again. [`Error::DoesNotFit`] where the views are not the content's parameters, each once a role.
/// [`Error::Store`] where a rank could not write. A failed save leaves no manifest.
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
    let mut staging = Staging::new(Arc::clone(&content.parameters), &roles, rank, world_size);
    for (role, parameter, values) in staging.targets().into_iter().flatten() {
        values.copy_from_slice(views[&(role.folder(), content.parameters[parameter].name.as_str())].values);
    }
    let step = content.training.step;
    let deadline = Instant::now() + store.options().patience;
    let attempt_id = &content.writer.attempt_id;
    let written = store.wait(write_share(store, step, staging.outgoing(step), attempt_id, deadline, &never()));
    let files: Vec<FileRecord> = agree::all(collective, written)?.into_iter().flatten().collect();
    let published = (rank == 0).then(|| {
        let manifest = content.manifest(&roles, world_size, files);
        store.wait(publish(store, &manifest)).map(|()| manifest)
    });
    agree::of_root(collective, 0, published)
}

/// Writes the files of one rank, without talking to the others. No file of a published checkpoint is touched: where
/// this attempt has published the step already, in a save whose end it did not see, the files are those that are there.
///
/// # Errors
/// [`Error::AlreadyPublished`], [`Error::Store`].
pub(super) async fn write_share(
    store: &Store,
    step: u64,
    files: Vec<OutgoingFile>,
    attempt_id: &str,
    deadline: Instant,
    signal: &Cancelled,
) -> Result<Vec<FileRecord>, Error> {
    let folder = layout::step_folder(step);
    if let Some(bytes) = store.get(&layout::join(&folder, layout::MANIFEST)).await? {
        let is_own = |record: &FileRecord| files.iter().any(|file| file.path == record.path);
        return match Manifest::from_json(&bytes) {
            Ok(manifest) if manifest.writer.attempt_id == attempt_id => {
                Ok(manifest.files.into_iter().filter(is_own).collect())
            }
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

/// The roles of the views; what is wrong where they are not each parameter once a role.
fn roles_of(parameters: &[Parameter], tensors: &[TensorView]) -> Result<Vec<Role>, Vec<String>> {
    let mut by_role: Vec<(Role, HashMap<&str, &TensorView>)> = Vec::new();
    let mut problems = Vec::new();
    for view in tensors {
        let place = by_role.iter().position(|(role, _)| *role == view.role).unwrap_or_else(|| {
            by_role.push((view.role, HashMap::new()));
            by_role.len() - 1
        });
        if by_role[place].1.insert(view.name, view).is_some() {
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

/// Publishes what all ranks have written: the manifest in one stroke, unless one is there, then the pointer to it.
///
/// # Errors
/// [`Error::Store`] where a file is not there at its length; [`Error::AlreadyPublished`].
pub(super) async fn publish(store: &Store, manifest: &Manifest) -> Result<(), Error> {
    let step = manifest.training.step;
    let folder = layout::step_folder(step);
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
    let path = layout::join(&folder, layout::MANIFEST);
    if !store.put_new(&path, json(store, &path, manifest)?).await? {
        let there = store.get(&path).await?.unwrap_or_default();
        let is_own = Manifest::from_json(&there)
            .is_ok_and(|there| there.writer.attempt_id == manifest.writer.attempt_id && there.files == manifest.files);
        if !is_own {
            return Err(already_published(store, &folder, &there));
        }
    }
    // A save of this step that failed at another number of ranks has left files that the manifest does not name.
    let named: BTreeSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    for path in lengths.keys().filter(|path| *path != layout::MANIFEST && !named.contains(path.as_str())) {
        if let Err(error) = store.delete(&layout::join(&folder, path)).await {
            tracing::warn!("{error}; it belongs to no checkpoint and takes room");
        }
    }
    let latest = Latest { schema_version: SCHEMA_VERSION, step, folder };
    let pointed = match json(store, layout::LATEST, &latest) {
        Ok(bytes) => store.put(layout::LATEST, bytes).await.map_err(Error::from),
        Err(error) => Err(error),
    };
    if let Err(error) = pointed {
        // The checkpoint is published and found by listing; the pointer is written again at the next save.
        tracing::warn!("{error}");
    }
    Ok(())
}

fn already_published(store: &Store, folder: &str, manifest: &[u8]) -> Error {
    let by = match Manifest::from_json(manifest) {
        Ok(manifest) => manifest.writer.to_string(),
        Err(_) => "something that left a manifest which cannot be read".to_owned(),
    };
    Error::AlreadyPublished { url: store.url(folder), by }
}
