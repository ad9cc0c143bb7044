//! The launcher's port, to which the agents of an attempt connect.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::protocol::{FromAgent, Hello, ToAgent, encode, token_proof};

/// A connection without a valid first message is closed after this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest first message, in bytes, so that a stranger cannot fill the launcher's memory.
const MAX_HELLO: u64 = 16 << 10;

/// An input from an agent.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentInput {
    /// A message. The first one is [`FromAgent::Hello`].
    Message(FromAgent),
    /// The connection is closed.
    Closed,
}

/// The connections to all agents.
#[derive(Debug)]
pub struct Hub {
    port: u16,
    inputs: mpsc::UnboundedReceiver<(usize, AgentInput)>,
    senders: Senders,
    _tasks: JoinSet<()>,
}

type Senders = Arc<Mutex<BTreeMap<usize, mpsc::UnboundedSender<ToAgent>>>>;

impl Hub {
    /// Opens a port for the agents of this attempt, which know `token`.
    ///
    /// # Errors
    /// If the system provides no port.
    pub async fn open(token: String, attempt: u64) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("0.0.0.0", 0)).await?;
        let port = listener.local_addr()?.port();
        let (send, inputs) = mpsc::unbounded_channel();
        let senders = Senders::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, token, attempt, send, Arc::clone(&senders)));
        Ok(Self { port, inputs, senders, _tasks: tasks })
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
    inputs: mpsc::UnboundedSender<(usize, AgentInput)>,
    senders: Senders,
) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, token.clone(), attempt, inputs.clone(), Arc::clone(&senders)));
                while connections.try_join_next().is_some() {}
            }
            // The process is out of file descriptors for a moment.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve(
    stream: TcpStream,
    token: String,
    attempt: u64,
    inputs: mpsc::UnboundedSender<(usize, AgentInput)>,
    senders: Senders,
) {
    let _ = stream.set_nodelay(true);
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let greeting = async {
        writer.write_all(&encode(&ToAgent::Welcome { proof: token_proof(&token) })).await?;
        let mut first = Vec::new();
        (&mut reader).take(MAX_HELLO).read_until(b'\n', &mut first).await?;
        std::io::Result::Ok(first)
    };
    let Ok(Ok(first)) = timeout(HELLO_TIMEOUT, greeting).await else { return };
    let Ok(FromAgent::Hello(hello)) = serde_json::from_slice(&first) else { return };
    if hello.token != token || hello.attempt != attempt {
        return;
    }
    let rank = hello.rank;
    let (sender, mut outgoing) = mpsc::unbounded_channel();
    senders.lock().unwrap_or_else(PoisonError::into_inner).insert(rank, sender);
    let hello = Hello { token: String::new(), ..hello };
    if inputs.send((rank, AgentInput::Message(FromAgent::Hello(hello)))).is_err() {
        return;
    }
    let mut lines = reader.lines();
    let writing = tokio::spawn(async move {
        while let Some(message) = outgoing.recv().await {
            if writer.write_all(&encode(&message)).await.is_err() {
                return;
            }
        }
    });
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok(message) = serde_json::from_str(&line)
            && inputs.send((rank, AgentInput::Message(message))).is_err()
        {
            break;
        }
    }
    writing.abort();
    let _ = inputs.send((rank, AgentInput::Closed));
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
    use super::*;

    fn hello(token: &str, attempt: u64) -> Vec<u8> {
        encode(&FromAgent::Hello(Hello {
            token: token.into(),
            attempt,
            rank: 1,
            local_rank: 0,
            gpu: None,
            host: "h".into(),
            daemon: None,
            session: None,
        }))
    }

    #[tokio::test]
    async fn an_endless_first_message_closes_the_connection() {
        let hub = Hub::open("secret".into(), 0).await.expect("a port");
        let mut stream = TcpStream::connect(("127.0.0.1", hub.port)).await.expect("it listens");
        // Writes until the other side closes the connection.
        let endless = async { while stream.write_all(&[b'x'; 4096]).await.is_ok() {} };
        timeout(Duration::from_secs(5), endless).await.expect("before its time is over");
    }

    async fn caller(hub: &Hub, first: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", hub.port)).await.expect("it listens");
        stream.write_all(first).await.expect("it reads");
        stream
    }

    #[tokio::test]
    async fn an_agent_with_the_token_is_connected() {
        let mut hub = Hub::open("secret".into(), 4).await.expect("a port");
        for (token, attempt) in [("guess", 4), ("secret", 3)] {
            let mut refused = caller(&hub, &hello(token, attempt)).await;
            let mut answer = String::new();
            refused.read_to_string(&mut answer).await.expect("it hangs up");
            assert!(answer.contains(&token_proof("secret")) && answer.lines().count() == 1, "{answer}");
            assert!(!answer.contains("\"secret\""), "the proof does not tell the token: {answer}");
        }
        let agent = caller(&hub, &hello("secret", 4)).await;
        let Some((1, AgentInput::Message(FromAgent::Hello(hello)))) = hub.next().await else { panic!("no hello") };
        assert_eq!(hello.token, "", "the token goes no further");
        hub.send(1, ToAgent::Kill);
        hub.send(0, ToAgent::Kill);
        let mut told = BufReader::new(agent).lines();
        assert!(told.next_line().await.expect("a line").expect("a line").contains("welcome"));
        let line = told.next_line().await.expect("a line").expect("a line");
        assert_eq!(serde_json::from_str::<ToAgent>(&line).expect("a word"), ToAgent::Kill);
        drop(told);
        assert_eq!(hub.next().await, Some((1, AgentInput::Closed)));
    }
}
