//! Processes of other launches.

use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use admiral_contract::environment::LAUNCH_ID;
use serde::{Deserialize, Serialize};

use super::command::output;

/// A process of another launch. It may belong to a healthy run that shares the host, or be left from a dead one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// The process number.
    pub pid: u32,
    /// Its user.
    pub user: Option<String>,
    /// Its command.
    pub command: String,
    /// Its launch.
    pub launch_id: String,
}

/// The owner of a process.
pub(super) struct ProcessOwner {
    pub(super) user: Option<String>,
    pub(super) launch_id: Option<String>,
}

/// Returns what `/proc` says about a process. Processes in other containers, and environments of other users, are
/// hidden.
pub(super) fn owner_of(pid: u32) -> ProcessOwner {
    let uid = std::fs::metadata(format!("/proc/{pid}")).ok().map(|metadata| metadata.uid());
    ProcessOwner { user: uid.map(user_name), launch_id: launch_id(pid) }
}

/// Returns all processes of this network namespace that have a launch ID in their environment, except those of launch
/// `own`. Containers may share a process table; a process in another network belongs to another host.
pub(super) fn leftovers(own: Option<&str>) -> Vec<Leftover> {
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let here = network("self");
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let left = pids.filter(|pid| network(&pid.to_string()) == here).filter_map(|pid| {
        let launch_id = launch_id(pid).filter(|id| own != Some(id))?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
        let command = command.chars().take(200).collect();
        Some(Leftover { pid, user: owner_of(pid).user, command, launch_id })
    });
    left.collect()
}

fn launch_id(pid: u32) -> Option<String> {
    let variables = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = variables
        .split(|&byte| byte == 0)
        .find_map(|variable| variable.strip_prefix(LAUNCH_ID.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")))?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// Returns the user's name, or its number if the name is not known.
fn user_name(uid: u32) -> String {
    // Not from /etc/passwd, because clusters keep users elsewhere. `id` asks there.
    let said = output(Command::new("id").args(["-nu", &uid.to_string()]), Duration::from_secs(2));
    let name = said.ok().filter(|said| said.status.success());
    let name = name.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned());
    name.unwrap_or_else(|| format!("user {uid}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_process_of_another_launch_is_a_leftover() {
        let id = format!("leftovers-{}", std::process::id());
        let mut child = Command::new("sleep").arg("600").env(LAUNCH_ID, &id).stdin(Stdio::null()).spawn().unwrap();
        let of_child = |own: Option<&str>| leftovers(own).into_iter().find(|left| left.pid == child.id());
        // The kernel shows a new program's variables last, after its name and its arguments.
        while launch_id(child.id()).as_ref() != Some(&id) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let found = of_child(Some("another"));
        let own = of_child(Some(&id));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = found.unwrap();
        assert_eq!((found.command.as_str(), found.launch_id), ("sleep 600", id));
        let me = output(Command::new("id").arg("-nu"), Duration::from_secs(60)).unwrap();
        assert_eq!(found.user.unwrap(), String::from_utf8(me.stdout).unwrap().trim());
        assert!(own.is_none());
    }
}
