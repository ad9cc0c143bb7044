//! Attacks on the built launcher's agent and probe by a listener that does not know the secret: it must not learn the secret
//! and must not have anything run. Each test is a line of the threat model in SECURITY.md.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use admiral_launch::environment::machine_digest;
use admiral_launch::protocol::{Start, ToAgent};

const SECRET: &str = "5ec2e7005ec2e7005ec2e7005ec2e7005ec2e7005ec2e7005ec2e7005ec2e700";

/// What the listener answers to the proof of its victim. Then it sends its orders.
#[derive(Debug, Clone, Copy)]
enum Proof {
    /// The proof that it was given.
    Reflected,
    /// A guess.
    Guessed,
    /// None: it goes on as if it had been accepted.
    Left,
}

/// Listens like a launcher, and sends `orders` after its proof. Returns the address, and all bytes that each connection gave.
fn listen(proof: Proof, orders: Vec<String>) -> (String, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, received) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let _ = sender.send(attack(&stream, proof, &orders));
        }
    });
    (address, received)
}

/// Plays the launcher for one connection. Failures are expected: the victim hangs up.
fn attack(stream: &TcpStream, proof: Proof, orders: &[String]) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut reader = BufReader::new(stream);
    let mut bytes = Vec::new();
    let _ = (&*stream).write_all(format!("{}\n", "ab".repeat(32)).as_bytes());
    let _ = reader.read_until(b'\n', &mut bytes);
    let line = String::from_utf8_lossy(&bytes).into_owned();
    let answer = match proof {
        Proof::Reflected => line.split_whitespace().nth(1).unwrap_or("").to_owned() + "\n",
        Proof::Guessed => "00".repeat(32) + "\n",
        Proof::Left => String::new(),
    };
    let _ = (&*stream).write_all(answer.as_bytes());
    for order in orders {
        // Without a MAC, and with one that is made up.
        let _ = (&*stream).write_all(format!("{order}\n{} {order}\n", "00".repeat(32)).as_bytes());
    }
    let _ = reader.read_to_end(&mut bytes);
    bytes
}

/// A program that shows by a file that it was run.
fn trap(folder: &Path) -> (PathBuf, PathBuf) {
    let (program, mark) = (folder.join("admiral"), folder.join("was-run"));
    std::fs::write(&program, format!("#!/bin/sh\ntouch {}\n", mark.display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    (program, mark)
}

/// Runs a command that must fail, and returns its standard error.
fn fails(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    said
}

fn launcher(argument: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_admiral-launch"));
    command.arg(argument).env("ADMIRAL_LAUNCH_MACHINE", machine_digest());
    command
}

#[test]
fn a_listener_in_the_place_of_the_launcher_captures_no_agent() {
    for proof in [Proof::Reflected, Proof::Guessed, Proof::Left] {
        let folder = tempfile::tempdir().unwrap();
        let (program, mark) = trap(folder.path());
        let start = Start {
            argv: vec![program.display().to_string()],
            environment: Vec::new(),
            log: folder.path().join("rank.log"),
            show: true,
            orphan_seconds: 5.0,
        };
        let order = serde_json::to_string(&ToAgent::Start(start)).unwrap();
        let (address, received) = listen(proof, vec![order]);
        let mut agent = launcher("agent");
        agent.env("ADMIRAL_LAUNCH_ADDRESSES", &address).env("ADMIRAL_LAUNCH_TOKEN", SECRET);
        agent.env("OMPI_COMM_WORLD_RANK", "0").env("OMPI_COMM_WORLD_LOCAL_RANK", "0").env("ADMIRAL_ATTEMPT", "0");
        let said = fails(&mut agent);
        let bytes = received.recv().unwrap();
        assert!(!bytes.is_empty(), "it was not attacked: {said}");
        assert!(!String::from_utf8_lossy(&bytes).contains(SECRET) && !said.contains(SECRET), "{proof:?}: {said}");
        assert!(!mark.exists() && !folder.path().join("rank.log").exists(), "{proof:?}: {said}");
    }
}

#[test]
fn a_listener_in_the_place_of_the_launcher_has_a_probe_run_nothing() {
    for proof in [Proof::Reflected, Proof::Guessed, Proof::Left] {
        let folder = tempfile::tempdir().unwrap();
        let (program, mark) = trap(folder.path());
        let question = serde_json::json!({
            "program": program, "files": ["/etc/hostname"], "places": ["/etc"], "run_folder": null,
            "checkpoint_url": folder.path(), "launch_id": null, "salt": "s",
        });
        let (address, received) = listen(proof, vec![question.to_string()]);
        let mut probe = launcher("probe");
        probe.env("ADMIRAL_PROBE_ADDRESSES", &address).env("ADMIRAL_PROBE_TOKEN", SECRET);
        let said = fails(&mut probe);
        let bytes = received.recv().unwrap();
        assert!(!bytes.is_empty(), "it was not attacked: {said}");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!text.contains(SECRET) && !said.contains(SECRET), "{proof:?}: {said}");
        // One line of nonce and proof, and nothing about the host.
        assert_eq!(text.lines().count(), 1, "{proof:?}: {text}");
        assert!(!mark.exists(), "{proof:?}: {said}");
    }
}

#[test]
fn a_listener_on_another_host_than_the_launcher_is_not_even_called() {
    let (address, received) = listen(Proof::Guessed, Vec::new());
    let mut agent = launcher("agent");
    // The launcher is elsewhere, and the address is one of this host.
    agent.env("ADMIRAL_LAUNCH_MACHINE", "0".repeat(32)).env("ADMIRAL_LAUNCH_ADDRESSES", &address);
    agent.env("ADMIRAL_LAUNCH_TOKEN", SECRET).env("ADMIRAL_ATTEMPT", "0");
    agent.env("OMPI_COMM_WORLD_RANK", "0").env("OMPI_COMM_WORLD_LOCAL_RANK", "0");
    fails(&mut agent);
    assert!(received.try_recv().is_err(), "it was called");
}
