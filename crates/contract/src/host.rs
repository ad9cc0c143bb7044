//! The identity of hosts and processes, which ranks and launcher compare.

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// Returns the host name of this machine, or an empty string if the kernel does not report one.
#[must_use]
pub fn host_name() -> String {
    read("/proc/sys/kernel/hostname").trim().to_owned()
}

/// Returns an identifier of this machine that is valid until the next boot. Two host names with the same identifier are
/// the same machine.
#[must_use]
pub fn machine_identity() -> String {
    format!("{}/{}/{}", read("/etc/machine-id").trim(), read(BOOT_ID).trim(), host_name())
}

/// Returns an identifier of the process ID namespace: the boot ID of this machine and the namespace. Process IDs can be
/// compared only if this identifier is equal. Returns an empty string if either part is unknown, because one part alone
/// would also match other machines.
#[must_use]
pub fn process_identity() -> String {
    let namespace = std::fs::read_link("/proc/self/ns/pid");
    match (std::fs::read_to_string(BOOT_ID), namespace) {
        (Ok(boot), Ok(namespace)) => format!("{} {}", boot.trim(), namespace.display()),
        _ => String::new(),
    }
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The fields of `/proc/PID/stat` that Admiral uses (see proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat {
    /// The state of the process as a letter: R, S, D, T, Z, ...
    pub state: char,
    /// The process ID of the parent.
    pub parent: u32,
    /// The time at which the process started, in clock ticks since boot.
    pub start_ticks: u64,
}

impl ProcessStat {
    /// Reads the state of a process. Returns `None` if there is no such process.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // "pid (name) state parent ...". The name may contain spaces and parentheses. The start time is field 22.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }

    /// Returns whether the process has exited and waits for its parent to reap it.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// Returns the time at which a process started, in clock ticks since boot. Together with the process ID it identifies
/// one process, because process IDs are reused. `None` if there is no such process, or it has exited.
#[must_use]
pub fn start_ticks(pid: u32) -> Option<u64> {
    ProcessStat::of(pid).filter(|stat| !stat.is_dead()).map(|stat| stat.start_ticks)
}

/// Whether a process is alive, as far as this process can tell without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It runs on this machine.
    Alive,
    /// It ran on this machine and has ended.
    Dead,
    /// It runs on another machine or in another process namespace, or the system hides it.
    Unknown,
}

/// Returns whether the process is alive that had the ID `pid` on `machine`, a [`process_identity`], and started at `start`,
/// its [`start_ticks`]. `None` if its start is not known.
///
/// A process counts as dead only if the system says that there is none. A process of another user may have no visible
/// entry in `/proc` (see `hidepid` in proc(5)) and be alive.
#[must_use]
pub fn life_of(machine: &str, pid: u32, start: Option<u64>) -> Life {
    if machine.is_empty() || machine != process_identity() {
        return Life::Unknown;
    }
    life_here(exists(pid), ProcessStat::of(pid), start)
}

/// Decides from what the system says about a process ID of this namespace.
fn life_here(exists: bool, stat: Option<ProcessStat>, start: Option<u64>) -> Life {
    match (exists, stat, start) {
        (false, _, _) => Life::Dead,
        (true, Some(stat), _) if stat.is_dead() => Life::Dead,
        (true, Some(stat), Some(start)) if stat.start_ticks == start => Life::Alive,
        // Another process has the ID now.
        (true, Some(_), Some(_)) => Life::Dead,
        (true, _, _) => Life::Unknown,
    }
}

/// Returns whether the system knows a process with this ID.
fn exists(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    // Without the right to send a signal, the process exists all the same.
    !matches!(test_kill_process(pid), Err(Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_system_says_that_a_process_is_dead() {
        let stat = |state, start_ticks| Some(ProcessStat { state, parent: 1, start_ticks });
        assert_eq!(life_here(false, None, Some(5)), Life::Dead);
        assert_eq!(life_here(true, stat('S', 5), Some(5)), Life::Alive);
        assert_eq!(life_here(true, stat('T', 5), Some(5)), Life::Alive, "a stopped process is not dead");
        assert_eq!(life_here(true, stat('S', 6), Some(5)), Life::Dead, "the ID is that of another process");
        assert_eq!(life_here(true, stat('Z', 5), Some(5)), Life::Dead);
        assert_eq!(life_here(true, None, Some(5)), Life::Unknown, "as under hidepid=2");
        assert_eq!(life_here(true, stat('S', 5), None), Life::Unknown);

        let here = process_identity();
        let own = start_ticks(std::process::id());
        assert_eq!(life_of(&here, std::process::id(), own), Life::Alive);
        assert_eq!(life_of(&here, u32::MAX, own), Life::Dead);
        assert_eq!(life_of(&here, 1, start_ticks(1)), Life::Alive);
        for machine in ["", "elsewhere"] {
            assert_eq!(life_of(machine, std::process::id(), own), Life::Unknown);
        }
        // A process of another user, if this one may not send it a signal.
        assert!(exists(1) && !exists(0));
    }

    #[test]
    fn proc_stat_is_parsed() {
        let stat = |state| {
            format!(
                "7 (a) b) {state} 1 7 7 0 -1 4194560 100 0 0 0 1 2 3 4 20 0 1 0 98765 1000 200 18446744073709551615"
            )
        };
        let alive = ProcessStat { state: 'S', parent: 1, start_ticks: 98_765 };
        assert_eq!(ProcessStat::parse(&stat('S')), Some(alive));
        assert!(!alive.is_dead());
        assert!(ProcessStat::parse(&stat('Z')).is_some_and(|stat| stat.is_dead()));
        assert_eq!(ProcessStat::parse(""), None);
    }

    #[test]
    fn this_process_and_this_host_are_identified() {
        assert!(start_ticks(std::process::id()).is_some());
        assert!(!host_name().is_empty());
        assert!(machine_identity().ends_with(&host_name()));
        assert!(process_identity().contains("pid:["));
    }
}
