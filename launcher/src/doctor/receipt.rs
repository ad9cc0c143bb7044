//! The result of a preflight: a table and sentences for people, JSON for programs.

use std::fmt::Write as _;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::bandwidth::Bandwidth;
use super::compare::hosts::format_bytes;
use super::compare::{Answer, Finding, Needs, Network, Severity, network};
use super::exchange::Clock;
use super::probe::Interface;
use crate::hosts::Host;

/// The version of the format. It is raised when a field changes its meaning.
const VERSION: u64 = 1;
/// The number of letters of a hash that people see.
const HASH_SHOWN: usize = 8;

/// The result of a preflight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The version of the format.
    pub version: u64,
    /// The time of the start.
    pub checked_at: Timestamp,
    /// The duration in seconds.
    pub seconds: f64,
    /// All hosts that were to be examined.
    pub hosts: Vec<HostRow>,
    /// The network that they share; `None` for one host, or if there is no such network.
    pub network: Option<Network>,
    /// The speed of the ranks' all-reduce; `None` if it was not measured.
    pub bandwidth: Option<Bandwidth>,
    /// The findings, the worst first.
    pub findings: Vec<Finding>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostRow {
    /// The name in the host list.
    pub name: String,
    /// The number of ranks that it takes: its slots, or one per GPU if no number was given.
    pub ranks: usize,
    /// Its report; `None` if it did not answer.
    pub report: Option<HostReport>,
}

/// The report of a host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostReport {
    /// The name that the host gives itself.
    pub host_name: String,
    /// The interfaces that are up.
    pub interfaces: Vec<Interface>,
    /// The address from which it reached the launcher.
    pub address: Option<IpAddr>,
    /// Its clock compared with the launcher's.
    pub clock: Clock,
    /// The release of its kernel.
    pub kernel: String,
    /// The version of its C library.
    pub glibc: Option<String>,
    /// Its GPUs.
    pub gpus: Vec<GpuRow>,
    /// SHA-256 of the program `admiral`; `None` if it cannot be read.
    pub program: Option<String>,
    /// The program's version.
    pub admiral: Option<String>,
    /// The version of libtorch.
    pub libtorch: Option<String>,
    /// The MPI library's description.
    pub mpi: Option<String>,
    /// Seconds to write to the store; `None` if that was skipped or failed.
    pub store_seconds: Option<f64>,
    /// Free bytes on the disk of the checkpoints' folder.
    pub checkpoint_free_bytes: Option<u64>,
    /// Free bytes on the disk of the run's folder.
    pub run_free_bytes: Option<u64>,
    /// The duration of the host's probe, in seconds.
    pub seconds: f64,
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuRow {
    /// The index.
    pub index: usize,
    /// The model.
    pub name: String,
    /// The version of the driver.
    pub driver: String,
    /// The memory in MiB.
    pub memory_mib: u64,
    /// The free memory in MiB.
    pub free_mib: u64,
}

pub(super) fn receipt(
    checked_at: Timestamp,
    hosts: &[Host],
    needs: &Needs,
    answers: &[Answer],
    findings: Vec<Finding>,
) -> Receipt {
    let row = |host: &Host| {
        let answer = answers.iter().find(|answer| answer.host.name == host.name);
        HostRow {
            name: host.name.clone(),
            ranks: answer.map_or(host.slots, |answer| answer.ranks(needs)),
            report: answer.map(report),
        }
    };
    Receipt {
        version: VERSION,
        checked_at,
        seconds: 0.0,
        bandwidth: None,
        hosts: hosts.iter().map(row).collect(),
        network: network::shared(needs, answers),
        findings,
    }
}

