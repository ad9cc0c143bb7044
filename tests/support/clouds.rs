//! Servers with the interfaces of Google Cloud Storage and of Azure Blob Storage for tests.
#![allow(dead_code, reason = "each test program uses its part")]

use std::process::Command;

use super::s3::{Server, python, workspace};

/// A server with the XML interface of Google Cloud Storage, stopped on drop. `gcs_server.py` says what it is.
pub struct Gcs {
    _server: Server,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl Gcs {
    /// Starts a server with an empty bucket named `bucket`.
    pub fn start() -> Self {
        let server = Server::start(Command::new(python()).arg(workspace().join("tests/support/gcs_server.py")));
        server.request("PUT /bucket");
        Self { port: server.port, _server: server }
    }

    /// The environment variables that make a store use this server.
    pub fn environment(&self) -> Vec<(String, String)> {
        owned(&[
            ("GOOGLE_BASE_URL", &format!("http://127.0.0.1:{}", self.port)),
            ("GOOGLE_ALLOW_HTTP", "true"),
            ("GOOGLE_BEARER_TOKEN", "token"),
        ])
    }
}

/// The account of the emulator and its key, which Azure documents.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Makes a container, given the port, the account and its key. The request is signed with a shared key.
const MAKE_CONTAINER: &str = "
import base64, email.utils, hashlib, hmac, sys, urllib.request
port, account, key = sys.argv[1:]
headers = {'x-ms-date': email.utils.formatdate(usegmt=True), 'x-ms-version': '2023-11-03'}
lines = ['PUT', *[''] * 11, *(f'{name}:{value}' for name, value in headers.items()),
         f'/{account}/{account}/bucket', 'restype:container']
signature = hmac.digest(base64.b64decode(key), '\\n'.join(lines).encode(), hashlib.sha256)
headers['Authorization'] = f'SharedKey {account}:{base64.b64encode(signature).decode()}'
url = f'http://127.0.0.1:{port}/{account}/bucket?restype=container'
urllib.request.urlopen(urllib.request.Request(url, method='PUT', headers=headers))
";

/// Azurite, the emulator of Azure Blob Storage, stopped on drop.
pub struct Azurite {
    _server: Server,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl Azurite {
    /// Starts a server with an empty container named `bucket`.
    pub fn start() -> Self {
        let program = workspace().join(".deps/azurite/node_modules/azurite/dist/src/blob/main.js");
        assert!(program.exists(), "run `ci/setup test` first: .deps/azurite is missing");
        let options = ["--blobPort", "0", "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"];
        let server = Server::start(Command::new("node").arg(program).args(options));
        let port = server.port;
        let made =
            Command::new(python()).args(["-c", MAKE_CONTAINER, &port.to_string(), ACCOUNT, KEY]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { port, _server: server }
    }

    /// The environment variables that make a store use this server.
    pub fn environment(&self) -> Vec<(String, String)> {
        owned(&[
            ("AZURE_STORAGE_ENDPOINT", &format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)),
            ("AZURE_ALLOW_HTTP", "true"),
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT),
            ("AZURE_STORAGE_ACCOUNT_KEY", KEY),
        ])
    }
}

fn owned(vars: &[(&str, &str)]) -> Vec<(String, String)> {
    vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
