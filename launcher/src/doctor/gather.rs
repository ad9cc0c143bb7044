//! Starts a probe on every host under one `mpirun`, and collects the reports.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::compare::{Answer, Finding, Severity};
use super::exchange::{ProbeHello, ProbeReport, greet};
use super::probe::Question;
use super::request::{DoctorError, ExamineRequest, is_local, random_text, seconds};
use super::short_mpirun::{OUTPUT_GRACE, ShortMpirun};
use crate::channel::HANDSHAKE_TIMEOUT;
use crate::environment::{LAUNCH_MACHINE, PROBE_ADDRESSES, PROBE_TOKEN, machine_digest};
use crate::hosts::Host;
use crate::layout::Layout;
use crate::mpirun::MpirunCommand;
use crate::supervise::{Strangers, listen_address};

/// Precedes a probe's own message in the output of `mpirun`.
pub(super) const PROBE_MESSAGE_PREFIX: &str = "admiral-launch probe: ";
/// The time until all probes have connected, from the start of `mpirun`.
const HELLO_TIMEOUT: Duration = Duration::from_secs(20);
/// The time until a probe has reported, from its connection. Its parts have shorter timeouts.
const REPORT_TIMEOUT: Duration = Duration::from_secs(60);
/// The time until `mpirun` ends after all probes.
const EXIT_TIMEOUT: Duration = Duration::from_secs(3);
/// The number of lines of `mpirun` in a finding.
const LINES_SHOWN: usize = 6;

/// The answers, and findings on hosts that did not answer.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) answers: Vec<Answer>,
    pub(super) findings: Vec<Finding>,
    /// The finding on the network if some hosts answered only when asked alone.
    pub(super) only_alone: Option<Finding>,
}

/// Asks all hosts at once. If some do not answer, `mpirun` does not say which one is the cause, so each of those is
/// asked again with its own `mpirun`.
pub(super) async fn gather(
    request: &ExamineRequest,
    hosts: &[Host],
    question: &Question,
) -> Result<Gathered, DoctorError> {
    let mut gathered = Gathered { answers: Vec::new(), findings: Vec::new(), only_alone: None };
    if hosts.is_empty() {
        return Ok(gathered);
    }
    let together = ask(request, hosts, question).await?;
    let mut reports = together.reports;
    let mut silent = Vec::new();
    let missing: Vec<usize> = (0..hosts.len()).filter(|&place| reports[place].is_none()).collect();
    if hosts.len() == 1 {
        silent.extend(missing.iter().map(|&place| (place, together.said.clone())));
    } else {
        let mut alone = JoinSet::new();
        for &place in &missing {
            let (request, host, question) = (request.clone(), hosts[place].clone(), question.clone());
            alone.spawn(async move { (place, ask(&request, &[host], &question).await) });
        }
        while let Some(Ok((place, asked))) = alone.join_next().await {
            let mut asked = asked?;
            reports[place] = asked.reports.remove(0);
            if reports[place].is_none() {
                silent.push((place, asked.said));
            }
        }
        silent.sort_by_key(|&(place, _)| place);
        let joined: Vec<String> =
            missing.iter().filter(|&&place| reports[place].is_some()).map(|&place| hosts[place].name.clone()).collect();
        if silent.is_empty() && !joined.is_empty() {
            gathered.only_alone = Some(only_alone(joined, &together.said));
        }
    }
    gathered.findings.extend(silent.iter().map(|(place, said)| no_answer(&hosts[*place].name, said)));
    gathered.answers = reports
        .into_iter()
        .zip(hosts)
        .filter_map(|(report, host)| {
            let ProbeReport { probe, clock, peer } = report?;
            Some(Answer { host: host.clone(), probe, clock, peer })
        })
        .collect();
    Ok(gathered)
}

/// The result of one `mpirun`.
struct ProbeRound {
    /// The reports, in the hosts' order.
    reports: Vec<Option<ProbeReport>>,
    /// The output of `mpirun` and of the probes.
    said: Vec<String>,
}

