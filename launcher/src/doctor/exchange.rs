//! The messages between a host's probe and the launcher: one JSON object per line, over TCP, in an authenticated
//! [channel](crate::channel).
//!
//! They do not use the standard output, because `mpirun` may interleave long lines of several processes. Besides, the
//! ranks' agents will need TCP to the launcher too, so that the probe tests it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::probe::{Probe, Question, examine_host, interfaces};
use crate::agent::launcher_addresses;
use crate::channel::{Opener, Peer, Sealer, greet_launcher_blocking, greet_peer};
use crate::environment::{Environment, machine_digest};
use crate::protocol::read_line;

/// The timeout for one address, and for the launcher's next message.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest report, in bytes.
const MAX_LINE: u64 = 4 << 20;
/// The number of clock comparisons. The fastest answer counts.
const CLOCK_ROUNDS: usize = 4;

/// A message from a probe.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
enum FromProbe {
    Hello(ProbeHello),
    /// Nanoseconds of its clock since 1970.
    Clock {
        nanoseconds: u64,
    },
    Report(Box<Probe>),
}

/// A message to a probe.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum ToProbe {
    SayClock,
    FindOut(Question),
}

/// The identity of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeHello {
    /// The name that the host gives itself.
    pub host_name: String,
    /// The name by which Open MPI knows the host, if it says so.
    pub mpi_name: Option<String>,
    /// The host's addresses.
    pub addresses: Vec<IpAddr>,
}

/// A host's clock compared with the launcher's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Clock {
    /// The number of seconds by which it is ahead.
    pub ahead_seconds: f64,
    /// The error of that: half of the message's round trip, in seconds.
    pub uncertain_seconds: f64,
}

/// The result of an exchange with a probe.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeReport {
    /// The probe's report.
    pub probe: Probe,
    /// The host's clock.
    pub clock: Clock,
    /// The address from which it came; `None` if it is on the launcher's own host.
    pub peer: Option<IpAddr>,
}

/// Runs the probe's side: finds the launcher, answers it, and returns when the report is sent.
///
/// # Errors
/// If the launcher cannot be found or is gone: a sentence for people.
pub fn run_probe(addresses: &str, token: &str, environment: &Environment) -> Result<(), String> {
    let is_here = environment.probe.machine.as_deref() == Some(&machine_digest());
    let mut launcher = find_launcher(addresses, token, is_here)?;
    let gone = |error: io::Error| format!("the launcher has gone: {error}");
    let hello = ProbeHello {
        host_name: admiral_contract::host::host_name(),
        mpi_name: environment.probe.mpi_name.clone(),
        addresses: interfaces().into_iter().map(|interface| interface.address).collect(),
    };
    launcher.send(&FromProbe::Hello(hello)).map_err(gone)?;
    loop {
        let answer = match launcher.receive().map_err(gone)? {
            ToProbe::SayClock => FromProbe::Clock { nanoseconds: now() },
            ToProbe::FindOut(question) => FromProbe::Report(Box::new(examine_host(&question, environment))),
        };
        launcher.send(&answer).map_err(gone)?;
        if matches!(answer, FromProbe::Report(_)) {
            return Ok(());
        }
    }
}

/// A verified connection to the launcher.
struct LauncherStream {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    sealer: Sealer,
    opener: Opener,
}

impl LauncherStream {
    fn send(&mut self, message: &FromProbe) -> io::Result<()> {
        self.writer.write_all(&self.sealer.seal(message))
    }

    fn receive(&mut self) -> io::Result<ToProbe> {
        let mut line = Vec::new();
        (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(self.opener.open(&line)?)?)
    }
}

/// Tries all addresses at once, because one that swallows packets must not hold up the others. `is_here` says whether the
/// launcher is on this host.
fn find_launcher(addresses: &str, token: &str, is_here: bool) -> Result<LauncherStream, String> {
    let (sender, receiver) = mpsc::channel();
    let all = addresses.split(',').filter_map(|text| text.parse().ok()).collect();
    for address in launcher_addresses(all, is_here) {
        let (token, sender) = (token.to_owned(), sender.clone());
        thread::spawn(move || {
            let found = connect(address, &token).map_err(|error| format!("{address}: {error}"));
            // Another address was faster.
            let _ = sender.send(found);
        });
    }
    drop(sender);
    let mut reasons = Vec::new();
    for found in receiver {
        match found {
            Ok(launcher) => return Ok(launcher),
            Err(reason) => reasons.push(reason),
        }
    }
    Err(format!("the launcher cannot be reached at {addresses}: {}", reasons.join("; ")))
}

fn connect(address: SocketAddr, token: &str) -> io::Result<LauncherStream> {
    let mut writer = TcpStream::connect_timeout(&address, TIMEOUT)?;
    writer.set_nodelay(true)?;
    writer.set_read_timeout(Some(TIMEOUT))?;
    let mut reader = BufReader::new(writer.try_clone()?);
    let (sealer, opener) = greet_launcher_blocking(&mut reader, &mut writer, token, Peer::Probe)?;
    Ok(LauncherStream { reader, writer, sealer, opener })
}

