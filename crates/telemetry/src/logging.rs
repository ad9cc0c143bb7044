//! Log lines: filtered by `RUST_LOG`, to standard error, with the rank where there are several.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{Format, Full, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::Terminal;

/// What is shown when `RUST_LOG` says nothing.
const DEFAULT_FILTER: &str = "warn,admiral=info";

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

impl LogFormat {
    /// Reads the value of `ADMIRAL_LOG_FORMAT`; without one, text.
    ///
    /// # Errors
    /// [`LoggingError::Format`] for anything but `text` and `json`.
    pub fn parse(value: Option<&str>) -> Result<Self, LoggingError> {
        match value {
            None | Some("text") => Ok(Self::Text),
            Some("json") => Ok(Self::Json),
            Some(other) => Err(LoggingError::Format(other.to_owned())),
        }
    }
}

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// `ADMIRAL_LOG_FORMAT` is wrong.
    #[error("ADMIRAL_LOG_FORMAT={0}: text or json")]
    Format(String),
    /// `RUST_LOG` is wrong.
    #[error("RUST_LOG={value}: {reason}; an example that works is {DEFAULT_FILTER}")]
    Filter {
        /// What it says.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The process has a subscriber already.
    #[error("logging was set up twice in this process")]
    Twice,
}

/// Sends the process's log lines to `terminal`. `rank` of `world_size` is named in each line where there is
/// more than one; `RUST_LOG` filters, `ADMIRAL_LOG_FORMAT=json` writes JSON.
///
/// # Errors
/// A variable with a value that means nothing, or a second call.
pub fn init_logging(terminal: &Terminal, rank: usize, world_size: usize) -> Result<(), LoggingError> {
    let format = LogFormat::parse(std::env::var("ADMIRAL_LOG_FORMAT").ok().as_deref())?;
    let filter = filter(std::env::var("RUST_LOG").ok().as_deref())?;
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

fn filter(value: Option<&str>) -> Result<EnvFilter, LoggingError> {
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
        // The object is never empty: it holds at least its time.
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
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Sink {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn text(rank: Option<usize>) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(TextLine { rank, inner: Format::default() })
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::info!(step = 3, "saved"));
        sink.text()
    }

    #[test]
    fn a_line_names_its_rank_where_there_are_several() {
        assert!(text(Some(5)).starts_with("[rank 5] "));
        assert!(!text(None).contains("rank"));
        assert!(text(Some(5)).ends_with("saved step=3\n"));
    }

    #[test]
    fn a_json_line_is_one_object_with_its_rank() {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .fmt_fields(JsonFields::new())
            .event_format(JsonLine { rank: Some(5), inner: Format::default().json().flatten_event(true) })
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::warn!(step = 3, "a {{brace}}"));
        let line: serde_json::Value = serde_json::from_str(&sink.text()).unwrap();
        assert_eq!((&line["rank"], &line["step"]), (&5.into(), &3.into()));
        assert_eq!(line["message"], "a {brace}");
    }

    #[test]
    fn wrong_variables_are_named() {
        assert_eq!(LogFormat::parse(None).unwrap(), LogFormat::Text);
        assert_eq!(LogFormat::parse(Some("json")).unwrap(), LogFormat::Json);
        assert!(LogFormat::parse(Some("xml")).unwrap_err().to_string().contains("ADMIRAL_LOG_FORMAT=xml"));
        assert!(filter(Some("admiral=loud")).unwrap_err().to_string().contains("RUST_LOG=admiral=loud"));
        filter(Some("")).unwrap();
    }
}
