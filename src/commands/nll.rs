//! `admiral nll`: the variational bound of the negative log-likelihood of images, in bits per dimension.

use std::path::PathBuf;

use admiral_comm::{Ending, ExitCode, agree};
use admiral_npz::npz_of;
use admiral_storage::StoreOptions;
use admiral_telemetry::write_file;
use clap::Args;
use serde_json::json;
use tch::Tensor;

use crate::context::RankContext;
use crate::run_config::RunConfig;
use crate::sample::{Error, Likelihood, gather_agreed};

use super::given_images::{OpenedImages, of_source, open_images};
use super::model_options::{LabelOptions, ModelOnImages, ModelOptions, Progress, bytes_of, check_out, labels_of};
use super::sample::weights;

/// The options of `admiral nll`.
#[derive(Debug, Clone, Args)]
pub struct NllOptions {
    #[command(flatten)]
    model: ModelOptions,
    /// The images: a folder of pictures, an npz file, the output of a sampling job, or `training` or `validation` for those
    /// of the checkpoint's configuration
    #[arg(long, value_name = "FOLDER|FILE|JOB|training|validation")]
    data: String,
    /// The file to write: NAME.npz
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The first images only
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    num: Option<u64>,
    /// Timesteps of the bound: 250, ddim50, sections such as 90,60,60,20,20, or "" for all
    #[arg(long, default_value = "")]
    respacing: String,
    /// Do not clamp predicted images to the range of images
    #[arg(long)]
    no_clip: bool,
    /// The seed of the noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    labels: LabelOptions,
}

/// The results on rank 0, in the order of the images.
#[derive(Default)]
struct Results {
    total: Vec<f64>,
    prior: Vec<f64>,
    sum: f64,
    /// The sums over images of the terms of each timestep: vb, squared error of x_0, squared error of the noise.
    terms: [Vec<f64>; 3],
}

impl Results {
    /// Adds images, each with its bound, its prior term, and the three terms of each timestep.
    fn add(&mut self, values: &[f32], num_timesteps: usize) {
        for image in values.chunks_exact(2 + 3 * num_timesteps) {
            self.total.push(image[0].into());
            self.prior.push(image[1].into());
            self.sum += f64::from(image[0]);
            for (sums, terms) in self.terms.iter_mut().zip(image[2..].chunks_exact(num_timesteps)) {
                sums.resize(num_timesteps, 0.0);
                sums.iter_mut().zip(terms).for_each(|(sum, &term)| *sum += f64::from(term));
            }
        }
    }

    /// Returns the mean bound.
    fn mean(&self) -> f64 {
        self.sum / self.total.len() as f64
    }

    /// Returns the standard error of the mean bound, or `None` for a single image.
    fn standard_error(&self) -> Option<f64> {
        let count = self.total.len() as f64;
        let squares: f64 = self.total.iter().map(|value| (value - self.mean()).powi(2)).sum();
        (count > 1.0).then(|| (squares / (count - 1.0) / count).sqrt())
    }

    /// Returns the npz file.
    fn npz(&self) -> Vec<u8> {
        let count = self.total.len() as f64;
        let [vb, xstart_mse, mse] =
            [0, 1, 2].map(|term| self.terms[term].iter().map(|sum| sum / count).collect::<Vec<f64>>());
        npz_of(&[
            ("vb.npy", &vb),
            ("xstart_mse.npy", &xstart_mse),
            ("mse.npy", &mse),
            ("total_bpd.npy", &self.total),
            ("prior_bpd.npy", &self.prior),
        ])
    }
}

