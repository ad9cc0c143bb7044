//! Faulty hosts: `admiral-launch doctor` names the host, the cause and the remedy, and a run starts without the host or
//! refuses to start.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bed::{self, Bed};
use crate::mpirun::{self, Finished};
use crate::runs::Place;

const HOSTS: &str = "n0:2,n1:1,n2:1";

/// Three hosts, a copy of the program that tests can replace on one host, and a run.
struct Stage {
    bed: Bed,
    place: Place,
}

impl Stage {
    fn new() -> Option<Self> {
        let bed = Bed::new(3)?;
        let place = Place::new();
        fs::create_dir(place.path("bin")).unwrap();
        fs::create_dir(place.path("empty")).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_admiral"), place.path("bin/admiral")).unwrap();
        Some(Self { bed, place })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    /// Mounts `from` over `to`, on `host` only.
    fn put_over(&self, host: &str, from: &Path, to: &Path, options: &[&str]) {
        let words = [&["over", host, from.to_str().unwrap(), to.to_str().unwrap()], options].concat();
        self.bed.control(&words);
    }

    fn launcher(&self, verb: &str, hosts: &str, run: &str, more: &[&str]) -> Finished {
        let mut command = self.bed.launcher("n0");
        command.arg(verb).arg(self.path("tiny.yaml")).args(["--hosts", hosts]);
        command.arg("--program").arg(self.path("bin/admiral"));
        command.arg("--set").arg(format!("run.folder={}", self.path(run).display())).args(more);
        mpirun::run(&mut command, bed::PATIENCE)
    }

    /// Checks that `doctor` reports a finding of this severity on `host`, as text and as JSON.
    fn finding(&self, run: &str, severity: &str, host: &str, parts: &[&str]) -> Finished {
        let finished = self.launcher("doctor", HOSTS, run, &["--json"]);
        let receipt: Value = serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", finished.stdout, finished.stderr));
        let findings = receipt["findings"].as_array().unwrap();
        let is_it = |finding: &&Value| {
            let text = format!("{} -> {}", finding["what"], finding["remedy"]);
            finding["severity"] == severity
                && finding["hosts"].as_array().is_some_and(|hosts| hosts.iter().any(|name| name == host))
                && parts.iter().all(|part| text.contains(part))
        };
        assert!(findings.iter().any(|finding| is_it(&finding)), "no {severity} {parts:?} of {host}: {findings:#?}");
        finished
    }
}

#[test]
fn healthy_hosts_pass() {
    let Some(stage) = Stage::new() else { return };
    let finished = stage.launcher("doctor", HOSTS, "well", &["--json"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let receipt: Value = serde_json::from_str(&finished.stdout).unwrap();
    let bad: Vec<&Value> =
        receipt["findings"].as_array().unwrap().iter().filter(|finding| finding["severity"] == "bad").collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let hosts = receipt["hosts"].as_array().unwrap();
    assert_eq!(hosts.len(), 3);
    assert!(hosts.iter().all(|host| host["report"]["program"] == hosts[0]["report"]["program"]));
    let kept: Value = serde_json::from_slice(&fs::read(stage.path("well/launch/receipt.json")).unwrap()).unwrap();
    assert_eq!(kept, receipt);
}

#[test]
fn a_fault_of_one_host_is_named_with_its_remedy() {
    let Some(stage) = Stage::new() else { return };

    // A bridge as first network interface is only a warning.
    stage.bed.control(&["bridge", "n2", "docker0"]);
    let finished = stage.finding("bridge", "warning", "n2", &["docker0", "--interfaces"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);

    // Another build on one host: the program with one more byte.
    fs::create_dir(stage.path("other")).unwrap();
    let mut other = fs::read(stage.path("bin/admiral")).unwrap();
    other.push(0);
    fs::write(stage.path("other/admiral"), other).unwrap();
    fs::set_permissions(stage.path("other/admiral"), fs::metadata(stage.path("bin/admiral")).unwrap().permissions())
        .unwrap();
    stage.put_over("n1", &stage.path("other"), &stage.path("bin"), &[]);
    let finished = stage.finding("other", "bad", "n1", &["the program admiral", "copy one build"]);
    assert_eq!(finished.code, Some(74), "{}", finished.stderr);

    // No program on that host.
    stage.put_over("n1", &stage.path("empty"), &stage.path("bin"), &[]);
    let finished = stage.finding("missing", "bad", "n1", &["the program admiral cannot be read", "copy one build"]);
    assert_eq!(finished.code, Some(74), "{}", finished.stderr);
    let run = stage.launcher("run", HOSTS, "missing", &[]);
    assert_eq!(run.code, Some(74), "{}", run.stderr);
    assert!(run.stderr.contains("n1 cannot be used") && run.stderr.contains("--allow-fewer-hosts 2"), "{}", run.stderr);

    // The host cannot be reached.
    stage.bed.control(&["stop", "n1"]);
    let finished = stage.finding("away", "bad", "n1", &["cannot be reached"]);
    assert_eq!(finished.code, Some(74), "{}", finished.stderr);

    // If --min-ranks allows it, the run starts on the two other hosts.
    let run = stage.launcher("run", HOSTS, "fewer", &["--allow-fewer-hosts", "2", "--set", "training.steps=3"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("goes on without n1"), "{}", run.stderr);
    assert!(run.stderr.contains("2 ranks instead of 4"), "{}", run.stderr);
    assert!(stage.place.is_published("fewer", 3));
    stage.bed.assert_empty(&["n0", "n2"]);
    let run = stage.launcher("run", HOSTS, "too-few", &["--allow-fewer-hosts", "3"]);
    assert_eq!(run.code, Some(74), "{}", run.stderr);
    assert!(run.stderr.contains("2 of at least 3 hosts are good"), "{}", run.stderr);
}

#[test]
fn a_store_that_one_host_cannot_write_is_named() {
    let Some(stage) = Stage::new() else { return };
    fs::create_dir(stage.path("store")).unwrap();
    stage.put_over("n2", &stage.path("store"), &stage.path("store"), &["ro"]);
    let url = format!("checkpoint.url={}", stage.path("store").display());
    let finished = stage.launcher("doctor", HOSTS, "read-only", &["--set", &url]);
    assert_eq!(finished.code, Some(74), "{}", finished.stderr);
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert!(said.contains("bad: n2: the store cannot be written from there"), "{said}");
}
