//! Recognizing this machine by name.

use std::net::{ToSocketAddrs, UdpSocket};

use admiral_contract::host::host_name;

use super::host::LOCALHOST;

/// Returns whether `name` is this machine: its own name, with or without a domain, or an address of one of its network
/// interfaces. An unknown name is another machine.
#[must_use]
pub fn is_this_host(name: &str) -> bool {
    let own = host_name();
    if name == LOCALHOST || name.eq_ignore_ascii_case(&own) || short(name).eq_ignore_ascii_case(short(&own)) {
        return true;
    }
    // Binding succeeds only for an address of this machine.
    (name, 0).to_socket_addrs().is_ok_and(|mut addresses| addresses.any(|address| UdpSocket::bind(address).is_ok()))
}

/// Returns the name without its domain. An address has none.
fn short(name: &str) -> &str {
    if name.parse::<std::net::IpAddr>().is_ok() { name } else { name.split('.').next().unwrap_or(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_by_its_names() {
        let own = host_name();
        for name in ["localhost", "127.0.0.1", "127.0.0.9", &own, &format!("{}.example.invalid", short(&own))] {
            assert!(is_this_host(name), "{name}");
        }
        // The second is from the address block for documentation.
        for name in ["no-such-host.invalid", "192.0.2.7"] {
            assert!(!is_this_host(name), "{name}");
        }
    }

    #[test]
    fn an_address_has_no_domain() {
        assert_eq!((short("n1.example.org"), short("10.1.2.3"), short("n1")), ("n1", "10.1.2.3", "n1"));
    }
}
