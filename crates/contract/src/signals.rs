//! Signals that a program was told to ignore.

/// Returns whether this process ignores a signal. Asked before the first handler is installed, it tells what the parent
/// wanted: `nohup` ignores SIGHUP, and a shell ignores SIGINT for a command that it starts in the background. A handler
/// would override that.
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| mask_has(&status, signal))
}

/// `SigIgn` is a hexadecimal mask; bit n-1 stands for signal n (see proc(5)).
fn mask_has(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    (1..=64).contains(&signal) && mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n";
        assert!(mask_has(status, 1) && mask_has(status, 13));
        for signal in [-1, 0, 2, 12, 14, 64, 65] {
            assert!(!mask_has(status, signal), "{signal}");
        }
        assert!(!mask_has("", 1));
    }
}
