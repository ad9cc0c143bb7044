//! A proxy between a store's client and a real S3 server. It causes the faults of networks and busy servers by rules.
//!
//! It supports the HTTP/1.1 that both use: bodies with a length, in chunks, or up to the end of the connection.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Answers with S3's error document. S3 uses status 200 if the completion of an upload fails after the answer has
    /// begun.
    Refuse {
        /// The status.
        status: u16,
        /// The error code in the document.
        code: &'static str,
    },
    /// Resets the connection.
    Reset,
    /// Sends half of the body to the server, then resets both connections.
    CutRequest,
    /// Sends half of the server's answer to the client, then closes the connection.
    CutAnswer,
    /// Flips a bit in the middle of the request's body.
    FlipRequest,
    /// Flips a bit in the middle of the answer's body.
    FlipAnswer,
    /// Removes a header from the request, as a server does that does not know it.
    DropHeader(&'static str),
    /// Delays the request.
    Delay(Duration),
    /// Never answers.
    Stall,
}

impl Action {
    /// The server failed.
    pub const INTERNAL_ERROR: Self = Self::Refuse { status: 500, code: "InternalError" };
    /// The server is overloaded.
    pub const SLOW_DOWN: Self = Self::Refuse { status: 503, code: "SlowDown" };
    /// Temporary credentials have expired. S3 documents status 400 for this; other servers use 403.
    pub const EXPIRED_TOKEN: Self = Self::Refuse { status: 400, code: "ExpiredToken" };
    /// The answer of S3 to a completion that failed late.
    pub const ERROR_WITHIN_200: Self = Self::Refuse { status: 200, code: "InternalError" };
}

/// The matching requests that a rule affects, counted from 1.
#[derive(Debug, Clone, Copy)]
pub enum When {
    /// All.
    Always,
    /// One.
    Nth(u64),
    /// The k-th, 2k-th, 3k-th...
    Every(u64),
    /// `count` requests after the first `after`.
    Span {
        /// The number of requests before.
        after: u64,
        /// The number of affected requests.
        count: u64,
    },
    /// Each request with a probability, as a function of the seed and the request's number.
    Chance {
        /// From 0 to 1.
        probability: f64,
        /// The seed.
        seed: u64,
    },
}

impl When {
    fn hits(self, number: u64) -> bool {
        match self {
            Self::Always => true,
            Self::Nth(n) => number == n,
            Self::Every(k) => number.is_multiple_of(k),
            Self::Span { after, count } => number > after && number - after <= count,
            Self::Chance { probability, seed } => {
                // SplitMix64's finalizer.
                let mut bits = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64) < probability
            }
        }
    }
}

/// A fault and the requests that it affects. If several rules affect a request, the first one acts.
#[derive(Debug, Clone)]
pub struct Rule {
    action: Action,
    is_done: bool,
    method: &'static str,
    path: String,
    query: String,
    when: When,
    seen: u64,
}

impl Rule {
    /// A rule for every request.
    pub fn new(action: Action) -> Self {
        let (path, query) = (String::new(), String::new());
        Self { action, is_done: false, method: "", path, query, when: When::Always, seen: 0 }
    }

    /// Limits the rule to a method.
    pub fn method(self, method: &'static str) -> Self {
        Self { method, ..self }
    }

    /// Limits the rule to requests whose path contains `part`. A path starts with the bucket.
    pub fn path(self, part: &str) -> Self {
        Self { path: part.to_owned(), ..self }
    }

    /// Limits the rule to requests whose query contains `part`: `uploads`, `partNumber=`, `uploadId=`.
    pub fn query(self, part: &str) -> Self {
        Self { query: part.to_owned(), ..self }
    }

    /// Limits the rule to some of the matching requests.
    pub fn when(self, when: When) -> Self {
        Self { when, ..self }
    }

    /// The server executes the request, but the client does not get the answer. For refusals and resets.
    pub fn done(self) -> Self {
        Self { is_done: true, ..self }
    }

    /// Counts a matching request. Returns whether the rule affects it.
    fn hits(&mut self, method: &str, target: &str) -> bool {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let fits = (self.method.is_empty() || self.method == method)
            && path.contains(&self.path)
            && query.contains(&self.query);
        self.seen += u64::from(fits);
        fits && self.when.hits(self.seen)
    }
}

/// A request that reached the proxy.
#[derive(Debug, Clone)]
pub struct Request {
    /// `PUT`.
    pub method: String,
    /// The path and the query.
    pub target: String,
    /// The fault, if there was one.
    pub fault: Option<Action>,
}

#[derive(Default)]
struct Script {
    rules: Vec<Rule>,
    log: Vec<Request>,
}

#[derive(Default)]
struct Shared {
    script: Mutex<Script>,
    is_over: AtomicBool,
    // Open connections by number, so that stalled ones end with the proxy.
    clients: Mutex<HashMap<u64, TcpStream>>,
}

