//! Ending what is left of a launch on hosts whose agents cannot report it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use admiral_contract::environment::LAUNCH_ID;
use admiral_contract::host::ProcessStat;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::mpirun::MpirunCommand;
use crate::session;

/// The text before the number in the output of `sweep`.
pub const SWEPT: &str = "admiral-launch swept, left: ";
/// The timeout for a host's answer.
const TIMEOUT: Duration = Duration::from_secs(6);

/// Ends what is left of a launch on each host, with the `mpirun` command of `plan_for`. Returns the number of processes
/// that could not be ended, and the hosts that did not answer.
pub(super) async fn sweep(hosts: &[String], plan_for: impl Fn(&str) -> MpirunCommand) -> (usize, Vec<String>) {
    let hosts: BTreeSet<&String> = hosts.iter().collect();
    let mut asked = JoinSet::new();
    for &host in &hosts {
        let plan = plan_for(host);
        let mut command = Command::from(plan.command());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let host = host.clone();
        asked.spawn(async move {
            let child = command.spawn().ok()?;
            let pid = child.id();
            let output = timeout(TIMEOUT, child.wait_with_output()).await.ok().and_then(Result::ok);
            if output.is_none() {
                session::remove_for_mpirun(&plan.temporary_folder, pid);
            }
            let output = output?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let left = said.lines().find_map(|line| line.split(SWEPT).nth(1)?.trim().parse::<usize>().ok())?;
            Some((host, left))
        });
    }
    let (mut total, mut answered) = (0, BTreeSet::new());
    while let Some(answer) = asked.join_next().await {
        if let Ok(Some((host, left))) = answer {
            total += left;
            answered.insert(host);
        }
    }
    let silent = hosts.into_iter().filter(|&host| !answered.contains(host)).cloned().collect();
    (total, silent)
}

/// Ends all processes of a launch on this host and the `mpirun` daemons with these process numbers, and removes the
/// daemons' session folders. Returns the number of the launch's processes that are left.
#[must_use]
pub fn sweep_here(launch_id: &str, daemons: &[i32], sessions: &[PathBuf]) -> usize {
    for daemon in daemons.iter().filter_map(|&pid| Pid::from_raw(pid)).filter(|&pid| crate::agent::is_daemon(pid)) {
        let _ = kill_process(daemon, Signal::KILL);
    }
    let mark = format!("{LAUNCH_ID}={launch_id}");
    let mut left = Vec::new();
    for _ in 0..30 {
        left = processes(&mark);
        if left.is_empty() {
            break;
        }
        for &pid in &left {
            // It may be gone already.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    sessions.iter().for_each(|folder| session::remove(folder));
    left.len()
}

/// Returns the processes of this network namespace whose environment holds `mark`. Containers and test beds may share a
/// process table but not a network, so processes of other hosts are left alone.
fn processes(mark: &str) -> Vec<Pid> {
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = network("self");
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let Some(number) = name.parse::<u32>().ok() else { continue };
        let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) else { continue };
        let is_dead = || ProcessStat::of(number).is_none_or(|stat| stat.is_dead());
        if pid == rustix::process::getpid() || network(name) != own || is_dead() {
            continue;
        }
        let environment = std::fs::read(format!("/proc/{name}/environ")).unwrap_or_default();
        if environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processes_of_a_launch_are_ended() {
        let id = format!("sweep-{}", std::process::id());
        let others = format!("others-{}", std::process::id());
        let mut mine = std::process::Command::new("sleep").arg("60").env(LAUNCH_ID, &id).spawn().expect("sleep");
        let mut other = std::process::Command::new("sleep").arg("60").env(LAUNCH_ID, &others).spawn().expect("sleep");
        // They have their variables only after exec.
        let count = |id: &str| processes(&format!("{LAUNCH_ID}={id}")).len();
        while count(&id) == 0 || count(&others) == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(count(&id), 1);
        assert_eq!(sweep_here(&id, &[], &[]), 0);
        assert!(!mine.wait().expect("its end").success());
        assert!(other.try_wait().expect("its state").is_none(), "another launch's process lives");
        other.kill().expect("it lives");
        other.wait().expect("its end");
    }
}