fn report(answer: &Answer) -> HostReport {
    let probe = &answer.probe;
    let gpus = probe.gpus.as_ref().and_then(|gpus| gpus.as_ref().ok());
    let gpu = |gpu: &super::probe::Gpu| GpuRow {
        index: gpu.index,
        name: gpu.name.clone(),
        driver: gpu.driver.clone(),
        memory_mib: gpu.memory_mib,
        free_mib: gpu.free_mib,
    };
    let version = probe.version.as_ref().ok().and_then(Option::as_ref);
    HostReport {
        host_name: probe.system.host_name.clone(),
        interfaces: probe.interfaces.clone(),
        address: answer.peer,
        clock: answer.clock,
        kernel: probe.system.kernel.clone(),
        glibc: probe.system.glibc.clone(),
        gpus: gpus.map(|state| state.gpus.iter().map(gpu).collect()).unwrap_or_default(),
        program: probe.program.as_ref().ok().map(|file| file.identity.trim_start_matches("sha256 ").to_owned()),
        admiral: version.map(|version| version.admiral.clone()),
        libtorch: version.and_then(|version| version.libtorch_loaded.clone()),
        mpi: version.map(|version| version.mpi.clone()),
        store_seconds: probe.store.as_ref().and_then(|store| store.as_ref().ok()).map(|probe| probe.seconds),
        checkpoint_free_bytes: probe.checkpoint_disk.as_ref().map(|disk| disk.free_bytes),
        run_free_bytes: probe.run_disk.as_ref().map(|disk| disk.free_bytes),
        seconds: probe.seconds,
    }
}

impl Receipt {
    /// Returns the hosts on which the run would fail, with the problems, in the hosts' order. If
    /// [`is_bad_everywhere`](Self::is_bad_everywhere), leaving these hosts out does not help.
    #[must_use]
    pub fn bad_hosts(&self) -> Vec<(String, Vec<String>)> {
        let bad = |host: &HostRow| -> Vec<String> {
            let named = self.bad().filter(|finding| finding.hosts.contains(&host.name));
            named.map(|finding| finding.what.clone()).collect()
        };
        let hosts = self.hosts.iter().map(|host| (host.name.clone(), bad(host)));
        hosts.filter(|(_, what)| !what.is_empty()).collect()
    }

    /// Returns whether the run would fail whatever hosts are left out: a bad finding names no host, or all hosts that
    /// answered.
    #[must_use]
    pub fn is_bad_everywhere(&self) -> bool {
        let answered: Vec<&String> =
            self.hosts.iter().filter(|host| host.report.is_some()).map(|host| &host.name).collect();
        self.bad().any(|finding| {
            finding.hosts.is_empty()
                || !answered.is_empty() && answered.iter().all(|&host| finding.hosts.contains(host))
        })
    }

