//! Parses YAML into a tree that records the origin of each value.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::error::{ConfigError, Mistake, Place};

/// A value and its origin.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) content: Content,
}

/// The origin of a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Origin {
    /// A line and column of the file, both counted from 1.
    File { line: u64, column: u64 },
    /// The override with this text.
    Override(String),
}

/// The content of a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// Null, a boolean, a number or text.
    Scalar(Value),
    List(Vec<Node>),
    /// Names and values, in the order of the file.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Returns the child with this name or list index.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            Content::List(items) => items.get(key.parse::<usize>().ok()?),
            Content::Scalar(_) => None,
        }
    }

    /// Returns the tree as JSON, without the origins.
    pub(super) fn to_json(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Content::Map(entries) => {
                Value::Object(entries.iter().map(|(key, node)| (key.clone(), node.to_json())).collect())
            }
        }
    }

    /// Returns the place of this value. `file` is the name of the file.
    pub(super) fn place(&self, file: &str) -> Place {
        match &self.origin {
            Origin::File { line, column } => Place::File { file: file.into(), line: *line, column: *column },
            Origin::Override(text) => Place::Override(text.clone()),
        }
    }

    /// Returns the place of the value at `field`, a dotted path from this node. Returns [`Place::Default`] if the tree
    /// has no such value.
    pub(super) fn place_of(&self, field: &str, file: &str) -> Place {
        let mut node = self;
        for key in field.split('.').filter(|key| !key.is_empty()) {
            match node.get(key) {
                Some(child) => node = child,
                None => return Place::Default { file: file.into() },
            }
        }
        node.place(file)
    }

    /// Sets the origin of this node and of all nodes below it to the override `text`.
    fn set_origin(&mut self, text: &str) {
        self.origin = Origin::Override(text.into());
        match &mut self.content {
            Content::Scalar(_) => {}
            Content::List(items) => items.iter_mut().for_each(|node| node.set_origin(text)),
            Content::Map(entries) => entries.iter_mut().for_each(|(_, node)| node.set_origin(text)),
        }
    }
}

/// Parses the text of a file. An empty file gives an empty map, so that all fields have their defaults.
pub(super) fn parse_file(file: &str, text: &str) -> Result<Node, ConfigError> {
    let mistake = |place: Place, message: String| ConfigError::Syntax(Mistake { place, field: String::new(), message });
    let mut root = parse(text).map_err(|(line, column, message)| {
        mistake(Place::File { file: file.into(), line, column }, format!("this is not YAML: {message}"))
    })?;
    if root.content == Content::Scalar(Value::Null) {
        root.content = Content::Map(Vec::new());
    }
    match root.content {
        Content::Map(_) => Ok(root),
        _ => Err(mistake(root.place(file), "a configuration is a list of `name: value` lines".into())),
    }
}

/// Parses `value`, the value of the override `text`.
pub(super) fn parse_override(value: &str, text: &str) -> Result<Node, String> {
    let mut node = parse(value).map_err(|(_, _, message)| message)?;
    node.set_origin(text);
    Ok(node)
}

/// Parses YAML. Returns the line, column and message of a mistake.
fn parse(text: &str) -> Result<Node, (u64, u64, String)> {
    let options = serde_saphyr::options! {
        // Read `no` and `off` as text, because a folder can have such a name.
        strict_booleans: true,
        with_snippet: false,
        // Read these numbers as text, so that the type of their field rejects them.
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::AsString,
    };
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Node { origin: Origin::File { line: 1, column: 1 }, content: Content::Scalar(Value::Null) });
    }
    serde_saphyr::from_str_with_options::<Spanned<Content>>(text, options).map(Node::from).map_err(|error| {
        let place = error.location().map_or((1, 1), |location| (location.line().max(1), location.column().max(1)));
        (place.0, place.1, error.to_string())
    })
}

impl From<Spanned<Content>> for Node {
    fn from(spanned: Spanned<Content>) -> Self {
        let (line, column) = (spanned.referenced.line(), spanned.referenced.column());
        Self { origin: Origin::File { line, column }, content: spanned.value }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
        // Infinity and NaN become text, which fields of numbers reject.
        Ok(Content::Scalar(serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element::<Spanned<Content>>()? {
            items.push(Node::from(item));
        }
        Ok(Content::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let mut node = Node::from(access.next_value::<Spanned<Content>>()?);
            // Mistakes name the line of the field's name. For a section, the value starts on a later line.
            node.origin = Origin::File { line: key.referenced.line(), column: key.referenced.column() };
            entries.push((key.value, node));
        }
        Ok(Content::Map(entries))
    }
}
