//! What TensorBoard shows of a run besides its curves: the configuration, the hyperparameters, and which curves belong
//! together.

use admiral_telemetry::{ChartGroup, Hyperparameter, TensorBoard};
use serde_json::Value;

use crate::model::Task;
use crate::run_config::{PrecisionMode, RunConfig};

/// The titles of charts that only some runs have.
const VALIDATION: &str = "validation";
const EVALUATION: &str = "evaluation";
const LOSS_SCALE: &str = "loss scale";

/// The curves that belong together, as regular expressions.
const LAYOUT: [ChartGroup<'static>; 4] = [
    ChartGroup {
        title: "Loss",
        charts: &[
            ("loss and its terms", &["^loss$", "^mse$", "^vb$"]),
            ("loss by quarter of the timesteps", &["^loss_q[0-3]$"]),
            (VALIDATION, &["^val_loss$", "^val_acc@[15]$", "^acc@[15]$"]),
            (EVALUATION, &["^evaluation/"]),
        ],
    },
    ChartGroup {
        title: "Optimization",
        charts: &[
            ("norms", &["^grad_norm$", "^param_norm$"]),
            ("learning rate", &["^learning_rate$"]),
            (LOSS_SCALE, &["^lg_loss_scale$", "^skipped_steps$"]),
        ],
    },
    ChartGroup {
        title: "Speed",
        charts: &[
            ("images per second", &["^images_per_second$"]),
            (
                "time of a step",
                &["^step_seconds$", "^data_wait_seconds$", "^all_reduce_seconds$", "^all_reduce_exposed_seconds$"],
            ),
            ("ranks: steps", &["^ranks/step_seconds/"]),
            ("ranks: waiting", &["^ranks/data_seconds/", "^ranks/wait_seconds/"]),
        ],
    },
    ChartGroup {
        title: "Checkpoints and data",
        charts: &[
            ("seconds", &["^checkpoint/seconds$", "^checkpoint/stall_seconds$"]),
            ("failures", &["^checkpoint/failures$", "^checkpoint/skipped$"]),
            ("broken images", &["^skipped_images$", "^broken_images$"]),
        ],
    },
];

/// The curves by which TensorBoard compares runs.
const COMPARED: [&str; 4] = ["loss", "grad_norm", "images_per_second", "val_loss"];

/// The sections of the configuration that are hyperparameters. Others say where things are.
const SECTIONS: [&str; 5] = ["model", "diffusion", "training", "optimizer", "precision"];

/// The section that is one for classifiers only.
const OF_CLASSIFIERS: &str = "classifier";

/// Records the configuration, the hyperparameters and the layout of a run that starts at `step`.
pub(super) fn describe(board: &TensorBoard, config: &RunConfig, step: u64) {
    board.text("configuration", step, &format!("```yaml\n{}```", admiral_config::show(config, &[])));
    board.run_starts(step, &config.run.folder, &hyperparameters(config), &COMPARED);
    let charts = LAYOUT.map(|group| {
        let used = group.charts.iter().filter(|(title, _)| has_chart(config, title));
        (group.title, used.copied().collect::<Vec<_>>())
    });
    let groups: Vec<ChartGroup<'_>> =
        charts.iter().map(|(title, charts)| ChartGroup { title, charts: charts.as_slice() }).collect();
    board.layout(step, &groups);
}

/// Returns whether a run has the curves of a chart.
fn has_chart(config: &RunConfig, title: &str) -> bool {
    match title {
        VALIDATION => config.task == Task::Classifier,
        EVALUATION => config.evaluation.interval > 0,
        LOSS_SCALE => config.precision.mode == PrecisionMode::Fp16,
        _ => true,
    }
}

/// Returns the hyperparameters of a run: `model.channels` and its like, in the order of the configuration.
fn hyperparameters(config: &RunConfig) -> Vec<(String, Hyperparameter)> {
    // A configuration can always be expressed as JSON; the checkpoints have it, too.
    let all = serde_json::to_value(config).unwrap_or_default();
    let mut found = Vec::new();
    add(&mut found, "task", &all["task"]);
    add(&mut found, "run.seed", &all["run"]["seed"]);
    let of_classifiers = Some(OF_CLASSIFIERS).filter(|_| config.task == Task::Classifier);
    for section in SECTIONS.into_iter().chain(of_classifiers) {
        let fields = all[section].as_object().into_iter().flatten();
        for (field, value) in fields {
            add(&mut found, &format!("{section}.{field}"), value);
        }
    }
    found
}

/// Adds a field, unless it has no value. Lists and groups are texts.
fn add(found: &mut Vec<(String, Hyperparameter)>, name: &str, value: &Value) {
    let value = match value {
        Value::Null => return,
        Value::Bool(is) => Hyperparameter::Bool(*is),
        Value::Number(number) => Hyperparameter::Number(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Hyperparameter::Text(text.clone()),
        Value::Array(_) | Value::Object(_) => Hyperparameter::Text(value.to_string()),
    };
    found.push((name.to_owned(), value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_hyperparameters_of_their_type() {
        let found = hyperparameters(&RunConfig::default());
        let value = |name: &str| found.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        assert!(matches!(value("optimizer.learning_rate"), Some(Hyperparameter::Number(_))), "{found:?}");
        assert!(matches!(value("optimizer.ema_rates"), Some(Hyperparameter::Text(_))), "{found:?}");
        assert!(matches!(value("run.seed"), Some(Hyperparameter::Number(_))), "{found:?}");
        assert!(matches!(value("task"), Some(Hyperparameter::Text(_))), "{found:?}");
        assert_eq!(value("classifier.noised"), None, "it is no classifier");
    }

    #[test]
    fn charts_without_curves_are_left_out() {
        let mut config = RunConfig::default();
        assert!(has_chart(&config, "norms") && !has_chart(&config, VALIDATION) && !has_chart(&config, EVALUATION));
        config.task = Task::Classifier;
        assert!(has_chart(&config, VALIDATION));
    }
}
