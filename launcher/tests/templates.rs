//! Checks the templates with the tools that read such files: bash, ShellCheck, Kubernetes' schemas, hadolint.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use admiral_launch::template::{Monitoring, TemplateInput, TemplateKind, render};

const TIMEOUT: Duration = Duration::from_secs(60);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Returns the path of a program from the packages in `ci/requirements.txt`.
fn tool(name: &str) -> PathBuf {
    let installed = std::fs::read(root().join(".deps/venv/requirements.installed")).unwrap_or_default();
    let required = std::fs::read(root().join("ci/requirements.txt")).unwrap();
    assert!(installed == required, "run `ci/setup test` first: .deps/venv lacks packages");
    root().join(".deps/venv/bin").join(name)
}

fn feed(command: &mut Command, text: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn input() -> TemplateInput {
    TemplateInput {
        name: "ImageNet 256".to_owned(),
        config: "configs/it's own.yaml".into(),
        run_folder: "runs/own".into(),
        data_path: Some("/data/images".into()),
        steps: 100_000,
        grace_seconds: 90,
        hosts: 4,
        gpus_per_host: 8,
        image: "registry.example.org/admiral:1".to_owned(),
        monitoring: Monitoring::default(),
    }
}

/// Returns runs that differ in what templates show of them.
fn inputs() -> [TemplateInput; 3] {
    let strange = "a: \"b\" #c\n$(touch x) `y` {{z}}";
    [
        input(),
        TemplateInput { name: "x".repeat(100), data_path: None, hosts: 1, gpus_per_host: 1, ..input() },
        TemplateInput {
            name: strange.to_owned(),
            config: "a & \"b\" 'c'.yaml".into(),
            run_folder: "/a: \"b\" #c".into(),
            ..input()
        },
    ]
}

#[test]
fn bash_and_shellcheck_find_nothing_in_the_script() {
    for input in inputs() {
        let script = render(TemplateKind::Slurm, &input).unwrap();
        let bash = feed(Command::new("bash").arg("-n"), &script);
        assert!(bash.status.success(), "{}", said(&bash));
        // Every check except the one that requires braces around each variable.
        let shellcheck = |script: &str| {
            feed(Command::new(tool("shellcheck")).args(["--enable=all", "--exclude=SC2250", "-"]), script)
        };
        let output = shellcheck(&script);
        assert!(output.status.success(), "{}", said(&output));
        assert!(!shellcheck(&script.replace("\"$launcher\"", "$launcher$x")).status.success());
    }
}

/// The script with a stand-in for admiral-launch, which logs its arguments, and one for scontrol.
struct Job {
    folder: tempfile::TempDir,
    process: Child,
}

impl Job {
    fn start(launcher: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str, body: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("#!/bin/bash\nlog={}/log\n{body}\n", folder.path().display())).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        };
        program("admiral-launch", &format!("echo \"launch $#: $*\" >> $log; {launcher}"));
        program("scontrol", "echo \"scontrol $*\" >> $log");
        let script = folder.path().join("job");
        std::fs::write(&script, render(TemplateKind::Slurm, &input()).unwrap()).unwrap();
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
        let process = Command::new("bash")
            .arg(&script)
            .env("PATH", path)
            .env("SLURM_JOB_ID", "77")
            .env("SLURM_SUBMIT_DIR", folder.path())
            .env_remove("ADMIRAL_PROGRAMS")
            .env_remove("ADMIRAL_REQUEUE")
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { folder, process }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn wait_for(&self, line: &str) {
        let start = Instant::now();
        while !self.log().contains(line) {
            assert!(start.elapsed() < TIMEOUT, "no {line:?} in {:?}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
    }

    /// Returns its exit code, and whether it asked Slurm to requeue the job.
    fn end(mut self) -> (Option<i32>, bool) {
        let code = self.process.wait().unwrap().code();
        (code, self.log().contains("scontrol requeue 77"))
    }
}

#[test]
fn the_script_ends_as_the_launcher_does() {
    for code in [0, 64, 65, 75] {
        let job = Job::start(&format!("exit {code}"), &[]);
        job.wait_for("launch 2: run configs/it's own.yaml");
        assert_eq!(job.end(), (Some(code), false));
    }
    // A launcher that does not exist.
    assert_eq!(Job::start("", &[("ADMIRAL_PROGRAMS", "/no/such")]).end(), (Some(127), false));
}

#[test]
fn slurms_warning_reaches_the_launcher_and_the_job_is_requeued() {
    // The launcher takes some time, in which more signals arrive.
    let launcher = "trap 'echo told >> $log' TERM; echo ready >> $log
        until grep -q told $log && [ -e $log.go ]; do sleep 0.02; done; exit 75";
    let end = |signals: &[&str], variables: &[(&str, &str)]| {
        let job = Job::start(launcher, variables);
        job.wait_for("ready");
        for signal in signals {
            job.signal(signal);
            job.wait_for("told\n");
            // Long enough for a second signal to be forwarded, if it were.
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(job.log().matches("told").count(), 1, "the launcher was told more than once");
        std::fs::write(job.folder.path().join("log.go"), "").unwrap();
        job.end()
    };
    assert_eq!(end(&["USR1"], &[]), (Some(75), true));
    // At the time limit itself, Slurm sends SIGTERM.
    assert_eq!(end(&["USR1", "TERM"], &[]), (Some(75), true));
    assert_eq!(end(&["USR1"], &[("ADMIRAL_REQUEUE", "no")]), (Some(75), false));
    // A job that somebody cancelled is not requeued.
    assert_eq!(end(&["TERM"], &[]), (Some(75), false));
}

#[test]
fn a_job_that_lost_a_host_is_requeued_a_limited_number_of_times() {
    let end = |code: i32, losses: &str, variables: &[(&str, &str)]| {
        // The launcher runs in the folder in which the number is kept.
        let job = Job::start(&format!("echo {losses} > .admiral-losses-77; exit {code}"), variables);
        job.wait_for("launch 2");
        let kept = job.folder.path().join(".admiral-losses-77");
        let folder = job.folder.path().to_owned();
        let mut job = job;
        let status = job.process.wait().unwrap().code();
        let kept = std::fs::read_to_string(kept).ok();
        let log = std::fs::read_to_string(folder.join("log")).unwrap();
        (status, log.contains("scontrol requeue 77"), kept.map(|text| text.trim().to_owned()))
    };
    let again = |losses: &str| (Some(74), true, Some(losses.to_owned()));
    assert_eq!(end(74, "", &[]), again("1"));
    assert_eq!(end(74, "4", &[("SLURM_RESTART_COUNT", "30")]), again("5"));
    assert_eq!(end(74, "5", &[]), (Some(74), false, None));
    assert_eq!(end(74, "1", &[("ADMIRAL_MAX_REQUEUES", "1")]), (Some(74), false, None));
    // Another end begins the count again.
    assert_eq!(end(65, "3", &[]), (Some(65), false, None));
}

/// Returns the problems of each job. One process checks all, because loading its schemas takes seconds.
fn check_mpijobs(jobs: &[String]) -> Vec<String> {
    let output = feed(Command::new(tool("python")).arg(root().join("launcher/tests/mpijob.py")), &jobs.join("---\n"));
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn the_mpijob_follows_its_schemas() {
    if std::env::var_os("ADMIRAL_MPIJOB_CRD").is_none() {
        // Written around the test runner, which hides the output of passing tests.
        let note = "SKIPPED: the MPIJob is not held against the operator's own definition: \
                    ADMIRAL_MPIJOB_CRD names no kubeflow.org_mpijobs.yaml\n";
        std::io::stderr().write_all(note.as_bytes()).unwrap();
    }
    let jobs = inputs().map(|input| render(TemplateKind::Kubernetes, &input).unwrap());
    assert_eq!(check_mpijobs(&jobs), ["valid"; 3]);
    let changes = [
        ("slotsPerWorker: 8", "slotsPerWorker: eight"),
        ("slotsPerWorker: 8", "slotPerWorker: 8"),
        ("cleanPodPolicy: Running", "cleanPodPolicy: Always"),
        ("terminationGracePeriodSeconds: 105", "terminationGracePeriodSeconds: long"),
        ("nvidia.com/gpu: 8", "nvidia.com/gpu: [8]"),
        ("mountPath: /dev/shm", "mountPoint: /dev/shm"),
        ("medium: Memory", "medium: [Memory]"),
        ("claimName: imagenet-256-run", "claim: imagenet-256-run"),
        ("- name: shared-memory\n              emptyDir", "- name: other\n              emptyDir"),
    ];
    let wrong = changes.map(|(right, wrong)| {
        assert!(jobs[0].contains(right), "{right}");
        jobs[0].replacen(right, wrong, 1)
    });
    let said = check_mpijobs(&wrong);
    assert_eq!(said.len(), changes.len());
    for ((_, wrong), said) in changes.iter().zip(said) {
        assert!(said.starts_with("invalid: "), "{wrong} is taken");
    }
}

#[test]
fn hadolint_finds_nothing_in_the_dockerfile() {
    let text = render(TemplateKind::Docker, &input()).unwrap();
    let hadolint = |text: &str| feed(Command::new(tool("hadolint")).args(["--no-color", "-"]), text);
    let output = hadolint(&text);
    assert!(output.status.success(), "{}", said(&output));
    for (right, wrong) in [("COPY . .", "COPPY . ."), ("WORKDIR /source", "WORKDIR source"), ("USER 1000", "USER root")]
    {
        assert!(text.contains(right));
        assert!(!hadolint(&text.replacen(right, wrong, 1)).status.success(), "{wrong} is taken");
    }
}
