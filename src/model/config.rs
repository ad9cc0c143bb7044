//! The `model` section of a run's configuration, and the spec of its network.

use serde::{Deserialize, Serialize};

use admiral_config::Invalid;

use super::attention::AttentionOrder;
use super::blocks::BlockSpec;
use super::encoder::{EncoderSpec, Pool};
use super::layers::NUM_GROUPS;
use super::network::NetworkSpec;
use super::unet::UNetSpec;

/// The largest image, map, number of channels, blocks, levels and classes. Within them, numbers of parameters and FLOPs fit
/// into 64 bits. The largest model of the paper has 512 pixels and 1024 channels.
const MAX_IMAGE_SIZE: i64 = 16_384;
const MAX_CHANNELS: i64 = 16_384;
const MAX_RES_BLOCKS: i64 = 64;
const MAX_LEVELS: usize = 14;
const MAX_CLASSES: i64 = 10_000_000;
const MAX_MAP_VALUES: i64 = 1 << 32;
const MAX_ATTENTION_SIZE: i64 = 512;

/// The kind of model that a run trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// A diffusion model (Table 11).
    #[default]
    Diffusion,
    /// A classifier for guidance (Table 12).
    Classifier,
    /// A diffusion model that upsamples (Table 13).
    SuperResolution,
}

impl Task {
    /// Returns the name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Diffusion => "diffusion",
            Self::Classifier => "classifier",
            Self::SuperResolution => "super_resolution",
        }
    }
}

/// The network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Height and width of the images in pixels. For super-resolution: of the large image.
    pub image_size: i64,
    /// Height and width of the small image in pixels. For super-resolution only.
    pub small_size: Option<i64>,
    /// Channels of the images: 3 for colour, 1 for grey.
    pub image_channels: i64,
    /// The number of classes that a UNet is conditioned on or a classifier predicts; null is unconditional.
    pub num_classes: Option<i64>,
    /// The probability with which training replaces the class of an image by the null class. Classifier-free guidance
    /// needs such training, usually with 0.1 or 0.2; 0 trains no null class. The null class is one more row of the
    /// class embedding, after those of num_classes.
    pub class_dropout: f64,
    /// The base number of channels, which the levels multiply.
    pub num_channels: i64,
    /// The number of residual blocks of a level ("depth").
    pub num_res_blocks: usize,
    /// Channels of each level as a multiple of num_channels, from full size downwards; null: the default for
    /// image_size.
    pub channel_mult: Option<Vec<f64>>,
    /// Sizes in pixels of the levels at which attention follows the residual blocks.
    pub attention_resolutions: Vec<i64>,
    /// The number of attention heads if num_head_channels is null.
    pub num_heads: i64,
    /// Channels of one attention head. Takes precedence over num_heads.
    pub num_head_channels: Option<i64>,
    /// Whether attention's channels are ordered as all heads of q, then of k, then of v, instead of head by head.
    pub use_new_attention_order: bool,
    /// Whether the embedding is applied by adaptive group normalization (section 3.1) instead of addition.
    pub use_scale_shift_norm: bool,
    /// Whether resampling uses the residual blocks of BigGAN instead of a convolution.
    pub resblock_updown: bool,
    /// Whether residual and attention blocks scale the sum of their input and their branch by 1 / sqrt(2), as in Table 1
    /// ("rescale resblock"), which follows Song et al. 2020. Skip connections between levels are not scaled.
    pub rescale_residual: bool,
    /// The probability with which dropout zeroes an activation of a residual block.
    pub dropout: f64,
    /// Whether training recomputes each residual and attention block in backward instead of saving its activations:
    /// less memory, a third more arithmetic. The results are the same except for the order of a few sums.
    pub use_checkpoint: bool,
    /// The classifier's pool from feature maps to logits: adaptive, attention, spatial or spatial_v2.
    pub pool: Pool,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            image_size: 64,
            small_size: None,
            image_channels: 3,
            num_classes: None,
            class_dropout: 0.0,
            num_channels: 128,
            num_res_blocks: 2,
            channel_mult: None,
            attention_resolutions: vec![32, 16, 8],
            num_heads: 4,
            num_head_channels: Some(64),
            use_new_attention_order: false,
            use_scale_shift_norm: true,
            resblock_updown: true,
            rescale_residual: false,
            dropout: 0.0,
            use_checkpoint: false,
            pool: Pool::Attention,
        }
    }
}

