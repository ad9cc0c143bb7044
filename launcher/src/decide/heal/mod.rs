//! The reaction to an incident: stop with a reason, or restart, with which hosts, how many ranks, and when.

use std::collections::BTreeSet;

use admiral_contract::{ExitCode, world_sizes};

use super::cause::{Cause, Incident, USAGE_EXIT_CODE, code_of};
use super::sentence::{count, first_few};
use crate::hosts::Host;
use crate::job::{JobKind, Work};

/// After this many incidents of one rank with one cause and without progress, the launcher gives up.
const MAX_SAME_FAILURES: usize = 3;
/// Delays before a restart, in units of [`Situation::base_delay_seconds`].
const FIRST_DELAY: f64 = 1.0;
const MAX_DELAY: f64 = 60.0;
const FIRST_STORE_DELAY: f64 = 30.0;
const MAX_STORE_DELAY: f64 = 600.0;

/// The facts on which the decision depends.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    /// All given hosts, in their order.
    pub hosts: &'a [Host],
    /// Hosts that were left out so far.
    pub left_out: &'a [String],
    /// The number of ranks that the user wants. Hosts that are not needed for them are spares.
    pub world_wanted: usize,
    /// What the ranks do.
    pub work: Work,
    /// The run stops rather than continue with fewer ranks.
    pub min_world: usize,
    /// The incidents before this one, oldest first.
    pub history: &'a [Incident],
    /// The largest number of restarts within the window.
    pub max_restarts: u64,
    /// The window in which restarts and failures of a host are counted, in seconds.
    pub window_seconds: f64,
    /// The unit of all delays, in seconds; 1 except in tests.
    pub base_delay_seconds: f64,
    /// Whether the launcher restarts after a rank exited with 75 without a request.
    pub restart_on_preemption: bool,
}

/// The decision.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Give up, or accept the end.
    Stop {
        /// The launcher's exit code.
        code: u8,
        /// The reason, for people.
        reason: String,
    },
    /// Start a new group, which continues from what the earlier ones have stored.
    Restart {
        /// The delay before the start.
        delay_seconds: f64,
        /// The hosts, in order; all of them are needed.
        hosts: Vec<Host>,
        /// The number of ranks.
        world: usize,
        /// Hosts that are left out from now on, with the reason.
        left_out: Vec<(String, String)>,
        /// What differs from before, for people.
        note: Option<String>,
    },
}

/// Decides what to do after `incident`, the first failure of its group.
#[must_use]
pub fn decide(incident: &Incident, situation: &Situation<'_>) -> Action {
    if let Some(action) = final_code(incident.cause, situation.work.kind(), situation.restart_on_preemption) {
        return action;
    }
    let code = code_of(incident.cause);
    if let Some(reason) = stuck_reason(incident, situation.history) {
        return Action::Stop { code, reason };
    }
    let since = incident.at_seconds - situation.window_seconds;
    let restarts = situation.history.iter().filter(|earlier| earlier.at_seconds > since).count() as u64;
    if restarts >= situation.max_restarts {
        let reason = format!(
            "{} within {:.0} s is all that max_restarts allows",
            count(usize::try_from(restarts).unwrap_or(usize::MAX), "restart"),
            situation.window_seconds
        );
        return Action::Stop { code, reason };
    }
    place_group(incident, situation)
}

/// Returns where the next attempt resumes. Once an attempt has done a step, every later one continues from the newest
/// checkpoint, wherever the first one was told to begin.
#[must_use]
pub fn next_resume(resume: String, has_stepped: bool) -> String {
    if has_stepped { "auto".to_owned() } else { resume }
}

/// Returns the action for exit codes after which no restart can help.
fn final_code(cause: Cause, kind: JobKind, restart_on_preemption: bool) -> Option<Action> {
    let Cause::Exit(code) = cause else { return None };
    if code == USAGE_EXIT_CODE {
        let reason = match kind {
            // The options are the user's.
            JobKind::Sample => {
                "admiral sample does not take these options: starting again cannot help; read its message"
            }
            JobKind::Train => {
                "admiral does not take the command line that it is given: starting again cannot help; are it and \
                 admiral-launch of one build?"
            }
        };
        return Some(Action::Stop { code: code_of(cause), reason: reason.to_owned() });
    }
    let reason = match ExitCode::from_byte(code)? {
        ExitCode::Finished => "the run is finished",
        ExitCode::Config if kind == JobKind::Sample => "the options or the model is wrong: starting again cannot help",
        ExitCode::Config => "the configuration or the data is wrong: starting again cannot help",
        ExitCode::Diverged if kind == JobKind::Sample => {
            "the model's numbers are not finite: starting again would only repeat it"
        }
        ExitCode::Diverged => "training diverged: starting again would only repeat it",
        ExitCode::Bug => "a bug in Admiral: everything is kept as it is, for a report",
        ExitCode::Preempted if restart_on_preemption => return None,
        ExitCode::Preempted if kind == JobKind::Sample => "stopped from outside; the images that are stored are kept",
        ExitCode::Preempted => "stopped from outside, with a checkpoint written",
        ExitCode::Store | ExitCode::Node | ExitCode::Corrupted => return None,
    };
    Some(Action::Stop { code, reason: reason.to_owned() })
}

