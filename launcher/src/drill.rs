//! `admiral-launch drill`: injects a fault into a short run and reports whether the launcher noticed it, named it and
//! recovered.

use std::fmt::Write as _;
use std::path::PathBuf;

use admiral_contract::files::read_regular;
use admiral_contract::run_folder::check_no_links_out;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::console::{Console, print};
use crate::environment::Environment;
use crate::incident::Failure;
use crate::job::JobKind;
use crate::paths::{MAX_FILE, incident_of, state_of};
use crate::run::{LaunchError, LaunchPlan, RunOptions, dry_run, run, seconds};
use crate::status::State;
use crate::supervise::Vanish;

/// The options of a drill.
#[derive(Debug, Clone, clap::Args)]
pub struct DrillOptions {
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened into the help")]
    pub run: RunOptions,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened into the help")]
    pub harm: Harm,
    /// The step at which it happens
    #[arg(long, default_value_t = 20, value_name = "STEP")]
    pub at_step: u64,
    /// The number of steps of the drill; without it, twice --at-step
    #[arg(long, value_name = "STEPS")]
    pub steps: Option<u64>,
    /// The part of the step: data, forward, backward, reduce, optimizer or checkpoint
    #[arg(long, default_value = "forward", value_name = "PHASE")]
    pub phase: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The fault to inject; exactly one.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Harm {
    /// SIGKILL the rank
    #[arg(long, value_name = "RANK")]
    pub kill_rank: Option<usize>,
    /// Make the rank hang for ever
    #[arg(long, value_name = "RANK")]
    pub hang_rank: Option<usize>,
    /// Change one bit of the rank's parameters, as a fault of its memory would
    #[arg(long, value_name = "RANK")]
    pub flip_bit: Option<usize>,
    /// Make the rank's own work take three times as long
    #[arg(long, value_name = "RANK")]
    pub slow_rank: Option<usize>,
    /// Cut the host off for the rest of the run
    #[arg(long, value_name = "HOST")]
    pub drop_host: Option<String>,
    /// Make the checkpoints' storage unreachable for this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub cut_storage: Option<f64>,
}

/// The result of a drill.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DrillReport {
    /// Whether everything went as expected.
    pub passed: bool,
    /// The injected fault.
    pub harm: String,
    /// What went wrong; empty if the drill passed.
    pub faults: Vec<String>,
    /// The verdict on the incident, or the message about the slow rank.
    pub verdict: Option<String>,
    /// From the fault to the verdict, by the clocks of the two hosts.
    pub seconds_to_detect: Option<f64>,
    /// From the verdict until all processes were gone.
    pub seconds_to_group_down: Option<f64>,
    /// From the verdict until the first new step was done.
    pub seconds_to_first_step: Option<f64>,
    /// Steps that were repeated.
    pub steps_lost: Option<u64>,
    /// The exit code of the run.
    pub exit_code: u8,
    /// The folder of the drill's files.
    pub folder: PathBuf,
}

impl Harm {
    fn words(&self) -> String {
        match self {
            Self { kill_rank: Some(rank), .. } => format!("rank {rank} is killed"),
            Self { hang_rank: Some(rank), .. } => format!("rank {rank} hangs"),
            Self { flip_bit: Some(rank), .. } => format!("a bit of rank {rank} changes"),
            Self { slow_rank: Some(rank), .. } => format!("rank {rank} is slow"),
            Self { drop_host: Some(host), .. } => format!("host {host} is lost"),
            Self { cut_storage: Some(seconds), .. } => format!("the storage is cut off for {seconds} s"),
            _ => "nothing".to_owned(),
        }
    }

    /// The rank that the verdict has to name.
    fn rank(&self) -> Option<usize> {
        self.kill_rank.or(self.hang_rank).or(self.flip_bit)
    }
}

