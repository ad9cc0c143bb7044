//! The bounds of proposals and doubts.

/// The number of images that are decoded to see their sizes and colours.
pub const SAMPLE: u64 = 64;

/// The most parameters for each image. The paper's models have 180 to 440 for each; with many more, and without
/// regularization, a network can store its images instead of learning their distribution.
pub const MAX_PARAMETERS_PER_IMAGE: u64 = 10_000;

/// The most passes over the images. The paper's models make 30 to 870.
pub const MAX_EPOCHS: u64 = 4000;

/// The number of images below which many passes over them need dropout. The paper uses dropout on data sets of more
/// than ten times this size.
pub const FEW_IMAGES: u64 = 100_000;

/// The number of passes over few images above which they need dropout.
pub const MANY_EPOCHS: u64 = 50;

/// The dropout of small data sets, as in the paper's models that have any.
pub const DROPOUT: f64 = 0.1;

/// The samples after which a model of photographs is worth looking at: 100,000 steps of 256.
pub const LEAST_SAMPLES: u64 = 25_600_000;

/// The shortest run in windows of its moving average, where a window is 1 / (1 - rate) steps.
pub const WINDOWS_A_RUN: u64 = 10;

/// The share of a GPU's memory that a proposed microbatch may fill by the plan.
pub const MEMORY_SHARE: f64 = 0.95;

/// The most passes of a step on one rank in a proposal.
pub const MAX_ACCUMULATION: u64 = 4;

/// The smallest mean number of images in a class.
pub const IMAGES_PER_CLASS: u64 = 5;

/// The factor by which a learning rate may differ from the paper's.
pub const LEARNING_RATE_FACTOR: f64 = 10.0;

/// The size in pixels up to which images that are all grey look like digits or text.
pub const DIGIT_SIZE: u64 = 64;

/// The hours between two checkpoints, which is the work that a failure costs.
pub const MAX_HOURS_UNSAVED: f64 = 6.0;

/// The bytes of all checkpoints that exist at once.
pub const MAX_CHECKPOINT_BYTES: u64 = 1_000_000_000_000;

/// The images below which the covariance of the 2048 features of Inception is singular, so that FID says little.
pub const LEAST_EVALUATION_IMAGES: u64 = 2048;
