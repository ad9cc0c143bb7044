//! The errors of reading a configuration.

use std::fmt;

use admiral_contract::secret::masked_argument;

/// The origin of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A line and column of a file, both counted from 1.
    File {
        /// The name of the file.
        file: String,
        /// The line.
        line: u64,
        /// The column.
        column: u64,
    },
    /// The override with this text.
    Override(String),
    /// The default, because the file does not contain the field.
    Default {
        /// The name of the file.
        file: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column } => write!(formatter, "{file}:{line}:{column}"),
            Self::Override(text) => write!(formatter, "--set {}", masked_argument(text)),
            Self::Default { file } => write!(formatter, "{file} (default)"),
        }
    }
}

/// A mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The origin of the value.
    pub place: Place,
    /// The path of the field from the top of the file. Empty if the mistake concerns the whole configuration.
    pub field: String,
    /// The reason why the value is wrong, and the values that are valid.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: ", self.place)?;
        if !self.field.is_empty() {
            write!(formatter, "{}: ", self.field)?;
        }
        formatter.write_str(&self.message)
    }
}

/// An error of reading a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {file}: {source}")]
    Read {
        /// The name of the file.
        file: String,
        /// The error of the file system.
        source: std::io::Error,
    },
    /// The text is not YAML.
    #[error("{0}")]
    Syntax(Mistake),
    /// All mistakes in the file and the overrides, one per line.
    #[error("{}", format_lines(.0))]
    Mistakes(Vec<Mistake>),
}

fn format_lines(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n")
}
