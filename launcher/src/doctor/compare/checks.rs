//! Runs all comparisons.

use super::answer::{Answer, Needs};
use super::finding::Finding;
use super::{environment, gpus, hosts, network, programs};

/// Returns all findings, the worst first.
#[must_use]
pub fn compare(needs: &Needs, answers: &[Answer]) -> Vec<Finding> {
    let mut findings = Vec::new();
    programs::compare(needs, answers, &mut findings);
    gpus::compare(needs, answers, &mut findings);
    hosts::compare(needs, answers, &mut findings);
    network::compare(needs, answers, &mut findings);
    environment::compare(needs, answers, &mut findings);
    // The sort is stable, so findings of one severity keep their order.
    findings.sort_by_key(|finding| finding.severity);
    findings
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::super::finding::Severity;
    use super::super::fixtures::found;
    use super::*;
    use crate::doctor::probe::Disk;

    #[test]
    fn good_hosts_have_no_findings() {
        for count in [1, 2, 4] {
            assert_eq!(found(count, |_| {}), []);
        }
    }

    #[test]
    fn findings_are_sorted_by_severity() {
        let findings = found(3, |answers| {
            answers[1].probe.environment.insert("RUST_LOG".into(), "debug".into());
            answers[2].probe.store = Some(Err("denied".into()));
            answers[0].clock.ahead_seconds = 5.0;
        });
        let severities: Vec<Severity> = findings.iter().map(|finding| finding.severity).collect();
        assert_eq!(severities, [Severity::Bad, Severity::Warning, Severity::Note], "{findings:#?}");
    }

    /// Spoils a host in a way that has to be found.
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
        /// If up to two of five hosts are spoiled, exactly these are named in bad findings.
        #[test]
        fn exactly_the_spoiled_hosts_are_named(
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

        /// The order of the answers changes only the order of names in the findings.
        #[test]
        fn findings_do_not_depend_on_the_order_of_hosts(spoiled in 0_usize..5, how in 0_usize..8, turn in 0_usize..5) {
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
