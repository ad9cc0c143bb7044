//! Decides what people are told about a launch, and when.

use std::path::Path;
use std::time::{Duration, Instant};

use admiral_contract::ExitCode;

use crate::console::Console;
use crate::incident::Failure;
use crate::notify::{Kind, Message, Notifier, Outcome, Silence};
use crate::status::{State, span};

/// Sends notifications, if somebody is to be told, and detects silence.
#[derive(Debug)]
pub(super) struct Reporter {
    run: String,
    console: Console,
    notifier: Option<Notifier>,
    silence: Option<Silence>,
    /// The largest step or number of images that was seen. Those up to it are done again, which is no progress.
    furthest: Option<u64>,
}

impl Reporter {
    /// `dead_man` is the time without progress that is silence.
    pub(super) fn new(run: &Path, console: Console, notifier: Option<Notifier>, dead_man: Option<Duration>) -> Self {
        let silence = dead_man.map(|limit| Silence::new(limit, Instant::now()));
        Self { run: run.display().to_string(), console, notifier, silence, furthest: None }
    }

    /// Returns the notifier, so that its last messages can be waited for. Later ones are not sent.
    pub(super) fn take_notifier(&mut self) -> Option<Notifier> {
        self.notifier.take()
    }

    /// Tells of an incident.
    pub(super) fn incident(&self, state: &State, failure: &Failure) {
        let sentence = format!("incident {}: {}; {}", failure.incident, failure.verdict, failure.action);
        self.send(|run| Message::new(Kind::Incident, run, state, &sentence).about(failure));
    }

    /// Tells that the run continues after incidents which cost `seconds` and `steps`.
    pub(super) fn recovers(&mut self, state: &State, seconds: f64, steps: u64) {
        if self.furthest.is_none_or(|furthest| state.step > furthest) {
            self.furthest = Some(state.step);
            self.ends_silence();
        }
        let again = if steps == 1 { "is" } else { "are" };
        let sentence = format!("continues after {}; {} {again} done again", span(seconds), state.kind.amount(steps));
        self.send(|run| Message {
            seconds_lost: Some(seconds),
            steps_lost: Some(steps),
            ..Message::new(Kind::Recovery, run, state, &sentence)
        });
    }

    /// Records the number of steps or images that are done, and tells when a silence ends.
    pub(super) fn progress(&mut self, state: &State, done: u64) {
        // The first report repeats the step of the checkpoint.
        let is_progress = self.furthest.is_some_and(|furthest| done > furthest);
        self.furthest = self.furthest.max(Some(done));
        if !is_progress {
            return;
        }
        let Some(silent) = self.ends_silence() else { return };
        let sentence = format!("makes steps again after a silence of {}", span(silent.as_secs_f64()));
        self.console.info(&sentence);
        self.send(|run| Message {
            seconds_lost: Some(silent.as_secs_f64()),
            ..Message::new(Kind::Recovery, run, state, &sentence)
        });
    }

    /// Tells of silence, if it is time.
    pub(super) fn tick(&mut self, state: &State) {
        let Some(silent) = self.silence.as_mut().and_then(|silence| silence.begins(Instant::now())) else { return };
        let silent = silent.as_secs_f64();
        let sentence = format!("silence: no new {} for {}; it is {}", state.kind.unit(), span(silent), state.condition);
        self.console.warn(&sentence);
        self.send(|run| Message { seconds_lost: Some(silent), ..Message::new(Kind::Silence, run, state, &sentence) });
    }

    /// Tells of the end of the launch.
    pub(super) fn end(&mut self, state: &State, code: u8) {
        self.silence = None;
        let (outcome, mut sentence) = match code {
            0 => (Outcome::Finished, "is finished".to_owned()),
            code if code == ExitCode::Preempted as u8 => {
                (Outcome::Preempted, "was stopped and can continue".to_owned())
            }
            code => (Outcome::GivenUp, format!("is given up with exit code {code}")),
        };
        if let (Outcome::GivenUp, Some(incident)) = (outcome, &state.last_incident) {
            sentence += &format!("; the last incident: {incident}");
        }
        self.send(|run| Message {
            outcome: Some(outcome),
            exit_code: Some(code),
            ..Message::new(Kind::End, run, state, &sentence)
        });
    }

    fn ends_silence(&mut self) -> Option<Duration> {
        self.silence.as_mut()?.ends(Instant::now())
    }

    fn send(&self, message: impl FnOnce(&str) -> Message) {
        if let Some(notifier) = &self.notifier {
            notifier.send(message(&self.run));
        }
    }
}

#[cfg(test)]
mod tests {
    use admiral_contract::Notify;
    use jiff::Timestamp;

    use super::*;
    use crate::environment::Environment;
    use crate::notify::Patience;

    #[test]
    fn silence_its_end_and_the_end_of_the_launch_are_told_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("out");
        let script = format!("echo \"$ADMIRAL_EVENT: $ADMIRAL_MESSAGE\" >> {}", out.display());
        let notify = Notify::Command(["sh", "-c", &script].map(str::to_owned).to_vec());
        let console = Console::new(&Environment::new([]));
        let notifier = Notifier::start(&notify, Patience::default(), console.clone()).expect("a thread");
        let state = State::of_launch("l".into(), Timestamp::UNIX_EPOCH);
        let mut reporter = Reporter::new(Path::new("/runs/own"), console, Some(notifier), Some(Duration::ZERO));
        // The first number is that of the checkpoint.
        reporter.progress(&state, 20);
        reporter.tick(&state);
        reporter.tick(&state);
        // After a restart from step 10, the steps up to 20 are done again.
        for done in [20, 10, 19, 20] {
            reporter.progress(&state, done);
        }
        reporter.recovers(&State { step: 20, ..state.clone() }, 1.0, 10);
        reporter.tick(&state);
        for done in [21, 22] {
            reporter.progress(&state, done);
        }
        reporter.end(&State { last_incident: Some("rank 1 died".into()), ..state }, 69);
        reporter.take_notifier().expect("it is there").finish(Duration::from_secs(60));
        let text = std::fs::read_to_string(out).expect("it is written");
        let begins = [
            "silence: admiral: /runs/own: silence: no new step",
            "recovery: admiral: /runs/own: continues after",
            "recovery: admiral: /runs/own: makes steps again after a silence",
            "end: ",
        ];
        assert!(text.lines().zip(begins).all(|(line, begin)| line.starts_with(begin)), "{text}");
        assert_eq!(text.lines().count(), begins.len(), "{text}");
        assert!(text.contains("exit code 69; the last incident: rank 1 died"), "{text}");
    }
}