    /// Returns whether nothing is bad.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.bad().next().is_none()
    }

    /// Returns the number of ranks that a host takes.
    #[must_use]
    pub fn ranks(&self, host: &str) -> Option<usize> {
        self.hosts.iter().find(|row| row.name == host).map(|row| row.ranks)
    }

    /// Returns whether any host has a GPU.
    #[must_use]
    pub fn has_gpus(&self) -> bool {
        self.hosts.iter().filter_map(|host| host.report.as_ref()).any(|report| !report.gpus.is_empty())
    }

    fn bad(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Bad)
    }

    /// Returns the text for people: a line for each host, then a paragraph for each finding.
    #[must_use]
    pub fn text(&self, is_coloured: bool) -> String {
        let mut text = format!("{} ({:.1} s)\n\n", self.summary(), self.seconds);
        let rows = self.hosts.iter().map(|host| self.row(host));
        text += &table(std::iter::once(HEADER.map(str::to_owned)).chain(rows).collect());
        if let Some(network) = &self.network {
            let _ = writeln!(text, "\nshared network: {} ({})", network.cidr, network.interfaces.join(", "));
        }
        if let Some(bandwidth) = &self.bandwidth {
            let _ = writeln!(text, "\n{bandwidth}");
        }
        for finding in &self.findings {
            let (word, colour) = match finding.severity {
                Severity::Bad => ("bad", "31"),
                Severity::Warning => ("warning", "33"),
                Severity::Note => ("note", "36"),
            };
            let word = if is_coloured { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.to_owned() };
            let hosts = if finding.hosts.is_empty() { String::new() } else { format!("{}: ", listed(&finding.hosts)) };
            let _ = write!(text, "\n{word}: {hosts}{}\n    -> {}\n", finding.what, finding.remedy);
        }
        text
    }

    /// Returns `4 hosts, 8 ranks: 1 bad, 2 warnings`.
    #[must_use]
    pub fn summary(&self) -> String {
        let count = |severity| self.findings.iter().filter(|finding| finding.severity == severity).count();
        let (bad, warnings) = (count(Severity::Bad), count(Severity::Warning));
        let ranks: usize = self.hosts.iter().map(|host| host.ranks).sum();
        let many = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        let verdict = match (bad, warnings) {
            (0, 0) => "all is well".to_owned(),
            (0, warnings) => many(warnings, "warning"),
            (bad, 0) => format!("{bad} bad"),
            (bad, warnings) => format!("{bad} bad, {}", many(warnings, "warning")),
        };
        format!("preflight of {}, {}: {verdict}", many(self.hosts.len(), "host"), many(ranks, "rank"))
    }

    fn row(&self, host: &HostRow) -> [String; COLUMNS] {
        let severity = self.findings.iter().filter(|finding| finding.hosts.contains(&host.name));
        let state = match severity.map(|finding| finding.severity).min() {
            _ if host.report.is_none() => "no answer",
            Some(Severity::Bad) => "bad",
            Some(Severity::Warning) => "warning",
            _ => "good",
        };
        let mut row = [host.name.clone(), state.into(), host.ranks.to_string()].to_vec();
        let nothing = || "-".to_owned();
        match &host.report {
            None => row.resize(COLUMNS, nothing()),
            Some(report) => row.extend([
                gpus(&report.gpus),
                report.gpus.first().map_or_else(nothing, |gpu| gpu.driver.clone()),
                report.address.map_or_else(|| "(here)".into(), |address| address.to_string()),
                format!("{:+.3} s", report.clock.ahead_seconds),
                report.program.as_ref().map_or_else(nothing, |hash| hash.chars().take(HASH_SHOWN).collect()),
                report.libtorch.clone().unwrap_or_else(nothing),
                report.store_seconds.map_or_else(nothing, |seconds| format!("{seconds:.2} s")),
                report.checkpoint_free_bytes.or(report.run_free_bytes).map_or_else(nothing, format_bytes),
            ]),
        }
        row.try_into().unwrap_or_else(|_| unreachable!("a row has as many cells as the header"))
    }
}

const COLUMNS: usize = 11;
const HEADER: [&str; COLUMNS] =
    ["host", "state", "ranks", "GPUs", "driver", "address", "clock", "admiral", "libtorch", "store", "disk free"];

/// Returns `8 x NVIDIA H100 80GB HBM3, 79.1 GiB free`, with the free memory of the fullest GPU.
fn gpus(gpus: &[GpuRow]) -> String {
    let Some(first) = gpus.first() else { return "none".into() };
    let models = if gpus.iter().all(|gpu| gpu.name == first.name) { first.name.as_str() } else { "of several models" };
    let free = gpus.iter().map(|gpu| gpu.free_mib).min().unwrap_or(0);
    format!("{} x {models}, {:.1} GiB free", gpus.len(), free as f64 / 1024.0)
}

