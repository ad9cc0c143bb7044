//! The evaluation metrics of the paper, computed from features and class probabilities of images.
//!
//! | metric | function | input |
//! |---|---|---|
//! | FID, sFID | [`frechet_distance`] | pool features, spatial features |
//! | inception score | [`inception_score`] | class probabilities |
//! | KID | [`kernel_inception_distance`] | pool features |
//! | improved precision and recall | [`precision_recall`] | pool features |

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
