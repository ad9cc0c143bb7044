//! Quoting for a shell.

/// Quotes a word for a shell, if it needs quotes.
#[must_use]
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+^".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A shell reads every quoted word unchanged.
        #[test]
        fn quoting_keeps_words(words in prop::collection::vec("[ -~é\n]{0,8}", 1..5)) {
            let line = words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
            let output = Command::new("sh").arg("-c").arg(format!("printf '%s\\0' {line}")).output().unwrap();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), words.join("\0") + "\0");
        }
    }
}