impl DrillOptions {
    /// Returns the overrides that make the configuration a short run in its own folder, with the fault.
    fn overrides(&self, folder: &std::path::Path) -> Vec<String> {
        let steps = self.steps.unwrap_or(self.at_step.saturating_mul(2)).max(self.at_step.saturating_add(1));
        let mut fields = self.run.overrides.clone();
        fields.push(format!("run.folder={}", folder.display()));
        fields.push("checkpoint.url=null".to_owned());
        fields.push(format!("training.steps={steps}"));
        // The run itself may have the addresses and files of the configuration.
        let exports = ["telemetry.listen", "telemetry.textfile", "launch.listen", "launch.textfile"];
        // The people on call must not be told of an intended failure.
        let notifications = ["launch.notify", "launch.dead_man_seconds"];
        fields.extend(exports.into_iter().chain(notifications).map(|field| format!("{field}=null")));
        fields.push(format!("training.save_interval={}", (self.at_step / 4).max(1)));
        fields.push("training.sample_interval=0".to_owned());
        fields.push(format!("training.check_interval={}", (self.at_step / 8).max(1)));
        let mut faults = Vec::new();
        match &self.harm {
            Harm { kill_rank: Some(rank), .. } => faults.push(format!("kill_rank={rank}")),
            Harm { hang_rank: Some(rank), .. } => faults.push(format!("hang_rank={rank}")),
            Harm { flip_bit: Some(rank), .. } => faults.push(format!("flip_bit_rank={rank}")),
            Harm { slow_rank: Some(rank), .. } => faults.extend([format!("slow_rank={rank}"), "slow_factor=3".into()]),
            Harm { cut_storage: Some(seconds), .. } => faults.push(format!("cut_storage_seconds={seconds}")),
            _ => return fields,
        }
        faults.extend([
            "enabled=true".to_owned(),
            format!("at_step={}", self.at_step),
            format!("phase={}", self.phase),
        ]);
        fields.extend(faults.into_iter().map(|fault| format!("faults.{fault}")));
        fields
    }
}

/// Runs the drill and prints a report. Returns the launcher's exit code: 0 if the drill passed, else 1.
///
/// # Errors
/// If the run could not be started.
pub async fn drill(
    options: DrillOptions,
    environment: &Environment,
    console: Console,
    mut stops: mpsc::UnboundedReceiver<()>,
) -> Result<u8, LaunchError> {
    let facts = {
        let program = crate::facts::program(options.run.launch.hosts.program.as_deref());
        tokio::select! {
            facts = crate::facts::query(&program, &options.run.config, &options.run.overrides) => facts,
            _ = stops.recv() => return Err(LaunchError::stopped_early(JobKind::Train)),
        }
        .map_err(LaunchError::config)?
    };
    let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%S").to_string();
    check_no_links_out(&facts.derived.run_folder).map_err(LaunchError::config)?;
    let folder = facts.derived.run_folder.join(format!("drills/{stamp}"));
    let mut plan =
        LaunchPlan::train(RunOptions { overrides: options.overrides(&folder), ..options.run.clone() }, environment)?;
    if let Some(rank) = options.harm.rank().or(options.harm.slow_rank).filter(|&rank| rank >= plan.world) {
        return Err(LaunchError::config(format!("there is no rank {rank}: the run has {} ranks", plan.world)));
    }
    if options.harm.flip_bit.is_some() && plan.world < 3 {
        return Err(LaunchError::config(format!(
            "--flip-bit needs at least 3 ranks, and the run has {}: of two ranks that differ, nobody knows which is right",
            plan.world
        )));
    }
    if let Some(host) = &options.harm.drop_host {
        if !plan.hosts.hosts.iter().any(|given| given.name == *host) {
            return Err(LaunchError::config(format!("--drop-host {host}: no such host among those of the run")));
        }
        plan.vanish = Some(Vanish { host: host.clone(), at_step: options.at_step });
    }
    if options.run.launch.dry_run {
        print(&dry_run(&plan).await?);
        return Ok(0);
    }
    plan.drill =
        Some(format!("A DRILL: {} at step {}, in {}", options.harm.words(), options.at_step, folder.display()));
    let exit_code = run(plan, console, stops).await?;
    let report = judge(&options, exit_code, folder);
    print(&if options.json {
        serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
    } else {
        table(&report)
    });
    Ok(u8::from(!report.passed))
}

fn read<T: serde::de::DeserializeOwned>(path: &std::path::Path) -> Option<T> {
    serde_json::from_slice(&read_regular(path, MAX_FILE).ok()?).ok()
}

