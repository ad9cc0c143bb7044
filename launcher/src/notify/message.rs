//! The content of a notification.

use jiff::Timestamp;
use serde::Serialize;

use crate::incident::Failure;
use crate::job::JobKind;
use crate::status::State;

/// Longer texts are cut, so that a notification fits into a pipe and into what services accept.
const MAX_CHARACTERS: usize = 2000;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// An attempt failed.
    Incident,
    /// The run makes steps again, after an incident or after silence.
    Recovery,
    /// There was no new step for `launch.dead_man_seconds`.
    Silence,
    /// The launch has ended.
    End,
}

impl Kind {
    /// Returns the name, as in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Incident => "incident",
            Self::Recovery => "recovery",
            Self::Silence => "silence",
            Self::End => "end",
        }
    }
}

/// How a launch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// All steps are done.
    Finished,
    /// It was asked to stop, and can continue.
    Preempted,
    /// It failed, and is not restarted.
    GivenUp,
}

/// A notification. Its JSON is posted to a webhook, or written to the standard input of a command. `text` is the field
/// that chat services show.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Message {
    pub(crate) text: String,
    pub(crate) event: Kind,
    pub(crate) time: Timestamp,
    /// The run's folder.
    pub(crate) run: String,
    pub(crate) kind: JobKind,
    pub(crate) launch_id: String,
    /// The host of the launcher.
    pub(crate) host: String,
    pub(crate) attempt: u64,
    pub(crate) restarts: u64,
    /// The number of steps that are done, or of images.
    pub(crate) step: u64,
    pub(crate) last_step: u64,
    pub(crate) checkpoint_step: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) incident: Option<IncidentPart>,
    /// For a recovery: the time without new steps in seconds. For silence: the time so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seconds_lost: Option<f64>,
    /// For a recovery from an incident: the steps or images that are done again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) steps_lost: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<u8>,
}

/// The parts of `failure.json` that a person needs first. The output of ranks is not among them, because it may contain
/// secrets.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct IncidentPart {
    number: u64,
    verdict: String,
    rank: Option<usize>,
    host: Option<String>,
    action: String,
}

impl Message {
    /// Returns a message of a kind about a run in a state, with `sentence` as its text.
    pub(crate) fn new(event: Kind, run: &str, state: &State, sentence: &str) -> Self {
        Self {
            text: short(&format!("admiral: {run}: {sentence}")),
            event,
            time: Timestamp::now(),
            run: short(run),
            kind: state.kind,
            launch_id: state.launch_id.clone(),
            host: state.launcher_host.clone(),
            attempt: state.attempt,
            restarts: state.restarts,
            step: state.step,
            last_step: state.last_step,
            checkpoint_step: state.checkpoint_step,
            incident: None,
            seconds_lost: None,
            steps_lost: None,
            outcome: None,
            exit_code: None,
        }
    }

    /// Adds an incident.
    pub(crate) fn about(mut self, failure: &Failure) -> Self {
        self.incident = Some(IncidentPart {
            number: failure.incident,
            verdict: short(&failure.verdict),
            rank: failure.rank,
            host: failure.host.clone(),
            action: short(&failure.action),
        });
        self
    }

    /// Returns the JSON.
    pub(crate) fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Returns a text without secrets, cut if it is long.
fn short(text: &str) -> String {
    let text = admiral_contract::secret::masked_text(text);
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_short_and_has_no_secrets() {
        let state = State::of_launch("l".into(), Timestamp::UNIX_EPOCH);
        let sentence = format!("http://me:hush@host/ HF_TOKEN=hush {}", "é".repeat(100_000));
        let json = Message::new(Kind::Silence, "/runs/own", &state, &sentence).json();
        let value: serde_json::Value = serde_json::from_slice(&json).expect("it is JSON");
        assert!(json.len() < 16_384 && !String::from_utf8_lossy(&json).contains("hush"), "{value}");
        assert_eq!((&value["event"], &value["run"]), (&"silence".into(), &"/runs/own".into()));
        assert!(value.get("incident").is_none());
        for kind in [Kind::Incident, Kind::Recovery, Kind::Silence, Kind::End] {
            assert_eq!(serde_json::to_value(kind).expect("it is JSON"), kind.name());
        }
    }
}
