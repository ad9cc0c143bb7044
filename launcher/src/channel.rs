//! Mutual authentication of the launcher and a process that it started, and of each of their messages.
//!
//! Both know a secret of 256 bits that the launcher made for one `mpirun`. It is never sent over a connection:
//!
//! ```text
//! launcher: NONCE                    32 random bytes, in hexadecimal
//! peer:     NONCE PROOF              its own nonce, and a MAC of both nonces under the secret
//! launcher: PROOF                    another MAC of them
//! then both: MAC JSON                each message, with a MAC of its number and text
//! ```
//!
//! A MAC is HMAC-SHA-256. The keys of the messages are MACs of both nonces, one key for each direction, so that no message
//! can be altered, left out, repeated, sent back, or moved to another connection. Messages are not encrypted.

use std::io::{self, BufRead, Read, Write};
use std::time::Duration;

use hmac::{Hmac, Mac};
use serde::Serialize;
use sha2::Sha256;
use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt};

use crate::protocol::read_line;

/// A side that has not proved itself after this time is disconnected.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest line of the handshake, in bytes.
pub(crate) const MAX_HANDSHAKE_LINE: u64 = 200;
/// The length of a MAC in hexadecimal.
const MAC_LETTERS: usize = 64;

type HmacSha256 = Hmac<Sha256>;

/// The kind of process that the launcher talks to. A proof for one kind is none for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Agent,
    Probe,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Probe => "probe",
        }
    }
}

/// Returns HMAC-SHA-256 of `parts`, each preceded by its length.
fn mac(key: &[u8], parts: &[&[u8]]) -> HmacSha256 {
    // HMAC takes keys of any length, so this never fails; an empty key would fit no other side's.
    let mut mac = HmacSha256::new_from_slice(key).unwrap_or_else(|_| HmacSha256::new(&Default::default()));
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the bytes of a text in hexadecimal; `None` if it is none.
fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let pairs = text.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    if text.len().is_multiple_of(2) { pairs.collect() } else { None }
}

/// Compares a MAC with its text in a time that does not depend on the content.
fn is_equal(expected: HmacSha256, text: &[u8]) -> bool {
    unhex(text).is_some_and(|bytes| expected.verify_slice(&bytes).is_ok())
}

/// The nonces of a connection, and what follows from them and the secret.
struct Nonces<'a> {
    secret: &'a str,
    peer: Peer,
    of_launcher: &'a str,
    of_peer: &'a str,
}

impl Nonces<'_> {
    fn mac(&self, purpose: &str) -> HmacSha256 {
        let parts = [purpose, self.peer.name(), self.of_launcher, self.of_peer];
        mac(self.secret.as_bytes(), &parts.map(str::as_bytes))
    }

    fn key(&self, purpose: &str) -> Vec<u8> {
        self.mac(purpose).finalize().into_bytes().to_vec()
    }

    fn launcher_ends(&self) -> (Sealer, Opener) {
        (Sealer::new(self.key("to peer")), Opener::new(self.key("to launcher")))
    }

    fn peer_ends(&self) -> (Sealer, Opener) {
        (Sealer::new(self.key("to launcher")), Opener::new(self.key("to peer")))
    }
}

/// Turns messages into lines of an authenticated connection.
#[derive(Debug)]
pub(crate) struct Sealer {
    key: Vec<u8>,
    sent: u64,
}

impl Sealer {
    fn new(key: Vec<u8>) -> Self {
        Self { key, sent: 0 }
    }

    /// Returns the line of the next message.
    pub(crate) fn seal(&mut self, message: &impl Serialize) -> Vec<u8> {
        // Messages are plain data with text keys, which always serialise.
        let text = serde_json::to_vec(message).unwrap_or_default();
        let mac = mac(&self.key, &[&self.sent.to_be_bytes(), &text]);
        self.sent += 1;
        [hex(&mac.finalize().into_bytes()).as_bytes(), b" ", &text, b"\n"].concat()
    }
}

/// Checks the lines of an authenticated connection.
#[derive(Debug)]
pub(crate) struct Opener {
    key: Vec<u8>,
    received: u64,
}

impl Opener {
    fn new(key: Vec<u8>) -> Self {
        Self { key, received: 0 }
    }