/// Judges the drill by the files that the launcher wrote.
fn judge(options: &DrillOptions, exit_code: u8, folder: PathBuf) -> DrillReport {
    let incidents: Vec<Failure> = (1..).map_while(|number| read(&incident_of(&folder, number))).collect();
    let state: Option<State> = read(&state_of(&folder));
    let first = incidents.first();
    let mut faults = Vec::new();
    if exit_code != 0 {
        faults.push(format!("the run ended with {exit_code} instead of 0"));
    }
    let mut verdict = first.map(|failure| failure.verdict.clone());
    match &options.harm {
        Harm { slow_rank: Some(rank), .. } => {
            let name = format!("rank {rank} ");
            verdict = state.and_then(|state| state.slow_seen.into_iter().find(|words| words.starts_with(&name)));
            if verdict.is_none() {
                faults.push(format!("nobody said that rank {rank} was slow"));
            }
        }
        // A save that fails and is repeated successfully is as good as a restart.
        Harm { cut_storage: Some(_), .. } => {
            let log = read_regular(&folder.join("launch/attempt-000/rank-000.log"), MAX_FILE).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            verdict = log.lines().find(|line| line.contains("the storage is cut off")).map(str::to_owned);
            if verdict.is_none() {
                faults.push("the storage was never cut off".to_owned());
            }
        }
        Harm { drop_host: Some(host), .. } => {
            if first.is_none_or(|failure| failure.host.as_ref() != Some(host)) {
                faults.push(format!("the loss of {host} was not named"));
            }
        }
        harm => {
            if first.is_none_or(|failure| failure.rank != harm.rank()) {
                let named = first.map_or("nothing".to_owned(), |failure| failure.verdict.clone());
                faults.push(format!("{}, and the verdict was: {named}", harm.words()));
            }
        }
    }
    let expected = usize::from(options.harm.slow_rank.is_none() && options.harm.cut_storage.is_none());
    if incidents.len() > 1 || incidents.len() < expected {
        faults.push(format!("{} incidents instead of {expected}", incidents.len()));
    }
    for failure in &incidents {
        let left = failure.group.processes_left;
        if left > 0 {
            faults.push(format!("{left} processes were left"));
        }
    }
    DrillReport {
        passed: faults.is_empty(),
        harm: format!("{} at step {}, {}", options.harm.words(), options.at_step, options.phase),
        faults,
        verdict,
        seconds_to_detect: first.and_then(seconds_to_detect),
        seconds_to_group_down: first.map(|failure| failure.group.seconds_to_down),
        seconds_to_first_step: first.and_then(|failure| failure.seconds_lost),
        steps_lost: first.and_then(|failure| failure.steps_lost),
        exit_code,
        folder,
    }
}

/// Returns the time from the rank's log line about its fault to the verdict, in seconds.
fn seconds_to_detect(failure: &Failure) -> Option<f64> {
    if let Some(harmed) = failure.harmed {
        return (failure.detected - harmed).total(jiff::Unit::Second).ok();
    }
    let line = failure.last_lines.iter().find(|line| line.contains("faults: this rank "))?;
    let struck: Timestamp = line.split_whitespace().find_map(|word| word.parse().ok())?;
    (failure.detected - struck).total(jiff::Unit::Second).ok()
}

fn table(report: &DrillReport) -> String {
    let mut text = String::new();
    let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1} s"));
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<16} {value}");
    };
    row("drill", report.harm.clone());
    row("result", if report.passed { "passed".into() } else { format!("FAILED: {}", report.faults.join("; ")) });
    row("verdict", report.verdict.clone().unwrap_or_else(|| "-".into()));
    row("detected", seconds(report.seconds_to_detect));
    row("group down", seconds(report.seconds_to_group_down));
    row("first step again", seconds(report.seconds_to_first_step));
    row("steps lost", report.steps_lost.map_or("-".into(), |steps| steps.to_string()));
    row("files", report.folder.display().to_string());
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct DrillArguments {
        #[command(flatten)]
        options: DrillOptions,
    }

    #[test]
    fn a_drill_is_a_short_run_with_a_fault() {
        let words =
            ["x", "c.yaml", "--set", "training.steps=9", "--kill-rank", "3", "--at-step", "40", "--phase", "data"];
        let options = DrillArguments::parse_from(words).options;
        let fields = options.overrides("/runs/d".as_ref());
        // Later overrides win.
        for (place, field) in
            ["training.steps=9", "run.folder=/runs/d", "checkpoint.url=null", "training.steps=80"].iter().enumerate()
        {
            assert_eq!(fields[place], *field);
        }
        for field in [
            "training.save_interval=10",
            "faults.kill_rank=3",
            "faults.at_step=40",
            "faults.phase=data",
            "launch.notify=null",
            "launch.dead_man_seconds=null",
        ] {
            assert!(fields.iter().any(|set| set == field), "{field}: {fields:?}");
        }
        let lost =
            DrillArguments::parse_from(["x", "c.yaml", "--drop-host", "n1"]).options.overrides("/runs/d".as_ref());
        assert!(!lost.iter().any(|set| set.starts_with("faults.")), "the launcher lets a host vanish: {lost:?}");
        let most = u64::MAX.to_string();
        let last = DrillArguments::parse_from(["x", "c.yaml", "--kill-rank", "0", "--at-step", &most]).options;
        assert!(last.overrides("/runs/d".as_ref()).contains(&format!("training.steps={most}")));
    }
}
