//! The widths of a network that may be proposed, with their parameters and memory.

use admiral_advice::{Candidate, largest_microbatch};

use crate::commands::hardware::Target;
use crate::commands::planned::{comfortable, report, request};
use crate::model::ModelConfig;
use crate::run_config::RunConfig;

use super::columns::Start;

/// The widths that are proposed beside a column's own.
const WIDTHS: [i64; 5] = [256, 192, 128, 64, 32];

/// The channels of a head of attention where those of the column do not divide the width of a level.
const NARROW_HEAD: i64 = 32;

/// What a network is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    /// The height and width of the images in pixels.
    pub(super) size: u64,
    /// The channels of the images.
    pub(super) channels: i64,
    /// The number of classes.
    pub(super) num_classes: Option<u64>,
}

/// Returns the networks of a column, from its own width to narrower ones, with what choosing between them needs.
///
/// # Errors
/// When one of them cannot be planned.
pub(super) fn candidates(start: &Start, task: Task, target: &Target) -> Result<Vec<(ModelConfig, Candidate)>, String> {
    let own = start.config.model.num_channels;
    let widths = std::iter::once(own).chain(WIDTHS.into_iter().filter(|width| *width < own));
    let models = widths.filter_map(|width| model(&start.config, task, width));
    models.map(|model| candidate(start, model, target)).collect()
}

fn candidate(start: &Start, model: ModelConfig, target: &Target) -> Result<(ModelConfig, Candidate), String> {
    let mut config = RunConfig { model: model.clone(), ..start.config.clone() };
    // The memory of an image does not depend on the batch.
    (config.training.global_batch, config.training.microbatch) = (target.ranks, 1);
    let request = request(&config, target)?;
    let report = report(&request, &comfortable(&target.hardware))?;
    let candidate = Candidate {
        num_channels: model.num_channels.unsigned_abs(),
        parameters: request.work.weights.parameters,
        microbatch: largest_microbatch(&report, false),
        microbatch_recomputing: largest_microbatch(&report, true),
    };
    Ok((model, candidate))
}

/// Returns the column's network for other images and of another width, or `None` if there is none of this width.
fn model(config: &RunConfig, task: Task, width: i64) -> Option<ModelConfig> {
    let channel_mult = config.model.effective_channel_mult(config.task)?;
    let size = i64::try_from(task.size).ok()?;
    let model = ModelConfig {
        image_size: size,
        image_channels: task.channels,
        num_classes: task.num_classes.map(|number| i64::try_from(number).unwrap_or(i64::MAX)),
        num_channels: width,
        attention_resolutions: attention(&config.model, size, channel_mult.len()),
        channel_mult: Some(channel_mult),
        ..config.model.clone()
    };
    let heads = [model.num_head_channels, Some(NARROW_HEAD)];
    let mut models = heads.into_iter().map(|num_head_channels| ModelConfig { num_head_channels, ..model.clone() });
    models.find(|model| model.validate(config.task).is_empty())
}

/// Returns the sizes of the levels with attention: those up to the column's largest, and never the size of the image,
/// where attention is too slow; at least the last level's.
fn attention(model: &ModelConfig, size: i64, levels: usize) -> Vec<i64> {
    if size == model.image_size {
        return model.attention_resolutions.clone();
    }
    let largest = model.attention_resolutions.iter().copied().max().unwrap_or(0);
    let sizes: Vec<i64> = (1..levels).map(|level| size >> level).collect();
    let attending: Vec<i64> = sizes.iter().copied().filter(|size| *size <= largest).collect();
    if attending.is_empty() { sizes.last().copied().into_iter().collect() } else { attending }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::commands::new::columns::starts;

    #[test]
    fn attention_stays_at_small_levels() {
        let model = |attention: &[i64], image_size| ModelConfig {
            image_size,
            attention_resolutions: attention.to_vec(),
            ..ModelConfig::default()
        };
        assert_eq!(attention(&model(&[32, 16, 8], 128), 128, 5), [32, 16, 8]);
        assert_eq!(attention(&model(&[32, 16, 8], 128), 96, 5), [24, 12, 6]);
        assert_eq!(attention(&model(&[32, 16, 8], 64), 32, 4), [16, 8, 4]);
        assert_eq!(attention(&model(&[32, 16, 8], 64), 520, 4), [65]);
        assert_eq!(attention(&model(&[8], 32), 64, 3), [16]);
    }

    #[test]
    fn every_width_of_every_column_is_a_network_or_left_out() {
        for start in [true, false].into_iter().flat_map(|is_gpu| starts(is_gpu).unwrap()) {
            let task = Task { size: start.column.image_size, channels: 1, num_classes: Some(2) };
            let widths = |own: i64| std::iter::once(own).chain(WIDTHS).filter(move |width| *width <= own);
            let found: Vec<i64> = widths(start.config.model.num_channels)
                .filter_map(|width| model(&start.config, task, width))
                .map(|model| model.num_channels)
                .collect();
            // Half of 32 channels at the top level of 512 pixels cannot be normalized in groups.
            let narrowest = if start.column.image_size == 512 { 64 } else { 32 };
            assert_eq!(
                (found[0], found[found.len() - 1]),
                (start.config.model.num_channels, narrowest),
                "{}",
                start.file
            );
        }
    }
}