impl ModelConfig {
    /// Returns the channel multiples, by default those for the image size (the paper's Tables 11 to 13).
    #[must_use]
    pub fn effective_channel_mult(&self, task: Task) -> Option<Vec<f64>> {
        if self.channel_mult.is_some() {
            return self.channel_mult.clone();
        }
        Some(match (self.image_size, task) {
            (512, Task::SuperResolution) | (256, _) => vec![1.0, 1.0, 2.0, 2.0, 4.0, 4.0],
            (512, _) => vec![0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0],
            (128, _) => vec![1.0, 1.0, 2.0, 3.0, 4.0],
            (64, _) => vec![1.0, 2.0, 3.0, 4.0],
            _ => return None,
        })
    }

    /// Returns the label of the null class, the last row of the class embedding. `None` if none is trained.
    #[must_use]
    pub fn null_class(&self) -> Option<i64> {
        self.num_classes.filter(|_| self.class_dropout > 0.0)
    }

    /// Returns the spec of the network for this section and the task. `learn_sigma` doubles a UNet's output channels.
    ///
    /// # Errors
    /// If [`ModelConfig::validate`] finds mistakes. The error lists all of them.
    pub fn spec(&self, task: Task, learn_sigma: bool) -> Result<NetworkSpec, Vec<Invalid>> {
        let mistakes = self.validate(task);
        let (true, Some(channel_mult)) = (mistakes.is_empty(), self.effective_channel_mult(task)) else {
            return Err(mistakes);
        };
        let blocks = BlockSpec {
            model_channels: self.num_channels,
            num_res_blocks: self.num_res_blocks,
            channel_mult,
            attention_factors: self.attention_resolutions.iter().map(|size| self.image_size / size).collect(),
            num_heads: self.num_heads,
            num_head_channels: self.num_head_channels,
            attention_order: if self.use_new_attention_order {
                AttentionOrder::QkvOutside
            } else {
                AttentionOrder::HeadsOutside
            },
            dropout: self.dropout,
            use_scale_shift_norm: self.use_scale_shift_norm,
            resblock_updown: self.resblock_updown,
            rescale_residual: self.rescale_residual,
            use_checkpoint: self.use_checkpoint,
        };
        if task == Task::Classifier {
            return Ok(NetworkSpec::Encoder(EncoderSpec {
                image_size: self.image_size,
                in_channels: self.image_channels,
                out_channels: self.num_classes.unwrap_or(0),
                pool: self.pool,
                blocks,
            }));
        }
        let is_super_resolution = task == Task::SuperResolution;
        let spec = UNetSpec {
            image_size: self.image_size,
            in_channels: if is_super_resolution { 2 * self.image_channels } else { self.image_channels },
            out_channels: if learn_sigma { 2 * self.image_channels } else { self.image_channels },
            num_classes: self.null_class().map(|null_class| null_class.saturating_add(1)).or(self.num_classes),
            blocks,
        };
        Ok(if is_super_resolution { NetworkSpec::SuperRes(spec) } else { NetworkSpec::UNet(spec) })
    }

