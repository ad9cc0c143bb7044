//! The notifications that wait.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::message::{Kind, Message};

/// The number of notifications that wait.
pub(super) const QUEUE_LENGTH: usize = 32;

/// A queue for one receiver. When it is full, the oldest notification is dropped, but not the end of the launch.
#[derive(Debug, Default)]
pub(super) struct Queue {
    content: Mutex<Content>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Content {
    messages: VecDeque<Message>,
    is_closed: bool,
}

impl Queue {
    /// Adds a notification. Returns whether another was dropped for it.
    pub(super) fn push(&self, message: Message) -> bool {
        let mut content = self.lock();
        let is_full = content.messages.len() >= QUEUE_LENGTH;
        if is_full {
            let oldest = content.messages.iter().position(|message| message.event != Kind::End).unwrap_or(0);
            content.messages.remove(oldest);
        }
        content.messages.push_back(message);
        self.changed.notify_one();
        is_full
    }

    /// Says that no further notification comes.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Waits for the next notification. Returns `None` when the queue is empty and closed.
    pub(super) async fn next(&self) -> Option<Message> {
        loop {
            {
                let mut content = self.lock();
                if content.is_closed || !content.messages.is_empty() {
                    return content.messages.pop_front();
                }
            }
            // A change since the look above is remembered.
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::status::State;

    fn message(kind: Kind, text: &str) -> Message {
        Message::new(kind, "/runs/own", &State::of_launch("l".into(), Timestamp::UNIX_EPOCH), text)
    }

    #[tokio::test]
    async fn a_full_queue_drops_its_oldest_notification_and_keeps_the_end() {
        let queue = Queue::default();
        assert!(!queue.push(message(Kind::End, "the end")));
        let dropped =
            (0..40).filter(|number| queue.push(message(Kind::Incident, &format!("number {number};")))).count();
        assert_eq!(dropped, 41 - QUEUE_LENGTH);
        queue.close();
        assert_eq!(queue.next().await.map(|message| message.event), Some(Kind::End));
        let mut rest = Vec::new();
        while let Some(message) = queue.next().await {
            rest.push(message.text);
        }
        assert_eq!(rest.len(), QUEUE_LENGTH - 1);
        let [first, last] = [rest.first(), rest.last()].map(|text| text.expect("it is not empty"));
        assert!(first.contains("number 9;") && last.contains("number 39;"), "{rest:?}");
    }
}
