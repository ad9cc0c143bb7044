//! `admiral-launch run`: attempts, one after the other, until the run is finished or cannot go on.

mod keeper;
mod options;
mod preflight;
mod sweep;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use admiral_rank_contract::{ExitCode, environment};
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::console::Console;
use crate::decide::{Action, Cause, GroupOptions, Incident, Outcome, Situation, decide};
use crate::facts::{self, Facts};
use crate::files::{Files, write_json};
use crate::hosts::{Host, HostList, Source, is_this_host, resolve};
use crate::incident::{Failure, GroupRecord, signal_name};
use crate::layout::Layout;
use crate::mpirun::{MpirunPlan, find_mpirun, passed_variables};
use crate::status::Condition;
pub use crate::supervise::Vanish;
use crate::supervise::{Attempt, AttemptEnd, AttemptPlan, Ranks, own_addresses};
use crate::world;
use keeper::Keeper;
pub use options::{HostOptions, RunOptions};
pub use sweep::{SWEPT, sweep_here};

/// Why a launch ends without a run; each with what the launcher exits with.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct LaunchError {
    /// What the launcher exits with.
    pub code: u8,
    /// For people.
    pub message: String,
}

impl LaunchError {
    /// Something that starting again cannot mend.
    pub fn config(message: impl std::fmt::Display) -> Self {
        Self { code: ExitCode::Config as u8, message: message.to_string() }
    }

    /// Something about this machine.
    pub fn system(message: impl std::fmt::Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }
}

/// What is settled before anything is started.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the user wants.
    pub options: RunOptions,
    /// The hosts, spares among them.
    pub hosts: HostList,
    /// The ranks wanted.
    pub world: usize,
    /// `mpirun`.
    pub mpirun: std::path::PathBuf,
    /// The program `admiral`.
    pub program: std::path::PathBuf,
    /// The configuration's file, from the root: ranks elsewhere have no other way to find it.
    pub config: std::path::PathBuf,
    /// What ranks get of this environment.
    pub variables: Vec<(String, String)>,
    /// For a drill: a host that is to be lost.
    pub vanish: Option<Vanish>,
}

impl Plan {
    /// Reads the command line and the environment; starts nothing.
    ///
    /// # Errors
    /// What is wrong with either.
    pub fn new(options: RunOptions) -> Result<Self, LaunchError> {
        let HostOptions { hostfile, hosts, np, .. } = options.hosts.clone();
        let request = crate::hosts::HostRequest { hostfile, hosts, np };
        let hosts = resolve(&request, &|name| std::env::var(name).ok()).map_err(LaunchError::config)?;
        let slots: usize = hosts.hosts.iter().map(|host| host.slots).sum();
        let world = np.unwrap_or(slots);
        // Said now, and not when hosts have been examined.
        Layout::new(&hosts.hosts, world).map_err(LaunchError::config)?;
        let mpirun = find_mpirun(options.hosts.mpirun.as_deref()).map_err(LaunchError::system)?;
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let variables = passed_variables(environment, &options.hosts.pass).map_err(LaunchError::config)?;
        let config = std::path::absolute(&options.config).map_err(LaunchError::system)?;
        let program = facts::program(options.hosts.program.as_deref());
        Ok(Self { options, hosts, world, mpirun, program, config, variables, vanish: None })
    }

    /// Whether all ranks are on this machine.
    fn is_local(&self) -> bool {
        self.hosts.source == Source::Local
    }

    /// The line that starts `arguments` of this program on every place of `layout`.
    fn mpirun_plan(&self, layout: Layout, arguments: &[&str], grace_seconds: u64) -> MpirunPlan {
        MpirunPlan {
            mpirun: self.mpirun.clone(),
            layout,
            program: std::env::current_exe().unwrap_or_else(|_| "admiral-launch".into()),
            arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
            variables: self.variables.clone(),
            grace_seconds,
            is_root: rustix::process::getuid().is_root(),
            oversubscribe: true,
            interfaces: self.options.hosts.interfaces.clone(),
            options: self.options.hosts.mpirun_options.clone(),
        }
    }

