//! Addresses at which metrics are served.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Reads an address in a configuration: an IP address with a port, or `localhost` and a port, or a port alone, which is
/// one at 127.0.0.1. Returns `None` if it is none of these, or the port is 0.
#[must_use]
pub fn listen_address(text: &str) -> Option<SocketAddr> {
    let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let port = text.strip_prefix("localhost:").unwrap_or(text).parse().ok();
    port.map(loopback).or_else(|| text.parse().ok()).filter(|address| address.port() != 0)
}

/// What an address has to be, for messages.
pub const LISTEN_ADDRESS: &str = "must be an IP address with a port, or localhost and a port: localhost:9464, 10.0.0.5:9464, 0.0.0.0:9464, [::]:9464";

/// What the name of a file for node_exporter has to be, for messages.
pub const TEXTFILE_NAME: &str = "must end in .prom: node_exporter reads no other files";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_at_the_loopback_address() {
        for (text, address) in [
            ("9464", "127.0.0.1:9464"),
            ("localhost:9464", "127.0.0.1:9464"),
            ("0.0.0.0:1", "0.0.0.0:1"),
            ("[::1]:65535", "[::1]:65535"),
        ] {
            assert_eq!(listen_address(text), address.parse().ok(), "{text}");
        }
        for text in ["", "0", "65536", ":9464", "node1:9464", "0.0.0.0", "127.0.0.1:0", "http://127.0.0.1:9464", "-1"] {
            assert_eq!(listen_address(text), None, "{text}");
        }
    }
}