/// Returns why another attempt is useless: the same rank fails in the same way, and the run makes no progress. Store
/// errors and bad hosts are exceptions, because the store comes back and the host is left out.
fn stuck_reason(incident: &Incident, history: &[Incident]) -> Option<String> {
    if incident.cause.condemns_hosts()
        || matches!(incident.cause, Cause::Start)
        || incident.cause == Cause::Exit(ExitCode::Store as u8)
    {
        return None;
    }
    let same = |other: &Incident| other.rank == incident.rank && other.cause == incident.cause;
    let rest = history.get(history.len().checked_sub(MAX_SAME_FAILURES - 1)?..)?;
    let stuck = incident.steps_gained == 0
        && rest.iter().all(same)
        && rest.iter().skip(1).all(|earlier| earlier.steps_gained == 0);
    let who = incident.rank.map_or_else(|| "the group".to_owned(), |rank| format!("rank {rank}"));
    stuck.then(|| {
        format!("{who} failed {MAX_SAME_FAILURES} times in the same way, and the run got no further in between")
    })
}

/// Returns the number of consecutive attempts without progress.
fn attempts_without_progress(incident: &Incident, history: &[Incident]) -> i32 {
    let newest_first = std::iter::once(incident).chain(history.iter().rev());
    let tries = newest_first.take(history.len()).take_while(|incident| incident.steps_gained == 0).count();
    i32::try_from(tries).unwrap_or(i32::MAX)
}

fn delay(incident: &Incident, situation: &Situation<'_>) -> f64 {
    let (first, most) = match incident.cause {
        cause if cause.condemns_hosts() => return 0.0,
        Cause::Exit(code) if code == ExitCode::Store as u8 => (FIRST_STORE_DELAY, MAX_STORE_DELAY),
        _ => (FIRST_DELAY, MAX_DELAY),
    };
    let tries = attempts_without_progress(incident, situation.history);
    (first * 2f64.powi(tries.min(30))).min(most) * situation.base_delay_seconds
}

/// The hosts that are left out from now on, with reasons: hosts that are known to be bad, and suspected ones.
struct LeftOut {
    known: Vec<(String, String)>,
    suspected: Vec<(String, String)>,
}

fn leave_out(incident: &Incident, situation: &Situation<'_>) -> LeftOut {
    let mut out = LeftOut { known: Vec::new(), suspected: Vec::new() };
    let since = incident.at_seconds - situation.window_seconds;
    let recent = || situation.history.iter().filter(|earlier| earlier.at_seconds > since);
    for host in incident.hosts.iter().collect::<BTreeSet<_>>() {
        if !situation.hosts.iter().any(|given| given.name == *host) || situation.left_out.contains(host) {
            continue;
        }
        if incident.cause == Cause::HostLost {
            out.known.push((host.clone(), "nothing was heard of it any more".to_owned()));
        } else if incident.cause == Cause::Exit(ExitCode::Node as u8) {
            out.known.push((host.clone(), "it reported itself bad".to_owned()));
        } else if recent().any(|earlier| earlier.hosts.contains(host)) {
            let times = 1 + recent().filter(|earlier| earlier.hosts.contains(host)).count();
            let why = format!("it failed {times} times within {:.0} s", situation.window_seconds);
            out.suspected.push((host.clone(), why));
        }
    }
    out
}

/// Chooses the hosts and ranks of the next group.
fn place_group(incident: &Incident, situation: &Situation<'_>) -> Action {
    let LeftOut { known, suspected } = leave_out(incident, situation);
    let left_after = |out: &[&[(String, String)]]| -> Vec<&Host> {
        let is_out = |name: &String| {
            situation.left_out.contains(name) || out.iter().any(|out| out.iter().any(|(host, _)| host == name))
        };
        situation.hosts.iter().filter(|host| !is_out(&host.name)).collect()
    };
    let without = left_after(&[&known, &suspected]);
    let (hosts, world, left_out, mut kept) = if let Some(world) = world_on(&without, situation) {
        (without, world, [known, suspected].concat(), Vec::new())
    } else {
        // A suspicion alone ends no run. Without other hosts, the suspected ones stay.
        let with = left_after(&[&known]);
        if let Some(world) = world_on(&with, situation) {
            (with, world, known, suspected)
        } else {
            // Hosts that were left out on suspicion come back last.
            let recalled = recalled(incident, situation);
            let why = recalled.iter().map(|host| (host.name.clone(), "it was left out".to_owned()));
            let kept = suspected.into_iter().chain(why).collect();
            let with = [with, recalled].concat();
            match world_on(&with, situation) {
                Some(world) => (with, world, known, kept),
                None => return Action::Stop { code: ExitCode::Node as u8, reason: no_room(&with, &known, situation) },
            }
        }
    };
    let hosts = first_of(&hosts, world);
    kept.retain(|(kept, _)| hosts.iter().any(|host| host.name == *kept));
    let note = note(situation, &hosts, world, &left_out, &kept);
    Action::Restart { delay_seconds: delay(incident, situation), hosts, world, left_out, note }
}

