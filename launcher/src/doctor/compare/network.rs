//! The network that the hosts share, and interfaces that could mislead Open MPI and NCCL.
//!
//! Both libraries use all interfaces that are up. An interface that reaches only the host itself, such as Docker's, has
//! the same address on every host. Open MPI takes that for a shared network and waits for an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::answer::{Answer, Needs};
use super::finding::{Finding, Severity};
use crate::doctor::probe::{Interface, InterfaceKind};

/// The network that all hosts share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its addresses, such as `10.0.0.0/24`, in the form of Open MPI's `if_include` options.
    pub cidr: String,
    /// The names of the hosts' interfaces in it, in the form of `NCCL_SOCKET_IFNAME`, joined by commas.
    pub interfaces: Vec<String>,
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct AddressRange {
    start: u32,
    prefix: u8,
}

impl AddressRange {
    fn new(address: Ipv4Addr, prefix: u8) -> Self {
        Self { start: u32::from(address) & mask(prefix), prefix }
    }

    fn holds(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.start
    }
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.start), self.prefix)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

/// An IPv4 interface over which another host might be reached.
#[derive(Debug, Clone, Copy)]
struct CandidateInterface<'a> {
    interface: &'a Interface,
    address: Ipv4Addr,
}

fn candidates(interfaces: &[Interface]) -> Vec<CandidateInterface<'_>> {
    let usable = interfaces.iter().filter(|interface| interface.kind != InterfaceKind::Loopback);
    usable
        .filter_map(|interface| match interface.address {
            IpAddr::V4(address) if !address.is_link_local() => Some(CandidateInterface { interface, address }),
            _ => None,
        })
        .collect()
}

/// Returns the network that all hosts and the launcher share; `None` for one host, or if there is no such network.
///
/// Of several networks, it is the one over which the hosts reached the launcher, else one of physical cards, else the
/// fastest. For hosts in several networks with routes between them, it is the smallest range that holds the addresses
/// that reached the launcher, unless the range contains an unreachable interface.
#[must_use]
pub fn shared(needs: &Needs, answers: &[Answer]) -> Option<Network> {
    if answers.len() < 2 && answers.iter().all(|answer| answer.peer.is_none()) {
        return None;
    }
    let members: Vec<Vec<CandidateInterface>> = answers
        .iter()
        .map(|answer| candidates(&answer.probe.interfaces))
        // If the launcher's own host takes part, these addresses are already there.
        .chain(answers.iter().all(|answer| answer.peer.is_some()).then(|| candidates(&needs.interfaces)))
        .collect();
    let range = common(&members, answers).or_else(|| covering(&members, answers))?;
    let inside = answers
        .iter()
        .flat_map(|answer| candidates(&answer.probe.interfaces))
        .filter(|candidate| range.holds(candidate.address));
    let names: BTreeSet<&str> = inside.map(|candidate| candidate.interface.name.as_str()).collect();
    Some(Network { cidr: range.to_string(), interfaces: names.into_iter().map(str::to_owned).collect() })
}

/// Returns a network in which each member has its own address.
fn common(members: &[Vec<CandidateInterface>], answers: &[Answer]) -> Option<AddressRange> {
    let ranges: BTreeSet<AddressRange> = members
        .iter()
        .flatten()
        .map(|candidate| AddressRange::new(candidate.address, candidate.interface.prefix))
        .collect();
    let rated = ranges.into_iter().filter_map(|range| {
        let inside: Option<Vec<&CandidateInterface>> = members
            .iter()
            .map(|candidates| candidates.iter().find(|candidate| range.holds(candidate.address)))
            .collect();
        let inside = inside?;
        let addresses: BTreeSet<Ipv4Addr> = inside.iter().map(|candidate| candidate.address).collect();
        // If two hosts have the same address, each of them has a network of its own.
        if addresses.len() < inside.len() {
            return None;
        }
        let used = answers.iter().filter(|answer| holds_ip(range, answer.peer)).count();
        let kind = inside.iter().map(|candidate| candidate.interface.kind).min();
        let megabits = inside.iter().map(|candidate| candidate.interface.megabits.unwrap_or(0)).min();
        Some(((used, kind, megabits, range.prefix), range))
    });
    rated.max_by_key(|&(rate, _)| rate).map(|(_, range)| range)
}

