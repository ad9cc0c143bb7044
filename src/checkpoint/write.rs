//! Writing a checkpoint: each rank its share of whole tensors, then rank 0 the manifest.

use std::collections::HashMap;

use admiral_checkpoints_schema::{Dtype, FileRecord, Latest, SCHEMA_VERSION, TensorRecord};
use serde::{Deserialize, Serialize};

use super::store::PART_BYTES;
use super::{Error, Manifest, Parameter, Role, Store, TrainingState, agree, encoding, layout, owners};
use crate::collective::Collective;

/// Differences that a message lists before it says "and more".
const PROBLEMS_LISTED: usize = 4;

/// What a checkpoint says besides its tensors. The same on every rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// What the network is trained for: `diffusion`, `classifier` or `super_resolution`.
    pub task: String,
    /// The whole effective configuration.
    pub configuration: serde_json::Value,
    /// Where training stands after the step.
    pub training: TrainingState,
    /// Every parameter of the network, in the released checkpoints' order.
    pub parameters: Vec<Parameter>,
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

/// What a rank has written: its part of the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WrittenShare {
    files: Vec<FileRecord>,
    tensors: Vec<TensorRecord>,
}

/// Writes and publishes a checkpoint; returns when it is there. Every rank calls it with the same `content` and views
/// of the same roles and names, in any order. Only the values of the parameters that [`owners`] gives this rank are
/// read.
///
/// # Errors
/// The same on every rank. [`Error::AlreadyPublished`] where the step has a manifest: a resumed run never writes a
/// step again. [`Error::Store`] where a rank could not write. A failed save leaves no manifest.
pub fn save(
    store: &Store,
    collective: &dyn Collective,
    content: &Content,
    tensors: &[TensorView],
) -> Result<Manifest, Error> {
    let folder = layout::step_folder(content.training.step);
    let manifest = layout::join(&folder, layout::MANIFEST);
    // Asked first, so that no file of a published checkpoint is touched.
    let free = (collective.rank() == 0).then(|| match store.length(&manifest)? {
        None => Ok(()),
        Some(_) => Err(Error::AlreadyPublished { url: store.url(&folder) }),
    });
    agree::of_root(collective, 0, free)?;
    let written = write_share(store, collective.rank(), collective.world_size(), content, tensors);
    publish(store, collective, content, written)
}

/// Writes the files of one rank of `world_size`, without talking to the others.
///
/// # Errors
/// [`Error::DoesNotFit`] where the views are not the content's parameters, each once a role; [`Error::Store`].
pub fn write_share(
    store: &Store,
    rank: usize,
    world_size: usize,
    content: &Content,
    tensors: &[TensorView],
) -> Result<WrittenShare, Error> {
    let (step, parameters) = (content.training.step, &content.parameters);
    let folder = layout::step_folder(step);
    let by_role =
        sorted(parameters, tensors).map_err(|problems| Error::DoesNotFit { url: store.url(&folder), problems })?;
    let sizes: Vec<u64> = parameters.iter().map(|p| 4 * p.num_elements().unwrap_or(0) as u64).collect();
    let owners = owners(&sizes, world_size);
    let num_writers = world_size.min(parameters.len());
    let mut share = WrittenShare { files: Vec::new(), tensors: Vec::new() };
    for (role, views) in by_role {
        let own: Vec<&TensorView> = views.iter().zip(&owners).filter(|(_, o)| **o == rank).map(|(v, _)| *v).collect();
        if own.is_empty() {
            continue;
        }
        let path = layout::tensor_file(role, rank, num_writers);
        let header = encoding::header(role, step, own.iter().map(|view| (view.name, view.shape)));
        let values = own.iter().flat_map(|view| encoding::pieces(view.values, PART_BYTES));
        let pieces = std::iter::once(header).chain(values);
        let (length, sha256) = store.stream(&layout::join(&folder, &path), pieces)?;
        share.tensors.extend(own.iter().map(|view| TensorRecord {
            role,
            name: view.name.to_owned(),
            file: path.clone(),
            shape: view.shape.to_vec(),
            dtype: Dtype::F32,
        }));
        share.files.push(FileRecord { path, length, sha256 });
    }
    Ok(share)
}

