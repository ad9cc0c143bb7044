//! Log lines on standard error: their filter, their format, and the rank that writes them.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{Format, Full, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::Terminal;

/// The filter if `RUST_LOG` is not set: info lines of this project, warnings of all others.
///
/// A filter applies to every target that starts with its text. The target of a line is the path of its module, so
/// `admiral` covers all packages of the project: `admiral`, `admiral_data`, `admiral_checkpoint` and so on.
const DEFAULT_FILTER: &str = "warn,admiral=info";

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line, for log collectors.
    Json,
}

impl LogFormat {
    /// Parses the value of `ADMIRAL_LOG_FORMAT`. The default is text.
    ///
    /// # Errors
    /// [`LoggingError::Format`] if the value is neither `text` nor `json`.
    pub fn parse(value: Option<&str>) -> Result<Self, LoggingError> {
        match value {
            None | Some("text") => Ok(Self::Text),
            Some("json") => Ok(Self::Json),
            Some(other) => Err(LoggingError::Format(other.to_owned())),
        }
    }
}

/// The settings of log lines, as text that [`init_logging`] parses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// The format, `text` or `json`, from `ADMIRAL_LOG_FORMAT`. `None` means `text`.
    pub format: Option<String>,
    /// The filter, from `RUST_LOG`, for example `warn,admiral=debug`. `None` and an empty text mean
    /// `warn,admiral=info`.
    pub filter: Option<String>,
}

impl LogSettings {
    /// Reads the settings from environment variables, which `get` looks up by name.
    pub fn from_vars(get: impl Fn(&str) -> Option<String>) -> Self {
        Self { format: get("ADMIRAL_LOG_FORMAT"), filter: get("RUST_LOG") }
    }
}

/// An error of setting up logging.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// `ADMIRAL_LOG_FORMAT` is neither `text` nor `json`.
    #[error("ADMIRAL_LOG_FORMAT={0}: text or json")]
    Format(String),
    /// `RUST_LOG` is not a valid filter.
    #[error("RUST_LOG={value}: {reason}; an example that works is {DEFAULT_FILTER}")]
    Filter {
        /// The value of the variable.
        value: String,
        /// The reason why it is invalid.
        reason: String,
    },
    /// Logging is already set up in this process.
    #[error("logging was set up twice in this process")]
    Twice,
}

/// Sends the log lines of this process to `terminal`. If `world_size` is greater than 1, each line names `rank`.
///
/// # Errors
/// If a setting is invalid, or logging is already set up.
pub fn init_logging(
    terminal: &Terminal,
    rank: usize,
    world_size: usize,
    settings: &LogSettings,
) -> Result<(), LoggingError> {
    let format = LogFormat::parse(settings.format.as_deref())?;
    let filter = parse_filter(settings.filter.as_deref())?;
    let rank = (world_size > 1).then_some(rank);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(terminal.clone())
        .with_ansi(terminal.is_interactive());
    match format {
        LogFormat::Text => lines.event_format(TextLine { rank, inner: Format::default() }).try_init(),
        LogFormat::Json => lines
            .fmt_fields(JsonFields::new())
            .event_format(JsonLine { rank, inner: Format::default().json().flatten_event(true) })
            .try_init(),
    }
    .map_err(|_| LoggingError::Twice)
}

fn parse_filter(value: Option<&str>) -> Result<EnvFilter, LoggingError> {
    let value = value.filter(|value| !value.trim().is_empty()).unwrap_or(DEFAULT_FILTER);
    EnvFilter::try_new(value)
        .map_err(|error| LoggingError::Filter { value: value.to_owned(), reason: error.to_string() })
}

struct TextLine {
    rank: Option<usize>,
    inner: Format<Full>,
}

impl<S, N> FormatEvent<S, N> for TextLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if let Some(rank) = self.rank {
            write!(writer, "[rank {rank}] ")?;
        }
        self.inner.format_event(context, writer, event)
    }
}

struct JsonLine {
    rank: Option<usize>,
    inner: Format<Json>,
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some(rank) = self.rank else { return self.inner.format_event(context, writer, event) };
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        // The comma is valid because the object is never empty: every line has a timestamp.
        writer.write_str(&line.replacen('{', &format!("{{\"rank\":{rank},"), 1))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Buffer {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn text(rank: Option<usize>) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(TextLine { rank, inner: Format::default() })
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::info!(step = 3, "saved"));
        buffer.text()
    }

    #[test]
    fn a_text_line_names_its_rank() {
        assert!(text(Some(5)).starts_with("[rank 5] "));
        assert!(!text(None).contains("rank"));
        assert!(text(Some(5)).ends_with("saved step=3\n"));
    }

    #[test]
    fn a_json_line_is_one_object_and_names_its_rank() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .fmt_fields(JsonFields::new())
            .event_format(JsonLine { rank: Some(5), inner: Format::default().json().flatten_event(true) })
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::warn!(step = 3, "a {{brace}}"));
        let line: serde_json::Value = serde_json::from_str(&buffer.text()).unwrap();
        assert_eq!((&line["rank"], &line["step"]), (&5.into(), &3.into()));
        assert_eq!(line["message"], "a {brace}");
    }

    #[test]
    fn invalid_settings_are_reported_by_variable() {
        assert_eq!(LogFormat::parse(None).unwrap(), LogFormat::Text);
        assert_eq!(LogFormat::parse(Some("json")).unwrap(), LogFormat::Json);
        assert!(LogFormat::parse(Some("xml")).unwrap_err().to_string().contains("ADMIRAL_LOG_FORMAT=xml"));
        assert!(parse_filter(Some("admiral=loud")).unwrap_err().to_string().contains("RUST_LOG=admiral=loud"));
        parse_filter(Some("")).unwrap();
    }

    #[test]
    fn settings_come_from_the_environment_variables() {
        let get = |name: &str| match name {
            "ADMIRAL_LOG_FORMAT" => Some("json".to_owned()),
            "RUST_LOG" => Some("debug".to_owned()),
            _ => None,
        };
        let expected = LogSettings { format: Some("json".into()), filter: Some("debug".into()) };
        assert_eq!(LogSettings::from_vars(get), expected);
        assert_eq!(LogSettings::from_vars(|_| None), LogSettings::default());
    }

    #[test]
    fn the_default_filter_shows_info_lines_of_every_package_of_the_project_only() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(parse_filter(None).unwrap())
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "admiral", "one");
            tracing::info!(target: "admiral::train::run", "two");
            tracing::info!(target: "admiral_data::loader", "three");
            tracing::info!(target: "admiral_launch::run", "four");
            tracing::debug!(target: "admiral_data::loader", "five");
            tracing::info!(target: "hyper::client", "six");
            tracing::warn!(target: "hyper::client", "seven");
        });
        let text = buffer.text();
        let shown: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
        assert_eq!(shown, ["one", "two", "three", "four", "seven"]);
    }
}