/// Formats columns of the necessary width, separated by two spaces.
fn table(rows: Vec<[String; COLUMNS]>) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let line = |row: &[String; COLUMNS]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Returns a few names, or their number.
fn listed(hosts: &[String]) -> String {
    match hosts {
        [one] => one.clone(),
        [start @ .., last] if start.len() < 8 => format!("{} and {last}", start.join(", ")),
        hosts => format!("{}, {}, {} and {} more hosts", hosts[0], hosts[1], hosts[2], hosts.len() - 3),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::compare::compare;
    use super::super::compare::fixtures::{good, needs};
    use super::*;

    fn of(change: impl FnOnce(&mut Vec<Answer>)) -> Receipt {
        let mut answers: Vec<Answer> = (0..3).map(good).collect();
        let hosts: Vec<Host> = answers.iter().map(|answer| answer.host.clone()).collect();
        change(&mut answers);
        let findings = compare(&needs(), &answers);
        let time = "2026-01-02T03:04:05Z".parse().unwrap();
        Receipt { seconds: 1.84, ..receipt(time, &hosts, &needs(), &answers, findings) }
    }

    #[test]
    fn a_good_receipt_is_a_table() {
        let receipt = of(|_| {});
        assert!(receipt.is_good() && receipt.bad_hosts().is_empty());
        let text = receipt.text(true);
        let expected = "\
preflight of 3 hosts, 24 ranks: all is well (1.8 s)

host  state  ranks  GPUs                                    driver     address    clock     admiral  libtorch  store   disk free
n0    good   8      8 x NVIDIA H100 80GB HBM3, 79.1 GiB free  550.54.15  10.78.1.1  +0.001 s  aa       2.10.0    0.10 s  1.1 TB
";
        let words = |text: &str| {
            text.lines().take(4).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(words(&text), words(expected));
        assert!(text.ends_with("\nshared network: 10.78.1.0/24 (eth0)\n"), "{text}");
    }

    #[test]
    fn columns_are_aligned() {
        let text = of(|answers| answers[1].probe.gpus = None).text(false);
        let lines: Vec<&str> = text.lines().skip(2).take(4).collect();
        let place = |line: &str, word: &str| line.find(word).unwrap();
        assert_eq!(place(lines[0], "address"), place(lines[1], "10.78.1.1"));
        assert_eq!(place(lines[0], "address"), place(lines[2], "10.78.1.2"));
    }

    #[test]
    fn bad_hosts_are_listed_with_their_problems() {
        let receipt = of(|answers| {
            answers[1].probe.store = Some(Err("denied".into()));
            answers[2].clock.ahead_seconds = 5.0;
        });
        assert_eq!(
            receipt.bad_hosts(),
            [("n1".into(), vec!["the store cannot be written from there: denied".to_owned()])]
        );
        assert!(!receipt.is_good() && !receipt.is_bad_everywhere());
        let text = receipt.text(false);
        assert!(text.contains("1 bad, 1 warning"), "{text}");
        assert!(text.contains("\nbad: n1: the store cannot be written from there: denied\n    -> check"), "{text}");
        assert!(receipt.text(true).contains("\x1b[31mbad\x1b[0m: n1"));
    }

    #[test]
    fn a_problem_on_every_host_is_bad_everywhere() {
        let receipt =
            of(|answers| answers.iter_mut().for_each(|answer| answer.probe.store = Some(Err("denied".into()))));
        assert!(receipt.is_bad_everywhere());
        assert_eq!(receipt.bad_hosts().len(), 3);
        // The same if one host did not answer.
        let receipt = of(|answers| {
            answers.pop();
            answers.iter_mut().for_each(|answer| answer.probe.store = Some(Err("denied".into())));
        });
        assert!(receipt.is_bad_everywhere());
    }

    #[test]
    fn a_host_that_did_not_answer_has_a_row() {
        let receipt = of(|answers| {
            answers.remove(1);
        });
        assert_eq!(receipt.hosts[1].report, None);
        assert!(receipt.text(false).lines().any(|line| line.starts_with("n1    no answer  8      -")));
    }

    #[test]
    fn a_receipt_survives_serialisation() {
        let receipt = of(|answers| answers[0].probe.system.max_open_files = Some(256));
        let text = serde_json::to_string_pretty(&receipt).unwrap();
        assert_eq!(serde_json::from_str::<Receipt>(&text).unwrap(), receipt);
        assert!(text.contains(r#""checked_at": "2026-01-02T03:04:05Z""#) && text.contains(r#""severity": "warning""#));
    }
}
