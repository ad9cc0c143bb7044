//! The launcher's port, to which the agents of an attempt connect.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::strangers::{Place, Strangers};
use crate::channel::{HANDSHAKE_TIMEOUT, Peer, Sealer, greet_peer};
use crate::protocol::{FromAgent, HEARTBEAT_INTERVAL, MAX_MESSAGE, ToAgent, read_line};

/// The number of inputs that wait for the launcher. Of further ones, heartbeats and lines are dropped.
const MAX_INPUTS: usize = 4096;

/// An input from an agent.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentInput {
    /// A message. The first one is [`FromAgent::Hello`].
    Message(FromAgent),
    /// The connection is closed.
    Closed,
}

/// The connections to all agents. A thread of its own serves them and sends the heartbeats, so that nothing that blocks
/// the launcher makes an agent believe that it is gone.
#[derive(Debug)]
pub struct Hub {
    port: u16,
    inputs: mpsc::Receiver<(usize, AgentInput)>,
    senders: Senders,
    /// Ends the thread when dropped.
    _stop: oneshot::Sender<()>,
}

type Senders = Arc<Mutex<BTreeMap<usize, mpsc::UnboundedSender<ToAgent>>>>;

impl Hub {
    /// Opens a port at `addresses` for the agents of this attempt, which know `token`.
    ///
    /// # Errors
    /// If the system provides no port or no thread.
    pub fn open(token: String, attempt: u64, addresses: &[IpAddr]) -> std::io::Result<Self> {
        let listener = std::net::TcpListener::bind((listen_address(addresses), 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (send, inputs) = mpsc::channel(MAX_INPUTS);
        let (stop, stopped) = oneshot::channel();
        let senders = Senders::default();
        let own = Arc::clone(&senders);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("agents".into()).spawn(move || {
            runtime.block_on(async {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                tokio::select! {
                    () = accept(listener, token, attempt, send, own) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { port, inputs, senders, _stop: stop })
    }

    /// Returns the port at `addresses`, in the form of [`crate::environment::LAUNCH_ADDRESSES`].
    #[must_use]
    pub fn addresses(&self, addresses: &[IpAddr]) -> String {
        let all: Vec<String> = addresses.iter().map(|&ip| SocketAddr::new(ip, self.port).to_string()).collect();
        all.join(",")
    }

    /// Returns the next input, and the rank that it is from.
    pub async fn next(&mut self) -> Option<(usize, AgentInput)> {
        self.inputs.recv().await
    }

    /// Sends a message to a rank's agent, if it is connected.
    pub fn send(&self, rank: usize, message: ToAgent) {
        if let Some(sender) = self.senders.lock().unwrap_or_else(PoisonError::into_inner).get(&rank) {
            // If the agent is gone, the end of its connection reports it.
            let _ = sender.send(message);
        }
    }

    /// Sends a message to all connected agents.
    pub fn send_all(&self, message: &ToAgent) {
        for sender in self.senders.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let _ = sender.send(message.clone());
        }
    }
}

async fn accept(
    listener: TcpListener,
    token: String,
    attempt: u64,
    inputs: mpsc::Sender<(usize, AgentInput)>,
    senders: Senders,
) {
    let mut connections = JoinSet::new();
    let strangers = Strangers::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // A place is free again when the other side has proved itself, or its time is over.
                if let Some(place) = strangers.admit(peer.ip()) {
                    let (token, inputs, senders) = (token.clone(), inputs.clone(), Arc::clone(&senders));
                    connections.spawn(serve(stream, place, token, attempt, inputs, senders));
                }
                while connections.try_join_next().is_some() {}
            }
            // The process is out of file descriptors for a moment.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve(
    stream: TcpStream,
    place: Place,
    token: String,
    attempt: u64,
    inputs: mpsc::Sender<(usize, AgentInput)>,
    senders: Senders,
) {
    let _ = stream.set_nodelay(true);
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    let greeting = async {
        let (sealer, mut opener) = greet_peer(&mut reader, &mut writer, &token, Peer::Agent).await?;
        if !read_line(&mut reader, &mut line, MAX_MESSAGE).await? {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let first = serde_json::from_slice(opener.open(&line)?)?;
        std::io::Result::Ok((sealer, opener, first))
    };
    let Ok(Ok((sealer, mut opener, FromAgent::Hello(hello)))) = timeout(HANDSHAKE_TIMEOUT, greeting).await else {
        return;
    };
    drop(place);
    if hello.attempt != attempt {
        return;
    }
    let rank = hello.rank;
    let (sender, outgoing) = mpsc::unbounded_channel();
    senders.lock().unwrap_or_else(PoisonError::into_inner).insert(rank, sender);
    if inputs.send((rank, AgentInput::Message(FromAgent::Hello(hello)))).await.is_err() {
        return;
    }
    let writing = tokio::spawn(write(writer, sealer, outgoing));
    let mut dropped = 0u64;
    while let Ok(true) = read_line(&mut reader, &mut line, MAX_MESSAGE).await {
        let Ok(text) = opener.open(&line) else { break };
        let Ok(message) = serde_json::from_slice::<FromAgent>(text) else { continue };
        let is_chatter = matches!(message, FromAgent::Line { .. } | FromAgent::Beat { .. } | FromAgent::Alive);
        if !is_chatter {
            if inputs.send((rank, AgentInput::Message(message))).await.is_err() {
                break;
            }
            continue;
        }
        // The launcher is behind. The next heartbeat replaces this one, and lines are counted.
        let is_line = matches!(message, FromAgent::Line { .. });
        if is_line && dropped > 0 {
            let text = format!("({dropped} lines of this rank are left out here; its log has them)");
            if inputs.try_send((rank, AgentInput::Message(FromAgent::Line { text }))).is_ok() {
                dropped = 0;
            }
        }
        if inputs.try_send((rank, AgentInput::Message(message))).is_err() && is_line {
            dropped += 1;
        }
    }
    writing.abort();
    let _ = inputs.send((rank, AgentInput::Closed)).await;
}

/// Sends the launcher's messages to an agent, and heartbeats.
async fn write(mut writer: OwnedWriteHalf, mut sealer: Sealer, mut outgoing: mpsc::UnboundedReceiver<ToAgent>) {
    let mut beat = interval(HEARTBEAT_INTERVAL);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            message = outgoing.recv() => match message {
                Some(message) => message,
                None => return,
            },
            _ = beat.tick() => ToAgent::Alive,
        };
        if writer.write_all(&sealer.seal(&message)).await.is_err() {
            return;
        }
    }
}

/// Returns the address to listen at for processes that are told `addresses`: the loopback address if it is the only one.
#[must_use]
pub fn listen_address(addresses: &[IpAddr]) -> IpAddr {
    match addresses {
        [] => Ipv4Addr::UNSPECIFIED.into(),
        all if all.iter().all(IpAddr::is_loopback) => all[0],
        _ => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// Returns the addresses by which other hosts may reach this one; only the loopback address if `is_local`.
///
/// # Errors
/// If the system does not tell them.
pub fn own_addresses(is_local: bool) -> std::io::Result<Vec<IpAddr>> {
    if is_local {
        return Ok(vec![std::net::Ipv4Addr::LOCALHOST.into()]);
    }
    let usable = |interface: if_addrs::Interface| Some(interface.ip()).filter(|ip| ip.is_ipv4() && !ip.is_loopback());
    let mut addresses: Vec<IpAddr> = if_addrs::get_if_addrs()?.into_iter().filter_map(usable).collect();
    // Ranks on this host reach the loopback address in any case.
    addresses.push(std::net::Ipv4Addr::LOCALHOST.into());
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::tcp::OwnedReadHalf;

    use super::*;
    use crate::channel::{Opener, greet_launcher};
    use crate::protocol::Hello;

    const LOOPBACK: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::LOCALHOST)];

    fn hello(attempt: u64) -> FromAgent {
        FromAgent::Hello(Hello {
            attempt,
            rank: 1,
            local_rank: 0,
            gpu: None,
            host: "h".into(),
            daemon: None,
            session: None,
        })
    }

    async fn connect(hub: &Hub) -> TcpStream {
        TcpStream::connect(("127.0.0.1", hub.port)).await.expect("it listens")
    }

    /// Connects as an agent.
    async fn agent(
        hub: &Hub,
        token: &str,
    ) -> std::io::Result<(BufReader<OwnedReadHalf>, OwnedWriteHalf, Sealer, Opener)> {
        let (reader, mut writer) = connect(hub).await.into_split();
        let mut reader = BufReader::new(reader);
        let (sealer, opener) = greet_launcher(&mut reader, &mut writer, token, Peer::Agent).await?;
        Ok((reader, writer, sealer, opener))
    }

    #[tokio::test]
    async fn an_endless_first_message_closes_the_connection() {
        let hub = Hub::open("secret".into(), 0, &LOOPBACK).expect("a port");
        let mut stream = connect(&hub).await;
        // Writes until the other side closes the connection.
        let endless = async { while stream.write_all(&[b'x'; 4096]).await.is_ok() {} };
        timeout(Duration::from_secs(4), endless).await.expect("before its time is over");
    }

    #[tokio::test]
    async fn silent_strangers_do_not_keep_an_agent_away() {
        let mut hub = Hub::open("secret".into(), 4, &LOOPBACK).expect("a port");
        let mut silent = Vec::new();
        for _ in 0..Strangers::MAX_OF_ADDRESS + 10 {
            silent.push(connect(&hub).await);
        }
        let mut tries = 0;
        let (_reader, mut writer, mut sealer, _) = loop {
            match agent(&hub, "secret").await {
                Ok(connected) => break connected,
                Err(_) if tries < 100 => tries += 1,
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        writer.write_all(&sealer.seal(&hello(4))).await.expect("it reads");
        assert!(matches!(hub.next().await, Some((1, AgentInput::Message(FromAgent::Hello(_))))));
        assert!(tries > 0, "the strangers had places");
    }

    #[tokio::test]
    async fn only_an_agent_with_the_token_is_connected() {
        let mut hub = Hub::open("secret".into(), 4, &LOOPBACK).expect("a port");
        assert!(agent(&hub, "guess").await.is_err());
        let (mut reader, mut writer, mut sealer, _) = agent(&hub, "secret").await.expect("it is one");
        writer.write_all(&sealer.seal(&hello(3))).await.expect("it reads");
        reader.read_to_end(&mut Vec::new()).await.expect("an agent of another attempt is disconnected");

        let (mut reader, mut writer, mut sealer, mut opener) = agent(&hub, "secret").await.expect("it is one");
        writer.write_all(&sealer.seal(&hello(4))).await.expect("it reads");
        assert_eq!(hub.next().await, Some((1, AgentInput::Message(hello(4)))));
        hub.send(1, ToAgent::Kill);
        hub.send(0, ToAgent::Kill);
        let mut orders = Vec::new();
        let mut line = Vec::new();
        while !orders.contains(&ToAgent::Kill) || !orders.contains(&ToAgent::Alive) {
            assert!(read_line(&mut reader, &mut line, MAX_MESSAGE).await.expect("a line"));
            let text = opener.open(&line).expect("it is the launcher's");
            orders.push(serde_json::from_slice::<ToAgent>(text).expect("an order"));
        }
        assert_eq!(orders.iter().filter(|order| **order == ToAgent::Kill).count(), 1);
        // A message that the agent did not seal ends the connection.
        writer.write_all(b"{\"say\":\"daemon_gone\"}\n").await.expect("it reads");
        assert_eq!(hub.next().await, Some((1, AgentInput::Closed)));
    }

    #[test]
    fn a_local_run_listens_at_the_loopback_address() {
        let other: IpAddr = [10, 0, 0, 1].into();
        assert_eq!(listen_address(&LOOPBACK), LOOPBACK[0]);
        assert_eq!(listen_address(&[other, LOOPBACK[0]]), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    }
}