    /// Returns the mistakes in this section, with field paths from the top of the file.
    #[must_use]
    pub fn validate(&self, task: Task) -> Vec<Invalid> {
        let mut mistakes = Vec::new();
        let mut check = |good: bool, field: &str, message: String| {
            if !good {
                mistakes.push(Invalid::new(format!("model.{field}"), message));
            }
        };
        for (field, value, most) in [
            ("image_size", self.image_size, MAX_IMAGE_SIZE),
            ("num_channels", self.num_channels, MAX_CHANNELS),
            ("num_res_blocks", i64::try_from(self.num_res_blocks).unwrap_or(i64::MAX), MAX_RES_BLOCKS),
            ("num_heads", self.num_heads, MAX_CHANNELS),
            ("num_head_channels", self.num_head_channels.unwrap_or(1), MAX_CHANNELS),
            ("num_classes", self.num_classes.unwrap_or(1), MAX_CLASSES),
        ] {
            check((1..=most).contains(&value), field, format!("is {value}; it must lie between 1 and {most}"));
        }
        check(
            matches!(self.image_channels, 1 | 3),
            "image_channels",
            format!("is {}; images have 1 (grey) or 3 (colour) channels", self.image_channels),
        );
        check((0.0..1.0).contains(&self.dropout), "dropout", format!("is {}; it must lie in [0, 1)", self.dropout));
        if task == Task::Classifier {
            check(self.num_classes.is_some(), "num_classes", "a classifier needs the number of classes".into());
        }
        check(
            (0.0..1.0).contains(&self.class_dropout),
            "class_dropout",
            format!("is {}; it must lie in [0, 1)", self.class_dropout),
        );
        if self.class_dropout > 0.0 {
            let is_conditional = task != Task::Classifier && self.num_classes.is_some();
            check(is_conditional, "class_dropout", "only belongs to diffusion models with num_classes".into());
        }
        match (task, self.small_size) {
            (Task::SuperResolution, None) => {
                check(false, "small_size", "super-resolution needs the size of the small image".into());
            }
            (Task::SuperResolution, Some(small)) => check(
                small > 0 && self.image_size % small == 0,
                "small_size",
                format!("is {small}; it must divide model.image_size = {}", self.image_size),
            ),
            (_, Some(_)) => check(false, "small_size", "only belongs to task super_resolution".into()),
            (_, None) => {}
        }
        self.check_levels(task, &mut mistakes);
        mistakes
    }

