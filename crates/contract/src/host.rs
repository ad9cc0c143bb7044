//! The identity of hosts and processes, which ranks and launcher compare.

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

#[cfg(test)]
mod tests {
    use super::*;

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
