//! Prints a configuration as YAML that reads back as the same.

use std::fmt::Write;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::schema::Schema;

/// Longest line of a comment.
const WIDTH: usize = 110;

/// The whole configuration as YAML: every section and field in order below a comment that says what it is, and last
/// what follows from it, as comments of (name, value).
///
/// # Panics
/// Where `T` is not made of fields, lists, text, numbers and true or false.
#[must_use]
pub fn show<T: Serialize + JsonSchema>(config: &T, derived: &[(String, String)]) -> String {
    let value = serde_json::to_value(config).expect("a configuration is plain data with names for keys");
    let schema = Schema::of::<T>();
    let mut text = String::new();
    write_fields(&mut text, &schema, schema.root(), &value, 0);
    if !derived.is_empty() {
        text.push_str("\n# Derived from the above:\n");
        let width = derived.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in derived {
            for (index, line) in value.lines().enumerate() {
                let name = if index == 0 { format!("{name}:") } else { String::new() };
                put(&mut text, &format!("#   {name:<0$} {line}", width + 1));
            }
        }
    }
    text
}

fn put(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn write_fields(text: &mut String, schema: &Schema, place: &Value, value: &Value, indent: usize) {
    let Value::Object(values) = value else { return };
    let fields = schema.fields(place);
    for (index, (name, value)) in values.iter().enumerate() {
        let child = fields.iter().find(|(known, _)| known == name).map(|(_, child)| *child);
        if indent == 0 && index > 0 {
            text.push('\n');
        }
        let margin = " ".repeat(indent);
        if let Some(description) = child.and_then(|child| schema.description(child)) {
            for line in wrap(&description, WIDTH - indent) {
                put(text, &format!("{margin}# {line}"));
            }
        }
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                put(text, &format!("{margin}{}:", scalar(name)));
                write_fields(text, schema, child.unwrap_or(&Value::Null), value, indent + 2);
            }
            _ => put(text, &format!("{margin}{}: {}", scalar(name), flow(value))),
        }
    }
}

/// On one line.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{}: {}", scalar(name), flow(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Text, in quotes unless every reader of YAML takes it for text.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let taken = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if plain && !taken.contains(&text.to_lowercase().as_str()) { text.into() } else { Value::from(text).to_string() }
}

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
