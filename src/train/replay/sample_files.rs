//! Saves the image and the noise of a sample for people and programs.

use std::path::{Path, PathBuf};

use admiral_npz::npz_of;
use admiral_telemetry::{Grid, write_file};
use tch::{Device, Kind, Tensor};

use crate::diffusion::to_bytes;
use crate::train::error::TrainError;
use crate::train::objective::Microbatch;

/// Writes the sample at `position` of a batch to `folder`: the image as PNG, and image, noise and timestep as npz. Returns
/// both files.
///
/// # Errors
/// When they cannot be written.
pub(super) fn save_sample(batch: &Microbatch, position: usize, folder: &Path) -> Result<[PathBuf; 2], TrainError> {
    let index = batch.indices[position];
    let image = batch.images.get(position as i64).to_device(Device::Cpu);
    let noise = batch.noise.get(position as i64).to_device(Device::Cpu);
    let shape = image.size();
    let size = [shape[1], shape[2], shape[0]].map(|length| length as usize);
    // Values that are not finite are black.
    let bytes = Vec::<u8>::try_from(to_bytes(&image.nan_to_num(-1.0, -1.0, -1.0).unsqueeze(0)).flatten(0, -1))?;
    let png = Grid::of(&bytes, size, 1, 0).and_then(|grid| grid.png());
    let png = png.map_err(|error| TrainError::Bug(error.to_string()))?;
    let values = |tensor: &Tensor| Vec::<f64>::try_from(tensor.to_kind(Kind::Double).flatten(0, -1));
    let (image, noise) = (values(&image)?, values(&noise)?);
    let shape: Vec<f64> = shape.iter().map(|&length| length as f64).collect();
    let numbers = [index as f64, batch.timesteps[position] as f64];
    let npz = npz_of(&[
        ("image.npy", &image),
        ("noise.npy", &noise),
        ("shape.npy", &shape),
        ("index_and_timestep.npy", &numbers),
    ]);
    let paths = ["png", "npz"].map(|end| folder.join(format!("sample-{index}.{end}")));
    for (path, bytes) in paths.iter().zip([png, npz]) {
        write_file(path, &bytes).map_err(|source| TrainError::Folder { path: path.display().to_string(), source })?;
    }
    Ok(paths)
}
