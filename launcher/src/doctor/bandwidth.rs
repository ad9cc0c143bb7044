//! The speed of the ranks' all-reduce, and slow links between two ranks. All ranks run `admiral bench allreduce`
//! together.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::compare::{Answer, Finding, Needs, Network, Severity};
use super::request::{DoctorError, ExamineRequest, is_local, seconds};
use super::short_mpirun::{MpirunOutput, ShortMpirun};
use crate::hosts::Host;
use crate::layout::Layout;

/// The size of the all-reduce: a few buckets of gradients.
const MEBIBYTES: &str = "16";
const REPEATS: &str = "3";
/// Every rank loads libtorch, and slow links take time.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The result of the measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// The bytes of the all-reduce over the time of the slowest rank.
    pub all_reduce_bytes_per_second: f64,
    /// The time of the slowest rank, in seconds.
    pub all_reduce_seconds: f64,
    /// The link from each rank to the next.
    pub links: Vec<Link>,
    /// Sentences about slow links.
    pub outliers: Vec<String>,
}

/// The link between two ranks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The two ranks.
    pub ranks: [usize; 2],
    /// The bytes per second in each direction.
    pub bytes_per_second: f64,
    /// Whether the link is much slower than the others.
    pub is_slow: bool,
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let speed = |bytes_per_second: f64| format!("{:.2} GB/s", bytes_per_second / 1e9);
        write!(f, "all ranks sum {}", speed(self.all_reduce_bytes_per_second))?;
        let slowest = self.links.iter().map(|link| link.bytes_per_second).reduce(f64::min);
        let fastest = self.links.iter().map(|link| link.bytes_per_second).reduce(f64::max);
        match slowest.zip(fastest) {
            Some((slowest, fastest)) => write!(f, "; from rank to rank {} to {}", speed(slowest), speed(fastest)),
            None => Ok(()),
        }
    }
}

/// Measures on the hosts without bad findings. Returns `None` if they have fewer than two ranks, or if the measurement
/// failed.
pub(super) async fn measure(
    request: &ExamineRequest,
    needs: &Needs,
    answers: &[Answer],
    findings: &[Finding],
    network: Option<&Network>,
) -> Result<(Option<Bandwidth>, Vec<Finding>), DoctorError> {
    let is_bad = |host: &Host| {
        let mut bad = findings.iter().filter(|finding| finding.severity == Severity::Bad);
        bad.any(|finding| finding.hosts.is_empty() || finding.hosts.contains(&host.name))
    };
    let good = answers.iter().filter(|answer| !is_bad(&answer.host));
    let hosts: Vec<Host> = good.map(|answer| Host { slots: answer.ranks(needs), ..answer.host.clone() }).collect();
    let world: usize = hosts.iter().map(|host| host.slots).sum();
    let is_here = |name: &str| hosts.iter().any(|host| host.name == name && is_local(host));
    let Ok(layout) = Layout::with_first(&hosts, world, is_here) else { return Ok((None, Vec::new())) };
    if world < 2 {
        return Ok((None, Vec::new()));
    }
    let mut plan = request.mpirun.clone();
    plan.layout = layout.clone();
    plan.program.clone_from(&request.program);
    plan.arguments =
        ["bench", "allreduce", "--json", "--mebibytes", MEBIBYTES, "--repeats", REPEATS].map(str::to_owned).to_vec();
    let running = ShortMpirun::start(plan.command(), &plan.temporary_folder)
        .map_err(|source| DoctorError::System { what: "mpirun", source })?;
    let said = running.end(TIMEOUT).await;
    Ok(match read(&said) {
        Ok(bandwidth) => {
            let slow = slow(&bandwidth, &layout);
            (Some(bandwidth), slow.into_iter().collect())
        }
        Err(reason) => {
            let names = hosts.into_iter().map(|host| host.name).collect();
            (None, vec![failed(names, &reason, &plan.shell_line(), network)])
        }
    })
}

