//! The endpoint and the file, as their clients see them.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use admiral_exposition::{ExportError, ExportSettings, Exporter, Family, Health, Source, Table, Warn, WhenBusy};

const FAILURES: Family = Family::counter("failures", "Failures.");
const SCRAPES: Family = Family::counter("scrapes", "Scrapes.");
const LONG: Family = Family::gauge("long", "Many values.");

/// Counts how often it is asked, and has `num_values` further values.
#[derive(Debug, Default)]
struct Program {
    scrapes: AtomicU64,
    is_ill: AtomicBool,
    num_values: usize,
}

impl Source for Program {
    fn table(&self) -> Table {
        let mut table = Table::new(&[]);
        table.set(&SCRAPES, (self.scrapes.fetch_add(1, Ordering::SeqCst) + 1) as f64);
        for number in 0..self.num_values {
            table.set_with(&LONG, &[("number", &number.to_string())], 1.0);
        }
        table
    }

    fn health(&self) -> Health {
        let is_healthy = !self.is_ill.load(Ordering::SeqCst);
        Health { is_healthy, details: serde_json::json!({ "step": 7 }) }
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn settings(listen: Option<SocketAddr>, when_busy: WhenBusy, textfile: Option<&Path>) -> ExportSettings {
    ExportSettings { listen, when_busy, textfile: textfile.map(Path::to_owned), failures: FAILURES }
}

/// Returns a place for warnings, and what has been warned of.
fn warnings() -> (Warn, Arc<Mutex<Vec<String>>>) {
    let said = Arc::new(Mutex::new(Vec::new()));
    let own = Arc::clone(&said);
    (Arc::new(move |text: &str| own.lock().unwrap().push(text.to_owned())), said)
}

fn serve(program: &Arc<Program>) -> (Exporter, SocketAddr) {
    let address = free_address();
    let source = Arc::clone(program) as Arc<dyn Source>;
    (Exporter::start(settings(Some(address), WhenBusy::Refuse, None), source, &warnings().0).unwrap(), address)
}

/// Sends a request, and returns the whole answer.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    // The server may refuse the request before it has read all of it.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"))
}

#[test]
fn metrics_and_health_are_served() {
    let program = Arc::new(Program::default());
    let (exporter, address) = serve(&program);
    let plain = get(address, "/metrics", "");
    assert!(plain.starts_with("HTTP/1.1 200 OK\r\n"), "{plain}");
    assert!(plain.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{plain}");
    assert!(plain.contains("\nscrapes_total 1\n") && !plain.contains("# EOF"), "{plain}");
    assert!(plain.contains("\nfailures_total{destination=\"endpoint\"} 0\n"), "{plain}");
    let open = get(address, "/metrics?x=y", "Accept: application/openmetrics-text; version=1.0.0\r\n");
    assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"), "{open}");
    assert!(open.contains("# TYPE scrapes counter\nscrapes_total 2\n") && open.ends_with("# EOF\n"), "{open}");
    let health = get(address, "/health", "");
    assert!(health.starts_with("HTTP/1.1 200 OK\r\n") && health.contains("\"step\": 7"), "{health}");
    program.is_ill.store(true, Ordering::SeqCst);
    let health = get(address, "/health", "");
    assert!(health.starts_with("HTTP/1.1 503 ") && health.contains("content-type: application/json\r\n"), "{health}");
    assert!(get(address, "/other", "").starts_with("HTTP/1.1 404 "));
    let head = ask(address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    let post = ask(address, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd");
    assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("allow: GET, HEAD\r\n"), "{post}");
    drop(exporter);
    assert!(TcpStream::connect(address).is_err(), "the port is free");
}

#[test]
fn requests_that_are_too_long_are_refused() {
    let (_exporter, address) = serve(&Arc::default());
    let long = get(address, "/metrics", &format!("X: {}\r\n", "x".repeat(1 << 20)));
    assert!(!long.contains("scrapes_total"), "{long}");
    let many = get(address, "/metrics", &"X: x\r\n".repeat(1000));
    assert!(!many.contains("scrapes_total"), "{many}");
    for garbage in ["\r\n\r\n\r\n", "\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        assert!(!ask(address, garbage).contains("scrapes_total"));
    }
    assert!(get(address, "/metrics", "").contains("\nscrapes_total 1\n"), "nobody else was served before");
}

#[test]
fn clients_that_send_or_read_nothing_keep_no_others_waiting_for_ever() {
    let program = Arc::new(Program { num_values: 200_000, ..Program::default() });
    let (exporter, address) = serve(&program);
    let silent: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    let deaf: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream
        })
        .collect();
    assert!(get(address, "/health", "").starts_with("HTTP/1.1 200 OK\r\n"));
    // More of them do not keep the end waiting, either.
    let more: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    drop(exporter);
    drop((silent, deaf, more));
}

#[test]
fn an_address_in_use_is_refused_or_waited_for() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap();
    let (warn, said) = warnings();
    let start = |when_busy| Exporter::start(settings(Some(address), when_busy, None), Arc::<Program>::default(), &warn);
    let refused = start(WhenBusy::Refuse).unwrap_err();
    assert!(matches!(refused, ExportError::Address { .. }), "{refused}");
    assert!(refused.to_string().contains(&address.to_string()), "{refused}");
    let _exporter = start(WhenBusy::Retry).unwrap();
    while said.lock().unwrap().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(busy);
    while TcpStream::connect(address).is_err() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = get(address, "/metrics", "");
    assert!(text.contains("failures_total{destination=\"endpoint\"} "), "{text}");
    assert_eq!(said.lock().unwrap().len(), 1, "only the first failure is reported");
}

#[test]
fn the_file_is_whole_and_failures_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.prom");
    let (warn, said) = warnings();
    let start = |path: &Path, when_busy| {
        Exporter::start(settings(None, when_busy, Some(path)), Arc::<Program>::default(), &warn)
    };
    start(&path, WhenBusy::Refuse).unwrap().finish(Duration::from_secs(20));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("\nscrapes_total 2\n"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    let missing = folder.path().join("missing/run.prom");
    let refused = start(&missing, WhenBusy::Refuse).unwrap_err();
    assert!(matches!(refused, ExportError::Textfile { .. }), "{refused}");
    start(&missing, WhenBusy::Retry).unwrap().finish(Duration::from_secs(20));
    let said = said.lock().unwrap();
    assert!(said.len() == 1 && said[0].contains("missing/run.prom"), "{said:?}");
}