/// Runs the launcher's side: proves its identity, and reads the probe's.
///
/// # Errors
/// If the other side is no probe of this launcher, or closes the connection.
pub async fn greet(stream: tokio::net::TcpStream, token: &str) -> io::Result<(ProbeHello, ProbeSession)> {
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?.ip().to_canonical();
    let own = stream.local_addr()?.ip().to_canonical();
    let (reader, mut writer) = stream.into_split();
    let mut reader = tokio::io::BufReader::new(reader);
    let (sealer, opener) = greet_peer(&mut reader, &mut writer, token, Peer::Probe).await?;
    let mut session = ProbeSession { reader, writer, sealer, opener, peer: (peer != own).then_some(peer) };
    match session.receive().await? {
        FromProbe::Hello(hello) => Ok((hello, session)),
        _ => Err(unexpected_message()),
    }
}

/// An exchange with an identified probe.
#[derive(Debug)]
pub struct ProbeSession {
    reader: tokio::io::BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    sealer: Sealer,
    opener: Opener,
    peer: Option<IpAddr>,
}

impl ProbeSession {
    /// Compares the clocks and asks the question.
    ///
    /// # Errors
    /// If the probe closes the connection, or sends something unexpected.
    pub async fn ask(mut self, question: &Question) -> io::Result<ProbeReport> {
        let mut clock: Option<Clock> = None;
        for _ in 0..CLOCK_ROUNDS {
            let before = now();
            self.send(&ToProbe::SayClock).await?;
            let FromProbe::Clock { nanoseconds } = self.receive().await? else { return Err(unexpected_message()) };
            let one = compare_clocks(before, nanoseconds, now());
            if clock.is_none_or(|best| one.uncertain_seconds < best.uncertain_seconds) {
                clock = Some(one);
            }
        }
        self.send(&ToProbe::FindOut(question.clone())).await?;
        match (self.receive().await?, clock) {
            (FromProbe::Report(probe), Some(clock)) => Ok(ProbeReport { probe: *probe, clock, peer: self.peer }),
            _ => Err(unexpected_message()),
        }
    }

    async fn send(&mut self, message: &ToProbe) -> io::Result<()> {
        self.writer.write_all(&self.sealer.seal(message)).await
    }

    async fn receive(&mut self) -> io::Result<FromProbe> {
        let mut line = Vec::new();
        if !read_line(&mut self.reader, &mut line, MAX_LINE).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(self.opener.open(&line)?)?)
    }
}

/// Compares the clocks. The other clock was read between `before` and `after`. All times are in nanoseconds.
fn compare_clocks(before: u64, other: u64, after: u64) -> Clock {
    let middle = before as f64 / 2.0 + after as f64 / 2.0;
    // Subtract before converting: a 64-bit float holds today's time only to a quarter of a microsecond.
    Clock { ahead_seconds: (other as f64 - middle) / 1e9, uncertain_seconds: after.saturating_sub(before) as f64 / 2e9 }
}

fn unexpected_message() -> io::Error {
    io::Error::other("it sent an unexpected message")
}

fn now() -> u64 {
    // 64 bits of nanoseconds last until 2554. A clock before 1970 is far off in any case.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

#[cfg(test)]
pub(super) fn hello(host_name: &str, mpi_name: Option<&str>, addresses: &[&str]) -> ProbeHello {
    let addresses = addresses.iter().filter_map(|address| address.parse().ok()).collect();
    ProbeHello { host_name: host_name.into(), mpi_name: mpi_name.map(str::to_owned), addresses }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::net::TcpListener;

    use super::*;
    use crate::environment::LAUNCH_MACHINE;

    fn question() -> Question {
        Question { program: "/bin/false".into(), salt: "s".into(), ..Question::default() }
    }

    /// The environment of a probe on the launcher's host.
    fn here() -> Environment {
        Environment::new([(LAUNCH_MACHINE.into(), machine_digest().into())])
    }

    #[tokio::test]
    async fn a_probe_reports_to_the_launcher() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Another program listens at the first address.
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = format!("{},{}", other.local_addr().unwrap(), listener.local_addr().unwrap());
        thread::spawn(move || other.accept().unwrap().0.write_all(b"220 mail\n"));
        let probe = tokio::task::spawn_blocking(move || run_probe(&addresses, "token", &here()));
        let (stream, _) = listener.accept().await.unwrap();
        let (hello, session) = greet(stream, "token").await.unwrap();
        let report = session.ask(&question()).await.unwrap();
        assert_eq!(hello.host_name, report.probe.system.host_name);
        assert!(report.clock.ahead_seconds.abs() <= report.clock.uncertain_seconds + 1e-6, "{:?}", report.clock);
        assert_eq!(report.peer, None);
        probe.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_probe_without_the_token_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stranger = tokio::task::spawn_blocking(move || connect(address, "guess").is_err());
        let (stream, _) = listener.accept().await.unwrap();
        assert!(greet(stream, "token").await.is_err());
        assert!(stranger.await.unwrap());
    }

    #[test]
    fn a_probe_that_finds_no_launcher_names_the_addresses() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let reason = run_probe(&closed.to_string(), "token", &here()).unwrap_err();
        assert!(reason.contains(&closed.to_string()) && reason.contains("refused"), "{reason}");
    }

    #[test]
    fn clock_differences_are_exact_to_half_a_round_trip() {
        let clock = compare_clocks(10_000_000_000, 15_000_000_000, 12_000_000_000);
        assert_eq!((clock.ahead_seconds, clock.uncertain_seconds), (4.0, 1.0));
        assert_eq!(compare_clocks(10_000_000_000, 9_000_000_000, 10_000_000_000).ahead_seconds, -1.0);
    }
}
