//! Filling templates, and names that are valid in them.

/// Replaces each `{{name}}` by its value.
pub(super) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").expect("a template's braces are closed");
        let (_, value) = values.iter().find(|(known, _)| *known == name).expect("a template's names are known");
        text.push_str(before);
        text.push_str(value);
        rest = after;
    }
    text + rest
}

/// Returns a name that is valid in Slurm and Kubernetes: a DNS label of at most `longest` letters that begins with a
/// letter.
pub(super) fn label(name: &str, longest: usize) -> String {
    let mut label = String::new();
    for c in name.chars().map(|c| c.to_ascii_lowercase()) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() && !label.is_empty() {
            label.push(c);
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
    }
    label.truncate(longest);
    let label = label.trim_end_matches('-');
    if label.is_empty() { "admiral".to_owned() } else { label.to_owned() }
}

/// Returns a name as one line, for a comment.
pub(super) fn title(name: &str) -> String {
    name.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_become_labels() {
        assert_eq!(label("ImageNet 256", 40), "imagenet-256");
        assert_eq!(label("64--größe_", 40), "gr-e");
        assert_eq!(label("...", 40), "admiral");
        assert_eq!(label("ab-cd", 3), "ab");
    }

    proptest! {
        #[test]
        fn labels_are_valid(name in ".{0,60}", longest in 8_usize..50) {
            let label = label(&name, longest);
            prop_assert!(label.len() <= longest && label.starts_with(|c: char| c.is_ascii_lowercase()));
            prop_assert!(!label.ends_with('-'));
            prop_assert!(label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
        }
    }
}