    fn check_levels(&self, task: Task, mistakes: &mut Vec<Invalid>) {
        let mut add = |field: &str, message: String| mistakes.push(Invalid::new(format!("model.{field}"), message));
        let Some(mult) = self.effective_channel_mult(task).filter(|mult| !mult.is_empty()) else {
            return add(
                "channel_mult",
                format!(
                    "image_size {} has no default (64, 128, 256 and 512 do): list one number a level",
                    self.image_size
                ),
            );
        };
        if mult.len() > MAX_LEVELS {
            return add("channel_mult", format!("has {} levels; at most {MAX_LEVELS}", mult.len()));
        }
        let widths: Vec<i64> = mult.iter().map(|m| (m * self.num_channels as f64) as i64).collect();
        if let Some(width) = widths.iter().find(|&&width| width > MAX_CHANNELS) {
            return add("channel_mult", format!("{mult:?} gives a level of {width} channels; at most {MAX_CHANNELS}"));
        }
        if let Some(width) = widths.iter().find(|&&width| width <= 0 || width % NUM_GROUPS != 0) {
            add(
                "num_channels",
                format!(
                    "{} times channel_mult {mult:?} gives a level of {width} channels; group normalisation needs \
                     multiples of {NUM_GROUPS}",
                    self.num_channels
                ),
            );
        }
        let deepest = 1 << (mult.len() - 1).min(32);
        if self.image_size % deepest != 0 {
            add("image_size", format!("is {}; {} levels need a multiple of {deepest}", self.image_size, mult.len()));
        }
        let sizes: Vec<i64> = (0..mult.len()).map(|level| self.image_size >> level).collect();
        let largest = sizes.iter().zip(&widths).map(|(&size, &width)| size.saturating_mul(size).saturating_mul(width));
        if let Some(values) = largest.max().filter(|&values| values > MAX_MAP_VALUES) {
            add("image_size", format!("with these channels, a map has {values} values; at most {MAX_MAP_VALUES}"));
        }
        if let Some(size) = self.attention_resolutions.iter().find(|&&size| size > MAX_ATTENTION_SIZE) {
            add("attention_resolutions", format!("{size} is too large; at most {MAX_ATTENTION_SIZE}"));
        }
        if let Some(size) = self.attention_resolutions.iter().find(|size| !sizes.contains(size)) {
            add("attention_resolutions", format!("{size} never occurs; the levels' sizes are {sizes:?}"));
        }
        // The middle block always has attention, with the channels of the last level.
        let attending = sizes.iter().zip(&widths).filter(|(size, _)| self.attention_resolutions.contains(size));
        let mut attending: Vec<i64> = attending.map(|(_, &width)| width).chain(widths.last().copied()).collect();
        attending.dedup();
        let (field, divisor) = match self.num_head_channels {
            Some(width) => ("num_head_channels", width),
            None => ("num_heads", self.num_heads),
        };
        // A divisor that is not positive is refused already.
        if divisor > 0
            && let Some(width) = attending.iter().find(|&&width| width % divisor != 0)
        {
            let good: Vec<i64> = (1..=64).filter(|n| attending.iter().all(|width| width % n == 0)).collect();
            add(field, format!("{divisor} does not divide the {width} channels that attend; these do: {good:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Network;

    fn fields(config: &ModelConfig, task: Task) -> Vec<String> {
        config.validate(task).into_iter().map(|mistake| mistake.field).collect()
    }

    #[test]
    fn the_default_is_valid() {
        assert!(fields(&ModelConfig::default(), Task::Diffusion).is_empty());
    }

    #[test]
    fn mistakes_are_reported_at_their_field() {
        let good = ModelConfig::default();
        let heads = ModelConfig { num_heads: 3, num_head_channels: None, ..good.clone() };
        assert_eq!(fields(&heads, Task::Diffusion), ["model.num_heads"]);
        let groups = ModelConfig { num_channels: 100, num_head_channels: None, num_heads: 1, ..good.clone() };
        assert_eq!(fields(&groups, Task::Diffusion), ["model.num_channels"]);
        let size = ModelConfig { image_size: 36, channel_mult: Some(vec![1.0; 4]), ..good.clone() };
        assert_eq!(fields(&size, Task::Diffusion), ["model.image_size", "model.attention_resolutions"]);
        let levels = ModelConfig { image_size: 32, ..good.clone() };
        assert_eq!(fields(&levels, Task::Diffusion), ["model.channel_mult"]);
        assert_eq!(fields(&good, Task::Classifier), ["model.num_classes"]);
        let dropping = ModelConfig { class_dropout: 0.1, ..good.clone() };
        assert_eq!(fields(&dropping, Task::Diffusion), ["model.class_dropout"]);
        let dropping = ModelConfig { num_classes: Some(10), ..dropping };
        assert_eq!(fields(&dropping, Task::Diffusion), [""; 0]);
        assert_eq!(fields(&dropping, Task::Classifier), ["model.class_dropout"]);
        for class_dropout in [1.0, -0.1, f64::NAN] {
            let dropping = ModelConfig { class_dropout, ..dropping.clone() };
            assert_eq!(fields(&dropping, Task::Diffusion), ["model.class_dropout"], "{class_dropout}");
        }
        assert_eq!(fields(&good, Task::SuperResolution), ["model.small_size"]);
    }

    #[test]
    fn class_dropout_adds_a_row_for_the_null_class() {
        let rows = |class_dropout| {
            let config = ModelConfig { num_classes: Some(10), class_dropout, ..ModelConfig::default() };
            let spec = config.spec(Task::Diffusion, true).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
            let (_, specs) = Network::build(&spec);
            let table = specs.iter().find(|spec| spec.name == "label_emb.weight");
            (table.map(|table| table.shape[0]), config.null_class())
        };
        assert_eq!(rows(0.0), (Some(10), None));
        assert_eq!(rows(0.1), (Some(11), Some(10)));
    }
}
