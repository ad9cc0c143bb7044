//! The metrics of a run and of its launcher, as Prometheus and promtool read them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bed::{self, Launch, PATIENCE, launcher, pid_of, signal};
use crate::mpirun;
use crate::runs::Place;

/// The metrics that a healthy run of a few steps lacks: they need an end, a checkpoint, an evaluation, or a loss scale.
const OF_OTHER_RUNS: [&str; 8] = [
    "admiral_checkpoint_duration_seconds",
    "admiral_checkpoint_stall_seconds",
    "admiral_evaluation",
    "admiral_launch_exit_code",
    "admiral_launch_remaining_seconds",
    "admiral_loss_scale_floor_log2",
    "admiral_validation_loss",
    "admiral_launch_images_per_second",
];

/// The path of a program of Prometheus: the distribution's, or the one that `ci/setup test` unpacks.
fn of_prometheus(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/prometheus/usr/bin").join(name);
    let found = installed.unwrap_or(unpacked);
    assert!(found.is_file(), "{} is missing: run ci/setup test", found.display());
    found
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Asks an HTTP server of this machine. Returns the status and the body.
fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Waits until a check has a result.
fn wait<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A running Prometheus, which is killed on drop.
struct Prometheus {
    process: Child,
    port: u16,
}

impl Prometheus {
    fn start(config: &Path, data: &Path) -> Self {
        let port = free_port();
        let mut command = Command::new(of_prometheus("prometheus"));
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", data.display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { process, port }
    }

    fn ask(&self, path: &str) -> Option<Value> {
        let (_, body) = get(self.port, path).filter(|(status, _)| *status == 200)?;
        Some(serde_json::from_str::<Value>(&body).unwrap()["data"].clone())
    }

    /// The values of a metric's series.
    fn values(&self, name: &str) -> Vec<f64> {
        let data = self.ask(&format!("/api/v1/query?query={name}")).unwrap_or_default();
        let values = data["result"].as_array().cloned().unwrap_or_default();
        values.iter().map(|series| series["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }

    /// The programs for which an alert fires.
    fn firing(&self, alert: &str) -> BTreeSet<String> {
        let data = self.ask("/api/v1/alerts").unwrap();
        let alerts = data["alerts"].as_array().unwrap().iter();
        let fires = |one: &&Value| one["labels"]["alertname"] == alert && one["state"] == "firing";
        alerts.filter(fires).map(|one| one["labels"]["program"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Writes a template of the run to a file.
fn template(place: &Place, kind: &str, ports: [u16; 2], name: &str) -> String {
    let mut command = Command::new(launcher());
    command.args(["template", kind]).arg(place.path("tiny.yaml"));
    command.args(["--set", &format!("telemetry.listen=127.0.0.1:{}", ports[0])]);
    command.args(["--set", &format!("launch.listen=127.0.0.1:{}", ports[1])]);
    command.args(["--stall-seconds", "5", "--for-seconds", "1", "--scrape-seconds", "1"]);
    let finished = mpirun::run(&mut command, bed::PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    std::fs::write(place.path(name), &finished.stdout).unwrap();
    finished.stdout
}

fn promtool(arguments: &[&str], input: &str) {
    let mut command = Command::new(of_prometheus("promtool"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}\n{input}");
}

/// The names of Admiral's metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c));
    words.filter(|word| word.starts_with("admiral_")).collect()
}

#[test]
fn prometheus_scrapes_a_run_and_a_stopped_rank_fires_the_alert() {
    let _turn = bed::turn();
    let place = Place::new();
    let ports = [free_port(), free_port()];
    let textfile = place.path("launcher.prom");
    let mut command = Command::new(launcher());
    command.arg("run").arg(place.path("tiny.yaml")).args(["--np", "2", "--no-preflight"]);
    command.args(["--set", "training.steps=1000000", "--set", "training.save_interval=1000000"]);
    command.args(["--set", "training.log_interval=5", "--set", "launch.stall_seconds=300"]);
    command.arg("--set").arg(format!("run.folder={}", place.path("run").display()));
    command.args(["--set", &format!("telemetry.listen=127.0.0.1:{}", ports[0])]);
    command.args(["--listen", &ports[1].to_string()]).arg("--textfile").arg(&textfile);
    command.env("OMPI_MCA_mpi_yield_when_idle", "1");
    let launch = Launch::start(&mut command, place.path("run"));
    let state = launch.wait_for(0, 10);

    let texts = ports.map(|port| get(port, "/metrics").unwrap().1);
    for text in &texts {
        promtool(&["check", "metrics"], text);
    }
    let config = template(&place, "prometheus", ports, "prometheus.yml");
    let rules = template(&place, "prometheus-rules", ports, "admiral-rules.yml");
    assert!(config.contains(&format!("127.0.0.1:{}", ports[1])), "{config}");
    promtool(&["check", "config", "--lint-fatal", place.path("prometheus.yml").to_str().unwrap()], "");
    promtool(&["check", "rules", "--lint-fatal", place.path("admiral-rules.yml").to_str().unwrap()], "");
    let dashboard = template(&place, "grafana", ports, "dashboard.json");
    serde_json::from_str::<Value>(&dashboard).unwrap();
    let served: BTreeSet<&str> = texts.iter().flat_map(|text| names(text)).chain(OF_OTHER_RUNS).collect();
    for text in [&rules, &dashboard] {
        let unknown: Vec<&str> = names(text).into_iter().filter(|name| !served.contains(name)).collect();
        assert_eq!(unknown, Vec::<&str>::new(), "no such metrics are served: {served:?}");
    }

    let prometheus = Prometheus::start(&place.path("prometheus.yml"), &place.path("data"));
    wait("Prometheus scrapes both programs", || (prometheus.values("up") == [1.0, 1.0]).then_some(()));
    wait("Prometheus has the step", || {
        prometheus.values("admiral_steps_total").iter().any(|&step| step >= 10.0).then_some(())
    });
    assert_eq!(prometheus.values("admiral_launch_ranks_alive"), [2.0]);
    assert_eq!(prometheus.values("admiral_rank_step_seconds").len(), 2, "one for each rank");
    assert_eq!(prometheus.firing("AdmiralRunStalled"), BTreeSet::new());
    let (status, health) = get(ports[0], "/health").unwrap();
    assert!(status == 200 && health.contains("\"seconds_since_step\""), "{health}");

    let stopped = pid_of(&state, 1);
    signal(stopped, libc::SIGSTOP);
    let both = BTreeSet::from(["admiral".to_owned(), "admiral-launch".to_owned()]);
    wait("the alert fires", || (prometheus.firing("AdmiralRunStalled") == both).then_some(()));
    signal(stopped, libc::SIGCONT);
    wait("the alert ends", || prometheus.firing("AdmiralRunStalled").is_empty().then_some(()));
    drop(prometheus);

    launch.running.signal(libc::SIGTERM);
    let finished = launch.finish();
    assert_eq!(finished.code, Some(75), "{}\n{}", finished.stdout, finished.stderr);
    let last = std::fs::read_to_string(&textfile).unwrap();
    promtool(&["check", "metrics"], &last);
    assert!(last.contains("admiral_launch_exit_code{run="), "{last}");
    let lines = std::fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0]["step"] == 1 && lines[0]["start"] == true, "{:?}", lines[0]);
    assert!(lines[1]["step"] == 5 && lines[1]["values"]["loss"].is_f64(), "{:?}", lines[1]);
    assert!(lines.iter().any(|line| line["values"]["checkpoint/seconds"].is_f64()), "the last save is there, too");
}

#[test]
fn an_address_in_use_is_refused_before_anything_starts() {
    let _turn = bed::turn();
    let place = Place::new();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap();
    for option in ["telemetry.listen", "launch.listen"] {
        let mut command = Command::new(launcher());
        command.arg("run").arg(place.path("tiny.yaml")).args(["--np", "2", "--no-preflight"]);
        command.arg("--set").arg(format!("run.folder={}", place.path(option).display()));
        command.args(["--set", &format!("{option}={address}")]);
        let finished = mpirun::run(&mut command, bed::PATIENCE);
        assert_eq!(finished.code, Some(64), "{}\n{}", finished.stdout, finished.stderr);
        let said = format!("metrics cannot be served at {address}: ");
        assert_eq!((finished.stdout + &finished.stderr).matches(&said).count(), 1, "{}", finished.stderr);
        assert!(!place.path(option).join("checkpoints").exists());
    }
}
