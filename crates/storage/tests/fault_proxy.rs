//! The fault proxy of the tests, in front of the real S3 server: requests pass unchanged without rules, and each rule
//! causes its fault, as seen by client and server.
#![allow(clippy::unwrap_used)]

#[path = "../../../tests/support/fault_proxy.rs"]
mod fault_proxy;
#[path = "../../../tests/support/s3.rs"]
mod s3;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::aws::AmazonS3;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;

use fault_proxy::{Action, FaultProxy, Rule, When};
use s3::S3;

/// A client with this number of retries.
fn client(port: u16, max_retries: usize) -> AmazonS3 {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(20),
        ..BackoffConfig::default()
    };
    s3::builder(port)
        .with_client_options(ClientOptions::new().with_timeout(Duration::from_secs(5)).with_allow_http(true))
        .with_retry(RetryConfig { backoff, max_retries, retry_timeout: Duration::from_secs(60) })
        .build()
        .unwrap()
}

/// A server, the proxy, and two clients without retries: one through the proxy and one without it.
struct Stage {
    _server: S3,
    proxy: FaultProxy,
    runtime: Runtime,
    through: AmazonS3,
    around: AmazonS3,
}

impl Stage {
    fn new() -> Self {
        let server = S3::start();
        let proxy = FaultProxy::start(server.port);
        let (through, around) = (client(proxy.port, 0), client(server.port, 0));
        Self { _server: server, proxy, runtime: Runtime::new().unwrap(), through, around }
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), String> {
        let payload = Bytes::copy_from_slice(bytes).into();
        let result = self.runtime.block_on(self.through.put(&Path::from(path), payload));
        result.map(drop).map_err(|error| format!("{error:?}"))
    }

    fn get(&self, store: &AmazonS3, path: &str) -> Result<Vec<u8>, String> {
        let read = async { store.get(&Path::from(path)).await?.bytes().await };
        self.runtime.block_on(read).map(|bytes| bytes.to_vec()).map_err(|error| format!("{error:?}"))
    }

    /// Reads an object without the proxy.
    fn there(&self, path: &str) -> Option<Vec<u8>> {
        self.get(&self.around, path).ok()
    }

    /// Sends bytes to the proxy. Returns everything that it sends until the connection ends.
    fn raw(&self, request: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.proxy.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request.as_bytes())?;
        // Writing to a connection that was reset may fail. Reading reports the reset.
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    }
}