/// Returns the hosts that were left out because of repeated failures, and that are not known to be bad.
fn recalled<'a>(incident: &Incident, situation: &Situation<'a>) -> Vec<&'a Host> {
    let all = || situation.history.iter().chain([incident]);
    let is_bad = |name: &String| all().any(|of| of.cause.condemns_hosts() && of.hosts.contains(name));
    situation.hosts.iter().filter(|host| situation.left_out.contains(&host.name) && !is_bad(&host.name)).collect()
}

fn slots(hosts: &[&Host]) -> usize {
    hosts.iter().map(|host| host.slots).sum()
}

/// Returns the number of ranks of the next group on these hosts, if it is at least the minimum.
fn world_on(hosts: &[&Host], situation: &Situation<'_>) -> Option<usize> {
    let world = situation.work.largest_world(slots(hosts).min(situation.world_wanted))?;
    (world >= situation.min_world).then_some(world)
}

/// Returns as many of the hosts as `world` ranks need.
fn first_of(hosts: &[&Host], world: usize) -> Vec<Host> {
    let mut room = 0;
    let needed = hosts.iter().filter(|host| host.slots > 0).take_while(|host| {
        let needed = room < world;
        room += host.slots;
        needed
    });
    needed.map(|host| (*host).clone()).collect()
}

fn no_room(hosts: &[&Host], lost: &[(String, String)], situation: &Situation<'_>) -> String {
    let room = slots(hosts);
    let lost: Vec<String> = lost.iter().map(|(host, why)| format!("{host} is left out: {why}")).collect();
    let mut reason = if lost.is_empty() { String::new() } else { format!("{}; ", first_few(lost)) };
    reason += &format!("the hosts left have room for {}", count(room, "rank"));
    let least = situation.min_world.max(1);
    let Work::Train { global_batch, microbatch } = situation.work else {
        return reason + &format!("; the run needs at least {}", count(least, "rank"));
    };
    let fit = world_sizes(global_batch, microbatch, situation.world_wanted.max(room) as u64);
    let could: Vec<String> = fit.iter().filter(|&&world| world >= least as u64).map(ToString::to_string).collect();
    reason
        + &format!(
            "; with a global batch of {} and at least {} the run could go on with these numbers of ranks: {}",
            global_batch,
            count(least, "rank"),
            if could.is_empty() { "none".to_owned() } else { could.join(", ") }
        )
}

/// Describes what differs from before.
fn note(
    situation: &Situation<'_>,
    hosts: &[Host],
    world: usize,
    left_out: &[(String, String)],
    kept: &[(String, String)],
) -> Option<String> {
    let mut parts: Vec<String> = left_out.iter().map(|(host, why)| format!("{host} is left out: {why}")).collect();
    parts.extend(kept.iter().map(|(host, why)| format!("{host} is kept although {why}: there is no other room")));
    if !left_out.is_empty() {
        // Hosts that the previous group did not need.
        let all: Vec<&Host> = situation.hosts.iter().filter(|host| !situation.left_out.contains(&host.name)).collect();
        let before = world_on(&all, situation).map(|world| first_of(&all, world)).unwrap_or_default();
        let spares: Vec<String> =
            hosts.iter().filter(|host| !before.contains(host)).map(|host| host.name.clone()).collect();
        match spares.len() {
            0 => {}
            1 => parts.push(format!("the spare host {} takes its place", spares[0])),
            _ => parts.push(format!("the spare hosts {} take their places", first_few(spares))),
        }
    }
    if world < situation.world_wanted {
        let of = count(situation.world_wanted, "rank");
        parts.push(match situation.work {
            Work::Train { global_batch, .. } => {
                format!("goes on with {world} of {of}, the same global batch of {global_batch} and more passes a step")
            }
            Work::Sample => format!("goes on with {world} of {of}, each with a larger share of the images"),
        });
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests;
