//! Texts in memory that several processes share. They are stored in atomic words of eight bytes.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is put before the end of a text that is too long.
const MARK: &str = "…";

/// Stores a text in words. It is cut if it is longer than they are, and else followed by zero bytes.
pub(crate) fn store_text(words: &[AtomicU64], text: &str) {
    let mut bytes = text.bytes();
    for word in words {
        let next = std::array::from_fn(|_| bytes.next().unwrap_or(0));
        word.store(u64::from_le_bytes(next), Ordering::Relaxed);
    }
}

/// Returns the text in words, up to the first zero byte.
pub(crate) fn load_text(words: &[AtomicU64]) -> String {
    let bytes = words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
    String::from_utf8_lossy(&bytes.take_while(|&byte| byte != 0).collect::<Vec<_>>()).into_owned()
}

/// Returns a text if it has at most `space` bytes, else its end after an ellipsis: the end of a path tells more than its
/// beginning.
pub(crate) fn end_of(text: &str, space: usize) -> Cow<'_, str> {
    if text.len() <= space {
        return text.into();
    }
    let least = text.len() - space.saturating_sub(MARK.len());
    let start = (least..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    format!("{MARK}{}", &text[start..]).into()
}
