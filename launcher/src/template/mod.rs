//! Files to run Admiral by on a cluster: `admiral-launch template slurm|kubernetes|docker CONFIG`. They are a start:
//! what only the cluster's owner knows stands in them to be changed.

mod docker;
mod kubernetes;
mod slurm;

use std::path::PathBuf;

/// What a template is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A script for `sbatch`.
    Slurm,
    /// An `MPIJob` of the Kubeflow MPI Operator, version 2.
    Kubernetes,
    /// A Dockerfile for the image that the `MPIJob` names.
    Docker,
}

/// What the templates say about a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateInput {
    /// The run's name, for people and the scheduler.
    pub name: String,
    /// The configuration's file, as it was given.
    pub config: PathBuf,
    /// The run's folder. In pods a relative one lies under `/work`.
    pub run_folder: PathBuf,
    /// The images, where they are in a folder.
    pub data_path: Option<PathBuf>,
    /// The steps of the run.
    pub steps: u64,
    /// What a rank has to publish a checkpoint after it was told to stop, in seconds.
    pub grace_seconds: u64,
    /// Hosts.
    pub hosts: usize,
    /// GPUs of each, and ranks on it.
    pub gpus_per_host: usize,
    /// The container image.
    pub image: String,
}

/// What cannot stand in a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?}: {problem}")]
pub struct TemplateError {
    field: &'static str,
    value: String,
    problem: &'static str,
}

/// The text of a template for this run.
///
/// # Errors
/// Where something in `input` cannot stand in it.
pub fn render(kind: Kind, input: &TemplateInput) -> Result<String, TemplateError> {
    check(input)?;
    Ok(match kind {
        Kind::Slurm => slurm::render(input),
        Kind::Kubernetes => kubernetes::render(input),
        Kind::Docker => docker::render(input),
    })
}

fn check(input: &TemplateInput) -> Result<(), TemplateError> {
    let wrong = |field, value: &str, problem| Err(TemplateError { field, value: value.to_owned(), problem });
    if input.hosts == 0 {
        return wrong("the number of hosts", "0", "has to be at least 1");
    }
    if input.gpus_per_host == 0 {
        return wrong("the number of GPUs of a host", "0", "has to be at least 1");
    }
    let is_image = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if !input.image.starts_with(|c: char| c.is_ascii_alphanumeric()) || !input.image.chars().all(is_image) {
        return wrong(
            "the image",
            &input.image,
            "is no name of a container image, such as registry.example.org/admiral:1",
        );
    }
    let paths = [
        ("the configuration", Some(&input.config)),
        ("run.folder", Some(&input.run_folder)),
        ("data.path", input.data_path.as_ref()),
    ];
    for (field, path) in paths.into_iter().filter_map(|(field, path)| Some((field, path?))) {
        match path.to_str() {
            Some(text) if !text.is_empty() && !text.contains(char::is_control) => {}
            Some(text) => return wrong(field, text, "is empty or has a control character in it"),
            None => return wrong(field, &path.to_string_lossy(), "is not in UTF-8"),
        }
    }
    Ok(())
}

/// Puts `values` where their names stand in braces.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").expect("a template's braces are closed");
        let (_, value) = values.iter().find(|(known, _)| *known == name).expect("a template's names are known");
        text.push_str(before);
        text.push_str(value);
        rest = after;
    }
    text + rest
}

/// A name that Slurm and Kubernetes take: a DNS label of at most `longest` letters that begins with one.
fn label(name: &str, longest: usize) -> String {
    let mut label = String::new();
    for c in name.chars().map(|c| c.to_ascii_lowercase()) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() && !label.is_empty() {
            label.push(c);
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
    }
    label.truncate(longest);
    let label = label.trim_end_matches('-');
    if label.is_empty() { "admiral".to_owned() } else { label.to_owned() }
}

/// A name that can stand in a comment: one line.
fn title(name: &str) -> String {
    name.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    pub(super) fn input() -> TemplateInput {
        TemplateInput {
            name: "ImageNet 256".to_owned(),
            config: "configs/it's own.yaml".into(),
            run_folder: "runs/own".into(),
            data_path: Some("/data/images".into()),
            steps: 100_000,
            grace_seconds: 90,
            hosts: 4,
            gpus_per_host: 8,
            image: "registry.example.org/admiral:1".to_owned(),
        }
    }

    #[test]
    fn what_cannot_stand_in_a_template_is_refused() {
        let refused = |change: &dyn Fn(&mut TemplateInput)| {
            let mut input = input();
            change(&mut input);
            render(Kind::Kubernetes, &input).unwrap_err().to_string()
        };
        assert!(refused(&|input| input.hosts = 0).contains("number of hosts"));
        assert!(refused(&|input| input.gpus_per_host = 0).contains("number of GPUs"));
        assert!(refused(&|input| input.image = "a b".to_owned()).contains("\"a b\": is no name of a container image"));
        assert!(refused(&|input| input.run_folder = "a\nb".into()).contains("run.folder"));
    }

    #[test]
    fn labels() {
        assert_eq!(label("ImageNet 256", 40), "imagenet-256");
        assert_eq!(label("64--größe_", 40), "gr-e");
        assert_eq!(label("...", 40), "admiral");
        assert_eq!(label("ab-cd", 3), "ab");
    }

    proptest! {
        #[test]
        fn a_label_is_one(name in ".{0,60}", longest in 8_usize..50) {
            let label = label(&name, longest);
            prop_assert!(label.len() <= longest && label.starts_with(|c: char| c.is_ascii_lowercase()));
            prop_assert!(!label.ends_with('-'));
            prop_assert!(label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
        }

        /// Nothing is left to fill, whatever the run is called.
        #[test]
        fn every_template_is_filled(name in ".{0,20}", config in "[ -~]{1,20}") {
            let (name, config) = (name.replace(['{', '}'], ""), config.replace(['{', '}'], "x").into());
            let input = TemplateInput { name, config, ..input() };
            for kind in [Kind::Slurm, Kind::Kubernetes, Kind::Docker] {
                let text = render(kind, &input).unwrap();
                prop_assert!(!text.contains("{{") && !text.contains("}}"), "{text}");
            }
        }
    }
}
