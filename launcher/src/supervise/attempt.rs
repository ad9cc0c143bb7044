//! One attempt: `mpirun`, its agents and their ranks, until all of them are gone.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use admiral_contract::{Reading, environment};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::hub::{AgentInput, Hub};
use super::mpirun::Mpirun;
use super::roster::{Entry, Roster};
use crate::console::{Console, ShowRank};
use crate::decide::{End, Event, Group, GroupOptions, Outcome, Output, SlowRank, slow_ranks};
use crate::environment::{LAUNCH_ADDRESSES, LAUNCH_MACHINE, LAUNCH_TOKEN, machine_digest};
use crate::layout::{Layout, Misplaced, Reported, check_reported};
use crate::mpirun::MpirunCommand;
use crate::protocol::{FromAgent, Start, ToAgent};

/// The interval of the group's checks.
const TICK: Duration = Duration::from_millis(100);
/// `mpirun` is killed if it does not end this long after its agents.
const MPIRUN_EXIT_TIMEOUT: Duration = Duration::from_secs(3);

/// The settings of an attempt.
#[derive(Debug, Clone)]
pub struct AttemptSpec {
    /// The number of attempts of this launch before it.
    pub ordinal: u64,
    /// Identifies the launch's processes on every host.
    pub launch_id: String,
    /// The command that starts the agents. Ranks get its variables too.
    pub mpirun: MpirunCommand,
    /// The addresses of this launcher.
    pub addresses: Vec<IpAddr>,
}

/// The settings of an attempt's ranks.
#[derive(Debug, Clone)]
pub struct RankSettings {
    /// The program and its arguments, the same for all ranks.
    pub argv: Vec<String>,
    /// Variables besides those that `mpirun` passes on.
    pub environment: Vec<(String, String)>,
    /// The folder of the ranks' logs.
    pub logs: PathBuf,
    /// The ranks whose output is shown.
    pub show: ShowRank,
    /// Whether the ranks use GPUs.
    pub has_gpus: bool,
    /// For a drill: a host to cut off.
    pub vanish: Option<Vanish>,
    /// The timeouts and limits of the group.
    pub options: GroupOptions,
}

/// A host that a drill cuts off, as if its cable were pulled, at a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vanish {
    /// The host, as the host list names it.
    pub host: String,
    /// The step.
    pub at_step: u64,
}

/// An observer of an attempt.
pub trait Watcher {
    /// Called once a second.
    fn observe(&mut self, attempt: &Attempt, now: f64);
    /// Called when the attempt has done its first step or batch, at `now` in seconds since the launch.
    fn first_step(&mut self, attempt: &Attempt, now: f64);
}

/// A running attempt.
#[derive(Debug)]
pub struct Attempt {
    /// Its settings.
    pub plan: AttemptSpec,
    /// The known state of each rank.
    pub roster: Roster,
    /// Ranks that are slower than the others.
    pub slow: Vec<SlowRank>,
    /// Whether a stop was requested.
    pub is_stopping: bool,
    /// Whether it is shutting down after a failure.
    pub is_ending: bool,
    hub: Hub,
    mpirun: Mpirun,
    launched: Instant,
}

/// The end of an attempt.
#[derive(Debug)]
pub struct AttemptEnd {
    /// The outcome.
    pub outcome: Outcome,
    /// The ranks at the end.
    pub roster: Roster,
    /// The ranks when the shutdown began.
    pub at_failure: Roster,
    /// The time at which a drill cut a host off.
    pub vanished: Option<Timestamp>,
    /// Ranks whose processes are not confirmed to be gone.
    pub unverified: Vec<usize>,
    /// The furthest step that was begun, or the number of images that were finished.
    pub reached: u64,
    /// Whether a step, or a batch of images, was completed.
    pub has_stepped: bool,
    /// The time at which the shutdown began.
    pub detected: Timestamp,
    /// The same, in seconds since the launch.
    pub failed_at: f64,
    /// The output of `mpirun`.
    pub mpirun_lines: Vec<String>,
    /// The first difference between the planned and the reported places of ranks, if any. No rank was started then.
    pub misplaced: Option<Misplaced>,
}

