//! The agent's main loop.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::time::Duration;

use admiral_contract::host::{ProcessStat, host_name};
use admiral_contract::{Ledger, environment};
use rustix::process::Pid;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::connect::{LauncherConnection, connect};
use super::error::AgentError;
use super::process::{Ended, RankProcess, adopt_orphans};
use super::{process, stack};
use crate::environment::{AgentVariables, Environment, LAUNCH_ADDRESSES, LAUNCH_TOKEN, MPI_LOCAL_RANK, MPI_RANK};
use crate::protocol::{FromAgent, HEARTBEAT_INTERVAL, Hello, SCHEDULING_GAP, Start, ToAgent, encode};
use crate::session;

/// A rank has this long to publish a checkpoint after its launcher is gone.
const ORPHAN_GRACE: Duration = Duration::from_secs(3);
/// An agent without a rank waits this long for a message.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The interval of checks that the daemon is alive. It is shorter than the launcher's wait for the first cause of a
/// failure.
const DAEMON_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// The rank of this agent, and the way to its launcher.
struct Assignment {
    addresses: String,
    token: String,
    attempt: u64,
    rank: usize,
    local_rank: usize,
}

impl Assignment {
    fn new(variables: &AgentVariables) -> Result<Self, AgentError> {
        fn required<T>(name: &'static str, value: Option<T>) -> Result<T, AgentError> {
            value.ok_or(AgentError::Environment(name))
        }
        Ok(Self {
            addresses: required(LAUNCH_ADDRESSES, variables.addresses.clone())?,
            token: required(LAUNCH_TOKEN, variables.token.clone())?,
            attempt: required(environment::ATTEMPT, variables.attempt)?,
            rank: required(MPI_RANK, variables.rank)?,
            local_rank: required(MPI_LOCAL_RANK, variables.local_rank)?,
        })
    }
}

/// Serves a rank until the launcher dismisses this agent.
///
/// # Errors
/// If this process was not started by a launcher, or cannot reach it.
pub async fn run(environment: &Environment) -> Result<(), AgentError> {
    let assignment = Assignment::new(&environment.agent)?;
    let session = environment.agent.session_folder.clone().filter(|folder| session::is_session(folder));
    adopt_orphans()?;
    let LauncherConnection { reader, writer } = connect(&assignment.addresses, &assignment.token).await?;
    let daemon = process::daemon();
    let (to_launcher, outgoing) = mpsc::unbounded_channel();
    let writing = tokio::spawn(write(writer, outgoing));
    let _ = to_launcher.send(FromAgent::Hello(Hello {
        token: assignment.token.clone(),
        attempt: assignment.attempt,
        rank: assignment.rank,
        local_rank: assignment.local_rank,
        gpu: gpu_of(environment.agent.visible_gpus.as_deref(), assignment.local_rank),
        host: host_name(),
        daemon: daemon.and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok()),
        session: session.clone(),
    }));
    let (forward, from_launcher) = mpsc::unbounded_channel();
    tokio::spawn(listen(reader, forward));
    let agent = Agent {
        to_launcher,
        rank: None,
        ledger: Ledger::create().map_err(std::io::Error::other)?,
        is_over: false,
        orphan: IDLE_TIMEOUT,
        daemon: daemon.filter(|&pid| process::is_orted(pid)),
    };
    let with_daemon = agent.run(from_launcher).await?;
    let _ = timeout(Duration::from_secs(1), writing).await;
    if with_daemon && assignment.local_rank == 0 {
        process::end_daemon();
        session.iter().for_each(|folder| session::remove(folder));
    }
    Ok(())
}

/// Returns the GPU of a local rank: the entry in the list of visible devices, or the local rank itself if there is no
/// list.
fn gpu_of(visible: Option<&str>, local_rank: usize) -> Option<String> {
    match visible {
        None => Some(local_rank.to_string()),
        Some(list) => {
            list.split(',').nth(local_rank).map(|entry| entry.trim().to_owned()).filter(|entry| !entry.is_empty())
        }
    }
}

async fn write(mut writer: OwnedWriteHalf, mut outgoing: mpsc::UnboundedReceiver<FromAgent>) {
    while let Some(message) = outgoing.recv().await {
        if writer.write_all(&encode(&message)).await.is_err() {
            return;
        }
    }
}

