//! A launch: its attempts, and the reaction to the end of each.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use admiral_contract::host::host_name;
use admiral_contract::{ExitCode, environment};
use tokio::sync::mpsc;

use super::error::LaunchError;
use super::export::Export;
use super::plan::LaunchPlan;
use super::recorder::Recorder;
use super::settings::Settings;
use super::{preflight, sweep};
use crate::console::Console;
use crate::decide::{
    Action, Cause, GroupOptions, Incident, Outcome, Situation, blame_unreachable, decide, signal_name,
};
use crate::file_writer::FileWriter;
use crate::files::Files;
use crate::hosts::{Host, LOCALHOST, is_host_name, is_this_host};
use crate::incident::{Failure, GroupRecord};
use crate::job::JobKind;
use crate::layout::Layout;
use crate::protocol::Hello;
use crate::status::{Condition, State};
use crate::supervise::{Attempt, AttemptEnd, AttemptSpec, RankSettings};

/// Longer delays are cut to this.
const LONGEST_DELAY: Duration = Duration::from_secs(86400);
/// The number of `mpirun`'s lines in an incident's file if not all ranks were started. `mpirun.log` has all lines.
const MPIRUN_LINES: usize = 30;

/// A launch.
pub(super) struct Launch {
    plan: LaunchPlan,
    settings: Settings,
    files: Files,
    writer: FileWriter,
    console: Console,
    launch_id: String,
    launched: Instant,
    pub(super) recorder: Recorder,
    left_out: Vec<String>,
    history: Vec<Incident>,
    /// The attempt IDs of which all processes are known to be gone.
    ended_attempts: Vec<String>,
    next_attempt: u64,
    next_incident: u64,
    reached: u64,
}

impl Launch {
    pub(super) fn new(
        plan: LaunchPlan,
        settings: Settings,
        files: Files,
        writer: FileWriter,
        console: Console,
        launch_id: String,
        launched: Instant,
    ) -> Self {
        let (next_attempt, last_incident) = files.used_numbers();
        let recorder =
            Recorder::new(files.run(), launch_id.clone(), settings.work.kind(), console.clone(), writer.clone())
                .with_places(settings.save_interval, settings.store.clone());
        Self {
            plan,
            settings,
            files,
            writer,
            console,
            launch_id,
            launched,
            recorder,
            left_out: Vec::new(),
            history: Vec::new(),
            ended_attempts: Vec::new(),
            next_attempt,
            next_incident: last_incident + 1,
            reached: 0,
        }
    }

    /// Starts to serve and write the launcher's metrics, if that is wanted.
    pub(super) fn export(&self) -> Result<Option<Export>, LaunchError> {
        let (options, metrics) = (&self.plan.options, self.recorder.metrics());
        Export::start(options, &self.settings, self.files.run(), metrics, &self.console)
    }

    /// Ends the leftovers of a dead launcher, so that its place is free.
    pub(super) async fn clean_up_earlier_launch(&mut self) {
        let Ok(earlier) = crate::status::read(self.files.run()) else { return };
        self.recorder.continue_from(&earlier);
        if earlier.condition == Condition::Ended || earlier.hosts.is_empty() {
            return;
        }
        let places = places_of(&earlier, &host_name());
        if places.len() < earlier.hosts.len() {
            self.console
                .warn(&format!("{}: some hosts have no host name and are not asked", self.files.state().display()));
        }
        if places.is_empty() {
            return;
        }
        let place = match earlier.kind {
            JobKind::Train => format!("at step {}", earlier.step),
            JobKind::Sample => earlier.kind.place(earlier.step),
        };
        self.console.info(&format!(
            "an earlier launch ({}, process {} on {}) ended without a word {}; looking for what it left on {}",
            earlier.launch_id,
            earlier.launcher_pid,
            earlier.launcher_host,
            place,
            places.join(", ")
        ));
        let (left, silent) = self.sweep(&earlier.launch_id, &places, |_| Vec::new()).await;
        if left == 0 && silent.is_empty() {
            self.ended_attempts.extend(earlier.attempt_id);
        } else if !silent.is_empty() {
            self.console.warn(&format!("{} could not be asked", silent.join(", ")));
        }
    }

