//! The attendant: the process that `mpirun` starts for each rank. It starts the rank, watches it, keeps its output,
//! tells the launcher, and does what the launcher says. Without a launcher it ends its rank: nothing is left behind.

mod output;
mod process;
mod stack;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use admiral_rank_contract::{Ledger, environment};
use rustix::process::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::protocol::{ADDRESSES, BEAT, FromAttendant, Hello, Start, TOKEN, ToAttendant, encode, prove};
use process::{Ended, RankProcess};
pub use process::{adopt_orphans, end_children, is_daemon, start_ticks};

/// A rank that is asked to end because its launcher is gone has this long to publish a checkpoint.
const ORPHAN_GRACE: Duration = Duration::from_secs(3);
/// How long an attendant without a rank waits for a word.
const UNTOLD: Duration = Duration::from_secs(30);
/// The launcher's first word is no longer, in bytes.
const MAX_WELCOME: u64 = 4 << 10;
/// How often the daemon is looked for: well within what the launcher waits for the first cause of a failure.
const DAEMON: Duration = Duration::from_millis(200);
/// An address of the launcher that does not answer for so long leads nowhere.
const CONNECT: Duration = Duration::from_secs(5);

/// Why an attendant cannot work.
#[derive(Debug, thiserror::Error)]
pub enum AttendError {
    /// It was not started by a launcher.
    #[error("{0} is not set as a launcher sets it; `attend` is what admiral-launch starts under mpirun, not a command")]
    Environment(&'static str),
    /// The launcher cannot be reached from this host.
    #[error(
        "{host} cannot reach the launcher at {addresses} ({source}); its ports must not be closed between the hosts, \
         or give the address that they can reach with --address"
    )]
    Unreachable {
        /// This host.
        host: String,
        /// All that were tried.
        addresses: String,
        /// The last answer.
        source: std::io::Error,
    },
    /// The system refuses something.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

/// The name of this host.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What the variables say.
struct Told {
    addresses: String,
    token: String,
    attempt: u64,
    rank: usize,
    local_rank: usize,
}

fn told() -> Result<Told, AttendError> {
    fn get<T: std::str::FromStr>(name: &'static str) -> Result<T, AttendError> {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).ok_or(AttendError::Environment(name))
    }
    Ok(Told {
        addresses: get(ADDRESSES)?,
        token: get(TOKEN)?,
        attempt: get(environment::ATTEMPT)?,
        rank: get("OMPI_COMM_WORLD_RANK")?,
        local_rank: get("OMPI_COMM_WORLD_LOCAL_RANK")?,
    })
}

/// Attends a rank until the launcher says that it is over.
///
/// # Errors
/// When this process was not started by a launcher, or cannot reach it.
pub async fn attend() -> Result<(), AttendError> {
    let told = told()?;
    adopt_orphans()?;
    let Line { reader, writer } = connect(&told).await?;
    let daemon = process::daemon();
    let (say, said) = mpsc::unbounded_channel();
    let writing = tokio::spawn(write(writer, said));
    let _ = say.send(FromAttendant::Hello(Hello {
        token: told.token.clone(),
        attempt: told.attempt,
        rank: told.rank,
        local_rank: told.local_rank,
        gpu: gpu_of(std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref(), told.local_rank),
        host: host_name(),
        daemon: daemon.and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok()),
    }));
    let (hear, heard) = mpsc::unbounded_channel();
    tokio::spawn(listen(reader, hear));
    let attendant = Attendant {
        say,
        rank: None,
        ledger: Ledger::create().map_err(std::io::Error::other)?,
        is_over: false,
        orphan: UNTOLD,
        daemon: daemon.filter(|&pid| process::is_orted(pid)),
    };
    let with_daemon = attendant.run(heard).await?;
    let _ = timeout(Duration::from_secs(1), writing).await;
    if with_daemon && told.local_rank == 0 {
        process::end_daemon();
    }
    Ok(())
}