async fn ask(request: &ExamineRequest, hosts: &[Host], question: &Question) -> Result<ProbeRound, DoctorError> {
    let system = |what| move |source| DoctorError::System { what, source };
    let listener = TcpListener::bind((listen_address(&request.addresses), 0)).await.map_err(system("a port"))?;
    let port = listener.local_addr().map_err(system("a port"))?.port();
    let token = random_text()?;
    let plan = plan(request, hosts, &token, port);
    let mut mpirun = ShortMpirun::start(plan.command(), &plan.temporary_folder).map_err(system("mpirun"))?;
    let deadline = Instant::now() + HELLO_TIMEOUT;
    let mut reports: Vec<Option<ProbeReport>> = hosts.iter().map(|_| None).collect();
    let mut is_taken = vec![false; hosts.len()];
    let mut greetings = JoinSet::new();
    let strangers = Strangers::default();
    let mut talks: JoinSet<(usize, io::Result<ProbeReport>)> = JoinSet::new();
    let mut last_line = None;
    while !is_taken.iter().all(|&taken| taken) || !talks.is_empty() {
        // A connected probe has its own timeout.
        let wait = last_line.unwrap_or(if talks.is_empty() { deadline } else { deadline + REPORT_TIMEOUT });
        tokio::select! {
            call = listener.accept() => if let Ok((stream, peer)) = call
                && let Some(place) = strangers.admit(peer.ip())
            {
                let token = token.clone();
                greetings.spawn(async move {
                    let greeted = timeout(HANDSHAKE_TIMEOUT, greet(stream, &token)).await;
                    drop(place);
                    greeted
                });
            },
            Some(greeting) = greetings.join_next() => if let Ok(Ok(Ok((hello, session)))) = greeting
                && let Some(place) = host_of_probe(hosts, &is_taken, &hello, resolve)
            {
                is_taken[place] = true;
                let question = question.clone();
                talks.spawn(async move {
                    let late = |_| io::Error::other(format!("no report within {} s", seconds(REPORT_TIMEOUT)));
                    (place, timeout(REPORT_TIMEOUT, session.ask(&question)).await.map_err(late).and_then(|report| report))
                });
            },
            Some(Ok((place, report))) = talks.join_next() => reports[place] = report.ok(),
            _ = mpirun.child.wait(), if last_line.is_none() => last_line = Some(Instant::now() + OUTPUT_GRACE),
            () = sleep_until(wait) => break,
        }
    }
    let patience = if reports.iter().all(Option::is_some) { EXIT_TIMEOUT } else { Duration::ZERO };
    Ok(ProbeRound { reports, said: mpirun.end(patience).await.lines() })
}

fn plan(request: &ExamineRequest, hosts: &[Host], token: &str, port: u16) -> MpirunCommand {
    let addresses: Vec<String> =
        request.addresses.iter().map(|&address| SocketAddr::new(address, port).to_string()).collect();
    let mut plan = request.mpirun.clone();
    plan.layout = Layout::one_per_host(hosts, |name| hosts.iter().any(|host| host.name == name && is_local(host)));
    plan.arguments = vec!["probe".into()];
    plan.variables.retain(|(name, _)| ![PROBE_ADDRESSES, PROBE_TOKEN, LAUNCH_MACHINE].contains(&name.as_str()));
    plan.variables.extend([
        (PROBE_ADDRESSES.into(), addresses.join(",")),
        (PROBE_TOKEN.into(), token.into()),
        (LAUNCH_MACHINE.into(), machine_digest()),
    ]);
    plan
}

/// Returns the host of a probe, among those that have not connected: by the name that `mpirun` uses, by the host's own
/// name, or by an address. If one host is missing, it is that one.
fn host_of_probe(
    hosts: &[Host],
    is_taken: &[bool],
    hello: &ProbeHello,
    resolve: impl Fn(&str) -> Vec<IpAddr>,
) -> Option<usize> {
    let short = |name: &str| name.split('.').next().unwrap_or(name).to_ascii_lowercase();
    let is_address = |name: &str| name.parse::<IpAddr>().is_ok();
    let same_name = |name: &str| !is_address(name) && short(name) == short(&hello.host_name);
    let has = |address: &IpAddr| !address.is_loopback() && hello.addresses.contains(address);
    let left: Vec<usize> = (0..hosts.len()).filter(|&place| !is_taken[place]).collect();
    let find = |fits: &dyn Fn(&str) -> bool| left.iter().copied().find(|&place| fits(&hosts[place].name));
    find(&|name| hello.mpi_name.as_deref() == Some(name))
        .or_else(|| find(&|name| name == hello.host_name))
        .or_else(|| find(&same_name))
        .or_else(|| find(&|name| resolve(name).iter().any(has)))
        .or_else(|| (left.len() == 1).then(|| left[0]))
}

