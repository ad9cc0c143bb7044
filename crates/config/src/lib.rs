//! Reads configurations from YAML, applies overrides, reports every mistake with its line, and prints configurations.
//!
//! This package knows no section. Each component defines its section as a struct, and the run's configuration combines
//! the sections.
//!
//! [`load`] works in these steps:
//!
//! 1. Parse the file into a tree that records the origin of each value.
//! 2. Apply the overrides to the tree.
//! 3. Compare the tree with the schema of the configuration's type, which finds all unknown fields.
//! 4. Deserialize the tree, which finds all values of a wrong type.
//! 5. Call [`Validate::validate`], which finds all invalid values and contradictions.

mod check;
mod error;
mod invalid;
mod names;
mod overrides;
mod schema;
mod show;
mod tree;

use std::path::Path;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use error::{ConfigError, Mistake, Place};
pub use invalid::{Invalid, Validate, format_mistakes};
pub use show::{show, yaml_value};

/// A longer file is no configuration.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Reads the configuration in the YAML file `path` and applies `overrides` in order. An override has the form
/// `section.field=value`, with the value in YAML.
///
/// # Errors
/// If the file cannot be read or is not YAML. Otherwise, if there are mistakes in the file or in the overrides: the
/// error lists all of them.
pub fn load<T: DeserializeOwned + JsonSchema + Validate>(path: &Path, overrides: &[String]) -> Result<T, ConfigError> {
    let file = path.display().to_string();
    match admiral_contract::files::read_text(path, MAX_FILE_BYTES) {
        Ok(text) => parse(&file, &text, overrides),
        Err(source) => Err(ConfigError::Read { file, source }),
    }
}

/// Like [`load`], but takes the text of the file. The name `file` is only used in messages.
///
/// # Errors
/// If the text is not YAML, or if there are mistakes in it or in the overrides.
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
    // Validate only a configuration without other mistakes, because those have left fields at their defaults.
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

/// Returns the value of a field, such as `run.folder`, in the text of a configuration, for programs that need a few fields
/// and accept any others. `None` if the text has no such field or is not YAML.
#[must_use]
pub fn read_field(text: &str, field: &str) -> Option<Value> {
    let root = tree::parse_file("", text).ok()?;
    let node = field.split('.').try_fold(&root, |node, name| node.get(name))?;
    Some(node.to_json())
}

#[cfg(test)]
mod tests;