/// What tells two machines apart, whatever names they have. Containers of one machine, and machines made of one image,
/// have the name alone to be told by.
#[must_use]
pub fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let (id, boot) = (read("/etc/machine-id"), read("/proc/sys/kernel/random/boot_id"));
    format!("{}/{}/{}", id.trim(), boot.trim(), host_name())
}

/// What the rank finds as the GPU of its local rank: the entry of a list of devices, where there is one.
fn gpu_of(visible: Option<&str>, local_rank: usize) -> Option<String> {
    match visible {
        None => Some(local_rank.to_string()),
        Some(list) => {
            list.split(',').nth(local_rank).map(|entry| entry.trim().to_owned()).filter(|entry| !entry.is_empty())
        }
    }
}

/// A connection to the launcher.
struct Line {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

/// The first of the launcher's addresses that answers as it should: a host in several networks has some that lead
/// nowhere, or to another program.
async fn connect(told: &Told) -> Result<Line, AttendError> {
    let mut tries = JoinSet::new();
    let addresses = told.addresses.split(',').filter_map(|text| text.parse().ok()).collect();
    // Only an address of its own can be bound.
    let is_own = |address: IpAddr| std::net::UdpSocket::bind((address, 0)).is_ok();
    for address in worth_trying(addresses, is_own) {
        let proof = prove(&told.token);
        tries.spawn(async move {
            timeout(CONNECT, greet(address, &proof)).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
        });
    }
    let mut last = std::io::Error::from(ErrorKind::InvalidInput);
    while let Some(tried) = tries.join_next().await {
        match tried {
            Ok(Ok(line)) => return Ok(line),
            Ok(Err(error)) => last = error,
            Err(error) => last = std::io::Error::other(error),
        }
    }
    Err(AttendError::Unreachable { host: host_name(), addresses: told.addresses.clone(), source: last })
}

/// Of the launcher's addresses those that may lead to it. One that only its own host has does on that host alone.
fn worth_trying(addresses: Vec<SocketAddr>, is_own: impl Fn(IpAddr) -> bool) -> Vec<SocketAddr> {
    let mut others = addresses.iter().filter(|address| !address.ip().is_loopback()).peekable();
    let is_elsewhere = others.peek().is_some() && !others.any(|address| is_own(address.ip()));
    addresses.into_iter().filter(|address| !(is_elsewhere && address.ip().is_loopback())).collect()
}

/// Connects, and makes sure that it is the launcher before anything is said.
async fn greet(address: SocketAddr, proof: &str) -> std::io::Result<Line> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut first = Vec::new();
    (&mut reader).take(MAX_WELCOME).read_until(b'\n', &mut first).await?;
    match serde_json::from_slice(&first) {
        Ok(ToAttendant::Welcome { proof: shown }) if shown == proof => Ok(Line { reader, writer }),
        _ => Err(std::io::Error::other("another program listens there")),
    }
}

async fn write(mut writer: OwnedWriteHalf, mut said: mpsc::UnboundedReceiver<FromAttendant>) {
    while let Some(message) = said.recv().await {
        if writer.write_all(&encode(&message)).await.is_err() {
            return;
        }
    }
}

/// Passes on what the launcher says, until it says no more.
async fn listen(reader: BufReader<OwnedReadHalf>, hear: mpsc::UnboundedSender<ToAttendant>) {
    let mut lines = reader.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // A word of a newer launcher is no reason to leave a rank alone.
        if let Ok(message) = serde_json::from_str(&line)
            && hear.send(message).is_err()
        {
            return;
        }
    }
}

struct Attendant {
    say: mpsc::UnboundedSender<FromAttendant>,
    rank: Option<RankProcess>,
    ledger: Ledger,
    /// The rank has ended and that has been said.
    is_over: bool,
    /// The launcher is lost when nothing is heard of it for so long.
    orphan: Duration,
    /// The daemon of a host other than `mpirun`'s, until it is found gone. `mpirun` itself the launcher has in sight.
    daemon: Option<Pid>,
}

