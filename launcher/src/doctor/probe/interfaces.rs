//! Network interfaces.

use std::net::IpAddr;
use std::path::Path;

use if_addrs::IfAddr;
use serde::{Deserialize, Serialize};

/// Prefixes of the names that container and virtual machine software gives to host-only networks.
const HOST_ONLY_NAMES: [&str; 11] =
    ["docker", "br-", "virbr", "vmnet", "vboxnet", "cni", "flannel", "cali", "lxcbr", "lxdbr", "podman"];

/// An interface that is up, with one of its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: InterfaceKind,
    /// Its address.
    pub address: IpAddr,
    /// The length of its network's prefix in bits.
    pub prefix: u8,
    /// The speed in Mbit/s, if the driver knows it.
    pub megabits: Option<u64>,
}

/// The kind of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterfaceKind {
    /// The loopback interface.
    Loopback,
    /// A network of containers or virtual machines, by its name. No other host can be reached over it.
    HostOnly,
    /// Another bridge. It may have the host's own address.
    Bridge,
    /// A tunnel, such as a VPN's.
    Tunnel,
    /// InfiniBand.
    Infiniband,
    /// A network card, or its counterpart in a container.
    Card,
}

/// Returns all interfaces that are up, once for each address.
#[must_use]
pub fn interfaces() -> Vec<Interface> {
    let all = if_addrs::get_if_addrs().into_iter().flatten();
    all.filter_map(|interface| {
        let class = Path::new("/sys/class/net").join(&interface.name);
        let text = |file: &str| std::fs::read_to_string(class.join(file)).ok().map(|text| text.trim().to_owned());
        let flags = text("flags").and_then(|text| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok());
        // Bit 0 is "up". Without /sys, an address is enough.
        if flags.is_some_and(|flags| flags & 1 == 0) {
            return None;
        }
        // A link without a partner has a speed of -1.
        let number = |file: &str| text(file)?.parse::<u64>().ok();
        let kind = kind(&interface.name, interface.is_loopback(), class.join("bridge").exists(), number("type"));
        let (address, prefix) = match interface.addr {
            IfAddr::V4(v4) => (IpAddr::V4(v4.ip), v4.prefixlen),
            IfAddr::V6(v6) => (IpAddr::V6(v6.ip), v6.prefixlen),
        };
        Some(Interface { name: interface.name, kind, address, prefix, megabits: number("speed") })
    })
    .collect()
}

/// `arp_type` is the kernel's ARPHRD number.
fn kind(name: &str, is_loopback: bool, is_bridge: bool, arp_type: Option<u64>) -> InterfaceKind {
    match arp_type {
        _ if is_loopback => InterfaceKind::Loopback,
        _ if HOST_ONLY_NAMES.iter().any(|prefix| name.starts_with(prefix)) => InterfaceKind::HostOnly,
        _ if is_bridge => InterfaceKind::Bridge,
        Some(32) => InterfaceKind::Infiniband,
        Some(768 | 769 | 776 | 778 | 65534) => InterfaceKind::Tunnel,
        _ => InterfaceKind::Card,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_loopback_interface_is_listed() {
        let all = interfaces();
        let lo = all.iter().find(|interface| interface.address.to_string() == "127.0.0.1").unwrap();
        assert_eq!((lo.kind, lo.prefix), (InterfaceKind::Loopback, 8));
    }

    #[test]
    fn kinds_of_interfaces_are_recognized() {
        assert_eq!(kind("lo", true, false, Some(772)), InterfaceKind::Loopback);
        assert_eq!(kind("docker0", false, true, Some(1)), InterfaceKind::HostOnly);
        assert_eq!(kind("br-0a1b2c", false, true, Some(1)), InterfaceKind::HostOnly);
        assert_eq!(kind("br0", false, true, Some(1)), InterfaceKind::Bridge);
        assert_eq!(kind("ib0", false, false, Some(32)), InterfaceKind::Infiniband);
        assert_eq!(kind("tun0", false, false, Some(65534)), InterfaceKind::Tunnel);
        assert_eq!(kind("eth0", false, false, Some(1)), InterfaceKind::Card);
    }
}
