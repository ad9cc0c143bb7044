//! The agent's main loop.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use admiral_contract::host::{ProcessStat, host_name};
use admiral_contract::{Ledger, environment};
use rustix::process::Pid;
use tokio::io::BufReader;
use tokio::net::tcp::OwnedReadHalf;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::connect::{LauncherConnection, connect, set_patience};
use super::error::AgentError;
use super::outbox::Outbox;
use super::process::{Ended, RankProcess, adopt_orphans};
use super::{process, stack};
use crate::channel::Opener;
use crate::environment::{
    AgentVariables, Environment, LAUNCH_ADDRESSES, LAUNCH_TOKEN, MPI_LOCAL_RANK, MPI_RANK, machine_digest,
};
use crate::protocol::{
    FromAgent, HEARTBEAT_INTERVAL, Hello, MAX_MESSAGE, MAX_STACK, Start, ToAgent, read_line, truncate,
};
use crate::session;

/// A rank has this long to publish a checkpoint after its launcher is gone.
const ORPHAN_GRACE: Duration = Duration::from_secs(3);
/// Before the start of the rank, the launcher's system may be silent for this long.
const IDLE_PATIENCE: Duration = Duration::from_secs(30);
/// An agent that leaves waits this long until the rank's log is written.
const LAST_LOG: Duration = Duration::from_secs(2);
/// The time for a process to die of SIGKILL.
const FORCE_TIMEOUT: Duration = Duration::from_secs(3);
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
    let is_here = environment.agent.machine.as_deref() == Some(&machine_digest());
    let connection = connect(&assignment.addresses, &assignment.token, is_here).await?;
    let LauncherConnection { socket, reader, writer, sealer, opener } = connection;
    set_patience(&socket, IDLE_PATIENCE)?;
    let daemon = process::daemon();
    let to_launcher = Outbox::default();
    let writing = tokio::spawn(to_launcher.clone().write_to(writer, sealer));
    to_launcher.send(FromAgent::Hello(Hello {
        attempt: assignment.attempt,
        rank: assignment.rank,
        local_rank: assignment.local_rank,
        gpu: gpu_of(environment.agent.visible_gpus.as_deref(), assignment.local_rank),
        host: host_name(),
        daemon: daemon.and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok()),
        session: session.clone(),
    }));
    let (forward, from_launcher) = mpsc::unbounded_channel();
    tokio::spawn(listen(reader, opener, to_launcher.clone(), forward));
    let agent = Agent {
        to_launcher: to_launcher.clone(),
        socket,
        starting: None,
        rank: None,
        ledger: Ledger::create().map_err(std::io::Error::other)?,
        is_over: false,
        patience: IDLE_PATIENCE,
        daemon: daemon.filter(|&pid| process::is_orted(pid)),
    };
    let with_daemon = agent.run(from_launcher).await?;
    to_launcher.close();
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

/// Forwards the launcher's messages until the connection ends.
async fn listen(
    mut reader: BufReader<OwnedReadHalf>,
    mut opener: Opener,
    to_launcher: Outbox,
    forward: mpsc::UnboundedSender<ToAgent>,
) {
    let mut line = Vec::new();
    while let Ok(true) = read_line(&mut reader, &mut line, MAX_MESSAGE).await {
        let Ok(text) = opener.open(&line) else { return };
        to_launcher.heard();
        // Unknown messages of a newer launcher are ignored.
        if let Ok(message) = serde_json::from_slice(text)
            && forward.send(message).is_err()
        {
            return;
        }
    }
}

struct Agent {
    to_launcher: Outbox,
    /// The connection to the launcher.
    socket: OwnedFd,
    /// The start of the rank, while it lasts.
    starting: Option<Starting>,
    rank: Option<RankProcess>,
    ledger: Ledger,
    /// Whether the rank has ended and its end was reported.
    is_over: bool,
    /// The launcher counts as lost when its system has not answered for this long.
    patience: Duration,
    /// The daemon of a host other than `mpirun`'s, until it is found gone. The launcher watches `mpirun` itself.
    daemon: Option<Pid>,
}

/// A rank that is being started.
struct Starting {
    program: String,
    task: JoinHandle<std::io::Result<RankProcess>>,
}

