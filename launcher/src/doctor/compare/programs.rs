//! Checks that all hosts have the same program, libtorch, MPI and configuration.

use std::collections::BTreeMap;

use super::answer::{Answer, Needs};
use super::finding::{Finding, Severity, abbreviated};
use super::majority::{Deviation, deviations};
use crate::doctor::probe::{FileIdentity, Probe, ProgramVersion};
use crate::job::JobKind;

pub(super) fn compare(needs: &Needs, answers: &[Answer], findings: &mut Vec<Finding>) {
    let same_build = "copy one build of admiral and admiral-launch to every host, to the same place";
    file(answers, findings, "the program admiral", same_build, |probe| Some(&probe.program));
    file(answers, findings, "admiral-launch", same_build, |probe| Some(&probe.launcher));
    versions(answers, findings);
    libraries(answers, findings);
    for (i, name) in needs.files.iter().enumerate() {
        let remedy = "give every host the same file, or keep it on a file system that they share";
        file(answers, findings, name, remedy, |probe| probe.files.get(i));
    }
    for answer in answers {
        for place in &answer.probe.missing {
            let what = format!("{} is not there", place.display());
            let remedy = match needs.kind {
                JobKind::Train => "put the data there, mount it, or set data.path to where every host has it",
                JobKind::Sample => "copy it there, or give the path or URL at which every host has it",
            };
            findings.push(Finding::of(&answer.host.name, Severity::Bad, what, remedy));
        }
    }
}

/// Compares a file that has to be the same on all hosts. A file that cannot be read counts as missing.
fn file<'a>(
    answers: &'a [Answer],
    findings: &mut Vec<Finding>,
    name: &str,
    remedy: &str,
    get: impl Fn(&'a Probe) -> Option<&'a Result<FileIdentity, String>>,
) {
    let mut there = Vec::new();
    for answer in answers {
        match get(&answer.probe) {
            Some(Ok(identity)) => there.push((answer.host.name.as_str(), identity)),
            Some(Err(reason)) => {
                let what = format!("{name} cannot be read: {reason}");
                findings.push(Finding::of(&answer.host.name, Severity::Bad, what, remedy));
            }
            None => {}
        }
    }
    differences(deviations(there), findings, name, remedy, short);
}

fn versions(answers: &[Answer], findings: &mut Vec<Finding>) {
    let mut known: Vec<(&str, &ProgramVersion)> = Vec::new();
    for answer in answers {
        let host = answer.host.name.as_str();
        match &answer.probe.version {
            Ok(Some(version)) => known.push((host, version)),
            Ok(None) => {}
            // A missing program was reported already.
            Err(_) if answer.probe.program.is_err() => {}
            Err(reason) => {
                let what = format!("the program admiral does not run: {reason}");
                let remedy = "run `admiral version` on that host: a shared library that is missing is named there";
                findings.push(Finding::of(host, Severity::Bad, what, remedy));
            }
        }
    }
    let of =
        |get: fn(&ProgramVersion) -> &String| -> Vec<_> { known.iter().map(|&(host, v)| (host, get(v))).collect() };
    let remedy = "install one version of Open MPI on every host: two do not always understand each other";
    differences(deviations(of(|version| &version.mpi)), findings, "the MPI library", remedy, |mpi| mpi.clone());
}

fn libraries(answers: &[Answer], findings: &mut Vec<Finding>) {
    let described: Vec<_> = answers.iter().filter(|answer| matches!(answer.probe.version, Ok(Some(_)))).collect();
    let all = described.iter().map(|answer| (answer.host.name.as_str(), &answer.probe.libtorch));
    // Only what differs from `other`.
    let describe = |files: &BTreeMap<String, FileIdentity>, other: &BTreeMap<String, FileIdentity>| {
        let different = files.iter().filter(|&(name, identity)| other.get(name) != Some(identity));
        let files: Vec<String> = different.map(|(name, identity)| format!("{name} {}", short(identity))).collect();
        if files.is_empty() { "without some of its files".to_owned() } else { files.join(", ") }
    };
    let Some(deviation) = deviations(all) else { return };
    let path = |host: &str| {
        let answer = described.iter().find(|answer| answer.host.name == host)?;
        let Ok(Some(version)) = &answer.probe.version else { return None };
        Some(format!(
            " (version {} from {})",
            version.libtorch_loaded.as_deref().unwrap_or("unknown"),
            version.libtorch_path.as_ref()?.display()
        ))
    };
    for (files, hosts) in deviation.others {
        let own = format!("{}{}", describe(files, deviation.usual), path(&hosts[0]).unwrap_or_default());
        let usual = path(&deviation.usual_hosts[0]).unwrap_or_default();
        let usual = format!("{}{usual}", describe(deviation.usual, files));
        let what = format!("libtorch is another one: {own}; on {} it is {usual}", abbreviated(&deviation.usual_hosts));
        let remedy = "install one libtorch on every host, to the same place; look for LD_LIBRARY_PATH";
        findings.push(Finding::among(hosts, Severity::Bad, what, remedy));
    }
}