    /// Returns the text of the next message.
    ///
    /// # Errors
    /// If the other side did not send this as its next message. The connection must be closed then.
    pub(crate) fn open<'a>(&mut self, line: &'a [u8]) -> io::Result<&'a [u8]> {
        let forged = || io::Error::other("a message is not from the other side");
        let (shown, rest) = line.split_at_checked(MAC_LETTERS).ok_or_else(forged)?;
        let text = rest.strip_prefix(b" ").ok_or_else(forged)?;
        if !is_equal(mac(&self.key, &[&self.received.to_be_bytes(), text]), shown) {
            return Err(forged());
        }
        self.received += 1;
        Ok(text)
    }
}

/// Proves the launcher's identity to a peer, and has the peer prove its own.
///
/// # Errors
/// If the connection fails, or the other side is no such peer of this launcher.
pub(crate) async fn greet_peer(
    reader: &mut (impl AsyncBufRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    secret: &str,
    peer: Peer,
) -> io::Result<(Sealer, Opener)> {
    let stranger = || io::Error::other("it is not a process of this launcher");
    let of_launcher = crate::random::text(32)?;
    writer.write_all(format!("{of_launcher}\n").as_bytes()).await?;
    writer.flush().await?;
    let mut line = Vec::new();
    if !read_line(reader, &mut line, MAX_HANDSHAKE_LINE).await? {
        return Err(stranger());
    }
    let answer = std::str::from_utf8(&line).map_err(io::Error::other)?;
    let (of_peer, proof) = answer.split_once(' ').ok_or_else(stranger)?;
    let nonces = Nonces { secret, peer, of_launcher: &of_launcher, of_peer };
    if !is_equal(nonces.mac("peer"), proof.as_bytes()) {
        return Err(stranger());
    }
    let proof = hex(&nonces.mac("launcher").finalize().into_bytes());
    writer.write_all(format!("{proof}\n").as_bytes()).await?;
    writer.flush().await?;
    Ok(nonces.launcher_ends())
}

/// A peer's answer to a listener that may be the launcher.
pub(crate) struct Answer {
    secret: String,
    peer: Peer,
    of_launcher: String,
    of_peer: String,
}

impl Answer {
    /// Answers the first line of a listener.
    ///
    /// # Errors
    /// If the line is not from a launcher, or the system provides no randomness.
    pub(crate) fn to(line: &[u8], secret: &str, peer: Peer) -> io::Result<Self> {
        let nonce = std::str::from_utf8(line).ok().filter(|text| unhex(text.as_bytes()).is_some_and(|n| n.len() == 32));
        let of_launcher = nonce.ok_or_else(another_program)?.to_owned();
        Ok(Self { secret: secret.to_owned(), peer, of_launcher, of_peer: crate::random::text(32)? })
    }

    fn nonces(&self) -> Nonces<'_> {
        Nonces { secret: &self.secret, peer: self.peer, of_launcher: &self.of_launcher, of_peer: &self.of_peer }
    }

    /// Returns the line to send.
    pub(crate) fn line(&self) -> String {
        format!("{} {}\n", self.of_peer, hex(&self.nonces().mac("peer").finalize().into_bytes()))
    }

    /// Checks the listener's second line.
    ///
    /// # Errors
    /// If it does not prove to be the launcher.
    pub(crate) fn check(&self, line: &[u8]) -> io::Result<(Sealer, Opener)> {
        if is_equal(self.nonces().mac("launcher"), line) {
            Ok(self.nonces().peer_ends())
        } else {
            Err(another_program())
        }
    }
}

fn another_program() -> io::Error {
    io::Error::other("another program listens there")
}

