//! Invalid values, as the sections of a configuration report them.

/// An invalid value of a configuration, found by [`Validate::validate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The path of the field from the top of the file, for example `model.num_heads`.
    pub field: String,
    /// The reason why the value is invalid, and the values that are valid.
    pub message: String,
}

impl Invalid {
    /// Returns a mistake in `field`, a path from the top of the file.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl std::fmt::Display for Invalid {
    /// Writes `field: message`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.field, self.message)
    }
}

/// Formats mistakes as lines of the form `field: message`, without a newline at the end.
#[must_use]
pub fn format_mistakes(mistakes: &[Invalid]) -> String {
    mistakes.iter().map(Invalid::to_string).collect::<Vec<_>>().join("\n")
}

/// A whole configuration that can check its values.
pub trait Validate {
    /// Returns every invalid value. An empty list means that the configuration is valid.
    fn validate(&self) -> Vec<Invalid>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_is_one_line() {
        assert_eq!(format_mistakes(&[]), "");
        let steps = Invalid::new("training.steps", "must be at least 1");
        assert_eq!(format_mistakes(std::slice::from_ref(&steps)), "training.steps: must be at least 1");
        let heads = Invalid::new("model.num_heads", "is 0");
        assert_eq!(format_mistakes(&[steps, heads]), "training.steps: must be at least 1\nmodel.num_heads: is 0");
    }
}
