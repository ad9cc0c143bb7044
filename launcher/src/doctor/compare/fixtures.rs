//! Answers and findings for tests.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::answer::{Answer, Needs};
use super::checks::compare;
use super::finding::{Finding, Severity};
use crate::doctor::exchange::Clock;
use crate::doctor::probe::*;
use crate::hosts::Host;
use crate::job::JobKind;

pub(crate) fn interface(name: &str, address: &str, prefix: u8) -> Interface {
    let kind = match name {
        "lo" => InterfaceKind::Loopback,
        _ if name.starts_with("docker") => InterfaceKind::HostOnly,
        _ => InterfaceKind::Card,
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

/// Returns the answer of host `number` without problems.
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
        interfaces: vec![interface("lo", "127.0.0.1", 8), interface("eth0", &format!("10.78.1.{}", number + 1), 24)],
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
        store: Some(Ok(StoreAccess { seconds: 0.1 })),
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
        kind: JobKind::Train,
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

/// Returns the only finding, with its hosts joined by spaces.
pub(crate) fn one(findings: &[Finding]) -> (String, Severity, &str) {
    assert_eq!(findings.len(), 1, "{findings:#?}");
    (findings[0].hosts.join(" "), findings[0].severity, &findings[0].what)
}

/// Returns the findings on `count` hosts after `change` of their answers.
pub(crate) fn found(count: u8, change: impl FnOnce(&mut Vec<Answer>)) -> Vec<Finding> {
    let mut answers: Vec<Answer> = (0..count).map(good).collect();
    change(&mut answers);
    compare(&needs(), &answers)
}
