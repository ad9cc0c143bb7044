//! Printing for people and as JSON.

use std::io::{ErrorKind, Write};

use admiral_contract::{printable, printable_json};
use serde::Serialize;

use super::error::ToolError;
pub(super) use crate::commands::text::size;

/// Prints a text. A closed pipe is not an error: readers such as `head` stop early.
///
/// # Errors
/// When standard output cannot be written.
pub(super) fn print(text: &str) -> Result<(), ToolError> {
    // Names and texts come from manifests that others may have written.
    write(&printable(text))
}

fn write(text: &str) -> Result<(), ToolError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints a value as JSON.
///
/// # Errors
/// When standard output cannot be written.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), ToolError> {
    let text = serde_json::to_string_pretty(value).map_err(std::io::Error::from)?;
    write(&printable_json(&format!("{text}\n")))
}

/// Formats a manifest's time in UTC, to the second. Returns a text that is not a time unchanged.
pub(super) fn when(created: &str) -> String {
    match created.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => created.to_owned(),
    }
}

/// Formats a number of things: `1 checkpoint`, `2 checkpoints`.
pub(super) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Formats a list of steps: `step 20`, `steps 10, 20`.
pub(super) fn steps(steps: &[u64]) -> String {
    let list = steps.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    if steps.len() == 1 { format!("step {list}") } else { format!("steps {list}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_cut_to_the_second() {
        assert_eq!(when("2021-05-11T01:02:03.999Z"), "2021-05-11 01:02:03");
        assert_eq!(when("2021-05-11T01:02:03+02:00"), "2021-05-10 23:02:03");
        assert_eq!(when("yesterday"), "yesterday");
    }
}