    /// The addresses by which the hosts may reach this machine.
    fn addresses(&self) -> Result<Vec<std::net::IpAddr>, LaunchError> {
        match self.options.hosts.address {
            Some(address) => Ok(vec![address]),
            None => own_addresses(self.is_local()).map_err(LaunchError::system),
        }
    }

    /// What an attempt on these hosts with so many ranks starts.
    fn attempt(
        &self,
        ordinal: u64,
        launch_id: &str,
        hosts: &[Host],
        world: usize,
        grace_seconds: u64,
    ) -> Result<AttemptPlan, LaunchError> {
        let layout = Layout::with_first(hosts, world, is_this_host).map_err(LaunchError::config)?;
        let addresses = self.addresses()?;
        Ok(AttemptPlan {
            ordinal,
            launch_id: launch_id.to_owned(),
            mpirun: self.mpirun_plan(layout, &["attend"], grace_seconds),
            addresses,
            has_gpus: std::path::Path::new("/proc/driver/nvidia/version").exists(),
        })
    }

    /// What every rank runs.
    fn argv(&self, resume: &str) -> Vec<String> {
        let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let mut argv = vec![text(&self.program), "train".into(), text(&self.config)];
        for field in &self.options.overrides {
            argv.extend(["--set".to_owned(), field.clone()]);
        }
        argv.extend(["--resume".to_owned(), resume.to_owned()]);
        argv
    }
}

/// What `--dry-run` prints.
///
/// # Errors
/// What would keep the run from starting.
pub fn dry_run(plan: &Plan) -> Result<String, LaunchError> {
    let facts = facts::ask(&plan.program, &plan.config, &plan.options.overrides).map_err(refused)?;
    check_world(&facts, plan.world)?;
    let attempt = plan.attempt(0, "LAUNCH", &plan.hosts.hosts, plan.world, facts.config.checkpoint.grace_seconds)?;
    let mut mpirun = attempt.mpirun;
    for name in [crate::protocol::ADDRESSES, crate::protocol::TOKEN, environment::ATTEMPT, environment::LAUNCH_ID] {
        mpirun.variables.push((name.to_owned(), "(set at the start)".to_owned()));
    }
    let mut text = mpirun.dry_run();
    text += &format!("\nEvery rank runs, started by its attendant:\n  {}\n", plan.argv(&plan.options.resume).join(" "));
    text += &format!("\nTimeouts, from launch.stall_seconds: {}\n", timeouts(&facts));
    Ok(text)
}

fn refused(error: facts::FactsError) -> LaunchError {
    LaunchError::config(error)
}

fn timeouts(facts: &Facts) -> String {
    let times = facts.config.launch.timeouts();
    format!(
        "no progress for {} s is a standstill; hosts have {} s to come up; a host that is silent for {} s is lost; a group \
         is gone after {} s or ended by force; a checkpoint on request has {} s",
        times.stall.as_secs(),
        times.start.as_secs(),
        times.silence.as_secs(),
        times.group_down.as_secs(),
        facts.config.checkpoint.grace_seconds,
    )
}

fn check_world(facts: &Facts, world: usize) -> Result<(), LaunchError> {
    let training = &facts.config.training;
    if world::fits(training.global_batch, training.microbatch, world) {
        return Ok(());
    }
    Err(LaunchError::config(format!(
        "training.global_batch {} in passes of {} cannot be divided over {world} ranks; these numbers of ranks can: {:?}; \
         give one with --np",
        training.global_batch,
        training.microbatch,
        world::all_that_fit(training.global_batch, training.microbatch, world.max(64)),
    )))
}