impl Attempt {
    /// Starts `mpirun`. [`Attempt::supervise`] starts the ranks. Times count from `launched`.
    ///
    /// # Errors
    /// If the system provides no port or no process.
    pub async fn launch(mut plan: AttemptSpec, launched: Instant) -> std::io::Result<Self> {
        // The secret of this attempt's agents.
        let token = crate::random::text(32)?;
        let hub = Hub::open(token.clone(), plan.ordinal, &plan.addresses)?;
        plan.mpirun.variables.extend([
            (LAUNCH_ADDRESSES.to_owned(), hub.addresses(&plan.addresses)),
            (LAUNCH_MACHINE.to_owned(), machine_digest()),
            (LAUNCH_TOKEN.to_owned(), token),
            (environment::ATTEMPT.to_owned(), plan.ordinal.to_string()),
            (environment::LAUNCH_ID.to_owned(), plan.launch_id.clone()),
        ]);
        let mpirun = Mpirun::start(&plan.mpirun)?;
        let places = plan.mpirun.layout.placements.iter().map(|place| (place.host.clone(), place.local_rank));
        let roster = Roster::new(places);
        Ok(Self { plan, roster, slow: Vec::new(), is_stopping: false, is_ending: false, hub, mpirun, launched })
    }

    /// Ends what [`Attempt::launch`] has started, if no rank was started yet.
    pub async fn cancel(mut self) {
        self.hub.send_all(&ToAgent::Leave { with_daemon: false });
        self.mpirun.end(Duration::from_secs(1)).await;
    }

