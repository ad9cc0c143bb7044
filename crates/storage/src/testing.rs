//! Stores for tests.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;

use crate::connect::with_timeouts;
use crate::location::Location;
use crate::options::{StoreOptions, client_retries};
use crate::settings::CloudSettings;
use crate::store::Store;

#[allow(unreachable_pub)]
#[path = "../../../tests/support/s3.rs"]
pub(crate) mod s3;

#[allow(unreachable_pub)]
#[path = "../../../tests/support/clouds.rs"]
pub(crate) mod clouds;

/// A store in memory.
pub(crate) fn memory() -> Store {
    Store::from_backend(Arc::new(InMemory::new()), Path::from("some/prefix"), "memory://some/prefix").unwrap()
}

/// A store on the S3 server that listens at `port`.
pub(crate) fn on_s3(port: u16, options: StoreOptions) -> Store {
    let builder = with_timeouts(s3::builder(port), &options).with_retry(client_retries(&options));
    let store =
        Store::from_backend(Arc::new(builder.build().unwrap()), Path::from("some/prefix"), "s3://bucket/some/prefix");
    store.unwrap().with_options(options)
}

/// Serves HTTP until the test ends: answers each request, given its head, with a status line and a body. Returns the port.
pub(crate) fn answering(answer: impl Fn(&str) -> (&'static str, String) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut reader = BufReader::new(connection.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|length| length > 0) {}
            let head = head.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            if reader.read_exact(&mut body).is_err() {
                continue;
            }
            let (status, body) = answer(&head);
            let length = body.len();
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: \"1\"\r\nConnection: close\r\n\r\n");
            // A client that gave up has closed the connection.
            let _ = reader.into_inner().write_all((head + &body).as_bytes());
        }
    });
    port
}

/// A store at `url` with settings from these variables.
pub(crate) fn with_vars(url: &str, vars: Vec<(String, String)>) -> Store {
    let options = StoreOptions { clouds: CloudSettings::from_vars(vars), ..StoreOptions::default() };
    Store::create(&Location::parse(url).unwrap(), &options).unwrap()
}
