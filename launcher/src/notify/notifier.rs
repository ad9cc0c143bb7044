//! The thread that sends notifications.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use admiral_contract::Notify;
use tokio::sync::oneshot;

use super::command;
use super::message::Message;
use super::queue::Queue;
use super::webhook::Webhook;
use crate::console::Console;

/// After the launcher has lost its patience, a command is ended within this time.
const LEAVE: Duration = Duration::from_secs(1);

/// Nobody can be told.
#[derive(Debug, thiserror::Error)]
pub enum NotifierError {
    /// The configuration is that of a run's folder.
    #[error(
        "launch.notify: its secret is not shown in this file, so nobody can be told; give it with --notify, or use the \
         configuration that you wrote"
    )]
    Masked,
    /// The receiver is invalid.
    #[error("launch.notify: {0}")]
    Invalid(String),
    /// The system provides no thread.
    #[error("no thread for notifications: {0}")]
    Thread(std::io::Error),
}

/// How long things may take.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    /// A try to post.
    pub(crate) request: Duration,
    /// The waits between tries.
    pub(crate) delays: Vec<Duration>,
    /// A command.
    pub(crate) command: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(10),
            delays: [1, 2, 4, 8].map(Duration::from_secs).to_vec(),
            command: Duration::from_secs(30),
        }
    }
}

#[derive(Debug)]
enum Receiving {
    Webhook(Webhook),
    Command(Vec<String>),
}

impl Receiving {
    fn new(notify: &Notify, patience: &Patience) -> Result<Self, NotifierError> {
        if notify.is_masked() {
            return Err(NotifierError::Masked);
        }
        if let Some(mistake) = notify.mistake() {
            return Err(NotifierError::Invalid(mistake.to_owned()));
        }
        match notify {
            Notify::Webhook(url) => Webhook::new(url, patience.request, patience.delays.clone())
                .map(Self::Webhook)
                .map_err(NotifierError::Invalid),
            Notify::Command(words) => Ok(Self::Command(words.clone())),
        }
    }
}

/// Sends notifications from a thread of its own. No method but [`finish`](Self::finish) blocks.
#[derive(Debug)]
pub(crate) struct Notifier {
    queue: Arc<Queue>,
    counts: Arc<Counts>,
    ended: Receiver<()>,
    /// Ends the thread when dropped.
    leave: oneshot::Sender<()>,
    console: Console,
}

#[derive(Debug, Default)]
struct Counts {
    /// Notifications that wait or are being sent.
    waiting: AtomicU64,
    dropped: AtomicU64,
}

impl Notifier {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the receiver is invalid.
    pub(crate) fn start(notify: &Notify, patience: Patience, console: Console) -> Result<Self, NotifierError> {
        let receiving = Receiving::new(notify, &patience)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(NotifierError::Thread)?;
        let queue = Arc::new(Queue::default());
        let messages = Arc::clone(&queue);
        let (leave, left) = oneshot::channel();
        let (end, ended) = channel();
        let counts = Arc::new(Counts::default());
        let (own, warner) = (Arc::clone(&counts), console.clone());
        let work = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = send_all(&receiving, &messages, &patience, &own, &warner) => {}
                    _ = left => {}
                }
            });
            // A look-up of a host name may hang.
            runtime.shutdown_background();
            // Nobody may wait any more.
            let _ = end.send(());
        };
        std::thread::Builder::new().name("notify".into()).spawn(work).map_err(NotifierError::Thread)?;
        Ok(Self { queue, counts, ended, leave, console })
    }

    /// Checks a receiver without starting anything.
    ///
    /// # Errors
    /// If it is invalid.
    pub(crate) fn check(notify: &Notify) -> Result<(), NotifierError> {
        Receiving::new(notify, &Patience::default()).map(|_| ())
    }

    /// Sends a notification soon. If too many wait, the oldest is dropped and counted.
    pub(crate) fn send(&self, message: Message) {
        self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        if self.queue.push(message) {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            if self.counts.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
                self.console
                    .warn("the oldest notification is dropped, because too many wait; further ones are counted");
            }
        }
    }

    /// Waits until all notifications are sent, but not longer than `patience`. Says how many are lost.
    pub(crate) fn finish(self, patience: Duration) {
        let Self { queue, counts, ended, leave, console } = self;
        queue.close();
        if let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(patience) {
            drop(leave);
            // The processes of a command are ended.
            let _ = ended.recv_timeout(LEAVE);
        }
        let [waiting, dropped] = [&counts.waiting, &counts.dropped].map(|count| count.load(Ordering::Relaxed));
        if waiting > 0 {
            console.warn(&format!("not sent within {} s: {}", patience.as_secs_f64(), amount(waiting)));
        }
        if dropped > 0 {
            console.warn(&format!("dropped, because too many waited: {}", amount(dropped)));
        }
    }
}

