//! Numbers and arguments as text, for several commands.

/// Formats bytes in decimal units, for example `1.4 GB`.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 999.95 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1e3;
    }
    format!("{value:.1} PB")
}

/// Returns a number with its unit: `1 channel`, `3 channels`.
pub(super) fn counted(number: u64, unit: &str) -> String {
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

/// Returns an argument as a shell reads it back: in quotes, if a character needs them.
pub(super) fn shell(argument: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "@%+=:,./_-".contains(letter);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_have_a_unit_and_at_most_three_digits_before_the_point() {
        let bytes = [0, 999, 1000, 999_949, 999_950, 4_700_000_000, u64::MAX];
        assert_eq!(bytes.map(size), ["0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "4.7 GB", "18446.7 PB"]);
    }

    #[test]
    fn units_have_a_plural() {
        assert_eq!([0, 1, 3].map(|number| counted(number, "rank")), ["0 ranks", "1 rank", "3 ranks"]);
    }

    #[test]
    fn a_shell_reads_arguments_back() {
        assert_eq!(shell("s3://bucket/a-0.tar"), "s3://bucket/a-0.tar");
        for argument in ["", "my birds", "a-{0..9}.tar", "*.zip", "it's $HOME", "~/a", "a;b", "\"x\" \\ `y`"] {
            let script = format!("printf %s {}", shell(argument));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), argument);
        }
    }
}
