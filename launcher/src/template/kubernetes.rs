//! The `MPIJob`.

use std::path::Path;

use super::input::TemplateInput;
use super::text::{fill, label, title};
use crate::shell::quoted;

/// A pod's host name is NAME-worker-N, and a label has at most 63 letters.
const LONGEST_NAME: usize = 40;
/// Seconds for the signal to reach the ranks, and for the container to end after them.
const SPARE_SECONDS: u64 = 15;
/// The base of relative paths in a pod.
const WORK_FOLDER: &str = "/work";
const CPUS_PER_GPU: usize = 8;
const GIBIBYTES_PER_GPU: usize = 48;

pub fn render(input: &TemplateInput) -> String {
    let name = label(&input.name, LONGEST_NAME);
    let run_folder = in_pod(&input.run_folder);
    let lines = |before: &str, rest: &[String]| {
        rest.iter().map(|line| format!("{before}{line}")).collect::<Vec<_>>().join("\n")
    };
    let (mut mount, mut volume) = (Vec::new(), Vec::new());
    if let Some(path) = &input.data_path {
        let path = string(&in_pod(path));
        mount = vec!["- name: data".to_owned(), format!("  mountPath: {path}"), "  readOnly: true".to_owned()];
        volume = vec![
            "# The images: the claim's root is data.path.".to_owned(),
            "- name: data".to_owned(),
            "  persistentVolumeClaim:".to_owned(),
            format!("    claimName: {name}-data"),
            "    readOnly: true".to_owned(),
        ];
    }
    let text = fill(
        include_str!("mpijob.yaml"),
        &[
            ("title", &title(&input.name)),
            ("name", &name),
            ("config_path", &quoted(&input.config.to_string_lossy())),
            ("steps", &input.steps.to_string()),
            ("hosts", &input.hosts.to_string()),
            ("gpus", &input.gpus_per_host.to_string()),
            ("cpus", &(input.gpus_per_host * CPUS_PER_GPU).to_string()),
            ("memory", &(input.gpus_per_host * GIBIBYTES_PER_GPU).to_string()),
            ("grace", &input.grace_seconds.to_string()),
            ("termination", &(input.grace_seconds + SPARE_SECONDS).to_string()),
            ("image", &string(&input.image)),
            ("run_folder", &string(&run_folder)),
            ("run_setting", &string(&format!("run.folder={run_folder}"))),
            ("data_mount", &lines("                ", &mount)),
            ("data_volume", &lines("            ", &volume)),
        ],
    );
    // Without a data volume, its line is empty.
    text.lines().filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
}

fn in_pod(path: &Path) -> String {
    Path::new(WORK_FOLDER).join(path.strip_prefix("./").unwrap_or(path)).to_string_lossy().into_owned()
}

/// Returns a YAML string. JSON strings are valid YAML.
fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::input::example;
    use super::*;

    #[test]
    fn a_folder_of_images_is_mounted() {
        let text = render(&example());
        assert_eq!(text.matches("mountPath: \"/data/images\"").count(), 2);
        assert_eq!(text.matches("claimName: imagenet-256-data").count(), 2);
        assert!(!render(&TemplateInput { data_path: None, ..example() }).contains("name: data"));
    }

    #[test]
    fn folders_are_absolute_in_a_pod() {
        assert_eq!(in_pod(Path::new("runs/own")), "/work/runs/own");
        assert_eq!(in_pod(Path::new("./runs")), "/work/runs");
        assert_eq!(in_pod(Path::new("/shared")), "/shared");
    }
}
