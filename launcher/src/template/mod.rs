//! Files to run Admiral by on a cluster: `admiral-launch template slurm|kubernetes|docker CONFIG`. They are a start:
//! what only the cluster's owner knows stands in them to be changed.

mod docker;
mod input;
mod kubernetes;
mod render;
mod slurm;
mod text;

pub use input::{TemplateError, TemplateInput};
pub use render::{TemplateKind, render};
