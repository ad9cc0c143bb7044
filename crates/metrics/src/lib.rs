//! The metrics of the paper's evaluation, on features and probabilities that are already there.

mod features;
mod frechet;
mod inception_score;
mod kernel_distance;
mod manifold;

pub use features::{Features, MetricError};
pub use frechet::{Statistics, frechet_distance};
pub use inception_score::inception_score;
pub use kernel_distance::kernel_inception_distance;
pub use manifold::{PrecisionRecall, nearest, precision_recall};
