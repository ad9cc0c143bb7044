//! Escapes control characters, and characters that are not seen, in text from files and other programs, before a terminal shows it.

use std::borrow::Cow;

/// Returns the text without characters that control a terminal, or that are not seen: they are shown as escapes, such as
/// `\u{1b}`. Line breaks and tabs stay. The name of a file may contain any character, and could otherwise change the colours of a terminal, its title,
/// or what earlier lines seem to say.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(controls_terminal) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if controls_terminal(letter) {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    Cow::Owned(shown)
}

/// Returns JSON with the same characters as JSON escapes. Valid JSON has them only within its strings.
#[must_use]
pub fn printable_json(json: &str) -> Cow<'_, str> {
    if !json.contains(controls_terminal) {
        return Cow::Borrowed(json);
    }
    let mut shown = String::with_capacity(json.len() + 8);
    for letter in json.chars() {
        if controls_terminal(letter) {
            shown.push_str(&format!("\\u{:04x}", u32::from(letter)));
        } else {
            shown.push(letter);
        }
    }
    Cow::Owned(shown)
}

/// Returns whether a character controls a terminal or the direction of the text after it, or has no width. Two names that
/// differ only by such a character look the same. Line breaks and tabs are none of them.
#[must_use]
pub fn controls_terminal(letter: char) -> bool {
    let is_unseen = matches!(
        letter,
        '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{feff}'
    );
    let is_direction =
        matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let is_line_break = matches!(letter, '\u{2028}' | '\u{2029}');
    is_line_break || is_direction || is_unseen || (letter.is_control() && !matches!(letter, '\n' | '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_json() {
        assert_eq!(printable_json("{\n  \"a\": \"b\u{7f}\u{200f}\"\n}"), "{\n  \"a\": \"b\\u007f\\u200f\"\n}");
    }

    #[test]
    fn control_characters_are_shown_as_escapes() {
        assert_eq!(printable("a\tb\nc é"), "a\tb\nc é");
        assert!(matches!(printable("plain"), Cow::Borrowed(_)));
        assert_eq!(printable("a\u{200b}b\u{feff}\u{2060}\u{2066}"), "a\\u{200b}b\\u{feff}\\u{2060}\\u{2066}");
        assert_eq!(printable("x\u{1b}[31mred\u{7}\r\u{9b}\u{202e}gpj"), "x\\u{1b}[31mred\\u{7}\\r\\u{9b}\\u{202e}gpj");
    }
}