    /// Examines the hosts, unless that is switched off, and sets the hosts and ranks of the first attempt.
    pub(super) async fn preflight(&mut self) -> Result<(), LaunchError> {
        if self.plan.options.no_preflight {
            return Ok(());
        }
        let receipt = self.files.receipt();
        self.recorder.examine(&self.plan.hosts.hosts, self.plan.world);
        let examining = preflight::preflight(&mut self.plan, &self.settings, &self.launch_id, &receipt, &self.console);
        self.recorder.while_waiting(examining).await?;
        self.settings.check_world(self.plan.world)
    }

    /// Makes attempts until the end. The first one may have been started already.
    pub(super) async fn run_attempts(
        &mut self,
        early: Option<Attempt>,
        stops: &mut mpsc::UnboundedReceiver<()>,
    ) -> Result<u8, LaunchError> {
        let (mut hosts, mut world) = (self.plan.hosts.hosts.clone(), self.plan.world);
        let mut early = early;
        let mut has_stepped = false;
        self.announce(world);
        loop {
            let number = self.next_attempt;
            self.next_attempt += 1;
            let attempt = match early.take() {
                Some(attempt) => attempt,
                None => {
                    let ordinal = self.history.len() as u64;
                    start(self.plan.attempt(ordinal, &self.launch_id, &hosts, world)?, self.launched).await?
                }
            };
            let ranks = self.ranks(number, has_stepped);
            self.recorder.begin(number, attempt.layout());
            let end = attempt.supervise(&ranks, &self.console, stops, &mut self.recorder).await;
            let failed = matches!(end.outcome, Outcome::Incident { .. }).then_some(end.detected);
            self.recorder.note(&end.roster, failed, self.launched.elapsed().as_secs_f64());
            self.write_mpirun_log(number, &end);
            if let Some(misplaced) = &end.misplaced {
                return Err(LaunchError::config(misplaced));
            }
            has_stepped |= end.has_stepped;
            match self.react_to_end(number, end).await? {
                Next::Exit(code) => return Ok(code),
                Next::Retry { delay, hosts: next_hosts, world: next_world } => {
                    (hosts, world) = (next_hosts, next_world);
                    self.recorder.wait_for_start(delay);
                    tokio::select! {
                        () = self.recorder.while_waiting(tokio::time::sleep(delay)) => {}
                        _ = stops.recv() => {
                            self.console.info("asked to stop: no rank is running, and no other attempt is made");
                            return Ok(ExitCode::Preempted as u8);
                        }
                    }
                }
            }
        }
    }

    fn kind(&self) -> JobKind {
        self.settings.work.kind()
    }

    fn announce(&self, world: usize) {
        if let Some(drill) = &self.plan.drill {
            self.console.warn(drill);
        }
        let layout = Layout::with_first(&self.plan.hosts.hosts, world, is_this_host);
        let map = layout.as_ref().map(Layout::by_host).unwrap_or_default();
        let used = layout.map(|layout| layout.hosts).unwrap_or_default();
        let hosts: Vec<String> = used.iter().map(|(host, ranks)| format!("{host}:{ranks}")).collect();
        let is_spare = |host: &&Host| !used.iter().any(|(name, _)| *name == host.name);
        let spares: Vec<&str> = self.plan.hosts.hosts.iter().filter(is_spare).map(|host| host.name.as_str()).collect();
        let spares = if spares.is_empty() { String::new() } else { format!(", spares: {}", spares.join(", ")) };
        let (folder, store) = (self.files.run().display(), &self.settings.store);
        let places = match self.kind() {
            JobKind::Train => format!("the run's folder is {folder}, checkpoints go to {store}"),
            JobKind::Sample => format!("the launcher's files are in {folder}, images go to {store}"),
        };
        self.console.info(&format!(
            "{world} ranks on {}{spares} (from {}); {places}",
            hosts.join(", "),
            self.plan.hosts.source,
        ));
        self.console.info(&map);
        self.console.info(&format!("timeouts: {}", self.settings.timeouts()));
        if rustix::process::getuid().is_root() {
            self.console.info("this is root: mpirun gets --allow-run-as-root");
        }
    }

