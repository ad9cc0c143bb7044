//! The messages that wait to be sent to the launcher.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::channel::Sealer;
use crate::protocol::{FromAgent, HEARTBEAT_INTERVAL};

/// This many lines of the rank may wait. Further lines are dropped and counted; the rank's log has them.
const MAX_LINES: usize = 1000;
/// A launcher that has been silent for this long gets nothing until it is heard again. It may be stopped, and what is sent
/// to it would fill the connection.
const HOLD_AFTER: Duration = HEARTBEAT_INTERVAL.saturating_mul(6);
/// The interval of checks whether a silent launcher is heard again.
const HOLD_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A queue of messages. Clones share it. No method that adds a message blocks.
#[derive(Debug, Clone, Default)]
pub(super) struct Outbox {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<FromAgent>,
    lines: usize,
    /// Dropped after the last line that waits.
    dropped: u64,
    last_heard: Option<Instant>,
    is_closed: bool,
}

impl Waiting {
    fn put_line(&mut self, text: String) {
        self.messages.push_back(FromAgent::Line { text });
        self.lines += 1;
    }
}

/// What there is to send.
enum Next {
    Message(FromAgent),
    Empty,
    /// The launcher is silent.
    Held,
    End,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message. A heartbeat replaces one that is next to it.
    pub(super) fn send(&self, message: FromAgent) {
        let is_beat = |message: &FromAgent| matches!(message, FromAgent::Beat { .. } | FromAgent::Alive);
        let mut waiting = self.lock();
        match message {
            FromAgent::Line { .. } if waiting.lines >= MAX_LINES => waiting.dropped += 1,
            FromAgent::Line { text } => {
                let dropped = std::mem::take(&mut waiting.dropped);
                if dropped > 0 {
                    waiting.put_line(format!("({dropped} lines of this rank are left out here; its log has them)"));
                }
                waiting.put_line(text);
            }
            message => match waiting.messages.back_mut() {
                Some(last) if is_beat(last) && is_beat(&message) => *last = message,
                _ => waiting.messages.push_back(message),
            },
        }
        drop(waiting);
        self.shared.changed.notify_one();
    }

    /// Records that the launcher was heard.
    pub(super) fn heard(&self) {
        self.lock().last_heard = Some(Instant::now());
    }

    /// Ends [`write_to`](Self::write_to) when all messages are sent.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.shared.changed.notify_one();
    }

    /// Returns the next message; `None` if there is none and none comes any more.
    async fn next(&self) -> Option<FromAgent> {
        loop {
            match self.look() {
                Next::Message(message) => return Some(message),
                Next::End => return None,
                Next::Empty => self.shared.changed.notified().await,
                Next::Held => sleep(HOLD_CHECK_INTERVAL).await,
            }
        }
    }

    fn look(&self) -> Next {
        let mut waiting = self.lock();
        if waiting.messages.is_empty() {
            return if waiting.is_closed { Next::End } else { Next::Empty };
        }
        if waiting.last_heard.is_some_and(|at| at.elapsed() > HOLD_AFTER) {
            return Next::Held;
        }
        match waiting.messages.pop_front() {
            Some(message) => {
                waiting.lines -= usize::from(matches!(message, FromAgent::Line { .. }));
                Next::Message(message)
            }
            None => Next::Empty,
        }
    }

    /// Sends the messages until the connection fails, or the queue is closed and empty.
    pub(super) async fn write_to(self, mut writer: OwnedWriteHalf, mut sealer: Sealer) {
        while let Some(message) = self.next().await {
            if writer.write_all(&sealer.seal(&message)).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: usize) -> FromAgent {
        FromAgent::Line { text: number.to_string() }
    }

    async fn drain(outbox: &Outbox) -> Vec<FromAgent> {
        outbox.close();
        let mut all = Vec::new();
        while let Some(message) = outbox.next().await {
            all.push(message);
        }
        all
    }

    #[tokio::test]
    async fn too_many_lines_are_dropped_and_counted_and_other_messages_are_kept_in_order() {
        let outbox = Outbox::default();
        (0..MAX_LINES + 5).for_each(|number| outbox.send(line(number)));
        outbox.send(FromAgent::Alive);
        outbox.send(FromAgent::Alive);
        outbox.send(FromAgent::Gone { left: 0 });
        assert_eq!(outbox.next().await, Some(line(0)));
        outbox.send(line(7));
        let all = drain(&outbox).await;
        assert_eq!(all[..MAX_LINES - 1], (1..MAX_LINES).map(line).collect::<Vec<_>>());
        let text = "(5 lines of this rank are left out here; its log has them)".to_owned();
        assert_eq!(
            all[MAX_LINES - 1..],
            [FromAgent::Alive, FromAgent::Gone { left: 0 }, FromAgent::Line { text }, line(7)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_launcher_gets_nothing_until_it_is_heard() {
        let outbox = Outbox::default();
        outbox.heard();
        sleep(HOLD_AFTER + HEARTBEAT_INTERVAL).await;
        outbox.send(FromAgent::DaemonGone);
        assert!(tokio::time::timeout(HOLD_AFTER, outbox.next()).await.is_err());
        outbox.heard();
        assert_eq!(outbox.next().await, Some(FromAgent::DaemonGone));
    }
}
