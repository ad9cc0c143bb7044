//! Variables that differ between hosts, or that `mpirun` did not pass on.

use super::answer::{Answer, Needs};
use super::finding::{Finding, Severity, abbreviated};
use super::majority::deviations;

/// Variables that often differ without harm.
const OFTEN_DIFFERENT: [&str; 6] = ["PATH", "TMPDIR", "RUST_LOG", "RUST_BACKTRACE", "SSL_CERT_FILE", "SSL_CERT_DIR"];
/// Variables that belong to each host, so that the launcher's values say nothing about them.
const PER_HOST: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "TMPDIR"];
/// Longer values are cut in messages.
const MAX_SHOWN: usize = 60;

pub(super) fn compare(needs: &Needs, answers: &[Answer], findings: &mut Vec<Finding>) {
    let mut names: Vec<&str> =
        answers.iter().flat_map(|answer| answer.probe.environment.keys()).map(|s| s.as_str()).collect();
    names.extend(needs.environment.keys().map(String::as_str));
    names.sort_unstable();
    names.dedup();
    for name in names {
        let severity = if OFTEN_DIFFERENT.contains(&name) { Severity::Note } else { Severity::Warning };
        let settled: Vec<Option<String>> = answers
            .iter()
            .map(|answer| answer.probe.environment.get(name).map(|value| normalized(name, value)))
            .collect();
        let hosts = answers.iter().map(|answer| answer.host.name.as_str());
        let values: Vec<(&str, Option<&String>)> = hosts.zip(settled.iter().map(Option::as_ref)).collect();
        if let Some(deviation) = deviations(values.iter().map(|(host, value)| (*host, value))) {
            for (value, hosts) in deviation.others {
                let what = format!(
                    "{name} {}; {}: it {}",
                    shown(*value),
                    abbreviated(&deviation.usual_hosts),
                    shown(*deviation.usual)
                );
                let remedy =
                    format!("set it alike on every host, or where the launcher runs and pass it on: --pass {name}");
                findings.push(Finding::among(hosts, severity, what, remedy));
            }
            continue;
        }
        not_carried(needs, name, &values, findings);
    }
}

/// Returns a list of folders without empty entries and repetitions. `mpirun` puts its own folders in front, and not on
/// every host the same number of times.
fn normalized(name: &str, value: &str) -> String {
    if !name.ends_with("PATH") {
        return value.to_owned();
    }
    let mut folders: Vec<&str> = Vec::new();
    for folder in value.split(':').map(|folder| folder.trim_end_matches('/')).filter(|folder| !folder.is_empty()) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders.join(":")
}

/// Compares a variable that is the same on all hosts with the launcher's.
fn not_carried(needs: &Needs, name: &str, values: &[(&str, Option<&String>)], findings: &mut Vec<Finding>) {
    let own = needs.environment.get(name);
    // If only the hosts have the variable, their administrator set it.
    let (Some(own), Some((_, theirs))) = (own, values.first()) else { return };
    if PER_HOST.contains(&name) || *theirs == Some(own) {
        return;
    }
    let what = format!("{name} {} where the launcher runs, and on the hosts it {}", shown(Some(own)), shown(*theirs));
    let is_grave = theirs.is_none() && !OFTEN_DIFFERENT.contains(&name);
    let severity = if is_grave { Severity::Warning } else { Severity::Note };
    findings.push(Finding::among(vec![], severity, what, format!("to give the ranks the launcher's: --pass {name}")));
}

fn shown(value: Option<&String>) -> String {
    match value {
        None => "is not set".into(),
        Some(value) if value.chars().count() <= MAX_SHOWN => format!("is {value:?}"),
        Some(value) => format!("is {:?}...", value.chars().take(MAX_SHOWN).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::checks::compare;
    use super::super::fixtures::{found, good, needs, one};
    use super::*;

    fn set(environment: &mut BTreeMap<String, String>, name: &str, value: &str) {
        environment.insert(name.into(), value.into());
    }

    #[test]
    fn a_variable_that_differs_on_one_host_is_found() {
        let findings = found(3, |answers| set(&mut answers[2].probe.environment, "OMP_NUM_THREADS", "1"));
        let what = r#"OMP_NUM_THREADS is "1"; n0 and n1: it is "4""#;
        assert_eq!(one(&findings), ("n2".into(), Severity::Warning, what));
        let findings = found(3, |answers| set(&mut answers[0].probe.environment, "AWS_REGION", "eu-west-1"));
        assert_eq!(one(&findings).2, r#"AWS_REGION is "eu-west-1"; n1 and n2: it is not set"#);
        let findings = found(3, |answers| set(&mut answers[0].probe.environment, "PATH", "/bin"));
        assert_eq!(one(&findings).1, Severity::Note);
    }

    #[test]
    fn repeated_folders_are_ignored() {
        let findings = found(3, |answers| {
            for answer in &mut *answers {
                set(&mut answer.probe.environment, "LD_LIBRARY_PATH", "/opt/lib:/usr/lib");
            }
            set(&mut answers[1].probe.environment, "LD_LIBRARY_PATH", "/opt/lib/:/usr/lib::/opt/lib");
        });
        assert_eq!(findings, []);
        let findings = found(3, |answers| {
            for answer in &mut *answers {
                set(&mut answer.probe.environment, "LD_LIBRARY_PATH", "/opt/lib:/usr/lib");
            }
            set(&mut answers[1].probe.environment, "LD_LIBRARY_PATH", "/usr/lib:/opt/lib");
        });
        assert_eq!(one(&findings).0, "n1");
    }

    #[test]
    fn variables_that_mpirun_did_not_pass_on_are_found() {
        let mut environment = needs().environment;
        set(&mut environment, "AWS_REGION", "eu-west-1");
        set(&mut environment, "LD_LIBRARY_PATH", "/opt/lib");
        let needs = Needs { environment, ..needs() };
        let findings = compare(&needs, &[good(0), good(1)]);
        let (hosts, severity, what) = one(&findings);
        assert_eq!((hosts.as_str(), severity), ("", Severity::Warning));
        assert_eq!(what, r#"AWS_REGION is "eu-west-1" where the launcher runs, and on the hosts it is not set"#);
        assert!(findings[0].remedy.ends_with("--pass AWS_REGION"));
    }
}