    fn ranks(&self, number: u64, has_stepped: bool) -> RankSettings {
        let ended = (environment::ENDED_ATTEMPTS.to_owned(), self.ended_attempts.join(","));
        RankSettings {
            argv: self.plan.job.argv(&self.plan.program, has_stepped),
            environment: vec![ended],
            logs: self.files.attempt(number),
            show: self.plan.options.show_rank.clone(),
            has_gpus: self.settings.uses_gpus && self.plan.has_gpus.unwrap_or_else(has_driver),
            // A drill cuts a host off only once.
            vanish: self.plan.vanish.clone().filter(|_| self.history.is_empty()),
            options: GroupOptions {
                kind: self.kind(),
                timeouts: self.settings.limits.timeouts(),
                stop_grace_seconds: self.settings.grace_seconds as f64,
                reached_before: self.reached,
            },
        }
    }

    fn write_mpirun_log(&self, number: u64, end: &AttemptEnd) {
        if end.mpirun_lines.is_empty() {
            return;
        }
        let path = self.files.attempt(number).join("mpirun.log");
        self.writer.put(&path, (end.mpirun_lines.join("\n") + "\n").into_bytes());
    }

    /// Reacts to the end of an attempt.
    async fn react_to_end(&mut self, number: u64, end: AttemptEnd) -> Result<Next, LaunchError> {
        let (incident, sentence) = match &end.outcome {
            Outcome::AllEnded => {
                self.console.info("the run is finished");
                return Ok(Next::Exit(0));
            }
            Outcome::Stopped { code, sentence } => {
                let (kind, roster) = (self.kind(), &end.roster);
                self.console.info(&match (kind, roster.done(kind)) {
                    (JobKind::Train, _) => {
                        format!("{sentence}; the newest checkpoint is of step {}", roster.checkpoint_step())
                    }
                    (JobKind::Sample, Some(done)) => {
                        format!("{sentence}; {done} of {} were drawn", kind.amount(roster.goal(kind)))
                    }
                    (JobKind::Sample, None) => sentence.clone(),
                });
                return Ok(Next::Exit(*code));
            }
            Outcome::Incident { incident, sentence } => (incident.clone(), sentence.clone()),
        };
        self.console.warn(&sentence);
        let unreachable = preflight::unreachable(&self.plan, &self.settings, &end.roster.hosts()).await;
        for (host, why) in &unreachable {
            self.console.warn(&format!("{host}: {why}"));
        }
        let unreachable: Vec<String> = unreachable.into_iter().map(|(host, _)| host).collect();
        let (incident, sentence) = blame_unreachable(incident, sentence, &unreachable);
        let group = self.verify_gone(&end).await;
        if group.is_gone() {
            let attempts = end.roster.readings().map(|reading| reading.attempt_id.clone()).filter(|id| !id.is_empty());
            self.ended_attempts.extend(attempts.take(1));
        }
        let situation = Situation {
            hosts: &self.plan.hosts.hosts,
            left_out: &self.left_out,
            world_wanted: self.plan.world,
            work: self.settings.work,
            min_world: self.plan.options.min_ranks,
            history: &self.history,
            max_restarts: self.plan.options.max_restarts.unwrap_or(self.settings.limits.max_restarts),
            window_seconds: self.settings.limits.restart_window_seconds as f64,
            base_delay_seconds: self.plan.options.base_delay_seconds,
            restart_on_preemption: self.plan.options.restart_on_preemption,
        };
        let action = decide(&incident, &situation);
        let (summary, next) = match action {
            Action::Stop { code, reason } => (format!("gives up ({code}): {reason}"), Next::Exit(code)),
            Action::Restart { delay_seconds, hosts, world, left_out, note } => {
                self.left_out.extend(left_out.into_iter().map(|(host, _)| host));
                let note = note.map(|note| format!("; {note}")).unwrap_or_default();
                let way = match self.kind() {
                    JobKind::Train => " from the newest checkpoint",
                    JobKind::Sample => ", which draw what is missing",
                };
                let summary = format!("starts again in {delay_seconds:.0} s with {world} ranks{way}{note}");
                let delay = Duration::try_from_secs_f64(delay_seconds).unwrap_or(LONGEST_DELAY);
                (summary, Next::Retry { delay, hosts, world })
            }
        };
        let failure = self.failure(number, &end, &incident, sentence, group, &summary);
        self.show_last_lines(&failure);
        let path = self.files.incident(self.next_incident);
        for path in [&path, &self.files.failure()] {
            if let Err(error) = self.writer.put_json(path, &failure) {
                self.console.warn(&error.to_string());
            }
        }
        self.console.warn(&format!("{summary} (see {})", path.display()));
        self.next_incident += 1;
        self.reached = self.reached.max(end.reached);
        self.recorder.metrics().incident(incident.cause);
        self.recorder.metrics().left_out(self.left_out.len());
        self.history.push(incident);
        self.recorder.failed(failure, vec![path, self.files.failure()], end.failed_at);
        Ok(next)
    }

