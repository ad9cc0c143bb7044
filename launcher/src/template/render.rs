//! Rendering the template of each kind.

use super::input::{TemplateError, TemplateInput, check, check_addresses};
use super::{docker, grafana, kubernetes, prometheus, slurm};

/// The kind of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TemplateKind {
    /// A script for `sbatch`.
    Slurm,
    /// An `MPIJob` of the Kubeflow MPI Operator, version 2.
    Kubernetes,
    /// A Dockerfile for the image that the `MPIJob` names.
    Docker,
    /// The configuration of Prometheus that scrapes the run and its launcher.
    Prometheus,
    /// The alert rules of Prometheus, as admiral-rules.yml beside its configuration.
    PrometheusRules,
    /// A dashboard for Grafana's import.
    Grafana,
}

/// Returns the text of a template for this run.
///
/// # Errors
/// If a value of `input` cannot be written into it.
pub fn render(kind: TemplateKind, input: &TemplateInput) -> Result<String, TemplateError> {
    check(input)?;
    if kind == TemplateKind::Prometheus {
        check_addresses(input)?;
    }
    Ok(match kind {
        TemplateKind::Slurm => slurm::render(input),
        TemplateKind::Kubernetes => kubernetes::render(input),
        TemplateKind::Docker => docker::render(input),
        TemplateKind::Prometheus => prometheus::render_config(input),
        TemplateKind::PrometheusRules => prometheus::render_rules(input),
        TemplateKind::Grafana => grafana::render(input),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::super::input::{Monitoring, example};
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
        // The products with the CPUs and the memory of a GPU would overflow.
        assert!(refused(&|input| input.hosts = usize::MAX).contains("number of hosts"));
        assert!(refused(&|input| input.gpus_per_host = usize::MAX).contains("number of GPUs"));
        assert!(refused(&|input| input.image = "a b".to_owned()).contains("\"a b\": is no name of a container image"));
        let deaf = TemplateInput { monitoring: Monitoring::default(), ..example() };
        assert!(
            render(TemplateKind::Prometheus, &deaf).unwrap_err().to_string().contains("launch.listen=localhost:9465")
        );
        assert!(render(TemplateKind::PrometheusRules, &deaf).is_ok());
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
