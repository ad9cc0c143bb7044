//! The right name for a wrong one.

/// The known name that is most like `wrong`, if any is so like it that it was probably meant.
pub(super) fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    let best = known.iter().map(|&name| (strsim::damerau_levenshtein(&wrong, name), name)).min()?;
    (best.0 <= (wrong.chars().count() / 3).max(1)).then_some(best.1)
}

/// What to tell somebody who wrote `wrong`: the name that was meant, or else all that there are.
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
    fn a_slip_is_understood_and_a_guess_is_not() {
        let known = ["num_heads", "num_head_channels", "dropout"];
        assert_eq!(nearest("num_head", &known), Some("num_heads"));
        assert_eq!(nearest("Dropuot", &known), Some("dropout"));
        assert_eq!(nearest("batch", &known), None);
        assert_eq!(advice("batch", &known), "known here: num_heads, num_head_channels, dropout");
    }
}
