//! Checks the sbatch script and node lists with Slurm itself: a controller for this test, with nodes that run nothing.
//! Without Slurm's programs (`ci/setup slurm` installs them) the tests print that and check nothing.

#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use admiral_launch::hosts::expand;
use admiral_launch::template::{Monitoring, TemplateInput, TemplateKind, render};

#[path = "../../tests/support/slurm.rs"]
mod programs;

/// A controller with four nodes of 8 GPUs and 128 cores.
struct Slurm {
    folder: tempfile::TempDir,
    processes: Vec<Child>,
}

impl Drop for Slurm {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Slurm {
    fn start() -> Option<Self> {
        let [munged, slurmctld, ..] = programs::programs(["munged", "slurmctld", "sbatch", "scontrol"])?;
        let mut slurm = Self { folder: tempfile::tempdir().unwrap(), processes: Vec::new() };
        let folder = slurm.folder.path().to_owned();
        std::fs::create_dir(folder.join("state")).unwrap();
        slurm.processes.push(programs::start_munge(&munged, &folder));
        let user = Command::new("id").arg("-un").output().unwrap();
        let user = String::from_utf8(user.stdout).unwrap();
        let at = folder.display();
        let configuration = format!(
            "ClusterName=test\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort={}\nSlurmdPort={}\n\
             AuthType=auth/munge\nAuthInfo=socket={at}/munge.sock\nCredType=cred/munge\nSlurmUser={}\n\
             StateSaveLocation={at}/state\nSlurmctldPidFile={at}/slurmctld.pid\nMailProg=/bin/true\n\
             ProctrackType=proctrack/linuxproc\nSelectType=select/cons_tres\nGresTypes=gpu\n\
             SuspendProgram=/bin/true\nResumeProgram=/bin/true\nSuspendTime=3600\nResumeTimeout=600\n\
             NodeName=gpu[1-4] CPUs=128 RealMemory=512000 Gres=gpu:8 State=CLOUD\n\
             PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n",
            free_port(),
            free_port(),
            user.trim(),
        );
        std::fs::write(slurm.configuration(), configuration).unwrap();
        slurm.begin(Command::new(slurmctld).arg("-D").arg("-f").arg(slurm.configuration()));
        programs::wait_for("the controller", || {
            let answer = slurm.run(Command::new("scontrol").arg("ping"));
            String::from_utf8_lossy(&answer.stdout).contains("is UP")
        });
        Some(slurm)
    }

    fn configuration(&self) -> PathBuf {
        self.folder.path().join("slurm.conf")
    }

    fn begin(&mut self, command: &mut Command) {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.processes.push(command.env("SLURM_CONF", self.configuration()).spawn().unwrap());
    }

    fn run(&self, command: &mut Command) -> Output {
        command.env("SLURM_CONF", self.configuration()).current_dir(self.folder.path()).output().unwrap()
    }

    /// Returns the answer of `sbatch --test-only` to a script.
    fn test_only(&self, script: &str) -> Result<String, String> {
        let path = self.folder.path().join("job");
        std::fs::write(&path, script).unwrap();
        let output = self.run(Command::new("sbatch").arg("--test-only").arg(Path::new("job")));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(said) } else { Err(said) }
    }
}

fn input() -> TemplateInput {
    TemplateInput {
        name: "ImageNet 256".to_owned(),
        config: "own.yaml".into(),
        run_folder: "runs/own".into(),
        data_path: None,
        steps: 100_000,
        grace_seconds: 90,
        hosts: 4,
        gpus_per_host: 8,
        image: "admiral".to_owned(),
        monitoring: Monitoring::default(),
    }
}

#[test]
fn slurm_accepts_the_script() {
    let Some(slurm) = Slurm::start() else { return };
    let script = render(TemplateKind::Slurm, &input()).unwrap();
    let said = slurm.test_only(&script).unwrap();
    assert!(said.contains("using 512 processors on nodes gpu[1-4]"), "{said}");
    // The check itself works: Slurm refuses what is impossible.
    let said =
        slurm.test_only(&render(TemplateKind::Slurm, &TemplateInput { hosts: 5, ..input() }).unwrap()).unwrap_err();
    assert!(said.contains("not available"), "{said}");
    let said = slurm
        .test_only(&render(TemplateKind::Slurm, &TemplateInput { gpus_per_host: 9, ..input() }).unwrap())
        .unwrap_err();
    assert!(said.contains("not available"), "{said}");
    for (option, wrong) in [
        ("--signal=B:USR1@", "--signal=B:NONE@"),
        ("--time=1-00:00:00", "--time=soon"),
        ("--gres=gpu:8", "--gres=tpu:8"),
        ("--requeue", "--requeu3"),
    ] {
        assert!(script.contains(option));
        slurm.test_only(&script.replacen(option, wrong, 1)).unwrap_err();
    }
}

/// `scontrol show hostnames` expands lists as Slurm does.
#[test]
fn node_lists_expand_as_in_slurm() {
    let Some(slurm) = Slurm::start() else { return };
    for list in [
        "n0",
        "node[01-03,7]",
        "a[1-3],b,c[098-101]",
        "y[8-11]",
        "rack[1-2]node[0-1]",
        "gpu-a[1-2],gpu-b[001,003-004]",
        "n[1-3,1]",
    ] {
        let output = slurm.run(Command::new("scontrol").args(["show", "hostnames", list]));
        assert!(output.status.success(), "{list}: {}", String::from_utf8_lossy(&output.stderr));
        let names: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(expand(list).unwrap(), names, "{list}");
    }
}