/// Returns the smallest range that holds the addresses that reached the launcher.
fn covering(members: &[Vec<CandidateInterface>], answers: &[Answer]) -> Option<AddressRange> {
    let peers: Option<BTreeSet<Ipv4Addr>> = answers
        .iter()
        .map(|answer| match answer.peer {
            Some(IpAddr::V4(address)) => Some(address),
            _ => None,
        })
        .collect();
    let peers = peers.filter(|peers| peers.len() == answers.len())?;
    let first = *peers.first()?;
    // A prefix of less than 8 bits selects almost everything.
    let range = (8..=32)
        .rev()
        .map(|prefix| AddressRange::new(first, prefix))
        .find(|range| peers.iter().all(|&ip| range.holds(ip)))?;
    let strays = members
        .iter()
        .flatten()
        .filter(|candidate| matches!(candidate.interface.kind, InterfaceKind::HostOnly | InterfaceKind::Bridge));
    let misleads =
        strays.filter(|candidate| !peers.contains(&candidate.address)).any(|candidate| range.holds(candidate.address));
    (!misleads).then_some(range)
}

fn holds_ip(range: AddressRange, address: Option<IpAddr>) -> bool {
    matches!(address, Some(IpAddr::V4(address)) if range.holds(address))
}

pub(super) fn compare(needs: &Needs, answers: &[Answer], findings: &mut Vec<Finding>) {
    if answers.len() < 2 || needs.has_chosen_interfaces {
        return;
    }
    let shared = shared(needs, answers);
    let Some(network) = &shared else {
        let hosts = answers.iter().map(|answer| answer.host.name.clone()).collect();
        let what = "no network is common to all hosts";
        let remedy = "choose the interfaces for Open MPI by name: --interfaces eth0,ib0";
        findings.push(Finding::among(hosts, Severity::Warning, what, remedy));
        return;
    };
    let mut misleading: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut others: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for answer in answers {
        let strays = candidates(&answer.probe.interfaces)
            .into_iter()
            .filter(|candidate| !network.interfaces.contains(&candidate.interface.name));
        for candidate in strays {
            let range = AddressRange::new(candidate.address, candidate.interface.prefix);
            let is_twice = answers.iter().filter(|other| has(other, candidate.address)).count() > 1;
            let misleads =
                is_twice || matches!(candidate.interface.kind, InterfaceKind::HostOnly | InterfaceKind::Bridge);
            let key = format!("{} ({range})", candidate.interface.name);
            let hosts = if misleads { &mut misleading } else { &mut others }.entry(key).or_default();
            hosts.push(answer.host.name.clone());
        }
    }
    let remedy = remedy(network);
    for (interface, hosts) in misleading {
        let what = format!(
            "the interface {interface} is up, over which no other host can be reached; Open MPI and NCCL may try it"
        );
        findings.push(Finding::among(hosts, Severity::Warning, what, remedy.clone()));
    }
    for (interface, hosts) in others {
        let what =
            format!("the interface {interface} is up as well and not in {}, which all hosts share", network.cidr);
        findings.push(Finding::among(hosts, Severity::Note, what, remedy.clone()));
    }
}

fn has(answer: &Answer, address: Ipv4Addr) -> bool {
    answer.probe.interfaces.iter().any(|interface| interface.address == IpAddr::V4(address))
}