fn noise(length: usize) -> Vec<u8> {
    (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn requests_pass_unchanged_without_rules() {
    let stage = Stage::new();
    let bytes = noise(3_000_001);
    stage.put("a/b", &bytes).unwrap();
    assert!(stage.there("a/b").unwrap() == bytes);
    assert!(stage.get(&stage.through, "a/b").unwrap() == bytes);
    stage.runtime.block_on(async {
        let path = Path::from("a/b");
        assert!(stage.through.get_range(&path, 7..1_000_007).await.unwrap() == bytes[7..1_000_007]);
        assert_eq!(stage.through.head(&path).await.unwrap().size, 3_000_001);
        let create = PutOptions::from(PutMode::Create);
        let again = stage.through.put_opts(&path, Bytes::new().into(), create).await;
        assert!(matches!(again, Err(object_store::Error::AlreadyExists { .. })), "{again:?}");
        stage.through.delete(&path).await.unwrap();
        let gone = stage.through.head(&path).await;
        assert!(matches!(gone, Err(object_store::Error::NotFound { .. })), "{gone:?}");
    });
    let log = stage.proxy.log();
    assert_eq!((log[0].method.as_str(), log[0].target.as_str()), ("PUT", "/bucket/a/b"));
    assert_eq!(stage.proxy.faults(), 0);
}

#[test]
fn chunked_bodies_and_expect_continue_are_supported() {
    let stage = Stage::new();
    let answer = stage.raw(
        "PUT /bucket/chunks HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n5\r\ndefgh\r\n0\r\n\r\n\
         GET /bucket/none HTTP/1.1\r\nHost: x\r\n\r\n",
    );
    let answer = answer.unwrap_or_else(|error| panic!("{error}"));
    assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"), "{answer}");
    assert_eq!(stage.there("chunks").unwrap(), b"abcdefgh");
    assert!(answer.contains("\r\nHTTP/1.1 404"), "the connection is kept: {answer}");
}

#[test]
fn a_refused_request_is_only_executed_if_the_rule_says_so() {
    let stage = Stage::new();
    for (action, status, code) in [
        (Action::INTERNAL_ERROR, "500", "InternalError"),
        (Action::SLOW_DOWN, "503", "SlowDown"),
        (Action::EXPIRED_TOKEN, "400", "ExpiredToken"),
        (Action::Refuse { status: 403, code: "ExpiredToken" }, "403", "ExpiredToken"),
    ] {
        stage.proxy.set_rules(vec![Rule::new(action)]);
        let error = stage.put(code, b"x").unwrap_err();
        assert!(error.contains(status) && error.contains(code), "{error}");
        assert_eq!(stage.there(code), None, "{code}");
        stage.proxy.set_rules(vec![Rule::new(action).done()]);
        let error = stage.put(status, b"x").unwrap_err();
        assert!(error.contains(code), "{error}");
        assert_eq!(stage.there(status).unwrap(), b"x", "{status}");
        stage.runtime.block_on(stage.around.delete(&Path::from(status))).unwrap();
    }
    assert_eq!(stage.proxy.faults(), 8);
    // The answer to HEAD has no body, and the connection stays open.
    stage.proxy.set_rules(vec![Rule::new(Action::INTERNAL_ERROR).method("HEAD")]);
    let answer = stage.raw(&"HEAD /bucket/x HTTP/1.1\r\n\r\n".repeat(2)).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 500").count(), 2, "{answer}");
    assert!(!answer.contains("<Error>"), "{answer}");
}

#[test]
fn a_reset_comes_before_or_after_the_request_is_executed() {
    let stage = Stage::new();
    let request = "PUT /bucket/raw HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
    for (rule, is_there) in
        [(Rule::new(Action::Reset), false), (Rule::new(Action::Reset).done(), true), (Rule::new(Action::Reset), true)]
    {
        stage.proxy.set_rules(vec![rule]);
        let error = stage.raw(request).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(stage.there("raw").is_some(), is_there);
    }
    stage.put("a", b"x").unwrap_err();
    assert_eq!(stage.there("a"), None);
}

#[test]
fn a_truncated_body_is_an_error_for_client_and_server() {
    let stage = Stage::new();
    let bytes = noise(1_000_000);
    stage.proxy.set_rules(vec![Rule::new(Action::CutRequest).method("PUT")]);
    stage.put("cut", &bytes).unwrap_err();
    assert_eq!(stage.there("cut"), None, "the server keeps no half of an object");

    stage.proxy.set_rules(vec![]);
    stage.put("whole", &bytes).unwrap();
    stage.proxy.set_rules(vec![Rule::new(Action::CutAnswer)]);
    stage.get(&stage.through, "whole").unwrap_err();
    let answer = stage.raw("GET /bucket/?list-type=2 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    assert_eq!(body.len(), length.unwrap_or(0usize) / 2, "{answer}");
    assert!(body.starts_with("<?xml"), "{answer}");
    // An answer without a body is truncated in its first line. The request is executed.
    stage.put("done", b"x").unwrap_err();
    assert_eq!(stage.there("done").unwrap(), b"x");
}

#[test]
fn one_bit_is_flipped_in_requests_and_answers() {
    let stage = Stage::new();
    let flipped = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    for length in [1, 2, 1_000_001] {
        let bytes = noise(length);
        stage.proxy.set_rules(vec![Rule::new(Action::FlipRequest).method("PUT")]);
        stage.put("bytes", &bytes).unwrap();
        assert!(stage.there("bytes").unwrap() == flipped(&bytes), "{length}");

        stage.proxy.set_rules(vec![Rule::new(Action::FlipAnswer)]);
        stage.put("bytes", &bytes).unwrap();
        assert!(stage.get(&stage.through, "bytes").unwrap() == flipped(&bytes), "{length}");
        assert!(stage.there("bytes").unwrap() == bytes, "{length}");
    }
    // Empty bodies are unchanged.
    stage.put("empty", b"").unwrap();
    stage.proxy.set_rules(vec![Rule::new(Action::FlipRequest)]);
    stage.put("empty", b"").unwrap();
    assert_eq!(stage.there("empty").unwrap(), b"");
}

#[test]
fn a_delayed_request_arrives_and_a_stalled_one_does_not() {
    let stage = Stage::new();
    let delay = Duration::from_millis(200);
    stage.proxy.set_rules(vec![Rule::new(Action::Delay(delay)), Rule::new(Action::Reset)]);
    let start = Instant::now();
    stage.put("late", b"x").unwrap();
    assert!(start.elapsed() >= delay);

    stage.proxy.set_rules(vec![Rule::new(Action::Stall).path("never")]);
    let mut stalled = TcpStream::connect(("127.0.0.1", stage.proxy.port)).unwrap();
    stalled.write_all(b"PUT /bucket/never HTTP/1.1\r\nContent-Length: 1\r\n\r\nx").unwrap();
    stalled.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let error = stalled.read(&mut [0]).unwrap_err();
    assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{error}");
    stage.put("other", b"x").unwrap();
    assert_eq!(stage.there("never"), None);

    // Stalled requests end with the proxy.
    let Stage { proxy, .. } = stage;
    drop(proxy);
    stalled.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert!(matches!(stalled.read(&mut [0]), Ok(0)));
}

#[test]
fn a_completion_can_fail_with_status_200() {
    let stage = Stage::new();
    let store = Arc::new(client(stage.proxy.port, 0));
    let upload = |path: &'static str| {
        let store = Arc::clone(&store);
        stage.runtime.block_on(async move {
            let mut writer = BufWriter::with_capacity(store, Path::from(path), 5 << 20);
            writer.write_all(&noise(6 << 20)).await?;
            writer.shutdown().await
        })
    };
    let completion = Rule::new(Action::ERROR_WITHIN_200).method("POST").query("uploadId=");
    stage.proxy.set_rules(vec![completion.clone()]);
    let error = format!("{:?}", upload("a").unwrap_err());
    assert!(error.contains("InternalError"), "{error}");
    assert_eq!(stage.there("a"), None);
    // Only the first completion fails, because a rule counts only the requests that match it.
    stage.proxy.set_rules(vec![completion.when(When::Nth(1))]);
    upload("a").unwrap_err();
    upload("a").unwrap();
    assert!(stage.there("a").unwrap() == noise(6 << 20));
    let log = stage.proxy.log();
    assert_eq!(log.iter().filter(|request| request.target.contains("partNumber=")).count(), 3 * 2);
    assert_eq!(stage.proxy.faults(), 2);
}

#[test]
fn rules_choose_among_matching_requests() {
    let stage = Stage::new();
    // The requests, of 12, that a rule affects.
    let hits = |when: When| {
        stage.proxy.set_rules(vec![Rule::new(Action::INTERNAL_ERROR).method("PUT").path("/x").when(when)]);
        stage.put("y", b"").unwrap();
        (1..=12).filter(|_| stage.put("x", b"").is_err()).collect::<Vec<u64>>()
    };
    assert_eq!(hits(When::Always).len(), 12);
    assert_eq!(hits(When::Nth(5)), [5]);
    assert_eq!(hits(When::Every(4)), [4, 8, 12]);
    assert_eq!(hits(When::Span { after: 3, count: 2 }), [4, 5]);
    assert_eq!(hits(When::Span { after: 10, count: u64::MAX }), [11, 12]);
    let chance = |probability, seed| hits(When::Chance { probability, seed });
    assert_eq!(chance(0.5, 7), chance(0.5, 7));
    assert_ne!(chance(0.5, 7), chance(0.5, 8));
    assert_eq!((chance(0.0, 7).len(), chance(1.0, 7).len()), (0, 12));
    // If two rules match, the first one acts.
    stage.proxy.set_rules(vec![
        Rule::new(Action::SLOW_DOWN).when(When::Every(2)),
        Rule::new(Action::INTERNAL_ERROR).when(When::Every(3)),
    ]);
    let before = stage.proxy.log().len();
    (0..6).for_each(|_| drop(stage.put("x", b"")));
    let faults: Vec<_> = stage.proxy.log()[before..].iter().map(|request| request.fault).collect();
    let (slow, error) = (Some(Action::SLOW_DOWN), Some(Action::INTERNAL_ERROR));
    assert_eq!(faults, [None, slow, error, slow, None, slow]);
}

#[test]
fn a_client_with_retries_survives_a_storm() {
    let stage = Stage::new();
    stage.proxy.set_rules(vec![
        Rule::new(Action::SLOW_DOWN).when(When::Every(3)),
        Rule::new(Action::CutRequest).query("partNumber=").when(When::Nth(4)),
        Rule::new(Action::INTERNAL_ERROR).when(When::Every(5)).done(),
    ]);
    let bytes = noise(24 << 20);
    let store = Arc::new(client(stage.proxy.port, 10));
    stage.runtime.block_on(async {
        let mut writer = BufWriter::with_capacity(Arc::clone(&store) as _, Path::from("storm"), 5 << 20);
        writer.write_all(&bytes).await.unwrap();
        writer.shutdown().await.unwrap();
        assert!(store.get(&Path::from("storm")).await.unwrap().bytes().await.unwrap() == bytes);
    });
    assert!(stage.proxy.faults() >= 3, "{:?}", stage.proxy.log());
    assert!(stage.there("storm").unwrap() == bytes);
}
