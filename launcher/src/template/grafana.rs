//! The dashboard for Grafana.

use serde_json::{Value, json};

use super::input::TemplateInput;

/// A panel: its title, its unit in Grafana's words, and the expressions with their legends.
type Panel = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// The rows of the dashboard with their panels.
const ROWS: [(&str, &[Panel]); 4] = [
    (
        "Run",
        &[
            ("State", "none", &[("admiral_launch_state{run=~\"$run\"} == 1", "{{state}}")]),
            (
                "Time since the last step",
                "s",
                &[
                    ("admiral_launch_step_age_seconds{run=~\"$run\"}", "launcher"),
                    ("admiral_step_age_seconds{run=~\"$run\"}", "rank 0"),
                ],
            ),
            (
                "Steps",
                "none",
                &[
                    ("admiral_steps_total{run=~\"$run\"}", "done"),
                    ("admiral_planned_steps{run=~\"$run\"}", "planned"),
                    ("admiral_checkpoint_step{run=~\"$run\"}", "checkpoint"),
                ],
            ),
            ("Time left", "s", &[("admiral_launch_remaining_seconds{run=~\"$run\"}", "left")]),
            (
                "Restarts and incidents",
                "none",
                &[
                    ("admiral_launch_restarts_total{run=~\"$run\"}", "restarts"),
                    ("admiral_launch_incidents_total{run=~\"$run\"} > 0", "{{cause}}"),
                ],
            ),
            (
                "Ranks",
                "none",
                &[
                    ("admiral_launch_ranks{run=~\"$run\"}", "wanted"),
                    ("admiral_launch_ranks_alive{run=~\"$run\"}", "alive"),
                    ("admiral_launch_ranks_slow{run=~\"$run\"}", "slow"),
                    ("admiral_launch_hosts_left_out{run=~\"$run\"}", "hosts left out"),
                ],
            ),
        ],
    ),
    (
        "Training",
        &[
            (
                "Loss",
                "none",
                &[("admiral_loss{run=~\"$run\"}", "loss"), ("admiral_validation_loss{run=~\"$run\"}", "validation")],
            ),
            ("Loss by quarter of the timesteps", "none", &[("admiral_loss_by_timestep{run=~\"$run\"}", "{{quarter}}")]),
            (
                "Norms",
                "none",
                &[
                    ("admiral_gradient_norm{run=~\"$run\"}", "gradient"),
                    ("admiral_parameter_norm{run=~\"$run\"}", "parameters"),
                ],
            ),
            (
                "Loss scale (log2)",
                "none",
                &[
                    ("admiral_loss_scale_log2{run=~\"$run\"}", "scale"),
                    ("admiral_loss_scale_floor_log2{run=~\"$run\"}", "floor"),
                ],
            ),
            ("Learning rate", "none", &[("admiral_learning_rate{run=~\"$run\"}", "learning rate")]),
            ("Evaluation", "none", &[("admiral_evaluation{run=~\"$run\"}", "{{metric}} {{weights}}")]),
        ],
    ),
    (
        "Speed",
        &[
            ("Images per second", "none", &[("admiral_images_per_second{run=~\"$run\"}", "images/s")]),
            (
                "A step",
                "s",
                &[
                    ("admiral_step_seconds{run=~\"$run\"}", "step"),
                    ("admiral_data_wait_seconds{run=~\"$run\"}", "waiting for images"),
                    ("admiral_all_reduce_exposed_seconds{run=~\"$run\"}", "waiting for sums"),
                ],
            ),
            (
                "Own work of each rank",
                "s",
                &[(
                    "admiral_rank_step_seconds{run=~\"$run\"} - admiral_rank_exchange_seconds{run=~\"$run\"}",
                    "rank {{rank}}",
                )],
            ),
            (
                "What the time was spent on",
                "s",
                &[("admiral_launch_goodput_seconds{run=~\"$run\"} > 0", "{{account}}")],
            ),
        ],
    ),
    (
        "Checkpoints",
        &[
            (
                "Time to store",
                "s",
                &[
                    ("admiral_checkpoint_duration_seconds{run=~\"$run\"}", "stored"),
                    ("admiral_checkpoint_stall_seconds{run=~\"$run\"}", "training waited"),
                ],
            ),
            (
                "Failures",
                "none",
                &[
                    ("admiral_checkpoint_failures_total{run=~\"$run\"}", "failed"),
                    ("admiral_checkpoint_skipped_total{run=~\"$run\"}", "left out"),
                ],
            ),
        ],
    ),
];

/// The width of Grafana's grid, and the sizes of panels in it.
const WIDTH: usize = 24;
const PANEL_WIDTH: usize = 8;
const PANEL_HEIGHT: usize = 7;

/// Returns the dashboard as JSON, for Grafana's import.
pub fn render(input: &TemplateInput) -> String {
    let mut panels = Vec::new();
    let mut y = 0;
    for (title, of_row) in ROWS {
        let place = json!({ "x": 0, "y": y, "w": WIDTH, "h": 1 });
        panels.push(json!({ "type": "row", "id": panels.len() + 1, "title": title, "gridPos": place, "panels": [] }));
        y += 1;
        for (number, panel) in of_row.iter().enumerate() {
            let per_line = WIDTH / PANEL_WIDTH;
            let (x, line) = (number % per_line * PANEL_WIDTH, number / per_line);
            let place = json!({ "x": x, "y": y + line * PANEL_HEIGHT, "w": PANEL_WIDTH, "h": PANEL_HEIGHT });
            panels.push(timeseries(panels.len() + 1, panel, &place));
        }
        y += of_row.len().div_ceil(WIDTH / PANEL_WIDTH) * PANEL_HEIGHT;
    }
    let dashboard = json!({
        "title": format!("Admiral: {}", input.name),
        "tags": ["admiral"],
        "schemaVersion": 39,
        "editable": true,
        "refresh": "30s",
        "time": { "from": "now-6h", "to": "now" },
        "templating": { "list": [
            { "name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source" },
            {
                "name": "run",
                "type": "query",
                "label": "Run",
                "datasource": data_source(),
                "query": "label_values({__name__=~\"admiral_build_info|admiral_launch_build_info\"}, run)",
                "refresh": 2,
                "includeAll": true,
                "multi": true,
            },
        ] },
        "panels": panels,
    });
    format!("{dashboard:#}\n")
}

fn data_source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn timeseries(id: usize, (title, unit, expressions): &Panel, place: &Value) -> Value {
    let target = |(number, (expression, legend)): (usize, &(&str, &str))| {
        let name = char::from(b'A' + u8::try_from(number).unwrap_or_default());
        json!({ "refId": name.to_string(), "expr": expression, "legendFormat": legend, "datasource": data_source() })
    };
    json!({
        "type": "timeseries",
        "id": id,
        "title": title,
        "gridPos": place,
        "datasource": data_source(),
        "fieldConfig": { "defaults": { "unit": unit }, "overrides": [] },
        "targets": expressions.iter().enumerate().map(target).collect::<Vec<_>>(),
    })
}
