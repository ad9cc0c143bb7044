//! The memory of this process, as the kernel counts it.

/// Returns the text of /proc/self/status, or an empty text where there is none.
fn status() -> String {
    std::fs::read_to_string("/proc/self/status").unwrap_or_default()
}

/// Returns the highest number of bytes that this process has had in memory so far, or `None` where it is unknown.
pub(super) fn peak_bytes() -> Option<u64> {
    Some(peak(&status())).filter(|bytes| *bytes > 0)
}

/// Resets this process's peak of memory. Returns the text of /proc/self/status from before.
pub(super) fn reset_peak() -> String {
    let status = status();
    // If this is not permitted, the measured peak is that of the whole process, which is an upper bound.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    status
}

/// Returns the bytes in memory of a text of /proc/self/status, or 0 if it does not say them.
pub(super) fn resident(status: &str) -> u64 {
    kibibytes(status, "VmRSS:") << 10
}

/// Returns the peak in bytes of a text of /proc/self/status, or 0 if it does not say it.
pub(super) fn peak(status: &str) -> u64 {
    kibibytes(status, "VmHWM:") << 10
}

fn kibibytes(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_and_peak_memory_are_read() {
        let text = "VmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        assert_eq!((peak(text), resident(text)), (2 << 20, 1 << 20));
        assert!(resident(&reset_peak()) > 0);
        assert!(peak_bytes().is_some_and(|bytes| bytes > 0));
    }
}
