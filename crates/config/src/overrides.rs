//! Overrides of the form `section.field=value`, given by the option `--set`.

use serde_json::Value;

use super::error::{Mistake, Place};
use super::names::advice;
use super::schema::Schema;
use super::tree::{Content, Node, Origin, parse_override};

/// Applies one override. Creates the field and its sections if they are missing.
pub(super) fn apply(root: &mut Node, schema: &Schema, text: &str) -> Result<(), Mistake> {
    let mistake =
        |field: &str, message: String| Mistake { place: Place::Override(text.into()), field: field.into(), message };
    let Some((path, value)) = text.split_once('=') else {
        return Err(mistake("", "must look like section.field=value".into()));
    };
    let path = path.trim();
    let keys: Vec<&str> = path.split('.').collect();
    check_path(schema, &keys).map_err(|message| mistake(path, message))?;
    let node = parse_override(value, text).map_err(|message| mistake(path, format!("not a YAML value: {message}")))?;
    insert(root, &keys, node, text);
    Ok(())
}

/// Checks that the schema has a field with this path.
fn check_path(schema: &Schema, keys: &[&str]) -> Result<(), String> {
    let mut parent_schema = schema.root();
    for (depth, key) in keys.iter().enumerate() {
        let known = schema.fields(parent_schema);
        match known.iter().find(|(name, _)| name == key) {
            Some((_, child)) => parent_schema = child,
            None => {
                let parent = keys[..depth].join(".");
                if known.is_empty() {
                    return Err(format!("`{parent}` has no fields below it: set the whole value"));
                }
                let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                let elsewhere = schema.path_of_unique_field(key).map(|path| format!("did you mean `{path}`?"));
                return Err(format!("unknown field `{key}`; {}", elsewhere.unwrap_or_else(|| advice(key, &names))));
            }
        }
    }
    Ok(())
}

/// Sets the value at the path `keys` below `node`. New sections get the override `text` as their origin.
fn insert(node: &mut Node, keys: &[&str], value: Node, text: &str) {
    let Some((key, rest)) = keys.split_first() else {
        *node = value;
        return;
    };
    if !matches!(node.content, Content::Map(_)) {
        node.content = Content::Map(Vec::new());
    }
    let Content::Map(entries) = &mut node.content else { return };
    let index = entries.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
        let empty = Node { origin: Origin::Override(text.into()), content: Content::Scalar(Value::Null) };
        entries.push(((*key).into(), empty));
        entries.len() - 1
    });
    insert(&mut entries[index].1, rest, value, text);
}
