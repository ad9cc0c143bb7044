//! Checks of clocks, limits, memory, disks, the store, and leftovers of earlier launches.

use std::collections::BTreeSet;

use super::answer::{Answer, Needs};
use super::finding::{Finding, Severity};
use crate::doctor::probe::{Disk, Leftover};
use crate::job::JobKind;

const CLOCK_WARNING_SECONDS: f64 = 1.0;
/// Well below S3's limit of 15 minutes for a request's age.
const CLOCK_BAD_SECONDS: f64 = 60.0;
const MIN_OPEN_FILES: u64 = 4096;
/// Shared memory per rank: NCCL's buffers, or the pages through which Open MPI's ranks of one host exchange data.
const SHM_BYTES_WITH_GPU: u64 = 64 << 20;
const SHM_BYTES_WITHOUT_GPU: u64 = 8 << 20;

pub(super) fn compare(needs: &Needs, answers: &[Answer], findings: &mut Vec<Finding>) {
    for answer in answers {
        clock(answer, findings);
        limits(needs, answer, findings);
        disks(needs, answer, findings);
        leftovers(answer, findings);
    }
    store(needs, answers, findings);
    one_machine(answers, findings);
}

/// Returns whether every host is a machine of its own.
pub(crate) fn are_distinct(answers: &[Answer]) -> bool {
    let machines: BTreeSet<&String> = answers.iter().map(|answer| &answer.probe.system.machine).collect();
    machines.len() == answers.len()
}

/// Finds hosts that are the same machine as another one of the list. Twice as many ranks would share its GPUs.
fn one_machine(answers: &[Answer], findings: &mut Vec<Finding>) {
    for (place, answer) in answers.iter().enumerate() {
        let machine = &answer.probe.system.machine;
        let Some(first) = answers[..place].iter().find(|other| other.probe.system.machine == *machine) else {
            continue;
        };
        let what = format!("it is {} once more, which calls itself {}", first.host.name, first.probe.system.host_name);
        findings.push(Finding::of(&answer.host.name, Severity::Bad, what, "name a machine once, with all its ranks"));
    }
}

fn clock(answer: &Answer, findings: &mut Vec<Finding>) {
    let clock = answer.clock;
    // A difference that the message's travel time may explain does not count.
    let off = clock.ahead_seconds.abs() - clock.uncertain_seconds;
    if off <= CLOCK_WARNING_SECONDS {
        return;
    }
    let side = if clock.ahead_seconds > 0.0 { "ahead of" } else { "behind" };
    let what = format!("its clock is {:.1} s {side} the launcher's", clock.ahead_seconds.abs());
    let severity = if off > CLOCK_BAD_SECONDS { Severity::Bad } else { Severity::Warning };
    let remedy = "set it by NTP (timedatectl set-ntp true): buckets refuse requests of wrong clocks, and logs cannot be compared";
    findings.push(Finding::of(&answer.host.name, severity, what, remedy));
}

fn limits(needs: &Needs, answer: &Answer, findings: &mut Vec<Finding>) {
    let (host, system) = (answer.host.name.as_str(), &answer.probe.system);
    if let Some(limit) = system.max_open_files.filter(|&limit| limit < MIN_OPEN_FILES) {
        let what = format!("a process may open {limit} files");
        let remedy = "raise it to 65536: nofile in /etc/security/limits.conf, LimitNOFILE= of the service that starts \
                      processes there";
        findings.push(Finding::of(host, Severity::Warning, what, remedy));
    }
    let ranks = answer.ranks(needs);
    let has_gpus = needs.uses_gpus && super::answer::usable_gpus(&answer.probe).unwrap_or(0) > 0;
    let each = if has_gpus { SHM_BYTES_WITH_GPU } else { SHM_BYTES_WITHOUT_GPU };
    let wanted = each * ranks as u64;
    if let Some(free) = system.shm_free_bytes.filter(|&free| free < wanted) {
        let what = format!("/dev/shm has {} free; {ranks} ranks want {}", format_bytes(free), format_bytes(wanted));
        let remedy = "in a container give it more (docker run --shm-size=8g; in Kubernetes an emptyDir of medium \
                      Memory at /dev/shm)";
        findings.push(Finding::of(host, Severity::Warning, what, remedy));
    }
    if let Some(limit) = system.max_locked_bytes.filter(|_| system.has_infiniband) {
        let what =
            format!("a process may lock {} of memory, and InfiniBand wants it without limit", format_bytes(limit));
        let remedy = "set memlock to unlimited in /etc/security/limits.conf, LimitMEMLOCK=infinity of the service";
        findings.push(Finding::of(host, Severity::Warning, what, remedy));
    }
}

