//! Prints a configuration as YAML. Reading the text gives the same configuration.

use std::fmt::Write;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::schema::Schema;

/// The longest line of a comment, in characters.
const MAX_WIDTH: usize = 110;

/// Returns the configuration as YAML: all sections and fields in order, each below a comment with its documentation.
/// `derived` lists the names and values that follow from the configuration, which are printed as comments at the end.
///
/// # Panics
/// If `T` cannot be serialized as JSON.
#[must_use]
pub fn show<T: Serialize + JsonSchema>(config: &T, derived: &[(String, String)]) -> String {
    let value = serde_json::to_value(config).expect("a configuration can be serialized as JSON");
    let schema = Schema::of::<T>();
    let mut text = String::new();
    write_fields(&mut text, &schema, schema.root(), &value, 0);
    if !derived.is_empty() {
        text.push_str("\n# Derived from the above:\n");
        let width = derived.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in derived {
            for (index, line) in value.lines().enumerate() {
                let name = if index == 0 { format!("{name}:") } else { String::new() };
                push_line(&mut text, &format!("#   {name:<0$} {line}", width + 1));
            }
        }
    }
    text
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// Writes the fields of an object and their documentation. `part` is the schema of the object.
fn write_fields(text: &mut String, schema: &Schema, part: &Value, value: &Value, indent: usize) {
    let Value::Object(values) = value else { return };
    let fields = schema.fields(part);
    for (index, (name, value)) in values.iter().enumerate() {
        let child = fields.iter().find(|(known, _)| known == name).map(|(_, child)| *child);
        if indent == 0 && index > 0 {
            text.push('\n');
        }
        let margin = " ".repeat(indent);
        if let Some(description) = child.and_then(|child| schema.description(child)) {
            for line in wrap(&description, MAX_WIDTH - indent) {
                push_line(text, &format!("{margin}# {line}"));
            }
        }
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                push_line(text, &format!("{margin}{}:", scalar(name)));
                write_fields(text, schema, child.unwrap_or(&Value::Null), value, indent + 2);
            }
            _ => push_line(text, &format!("{margin}{}: {}", scalar(name), yaml_value(value))),
        }
    }
}

/// Returns a value as YAML on one line.
#[must_use]
pub fn yaml_value(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Array(items) => format!("[{}]", items.iter().map(yaml_value).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{}: {}", scalar(name), yaml_value(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Formats text. Adds quotes if a YAML parser could read the text as something else.
fn scalar(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if is_plain && !reserved.contains(&text.to_lowercase().as_str()) {
        return text.into();
    }
    let escaped = |letter: char| match letter {
        // JSON leaves these as they are. YAML takes some for the end of a line, and a terminal may obey others.
        _ if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
            format!("\\u{:04x}", u32::from(letter))
        }
        _ => letter.into(),
    };
    Value::from(text).to_string().chars().map(escaped).collect()
}

/// Breaks text into lines of at most `width` characters. A longer word gets its own line.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                let _ = write!(line, " {word}");
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}
