//! The memory that is free on this host.

/// Returns the bytes of memory that this process can take without swapping: those that the kernel states as available, or
/// the limit of its container (cgroup v2) if that is less. `u64::MAX` if neither is known.
pub(crate) fn available_memory() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default();
    available(&meminfo, &limit)
}

fn available(meminfo: &str, limit: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let limit = limit.trim().parse::<u64>().unwrap_or(u64::MAX);
    kibibytes.map_or(u64::MAX, |kibibytes| kibibytes.saturating_mul(1024)).min(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_what_is_free_and_the_limit_counts() {
        let meminfo = "MemTotal:  900 kB\nMemAvailable:   300 kB\n";
        assert_eq!(available(meminfo, "max\n"), 300 * 1024);
        assert_eq!(available(meminfo, "4096\n"), 4096);
        assert_eq!(available("", ""), u64::MAX);
        assert!((1 << 20..1 << 50).contains(&available_memory()));
    }
}