fn remedy(network: &Network) -> String {
    format!(
        "use the network that all share: --interfaces {0} (to a plain mpirun: --mca btl_tcp_if_include {0} --mca \
         oob_tcp_if_include {0}) and NCCL_SOCKET_IFNAME={1}",
        network.cidr,
        network.interfaces.join(",")
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::super::fixtures::{found, good, interface, needs, one};
    use super::*;

    #[test]
    fn a_host_only_interface_comes_with_the_option_that_excludes_it() {
        let findings = found(3, |answers| {
            for i in [0, 2] {
                answers[i].probe.interfaces.push(interface("docker0", "172.17.0.1", 16));
            }
        });
        let (hosts, severity, what) = one(&findings);
        assert_eq!((hosts.as_str(), severity), ("n0 n2", Severity::Warning));
        assert!(what.starts_with("the interface docker0 (172.17.0.0/16) is up"), "{what}");
        for part in
            ["--mca btl_tcp_if_include 10.78.1.0/24 --mca oob_tcp_if_include 10.78.1.0/24", "NCCL_SOCKET_IFNAME=eth0"]
        {
            assert!(findings[0].remedy.contains(part), "{}", findings[0].remedy);
        }
    }

    #[test]
    fn chosen_interfaces_are_not_questioned() {
        let mut answers = vec![good(0), good(1)];
        answers[0].probe.interfaces.push(interface("docker0", "172.17.0.1", 16));
        let needs = Needs { has_chosen_interfaces: true, ..needs() };
        assert_eq!(super::super::compare(&needs, &answers), []);
    }

    #[test]
    fn the_fastest_of_equal_common_networks_is_chosen() {
        let mut answers = vec![good(0), good(1)];
        for (i, answer) in answers.iter_mut().enumerate() {
            answer.peer = None;
            let fast = Interface { megabits: Some(100_000), ..interface("eth1", &format!("10.9.0.{}", i + 1), 16) };
            answer.probe.interfaces.push(fast);
        }
        let network = shared(&needs(), &answers).unwrap();
        assert_eq!(network, Network { cidr: "10.9.0.0/16".into(), interfaces: vec!["eth1".into()] });
        // If the launcher is on another machine, its address has to be in the network too.
        for (i, answer) in answers.iter_mut().enumerate() {
            answer.peer = Some(format!("10.78.1.{}", i + 1).parse().unwrap());
        }
        assert_eq!(shared(&needs(), &answers).unwrap().cidr, "10.78.1.0/24");
    }

    #[test]
    fn routed_networks_get_a_range_around_their_addresses() {
        let mut answers = vec![good(0), good(1)];
        for (answer, address) in answers.iter_mut().zip(["10.128.0.5", "10.128.3.9"]) {
            answer.probe.interfaces = vec![interface("ens4", address, 32), interface("docker0", "172.17.0.1", 16)];
            answer.peer = Some(address.parse().unwrap());
        }
        let network = shared(&needs(), &answers).unwrap();
        assert_eq!(network, Network { cidr: "10.128.0.0/22".into(), interfaces: vec!["ens4".into()] });
    }

    #[test]
    fn without_a_common_network_the_user_is_asked_for_one() {
        let findings = found(2, |answers| {
            answers[1].probe.interfaces = vec![interface("eth0", "192.168.7.2", 24)];
            answers[1].peer = None;
        });
        assert_eq!(one(&findings).2, "no network is common to all hosts");
    }

    #[test]
    fn one_host_needs_no_network() {
        let mut answer = good(0);
        answer.peer = None;
        assert_eq!(shared(&needs(), &[answer]), None);
    }

    proptest! {
        /// In a chosen network, each host has its own address, whatever other interfaces there are.
        #[test]
        fn a_chosen_network_reaches_every_host(
            extra in prop::collection::vec((0_usize..4, any::<u32>(), 8_u8..=30), 0..6)
        ) {
            let mut answers: Vec<Answer> = (0..4).map(good).collect();
            for (host, address, prefix) in extra {
                let address = Ipv4Addr::from(address).to_string();
                answers[host].probe.interfaces.push(interface("extra", &address, prefix));
            }
            let network = shared(&needs(), &answers).unwrap();
            let (start, prefix) = network.cidr.split_once('/').unwrap();
            let range = AddressRange::new(start.parse().unwrap(), prefix.parse().unwrap());
            let reaches =
                    |answer: &Answer| candidates(&answer.probe.interfaces).iter().any(|candidate| range.holds(candidate.address));
                prop_assert!(answers.iter().all(reaches));
            prop_assert_eq!(AddressRange::new(range.start.into(), range.prefix), range);
        }
    }
}
