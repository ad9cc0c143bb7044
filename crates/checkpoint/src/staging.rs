//! Buffers in host memory that a save is uploaded from while training continues.

use std::sync::Arc;

use admiral_checkpoints_schema::{Dtype, Parameter, Role, TensorRecord};
use bytes::Bytes;

use crate::huge_pages::prefer_huge_pages;
use crate::share::owners;
use crate::{encoding, layout};

/// A file of this rank's share.
#[derive(Debug)]
struct StagedFile {
    role: Role,
    path: String,
    /// The indices of its parameters in the network, in the order of the file.
    parameters: Vec<usize>,
    /// The range of its values in the buffer.
    start: usize,
    end: usize,
}

/// The buffer for the values of this rank's share.
#[derive(Debug)]
struct Values(Vec<f32>);

/// Gives the uploads access to the values as little-endian bytes. The buffer cannot be filled while one of these exists.
struct SharedValues(Arc<Values>);

#[cfg(target_endian = "big")]
compile_error!("checkpoints are uploaded from memory without conversion, which requires a little-endian machine");

impl AsRef<[u8]> for SharedValues {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0.0)
    }
}

/// A file that is ready to be uploaded.
#[derive(Debug)]
pub(crate) struct OutgoingFile {
    /// Its path in the folder of the step.
    pub path: String,
    /// Its contents: the header, then a range of the buffer.
    pub pieces: Vec<Bytes>,
}

/// This rank's share of the tensors in all roles, in a buffer that is allocated once per run.
#[derive(Debug)]
pub(crate) struct Staging {
    all: Arc<Vec<Parameter>>,
    files: Vec<StagedFile>,
    values: Arc<Values>,
}

impl Staging {
    /// Allocates the buffer for the tensors that `rank` of `world_size` writes. `all` has the parameters of the network.
    /// The attempt is in the names of the files.
    pub(crate) fn new(
        all: Arc<Vec<Parameter>>,
        roles: &[Role],
        attempt_id: &str,
        rank: usize,
        world_size: usize,
    ) -> Self {
        let elements: Vec<usize> = all.iter().map(|p| p.num_elements().unwrap_or(0)).collect();
        let (own, num_writers) = own_parameters(&elements, rank, world_size);
        let length: usize = own.iter().map(|&i| elements[i]).sum();
        let files = roles.iter().enumerate().filter(|_| !own.is_empty()).map(|(index, &role)| StagedFile {
            role,
            path: layout::tensor_file(role, rank, num_writers, attempt_id),
            parameters: own.clone(),
            start: index * length,
            end: (index + 1) * length,
        });
        let files: Vec<StagedFile> = files.collect();
        let mut values = vec![0.0_f32; length * files.len()];
        prefer_huge_pages(&mut values);
        // The system allocates a page when it is first written to. Doing so now avoids page faults while training waits for
        // a save.
        for page in values.chunks_mut(1024) {
            page[0] = f32::MIN_POSITIVE;
        }
        Self { all, files, values: Arc::new(Values(values)) }
    }

    /// Returns the size of the share, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        size_of_val(self.values.0.as_slice()) as u64
    }

    /// Returns whether an upload still reads the buffer.
    pub(crate) fn is_held(&self) -> bool {
        Arc::strong_count(&self.values) > 1
    }

    /// Returns for each tensor of this rank its role, the index of its parameter in the network, and the slice of the buffer
    /// for its values. `None` while an upload reads the buffer.
    pub(crate) fn targets(&mut self) -> Option<Vec<(Role, usize, &mut [f32])>> {
        let mut rest = Arc::get_mut(&mut self.values)?.0.as_mut_slice();
        let mut targets = Vec::new();
        for file in &self.files {
            for &parameter in &file.parameters {
                let (own, after) = rest.split_at_mut(self.all[parameter].num_elements().unwrap_or(0));
                targets.push((file.role, parameter, own));
                rest = after;
            }
        }
        Some(targets)
    }

    /// Returns the files of the checkpoint of `step`. They share the buffer.
    pub(crate) fn outgoing(&self, step: u64) -> Vec<OutgoingFile> {
        let values = Bytes::from_owner(SharedValues(Arc::clone(&self.values)));
        let files = self.files.iter().map(|file| {
            let tensors = file.parameters.iter().map(|&i| (self.all[i].name.as_str(), self.all[i].shape.as_slice()));
            let header = encoding::header(file.role, step, tensors);
            OutgoingFile {
                path: file.path.clone(),
                pieces: vec![header.into(), values.slice(4 * file.start..4 * file.end)],
            }
        });
        files.collect()
    }
}