/// Returns the result of the benchmark, or how it failed.
fn read(said: &MpirunOutput) -> Result<Bandwidth, String> {
    let last = || said.stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing").to_owned();
    match said.status {
        None => Err(format!("no end within {} s", seconds(TIMEOUT))),
        Some(status) if !status.success() => Err(format!("{} ({status})", last())),
        // Open MPI may print its own messages around the result.
        Some(_) => {
            let text = said.stdout.find('{').zip(said.stdout.rfind('}')).map(|(start, end)| &said.stdout[start..=end]);
            serde_json::from_str(text.unwrap_or_default())
                .map_err(|error| format!("no result that can be read: {error}"))
        }
    }
}

fn slow(bandwidth: &Bandwidth, layout: &Layout) -> Option<Finding> {
    if bandwidth.outliers.is_empty() {
        return None;
    }
    let slow = bandwidth.links.iter().filter(|link| link.is_slow).flat_map(|link| link.ranks);
    let ranks: Vec<usize> = slow.collect();
    let is_named = |host: &str| layout.placements.iter().any(|place| place.host == host && ranks.contains(&place.rank));
    let hosts = layout.hosts.iter().map(|(host, _)| host.clone()).filter(|host| is_named(host)).collect();
    let what = format!("slow links between ranks: {}", bandwidth.outliers.join("; "));
    let remedy = "the slowest way sets the pace of every step: look at cables, link speed (ethtool) and other traffic \
                  there, and at the interfaces that Open MPI chose";
    Some(Finding::among(hosts, Severity::Warning, what, remedy))
}

fn failed(hosts: Vec<String>, reason: &str, line: &str, network: Option<&Network>) -> Finding {
    let network = network.map_or_else(|| "eth0".to_owned(), |network| network.cidr.clone());
    let what = format!("the ranks cannot sum: {reason}");
    let remedy =
        format!("ranks on different hosts may not reach each other: try --interfaces {network}, and by hand: {line}");
    Finding::among(hosts, Severity::Bad, what, remedy)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn said(script: &str) -> MpirunOutput {
        let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        MpirunOutput { status: Some(output.status), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    const MEASURED: &str = r#"{"mebibytes": 16, "repeats": 3, "all_reduce_seconds": 0.01,
        "all_reduce_bytes_per_second": 1.6e9, "ranks": [],
        "links": [{"ranks": [0, 1], "hosts": ["a", "a"], "bytes_per_second": 4e9, "is_slow": false},
                  {"ranks": [2, 3], "hosts": ["b", "c"], "bytes_per_second": 1e8, "is_slow": true}],
        "outliers": ["between rank 2 (b) and rank 3 (c): 0.100 GB/s"]}"#;

    #[test]
    fn a_slow_link_names_its_hosts() {
        let bandwidth = read(&said(&format!("echo warning; echo '{MEASURED}'"))).unwrap();
        assert_eq!(bandwidth.to_string(), "all ranks sum 1.60 GB/s; from rank to rank 0.10 GB/s to 4.00 GB/s");
        let host = |name: &str, slots| Host { name: name.into(), slots, slots_given: true };
        let layout = Layout::new(&[host("n0", 2), host("n1", 1), host("n2", 1)], 4).unwrap();
        let finding = slow(&bandwidth, &layout).unwrap();
        assert_eq!((finding.hosts.join(" ").as_str(), finding.severity), ("n1 n2", Severity::Warning));
        assert!(finding.what.ends_with("between rank 2 (b) and rank 3 (c): 0.100 GB/s"));
        assert_eq!(slow(&Bandwidth { outliers: vec![], ..bandwidth }, &layout), None);
    }

    #[test]
    fn a_failed_benchmark_is_reported_with_its_message() {
        assert!(
            read(&said("echo 'error: rank 3 is lost' >&2; exit 70")).unwrap_err().starts_with("error: rank 3 is lost")
        );
        assert!(read(&said("echo nothing")).unwrap_err().starts_with("no result"));
        let late = MpirunOutput { status: None, ..said("true") };
        assert_eq!(read(&late).unwrap_err(), "no end within 60 s");
    }
}