    /// Shows the last lines of the rank that failed, unless its output was shown already.
    fn show_last_lines(&self, failure: &Failure) {
        let lines = failure.last_lines.iter().filter(|line| !line.trim().is_empty());
        let (title, lines): (String, Vec<&String>) = match failure.rank {
            Some(rank) if self.plan.options.show_rank.shows(rank) => return,
            Some(rank) => (
                format!("the last lines of rank {rank}:"),
                lines.rev().take(10).collect::<Vec<_>>().into_iter().rev().collect(),
            ),
            None => ("mpirun said:".to_owned(), lines.take(6).collect()),
        };
        if !lines.is_empty() {
            self.console.warn(&title);
            lines.iter().for_each(|line| self.console.warn(&format!("    {line}")));
        }
    }

    /// Ends the leftovers of a group, and returns what is known of its processes.
    async fn verify_gone(&self, end: &AttemptEnd) -> GroupRecord {
        let mut hosts: Vec<String> = end.unverified.iter().map(|&rank| end.roster.entries[rank].host.clone()).collect();
        hosts.dedup();
        let daemons = |host: &str| -> Vec<String> {
            let there = end.roster.entries.iter().filter(|entry| entry.host == host);
            let hellos = there.filter_map(|entry| entry.hello.as_ref());
            let arguments_of = |hello: &Hello| {
                let session = hello.session.iter().map(|folder| format!("--session={}", folder.display()));
                hello.daemon.iter().map(ToString::to_string).chain(session).collect::<Vec<_>>()
            };
            hellos.flat_map(arguments_of).collect::<BTreeSet<_>>().into_iter().collect()
        };
        let (mut left, silent) = match hosts.as_slice() {
            [] => (0, Vec::new()),
            hosts => self.sweep(&self.launch_id, hosts, daemons).await,
        };
        left += end.roster.entries.iter().filter_map(|entry| entry.left).sum::<usize>();
        if left > 0 {
            self.console.warn(&format!("{left} processes could not be ended: they hang in the kernel or in a driver"));
        }
        if !silent.is_empty() {
            self.console.warn(&format!(
                "processes on {} could not be checked; ranks there end when they no longer hear from the launcher",
                silent.join(", ")
            ));
        }
        GroupRecord {
            seconds_to_down: self.launched.elapsed().as_secs_f64() - end.failed_at,
            processes_left: left,
            unverified_hosts: silent,
        }
    }

    /// Ends what is left of a launch on these hosts. `daemons` returns the daemons of a host and their session folders,
    /// as arguments of `sweep`.
    async fn sweep(
        &self,
        launch_id: &str,
        hosts: &[String],
        daemons: impl Fn(&str) -> Vec<String>,
    ) -> (usize, Vec<String>) {
        sweep::sweep(hosts, |name| {
            let host = Host { name: name.to_owned(), slots: 1, slots_given: true };
            let layout = Layout::one_per_host(&[host], |_| true);
            let daemons = daemons(name);
            let arguments = ["sweep", launch_id].into_iter().chain(daemons.iter().map(String::as_str));
            self.plan.mpirun_command(layout, &arguments.collect::<Vec<_>>(), 1)
        })
        .await
    }