fn differences<T>(
    odd: Option<Deviation<'_, T>>,
    findings: &mut Vec<Finding>,
    name: &str,
    remedy: &str,
    describe: impl Fn(&T) -> String,
) {
    let Some(deviation) = odd else { return };
    for (thing, hosts) in deviation.others {
        let usual = describe(deviation.usual);
        let what = format!(
            "{name} is another one: {}; on {} it is {usual}",
            describe(thing),
            abbreviated(&deviation.usual_hosts)
        );
        findings.push(Finding::among(hosts, Severity::Bad, what, remedy));
    }
}

/// The first letters of a hash, for people.
fn short(identity: &FileIdentity) -> String {
    let (kind, hash) = identity.identity.split_once(' ').unwrap_or(("", &identity.identity));
    format!("{kind} {}, {} bytes", &hash[..hash.len().min(12)], identity.bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fixtures::{found, one};
    use super::*;

    fn other() -> FileIdentity {
        FileIdentity { bytes: 11, identity: "sha256 ffff".into() }
    }

    #[test]
    fn a_different_program_is_found() {
        let findings = found(4, |answers| answers[2].probe.program = Ok(other()));
        let what =
            "the program admiral is another one: sha256 ffff, 11 bytes; on n0 and 2 more it is sha256 aa, 10 bytes";
        assert_eq!(one(&findings), ("n2".into(), Severity::Bad, what));
    }

    #[test]
    fn a_missing_program_is_reported_once() {
        let findings = found(4, |answers| {
            answers[0].probe.program = Err("/opt/admiral: No such file or directory".into());
            answers[0].probe.version = Err("/opt/admiral is not there".into());
            answers[0].probe.libtorch.clear();
        });
        let (host, severity, what) = one(&findings);
        assert_eq!((host.as_str(), severity), ("n0", Severity::Bad));
        assert!(what.contains("/opt/admiral: No such file"), "{what}");
    }

    #[test]
    fn a_different_libtorch_is_found_with_its_path() {
        let findings = found(3, |answers| {
            answers[1].probe.libtorch.insert("libtorch_cpu.so".into(), other());
            let version = answers[1].probe.version.as_mut().unwrap().as_mut().unwrap();
            version.libtorch_path = Some("/usr/lib/libtorch_cpu.so".into());
        });
        let (host, severity, what) = one(&findings);
        assert_eq!((host.as_str(), severity), ("n1", Severity::Bad));
        assert!(what.contains("from /usr/lib/libtorch_cpu.so") && what.contains("/opt/libtorch/"), "{what}");
    }

    #[test]
    fn a_program_that_does_not_run_is_reported_with_the_reason() {
        let reason = "error while loading shared libraries: libtorch.so";
        let findings = found(2, |answers| answers[1].probe.version = Err(reason.into()));
        assert!(one(&findings).2.contains(reason));
    }

    #[test]
    fn a_different_mpi_or_configuration_is_bad() {
        let findings = found(3, |answers| {
            answers[0].probe.version.as_mut().unwrap().as_mut().unwrap().mpi = "Open MPI v5.0.1".into();
        });
        assert!(one(&findings).2.contains("the MPI library is another one: Open MPI v5.0.1; on n1 and n2 it is"));
        let findings = found(3, |answers| answers[0].probe.files = vec![Ok(other())]);
        assert!(one(&findings).2.starts_with("run.yaml is another one"));
    }
}
