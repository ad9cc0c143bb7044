//! The configurations from which a proposal starts: those of the paper's models, and small ones for a CPU.

use admiral_advice::Column;
use admiral_comm::ExitCode;
use admiral_config::{ConfigError, parse};

use crate::commands::ranks::CommandError;
use crate::run_config::RunConfig;

/// The images of ImageNet's training set.
const IMAGENET: u64 = 1_281_167;

/// A file, the name that reasons use for it, the number of images of its data set, and its text.
type Listed = (&'static str, &'static str, u64, &'static str);

macro_rules! listed {
    ($file:literal, $name:expr, $images:expr) => {
        (concat!("configs/", $file), $name, $images, include_str!(concat!("../../../configs/", $file)))
    };
}

/// The columns of the paper's Table 11. LSUN has 3,033,042 bedrooms, 1,657,266 cats and 2,000,340 horses.
const PAPER: [Listed; 8] = [
    listed!("imagenet64.yaml", "ImageNet 64", IMAGENET),
    listed!("imagenet128.yaml", "ImageNet 128", IMAGENET),
    listed!("imagenet256.yaml", "ImageNet 256", IMAGENET),
    listed!("imagenet256-uncond.yaml", "ImageNet 256 without classes", IMAGENET),
    listed!("imagenet512.yaml", "ImageNet 512", IMAGENET),
    listed!("lsun-bedroom.yaml", "LSUN bedroom", 3_033_042),
    listed!("lsun-cat.yaml", "LSUN cat", 1_657_266),
    listed!("lsun-horse.yaml", "LSUN horse", 2_000_340),
];

/// The images of Fashion-MNIST's training set.
const FASHION_MNIST: u64 = 60_000;

/// The models that learn on a CPU.
const SMALL: [Listed; 2] = [
    listed!("fashion.yaml", "configs/fashion.yaml", FASHION_MNIST),
    listed!("fashion-16.yaml", "configs/fashion-16.yaml", FASHION_MNIST),
];

/// A configuration from which a proposal starts.
#[derive(Debug, Clone)]
pub(super) struct Start {
    /// The file, from the top of the repository.
    pub(super) file: &'static str,
    /// Its numbers.
    pub(super) column: Column,
    /// The whole configuration.
    pub(super) config: RunConfig,
}

/// Returns the configurations for GPUs, or those for a CPU.
///
/// # Errors
/// If one of them cannot be read, which is a bug.
pub(super) fn starts(is_gpu: bool) -> Result<Vec<Start>, CommandError> {
    let listed = if is_gpu { &PAPER[..] } else { &SMALL };
    let read = |&(file, name, images, text): &Listed| -> Result<Start, ConfigError> {
        let config: RunConfig = parse(file, text, &[])?;
        Ok(Start { file, column: column(name, images, &config), config })
    };
    listed.iter().map(read).collect::<Result<_, _>>().map_err(|error| (ExitCode::Bug, error.into()))
}

fn column(name: &str, images: u64, config: &RunConfig) -> Column {
    let levels = config.model.effective_channel_mult(config.task).map_or(1, |mult| mult.len());
    Column {
        name: name.to_owned(),
        image_size: config.model.image_size.unsigned_abs(),
        is_conditional: config.model.num_classes.is_some(),
        num_levels: levels as u32,
        num_channels: config.model.num_channels.unsigned_abs(),
        images,
        global_batch: config.training.global_batch,
        microbatch: config.training.microbatch,
        steps: config.training.steps,
        learning_rate: config.optimizer.learning_rate,
        ema_rate: config.optimizer.ema_rates.first().copied().unwrap_or(0.0),
        dropout: config.model.dropout,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn all_are_read_and_differ_in_what_chooses_between_them() {
        for is_gpu in [true, false] {
            let starts = starts(is_gpu).unwrap();
            let mut keys: Vec<_> = starts
                .iter()
                .map(|Start { column, .. }| (column.image_size, column.is_conditional, column.images))
                .collect();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), starts.len());
            for start in starts {
                assert!(start.column.takes(start.column.image_size) && start.column.num_levels > 1, "{}", start.file);
            }
        }
    }
}