fn disks(needs: &Needs, answer: &Answer, findings: &mut Vec<Finding>) {
    let (Some(one), Some(Disk { folder, free_bytes, .. })) = (needs.checkpoint_bytes, &answer.probe.checkpoint_disk)
    else {
        return;
    };
    let all = one.saturating_mul(needs.kept_checkpoints.max(1));
    if *free_bytes >= all {
        return;
    }
    let severity = if *free_bytes < one { Severity::Bad } else { Severity::Warning };
    let what = format!(
        "the disk of {} has {} free; a checkpoint has {}, and {} of them will lie there",
        folder.display(),
        format_bytes(*free_bytes),
        format_bytes(one),
        needs.kept_checkpoints
    );
    let remedy = "free some, set checkpoint.keep_last to keep fewer, or set checkpoint.url to another place";
    findings.push(Finding::of(&answer.host.name, severity, what, remedy));
}

fn store(needs: &Needs, answers: &[Answer], findings: &mut Vec<Finding>) {
    let failed: Vec<(&Answer, &String)> = answers
        .iter()
        .filter(|answer| answer.probe.program.is_ok())
        .filter_map(|answer| Some((answer, answer.probe.store.as_ref()?.as_ref().err()?)))
        .collect();
    let place = match needs.kind {
        JobKind::Train => "checkpoint.url",
        JobKind::Sample => "--out",
    };
    let remedy = &format!(
        "check {place}, the credentials and variables (AWS_*, GOOGLE_*, AZURE_*, proxies) there, and the way to the store"
    );
    let everywhere = failed.len() == answers.len() && answers.len() > 1;
    match failed.first() {
        // There is probably one cause, so there is one finding.
        Some((_, reason)) if everywhere && failed.iter().all(|(_, other)| alike(other, reason)) => {
            let what = format!("no host can write to the store: {reason}");
            let hosts = failed.iter().map(|(answer, _)| answer.host.name.clone()).collect();
            findings.push(Finding::among(hosts, Severity::Bad, what, remedy));
        }
        _ => findings.extend(failed.iter().map(|(answer, reason)| {
            let what = format!("the store cannot be written from there: {reason}");
            Finding::of(&answer.host.name, Severity::Bad, what, remedy)
        })),
    }
}

/// Returns whether two messages are equal except for names, numbers and times.
fn alike(one: &str, other: &str) -> bool {
    let is_plain = |word: &&str| !word.contains(|letter: char| letter.is_ascii_digit());
    one.split_whitespace().filter(is_plain).eq(other.split_whitespace().filter(is_plain))
}

fn leftovers(answer: &Answer, findings: &mut Vec<Finding>) {
    let host = answer.host.name.as_str();
    let mut launches: Vec<&str> = answer.probe.leftovers.iter().map(|left| left.launch_id.as_str()).collect();
    launches.sort_unstable();
    launches.dedup();
    for launch in launches {
        let left: Vec<&Leftover> = answer.probe.leftovers.iter().filter(|left| left.launch_id == launch).collect();
        let pids: Vec<String> = left.iter().map(|left| left.pid.to_string()).collect();
        let user = left[0].user.as_deref().unwrap_or("somebody");
        let what = format!(
            "{} of launch {launch} of {user} there, such as {} ({})",
            if left.len() == 1 { "a process is".into() } else { format!("{} processes are", left.len()) },
            left[0].pid,
            left[0].command
        );
        let remedy = format!("if that launch is dead, end them on {host}: kill -9 {}", pids.join(" "));
        findings.push(Finding::of(host, Severity::Warning, what, remedy));
    }
}

