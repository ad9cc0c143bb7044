//! Text within HTML.

use admiral_contract::printable;

/// Returns text as it may stand in HTML, in an attribute too. Characters that control terminals or the direction of text
/// are shown as escapes.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in printable(text).chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// Returns a text of at most `most` characters: the beginning of a longer one.
pub(crate) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_leaves_its_text() {
        assert_eq!(escape("<a href=\"x\" b='y'>&\u{202e}"), "&lt;a href=&quot;x&quot; b=&#39;y&#39;&gt;&amp;\\u{202e}");
        assert_eq!([cut("éé", 2), cut("ééé", 2)], ["éé", "éé…"]);
    }
}
