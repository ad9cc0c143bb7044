//! Hostfiles in the form of Open MPI 4.1.
//!
//! A line holds a host and `name=value` pairs. `slots` (also `count` or `cpu`) is the number of ranks, and `max_slots`
//! its limit. `#` and `//` begin a comment, and `/* */` encloses one. Each further line of a host adds one rank;
//! `slots=` on such a line is refused.

use std::path::Path;

use super::error::HostError;
use super::host::{Host, MAX_SLOTS_PER_HOST, check_name};

const SLOTS: [&str; 4] = ["slots", "count", "cpu", "cpus"];
const MAX_SLOTS: [&str; 8] =
    ["max_slots", "max-slots", "slots_max", "slots-max", "max_cpus", "max-cpus", "cpus_max", "cpus-max"];
const USER: [&str; 3] = ["username", "user_name", "user-name"];

/// Returns the hosts of a file's `text`, in order. `path` is for messages.
///
/// # Errors
/// If a line is wrong: the first one.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Host>, HostError> {
    let mut entries: Vec<HostLine> = Vec::new();
    for (i, line) in without_comments(text).lines().enumerate() {
        let wrong = |problem| HostError::Line { path: path.to_owned(), line: i + 1, problem };
        let Some(found) = parse_line(line).map_err(wrong)? else { continue };
        match entries.iter_mut().find(|entry| entry.name == found.name) {
            None => entries.push(found),
            Some(entry) => entry.repeat(&found).map_err(wrong)?,
        }
        if let Some(entry) = entries.iter().find(|entry| entry.ranks().is_some_and(|ranks| ranks > MAX_SLOTS_PER_HOST))
        {
            return Err(wrong(format!(
                "{} is given more than {MAX_SLOTS_PER_HOST} ranks, which no host takes",
                entry.name
            )));
        }
        if let Some(entry) = entries.iter().find(|entry| entry.is_over()) {
            return Err(wrong(format!("{} has more slots than its max_slots", entry.name)));
        }
    }
    Ok(entries.into_iter().map(|entry| Host::new(&entry.name, entry.ranks())).collect())
}

struct HostLine {
    name: String,
    slots: Option<usize>,
    max_slots: Option<usize>,
}

impl HostLine {
    fn repeat(&mut self, line: &Self) -> Result<(), String> {
        if line.slots.is_some() {
            return Err(format!(
                "{} was named before: give its slots on its first line, or name it once a slot without \"slots=\"",
                self.name
            ));
        }
        self.slots = Some(self.slots.unwrap_or(1).saturating_add(1));
        self.max_slots = line.max_slots.or(self.max_slots);
        Ok(())
    }

    fn ranks(&self) -> Option<usize> {
        self.slots.or(self.max_slots)
    }

    fn is_over(&self) -> bool {
        self.slots.zip(self.max_slots).is_some_and(|(slots, max)| slots > max)
    }
}

fn parse_line(line: &str) -> Result<Option<HostLine>, String> {
    // Spaces around "=" are allowed.
    let spaced = line.replace('=', " = ");
    let mut words = spaced.split_whitespace();
    let Some(name) = words.next() else { return Ok(None) };
    if name == "=" {
        return Err("a line begins with a host's name".to_owned());
    }
    if let Some((host, slots)) = name.split_once(':').filter(|(_, slots)| slots.parse::<usize>().is_ok()) {
        return Err(format!("{name:?}: in a hostfile the ranks of a host are given as \"{host} slots={slots}\""));
    }
    if name.starts_with(['+', '^']) {
        return Err(format!("{name:?}: names relative to an allocation are not understood; give the host's own"));
    }
    check_name(name)?;
    let mut entry = HostLine { name: name.to_owned(), slots: None, max_slots: None };
    while let Some(field) = words.next() {
        let (Some("="), Some(value)) = (words.next(), words.next()) else {
            return Err(format!("after the host {name} come pairs such as \"slots=8\", not {field:?}"));
        };
        let number =
            || value.parse().map_err(|_| format!("{field}={value}: a number of ranks has to be a whole number from 0"));
        let target = match field {
            _ if SLOTS.contains(&field) => &mut entry.slots,
            _ if MAX_SLOTS.contains(&field) => &mut entry.max_slots,
            _ if USER.contains(&field) => {
                return Err(format!(
                    "{field}={value}: a user cannot be given here; put \"User {value}\" for {name} into ~/.ssh/config"
                ));
            }
            _ => return Err(format!("\"{field}\" is unknown: \"slots\" and \"max_slots\" can be given")),
        };
        if target.replace(number()?).is_some() {
            return Err(format!("\"{field}\" of {name} is given twice"));
        }
    }
    Ok(Some(entry))
}

