//! Attacks on a running launcher by users of the same host or network, and by a writer of the run's folder. Each test is a
//! line of the threat model in SECURITY.md; `launcher/tests/strangers.rs` has those on agents and probes.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::bed::{self, Launch, incidents, launcher};
use crate::runs::Place;

/// The addresses, in hexadecimal as in `/proc/net/tcp`, and the ports at which a process listens.
fn listening(pid: u32) -> Vec<(String, u16)> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let sockets: BTreeSet<String> =
        links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        for line in std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // State 0A is LISTEN.
            if fields[3] == "0A" && sockets.contains(fields[9]) {
                let (address, port) = fields[1].split_once(':').unwrap();
                found.push((address.to_owned(), u16::from_str_radix(port, 16).unwrap()));
            }
        }
    }
    found
}

/// The value of a variable of another process.
fn variable(pid: i32, name: &str) -> String {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let text = String::from_utf8_lossy(&environment).into_owned();
    let start = format!("{name}=");
    text.split('\0').find_map(|variable| variable.strip_prefix(&start)).unwrap().to_owned()
}

/// The files under a folder that contain `text`.
fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(files_with(&entry, text));
        } else if String::from_utf8_lossy(&std::fs::read(&entry).unwrap()).contains(text) {
            found.push(entry.display().to_string());
        }
    }
    found
}

/// The most memory that a process has had, in kB.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Sends bytes until the other side hangs up, and returns what it sent.
fn send(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut answer = Vec::new();
    // Fails as soon as the launcher has had enough.
    let _ = stream.write_all(bytes);
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn strangers_at_the_launchers_port_get_nothing_and_end_no_run() {
    let _turn = bed::turn();
    let place = Place::new();
    let mut command = Command::new(launcher());
    command.arg("run").arg(place.path("tiny.yaml")).args(["--np", "2", "--no-preflight"]);
    command.args(["--set", "training.steps=1000000", "--set", "training.save_interval=1000000"]);
    command.env("OMPI_MCA_mpi_yield_when_idle", "1").env("ADMIRAL_TEST_KEY", "hush-hush");
    let launch = Launch::start(&mut command, place.path("run"));
    let before = launch.wait_for(0, 5);
    let pid = launch.running.id();

    // A run on one host can be reached from this host only.
    let places = listening(pid);
    assert!(!places.is_empty() && places.iter().all(|(address, _)| address == "0100007F"), "{places:?}");
    let port = places[0].1;

    // The secret is in no command line and in no file of the run.
    let secret = variable(bed::parent_of(bed::pid_of(&before, 0)), "ADMIRAL_LAUNCH_TOKEN");
    assert_eq!(secret.len(), 64, "32 random bytes");
    for process in std::fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&line).contains(&secret), "{}", process.path().display());
    }

    let memory = peak_memory(pid);
    let mut silent: Vec<TcpStream> = (0..300).filter_map(|_| TcpStream::connect(("127.0.0.1", port)).ok()).collect();
    let hello = format!("{} {}\n", "ab".repeat(32), "00".repeat(32));
    let replayed = format!("{hello}{} {{\"Hello\":{{\"attempt\":0,\"rank\":0}}}}\n", "00".repeat(32));
    for attack in
        [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0; 4096], &[b'x'; 32 << 20], hello.as_bytes(), replayed.as_bytes()]
    {
        let answer = send(port, attack);
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.len() <= 65 && text.lines().count() <= 1, "more than a nonce: {text}");
        assert!(!text.contains(&secret));
    }
    assert!(peak_memory(pid) < memory + 50_000, "{memory} kB, then {} kB", peak_memory(pid));

    // The run has not noticed.
    let after = launch.wait_for(0, before["step"].as_u64().unwrap() + 5);
    assert_eq!(after["restarts"], 0, "{after:#}");
    silent.clear();
    launch.running.signal(libc::SIGTERM);
    let finished = launch.finish();
    assert_eq!(finished.code, Some(75), "{}\n{}", finished.stdout, finished.stderr);
    assert_eq!(incidents(&place.path("run")).len(), 0, "{}", finished.stderr);
    for text in [&finished.stdout, &finished.stderr] {
        assert!(!text.contains(&secret) && !text.contains("hush-hush"), "{text}");
    }
    for text in [secret.as_str(), "hush-hush"] {
        assert_eq!(files_with(&place.path("run"), text), [""; 0]);
    }
}

#[test]
fn names_of_hosts_in_the_runs_folder_are_no_options() {
    let _turn = bed::turn();
    let place = Place::new();
    let run = |steps: &str| {
        let mut command = Command::new(launcher());
        command.arg("run").arg(place.path("tiny.yaml")).args(["--np", "1", "--no-preflight", "--resume", "auto"]);
        command.args(["--set", &format!("training.steps={steps}")]);
        Launch::start(&mut command, place.path("run")).finish()
    };
    assert_eq!(run("2").code, Some(0));
    // As if a launcher had died while it had ranks on these hosts.
    let (file, mark) = (place.path("run/launch/state.json"), place.path("was-run"));
    let mut state: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    state["condition"] = "training".into();
    state["launcher_pid"] = i32::MAX.into();
    let option = format!("-oProxyCommand=touch {}", mark.display());
    state["hosts"] = serde_json::json!([option, "n\u{1b}[2J", "a b", ""]);
    std::fs::write(&file, state.to_string()).unwrap();
    let finished = run("4");
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("have no host name"), "{}", finished.stderr);
    assert!(!mark.exists() && !finished.stderr.contains('\u{1b}'), "{}", finished.stderr);
}
