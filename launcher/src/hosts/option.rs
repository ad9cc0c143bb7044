//! The option `--hosts n0:8,n1`, which has the form of Open MPI's `--host`.

use super::host::{Host, check_name};

/// Parses a list of hosts. As in Open MPI, the slots of a repeated host are added.
pub fn parse(text: &str) -> Result<Vec<Host>, String> {
    let mut hosts: Vec<Host> = Vec::new();
    for item in text.split(',') {
        let item = item.trim();
        let (name, slots) = match item.split_once(':') {
            Some((name, slots)) => {
                let slots = slots.parse().map_err(|_| {
                    format!("{item:?}: after the colon stands the number of the host's ranks, as in \"n0:8\"")
                })?;
                (name, Some(slots))
            }
            None => (item, None),
        };
        check_name(name)?;
        match hosts.iter_mut().find(|host| host.name == name) {
            None => hosts.push(Host::new(name, slots)),
            Some(host) => {
                let before = if host.slots_given { host.slots } else { 1 };
                *host = Host::new(name, Some(before.saturating_add(slots.unwrap_or(1))));
            }
        }
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn hosts_with_and_without_ranks() {
        assert_eq!(parse("n0:8, n1").unwrap(), [Host::new("n0", Some(8)), Host::new("n1", None)]);
        assert_eq!(parse("n0,n1:3,n0,n1:2").unwrap(), [Host::new("n0", Some(2)), Host::new("n1", Some(5))]);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("", "a host has no name"),
            ("n0,,n1", "a host has no name"),
            ("n0:x", "\"n0:x\": after the colon"),
            ("n0:-1", "after the colon"),
            ("n0:8:8", "after the colon"),
            (":8", "a host has no name"),
            ("n0:99999999999999999999", "after the colon"),
            ("root@n0:8", "User root"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(part), "{text:?}: {message}");
        }
    }
}