/// Returns the text without its comments, with the same lines.
fn without_comments(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::with_capacity(text.len());
    while let Some(start) = rest.find(['#', '/']) {
        kept.push_str(&rest[..start]);
        rest = &rest[start..];
        if rest.starts_with('#') || rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if rest.starts_with("/*") {
            let end = rest.find("*/").map_or(rest.len(), |end| end + 2);
            kept.push(' ');
            kept.extend(rest[..end].matches('\n'));
            rest = &rest[end..];
        } else {
            kept.push('/');
            rest = &rest[1..];
        }
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn hosts(text: &str) -> Vec<Host> {
        parse(text, Path::new("hosts")).unwrap()
    }

    fn message(text: &str) -> String {
        parse(text, Path::new("hosts")).unwrap_err().to_string()
    }

    #[test]
    fn open_mpis_hostfiles_are_parsed() {
        let text = "# the cluster\n\nn0 slots=8 max_slots=8\n  n1.example.org  slots = 4 # four work\n10.0.0.3\n\
                    n4 max-slots=2\n// n5\n/* n6\nn7 */ n8 count=3\r\n";
        assert_eq!(
            hosts(text),
            [
                Host::new("n0", Some(8)),
                Host::new("n1.example.org", Some(4)),
                Host::new("10.0.0.3", None),
                Host::new("n4", Some(2)),
                Host::new("n8", Some(3)),
            ]
        );
        assert_eq!(hosts(""), []);
    }

    #[test]
    fn each_further_line_of_a_host_adds_a_rank() {
        assert_eq!(hosts("n0\nn1\nn0\n"), [Host::new("n0", Some(2)), Host::new("n1", None)]);
        assert_eq!(hosts("n0 slots=2\nn0\nn0\n"), [Host::new("n0", Some(4))]);
    }

    #[test]
    fn wrong_lines_are_named() {
        for (text, part) in [
            ("n0 slots=2\n\nn1 slots=two\n", "hosts:3: slots=two: a number"),
            ("n0 slots=-2\n", "hosts:1: slots=-2"),
            ("n0 slots\n", "hosts:1: after the host n0 come pairs"),
            ("n0 slots=\n", "hosts:1: after the host n0"),
            ("n0 n1\n", "hosts:1: after the host n0"),
            ("n0 gpus=8\n", "hosts:1: \"gpus\" is unknown"),
            ("n0 slot=8\n", "hosts:1: \"slot\" is unknown"),
            ("n0:8\n", "\"n0 slots=8\""),
            ("n0,n1\n", "hosts:1: \"n0,n1\" is no host name"),
            ("n0\nn0 slots=2\n", "hosts:2: n0 was named before"),
            ("n0 slots=4 slots=4\n", "hosts:1: \"slots\" of n0 is given twice"),
            ("n0 slots=4 max_slots=2\n", "hosts:1: n0 has more slots than its max_slots"),
            ("n0 max_slots=1\nn1\nn0\n", "hosts:3: n0 has more slots"),
            ("me@n0 slots=1\n", "hosts:1: \"me@n0\": a user cannot be given here"),
            ("n0 username=me\n", "\"User me\" for n0"),
            ("+n0\n", "hosts:1: \"+n0\": names relative"),
            ("/* a\nb */ n0 x=1\n", "hosts:2: \"x\" is unknown"),
            ("= 3\n", "hosts:1: a line begins with a host's name"),
        ] {
            assert!(message(text).contains(part), "{text:?}: {}", message(text));
        }
    }
}
