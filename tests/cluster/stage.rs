//! A test bed, an undisturbed run, and launches that are compared with it.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::bed::{Bed, Launch, incidents};
use crate::mpirun::Finished;
use crate::runs::{Place, assert_same};

/// For runs in which a rank hangs. It also shortens the time after which a silent host counts as lost, so other runs on
/// a busy machine do without it.
pub const STANDSTILL: [&str; 2] = ["--set", "launch.stall_seconds=6"];

/// The tensors of a checkpoint, by role and name.
type Tensors = BTreeMap<String, Vec<u8>>;

/// Returns the last tensors of an undisturbed run without the launcher. Tests with as many ranks and steps share it.
fn undisturbed(ranks: usize, steps: u64) -> Arc<Tensors> {
    static RUNS: Mutex<BTreeMap<(usize, u64), Arc<Tensors>>> = Mutex::new(BTreeMap::new());
    let mut runs = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
    let train = || {
        let place = Place::new();
        let fields = fields(steps);
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        place.trained(ranks, "undisturbed", &fields);
        Arc::new(place.tensors("undisturbed", steps))
    };
    Arc::clone(runs.entry((ranks, steps)).or_insert_with(train))
}

/// Hosts, and the tensors of an undisturbed run with as many ranks.
pub struct Stage {
    pub bed: Bed,
    pub place: Place,
    ranks: usize,
    steps: u64,
    undisturbed: Arc<Tensors>,
}

impl Stage {
    pub fn new(hosts: usize, ranks: usize, steps: u64) -> Option<Self> {
        let bed = Bed::new(hosts)?;
        let (place, undisturbed) = (Place::new(), undisturbed(ranks, steps));
        Some(Self { bed, place, ranks, steps, undisturbed })
    }

    /// `admiral-launch run` on n0.
    pub fn command(&self, name: &str, hosts: &str, arguments: &[&str]) -> Command {
        let mut command = self.bed.launcher("n0");
        command.arg("run").arg(self.place.path("tiny.yaml")).args(["--hosts", hosts, "--no-preflight"]);
        command.args(["--np", &self.ranks.to_string()]);
        command.arg("--set").arg(format!("run.folder={}", self.place.path(name).display()));
        command
            .args(fields(self.steps))
            .args(["--set", "launch.stall_seconds=120", "--base-delay-seconds", "0.1"])
            .args(arguments);
        command
    }

    pub fn launch(&self, name: &str, hosts: &str, arguments: &[&str]) -> Launch {
        Launch::start(&mut self.command(name, hosts, arguments), self.place.path(name))
    }

    /// Checks that a run has ended with code 0 and the bytes of the undisturbed run, and left nothing on its hosts.
    pub fn assert_whole(&self, name: &str, finished: &Finished, hosts: &[&str]) {
        assert_eq!(finished.code, Some(0), "{name}: {}\n{}", finished.stdout, finished.stderr);
        assert_same(&self.undisturbed, &self.place.tensors(name, self.steps));
        self.bed.assert_empty(hosts);
    }

    /// Disturbs a run once at step 20. Returns its incident.
    pub fn harmed(&self, name: &str, hosts: &str, harm: impl FnOnce(&Launch, &Value)) -> Value {
        self.harmed_with(name, hosts, &[], harm)
    }

    pub fn harmed_with(
        &self,
        name: &str,
        hosts: &str,
        arguments: &[&str],
        harm: impl FnOnce(&Launch, &Value),
    ) -> Value {
        let launch = self.launch(name, hosts, arguments);
        let state = launch.wait_for(0, 20);
        harm(&launch, &state);
        let finished = launch.finish();
        self.assert_whole(name, &finished, &["n0", "n1"]);
        let mut incidents = incidents(&self.place.path(name));
        assert_eq!(incidents.len(), 1, "{name}: {incidents:#?}");
        let incident = incidents.remove(0);
        assert_eq!(incident["group"]["processes_left"], 0, "{name}");
        assert!(incident["steps_lost"].is_u64() && incident["seconds_lost"].is_f64(), "{name}: {incident:#}");
        incident
    }
}

fn fields(steps: u64) -> Vec<String> {
    let fields =
        [format!("training.steps={steps}"), "training.save_interval=20".into(), "training.log_interval=50".into()];
    fields.into_iter().flat_map(|field| ["--set".to_owned(), field]).collect()
}

/// The verdict of an incident.
pub fn verdict(incident: &Value) -> &str {
    incident["verdict"].as_str().unwrap()
}
