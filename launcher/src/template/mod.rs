//! Files that run Admiral on a cluster: `admiral-launch template slurm|kubernetes|docker CONFIG`. They are a start:
//! values that only the cluster's owner knows are marked for editing.

mod docker;
mod input;
mod kubernetes;
mod render;
mod slurm;
mod text;

pub use input::{TemplateError, TemplateInput};
pub use render::{TemplateKind, render};
