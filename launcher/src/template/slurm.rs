//! The script for `sbatch`.

use super::input::TemplateInput;
use super::text::{fill, label, title};
use crate::shell::quoted;

/// Slurm sends its warning up to a minute early or late.
const SPARE_SECONDS: u64 = 60;

pub fn render(input: &TemplateInput) -> String {
    fill(
        include_str!("job.sbatch"),
        &[
            ("title", &title(&input.name)),
            ("name", &label(&input.name, 60)),
            ("steps", &input.steps.to_string()),
            ("hosts", &input.hosts.to_string()),
            ("gpus", &input.gpus_per_host.to_string()),
            ("grace", &input.grace_seconds.to_string()),
            ("warning", &(input.grace_seconds + SPARE_SECONDS).to_string()),
            ("config", &quoted(&input.config.to_string_lossy())),
        ],
    )
}
