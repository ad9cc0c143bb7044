//! Finds and verifies the launcher.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use admiral_contract::host::host_name;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::error::AgentError;
use crate::protocol::{ToAgent, token_proof};

/// The timeout for one of the launcher's addresses.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest first message of the launcher, in bytes.
const MAX_WELCOME: u64 = 4 << 10;

/// A verified connection to the launcher.
pub(super) struct LauncherConnection {
    pub(super) reader: BufReader<OwnedReadHalf>,
    pub(super) writer: OwnedWriteHalf,
}

/// Connects to the first of the launcher's addresses that proves to be the launcher. A host in several networks has
/// addresses that lead nowhere, or to another program.
pub(super) async fn connect(addresses: &str, token: &str) -> Result<LauncherConnection, AgentError> {
    let mut tries = JoinSet::new();
    let all = addresses.split(',').filter_map(|text| text.parse().ok()).collect();
    // Binding succeeds only for an address of this host.
    let is_own = |address: IpAddr| std::net::UdpSocket::bind((address, 0)).is_ok();
    for address in worth_trying(all, is_own) {
        let proof = token_proof(token);
        tries.spawn(async move {
            timeout(CONNECT_TIMEOUT, greet(address, &proof)).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
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

/// Returns the addresses that may lead to the launcher. A loopback address does so only on the launcher's own host.
fn worth_trying(addresses: Vec<SocketAddr>, is_own: impl Fn(IpAddr) -> bool) -> Vec<SocketAddr> {
    let mut others = addresses.iter().filter(|address| !address.ip().is_loopback()).peekable();
    let is_elsewhere = others.peek().is_some() && !others.any(|address| is_own(address.ip()));
    addresses.into_iter().filter(|address| !(is_elsewhere && address.ip().is_loopback())).collect()
}

/// Connects, and verifies that the other side is the launcher before anything is sent.
async fn greet(address: SocketAddr, proof: &str) -> std::io::Result<LauncherConnection> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut first = Vec::new();
    (&mut reader).take(MAX_WELCOME).read_until(b'\n', &mut first).await?;
    match serde_json::from_slice(&first) {
        Ok(ToAgent::Welcome { proof: shown }) if shown == proof => Ok(LauncherConnection { reader, writer }),
        _ => Err(std::io::Error::other("another program listens there")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::protocol::encode;

    #[test]
    fn loopback_addresses_are_tried_only_on_the_launchers_host() {
        let addresses = |text: &str| -> Vec<SocketAddr> {
            text.split(' ').map(|address| address.parse().expect("an address")).collect()
        };
        let all = addresses("10.0.0.1:5 127.0.0.1:5");
        assert_eq!(worth_trying(all.clone(), |_| true), all);
        assert_eq!(worth_trying(all.clone(), |_| false), all[..1]);
        assert_eq!(worth_trying(all[1..].to_vec(), |_| false), all[1..]);
    }

    #[tokio::test]
    async fn a_listener_without_the_token_is_not_the_launcher() {
        let launcher = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let other = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = |listener: &TcpListener| listener.local_addr().expect("it has one");
        let addresses = format!("{},{}", address(&other), address(&launcher));
        let expected = address(&launcher);
        let (other_proof, launcher_proof) = (token_proof("guess"), token_proof("secret"));
        let welcome = async |listener: TcpListener, proof: String| {
            let (mut stream, _) = listener.accept().await.expect("it is called");
            stream.write_all(&encode(&ToAgent::Welcome { proof })).await.expect("it is heard");
            stream
        };
        let (line, ..) =
            tokio::join!(connect(&addresses, "secret"), welcome(other, other_proof), welcome(launcher, launcher_proof));
        let line = line.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(line.writer.peer_addr().expect("it is there"), expected);
    }
}
