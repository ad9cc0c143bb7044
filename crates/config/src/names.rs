//! Suggestions for misspelled names.

/// Returns the known name that is closest to `wrong`, or `None` if none is close enough to be a likely misspelling.
pub(super) fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    let best = known.iter().map(|&name| (strsim::damerau_levenshtein(&wrong, name), name)).min()?;
    (best.0 <= (wrong.chars().count() / 3).max(1)).then_some(best.1)
}

/// Returns advice about the unknown name `wrong`: the closest known name, or a list of all known names.
pub(super) fn advice(wrong: &str, known: &[&str]) -> String {
    match nearest(wrong, known) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("known here: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelled_names_are_suggested_and_others_are_not() {
        let known = ["num_heads", "num_head_channels", "dropout"];
        assert_eq!(nearest("num_head", &known), Some("num_heads"));
        assert_eq!(nearest("Dropuot", &known), Some("dropout"));
        assert_eq!(nearest("batch", &known), None);
        assert_eq!(advice("batch", &known), "known here: num_heads, num_head_channels, dropout");
    }
}
