//! Errors of reading npz files.

/// The longest text of a file that a message repeats, in characters.
const MAX_SHOWN: usize = 200;

/// Why an npz file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file, or an array in it, has another form than expected, or is damaged.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// What was found and what is expected.
        reason: String,
    },
    /// The file has no array with labels.
    #[error("{file} has no array {key:?} with labels; it has: {found}")]
    NoLabels {
        /// The file.
        file: String,
        /// The name of the array.
        key: String,
        /// The names of its arrays.
        found: String,
    },
}

/// Returns a text of a file for a message: not too long, and with its control characters escaped, so that it cannot
/// control a terminal.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for letter in text.chars().take(MAX_SHOWN) {
        match letter.is_control() {
            true => shown.extend(letter.escape_unicode()),
            false => shown.push(letter),
        }
    }
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_files_are_short_and_harmless() {
        assert_eq!(shown("mu \u{1b}[2J é"), "mu \\u{1b}[2J é");
        assert_eq!(shown(&"é".repeat(MAX_SHOWN)), "é".repeat(MAX_SHOWN));
        assert_eq!(shown(&"é".repeat(1 << 16)), "é".repeat(MAX_SHOWN) + "...");
    }
}
