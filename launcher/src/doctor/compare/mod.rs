//! What is wrong with a set of hosts, by what they found out about themselves. Pure: the same answers give the same
//! findings.

mod environment;
mod gpus;
pub(crate) mod hosts;
mod majority;
pub mod network;
mod programs;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::exchange::Clock;
use super::probe::{Interface, Probe};
use crate::hosts::Host;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The run would fail.
    Bad,
    /// The run may fail, or be slow.
    Warning,
    /// Good to know.
    Note,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// On which hosts, in their order; none: it is not about hosts.
    pub hosts: Vec<String>,
    /// How bad.
    pub severity: Severity,
    /// What is so, without the hosts' names at its beginning.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    /// About one host.
    pub fn of(host: &str, severity: Severity, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::among(vec![host.to_owned()], severity, what, remedy)
    }

    /// About several hosts, or none.
    pub fn among(hosts: Vec<String>, severity: Severity, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { hosts, severity, what: what.into(), remedy: remedy.into() }
    }
}

/// What the run needs, as far as hosts are concerned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// Whether it uses GPUs where there are any.
    pub uses_gpus: bool,
    /// Whether it cannot do without.
    pub requires_gpus: bool,
    /// The size of a checkpoint.
    pub checkpoint_bytes: Option<u64>,
    /// Checkpoints that will lie there at the same time, at most.
    pub kept_checkpoints: u64,
    /// Variables of the launcher that matter to a rank, as [`selected`](super::probe::selected) gives them.
    pub environment: BTreeMap<String, String>,
    /// The launcher's own interfaces: Open MPI's daemons have to reach it.
    pub interfaces: Vec<Interface>,
    /// Whether the user has chosen interfaces for Open MPI already.
    pub has_chosen_interfaces: bool,
    /// The question's files, to name them.
    pub files: Vec<String>,
}

/// The answer of a host.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Who.
    pub host: Host,
    /// What it found out.
    pub probe: Probe,
    /// Its clock.
    pub clock: Clock,
    /// The address from which it reached the launcher; None on the launcher's own host.
    pub peer: Option<IpAddr>,
}

impl Answer {
    /// The ranks that it is to take: where nobody said how many, one for each GPU.
    #[must_use]
    pub fn ranks(&self, needs: &Needs) -> usize {
        match gpus::usable(&self.probe) {
            Some(gpus) if needs.uses_gpus && gpus > 0 && !self.host.slots_given => gpus,
            _ => self.host.slots,
        }
    }
}