    /// Returns the places of its ranks.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.plan.mpirun.layout
    }

    /// Starts the ranks and supervises them until the end. A message on `stops` asks them to stop.
    pub async fn supervise(
        mut self,
        ranks: &RankSettings,
        console: &Console,
        stops: &mut mpsc::UnboundedReceiver<()>,
        watcher: &mut impl Watcher,
    ) -> AttemptEnd {
        let gpu = |local_rank| ranks.has_gpus.then_some(local_rank);
        let members: Vec<_> =
            self.layout().placements.iter().map(|place| (place.host.clone(), gpu(place.local_rank))).collect();
        let mut group = Group::new(ranks.options.clone(), members, self.launched.elapsed().as_secs_f64());
        let (mut tick, mut second) = (interval(TICK), interval(Duration::from_secs(1)));
        for timer in [&mut tick, &mut second] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let (mut mpirun_ended, mut has_stepped) = (false, false);
        let (mut failed_at, mut detected, mut misplaced) = (None, None, None);
        let (mut vanish, mut vanished, mut at_failure) = (ranks.vanish.clone(), None, None);
        let (outcome, down_at) = loop {
            let event = tokio::select! {
                input = self.hub.next() => match input {
                    Some((rank, input)) => self.event_of(rank, input, console),
                    None => None,
                },
                _ = self.mpirun.wait(), if !mpirun_ended => {
                    mpirun_ended = true;
                    Some(Event::MpirunEnded)
                }
                Some(()) = stops.recv() => {
                    console.info(&if self.is_stopping {
                        "asked again: the ranks are ended by force".to_owned()
                    } else {
                        let kind = ranks.options.kind;
                        format!("asked to stop: {}; ask again to end them at once", kind.when_stopped())
                    });
                    let repeated = std::mem::replace(&mut self.is_stopping, true);
                    Some(Event::StopRequested { repeated })
                }
                _ = tick.tick() => Some(Event::Tick),
                _ = second.tick() => {
                    self.slow = slow_ranks(&group.views(), ranks.options.kind);
                    watcher.observe(&self, self.launched.elapsed().as_secs_f64());
                    None
                }
            };
            let now = self.launched.elapsed().as_secs_f64();
            if let Some(host) = vanish.take_if(|vanish| group.reached() >= vanish.at_step).map(|vanish| vanish.host) {
                vanished = Some(Timestamp::now());
                let places = self.layout().placements.iter();
                places.filter(|place| place.host == host).for_each(|place| self.hub.send(place.rank, ToAgent::Vanish));
            }
            if !has_stepped && self.roster.readings().any(|reading| reading.step_seconds > 0.0) {
                has_stepped = true;
                watcher.first_step(&self, now);
            }
            let Some(event) = event else { continue };
            let mut outputs = group.handle(now, event);
            if outputs.contains(&Output::StartAll)
                && let Err(error) = check_reported(self.layout(), &self.reported(ranks.has_gpus))
            {
                misplaced = Some(error);
                outputs = group.handle(now, Event::StopRequested { repeated: true });
            }
            let mut finished = None;
            for output in outputs {
                match output {
                    Output::StartAll => self.start_all(ranks),
                    Output::SignalAll => {
                        self.hub.send_all(&ToAgent::Signal { signal: rustix::process::Signal::TERM.as_raw() });
                    }
                    Output::TakeStack(rank) => self.hub.send(rank, ToAgent::Stack),
                    Output::KillAll => {
                        failed_at.get_or_insert(now);
                        detected.get_or_insert_with(Timestamp::now);
                        at_failure.get_or_insert_with(|| self.roster.clone());
                        self.is_ending = true;
                        self.hub.send_all(&ToAgent::Kill);
                    }
                    Output::LeaveAll => {
                        let is_good = |entry: &Entry| matches!(entry.end, Some((Some(_), None)));
                        let with_daemon = !self.roster.entries.iter().all(is_good);
                        self.hub.send_all(&ToAgent::Leave { with_daemon });
                    }
                    Output::KillMpirun => self.mpirun.kill(),
                    Output::Finished(outcome) => finished = Some(outcome),
                }
            }
            if let Some(outcome) = finished {
                break (outcome, now);
            }
        };
        self.mpirun.end(MPIRUN_EXIT_TIMEOUT).await;
        crate::agent::end_children().await;
        AttemptEnd {
            outcome,
            unverified: group.unverified(),
            reached: group.reached(),
            has_stepped,
            failed_at: failed_at.unwrap_or(down_at),
            detected: detected.unwrap_or_else(Timestamp::now),
            mpirun_lines: self.mpirun.lines(),
            misplaced,
            vanished,
            at_failure: at_failure.unwrap_or_else(|| self.roster.clone()),
            roster: self.roster,
        }
    }

    /// Records an input, and returns the event for the group.
    fn event_of(&mut self, rank: usize, input: AgentInput, console: &Console) -> Option<Event> {
        let message = match input {
            AgentInput::Closed => return Some(Event::Disconnected { rank }),
            AgentInput::Message(message) => message,
        };
        self.roster.note(rank, &message);
        Some(match message {
            FromAgent::Hello(_) => Event::Hello { rank },
            FromAgent::Beat { reading, state } => Event::Beat { rank, reading, state },
            FromAgent::Ended { code, signal, reading, .. } => {
                let end = match (code, signal) {
                    (Some(code), _) => End::Code(code),
                    (None, Some(signal)) => End::Signal(signal),
                    (None, None) => End::NotStarted,
                };
                Event::Ended { rank, end, reading }
            }
            FromAgent::DaemonGone => Event::DaemonGone { rank },
            FromAgent::Gone { left } => Event::Gone { rank, left },
            FromAgent::Stack { more: false, .. } => Event::StackTaken { rank },
            FromAgent::Line { text } => {
                console.rank_line(rank, &text);
                Event::Alive { rank }
            }
            FromAgent::Started { .. } | FromAgent::Alive | FromAgent::Stack { more: true, .. } => Event::Alive { rank },
        })
    }

    fn start_all(&self, ranks: &RankSettings) {
        for rank in 0..self.layout().world() {
            self.hub.send(
                rank,
                ToAgent::Start(Start {
                    argv: ranks.argv.clone(),
                    environment: ranks.environment.clone(),
                    log: ranks.logs.join(format!("rank-{rank:03}.log")),
                    show: ranks.show.shows(rank),
                    orphan_seconds: ranks.options.timeouts.orphan.as_secs_f64(),
                }),
            );
        }
    }

    /// Returns the places that the agents reported.
    fn reported(&self, has_gpus: bool) -> Vec<Reported> {
        let hellos = self.roster.entries.iter().filter_map(|entry| entry.hello.as_ref());
        let reported = |hello: &crate::protocol::Hello| Reported {
            rank: hello.rank,
            host: hello.host.clone(),
            local_rank: hello.local_rank,
            gpu: hello.gpu.clone().filter(|_| has_gpus),
        };
        hellos.map(reported).collect()
    }

    /// Returns the ledger of the rank that is furthest.
    #[must_use]
    pub fn furthest(&self) -> Option<&Reading> {
        self.roster.readings().max_by_key(|reading| reading.step)
    }
}