/// Returns the indices of the parameters that `rank` writes, and the number of ranks that write any.
fn own_parameters(elements: &[usize], rank: usize, world_size: usize) -> (Vec<usize>, usize) {
    let sizes: Vec<u64> = elements.iter().map(|&n| 4 * n as u64).collect();
    let owners = owners(&sizes, world_size);
    let own = (0..elements.len()).filter(|&i| owners[i] == rank).collect();
    (own, world_size.min(elements.len()))
}

/// Returns the records of the tensors of all ranks for the manifest. Every rank computes the same result.
pub(crate) fn tensor_records(
    all: &[Parameter],
    roles: &[Role],
    attempt_id: &str,
    world_size: usize,
) -> Vec<TensorRecord> {
    let elements: Vec<usize> = all.iter().map(|p| p.num_elements().unwrap_or(0)).collect();
    let mut records = Vec::with_capacity(all.len() * roles.len());
    for rank in 0..world_size {
        let (own, num_writers) = own_parameters(&elements, rank, world_size);
        for &role in roles {
            let file = layout::tensor_file(role, rank, num_writers, attempt_id);
            records.extend(own.iter().map(|&i| TensorRecord {
                role,
                name: all[i].name.clone(),
                file: file.clone(),
                shape: all[i].shape.clone(),
                dtype: Dtype::F32,
            }));
        }
    }
    records
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parameters() -> Arc<Vec<Parameter>> {
        let parameter = |name: &str, shape: &[usize]| Parameter { name: name.into(), shape: shape.into() };
        Arc::new(vec![parameter("a", &[3, 2]), parameter("b", &[5]), parameter("scalar", &[])])
    }

    #[test]
    fn the_shares_of_all_ranks_hold_every_tensor_once() {
        let roles = [Role::Master, Role::Ema { rate: 0.5 }];
        for world_size in [1, 2, 5] {
            let mut seen = Vec::new();
            let mut bytes = 0;
            for rank in 0..world_size {
                let mut staging = Staging::new(parameters(), &roles, "a", rank, world_size);
                bytes += staging.bytes();
                for (role, parameter, values) in staging.targets().unwrap() {
                    assert_eq!(values.len(), parameters()[parameter].num_elements().unwrap());
                    seen.push((role.folder(), parameter));
                }
            }
            assert_eq!(bytes, 2 * 4 * 12);
            seen.sort();
            let all: Vec<(String, usize)> =
                ["ema-0.5", "master"].iter().flat_map(|role| (0..3).map(|i| ((*role).to_owned(), i))).collect();
            assert_eq!(seen, all, "{world_size} ranks");
        }
    }

    #[test]
    fn files_have_the_staged_values_and_hold_the_buffer_until_they_are_dropped() {
        let mut staging = Staging::new(parameters(), &[Role::Master], "a", 0, 1);
        for (_, parameter, values) in staging.targets().unwrap() {
            values.fill(parameter as f32 + 0.5);
        }
        let files = staging.outgoing(7);
        assert!(staging.is_held() && staging.targets().is_none());
        let file = files[0].pieces.concat();
        let records = tensor_records(&parameters(), &[Role::Master], "a", 1);
        assert!(records.iter().all(|record| record.file == files[0].path));
        let found = encoding::values_of(&file, &records.iter().collect::<Vec<_>>()).unwrap();
        for (parameter, bytes) in found.into_iter().enumerate() {
            assert!(bytes.chunks(4).all(|value| value == (parameter as f32 + 0.5).to_le_bytes()));
        }
        drop(files);
        assert!(!staging.is_held() && staging.targets().is_some());
    }
}