/// Forwards the launcher's messages until the connection ends.
async fn listen(reader: BufReader<OwnedReadHalf>, forward: mpsc::UnboundedSender<ToAgent>) {
    let mut lines = reader.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // Unknown messages of a newer launcher are ignored.
        if let Ok(message) = serde_json::from_str(&line)
            && forward.send(message).is_err()
        {
            return;
        }
    }
}

struct Agent {
    to_launcher: mpsc::UnboundedSender<FromAgent>,
    rank: Option<RankProcess>,
    ledger: Ledger,
    /// Whether the rank has ended and its end was reported.
    is_over: bool,
    /// After this long without a message, the launcher counts as lost.
    orphan: Duration,
    /// The daemon of a host other than `mpirun`'s, until it is found gone. The launcher watches `mpirun` itself.
    daemon: Option<Pid>,
}

impl Agent {
    /// Runs until the agent may leave. Returns whether `mpirun`'s daemon is to be ended too.
    async fn run(mut self, mut from_launcher: mpsc::UnboundedReceiver<ToAgent>) -> Result<bool, AgentError> {
        let mut beat = interval(HEARTBEAT_INTERVAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval(DAEMON_CHECK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last_message, mut last_beat, mut has_paused) = (Instant::now(), Instant::now(), false);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        // mpirun forwards these signals to all its children; only the launcher signals ranks.
        let _user1 = signal(SignalKind::user_defined1())?;
        let _user2 = signal(SignalKind::user_defined2())?;
        loop {
            tokio::select! {
                message = from_launcher.recv() => {
                    (last_message, has_paused) = (Instant::now(), false);
                    match message {
                        None => return self.orphaned().await,
                        Some(ToAgent::Leave { with_daemon }) => {
                            self.end_by_force().await;
                            return Ok(with_daemon);
                        }
                        Some(ToAgent::Vanish) => return Ok(self.vanish().await),
                        Some(message) => self.obey(message).await,
                    }
                }
                ended = wait(&mut self.rank), if !self.is_over => self.ended(ended).await,
                _ = look.tick(), if self.daemon.is_some() => self.look_for_daemon(),
                _ = beat.tick() => {
                    let gap = last_beat.elapsed();
                    last_beat = Instant::now();
                    // After a scheduling gap, read the pending messages before judging silence. Only once: a launcher
                    // that is gone stays silent after every gap.
                    if gap > SCHEDULING_GAP && !has_paused {
                        has_paused = true;
                        last_message = (last_message + gap).min(last_beat);
                    }
                    if last_message.elapsed() > self.orphan {
                        return self.orphaned().await;
                    }
                    self.beat();
                }
                // mpirun or the scheduler ends all its processes. The rank may publish a checkpoint; if they kill this
                // process meanwhile, the rank dies with it.
                _ = terminate.recv() => {
                    if let Some(rank) = self.rank.as_ref().filter(|_| !self.is_over) {
                        rank.signal(rustix::process::Signal::TERM.as_raw());
                    }
                }
                _ = interrupt.recv() => {}
                _ = hang_up.recv() => {}
            }
        }
    }

    fn send(&self, message: FromAgent) {
        // If the launcher is gone, its silence ends this agent too.
        let _ = self.to_launcher.send(message);
    }

    /// When a daemon dies, its children get another parent.
    fn look_for_daemon(&mut self) {
        if self.daemon.take_if(|&mut daemon| rustix::process::getppid() != Some(daemon)).is_some() {
            self.send(FromAgent::DaemonGone);
        }
    }

    fn beat(&self) {
        match &self.rank {
            Some(rank) if !self.is_over => {
                self.send(FromAgent::Beat {
                    reading: self.ledger.read(),
                    state: ProcessStat::of(rank.pid).map(|stat| stat.state),
                });
            }
            _ => self.send(FromAgent::Alive),
        }
    }

    async fn obey(&mut self, message: ToAgent) {
        match message {
            ToAgent::Start(start) => self.start(&start).await,
            ToAgent::Signal { signal } => {
                if let Some(rank) = self.rank.as_ref().filter(|_| !self.is_over) {
                    rank.signal(signal);
                }
            }
            ToAgent::Kill => self.end_by_force().await,
            ToAgent::Stack => {
                if let Some(rank) = self.rank.as_ref().filter(|_| !self.is_over) {
                    let (pid, to_launcher) = (rank.pid, self.to_launcher.clone());
                    tokio::spawn(async move {
                        let text = stack::in_kernel(pid);
                        let _ = to_launcher.send(FromAgent::Stack { text: text.clone(), more: true });
                        let text = text + &stack::in_program(pid).await;
                        let _ = to_launcher.send(FromAgent::Stack { text, more: false });
                    });
                }
            }
            ToAgent::Welcome { .. } | ToAgent::Leave { .. } | ToAgent::Vanish | ToAgent::Alive => {}
        }
    }

    async fn start(&mut self, start: &Start) {
        self.orphan = Duration::try_from_secs_f64(start.orphan_seconds).unwrap_or(IDLE_TIMEOUT);
        let variables: BTreeMap<&str, String> = start
            .environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()))
            .chain(self.ledger.file().map(|file| (environment::LEDGER, format!("/proc/self/fd/{}", file.as_raw_fd()))))
            .collect();
        match RankProcess::start(start, &variables, self.to_launcher.clone()) {
            Ok(rank) => {
                self.send(FromAgent::Started { pid: rank.pid });
                self.rank = Some(rank);
            }
            Err(error) => {
                let program = start.argv.first().map_or("", String::as_str);
                let line = format!("error: {program} cannot be started on {}: {error}", host_name());
                self.send(FromAgent::Line { text: line.clone() });
                self.is_over = true;
                self.send(FromAgent::Ended { code: None, signal: None, reading: None, last_lines: vec![line] });
                self.send(FromAgent::Gone { left: 0 });
            }
        }
    }

    /// Reports the end of the rank's process and ends what it left behind.
    async fn ended(&mut self, ended: Ended) {
        // A rank dies soon after its daemon, so the daemon's death is reported first.
        self.look_for_daemon();
        self.is_over = true;
        let Some(rank) = &mut self.rank else { return };
        let (pid, last_lines) = (rank.pid, rank.last_lines().await);
        let reading = Some(self.ledger.read());
        self.send(FromAgent::Ended { code: ended.code, signal: ended.signal, reading, last_lines });
        let left = process::end_descendants(pid).await;
        self.send(FromAgent::Gone { left });
    }

    async fn end_by_force(&mut self) {
        if self.is_over {
            return;
        }
        match &self.rank {
            Some(rank) => rank.kill(),
            None => {
                // The rank was never started.
                self.is_over = true;
                self.send(FromAgent::Gone { left: 0 });
                return;
            }
        }
        // A process inside a driver call may not die; the launcher has its own timeout.
        if let Ok(ended) = timeout(Duration::from_secs(3), wait(&mut self.rank)).await {
            self.ended(ended).await;
        }
    }

    /// Simulates a lost host: stops the rank and sends nothing until the launcher counts as lost.
    async fn vanish(&mut self) -> bool {
        if let Some(rank) = &self.rank {
            rank.signal(rustix::process::Signal::STOP.as_raw());
        }
        tokio::time::sleep(self.orphan).await;
        self.end_by_force().await;
        true
    }

    /// Handles the loss of the connection to the launcher: lets the rank publish a checkpoint, then ends it.
    async fn orphaned(&mut self) -> Result<bool, AgentError> {
        if !self.is_over
            && let Some(rank) = &self.rank
        {
            rank.signal(rustix::process::Signal::TERM.as_raw());
            if let Ok(ended) = timeout(ORPHAN_GRACE, wait(&mut self.rank)).await {
                self.ended(ended).await;
            }
        }
        self.end_by_force().await;
        Ok(true)
    }
}

/// Waits for the end of the rank, or for ever if there is none.
async fn wait(rank: &mut Option<RankProcess>) -> Ended {
    match rank {
        Some(rank) => rank.wait().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_sees_the_gpu_of_its_local_rank() {
        assert_eq!(gpu_of(None, 3).as_deref(), Some("3"));
        assert_eq!(gpu_of(Some("4, 6"), 1).as_deref(), Some("6"));
        assert_eq!(gpu_of(Some("0,0"), 1), gpu_of(Some("0,0"), 0));
        assert_eq!((gpu_of(Some("4"), 1), gpu_of(Some(""), 0)), (None, None));
    }
}
