//! The hyperparameters of a run, for TensorBoard's dashboard of that name.

use std::collections::BTreeMap;

use prost::Message;

/// TensorBoard's name of the plugin that shows hyperparameters.
pub(super) const PLUGIN: &str = "hparams";

/// The tags under which the dashboard looks for an experiment, and for the start and the end of a run.
pub(super) const EXPERIMENT: &str = "_hparams_/experiment";
pub(super) const START: &str = "_hparams_/session_start_info";
pub(super) const END: &str = "_hparams_/session_end_info";

/// The value of a hyperparameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Hyperparameter {
    /// A number.
    Number(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
}

/// Returns what describes the experiment: its hyperparameters, and the scalars by which its runs are compared.
pub(super) fn experiment(values: &[(String, Hyperparameter)], metrics: &[&str], time: f64) -> Vec<u8> {
    let info = |(name, value): &(String, Hyperparameter)| HParamInfo { name: name.clone(), kind: data_type(value) };
    let metric = |tag: &&str| MetricInfo { name: Some(MetricName { tag: (*tag).to_owned() }) };
    let experiment = Experiment {
        time_created: time,
        hparams: values.iter().map(info).collect(),
        metrics: metrics.iter().map(metric).collect(),
    };
    HParams { experiment: Some(experiment), ..HParams::default() }.encode_to_vec()
}

/// Returns what describes the start of a run.
pub(super) fn start(values: &[(String, Hyperparameter)], group: &str, time: f64) -> Vec<u8> {
    let value = |value: &Hyperparameter| ProtoValue {
        kind: Some(match value {
            Hyperparameter::Number(number) => ProtoKind::Number(*number),
            Hyperparameter::Bool(is) => ProtoKind::Bool(*is),
            Hyperparameter::Text(text) => ProtoKind::Text(text.clone()),
        }),
    };
    let hparams = values.iter().map(|(name, of_name)| (name.clone(), value(of_name))).collect();
    let start = SessionStart { hparams, group_name: group.to_owned(), start_time: time };
    HParams { start: Some(start), ..HParams::default() }.encode_to_vec()
}

/// Returns the summary that marks the end of a run. A run that is not finished keeps the status `running`, because it can be
/// resumed.
pub(super) fn end(is_finished: bool, time: f64) -> Vec<u8> {
    let status = if is_finished { STATUS_SUCCESS } else { STATUS_RUNNING };
    HParams { end: Some(SessionEnd { status, end_time: time }), ..HParams::default() }.encode_to_vec()
}

/// Returns TensorBoard's number of the type of a value.
fn data_type(value: &Hyperparameter) -> i32 {
    match value {
        Hyperparameter::Text(_) => 1,
        Hyperparameter::Bool(_) => 2,
        Hyperparameter::Number(_) => 3,
    }
}

/// TensorBoard's numbers of how a run ended.
const STATUS_SUCCESS: i32 = 1;
const STATUS_RUNNING: i32 = 3;

// The messages, with TensorBoard's field numbers (`plugins/hparams/plugin_data.proto` and `api.proto`).

#[derive(Clone, PartialEq, prost::Message)]
struct HParams {
    #[prost(int32, tag = "1")]
    version: i32,
    #[prost(message, optional, tag = "2")]
    experiment: Option<Experiment>,
    #[prost(message, optional, tag = "3")]
    start: Option<SessionStart>,
    #[prost(message, optional, tag = "4")]
    end: Option<SessionEnd>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Experiment {
    /// Seconds since 1970.
    #[prost(double, tag = "3")]
    time_created: f64,
    #[prost(message, repeated, tag = "4")]
    hparams: Vec<HParamInfo>,
    #[prost(message, repeated, tag = "5")]
    metrics: Vec<MetricInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HParamInfo {
    #[prost(string, tag = "1")]
    name: String,
    /// See [`data_type`].
    #[prost(int32, tag = "4")]
    kind: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MetricInfo {
    #[prost(message, optional, tag = "1")]
    name: Option<MetricName>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MetricName {
    #[prost(string, tag = "2")]
    tag: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SessionStart {
    #[prost(btree_map = "string, message", tag = "1")]
    hparams: BTreeMap<String, ProtoValue>,
    /// Runs of one group are repetitions of each other.
    #[prost(string, tag = "4")]
    group_name: String,
    /// Seconds since 1970.
    #[prost(double, tag = "5")]
    start_time: f64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SessionEnd {
    #[prost(int32, tag = "1")]
    status: i32,
    /// Seconds since 1970.
    #[prost(double, tag = "2")]
    end_time: f64,
}

/// A `google.protobuf.Value`.
#[derive(Clone, PartialEq, prost::Message)]
struct ProtoValue {
    #[prost(oneof = "ProtoKind", tags = "2, 3, 4")]
    kind: Option<ProtoKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum ProtoKind {
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Bool(bool),
}