/// Has a listener prove to be the launcher, and proves the peer's identity to it.
///
/// # Errors
/// If the connection fails, or another program listens there.
pub(crate) async fn greet_launcher(
    reader: &mut (impl AsyncBufRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    secret: &str,
    peer: Peer,
) -> io::Result<(Sealer, Opener)> {
    let mut line = Vec::new();
    if !read_line(reader, &mut line, MAX_HANDSHAKE_LINE).await? {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let answer = Answer::to(&line, secret, peer)?;
    writer.write_all(answer.line().as_bytes()).await?;
    writer.flush().await?;
    read_line(reader, &mut line, MAX_HANDSHAKE_LINE).await?;
    answer.check(&line)
}

/// Like [`greet_launcher`], without a runtime.
///
/// # Errors
/// As [`greet_launcher`].
pub(crate) fn greet_launcher_blocking(
    reader: &mut impl BufRead,
    writer: &mut impl Write,
    secret: &str,
    peer: Peer,
) -> io::Result<(Sealer, Opener)> {
    let mut read = || -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        reader.take(MAX_HANDSHAKE_LINE).read_until(b'\n', &mut line)?;
        Ok(line.strip_suffix(b"\n").unwrap_or(&line).to_vec())
    };
    let answer = Answer::to(&read()?, secret, peer)?;
    writer.write_all(answer.line().as_bytes())?;
    answer.check(&read()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{BufReader, split};

    use super::*;

    /// Runs a handshake between a launcher and a peer with these secrets.
    async fn handshake(
        launcher: (&str, Peer),
        peer: (&str, Peer),
    ) -> (io::Result<(Sealer, Opener)>, io::Result<(Sealer, Opener)>) {
        let (one, other) = tokio::io::duplex(1024);
        let greet = async |stream, is_launcher| {
            let (reader, mut writer) = split(stream);
            let mut reader = BufReader::new(reader);
            if is_launcher {
                greet_peer(&mut reader, &mut writer, launcher.0, launcher.1).await
            } else {
                greet_launcher(&mut reader, &mut writer, peer.0, peer.1).await
            }
        };
        tokio::join!(greet(one, true), greet(other, false))
    }

    #[tokio::test]
    async fn both_sides_prove_themselves_and_read_each_other() {
        let (launcher, agent) = handshake(("s", Peer::Agent), ("s", Peer::Agent)).await;
        let ((mut to_agent, mut from_agent), (mut to_launcher, mut from_launcher)) =
            (launcher.unwrap(), agent.unwrap());
        for text in ["one", "two", "two"] {
            let line = to_agent.seal(&text);
            assert_eq!(from_launcher.open(line.trim_ascii_end()).unwrap(), format!("{text:?}").as_bytes());
            let line = to_launcher.seal(&text);
            assert_eq!(from_agent.open(line.trim_ascii_end()).unwrap(), format!("{text:?}").as_bytes());
        }
    }

    #[tokio::test]
    async fn another_secret_or_purpose_is_refused_by_both_sides() {
        for (launcher, peer) in [(("a", Peer::Agent), ("b", Peer::Agent)), (("a", Peer::Agent), ("a", Peer::Probe))] {
            let (launcher, peer) = handshake(launcher, peer).await;
            assert!(launcher.unwrap_err().to_string().contains("not a process of this launcher"));
            assert!(peer.unwrap_err().to_string().contains("another program"));
        }
    }

    #[tokio::test]
    async fn altered_repeated_reordered_and_reflected_messages_are_refused() {
        let (launcher, agent) = handshake(("s", Peer::Agent), ("s", Peer::Agent)).await;
        let ((mut to_agent, mut from_agent), (_, mut from_launcher)) = (launcher.unwrap(), agent.unwrap());
        let lines = [to_agent.seal(&1), to_agent.seal(&2), to_agent.seal(&3)];
        let [first, second, third] = lines.each_ref().map(|line| line.trim_ascii_end());
        assert!(from_launcher.open(second).is_err(), "one is left out");
        assert_eq!(from_launcher.open(first).unwrap(), b"1");
        assert!(from_launcher.open(first).is_err(), "repeated");
        assert!(from_agent.open(first).is_err(), "sent back");
        for place in 0..second.len() {
            let mut altered = second.to_vec();
            altered[place] ^= 1;
            assert!(from_launcher.open(&altered).is_err(), "{place}");
        }
        assert!(from_launcher.open(b"").is_err() && from_launcher.open(&[b'0'; 64]).is_err());
        assert_eq!(from_launcher.open(second).unwrap(), b"2");
        // Another connection has other keys.
        let (_, agent) = handshake(("s", Peer::Agent), ("s", Peer::Agent)).await;
        assert!(agent.unwrap().1.open(third).is_err());
    }

    #[tokio::test]
    async fn a_listener_learns_nothing_that_it_can_use() {
        // It sees the proof of a peer for its own nonce, and nothing of the secret.
        let nonce = hex(&[7; 32]);
        let answer = Answer::to(nonce.as_bytes(), "secret", Peer::Agent).unwrap();
        assert!(!answer.line().contains("secret"));
        let proof = answer.line().split_once(' ').unwrap().1.trim().to_owned();
        assert!(answer.check(proof.as_bytes()).is_err(), "the peer's own proof is not the launcher's");
        for line in ["", "220 mail", &"f".repeat(63), &"g".repeat(64)] {
            assert!(Answer::to(line.as_bytes(), "secret", Peer::Agent).is_err(), "{line}");
        }
    }
}
