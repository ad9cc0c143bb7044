//! The text formats of metrics.

use std::fmt::Write;

use crate::table::{Kind, Table, Values};

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    Prometheus,
    /// OpenMetrics, version 1.0.
    OpenMetrics,
}

impl Format {
    /// Returns the format as a media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Returns a table as text.
#[must_use]
pub fn encode(table: &Table, format: Format) -> String {
    let mut text = String::new();
    for (name, values) in &table.families {
        write_head(&mut text, name, values, format);
        let sample_name = values.family.sample_name();
        for (labels, value) in &values.values {
            text.push_str(&sample_name);
            write_labels(&mut text, table.common.iter().chain(labels));
            text.push(' ');
            write_value(&mut text, *value);
            text.push('\n');
        }
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

/// Writes the comments of a family. In OpenMetrics they have its name, in Prometheus' format the name of its values.
fn write_head(text: &mut String, name: &str, values: &Values, format: Format) {
    let family = &values.family;
    let name = match format {
        Format::Prometheus => family.sample_name(),
        Format::OpenMetrics => name.to_owned(),
    };
    let kind = match family.kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
    };
    // Prometheus' format has no escape for quotation marks in help.
    let escapes_quotes = format == Format::OpenMetrics;
    text.extend(["# HELP ", &name, " "]);
    write_escaped(text, &family.help, escapes_quotes);
    text.extend(["\n# TYPE ", &name, " ", kind, "\n"]);
    if let (Some(unit), Format::OpenMetrics) = (family.unit, format) {
        text.extend(["# UNIT ", &name, " ", unit.name(), "\n"]);
    }
}

fn write_labels<'a>(text: &mut String, labels: impl Iterator<Item = &'a (String, String)>) {
    let mut separator = '{';
    for (name, value) in labels {
        text.push(separator);
        text.extend([name, "=\""]);
        write_escaped(text, value, true);
        text.push('"');
        separator = ',';
    }
    if separator == ',' {
        text.push('}');
    }
}

fn write_escaped(text: &mut String, value: &str, escapes_quotes: bool) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if escapes_quotes => text.push_str("\\\""),
            c => text.push(c),
        }
    }
}

fn write_value(text: &mut String, value: f64) {
    let written = match value {
        value if value.is_nan() => text.write_str("NaN"),
        f64::INFINITY => text.write_str("+Inf"),
        f64::NEG_INFINITY => text.write_str("-Inf"),
        // The shortest text that is read back unchanged; large and small values with an exponent.
        value if value == 0.0 || (1e-5..1e16).contains(&value.abs()) => write!(text, "{value}"),
        value => write!(text, "{value:e}"),
    };
    debug_assert!(written.is_ok(), "a String takes all text");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Family, Unit};

    fn table() -> Table {
        let mut table = Table::new(&[("run", "runs/\"a\"\\b\nc")]);
        let waits = Family { unit: Some(Unit::Seconds), ..Family::counter("waits", "Says \"why\"\\\n.") };
        table.set_with(&waits, &[("rank", "1")], 0.25);
        table.set_with(&waits, &[("rank", "0")], 3.0);
        let loss = Family::gauge("loss", "The loss.");
        table.set(&loss, f64::NAN);
        table
    }

    #[test]
    fn prometheus_text_is_as_its_documentation_says() {
        let expected = "# HELP loss The loss.\n\
                        # TYPE loss gauge\n\
                        loss{run=\"runs/\\\"a\\\"\\\\b\\nc\"} NaN\n\
                        # HELP waits_seconds_total Says \"why\"\\\\\\n.\n\
                        # TYPE waits_seconds_total counter\n\
                        waits_seconds_total{run=\"runs/\\\"a\\\"\\\\b\\nc\",rank=\"0\"} 3\n\
                        waits_seconds_total{run=\"runs/\\\"a\\\"\\\\b\\nc\",rank=\"1\"} 0.25\n";
        assert_eq!(encode(&table(), Format::Prometheus), expected);
    }

    #[test]
    fn openmetrics_has_units_and_an_end() {
        let text = encode(&table(), Format::OpenMetrics);
        let head = "# HELP waits_seconds Says \\\"why\\\"\\\\\\n.\n\
                    # TYPE waits_seconds counter\n\
                    # UNIT waits_seconds seconds\n\
                    waits_seconds_total{";
        assert!(text.contains(head), "{text}");
        assert!(text.ends_with("\n# EOF\n"), "{text}");
        assert_eq!(encode(&Table::new(&[]), Format::OpenMetrics), "# EOF\n");
    }

    #[test]
    fn values_are_read_back_unchanged() {
        for value in [0.0, -0.0, 1.0, 1e-300, -2.5e17, f64::MAX, f64::MIN_POSITIVE, 0.1 + 0.2, 123_456_789.125] {
            let mut text = String::new();
            write_value(&mut text, value);
            assert_eq!(text.parse(), Ok(value), "{text}");
            assert!(text.len() < 30, "{text}");
        }
        let infinite = [f64::INFINITY, f64::NEG_INFINITY].map(|value| {
            let mut text = String::new();
            write_value(&mut text, value);
            text
        });
        assert_eq!(infinite, ["+Inf", "-Inf"]);
    }
}
