//! `admiral encode`: encodes images to latents by DDIM run backwards (the paper's appendix F). `admiral sample --latents`
//! decodes them.

use std::path::PathBuf;

use admiral_comm::{Ending, ExitCode, agree};
use admiral_samples::{Encoding, LatentsWriter};
use clap::Args;
use serde_json::json;

use crate::context::RankContext;
use crate::sample::{Error, Inversion, gather_agreed};

use super::given_images::open_images;
use super::model_options::{
    LabelOptions, ModelOnImages, ModelOptions, Progress, bytes_of, check_has_steps, check_out, labels_of,
};
use super::sample::weights;

/// The options of `admiral encode`.
#[derive(Debug, Clone, Args)]
pub struct EncodeOptions {
    #[command(flatten)]
    model: ModelOptions,
    /// The images: a folder of pictures, an npz file, or the output of a sampling job
    #[arg(long, value_name = "FOLDER|FILE|JOB")]
    images: String,
    /// The file to write: NAME.safetensors
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Encode the first images only
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    num: Option<u64>,
    /// Timesteps that are visited: ddim250, 50, or "" for all
    #[arg(long, default_value = "ddim250")]
    respacing: String,
    /// Visit the last timestep too. Its step ends one noise level beyond that at which decoding starts
    #[arg(long)]
    all_steps: bool,
    #[command(flatten)]
    labels: LabelOptions,
}

/// Encodes the images. Every rank calls it.
///
/// # Errors
/// When the images cannot be encoded or the file cannot be written. The [`Ending`] says whether the ranks leave together.
pub(super) fn run(options: &EncodeOptions, rank: RankContext<'_>) -> Result<ExitCode, Ending> {
    let (collective, code) = (rank.collective, Error::exit_code);
    let opened = agree(collective, open(options, rank), code)?;
    let ModelOnImages { model, diffusion, mut images, labels, described, num, batch_size } = opened;
    let classes: Option<Vec<i64>> = labels.range().map(|_| (0..num).filter_map(|image| labels.of(image)).collect());
    let identity = json!(model.identity());
    let encoding = Encoding::new(identity, &options.respacing, options.all_steps, described);
    let same = json!([encoding, classes, num, batch_size]);
    let (model, _, context) = options.model.load(model, &same, rank)?;
    let network = &model.config.model;
    let (channels, size) = (network.image_channels as usize, network.image_size as usize);

    let failed = |source| Error::File { path: options.out.display().to_string(), source };
    let create = || LatentsWriter::create(&options.out, num, [channels, size, size], classes.as_deref(), &encoding);
    let writer = if collective.rank() == 0 { create().map(Some).map_err(failed) } else { Ok(None) };
    let mut writer = agree(collective, writer, code)?;
    let inversion = Inversion {
        model: weights(&model),
        kernels: &context.kernels,
        diffusion: &diffusion,
        all_steps: options.all_steps,
    };
    let progress = Progress::new(&context, num);
    let latent_bytes = 4 * channels * size * size;
    gather_agreed(
        num,
        batch_size,
        collective,
        |own| {
            // Batches are always full: kernels may round differently for another batch size.
            let batch = own.start..own.start + batch_size;
            let latents = inversion.encode(&images.load(batch.clone())?, labels_of(&labels, batch).as_ref());
            let mut bytes = bytes_of(&latents);
            bytes.truncate(latent_bytes * (own.end - own.start) as usize);
            Ok(bytes)
        },
        |images, latents| {
            if let Some(writer) = &mut writer {
                writer.append(&latents).map_err(failed)?;
            }
            progress.show(images.end, None);
            Ok(())
        },
    )?;
    let published = writer.map_or(Ok(()), LatentsWriter::publish).map_err(failed);
    agree(collective, published, code)?;
    if collective.rank() == 0 {
        let steps = diffusion.num_timesteps() - usize::from(!options.all_steps);
        let (out, weights) = (options.out.display(), &model.identity.weights);
        println!("{out}: {num} latents by {steps} steps of ddim from {weights} of step {}", model.identity.step);
    }
    Ok(ExitCode::Finished)
}

fn open(options: &EncodeOptions, rank: RankContext<'_>) -> Result<ModelOnImages, Error> {
    check_out("--out", &options.out, "safetensors", rank)?;
    let stores = rank.environment.store_options();
    let model = options.model.open("admiral encode", &stores)?;
    let network = &model.config.model;
    let images = open_images("--images", &options.images, network.image_size, network.image_channels, &stores)?;
    let labels = (&options.labels, network.num_classes);
    let opened = options.model.on_images(model, &options.respacing, ("--images", images), options.num, labels)?;
    check_has_steps(&opened.diffusion)?;
    Ok(opened)
}