impl Attendant {
    /// Until it may leave; says whether `mpirun`'s daemon is to go as well.
    async fn run(mut self, mut heard: mpsc::UnboundedReceiver<ToAttendant>) -> Result<bool, AttendError> {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval(DAEMON);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_word = Instant::now();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        // mpirun passes these on to all its children; the launcher is who speaks to ranks.
        let _user1 = signal(SignalKind::user_defined1())?;
        let _user2 = signal(SignalKind::user_defined2())?;
        loop {
            tokio::select! {
                message = heard.recv() => {
                    last_word = Instant::now();
                    match message {
                        None => return self.orphaned().await,
                        Some(ToAttendant::Leave { with_daemon }) => {
                            self.end_by_force().await;
                            return Ok(with_daemon);
                        }
                        Some(ToAttendant::Vanish) => return Ok(self.vanish().await),
                        Some(message) => self.obey(message).await,
                    }
                }
                ended = wait(&mut self.rank), if !self.is_over => self.ended(ended).await,
                _ = look.tick(), if self.daemon.is_some() => self.look_for_daemon(),
                _ = beat.tick() => {
                    if last_word.elapsed() > self.orphan {
                        return self.orphaned().await;
                    }
                    self.beat();
                }
                // mpirun, or the scheduler, ends all it started. The rank may publish a checkpoint; when they lose
                // patience they kill, and the rank dies with this process.
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

    fn say(&self, message: FromAttendant) {
        // The launcher may be gone; then silence ends this attendant too.
        let _ = self.say.send(message);
    }

    /// A daemon that dies leaves its children to another parent.
    fn look_for_daemon(&mut self) {
        if self.daemon.take_if(|&mut daemon| rustix::process::getppid() != Some(daemon)).is_some() {
            self.say(FromAttendant::DaemonGone);
        }
    }

    fn beat(&self) {
        match &self.rank {
            Some(rank) if !self.is_over => {
                self.say(FromAttendant::Beat { reading: self.ledger.read(), state: process::state(rank.pid) });
            }
            _ => self.say(FromAttendant::Alive),
        }
    }

    async fn obey(&mut self, message: ToAttendant) {
        match message {
            ToAttendant::Start(start) => self.start(&start).await,
            ToAttendant::Signal { signal } => {
                if let Some(rank) = self.rank.as_ref().filter(|_| !self.is_over) {
                    rank.signal(signal);
                }
            }
            ToAttendant::Kill => self.end_by_force().await,
            ToAttendant::Stack => {
                if let Some(rank) = self.rank.as_ref().filter(|_| !self.is_over) {
                    let (pid, say) = (rank.pid, self.say.clone());
                    tokio::spawn(async move {
                        let text = stack::of(pid).await;
                        let _ = say.send(FromAttendant::Stack { text });
                    });
                }
            }
            ToAttendant::Welcome { .. } | ToAttendant::Leave { .. } | ToAttendant::Vanish | ToAttendant::Alive => {}
        }
    }

    async fn start(&mut self, start: &Start) {
        self.orphan = Duration::try_from_secs_f64(start.orphan_seconds).unwrap_or(UNTOLD);
        let variables: BTreeMap<&str, String> = start
            .environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()))
            .chain(self.ledger.file().map(|file| (environment::LEDGER, format!("/proc/self/fd/{}", file.as_raw_fd()))))
            .collect();
        match RankProcess::start(start, &variables, self.say.clone()) {
            Ok(rank) => {
                self.say(FromAttendant::Started { pid: rank.pid });
                self.rank = Some(rank);
            }
            Err(error) => {
                let program = start.argv.first().map_or("", String::as_str);
                let line = format!("error: {program} cannot be started on {}: {error}", host_name());
                self.say(FromAttendant::Line { text: line.clone() });
                self.is_over = true;
                self.say(FromAttendant::Ended { code: None, signal: None, reading: None, last_lines: vec![line] });
                self.say(FromAttendant::Gone { left: 0 });
            }
        }
    }

    /// The rank's process has ended by itself or by a signal.
    async fn ended(&mut self, ended: Ended) {
        // A rank without its daemon does not live long: the cause comes first.
        self.look_for_daemon();
        self.is_over = true;
        let Some(rank) = &mut self.rank else { return };
        let (pid, last_lines) = (rank.pid, rank.last_lines().await);
        let reading = Some(self.ledger.read());
        self.say(FromAttendant::Ended { code: ended.code, signal: ended.signal, reading, last_lines });
        let left = process::end_descendants(pid).await;
        self.say(FromAttendant::Gone { left });
    }

    async fn end_by_force(&mut self) {
        if self.is_over {
            return;
        }
        match &self.rank {
            Some(rank) => rank.kill(),
            None => {
                // Never started: there is nothing to end.
                self.is_over = true;
                self.say(FromAttendant::Gone { left: 0 });
                return;
            }
        }
        // A process in a driver call may not die; the launcher has its own patience.
        if let Ok(ended) = timeout(Duration::from_secs(3), wait(&mut self.rank)).await {
            self.ended(ended).await;
        }
    }

    /// As if no word came in or went out: the rank, cut off from its peers, stands still, until the launcher is missed.
    async fn vanish(&mut self) -> bool {
        if let Some(rank) = &self.rank {
            rank.signal(rustix::process::Signal::STOP.as_raw());
        }
        tokio::time::sleep(self.orphan).await;
        self.end_by_force().await;
        true
    }

    /// No launcher: the rank may publish a checkpoint, and is ended.
    async fn orphaned(&mut self) -> Result<bool, AttendError> {
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

/// The end of the rank; never, while there is none.
async fn wait(rank: &mut Option<RankProcess>) -> Ended {
    match rank {
        Some(rank) => rank.wait().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_rank_sees_the_gpu_of_its_local_rank() {
        assert_eq!(gpu_of(None, 3).as_deref(), Some("3"));
        assert_eq!(gpu_of(Some("4, 6"), 1).as_deref(), Some("6"));
        assert_eq!(gpu_of(Some("0,0"), 1), gpu_of(Some("0,0"), 0));
        assert_eq!((gpu_of(Some("4"), 1), gpu_of(Some(""), 0)), (None, None));
    }

    #[test]
    fn a_loopback_address_is_tried_on_the_launchers_host_alone() {
        let addresses = |text: &str| -> Vec<SocketAddr> {
            text.split(' ').map(|address| address.parse().expect("an address")).collect()
        };
        let all = addresses("10.0.0.1:5 127.0.0.1:5");
        assert_eq!(worth_trying(all.clone(), |_| true), all);
        assert_eq!(worth_trying(all.clone(), |_| false), all[..1]);
        assert_eq!(worth_trying(all[1..].to_vec(), |_| false), all[1..]);
    }

    #[tokio::test]
    async fn who_only_listens_is_not_taken_for_the_launcher() {
        let launcher = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let other = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = |listener: &TcpListener| listener.local_addr().expect("it has one");
        let told = Told {
            addresses: format!("{},{}", address(&other), address(&launcher)),
            token: "secret".into(),
            attempt: 0,
            rank: 0,
            local_rank: 0,
        };
        let expected = address(&launcher);
        let (say_other, say_launcher) = (prove("guess"), prove("secret"));
        let welcome = async |listener: TcpListener, proof: String| {
            let (mut stream, _) = listener.accept().await.expect("it is called");
            stream.write_all(&encode(&ToAttendant::Welcome { proof })).await.expect("it is heard");
            stream
        };
        let (line, ..) = tokio::join!(connect(&told), welcome(other, say_other), welcome(launcher, say_launcher));
        let line = line.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(line.writer.peer_addr().expect("it is there"), expected);
    }
}
