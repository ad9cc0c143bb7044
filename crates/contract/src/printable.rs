//! Text from files and other programs, as a terminal may show it.

use std::borrow::Cow;

/// Returns the text without characters that control a terminal: they are shown as escapes, such as `\u{1b}`. Line breaks and
/// tabs stay. The name of a file may contain any character, and could otherwise change the colours of a terminal, its title,
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

/// Returns whether a character controls a terminal, or the direction of the text after it.
fn controls_terminal(letter: char) -> bool {
    let is_direction = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    is_direction || (letter.is_control() && !matches!(letter, '\n' | '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_as_escapes() {
        assert_eq!(printable("a\tb\nc é"), "a\tb\nc é");
        assert!(matches!(printable("plain"), Cow::Borrowed(_)));
        assert_eq!(printable("x\u{1b}[31mred\u{7}\r\u{9b}\u{202e}gpj"), "x\\u{1b}[31mred\\u{7}\\r\\u{9b}\\u{202e}gpj");
    }
}