/// All findings, the worst first.
#[must_use]
pub fn compare(needs: &Needs, answers: &[Answer]) -> Vec<Finding> {
    let mut findings = Vec::new();
    programs::compare(needs, answers, &mut findings);
    gpus::compare(needs, answers, &mut findings);
    hosts::compare(needs, answers, &mut findings);
    network::compare(needs, answers, &mut findings);
    environment::compare(needs, answers, &mut findings);
    // Stable: within a severity as they were found.
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// `node1`, or `node1 and 2 more`: in the middle of a sentence.
fn some_of(hosts: &[String]) -> String {
    match hosts {
        [] => String::new(),
        [one] => one.clone(),
        [one, two] => format!("{one} and {two}"),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::super::probe::*;
    use super::*;

    pub(crate) fn interface(name: &str, address: &str, prefix: u8) -> Interface {
        let kind = match name {
            "lo" => Kind::Loopback,
            _ if name.starts_with("docker") => Kind::HostOnly,
            _ => Kind::Card,
        };
        Interface { name: name.into(), kind, address: address.parse().unwrap(), prefix, megabits: None }
    }

    pub(crate) fn gpu(index: usize) -> Gpu {
        Gpu {
            index,
            name: "NVIDIA H100 80GB HBM3".into(),
            uuid: format!("GPU-{index}"),
            memory_mib: 81_559,
            free_mib: 81_000,
            driver: "550.54.15".into(),
            ecc_errors: Some(0),
        }
    }

    /// Host `number`, on which all is well.
    pub(crate) fn good(number: u8) -> Answer {
        let file = |identity: &str| FileIdentity { bytes: 10, identity: format!("sha256 {identity}") };
        let disk = Disk { folder: "/runs/a".into(), free_bytes: 1 << 40, bytes: 1 << 41 };
        let version = ProgramVersion {
            admiral: "0.1.0".into(),
            libtorch_loaded: Some("2.10.0".into()),
            libtorch_path: Some("/opt/libtorch/lib/libtorch_cpu.so".into()),
            mpi: "Open MPI v4.1.4".into(),
        };
        let name = format!("n{number}");
        let probe = Probe {
            system: System {
                host_name: name.clone(),
                machine: format!("m/b/{name}"),
                kernel: "6.1.0".into(),
                glibc: Some("glibc 2.36".into()),
                num_cpus: 64,
                memory_bytes: 1 << 40,
                memory_free_bytes: 1 << 39,
                shm_free_bytes: Some(1 << 39),
                max_open_files: Some(65_536),
                max_locked_bytes: None,
                max_core_bytes: Some(0),
                has_infiniband: false,
            },
            interfaces: vec![
                interface("lo", "127.0.0.1", 8),
                interface("eth0", &format!("10.78.1.{}", number + 1), 24),
            ],
            program: Ok(file("aa")),
            launcher: Ok(file("bb")),
            version: Ok(Some(version)),
            libtorch: BTreeMap::from([("libtorch_cpu.so".into(), file("cc"))]),
            files: vec![Ok(file("dd"))],
            missing: vec![],
            environment: BTreeMap::from([("OMP_NUM_THREADS".into(), "4".into())]),
            gpus: Some(Ok(GpuState { gpus: (0..8).map(gpu).collect(), holders: vec![] })),
            run_disk: Some(disk.clone()),
            checkpoint_disk: Some(disk),
            store: Some(Ok(StoreTrial { seconds: 0.1 })),
            leftovers: vec![],
            seconds: 0.2,
        };
        let peer = probe.interfaces[1].address;
        let host = Host { name, slots: 8, slots_given: true };
        let clock = Clock { ahead_seconds: 0.001, uncertain_seconds: 0.0005 };
        Answer { host, probe, clock, peer: Some(peer) }
    }

    pub(crate) fn needs() -> Needs {
        Needs {
            uses_gpus: true,
            requires_gpus: false,
            checkpoint_bytes: Some(10 << 30),
            kept_checkpoints: 4,
            environment: BTreeMap::from([("OMP_NUM_THREADS".into(), "4".into())]),
            interfaces: vec![interface("lo", "127.0.0.1", 8), interface("eth0", "10.78.1.254", 24)],
            has_chosen_interfaces: false,
            files: vec!["run.yaml".into()],
        }
    }

    /// The findings on `count` hosts after `change` of some of them.
    pub(crate) fn found(count: u8, change: impl FnOnce(&mut Vec<Answer>)) -> Vec<Finding> {
        let mut answers: Vec<Answer> = (0..count).map(good).collect();
        change(&mut answers);
        compare(&needs(), &answers)
    }

    /// The one finding, its hosts joined by blanks.
    pub(crate) fn one(findings: &[Finding]) -> (String, Severity, &str) {
        assert_eq!(findings.len(), 1, "{findings:#?}");
        (findings[0].hosts.join(" "), findings[0].severity, &findings[0].what)
    }

    #[test]
    fn nothing_is_found_where_all_is_well() {
        for count in [1, 2, 4] {
            assert_eq!(found(count, |_| {}), []);
        }
    }

    #[test]
    fn the_worst_comes_first() {
        let findings = found(3, |answers| {
            answers[1].probe.environment.insert("RUST_LOG".into(), "debug".into());
            answers[2].probe.store = Some(Err("denied".into()));
            answers[0].clock.ahead_seconds = 5.0;
        });
        let severities: Vec<Severity> = findings.iter().map(|finding| finding.severity).collect();
        assert_eq!(severities, [Severity::Bad, Severity::Warning, Severity::Note], "{findings:#?}");
    }

    /// Changes of a host, each of which has to be found.
    fn spoil(answer: &mut Answer, how: usize) {
        let probe = &mut answer.probe;
        match how {
            0 => probe.program = Err("/opt/admiral: No such file".into()),
            1 => probe.libtorch.clear(),
            2 => probe.store = Some(Err("denied".into())),
            3 => answer.clock.ahead_seconds = -100.0,
            4 => probe.gpus = None,
            5 => probe.missing = vec!["/data".into()],
            6 => probe.gpus = Some(Err("nvidia-smi did not end within 15 s".into())),
            _ => probe.checkpoint_disk = Some(Disk { folder: "/runs".into(), free_bytes: 5, bytes: 10 }),
        }
    }

    proptest! {
        /// Of five hosts up to two are spoiled: they and no others are named in what is bad.
        #[test]
        fn spoiled_hosts_are_named_and_no_others(
            spoiled in prop::collection::btree_map(0_usize..5, 0_usize..8, 0..3)
        ) {
            let findings = found(5, |answers| {
                for (&host, &how) in &spoiled {
                    spoil(&mut answers[host], how);
                }
            });
            let bad = findings.iter().filter(|finding| finding.severity == Severity::Bad);
            let named: std::collections::BTreeSet<String> = bad.flat_map(|finding| finding.hosts.clone()).collect();
            let expected: std::collections::BTreeSet<String> =
                spoiled.keys().map(|host| format!("n{host}")).collect();
            prop_assert_eq!(named, expected, "{:#?}", findings);
        }

        /// The order in which hosts answer does not matter to what is found, but for the order of names.
        #[test]
        fn order_does_not_matter(spoiled in 0_usize..5, how in 0_usize..8, turn in 0_usize..5) {
            let run = |turn: usize| {
                let mut findings = found(5, |answers| {
                    spoil(&mut answers[spoiled], how);
                    answers.rotate_left(turn);
                });
                for finding in &mut findings {
                    finding.hosts.sort();
                }
                findings
            };
            let without_names = |findings: Vec<Finding>| -> Vec<(Vec<String>, Severity)> {
                findings.into_iter().map(|finding| (finding.hosts, finding.severity)).collect()
            };
            prop_assert_eq!(without_names(run(0)), without_names(run(turn)));
        }
    }
}
