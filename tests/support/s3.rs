//! A real S3 server for tests.
#![allow(dead_code, reason = "each test program uses its part")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use object_store::aws::AmazonS3Builder;

/// The root of the workspace, found from any of its packages.
pub fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().find(|folder| folder.join("ci/requirements.txt").exists()).unwrap()
}

/// The Python that has the packages of `ci/requirements.txt`.
pub fn python() -> PathBuf {
    let root = workspace();
    // Compares files, because importing the packages takes longer than most tests.
    let installed = std::fs::read(root.join(".deps/venv/requirements.installed")).unwrap_or_default();
    let required = std::fs::read(root.join("ci/requirements.txt")).unwrap();
    assert!(installed == required, "run `ci/setup test` first: .deps/venv lacks packages");
    root.join(".deps/venv/bin/python")
}

/// A builder of clients for the bucket of the server at `port`.
pub fn builder(port: u16) -> AmazonS3Builder {
    admiral_storage::choose_cryptography();
    AmazonS3Builder::new()
        .with_endpoint(format!("http://127.0.0.1:{port}"))
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_access_key_id("test")
        .with_secret_access_key("test")
        .with_bucket_name("bucket")
}

/// The environment variables that make a run use the S3 server at `port`.
pub fn environment(port: u16) -> [(&'static str, String); 5] {
    [
        ("AWS_ENDPOINT", format!("http://127.0.0.1:{port}")),
        ("AWS_ALLOW_HTTP", "true".into()),
        ("AWS_REGION", "us-east-1".into()),
        ("AWS_ACCESS_KEY_ID", "test".into()),
        ("AWS_SECRET_ACCESS_KEY", "test".into()),
    ]
}

/// A server in a process of its own, stopped on drop.
pub struct Server {
    process: Child,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl Server {
    /// Starts a server that chooses a free port and prints its URL. If the test chose the port, another process could take
    /// it first.
    pub fn start(command: &mut Command) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let process = command.stdout(log.reopen().unwrap()).stderr(log.reopen().unwrap()).spawn().unwrap();
        // From here on, the server is stopped even if this function panics.
        let mut server = Self { process, port: 0 };
        let start = Instant::now();
        server.port = loop {
            let said = std::fs::read_to_string(log.path()).unwrap();
            let port = said.split("http://127.0.0.1:").nth(1).and_then(|rest| rest.split_once('\n'));
            if let Some((port, _)) = port {
                break port.trim().parse().unwrap_or_else(|_| panic!("{said}"));
            }
            assert!(server.process.try_wait().unwrap().is_none(), "the server has ended: {said}");
            assert!(start.elapsed() < Duration::from_secs(60), "the server does not answer: {said}");
            std::thread::sleep(Duration::from_millis(50));
        };
        server
    }

    /// Sends a request without a body. Returns the response, which must have status 200.
    pub fn request(&self, line: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "{line} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.split(' ').nth(1) == Some("200"), "{answer}");
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An S3 server, stopped on drop.
pub struct S3 {
    server: Server,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl S3 {
    /// Starts a server with an empty bucket named `bucket`.
    pub fn start() -> Self {
        let server = Server::start(Command::new(python()).args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]));
        server.request("PUT /bucket");
        Self { port: server.port, server }
    }

    /// Sends a request without a body. Returns the response, which must have status 200.
    pub fn request(&self, line: &str) -> String {
        self.server.request(line)
    }
}