/// A running proxy, stopped on drop.
pub struct FaultProxy {
    /// Its port on 127.0.0.1.
    pub port: u16,
    shared: Arc<Shared>,
}

impl FaultProxy {
    /// Starts a proxy without rules for a server on this host.
    pub fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                if own.is_over.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(client) = client else { continue };
                own.clients.lock().unwrap().insert(number as u64, client.try_clone().unwrap());
                let shared = Arc::clone(&own);
                std::thread::spawn(move || {
                    // Broken connections are expected here.
                    let _ = serve(&client, server_port, &shared);
                    // Closes the last two descriptors; an orderly end of any other kind would come before a reset.
                    shared.clients.lock().unwrap().remove(&(number as u64));
                    drop(client);
                });
            }
        });
        Self { port, shared }
    }

    /// Sets the rules from the next request on.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        self.shared.script.lock().unwrap().rules = rules;
    }

    /// All requests so far, in the order of arrival.
    pub fn log(&self) -> Vec<Request> {
        self.shared.script.lock().unwrap().log.clone()
    }

    /// The number of requests that a rule affected.
    pub fn faults(&self) -> usize {
        self.log().iter().filter(|request| request.fault.is_some()).count()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        for client in self.shared.clients.lock().unwrap().values() {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

/// Serves one client until it disconnects or a fault ends the connection.
fn serve(client: &TcpStream, server_port: u16, shared: &Shared) -> Result<()> {
    client.set_nodelay(true)?;
    let mut from_client = BufReader::new(client);
    while let Some(mut head) = Head::read(&mut from_client)? {
        let rule = head.fault(shared);
        let action = rule.as_ref().map(|rule| rule.action);
        let is_done = rule.is_some_and(|rule| rule.is_done);
        if head.remove("expect") {
            (&*client).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        match action {
            Some(Action::DropHeader(name)) => _ = head.remove(name),
            Some(Action::Delay(time)) => std::thread::sleep(time),
            Some(Action::Reset) if !is_done => return reset(client),
            Some(Action::Stall) => {
                // Discards input until the client or the proxy ends.
                std::io::copy(&mut from_client, &mut std::io::sink())?;
                return Ok(());
            }
            Some(Action::Refuse { status, code }) if !is_done => {
                head.body(false)?.copy(&mut from_client, &mut std::io::sink(), u64::MAX)?;
                refuse(client, &head, status, code)?;
                continue;
            }
            _ => (),
        }

        let server = TcpStream::connect(("127.0.0.1", server_port))?;
        server.set_nodelay(true)?;
        head.remove("connection");
        head.lines.push("Connection: close".into());
        head.write(&server)?;
        let body = head.body(false)?;
        if action == Some(Action::CutRequest) {
            body.copy(&mut from_client, &mut &server, body.half())?;
            let _ = reset(&server);
            return reset(client);
        }
        if action == Some(Action::FlipRequest) {
            body.copy_flipped(&mut from_client, &mut &server)?;
        } else {
            body.copy(&mut from_client, &mut &server, u64::MAX)?;
        }

        let mut from_server = BufReader::new(&server);
        let mut answer = Head::read(&mut from_server)?.ok_or(ErrorKind::UnexpectedEof)?;
        let body = if head.method() == "HEAD" { Body::Length(0) } else { answer.body(true)? };
        match action {
            Some(Action::Reset) => {
                // Reads the whole answer, so that the server has executed the request.
                body.copy(&mut from_server, &mut std::io::sink(), u64::MAX)?;
                return reset(client);
            }
            Some(Action::Refuse { status, code }) => {
                body.copy(&mut from_server, &mut std::io::sink(), u64::MAX)?;
                refuse(client, &head, status, code)?;
                continue;
            }
            Some(Action::CutAnswer) => {
                if matches!(body, Body::Length(0)) {
                    let line = &answer.lines[0];
                    return (&*client).write_all(&line.as_bytes()[..line.len() / 2]);
                }
                answer.write(client)?;
                return body.copy(&mut from_server, &mut &*client, body.half());
            }
            _ => (),
        }
        answer.remove("connection");
        answer.lines[0] = answer.lines[0].replacen("HTTP/1.0", "HTTP/1.1", 1);
        if matches!(body, Body::ToTheEnd) {
            answer.lines.push("Connection: close".into());
        }
        answer.write(client)?;
        if action == Some(Action::FlipAnswer) {
            body.copy_flipped(&mut from_server, &mut &*client)?;
        } else {
            body.copy(&mut from_server, &mut &*client, u64::MAX)?;
        }
        if matches!(body, Body::ToTheEnd) {
            return Ok(());
        }
    }
    Ok(())
}

/// The first line and the headers of a request or an answer.
struct Head {
    lines: Vec<String>,
}

impl Head {
    /// Reads a head. Returns `None` if the connection ends.
    fn read(from: &mut impl BufRead) -> Result<Option<Self>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                return if lines.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
            match line.trim_end() {
                "" if lines.is_empty() => (),
                "" => return Ok(Some(Self { lines })),
                line => lines.push(line.to_owned()),
            }
        }
    }

    fn write(&self, mut to: &TcpStream) -> Result<()> {
        to.write_all(format!("{}\r\n\r\n", self.lines.join("\r\n")).as_bytes())
    }

    fn method(&self) -> &str {
        self.lines[0].split(' ').next().unwrap_or("")
    }

    fn value(&self, name: &str) -> Option<&str> {
        let headers = self.lines[1..].iter().filter_map(|line| line.split_once(':'));
        headers.filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    /// Removes a header. Returns whether there was one.
    fn remove(&mut self, name: &str) -> bool {
        let count = self.lines.len();
        self.lines.retain(|line| !line.split_once(':').is_some_and(|(own, _)| own.eq_ignore_ascii_case(name)));
        self.lines.len() < count
    }

    fn body(&self, is_answer: bool) -> Result<Body> {
        if self.value("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Ok(Body::Chunks);
        }
        let status = self.lines[0].split(' ').nth(1).unwrap_or("");
        match self.value("content-length") {
            Some(length) => length.parse().map(Body::Length).map_err(Error::other),
            None if is_answer && !matches!(status, "204" | "304") => Ok(Body::ToTheEnd),
            None => Ok(Body::Length(0)),
        }
    }

    /// Records the request. Returns the rule that affects it.
    fn fault(&self, shared: &Shared) -> Option<Rule> {
        let target = self.lines[0].split(' ').nth(1).unwrap_or("");
        let mut script = shared.script.lock().unwrap();
        // Every rule counts its matching requests, whichever rule acts.
        let hits: Vec<bool> = script.rules.iter_mut().map(|rule| rule.hits(self.method(), target)).collect();
        let rule = hits.iter().position(|hit| *hit).map(|place| script.rules[place].clone());
        let fault = rule.as_ref().map(|rule| rule.action);
        script.log.push(Request { method: self.method().to_owned(), target: target.to_owned(), fault });
        rule
    }
}

/// How the length of a body is given.
#[derive(Clone, Copy)]
enum Body {
    Length(u64),
    Chunks,
    ToTheEnd,
}

impl Body {
    fn half(self) -> u64 {
        match self {
            Self::Length(length) => length / 2,
            // Part of the first chunk, or of the data that has arrived.
            Self::Chunks | Self::ToTheEnd => 10,
        }
    }

    /// Forwards a body unchanged, up to `limit` bytes.
    fn copy(self, from: &mut impl BufRead, to: &mut impl Write, limit: u64) -> Result<()> {
        match self {
            Self::Length(length) => exactly(from, to, length.min(limit)),
            Self::ToTheEnd => std::io::copy(&mut from.take(limit), to).map(drop),
            Self::Chunks if limit < u64::MAX => exactly(from, to, limit),
            Self::Chunks => loop {
                let mut line = String::new();
                from.read_line(&mut line)?;
                to.write_all(line.as_bytes())?;
                let size = u64::from_str_radix(line.trim_end(), 16).map_err(Error::other)?;
                // The chunk and the end of its line. The last chunk is only that.
                exactly(from, to, size + 2)?;
                if size == 0 {
                    return to.flush();
                }
            },
        }
    }

    /// Forwards a body with the lowest bit of its middle byte flipped. An empty body is unchanged.
    fn copy_flipped(self, from: &mut impl BufRead, to: &mut impl Write) -> Result<()> {
        let length = match self {
            Self::Length(0) => return Ok(()),
            Self::Length(length) => length,
            // Client and server send no such body whose content matters.
            Self::Chunks | Self::ToTheEnd => return Err(ErrorKind::Unsupported.into()),
        };
        exactly(from, to, length / 2)?;
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        to.write_all(&[byte[0] ^ 1])?;
        exactly(from, to, length - length / 2 - 1)
    }
}

fn exactly(from: &mut impl BufRead, to: &mut impl Write, length: u64) -> Result<()> {
    match std::io::copy(&mut from.take(length), to)? {
        copied if copied == length => Ok(()),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// Answers with S3's error document.
fn refuse(mut client: &TcpStream, request: &Head, status: u16, code: &str) -> Result<()> {
    let document = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>scripted</Message>\
         <RequestId>0</RequestId></Error>"
    );
    let body = if request.method() == "HEAD" { "" } else { &document };
    let length = document.len();
    let head = format!("HTTP/1.1 {status} Scripted\r\nContent-Type: application/xml\r\nContent-Length: {length}");
    client.write_all(format!("{head}\r\n\r\n{body}").as_bytes())
}

/// Closes a connection with a reset.
fn reset(stream: &TcpStream) -> Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the descriptor is open as long as `stream`, and the option's value has the right type.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(Error::last_os_error());
    }
    // The kernel sends the reset when the last descriptor is closed.
    Ok(())
}
