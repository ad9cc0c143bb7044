//! Which host and which process: names that ranks and launcher compare.

/// The name that this host gives itself; empty where the system does not say.
#[must_use]
pub fn host_name() -> String {
    read("/proc/sys/kernel/hostname").trim().to_owned()
}

/// Identifies this machine since its last boot, by whatever name it is reached: two host names with the same identity
/// are one machine.
#[must_use]
pub fn machine_identity() -> String {
    format!("{}/{}/{}", read("/etc/machine-id").trim(), read(BOOT_ID).trim(), host_name())
}

/// Identifies the process numbers of this machine: its last boot and the namespace in which the numbers count. Empty
/// where the system does not say, because half an identity would match other machines.
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

/// What `/proc/PID/stat` says of a process (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat {
    /// The letter of its state: R, S, D, T, Z, ...
    pub state: char,
    /// Its parent.
    pub parent: u32,
    /// When it was started, in clock ticks since boot.
    pub start_ticks: u64,
}

impl ProcessStat {
    /// Reads it; `None` where there is no such process.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // "pid (name) state parent ...". The name may hold spaces and brackets. The start is field 22.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }

    /// Whether the process has ended and only waits to be reaped by its parent.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// When a process was started, in clock ticks since boot. Together with the number this identifies one process, because
/// numbers are used again. `None` where there is no such process, or it is dead.
#[must_use]
pub fn start_ticks(pid: u32) -> Option<u64> {
    ProcessStat::of(pid).filter(|stat| !stat.is_dead()).map(|stat| stat.start_ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_process_is_parsed() {
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
    fn this_process_and_this_host_are_known() {
        assert!(start_ticks(std::process::id()).is_some());
        assert!(!host_name().is_empty());
        assert!(machine_identity().ends_with(&host_name()));
        assert!(process_identity().contains("pid:["));
    }
}