    fn failure(
        &self,
        number: u64,
        end: &AttemptEnd,
        incident: &Incident,
        verdict: String,
        group: GroupRecord,
        action: &str,
    ) -> Failure {
        let entry = incident.rank.and_then(|rank| end.roster.entries.get(rank));
        // The state before the launcher killed the ranks.
        let then = incident.rank.and_then(|rank| end.at_failure.entries.get(rank));
        let (exit_code, signal) = then.and_then(|entry| entry.end).unwrap_or_default();
        let stood = then.and_then(|entry| entry.reading.as_ref()).filter(|_| incident.cause == Cause::Stalled);
        Failure {
            launch_id: self.launch_id.clone(),
            kind: self.kind(),
            incident: self.next_incident,
            attempt: number,
            detected: end.detected,
            verdict,
            rank: incident.rank,
            host: entry.map(|entry| entry.host.clone()).or_else(|| incident.hosts.first().cloned()),
            gpu: entry.map(|entry| entry.local_rank),
            exit_code,
            signal: signal.map(|signal| signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)),
            last_lines: match entry {
                Some(entry) => entry.last_lines.clone(),
                // mpirun explains itself at length; its first lines say what happened.
                None if !end.roster.is_complete() => end.mpirun_lines.iter().take(MPIRUN_LINES).cloned().collect(),
                None => Vec::new(),
            },
            stack: entry.and_then(|entry| entry.stack.clone()),
            ranks: end.at_failure.records(),
            step: end.roster.done(self.kind()).unwrap_or(0),
            group,
            action: action.to_owned(),
            standstill_seconds: stood.map_or(0.0, |reading| reading.phase_seconds),
            harmed: end.vanished,
            steps_lost: None,
            seconds_lost: None,
        }
    }
}

/// Starts an attempt's `mpirun`.
///
/// # Errors
/// If the system refuses.
pub(super) async fn start(plan: AttemptSpec, launched: Instant) -> Result<Attempt, LaunchError> {
    Attempt::launch(plan, launched).await.map_err(LaunchError::system)
}

/// Returns the hosts on which an earlier launch may have left processes. `here` is the name of this host. A name such
/// as `localhost` means the host of the earlier launcher.
fn places_of(earlier: &State, here: &str) -> Vec<String> {
    let is_own =
        |name: &str| name == LOCALHOST || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let place = |name: &String| {
        if is_own(name) && earlier.launcher_host != here { earlier.launcher_host.clone() } else { name.clone() }
    };
    // The file may have been written by somebody else.
    earlier.hosts.iter().map(place).filter(|name| is_host_name(name)).collect()
}

/// Returns whether this machine has the NVIDIA driver. Without a preflight, the other hosts are assumed to be like it.
fn has_driver() -> bool {
    std::path::Path::new("/proc/driver/nvidia/version").exists()
}

enum Next {
    Exit(u8),
    Retry { delay: Duration, hosts: Vec<Host>, world: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_an_earlier_launch_are_searched_on_its_hosts() {
        let launch = State::of_launch("l".into(), jiff::Timestamp::UNIX_EPOCH);
        let hosts = ["localhost", "127.0.0.1", "n1"].map(str::to_owned).to_vec();
        let earlier = State { launcher_host: "n7".into(), hosts: hosts.clone(), ..launch };
        assert_eq!(places_of(&earlier, "n7"), hosts);
        assert_eq!(places_of(&earlier, "n0"), ["n7", "n7", "n1"]);
        let hosts = ["-oProxyCommand=touch x", "n1", "n2;reboot"].map(str::to_owned).to_vec();
        assert_eq!(places_of(&State { hosts, ..earlier }, "n0"), ["n1"]);
    }
}
