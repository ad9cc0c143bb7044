//! The sbatch script in a real Slurm: a controller, and a daemon on each host. Without Slurm's programs
//! (`ci/setup slurm` installs them) the test prints that and checks nothing.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bed::{self, Bed, launcher};
use crate::mpirun;
use crate::runs::{Place, assert_same};
use crate::slurm_programs::{programs, start_munge, wait_for};

/// Slurm on the hosts of a bed.
struct Slurm<'a> {
    bed: &'a Bed,
    folder: PathBuf,
    processes: Vec<Child>,
}

impl Drop for Slurm<'_> {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl<'a> Slurm<'a> {
    /// Starts it on `hosts` hosts, of two GPUs each, as far as Slurm knows.
    fn start(bed: &'a Bed, place: &Place, hosts: usize) -> Option<Self> {
        let [munged, slurmctld, slurmd, ..] = programs(["munged", "slurmctld", "slurmd", "sbatch", "scontrol"])?;
        let folder = place.path("slurm");
        std::fs::create_dir_all(folder.join("state")).unwrap();
        let at = folder.display();
        let nodes: String = (0..hosts)
            .map(|host| format!("NodeName=n{host} NodeAddr={} CPUs=32 RealMemory=1000 Gres=gpu:2\n", bed.address(host)))
            .collect();
        let configuration = format!(
            "ClusterName=test\nSlurmctldHost=n0({})\nSlurmctldPort=16817\nSlurmdPort=16818\nAuthType=auth/munge\n\
             AuthInfo=socket={at}/munge.sock\nCredType=cred/munge\nSlurmUser=root\nSlurmdUser=root\n\
             StateSaveLocation={at}/state\nSlurmdSpoolDir={at}/spool.%n\nSlurmctldPidFile={at}/slurmctld.pid\n\
             SlurmdPidFile={at}/slurmd.%n.pid\nMailProg=/bin/true\nProctrackType=proctrack/linuxproc\n\
             TaskPlugin=task/none\nSelectType=select/cons_tres\nGresTypes=gpu\nReturnToService=2\nSlurmdTimeout=10\n\
             SlurmdParameters=config_overrides\nKillWait=5\n{nodes}\
             PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n",
            bed.address(0)
        );
        std::fs::write(folder.join("slurm.conf"), configuration).unwrap();
        // Slurm only counts these files.
        std::fs::write(folder.join("gres.conf"), "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n").unwrap();
        // Without a file system of control groups.
        let cgroup = format!("CgroupPlugin=cgroup/v1\nCgroupMountpoint={at}\n");
        std::fs::write(folder.join("cgroup.conf"), cgroup).unwrap();
        let mut slurm = Self { bed, processes: vec![start_munge(&munged, &folder)], folder: folder.clone() };
        let configuration = folder.join("slurm.conf");
        let in_background = |mut command: Command| {
            command.env("SLURM_CONF", &configuration).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let mut controller = bed.on("n0", slurmctld.to_str().unwrap());
        controller.arg("-D").arg("-f").arg(&configuration);
        slurm.processes.push(in_background(controller));
        for host in (0..hosts).map(|host| format!("n{host}")) {
            let mut daemon = bed.on(&host, slurmd.to_str().unwrap());
            daemon.args(["-D", "-N", &host, "-f"]).arg(&configuration);
            slurm.processes.push(in_background(daemon));
        }
        wait_for("Slurm", || slurm.said("sinfo", &["--noheader", "--format=%D %T"]).trim() == format!("{hosts} idle"));
        Some(slurm)
    }

    /// Returns what a program of Slurm says.
    fn said(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = self.bed.on("n0", program);
        command.args(arguments).env("SLURM_CONF", self.folder.join("slurm.conf"));
        command.env("ADMIRAL_PROGRAMS", launcher().parent().unwrap()).current_dir(&self.folder);
        let finished = mpirun::run(&mut command, bed::PATIENCE);
        finished.stdout + &finished.stderr
    }

    /// Returns a field of a job.
    fn field(&self, job: &str, field: &str) -> String {
        let shown = self.said("scontrol", &["--oneliner", "show", "job", job]);
        let value = shown.split_whitespace().find_map(|word| word.strip_prefix(field)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("no {field} in {shown}")).to_owned()
    }

    fn log(&self, job: &str) -> String {
        std::fs::read_to_string(self.folder.join(format!("tiny-{job}.log"))).unwrap_or_default()
    }

    /// Waits until the job is in a state. A job that is queued again is let start now: Slurm lets it wait for two minutes.
    fn wait_for_state(&self, job: &str, state: &str) {
        let end = Instant::now() + bed::PATIENCE;
        loop {
            let now = self.field(job, "JobState");
            if now == state {
                return;
            }
            let shown = || format!("{now} instead of {state}: {}", self.log(job));
            assert!(Instant::now() < end && !["FAILED", "CANCELLED"].contains(&now.as_str()), "{}", shown());
            if now == "PENDING" {
                self.said("scontrol", &["update", &format!("JobId={job}"), "StartTime=now"]);
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

/// Waits, longer than for one process.
fn wait_until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + bed::PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A job on two of the hosts.
struct Job<'a> {
    slurm: &'a Slurm<'a>,
    place: &'a Place,
    id: String,
}

impl<'a> Job<'a> {
    /// Submits the script of a run of `STEPS` steps, after `edit`.
    fn submit(slurm: &'a Slurm<'a>, place: &'a Place, edit: impl Fn(String) -> String) -> Self {
        let text = std::fs::read_to_string(place.path("tiny.yaml")).unwrap();
        let text = text.replace("steps: 20,", &format!("steps: {STEPS},")).replace("log_interval: 1,", "");
        std::fs::write(place.path("tiny.yaml"), &text).unwrap();
        let mut template = Command::new(launcher());
        template.args(["template", "slurm", "--hosts", "2", "--gpus-per-host", "2"]).arg(place.path("tiny.yaml"));
        let script = mpirun::run(&mut template, bed::PATIENCE).stdout;
        std::fs::write(slurm.folder.join("job"), edit(script)).unwrap();
        let said = slurm.said("sbatch", &["job"]);
        Self { slurm, place, id: said.split_whitespace().last().unwrap().to_owned() }
    }

    /// Waits until a checkpoint of a step after `step` is there. Returns the newest one.
    fn wait_for_checkpoint(&self, step: u64) -> u64 {
        let newest = || (step + 1..=STEPS).rev().find(|step| self.place.is_published("run", *step));
        wait_until("a checkpoint", || newest().is_some());
        newest().unwrap()
    }

    /// Waits for the end of the job, and compares its last checkpoint with that of an undisturbed run.
    fn ends_as_undisturbed(&self) {
        self.slurm.wait_for_state(&self.id, "COMPLETED");
        self.place.trained(4, "undisturbed", &[]);
        assert_same(&self.place.tensors("undisturbed", STEPS), &self.place.tensors("run", STEPS));
    }
}

const STEPS: u64 = 200;

#[test]
fn a_job_that_is_preempted_goes_on_from_its_checkpoint() {
    let Some(bed) = Bed::new(2) else { return };
    let place = Place::new();
    let Some(slurm) = Slurm::start(&bed, &place, 2) else { return };
    let job = Job::submit(&slurm, &place, |script| script);
    job.wait_for_checkpoint(0);
    assert_eq!(slurm.field(&job.id, "NodeList"), "n[0-1]");
    slurm.said("scancel", &["--signal=USR1", "--batch", &job.id]);
    slurm.wait_for_state(&job.id, "PENDING");
    let log = slurm.log(&job.id);
    assert!(log.contains("stopped with a checkpoint before the time limit; queueing the job again"), "{log}");
    assert!(!place.is_published("run", STEPS), "{log}");
    job.ends_as_undisturbed();
    assert_eq!(slurm.field(&job.id, "Restarts"), "1");
}

/// Exhaustive tests.
mod long {
    use super::*;

    #[test]
    #[ignore = "long: make test-long"]
    fn a_job_that_loses_a_host_goes_on_with_another() {
        let Some(bed) = Bed::new(3) else { return };
        let place = Place::new();
        let Some(slurm) = Slurm::start(&bed, &place, 3) else { return };
        let job = Job::submit(&slurm, &place, |script| {
            // Slurm 22.05 starts no step on a new host of a job with GPUs that was queued again.
            let script = script.replacen("#SBATCH --gres=gpu:2\n", "", 1);
            // Fewer ranks would give other bytes.
            script.replacen("admiral-launch\" run ", "admiral-launch\" run --min-ranks 4 ", 1)
        });
        job.wait_for_checkpoint(0);
        assert_eq!(slurm.field(&job.id, "NodeList"), "n[0-1]");
        bed.control(&["stop", "n1"]);
        job.ends_as_undisturbed();
        let log = slurm.log(&job.id);
        assert_eq!(slurm.field(&job.id, "NodeList"), "n[0,2]", "{log}");
        assert_ne!(slurm.field(&job.id, "Restarts"), "0", "{log}");
    }
}