/// Runs until the end; returns what the launcher exits with. A word from `stops` asks the run to stop.
///
/// # Errors
/// What kept the run from starting.
pub async fn run(mut plan: Plan, console: Console, mut stops: mpsc::UnboundedReceiver<()>) -> Result<u8, LaunchError> {
    let launched = Instant::now();
    let launch_id = launch_id()?;
    crate::attend::adopt_orphans().map_err(LaunchError::system)?;
    for note in &plan.hosts.notes {
        console.say(note);
    }
    let asking = {
        let (program, config, overrides) = (plan.program.clone(), plan.config.clone(), plan.options.overrides.clone());
        tokio::task::spawn_blocking(move || facts::ask(&program, &config, &overrides))
    };
    // Without a preflight, mpirun brings its attendants up while the program reads the configuration; no rank starts
    // before that is done.
    let mut early = None;
    if plan.options.no_preflight {
        let first = plan.attempt(0, &launch_id, &plan.hosts.hosts, plan.world, DEFAULT_GRACE_SECONDS)?;
        early = Some(start(first, launched).await?);
    }
    let mut launch = None;
    let outcome = tokio::select! {
        outcome = async {
            let facts = asking.await.map_err(LaunchError::system)?.map_err(refused)?;
            check_world(&facts, plan.world)?;
            let files = Files::take(&facts.derived.run_folder).map_err(LaunchError::config)?;
            if !plan.options.no_preflight {
                preflight::preflight(&mut plan, &facts, &launch_id, &files.receipt(), console).await?;
                check_world(&facts, plan.world)?;
            }
            let launch = launch.insert(Launch::new(plan, facts, files, console, launch_id, launched));
            launch.clear_earlier().await;
            Ok(())
        } => outcome,
        _ = stops.recv() => Err(LaunchError { code: 1, message: "stopped before it had begun".into() }),
    };
    let Some(mut launch) = launch.filter(|_| outcome.is_ok()) else {
        if let Some(attempt) = early.take() {
            attempt.call_off().await;
        }
        return Err(outcome.err().unwrap_or_else(|| LaunchError::system("nothing was started")));
    };
    let code = launch.attempts(early, &mut stops).await;
    launch.keeper.end(code.as_ref().map_or_else(|error| error.code, |&code| code));
    code
}

/// Examines the hosts as `run` would, with `bandwidth` also how fast their ranks sum, and says what it found; returns 0
/// where nothing is bad.
///
/// # Errors
/// When that is not possible at all.
pub async fn doctor(plan: &Plan, console: Console, json: bool, bandwidth: bool) -> Result<u8, LaunchError> {
    let facts = facts::ask(&plan.program, &plan.config, &plan.options.overrides).map_err(refused)?;
    let receipt = preflight::receipt(plan, &facts, None, bandwidth).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&receipt).unwrap_or_default());
    } else {
        print!("{}", receipt.text(console.has_colour()));
    }
    Ok(if receipt.is_good() { 0 } else { ExitCode::Node as u8 })
}

/// mpirun's own patience before the configuration is known; the launcher's is what counts.
const DEFAULT_GRACE_SECONDS: u64 = 60;

async fn start(plan: AttemptPlan, launched: Instant) -> Result<Attempt, LaunchError> {
    Attempt::launch(plan, launched).await.map_err(LaunchError::system)
}

fn launch_id() -> Result<String, LaunchError> {
    let mut bytes = [0_u8; 6];
    getrandom::fill(&mut bytes).map_err(LaunchError::system)?;
    let tail: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{tail}", Timestamp::now().strftime("%Y%m%dT%H%M%S")))
}

/// A launch under way.
struct Launch {
    plan: Plan,
    facts: Facts,
    files: Files,
    console: Console,
    launch_id: String,
    launched: Instant,
    keeper: Keeper,
    left_out: Vec<String>,
    history: Vec<Incident>,
    /// Attempts, by the name that ranks give them, of which nothing is left.
    ended_attempts: Vec<String>,
    next_attempt: u64,
    next_incident: u64,
    reached: u64,
}

impl Launch {
    fn new(plan: Plan, facts: Facts, files: Files, console: Console, launch_id: String, launched: Instant) -> Self {
        let (next_attempt, last_incident) = files.used();
        let keeper = Keeper::new(files.state(), launch_id.clone(), console);
        Self {
            plan,
            facts,
            files,
            console,
            launch_id,
            launched,
            keeper,
            left_out: Vec::new(),
            history: Vec::new(),
            ended_attempts: Vec::new(),
            next_attempt,
            next_incident: last_incident + 1,
            reached: 0,
        }
    }

