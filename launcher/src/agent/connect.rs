//! Finds and verifies the launcher.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use admiral_contract::host::host_name;
use rustix::net::sockopt;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::error::AgentError;
use crate::channel::{Opener, Peer, Sealer, greet_launcher};

/// The timeout for one of the launcher's addresses.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The time until the next try at an address whose listener hangs up.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// The interval at which the systems of both hosts check a silent connection.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// A verified connection to the launcher.
pub(super) struct LauncherConnection {
    /// The socket of both halves.
    pub(super) socket: OwnedFd,
    pub(super) reader: BufReader<OwnedReadHalf>,
    pub(super) writer: OwnedWriteHalf,
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
}

/// Connects to the first of the launcher's addresses that proves to be the launcher. A host in several networks has
/// addresses that lead nowhere, or to another program. `is_here` says whether the launcher is on this host.
pub(super) async fn connect(addresses: &str, token: &str, is_here: bool) -> Result<LauncherConnection, AgentError> {
    let mut tries = JoinSet::new();
    let all = addresses.split(',').filter_map(|text| text.parse().ok()).collect();
    for address in launcher_addresses(all, is_here) {
        let token = token.to_owned();
        tries.spawn(async move {
            timeout(CONNECT_TIMEOUT, keep_greeting(address, &token))
                .await
                .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
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
    Err(AgentError::Unreachable { host: host_name(), addresses: addresses.to_owned(), source: last })
}

/// Ends the connection if the launcher's system does not answer for this long. The launcher itself may be silent for
/// longer: its system answers for a process that is stopped, and closes the connection of one that has ended.
pub(super) fn set_patience(socket: impl AsFd, patience: Duration) -> std::io::Result<()> {
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, PROBE_INTERVAL)?;
    sockopt::set_tcp_keepintvl(&socket, PROBE_INTERVAL)?;
    // Applies to unanswered data and, on Linux, to unanswered probes.
    sockopt::set_tcp_user_timeout(&socket, u32::try_from(patience.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

/// Returns the addresses that may lead to the launcher. `is_here` says whether it is on this host.
#[must_use]
pub fn launcher_addresses(addresses: Vec<SocketAddr>, is_here: bool) -> Vec<SocketAddr> {
    // Binding succeeds only for an address of this host.
    worth_trying(addresses, is_here, |address| UdpSocket::bind((address, 0)).is_ok())
}

/// Leaves out the addresses of this host, unless the launcher is here. On another host they lead to another program, which
/// any user may have started.
fn worth_trying(mut addresses: Vec<SocketAddr>, is_here: bool, is_own: impl Fn(IpAddr) -> bool) -> Vec<SocketAddr> {
    addresses.retain(|address| is_here || !(address.ip().is_loopback() || is_own(address.ip())));
    addresses
}

/// Repeats [`greet`] while the other side hangs up: strangers may take all places for new connections.
async fn keep_greeting(address: SocketAddr, token: &str) -> std::io::Result<LauncherConnection> {
    loop {
        match greet(address, token).await {
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            greeted => return greeted,
        }
    }
}

/// Connects, and verifies that the other side is the launcher before anything else is sent.
async fn greet(address: SocketAddr, token: &str) -> std::io::Result<LauncherConnection> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let socket = stream.as_fd().try_clone_to_owned()?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let (sealer, opener) = greet_launcher(&mut reader, &mut writer, token, Peer::Agent).await?;
    Ok(LauncherConnection { socket, reader, writer, sealer, opener })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::channel::greet_peer;

    #[test]
    fn own_addresses_are_tried_only_on_the_launchers_host() {
        let addresses = |text: &str| -> Vec<SocketAddr> {
            text.split(' ').map(|address| address.parse().expect("an address")).collect()
        };
        // The second is the address of a bridge that both hosts have.
        let all = addresses("10.0.0.1:5 172.17.0.1:5 127.0.0.1:5");
        let is_bridge = |address: IpAddr| address == all[1].ip();
        assert_eq!(worth_trying(all.clone(), true, is_bridge), all);
        assert_eq!(worth_trying(all.clone(), false, is_bridge), all[..1]);
        assert_eq!(worth_trying(all[2..].to_vec(), false, |_| false), []);
    }

    #[tokio::test]
    async fn a_listener_without_the_token_is_not_the_launcher() {
        let launcher = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let other = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = |listener: &TcpListener| listener.local_addr().expect("it has one");
        let addresses = format!("{},{}", address(&other), address(&launcher));
        let expected = address(&launcher);
        let welcome = async |listener: TcpListener, token: &str| {
            let (stream, _) = listener.accept().await.expect("it is called");
            let (reader, mut writer) = stream.into_split();
            let greeted = greet_peer(&mut BufReader::new(reader), &mut writer, token, Peer::Agent).await;
            (greeted.is_ok(), writer)
        };
        let (connected, other, launcher) =
            tokio::join!(connect(&addresses, "secret", true), welcome(other, "guess"), welcome(launcher, "secret"));
        let connected = connected.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(connected.writer.peer_addr().expect("it is there"), expected);
        assert_eq!((other.0, launcher.0), (false, true));
    }
}
