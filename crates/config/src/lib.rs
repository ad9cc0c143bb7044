//! The machinery of configuration: read YAML, apply overrides, find the line of a mistake, print.
//!
//! This is the lowest layer: it knows no component. Each component owns its section as a struct in its own
//! folder; `train::RunConfig` puts the sections together.
//!
//! A file becomes a [`tree`] that knows where each value came from. Overrides change the tree. The tree is held to
//! the schema of the configuration's type, which finds every unknown name; then it is read into the type, which finds
//! every wrong value; then the type's own `validate` finds what cannot work together.

mod check;
mod error;
mod names;
mod overrides;
mod schema;
mod show;
mod tree;

use std::path::Path;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

pub use error::{ConfigError, Mistake, Place};
pub use show::show;

/// A value that cannot work, found by a section's `validate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The field, as a path from the top of the file: `model.num_heads`.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Invalid {
    /// A mistake in `field`, a path from the top of the file.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// TEMP
pub fn format_mistakes(mistakes: &[Invalid]) -> String {
    mistakes.iter().map(|m| format!("{}: {}", m.field, m.message)).collect::<Vec<_>>().join("\n")
}

/// A whole configuration, which knows what cannot work in it.
pub trait Validate {
    /// Every value that cannot work; none for a configuration that can.
    fn validate(&self) -> Vec<Invalid>;
}

/// Reads the configuration in the YAML file `path`, with `overrides` of the form `section.field=value` (the value in
/// YAML) applied in order.
///
/// # Errors
/// Where the file cannot be read or is not YAML, and else with every mistake found in it and in the overrides.
pub fn load<T: DeserializeOwned + JsonSchema + Validate>(path: &Path, overrides: &[String]) -> Result<T, ConfigError> {
    let file = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&file, &text, overrides),
        Err(source) => Err(ConfigError::Read { file, source }),
    }
}

/// As [`load`], from the text of a file whose name is only used in messages.
///
/// # Errors
/// As [`load`].
pub fn parse<T: DeserializeOwned + JsonSchema + Validate>(
    file: &str,
    text: &str,
    overrides: &[String],
) -> Result<T, ConfigError> {
    let mut root = tree::parse_file(file, text)?;
    let schema = schema::Schema::of::<T>();
    let mut mistakes = Vec::new();
    for text in overrides {
        mistakes.extend(overrides::apply(&mut root, &schema, text).err());
    }
    mistakes.extend(check::unknown_fields(&mut root, &schema, file));
    let (config, wrong_values) = check::read::<T>(&root, &schema, file);
    mistakes.extend(wrong_values);
    // Values can only be judged together when each of them is what it should be.
    if let (Some(config), true) = (&config, mistakes.is_empty()) {
        mistakes.extend(config.validate().into_iter().map(|invalid| Mistake {
            place: root.place_of(&invalid.field, file),
            field: invalid.field,
            message: invalid.message,
        }));
    }
    match config {
        Some(config) if mistakes.is_empty() => Ok(config),
        _ => Err(ConfigError::Mistakes(mistakes)),
    }
}

#[cfg(test)]
mod tests;