/// Evaluates the images. Every rank calls it.
///
/// # Errors
/// When the images cannot be evaluated or the file cannot be written. The [`Ending`] says whether the ranks leave together.
pub(super) fn run(options: &NllOptions, rank: RankContext<'_>) -> Result<ExitCode, Ending> {
    let (collective, code) = (rank.collective, Error::exit_code);
    let opened = agree(collective, open(options, rank), code)?;
    let ModelOnImages { model, diffusion, mut images, labels, described, num, batch_size } = opened;
    let classes: Vec<i64> = (0..num).filter_map(|image| labels.of(image)).collect();
    let same = json!([model.identity(), described, classes, num, batch_size]);
    let (model, _, context) = options.model.load(model, &same, rank)?;
    let likelihood = Likelihood {
        model: weights(&model),
        kernels: &context.kernels,
        diffusion: &diffusion,
        clip_denoised: !options.no_clip,
        seed: options.seed,
    };
    let progress = Progress::new(&context, num);
    let mut results = Results::default();
    let num_timesteps = diffusion.num_timesteps();
    gather_agreed(
        num,
        batch_size,
        collective,
        |own| {
            // Batches are always full: kernels may round differently for another batch size.
            let batch: Vec<u64> = (own.start..own.start + batch_size).collect();
            let x_start = images.load(own.start..own.start + batch_size)?;
            let bits = likelihood.of(&batch, &x_start, labels_of(&labels, batch.iter().copied()).as_ref());
            let columns = [bits.total.unsqueeze(1), bits.prior.unsqueeze(1), bits.vb, bits.x_start_mse, bits.mse];
            Ok(bytes_of(&Tensor::cat(&columns, 1).narrow(0, 0, (own.end - own.start) as i64)))
        },
        |images, bytes| {
            let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
            results.add(&values, num_timesteps);
            progress.show(images.end, Some(results.mean()));
            Ok(())
        },
    )?;
    let path = || options.out.display().to_string();
    let write = || write_file(&options.out, &results.npz()).map_err(|source| Error::File { path: path(), source });
    agree(collective, if collective.rank() == 0 { write() } else { Ok(()) }, code)?;
    if collective.rank() == 0 {
        let error = results.standard_error().map_or_else(String::new, |error| format!(" +- {error:.4}"));
        println!(
            "{}: {:.4}{error} bits per dimension, the mean of {num} images over {num_timesteps} timesteps, by {} of step {}",
            path(),
            results.mean(),
            model.identity.weights,
            model.identity.step
        );
    }
    Ok(ExitCode::Finished)
}

fn open(options: &NllOptions, rank: RankContext<'_>) -> Result<ModelOnImages, Error> {
    check_out("--out", &options.out, "npz", rank)?;
    let stores = rank.environment.store_options();
    let model = options.model.open("admiral nll", &stores)?;
    let images = open_data(&options.data, &model.config, &stores)?;
    let labels = (&options.labels, model.config.model.num_classes);
    options.model.on_images(model, &options.respacing, ("--data", images), options.num, labels)
}

/// Opens the images that are evaluated.
fn open_data(data: &str, config: &RunConfig, stores: &StoreOptions) -> Result<OpenedImages, Error> {
    let (size, channels) = (config.model.image_size, config.model.image_channels);
    let source = match data {
        "training" => admiral_data::open(&config.data, config.run.seed, stores)?.train,
        "validation" => admiral_data::open(&config.data, config.run.seed, stores)?
            .validation
            .ok_or_else(|| Error::Refused("--data: the checkpoint's configuration has no validation images".into()))?,
        location => return open_images("--data", location, size, channels, stores),
    };
    Ok(of_source(source, size, channels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_over_images_and_have_a_standard_error() {
        let mut results = Results::default();
        results.add(&[3.0, 0.5, 1.0, 1.5, 10.0, 20.0, 5.0, 6.0], 2);
        assert_eq!((results.mean(), results.standard_error()), (3.0, None));
        results.add(&[5.0, 0.5, 2.0, 2.5, 30.0, 40.0, 7.0, 8.0], 2);
        assert_eq!((results.mean(), results.standard_error()), (4.0, Some(1.0)));
        assert_eq!(results.terms, [[3.0, 4.0], [40.0, 60.0], [12.0, 14.0]]);
    }
}