    /// Ends what a launcher that died has left behind, so that its place is free.
    async fn clear_earlier(&mut self) {
        let Ok(earlier) = crate::status::read(self.files.run()) else { return };
        if earlier.condition == Condition::Ended {
            return;
        }
        self.console.say(&format!(
            "an earlier launch ({}, process {} on {}) ended without a word at step {}; looking for what it left on {}",
            earlier.launch_id,
            earlier.launcher_pid,
            earlier.launcher_host,
            earlier.step,
            earlier.hosts.join(", ")
        ));
        let (left, silent) = self.sweep(&earlier.launch_id, &earlier.hosts, |_| Vec::new()).await;
        if left == 0 && silent.is_empty() {
            self.ended_attempts.extend(earlier.attempt_id);
        } else if !silent.is_empty() {
            self.console.warn(&format!("{} could not be asked", silent.join(", ")));
        }
    }

    /// Attempt after attempt. The first may have been begun already.
    async fn attempts(
        &mut self,
        early: Option<Attempt>,
        stops: &mut mpsc::UnboundedReceiver<()>,
    ) -> Result<u8, LaunchError> {
        let (mut hosts, mut world) = (self.plan.hosts.hosts.clone(), self.plan.world);
        let mut early = early;
        let mut resume = self.plan.options.resume.clone();
        self.announce(world);
        loop {
            let number = self.next_attempt;
            self.next_attempt += 1;
            let attempt = match early.take() {
                Some(attempt) => attempt,
                None => {
                    let grace = self.facts.config.checkpoint.grace_seconds;
                    let ordinal = self.history.len() as u64;
                    start(self.plan.attempt(ordinal, &self.launch_id, &hosts, world, grace)?, self.launched).await?
                }
            };
            let ranks = self.ranks(number, &resume);
            self.keeper.begin(number, attempt.layout());
            let end = attempt.supervise(&ranks, self.console, stops, &mut self.keeper).await;
            self.keeper.note(&end.roster);
            self.keep_mpirun_log(number, &end);
            if let Some(misplaced) = &end.misplaced {
                return Err(LaunchError::config(misplaced));
            }
            match self.after(number, end).await? {
                Next::Leave(code) => return Ok(code),
                Next::Again { delay, hosts: next_hosts, world: next_world } => {
                    (hosts, world) = (next_hosts, next_world);
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        _ = stops.recv() => {
                            self.console.say("asked to stop: no rank is running, and no other attempt is made");
                            return Ok(ExitCode::Preempted as u8);
                        }
                    }
                }
            }
            // Whatever the first attempt was told, the next ones go on.
            "auto".clone_into(&mut resume);
        }
    }

    fn announce(&self, world: usize) {
        let layout = Layout::with_first(&self.plan.hosts.hosts, world, is_this_host);
        let used = layout.map(|layout| layout.hosts).unwrap_or_default();
        let hosts: Vec<String> = used.iter().map(|(host, ranks)| format!("{host}:{ranks}")).collect();
        let is_spare = |host: &&Host| !used.iter().any(|(name, _)| *name == host.name);
        let spares: Vec<&str> = self.plan.hosts.hosts.iter().filter(is_spare).map(|host| host.name.as_str()).collect();
        let spares = if spares.is_empty() { String::new() } else { format!(", spares: {}", spares.join(", ")) };
        self.console.say(&format!(
            "{world} ranks on {}{spares} (from {}); the run's folder is {}, checkpoints go to {}",
            hosts.join(", "),
            self.plan.hosts.source,
            self.files.run().display(),
            self.facts.derived.checkpoint_url,
        ));
        self.console.say(&format!("timeouts: {}", timeouts(&self.facts)));
    }

    fn ranks(&self, number: u64, resume: &str) -> Ranks {
        let ended = (environment::ENDED_ATTEMPTS.to_owned(), self.ended_attempts.join(","));
        Ranks {
            argv: self.plan.argv(resume),
            environment: vec![ended],
            logs: self.files.attempt(number),
            show: self.plan.options.show_rank.clone(),
            // Once is enough.
            vanish: self.plan.vanish.clone().filter(|_| self.history.is_empty()),
            options: GroupOptions {
                timeouts: self.facts.config.launch.timeouts(),
                stop_grace_seconds: self.facts.config.checkpoint.grace_seconds as f64,
                reached_before: self.reached,
            },
        }
    }

    fn keep_mpirun_log(&self, number: u64, end: &AttemptEnd) {
        if end.mpirun_lines.is_empty() {
            return;
        }
        let path = self.files.attempt(number).join("mpirun.log");
        let written = std::fs::create_dir_all(self.files.attempt(number))
            .and_then(|()| std::fs::write(&path, end.mpirun_lines.join("\n") + "\n"));
        if let Err(error) = written {
            self.console.warn(&format!("{}: {error}", path.display()));
        }
    }

    /// What follows from the end of an attempt.
    async fn after(&mut self, number: u64, end: AttemptEnd) -> Result<Next, LaunchError> {
        let (mut incident, mut sentence) = match &end.outcome {
            Outcome::AllEnded => {
                self.console.say("the run is finished");
                return Ok(Next::Leave(0));
            }
            Outcome::Stopped { code, sentence } => {
                self.console
                    .say(&format!("{sentence}; the newest checkpoint is of step {}", end.roster.checkpoint_step()));
                return Ok(Next::Leave(*code));
            }
            Outcome::Incident { incident, sentence } => (incident.clone(), sentence.clone()),
        };
        self.console.warn(&sentence);
        // A host that nothing can be started on brings every later attempt down.
        for (host, why) in preflight::unreachable(&self.plan, &self.facts, &end.roster.hosts()).await {
            self.console.warn(&format!("{host}: {why}"));
            if incident.cause != Cause::HostLost {
                (incident.cause, incident.hosts) = (Cause::HostLost, Vec::new());
                sentence = format!("{sentence}; {host} cannot be reached");
            }
            if !incident.hosts.contains(&host) {
                incident.hosts.push(host);
            }
        }
        let group = self.verify_gone(&end).await;
        if group.processes_left == 0 && group.unverified_hosts.is_empty() {
            let attempts = end.roster.readings().map(|reading| reading.attempt_id.clone()).filter(|id| !id.is_empty());
            self.ended_attempts.extend(attempts.take(1));
        }
        let situation = Situation {
            hosts: &self.plan.hosts.hosts,
            left_out: &self.left_out,
            world_wanted: self.plan.world,
            global_batch: self.facts.config.training.global_batch,
            microbatch: self.facts.config.training.microbatch,
            min_world: self.plan.options.min_ranks,
            history: &self.history,
            max_restarts: self.plan.options.max_restarts.unwrap_or(self.facts.config.launch.max_restarts),
            window_seconds: self.facts.config.launch.restart_window_seconds as f64,
            base_delay_seconds: self.plan.options.base_delay_seconds,
            restart_on_preemption: self.plan.options.restart_on_preemption,
        };
        let action = decide(&incident, &situation);
        let (words, next) = match action {
            Action::Stop { code, reason } => (format!("gives up ({code}): {reason}"), Next::Leave(code)),
            Action::Restart { delay_seconds, hosts, world, left_out, note } => {
                self.left_out.extend(left_out.into_iter().map(|(host, _)| host));
                let note = note.map(|note| format!("; {note}")).unwrap_or_default();
                let words =
                    format!("starts again in {delay_seconds:.0} s with {world} ranks from the newest checkpoint{note}");
                (words, Next::Again { delay: Duration::from_secs_f64(delay_seconds), hosts, world })
            }
        };
        let failure = self.failure(number, &end, &incident, sentence, group, &words);
        self.show_last_lines(&failure, &end);
        let path = self.files.incident(self.next_incident);
        for path in [&path, &self.files.failure()] {
            if let Err(error) = write_json(path, &failure) {
                self.console.warn(&error.to_string());
            }
        }
        self.console.warn(&format!("{words} (see {})", path.display()));
        self.next_incident += 1;
        self.reached = self.reached.max(end.reached);
        self.history.push(incident);
        self.keeper.failed(failure, vec![path, self.files.failure()], end.failed_at);
        Ok(next)
    }

    /// What a rank said last, where its output was not shown already.
    fn show_last_lines(&self, failure: &Failure, end: &AttemptEnd) {
        let lines: &Vec<String> = match failure.rank {
            Some(rank) if !self.plan.options.show_rank.shows(rank) => &failure.last_lines,
            None if !end.roster.is_complete() => &end.mpirun_lines,
            _ => return,
        };
        let lines = lines.iter().filter(|line| !line.trim().is_empty());
        // mpirun explains itself at length; its first words say what happened.
        let (title, lines): (String, Vec<&String>) = match failure.rank {
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

    /// Makes sure that nothing of a group is left.
    async fn verify_gone(&self, end: &AttemptEnd) -> GroupRecord {
        let mut hosts: Vec<String> = end.unverified.iter().map(|&rank| end.roster.entries[rank].host.clone()).collect();
        hosts.dedup();
        let daemons = |host: &str| -> Vec<String> {
            let there = end.roster.entries.iter().filter(|entry| entry.host == host);
            let daemons: BTreeSet<u32> = there.filter_map(|entry| entry.hello.as_ref()?.daemon).collect();
            daemons.iter().map(ToString::to_string).collect()
        };
        let (mut left, silent) = match hosts.as_slice() {
            [] => (0, Vec::new()),
            hosts => self.sweep(&self.launch_id, hosts, daemons).await,
        };
        left += end.roster.entries.iter().filter_map(|entry| entry.left).sum::<usize>();
        if left > 0 {
            self.console.warn(&format!("{left} processes could not be ended: they hang in the system, or in a driver"));
        }
        if !silent.is_empty() {
            self.console.warn(&format!(
                "what runs on {} cannot be told; its ranks end themselves when they hear nothing of the launcher",
                silent.join(", ")
            ));
        }
        GroupRecord {
            seconds_to_down: self.launched.elapsed().as_secs_f64() - end.failed_at,
            processes_left: left,
            unverified_hosts: silent,
        }
    }

    /// Ends what is left of a launch on these hosts, where each has the daemons that `daemons` knows.
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
            let words = ["sweep", launch_id].into_iter().chain(daemons.iter().map(String::as_str));
            self.plan.mpirun_plan(layout, &words.collect::<Vec<_>>(), 1)
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
        // How it ended by itself: those that the launcher has killed say nothing.
        let then = incident.rank.and_then(|rank| end.at_failure.entries.get(rank));
        let (exit_code, signal) = then.and_then(|entry| entry.end).unwrap_or_default();
        let stood = then.and_then(|entry| entry.reading.as_ref()).filter(|_| incident.cause == Cause::Stalled);
        Failure {
            launch_id: self.launch_id.clone(),
            incident: self.next_incident,
            attempt: number,
            detected: end.detected,
            verdict,
            rank: incident.rank,
            host: entry.map(|entry| entry.host.clone()).or_else(|| incident.hosts.first().cloned()),
            gpu: entry.map(|entry| entry.local_rank),
            exit_code,
            signal: signal.map(signal_name),
            last_lines: entry.map(|entry| entry.last_lines.clone()).unwrap_or_default(),
            stack: entry.and_then(|entry| entry.stack.clone()),
            ranks: end.at_failure.records(),
            step: end.roster.steps_done().unwrap_or(0),
            group,
            action: action.to_owned(),
            standstill_seconds: stood.map_or(0.0, |reading| reading.phase_seconds),
            harmed: end.vanished,
            steps_lost: None,
            seconds_lost: None,
        }
    }
}

enum Next {
    Leave(u8),
    Again { delay: Duration, hosts: Vec<Host>, world: usize },
}
