//! The life of one group of ranks, from the start of `mpirun` until nothing of the group is left. Events go in with
//! their time, and actions come out.
//!
//! A failure, a verdict, a stop and the regular end of all ranks lead to the same shutdown: all ranks are killed (even
//! after a regular end, because processes that a rank started may still run), every agent reports that nothing is left,
//! all agents are dismissed, and `mpirun` ends. Each wait has a timeout, so a group always ends.

use std::collections::BTreeSet;

use admiral_contract::{ExitCode, Reading};

use super::event::{Event, GroupOptions, Outcome, Output};
use super::member::Member;
use super::pending::{Ending, FailureCandidate, PendingFailure, PendingStacks, Stop};
use super::stop::{FORCED_EXIT_CODE, KILLED_BY_STOP, stopped_early};
use crate::decide::cause::{Cause, Incident, code_of};
use crate::decide::end::{End, whereabouts};
use crate::decide::sentence::{count, name};
use crate::decide::verdict::{Verdict, verdict};
use crate::decide::view::RankView;
use crate::protocol::SCHEDULING_GAP;

/// After a failure, an earlier cause may arrive from another host within this time, in seconds.
const SETTLE_TIME: f64 = 0.3;
/// The timeout for the stacks of the culprits, in seconds.
const STACK_TIMEOUT: f64 = 2.0;
/// The largest number of ranks that are asked for their stacks.
const MAX_STACKS: usize = 3;
/// `mpirun` has this long to end after its agents, in seconds, and is killed then. After the death of a rank it would
/// wait for its own grace period without a reason.
const MPIRUN_EXIT_TIMEOUT: f64 = 1.0;

/// One group of ranks.
#[derive(Debug, Clone)]
pub struct Group {
    options: GroupOptions,
    members: Vec<Member>,
    now: f64,
    started: bool,
    mpirun_ended: bool,
    stop: Option<Stop>,
    failure: Option<PendingFailure>,
    stacks: Option<PendingStacks>,
    ending: Option<Ending>,
    finished: bool,
}

impl Group {
    /// Creates a group whose `mpirun` starts at `now`. `members` holds the host and the GPU of each rank. All times are
    /// in seconds since the launch.
    #[must_use]
    pub fn new(options: GroupOptions, members: impl IntoIterator<Item = (String, Option<usize>)>, now: f64) -> Self {
        let member = |(host, gpu)| Member::new(host, gpu, now);
        Self {
            options,
            members: members.into_iter().map(member).collect(),
            now,
            started: false,
            mpirun_ended: false,
            stop: None,
            failure: None,
            stacks: None,
            ending: None,
            finished: false,
        }
    }

    /// Returns what is known of the ranks that have not ended.
    #[must_use]
    pub fn views(&self) -> Vec<RankView> {
        let running = self.members.iter().enumerate().filter(|(_, member)| member.ended.is_none());
        running.map(|(rank, _)| self.view(rank)).collect()
    }

    /// Returns what is known of a rank.
    ///
    /// # Panics
    /// If there is no such rank.
    #[must_use]
    pub fn view(&self, rank: usize) -> RankView {
        let member = &self.members[rank];
        let mut reading = member.reading.clone();
        if let (Some(reading), Some(since)) = (&mut reading, member.no_ledger_since) {
            reading.phase_seconds = self.now - since;
        }
        RankView {
            rank,
            host: member.host.clone(),
            gpu: member.gpu,
            reading,
            state: member.state,
            silent_seconds: self.now - member.last_heard,
        }
    }

    /// Returns the furthest step that any rank has begun, or the number of images that all ranks have finished.
    #[must_use]
    pub fn reached(&self) -> u64 {
        let readings = self.members.iter().filter_map(|member| member.reading.as_ref());
        self.options.kind.total(readings.map(|reading| reading.step))
    }

