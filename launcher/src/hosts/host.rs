//! A host, its name, and its number of slots.

use serde::{Deserialize, Serialize};

/// The slots of a host for which no number is given.
pub const DEFAULT_SLOTS: usize = 8;
/// The largest number of slots of a host. Larger numbers are taken for mistakes.
pub const MAX_SLOTS_PER_HOST: usize = 4096;
/// The host of a run on this machine alone.
pub const LOCALHOST: &str = "localhost";

/// A host and its slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The name as given, by which `mpirun` and ssh reach the host.
    pub name: String,
    /// The number of ranks that the host takes, one per GPU.
    pub slots: usize,
    /// Whether the number was given: by `slots=`, `:8`, or the scheduler. If not, it is [`DEFAULT_SLOTS`] until the
    /// preflight replaces it by the number of GPUs.
    pub slots_given: bool,
}

impl Host {
    pub(super) fn new(name: &str, slots: Option<usize>) -> Self {
        Self { name: name.to_owned(), slots: slots.unwrap_or(DEFAULT_SLOTS), slots_given: slots.is_some() }
    }
}

/// Returns whether this is a host name or an IPv4 address. Anything else from a file must not reach a command line.
#[must_use]
pub fn is_host_name(name: &str) -> bool {
    check_name(name).is_ok()
}

/// Refuses anything but a host name or an IPv4 address, so that a name on a command line cannot be taken for an option
/// or for two hosts.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if let Some((user, host)) = name.split_once('@') {
        return Err(format!(
            "{name:?}: a user cannot be given here; write \"{host}\" and put \"User {user}\" for it into ~/.ssh/config"
        ));
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(is_plain) {
        return Ok(());
    }
    if name.is_empty() {
        return Err("a host has no name".to_owned());
    }
    Err(format!("{name:?} is no host name: ASCII letters, digits, \".\", \"-\" and \"_\" can stand in one"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn invalid_host_names_are_refused() {
        for name in ["n0", "10.0.0.1", "gpu-a1.example.org", "7", "a_b"] {
            check_name(name).unwrap();
        }
        for name in ["", "-x", "a,b", "a b", "fe80::1", "a;b", ".a", "é"] {
            check_name(name).unwrap_err();
        }
        let message = check_name("me@n0").unwrap_err();
        assert!(message.contains("User me") && message.contains("\"n0\""), "{message}");
    }
}
