//! Rendering the template of each kind.

use super::input::{TemplateError, TemplateInput, check};
use super::{docker, kubernetes, slurm};

/// The kind of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TemplateKind {
    /// A script for `sbatch`.
    Slurm,
    /// An `MPIJob` of the Kubeflow MPI Operator, version 2.
    Kubernetes,
    /// A Dockerfile for the image that the `MPIJob` names.
    Docker,
}

/// Returns the text of a template for this run.
///
/// # Errors
/// If a value of `input` cannot be written into it.
pub fn render(kind: TemplateKind, input: &TemplateInput) -> Result<String, TemplateError> {
    check(input)?;
    Ok(match kind {
        TemplateKind::Slurm => slurm::render(input),
        TemplateKind::Kubernetes => kubernetes::render(input),
        TemplateKind::Docker => docker::render(input),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::super::input::example;
    use super::*;

    #[test]
    fn invalid_values_of_a_template_are_refused() {
        let refused = |change: &dyn Fn(&mut TemplateInput)| {
            let mut input = example();
            change(&mut input);
            render(TemplateKind::Kubernetes, &input).unwrap_err().to_string()
        };
        assert!(refused(&|input| input.hosts = 0).contains("number of hosts"));
        assert!(refused(&|input| input.gpus_per_host = 0).contains("number of GPUs"));
        assert!(refused(&|input| input.image = "a b".to_owned()).contains("\"a b\": is no name of a container image"));
        assert!(refused(&|input| input.run_folder = "a\nb".into()).contains("run.folder"));
    }

    proptest! {
        /// All placeholders are filled, whatever the run's name is.
        #[test]
        fn every_template_is_filled(name in ".{0,20}", config in "[ -~]{1,20}") {
            let (name, config) = (name.replace(['{', '}'], ""), config.replace(['{', '}'], "x").into());
            let input = TemplateInput { name, config, ..example() };
            for kind in [TemplateKind::Slurm, TemplateKind::Kubernetes, TemplateKind::Docker] {
                let text = render(kind, &input).unwrap();
                prop_assert!(!text.contains("{{") && !text.contains("}}"), "{text}");
            }
        }
    }
}