    /// Returns whether the group is shutting down or gone.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.ending.is_some() || self.finished
    }

    /// Returns the ranks that may have been started and whose end nobody has confirmed.
    #[must_use]
    pub fn unverified(&self) -> Vec<usize> {
        let members = self.members.iter().enumerate();
        members.filter(|(_, member)| member.connected && !member.confirmed_gone).map(|(rank, _)| rank).collect()
    }

    /// Handles an event at `now`, in seconds since the launch.
    pub fn handle(&mut self, now: f64, event: Event) -> Vec<Output> {
        let mut out = Vec::new();
        if self.finished {
            return out;
        }
        self.pass_time(now);
        match event {
            Event::Hello { rank } | Event::Alive { rank } => self.mark_heard(rank, &mut out),
            Event::Beat { rank, reading, state } => {
                self.mark_heard(rank, &mut out);
                if let Some(member) = self.members.get_mut(rank).filter(|member| member.ended.is_none()) {
                    (member.reading, member.state, member.no_ledger_since) = (Some(reading), state, None);
                }
            }
            Event::Ended { rank, end, reading } => {
                self.mark_heard(rank, &mut out);
                self.rank_ended(rank, end, reading);
            }
            Event::StackTaken { rank } => {
                self.mark_heard(rank, &mut out);
                if let Some(stacks) = &mut self.stacks {
                    stacks.ranks.remove(&rank);
                }
            }
            Event::Disconnected { rank } => self.agent_lost(rank),
            Event::Gone { rank, left } => {
                // This is not about the agent itself, because an agent may clean up after another rank of its host.
                if let Some(member) = self.members.get_mut(rank) {
                    member.confirmed_gone |= left == 0 && (member.ended.is_some() || self.ending.is_some());
                }
            }
            Event::DaemonGone { rank } => {
                self.mark_heard(rank, &mut out);
                self.daemon_died(rank);
            }
            Event::MpirunEnded => self.mpirun_died(),
            Event::StopRequested { repeated } => self.stop_requested(repeated, &mut out),
            Event::Tick => self.check_progress(&mut out),
        }
        self.advance(&mut out);
        out
    }

    fn pass_time(&mut self, now: f64) {
        let gap = now - self.now;
        if gap > SCHEDULING_GAP.as_secs_f64() {
            // After a scheduling gap, messages may still be unread, so the gap does not count as silence.
            for member in &mut self.members {
                member.last_heard += gap;
            }
        }
        self.now = self.now.max(now);
    }

    fn mark_heard(&mut self, rank: usize, out: &mut Vec<Output>) {
        let now = self.now;
        let Some(member) = self.members.get_mut(rank) else { return };
        member.last_heard = now;
        if !member.connected {
            member.connected = true;
            member.reading = Some(Reading::default());
            member.no_ledger_since = Some(now);
            if self.ending.is_some() {
                out.push(Output::KillAll);
            }
        }
    }

    fn rank_ended(&mut self, rank: usize, end: End, reading: Option<Reading>) {
        let (now, ending) = (self.now, self.ending.is_some());
        let Some(member) = self.members.get_mut(rank).filter(|member| member.ended.is_none()) else { return };
        member.ended = Some(end);
        if let Some(reading) = reading {
            (member.reading, member.no_ledger_since) = (Some(reading), None);
        }
        if ending || end == End::Code(ExitCode::Finished as u8) {
            return;
        }
        if end == KILLED_BY_STOP && self.is_stop_requested() {
            // The rank died of the signal before it could handle it, so its peers need not wait for it.
            let deadline = self.stop.map_or(now, |stop| stop.deadline.min(now + SETTLE_TIME));
            self.stop = Some(Stop { is_requested: true, deadline });
            return;
        }
        if end == End::Code(ExitCode::Preempted as u8) {
            // All ranks agree on such an end, so the others are about to exit as well.
            self.stop.get_or_insert(Stop { is_requested: false, deadline: now + self.options.stop_grace_seconds });
            return;
        }
        let failure = self.failure_of(rank, end);
        self.fail(failure);
    }

    fn failure_of(&self, rank: usize, end: End) -> FailureCandidate {
        let view = self.view(rank);
        FailureCandidate {
            rank: Some(rank),
            sentence: format!(
                "{} {}{}",
                name(&view),
                end.describe(self.options.kind),
                whereabouts(view.reading.as_ref(), self.options.kind)
            ),
            hosts: if end.blames_host() { vec![view.host] } else { Vec::new() },
            cause: end.cause(),
            // A rank that loses its peers is inside a collective operation.
            consequence: match &view.reading {
                _ if !end.may_be_consequence() => 0,
                Some(reading) if !reading.phase.is_collective() => 1,
                _ => 2,
            },
        }
    }

    fn agent_lost(&mut self, rank: usize) {
        let ending = self.ending.is_some();
        let Some(member) = self.members.get_mut(rank).filter(|member| member.connected && !member.disconnected) else {
            return;
        };
        member.disconnected = true;
        if ending || member.ended.is_some() {
            return;
        }
        let view = self.view(rank);
        self.fail(FailureCandidate {
            rank: Some(rank),
            sentence: format!(
                "the agent of {} is gone{}: it was killed, or its connection was cut",
                name(&view),
                whereabouts(view.reading.as_ref(), self.options.kind)
            ),
            hosts: vec![view.host],
            cause: Cause::AgentLost,
            consequence: 0,
        });
    }

    fn daemon_died(&mut self, rank: usize) {
        let Some(host) = self.members.get(rank).map(|member| member.host.clone()) else { return };
        if self.ending.is_some() {
            return;
        }
        let sentence =
            format!("mpirun's daemon on {host} is gone: it was killed, and the ranks there are lost with it");
        self.fail(FailureCandidate {
            rank: None,
            hosts: vec![host],
            cause: Cause::MpirunDied,
            sentence,
            consequence: 0,
        });
    }

    fn mpirun_died(&mut self) {
        self.mpirun_ended = true;
        if self.ending.is_some() || self.members.iter().all(|member| member.ended.is_some()) {
            return;
        }
        let (cause, hosts, sentence) = if self.started {
            (Cause::MpirunDied, Vec::new(), "mpirun ended before the ranks did".to_owned())
        } else {
            let missing = |member: &&Member| !member.connected;
            let absent = self.members.iter().filter(missing).count();
            let hosts = self.hosts_unless_all(self.members.iter().filter(missing).map(|member| member.host.clone()));
            let all = self.members.len();
            (Cause::Start, hosts, format!("mpirun ended before {absent} of {all} ranks had come up"))
        };
        self.fail(FailureCandidate { rank: None, hosts, cause, sentence, consequence: 0 });
    }

    /// Returns the hosts, or none if they are all hosts of the group, because they share the cause then.
    fn hosts_unless_all(&self, hosts: impl Iterator<Item = String>) -> Vec<String> {
        let hosts: BTreeSet<String> = hosts.collect();
        let all: BTreeSet<&String> = self.members.iter().map(|member| &member.host).collect();
        if hosts.len() == all.len() { Vec::new() } else { hosts.into_iter().collect() }
    }

    /// Records a failure. The first one counts, unless it may be a consequence of a later one.
    fn fail(&mut self, failure: FailureCandidate) {
        match &mut self.failure {
            Some(first) if failure.consequence < first.failure.consequence => first.failure = failure,
            // Two ranks whose states differ, and no majority that tells which of them is right.
            Some(first) if is_corruption(&failure) && is_corruption(&first.failure) => {
                if failure.hosts != first.failure.hosts {
                    first.failure.hosts.clear();
                }
            }
            Some(_) => {}
            None => self.failure = Some(PendingFailure { failure, settles_at: self.now + SETTLE_TIME }),
        }
    }

    fn stop_requested(&mut self, repeated: bool, out: &mut Vec<Output>) {
        if self.ending.is_some() {
            // It is too late to keep anything, but no other group will be started.
            self.stop = Some(Stop { is_requested: true, deadline: self.now });
            return;
        }
        if !self.started {
            self.end(stopped_early(&self.members, self.options.kind), out);
        } else if repeated || self.is_stop_requested() {
            self.end(Outcome::Stopped { code: FORCED_EXIT_CODE, sentence: "it was ended by force".to_owned() }, out);
        } else {
            self.stop = Some(Stop { is_requested: true, deadline: self.now + self.options.stop_grace_seconds });
            out.push(Output::SignalAll);
        }
    }

    /// Checks whether the group stands still.
    fn check_progress(&mut self, out: &mut Vec<Output>) {
        if self.ending.is_some() || self.failure.is_some() || self.stacks.is_some() {
            return;
        }
        let views = self.views();
        let verdict = verdict(&views, &self.options.timeouts, self.options.kind);
        let Some(mut sentence) = verdict.sentence().map(str::to_owned) else { return };
        let left_early = self.members.len() - views.len();
        if left_early > 0 && matches!(verdict, Verdict::AllWait { .. }) {
            sentence += &format!("; or it is that {} finished before them", count(left_early, "rank"));
        }
        let culprits = verdict.culprits().to_vec();
        let of_culprits = || culprits.iter().map(|&rank| self.members[rank].host.clone());
        let shared = |hosts: Vec<String>| if hosts.len() == 1 { hosts } else { Vec::new() };
        let (cause, hosts) = match &verdict {
            Verdict::Silent { hosts, .. } if !hosts.is_empty() => (Cause::HostLost, hosts.clone()),
            Verdict::Silent { .. } => (Cause::AgentLost, self.hosts_unless_all(of_culprits())),
            Verdict::NotReady { .. } => (Cause::Start, self.hosts_unless_all(of_culprits())),
            // Several hosts rarely break at once, so they share the cause.
            _ => (Cause::Stalled, shared(self.hosts_unless_all(of_culprits()))),
        };
        let rank = culprits.first().copied();
        let outcome = self.outcome(FailureCandidate { rank, hosts, cause, sentence, consequence: 0 });
        if let Verdict::Silent { ranks, .. } = &verdict {
            for &rank in ranks {
                self.members[rank].disconnected = true;
            }
        }
        let ranks: BTreeSet<usize> =
            if matches!(verdict, Verdict::Late { .. } | Verdict::NotReady { .. }) { culprits } else { Vec::new() }
                .into_iter()
                .filter(|&rank| self.members[rank].connected && !self.members[rank].disconnected)
                .take(MAX_STACKS)
                .collect();
        out.extend(ranks.iter().map(|&rank| Output::TakeStack(rank)));
        self.stacks = Some(PendingStacks { ranks, deadline: self.now + STACK_TIMEOUT, outcome });
    }

    /// Turns a failure into an outcome.
    fn outcome(&self, failure: FailureCandidate) -> Outcome {
        let FailureCandidate { rank, hosts, cause, sentence, .. } = failure;
        let steps_gained = self.reached().saturating_sub(self.options.reached_before);
        Outcome::Incident { incident: Incident { at_seconds: self.now, rank, hosts, cause, steps_gained }, sentence }
    }

    /// Does everything that is due.
    fn advance(&mut self, out: &mut Vec<Output>) {
        if self.ending.is_none() {
            if !self.started && self.failure.is_none() && self.members.iter().all(|member| member.connected) {
                self.started = true;
                out.push(Output::StartAll);
            }
            if let Some(outcome) = self.due_outcome() {
                self.end(outcome, out);
            }
        }
        self.shut_down(out);
    }

    /// Returns the outcome, if it is time for one.
    fn due_outcome(&mut self) -> Option<Outcome> {
        let all_ended = self.members.iter().all(|member| member.ended.is_some());
        // If all ranks finished, there is nothing to heal, whatever else happened: a lost daemon on a finished host, or
        // a rank that stood still for a while.
        if self.members.iter().all(|member| member.ended == Some(End::Code(0))) {
            return Some(self.regular_end());
        }
        if let Some(stacks) = &self.stacks {
            // A failure that comes now is not the cause.
            let enough = stacks.ranks.is_empty() || self.failure.is_some() || self.now >= stacks.deadline;
            return enough.then(|| stacks.outcome.clone());
        }
        if let Some(PendingFailure { failure, settles_at }) = &self.failure {
            if self.now < *settles_at && !all_ended {
                return None;
            }
            if failure.consequence > 0 && self.is_killed_by_stop() {
                return Some(stopped_early(&self.members, self.options.kind));
            }
            let preempted = End::Code(ExitCode::Preempted as u8);
            let first = self.members.iter().position(|member| member.ended == Some(preempted));
            return Some(match first {
                // This rank lost a peer that was asked to stop.
                Some(rank) if failure.consequence > 0 => self.outcome(self.failure_of(rank, preempted)),
                _ => self.outcome(failure.clone()),
            });
        }
        if all_ended {
            return Some(self.regular_end());
        }
        let stop = self.stop?;
        if self.now < stop.deadline {
            return None;
        }
        let grace = self.options.stop_grace_seconds;
        Some(if self.is_killed_by_stop() {
            stopped_early(&self.members, self.options.kind)
        } else if stop.is_requested {
            let sentence = format!("it did not stop within {grace:.0} s and was ended by force");
            Outcome::Stopped { code: FORCED_EXIT_CODE, sentence }
        } else {
            self.regular_end()
        })
    }

    fn end(&mut self, outcome: Outcome, out: &mut Vec<Output>) {
        out.push(Output::KillAll);
        self.ending = Some(Ending { since: self.now, outcome, dismissed_at: None, mpirun_killed: false });
    }

    fn shut_down(&mut self, out: &mut Vec<Output>) {
        let silence = self.options.timeouts.silence.as_secs_f64();
        let group_down = self.options.timeouts.group_down.as_secs_f64();
        let Some(ending) = &mut self.ending else { return };
        let in_reach =
            |member: &Member| member.connected && !member.disconnected && self.now - member.last_heard <= silence;
        let all_gone = !self.members.iter().any(|member| in_reach(member) && !member.confirmed_gone);
        let overdue = self.now - ending.since >= group_down;
        if ending.dismissed_at.is_none() && (all_gone || overdue) {
            ending.dismissed_at = Some(self.now);
            out.push(Output::LeaveAll);
        }
        let is_mpirun_overdue = ending.dismissed_at.is_some_and(|at| self.now - at >= MPIRUN_EXIT_TIMEOUT);
        if !self.mpirun_ended && !ending.mpirun_killed && (overdue || is_mpirun_overdue) {
            ending.mpirun_killed = true;
            out.push(Output::KillMpirun);
        }
        if (self.mpirun_ended && all_gone) || self.now - ending.since >= 2.0 * group_down {
            self.finished = true;
            let outcome = ending.outcome.clone();
            let is_stop_requested = self.is_stop_requested();
            out.push(Output::Finished(match outcome {
                Outcome::Incident { incident, sentence } if is_stop_requested => Outcome::Stopped {
                    code: code_of(incident.cause),
                    sentence: format!("asked to stop, it failed: {sentence}"),
                },
                outcome => outcome,
            }));
        }
    }

    fn is_stop_requested(&self) -> bool {
        self.stop.is_some_and(|stop| stop.is_requested)
    }

    /// Returns whether the launcher's own signal killed a rank.
    fn is_killed_by_stop(&self) -> bool {
        self.is_stop_requested() && self.members.iter().any(|member| member.ended == Some(KILLED_BY_STOP))
    }

    /// Returns the outcome after all ranks exited with 0 or 75.
    fn regular_end(&self) -> Outcome {
        let preempted = End::Code(ExitCode::Preempted as u8);
        let Some(rank) = self.members.iter().position(|member| member.ended == Some(preempted)) else {
            return if self.is_killed_by_stop() {
                stopped_early(&self.members, self.options.kind)
            } else {
                Outcome::AllEnded
            };
        };
        if self.is_stop_requested() {
            let sentence = self.options.kind.stopped().to_owned();
            return Outcome::Stopped { code: ExitCode::Preempted as u8, sentence };
        }
        self.outcome(self.failure_of(rank, preempted))
    }
}

fn is_corruption(failure: &FailureCandidate) -> bool {
    failure.cause == Cause::Exit(ExitCode::Corrupted as u8)
}

#[cfg(test)]
mod tests;
