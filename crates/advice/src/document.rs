//! Writes a configuration as YAML with a reason beside each value.

/// The longest line, in characters.
const MAX_WIDTH: usize = 118;

/// A configuration as YAML.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Document {
    text: String,
}

impl Document {
    /// Adds a comment, on as many lines as it needs.
    pub fn comment(&mut self, text: &str) {
        self.lines_of_comment("#", &one_line(text));
    }

    /// Starts a section.
    pub fn section(&mut self, name: &str) {
        self.text += &format!("{name}:\n");
    }

    /// Adds a field of the top level.
    pub fn top(&mut self, name: &str, value: &str) {
        self.text += &format!("{name}: {value}\n");
    }

    /// Adds a field of the last section. `value` is YAML on one line, and `reason` is a comment, which may be empty. A
    /// comment that is too long to stand beside its field stands above it.
    pub fn field(&mut self, name: &str, value: impl std::fmt::Display, reason: &str) {
        let field = format!("  {name}: {value}");
        let reason = one_line(reason);
        if reason.is_empty() {
            self.text += &format!("{field}\n");
        } else if field.chars().count() + reason.chars().count() + 3 <= MAX_WIDTH {
            self.text += &format!("{field} # {reason}\n");
        } else {
            self.lines_of_comment("  #", &reason);
            self.text += &format!("{field}\n");
        }
    }

    fn lines_of_comment(&mut self, start: &str, text: &str) {
        let mut line = start.to_owned();
        for word in text.split(' ') {
            if line.chars().count() + word.chars().count() + 1 > MAX_WIDTH && line != start {
                self.text += &format!("{line}\n");
                line = start.to_owned();
            }
            line += &format!(" {word}");
        }
        self.text += &format!("{line}\n");
    }

    /// Returns the text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Returns text without line breaks and control characters, which would end a comment.
fn one_line(text: &str) -> String {
    text.chars().map(|letter| if is_break(letter) { ' ' } else { letter }).collect()
}

/// Whether YAML or a terminal could take a character for more than a letter.
fn is_break(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_beside_their_fields_or_above() {
        let mut document = Document::default();
        document.comment("for pictures\nof birds");
        document.top("task", "diffusion");
        document.section("model");
        document.field("image_size", 64, "short");
        document.field("num_heads", 4, "");
        document.field("num_channels", 32, &"word ".repeat(30));
        let lines: Vec<&str> = document.text().lines().collect();
        let expected =
            ["# for pictures of birds", "task: diffusion", "model:", "  image_size: 64 # short", "  num_heads: 4"];
        assert_eq!(lines[..5], expected);
        assert!(lines[5].starts_with("  # word") && lines[5].chars().count() <= MAX_WIDTH, "{lines:?}");
        assert_eq!((lines[6].starts_with("  # word"), lines[7]), (true, "  num_channels: 32"));
    }
}
