//! Finds every unknown name and every value of a wrong kind.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::error::Mistake;
use super::names::{advice, nearest};
use super::schema::Schema;
use super::tree::{Content, Node};

/// Takes the fields that the schema does not know out of the tree and reports them.
pub(super) fn unknown_fields(root: &mut Node, schema: &Schema, file: &str) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    take_unknown(root, schema, schema.root(), "", file, &mut mistakes);
    mistakes
}

fn take_unknown(node: &mut Node, schema: &Schema, place: &Value, path: &str, file: &str, mistakes: &mut Vec<Mistake>) {
    match &mut node.content {
        Content::Scalar(_) => {}
        Content::List(items) => {
            if let Some(place) = schema.items(place) {
                for (index, item) in items.iter_mut().enumerate() {
                    take_unknown(item, schema, place, &format!("{path}.{index}"), file, mistakes);
                }
            }
        }
        Content::Map(entries) => {
            let fields = schema.fields(place);
            if fields.is_empty() || schema.is_open(place) {
                return;
            }
            let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
            entries.retain_mut(|(key, child)| {
                let field = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                if let Some((_, place)) = fields.iter().find(|(name, _)| name == key) {
                    take_unknown(child, schema, place, &field, file, mistakes);
                    return true;
                }
                let elsewhere = schema.elsewhere(key).filter(|_| nearest(key, &names).is_none());
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

/// Reads the tree into a configuration, and reports every value of a wrong kind: after each, the value is left to its
/// default and the rest is tried again.
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
        let was_taken = mistakes.iter().any(|mistake: &Mistake| mistake.field.starts_with(&path.join(".")));
        if was_taken && error.inner().to_string().starts_with("missing field") {
            return (None, mistakes);
        }
        let field = path.join(".");
        let found = lookup(&value, &path).cloned();
        let message = explain(schema, &path, found.as_ref(), &error.inner().to_string());
        mistakes.push(Mistake { place: root.place_of(&field, file), field, message });
        if !take(&mut value, &path) {
            return (None, mistakes);
        }
    }
}

fn key(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

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

/// Removes what `path` leads to, or the list that it lies in: without one element a list means something else.
fn take(value: &mut Value, path: &[String]) -> bool {
    let Some((last, parents)) = path.split_last() else { return false };
    let mut place = &mut *value;
    for key in parents {
        place = match place {
            Value::Object(fields) if fields.contains_key(key) => &mut fields[key.as_str()],
            _ => return take(value, parents),
        };
    }
    match place {
        Value::Object(fields) => fields.shift_remove(last).is_some(),
        _ => take(value, parents),
    }
}

fn explain(schema: &Schema, path: &[String], found: Option<&Value>, otherwise: &str) -> String {
    let place = schema.find(path);
    let (Some(place), Some(found)) = (place, found) else { return otherwise.into() };
    // What is wrong inside a section or a variant is better said by the reader than by the kind of the section.
    let (false, Some(expected)) = (found.is_object(), schema.expected(place)) else { return otherwise.into() };
    let mut message = format!("must be {expected}; found {}", describe(found));
    match found {
        Value::String(word) => {
            if let Some(name) = nearest(word, &schema.words(place)) {
                message += &format!("; did you mean `{name}`?");
            }
        }
        Value::Number(_) | Value::Bool(_) if expected.starts_with("text") => {
            message += &format!("; write \"{found}\" in quotes");
        }
        _ => {}
    }
    message
}

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
