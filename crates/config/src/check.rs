//! Finds all unknown fields and all values of a wrong type.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::error::Mistake;
use super::names::{advice, nearest};
use super::schema::Schema;
use super::tree::{Content, Node};

/// Removes the fields that the schema does not know from the tree. Returns a mistake for each of them.
pub(super) fn unknown_fields(root: &mut Node, schema: &Schema, file: &str) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    remove_unknown(root, schema, schema.root(), "", file, &mut mistakes);
    mistakes
}

/// Removes unknown fields below `node`. `part` is the schema of the node, and `path` is its path from the top.
fn remove_unknown(node: &mut Node, schema: &Schema, part: &Value, path: &str, file: &str, mistakes: &mut Vec<Mistake>) {
    match &mut node.content {
        Content::Scalar(_) => {}
        Content::List(items) => {
            if let Some(part) = schema.items(part) {
                for (index, item) in items.iter_mut().enumerate() {
                    remove_unknown(item, schema, part, &format!("{path}.{index}"), file, mistakes);
                }
            }
        }
        Content::Map(entries) => {
            let fields = schema.fields(part);
            if fields.is_empty() || schema.is_open(part) {
                return;
            }
            let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
            entries.retain_mut(|(key, child)| {
                let field = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                if let Some((_, part)) = fields.iter().find(|(name, _)| name == key) {
                    remove_unknown(child, schema, part, &field, file, mistakes);
                    return true;
                }
                let elsewhere = schema.path_of_unique_field(key).filter(|_| nearest(key, &names).is_none());
                let advice = match elsewhere {
                    Some(path) => format!("did you mean `{path}`?"),
                    None => advice(key, &names),
                };
                let message = format!("unknown field; {advice}");
                mistakes.push(Mistake { place: child.place(file), field, message });
                false
            });
        }
    }
}

/// Deserializes the tree. Returns the configuration and a mistake for each value of a wrong type.
///
/// Deserialization stops at the first wrong value. To find all of them, that value is removed, so that the field gets
/// its default, and deserialization starts again. Returns no configuration if a value cannot be removed.
pub(super) fn read<T: DeserializeOwned + JsonSchema>(
    root: &Node,
    schema: &Schema,
    file: &str,
) -> (Option<T>, Vec<Mistake>) {
    let mut value = root.to_json();
    let mut mistakes = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize::<_, T>(&value) {
            Ok(config) => return (Some(config), mistakes),
            Err(error) => error,
        };
        let path: Vec<String> = error.path().iter().filter_map(key).collect();
        // A required field that was removed is already reported.
        let was_removed = mistakes.iter().any(|mistake: &Mistake| mistake.field.starts_with(&path.join(".")));
        if was_removed && error.inner().to_string().starts_with("missing field") {
            return (None, mistakes);
        }
        let field = path.join(".");
        let found = lookup(&value, &path).cloned();
        let message = explain(schema, &path, found.as_ref(), &error.inner().to_string());
        mistakes.push(Mistake { place: root.place_of(&field, file), field, message });
        if !remove(&mut value, &path) {
            return (None, mistakes);
        }
    }
}

/// Returns the name or list index of a step of serde's path.
fn key(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

/// Returns the value at `path`.
fn lookup<'a>(mut value: &'a Value, path: &[String]) -> Option<&'a Value> {
    for key in path {
        value = match value {
            Value::Object(fields) => fields.get(key)?,
            Value::Array(items) => items.get(key.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(value)
}

/// Removes the value at `path`. If it is in a list, removes the whole list, because a list without one of its elements
/// has another meaning. Returns whether a value was removed.
fn remove(value: &mut Value, path: &[String]) -> bool {
    let Some((last, parents)) = path.split_last() else { return false };
    let mut parent = &mut *value;
    for key in parents {
        parent = match parent {
            Value::Object(fields) if fields.contains_key(key) => &mut fields[key.as_str()],
            _ => return remove(value, parents),
        };
    }
    match parent {
        Value::Object(fields) => fields.shift_remove(last).is_some(),
        _ => remove(value, parents),
    }
}

/// Returns the message for the wrong value `found` at `path`, or `otherwise` if the schema does not tell what is
/// expected.
fn explain(schema: &Schema, path: &[String], found: Option<&Value>, otherwise: &str) -> String {
    let (Some(part), Some(found)) = (schema.find(path), found) else { return otherwise.into() };
    // For a mistake inside a section or variant, serde's message is more precise than the type of the section.
    let (false, Some(expected)) = (found.is_object(), schema.expected(part)) else { return otherwise.into() };
    let mut message = format!("must be {expected}; found {}", describe(found));
    match found {
        Value::String(word) => {
            if let Some(name) = nearest(word, &schema.words(part)) {
                message += &format!("; did you mean `{name}`?");
            }
        }
        Value::Number(_) | Value::Bool(_) if expected.starts_with("text") => {
            // The number may have been written in another form, such as 007.
            message += "; write it in quotes";
        }
        _ => {}
    }
    message
}

/// Describes a value in a message.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("the text `{text}`"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "fields".into(),
    }
}
