//! Files that run Admiral on a cluster and watch it: `admiral-launch template KIND CONFIG`. They are a start: values that
//! only the cluster's owner knows are marked for editing.

mod docker;
mod grafana;
mod input;
mod kubernetes;
mod prometheus;
mod render;
mod slurm;
mod text;

pub use input::{Monitoring, TemplateError, TemplateInput};
pub use render::{TemplateKind, render};