/// Formats bytes: `1.4 GB`.
pub(crate) fn format_bytes(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1e3;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fixtures::{found, good, one};
    use super::*;

    #[test]
    fn clocks_are_compared_with_the_launchers() {
        let skew = |ahead_seconds: f64, uncertain_seconds: f64| {
            let findings = found(2, |answers| {
                answers[1].clock.ahead_seconds = ahead_seconds;
                answers[1].clock.uncertain_seconds = uncertain_seconds;
            });
            findings.first().map(|finding| finding.severity)
        };
        assert_eq!(skew(0.9, 0.0), None);
        assert_eq!(skew(-1.5, 0.1), Some(Severity::Warning));
        assert_eq!(skew(1.5, 0.6), None);
        assert_eq!(skew(-61.0, 0.1), Some(Severity::Bad));
    }

    #[test]
    fn small_limits_are_found() {
        let findings = found(2, |answers| answers[0].probe.system.max_open_files = Some(1024));
        assert_eq!(one(&findings), ("n0".into(), Severity::Warning, "a process may open 1024 files"));
        let findings = found(2, |answers| answers[0].probe.system.shm_free_bytes = Some(64 << 20));
        assert_eq!(one(&findings).2, "/dev/shm has 67.1 MB free; 8 ranks want 536.9 MB");
        let locked = |has_infiniband| {
            found(2, |answers| {
                answers[0].probe.system.max_locked_bytes = Some(65_536);
                answers[0].probe.system.has_infiniband = has_infiniband;
            })
        };
        assert_eq!((locked(false).len(), locked(true).len()), (0, 1));
    }

    #[test]
    fn a_disk_has_to_hold_all_kept_checkpoints() {
        let with = |free_bytes: u64| {
            let findings = found(2, |answers| {
                let disk = answers[1].probe.checkpoint_disk.as_mut().unwrap();
                disk.free_bytes = free_bytes;
            });
            findings.first().map(|finding| finding.severity)
        };
        // Four checkpoints of 10 GiB.
        assert_eq!(with(40 << 30), None);
        assert_eq!(with((40 << 30) - 1), Some(Severity::Warning));
        assert_eq!(with((10 << 30) - 1), Some(Severity::Bad));
    }

    #[test]
    fn a_store_that_no_host_can_write_is_one_finding() {
        let error = |host: usize| {
            format!("cannot write s3://bucket/runs/admiral-probe-{host}: no answer in 1.{host} s: access denied")
        };
        let all = found(3, |answers| {
            for (i, answer) in answers.iter_mut().enumerate() {
                answer.probe.store = Some(Err(error(i)));
            }
        });
        assert_eq!(one(&all).0, "n0 n1 n2");
        let some = found(3, |answers| answers[1].probe.store = Some(Err(error(1))));
        assert_eq!(one(&some).0, "n1");
        let different = found(2, |answers| {
            answers[0].probe.store = Some(Err("access denied".into()));
            answers[1].probe.store = Some(Err("no route to host".into()));
        });
        assert_eq!(different.len(), 2);
    }

    #[test]
    fn a_machine_with_two_names_is_found() {
        let findings = found(3, |answers| {
            answers[2].probe.system = answers[0].probe.system.clone();
        });
        assert_eq!(one(&findings), ("n2".into(), Severity::Bad, "it is n0 once more, which calls itself n0"));
        let mut answers = [0, 1].map(good);
        assert!(are_distinct(&answers));
        answers[1].probe.system = answers[0].probe.system.clone();
        assert!(!are_distinct(&answers));
    }

    #[test]
    fn leftovers_are_grouped_by_launch() {
        let left = |pid: u32, launch: &str| Leftover {
            pid,
            user: Some("ada".into()),
            command: "admiral train run.yaml".into(),
            launch_id: launch.into(),
        };
        let findings = found(2, |answers| answers[1].probe.leftovers = vec![left(7, "b"), left(8, "a"), left(9, "b")]);
        assert_eq!(findings.len(), 2);
        assert_eq!(findings[1].what, "2 processes are of launch b of ada there, such as 7 (admiral train run.yaml)");
        assert!(findings[1].remedy.ends_with("kill -9 7 9"));
    }
}