fn amount(count: u64) -> String {
    if count == 1 { "1 notification".to_owned() } else { format!("{count} notifications") }
}

async fn send_all(receiving: &Receiving, messages: &Queue, patience: &Patience, counts: &Counts, console: &Console) {
    while let Some(message) = messages.next().await {
        let sent = match receiving {
            Receiving::Webhook(webhook) => webhook.post(&message.json()).await,
            Receiving::Command(argv) => command::run(argv, &message, patience.command).await,
        };
        counts.waiting.fetch_sub(1, Ordering::Relaxed);
        if let Err(reason) = sent {
            console.warn(&format!("the notification of {} was not sent: {reason}", message.event.name()));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::time::Instant;

    use jiff::Timestamp;

    use super::super::message::Kind;
    use super::super::queue::QUEUE_LENGTH;
    use super::*;
    use crate::environment::Environment;
    use crate::status::State;

    const LONG: Duration = Duration::from_secs(60);

    fn message(kind: Kind) -> Message {
        Message::new(kind, "/runs/own", &State::of_launch("l".into(), Timestamp::UNIX_EPOCH), "something happened")
    }

    fn console() -> Console {
        Console::new(&Environment::new([]))
    }

    fn patience() -> Patience {
        Patience { request: LONG, delays: vec![Duration::from_millis(1); 4], command: LONG }
    }

    /// Starts a server that answers the requests in turn with these status lines, after `delay`, and returns its URL
    /// and the bodies of the requests.
    fn server(answers: &'static [&'static str], delay: Duration) -> (String, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hush", listener.local_addr().unwrap());
        let (send, bodies) = mpsc::channel();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut length, mut line) = (0, String::new());
                while reader.read_line(&mut line).unwrap() > 2 {
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                std::thread::sleep(delay);
                write!(stream, "HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
                send.send(String::from_utf8(body).unwrap()).unwrap();
            }
        });
        (url, bodies)
    }

    fn events(bodies: &mpsc::Receiver<String>) -> Vec<String> {
        let event = |body: String| {
            let value: serde_json::Value = serde_json::from_str(&body).unwrap();
            value["event"].as_str().unwrap().to_owned()
        };
        bodies.iter().map(event).collect()
    }

    #[test]
    fn a_webhook_that_fails_for_a_while_gets_each_notification_in_the_end() {
        let answers = &[
            "500 Internal Server Error",
            "429 Too Many Requests",
            "200 OK",
            "503 Service Unavailable",
            "204 No Content",
        ];
        let (url, bodies) = server(answers, Duration::ZERO);
        let notifier = Notifier::start(&Notify::Webhook(url), patience(), console()).unwrap();
        [Kind::Incident, Kind::End].into_iter().for_each(|kind| notifier.send(message(kind)));
        let counts = Arc::clone(&notifier.counts);
        notifier.finish(LONG);
        assert_eq!(counts.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(events(&bodies), ["incident", "incident", "incident", "end", "end"]);
    }

    #[test]
    fn a_slow_webhook_keeps_only_its_own_thread_waiting() {
        let (url, bodies) = server(&["200 OK", "200 OK"], Duration::from_millis(200));
        let notifier = Notifier::start(&Notify::Webhook(url), patience(), console()).unwrap();
        [Kind::Incident, Kind::Recovery].into_iter().for_each(|kind| notifier.send(message(kind)));
        assert!(bodies.try_recv().is_err(), "nothing is answered yet");
        notifier.finish(LONG);
        assert_eq!(events(&bodies), ["incident", "recovery"]);
    }

    #[test]
    fn an_error_that_does_not_pass_is_not_repeated_and_hides_the_url() {
        let (url, bodies) = server(&["404 Not Found", "307 Temporary Redirect"], Duration::ZERO);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let webhook = Webhook::new(&url, LONG, vec![Duration::ZERO; 3]).unwrap();
        for status in ["404", "307"] {
            let error = runtime.block_on(webhook.post(b"{}")).unwrap_err();
            assert!(error.contains(status) && !error.contains("hush"), "{error}");
        }
        assert_eq!(bodies.iter().count(), 2);
        let error = runtime.block_on(webhook.post(b"{}")).unwrap_err();
        assert!(error.contains("refused") && error.contains("4 tries") && !error.contains("hush"), "{error}");
    }

    #[test]
    fn a_webhook_that_never_answers_delays_nobody_and_what_is_dropped_is_counted() {
        // The system accepts the connection, and nobody answers.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let notifier = Notifier::start(&Notify::Webhook(url), patience(), console()).unwrap();
        let begin = Instant::now();
        let sent = QUEUE_LENGTH as u64 + 10;
        for _ in 0..sent {
            notifier.send(message(Kind::Incident));
        }
        let counts = Arc::clone(&notifier.counts);
        notifier.finish(Duration::from_millis(100));
        assert!(begin.elapsed() < LONG, "the timeout of the request was not waited for");
        let [waiting, dropped] = [&counts.waiting, &counts.dropped].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(waiting + dropped, sent);
        assert!(dropped >= 9, "{dropped} of {sent}: one is being sent at most");
    }

    fn command(script: &str) -> Notify {
        Notify::Command(["sh", "-c", script].map(str::to_owned).to_vec())
    }

    #[test]
    fn a_command_gets_the_notification() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let script = format!("(cat; echo; echo \"$ADMIRAL_EVENT $ADMIRAL_RUN $ADMIRAL_STEP\") >> {}", out.display());
        let notifier = Notifier::start(&command(&script), patience(), console()).unwrap();
        notifier.send(message(Kind::Silence));
        notifier.finish(LONG);
        let text = std::fs::read_to_string(out).unwrap();
        let (json, variables) = text.split_once('\n').unwrap();
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!((value["event"].as_str(), variables), (Some("silence"), "silence /runs/own 0\n"));
    }

    #[test]
    fn a_command_that_fails_is_named_with_its_words() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for (script, part) in [
            ("echo no route KEY=hush >&2; exit 3", "exit status: 3): no route"),
            ("echo no route to https://h/hush >&2; exit 3", "no route to https://h/(secret, not shown)"),
            ("yes https://h/hush | head -c 99999 >&2; exit 5", "https://h/(secret, not shown)"),
            ("yes | head -c 99999 >&2; exit 4", "4"),
        ] {
            let Notify::Command(argv) = command(script) else { unreachable!() };
            let error = runtime.block_on(command::run(&argv, &message(Kind::End), LONG)).unwrap_err();
            assert!(error.contains(part) && !error.contains("hush"), "{error}");
        }
        let absent = runtime.block_on(command::run(&["/nowhere/x".into()], &message(Kind::End), LONG)).unwrap_err();
        assert!(absent.starts_with("/nowhere/x cannot be started"), "{absent}");
    }

    #[test]
    fn a_command_that_hangs_is_ended_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        let script = format!("sleep 600 & echo $$ $! > {}; wait", pids.display());
        let notifier = Notifier::start(&command(&script), patience(), console()).unwrap();
        notifier.send(message(Kind::Incident));
        let read = || std::fs::read_to_string(&pids).unwrap_or_default();
        while read().split_whitespace().count() < 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
        notifier.finish(Duration::from_millis(50));
        let is_alive = |pid: &str| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
        };
        let text = read();
        let ids: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(ids.len(), 2);
        while ids.iter().any(|pid| is_alive(pid)) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn receivers_without_their_secret_are_refused() {
        let start = |notify: &Notify| Notifier::start(notify, patience(), console()).unwrap_err().to_string();
        let error = start(&Notify::Webhook("https://h/hush".into()).masked());
        assert!(error.contains("--notify"), "{error}");
        for url in ["h/hush", "http://[/hush"] {
            let error = start(&Notify::Webhook(url.into()));
            assert!(error.starts_with("launch.notify: ") && !error.contains("hush"), "{error}");
        }
    }
}