/// Each role with its views in the order of `parameters`; what is wrong where they are not each parameter once.
fn sorted<'a, 'b>(
    parameters: &[Parameter],
    tensors: &'b [TensorView<'a>],
) -> Result<Vec<(Role, Vec<&'b TensorView<'a>>)>, Vec<String>> {
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
    let mut ordered = Vec::new();
    for (role, mut views) in by_role {
        let mut in_order = Vec::with_capacity(parameters.len());
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
                Some(view) => in_order.push(view),
            }
        }
        let mut unknown: Vec<&str> = views.into_keys().collect();
        unknown.sort_unstable();
        problems.extend(unknown.iter().map(|name| format!("{role} {name} is not a parameter")));
        ordered.push((role, in_order));
    }
    if problems.is_empty() { Ok(ordered) } else { Err(shortened(problems)) }
}

/// The first few of a list of differences.
pub(super) fn shortened(mut problems: Vec<String>) -> Vec<String> {
    if problems.len() > PROBLEMS_LISTED {
        let more = problems.len() - PROBLEMS_LISTED;
        problems.truncate(PROBLEMS_LISTED);
        problems.push(format!("and {more} more"));
    }
    problems
}

/// Makes all ranks agree on what they wrote, and rank 0 publish it. Every rank calls it with its own outcome.
///
/// # Errors
/// As [`save`].
pub fn publish(
    store: &Store,
    collective: &dyn Collective,
    content: &Content,
    written: Result<WrittenShare, Error>,
) -> Result<Manifest, Error> {
    let shares = agree::all(collective, written)?;
    let published = (collective.rank() == 0).then(|| {
        let manifest = Manifest {
            schema_version: SCHEMA_VERSION,
            created: jiff::Timestamp::now().to_string(),
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
            task: content.task.clone(),
            configuration: content.configuration.clone(),
            training: content.training.clone(),
            world_size: collective.world_size(),
            parameters: content.parameters.clone(),
            files: shares.iter().flat_map(|share| share.files.clone()).collect(),
            tensors: shares.iter().flat_map(|share| share.tensors.clone()).collect(),
        };
        publish_manifest(store, &manifest)?;
        Ok(manifest)
    });
    agree::of_root(collective, 0, published)
}

fn publish_manifest(store: &Store, manifest: &Manifest) -> Result<(), Error> {
    let step = manifest.training.step;
    let folder = layout::step_folder(step);
    for file in &manifest.files {
        let path = layout::join(&folder, &file.path);
        let found = store.length(&path)?;
        if found != Some(file.length) {
            let found = found.map_or_else(|| "no such file".to_owned(), |length| format!("{length} bytes"));
            let cause = format!("a rank wrote {} bytes and rank 0 finds {found}", file.length);
            return Err(Error::Store { operation: "see".into(), url: store.url(&path), cause });
        }
    }
    // A save of this step that failed at another number of ranks has left files that the manifest does not name.
    for path in store.files(&folder)? {
        if path != layout::MANIFEST && !manifest.files.iter().any(|file| file.path == path) {
            store.delete(&layout::join(&folder, &path))?;
        }
    }
    let path = layout::join(&folder, layout::MANIFEST);
    if !store.put_new(&path, json(store, &path, manifest)?)? {
        return Err(Error::AlreadyPublished { url: store.url(&folder) });
    }
    let latest = Latest { schema_version: SCHEMA_VERSION, step, folder };
    let pointed = json(store, layout::LATEST, &latest).and_then(|bytes| store.put(layout::LATEST, bytes));
    if let Err(error) = pointed {
        // The checkpoint is published and found by listing; the pointer is written again at the next save.
        tracing::warn!("{error}");
    }
    Ok(())
}

fn json<T: Serialize>(store: &Store, path: &str, value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec_pretty(value).map_err(|error| Error::Schema { url: store.url(path), reason: error.to_string() })
}