fn resolve(name: &str) -> Vec<IpAddr> {
    (name, 0).to_socket_addrs().map(|all| all.map(|address| address.ip()).collect()).unwrap_or_default()
}

fn no_answer(host: &str, said: &[String]) -> Finding {
    let own_words = said.iter().find_map(|line| line.split_once(PROBE_MESSAGE_PREFIX));
    if let Some((_, words)) = own_words {
        let remedy = "the hosts have to reach this machine by TCP on any port: open its firewall for them, or say \
                      which address of it they see: --address IP";
        return Finding::of(host, Severity::Bad, format!("its probe failed: {words}"), remedy);
    }
    let words: Vec<&str> = said
        .iter()
        .map(|line| line.trim())
        .filter(|line| !line.is_empty() && !line.starts_with("----"))
        .take(LINES_SHOWN)
        .collect();
    let words = if words.is_empty() { format!("nothing within {} s", seconds(HELLO_TIMEOUT)) } else { words.join(" ") };
    let remedy = format!(
        "try `mpirun --host {host} hostname`; Open MPI of one version has to be there, and its daemon has to reach \
         this machine: firewalls, and --interfaces"
    );
    Finding::of(host, Severity::Bad, format!("mpirun cannot start a process there; it says: {words}"), remedy)
}

/// Returns the finding on hosts that could be started one by one, but not together.
fn only_alone(hosts: Vec<String>, said: &[String]) -> Finding {
    let words: Vec<&str> =
        said.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).take(LINES_SHOWN).collect();
    let what = format!("answered only when asked alone; together mpirun says: {}", words.join(" "));
    let remedy = "Open MPI's daemons have to reach each other: open firewalls between the hosts, or choose the network \
                  with --interfaces";
    Finding::among(hosts, Severity::Bad, what, remedy)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::exchange::hello;
    use super::*;

    fn hosts(names: &[&str]) -> Vec<Host> {
        names.iter().map(|&name| Host { name: name.into(), slots: 1, slots_given: true }).collect()
    }

    #[test]
    fn the_host_of_a_probe_is_found_by_name_or_address() {
        let hosts = hosts(&["n0", "n1.cluster.example", "10.0.0.3", "alias"]);
        let nobody = |_: &str| vec![];
        let none = [false; 4];
        assert_eq!(host_of_probe(&hosts, &none, &hello("n1.cluster.example", None, &[]), nobody), Some(1));
        assert_eq!(host_of_probe(&hosts, &none, &hello("N1", None, &[]), nobody), Some(1));
        assert_eq!(host_of_probe(&hosts, &none, &hello("node-a", Some("n0"), &[]), nobody), Some(0));
        let by_address = |name: &str| match name {
            "10.0.0.3" => vec!["10.0.0.3".parse().unwrap()],
            "alias" => vec!["10.0.0.4".parse().unwrap(), "127.0.0.1".parse().unwrap()],
            _ => vec!["127.0.0.1".parse().unwrap()],
        };
        let at = |address: &str| hello("other", None, &["127.0.0.1", address]);
        assert_eq!(host_of_probe(&hosts, &none, &at("10.0.0.3"), by_address), Some(2));
        assert_eq!(host_of_probe(&hosts, &none, &at("10.0.0.4"), by_address), Some(3));
        assert_eq!(host_of_probe(&hosts, &none, &at("10.0.0.5"), by_address), None);
        assert_eq!(host_of_probe(&hosts, &[true, true, false, true], &at("10.0.0.5"), by_address), Some(2));
        assert_eq!(host_of_probe(&hosts, &[true; 4], &hello("n0", None, &[]), nobody), None);
    }

    #[test]
    fn a_probes_own_message_takes_precedence_over_mpiruns() {
        let said = [
            "-----".into(),
            format!("{PROBE_MESSAGE_PREFIX}n1: the launcher cannot be reached: 10.0.0.1:5: timed out"),
        ];
        assert!(no_answer("n1", &said).what.ends_with("n1: the launcher cannot be reached: 10.0.0.1:5: timed out"));
        let said = ["-----".into(), "ORTE was unable".into(), "to do it".into()];
        assert!(no_answer("n1", &said).what.ends_with("it says: ORTE was unable to do it"));
        assert!(no_answer("n1", &[]).what.ends_with("nothing within 20 s"));
    }
}