impl Agent {
    /// Runs until the agent may leave. Returns whether `mpirun`'s daemon is to be ended too.
    async fn run(mut self, mut from_launcher: mpsc::UnboundedReceiver<ToAgent>) -> Result<bool, AgentError> {
        let mut beat = interval(HEARTBEAT_INTERVAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval(DAEMON_CHECK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        // mpirun forwards these signals to all its children; only the launcher signals ranks.
        let _user1 = signal(SignalKind::user_defined1())?;
        let _user2 = signal(SignalKind::user_defined2())?;
        let with_daemon = loop {
            tokio::select! {
                message = from_launcher.recv() => match message {
                    None => break self.orphaned().await,
                    Some(ToAgent::Leave { with_daemon }) => {
                        self.end_by_force().await;
                        break with_daemon;
                    }
                    Some(ToAgent::Vanish) => break self.vanish().await,
                    Some(message) => self.obey(message).await,
                },
                started = start_of(&mut self.starting) => self.started(started),
                ended = wait(&mut self.rank), if !self.is_over => self.ended(ended).await,
                _ = look.tick(), if self.daemon.is_some() => self.look_for_daemon(),
                _ = beat.tick() => self.beat(),
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
        };
        if let Some(rank) = &self.rank {
            rank.finish_log(LAST_LOG);
        }
        Ok(with_daemon)
    }

    fn send(&self, message: FromAgent) {
        self.to_launcher.send(message);
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
            ToAgent::Start(start) => self.start(start),
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
                        // Reading the stack of a thread may block.
                        let text = tokio::task::spawn_blocking(move || stack::in_kernel(pid)).await.unwrap_or_default();
                        let send = |text: &str, more| {
                            to_launcher.send(FromAgent::Stack { text: truncate(text, MAX_STACK).to_owned(), more });
                        };
                        send(&text, true);
                        send(&(text + &stack::in_program(pid).await), false);
                    });
                }
            }
            ToAgent::Leave { .. } | ToAgent::Vanish | ToAgent::Alive => {}
        }
    }

    fn start(&mut self, start: Start) {
        if let Ok(patience) = Duration::try_from_secs_f64(start.orphan_seconds) {
            self.patience = patience;
            // Without it, a lost launcher is noticed later.
            let _ = set_patience(&self.socket, patience);
        }
        let ledger =
            self.ledger.file().map(|file| (environment::LEDGER, format!("/proc/self/fd/{}", file.as_raw_fd())));
        let program = start.argv.first().cloned().unwrap_or_default();
        let to_launcher = self.to_launcher.clone();
        let task = tokio::spawn(async move {
            let given = start.environment.iter().map(|(name, value)| (name.as_str(), value.clone()));
            let variables: BTreeMap<&str, String> = given.chain(ledger).collect();
            RankProcess::start(&start, &variables, to_launcher).await
        });
        self.starting = Some(Starting { program, task });
    }

    fn started(&mut self, (program, started): (String, std::io::Result<RankProcess>)) {
        match started {
            Ok(rank) => {
                self.send(FromAgent::Started { pid: rank.pid });
                self.rank = Some(rank);
            }
            Err(error) => {
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
        if self.starting.is_some() {
            match timeout(FORCE_TIMEOUT, start_of(&mut self.starting)).await {
                Ok(started) => self.started(started),
                Err(_) => {
                    // The file system does not deliver the program. The process dies with this one.
                    self.is_over = true;
                    self.send(FromAgent::Gone { left: 1 });
                }
            }
            if self.is_over {
                return;
            }
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
        if let Ok(ended) = timeout(FORCE_TIMEOUT, wait(&mut self.rank)).await {
            self.ended(ended).await;
        }
    }

    /// Simulates a lost host: stops the rank and sends nothing until the launcher counts as lost.
    async fn vanish(&mut self) -> bool {
        if let Some(rank) = &self.rank {
            rank.signal(rustix::process::Signal::STOP.as_raw());
        }
        tokio::time::sleep(self.patience).await;
        self.end_by_force().await;
        true
    }

    /// Handles the loss of the connection to the launcher: lets the rank publish a checkpoint, then ends it.
    async fn orphaned(&mut self) -> bool {
        if !self.is_over
            && let Some(rank) = &self.rank
        {
            rank.signal(rustix::process::Signal::TERM.as_raw());
            if let Ok(ended) = timeout(ORPHAN_GRACE, wait(&mut self.rank)).await {
                self.ended(ended).await;
            }
        }
        self.end_by_force().await;
        true
    }
}

/// Waits until the rank has been started, or for ever if none is being started. Returns its program too.
async fn start_of(starting: &mut Option<Starting>) -> (String, std::io::Result<RankProcess>) {
    let Some(Starting { task, .. }) = starting else { return std::future::pending().await };
    let started = task.await.map_err(std::io::Error::other).and_then(|started| started);
    (starting.take().map(|starting| starting.program).unwrap_or_default(), started)
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
