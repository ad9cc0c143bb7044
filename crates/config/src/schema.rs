//! Looks up fields, their documentation and their valid values in the JSON Schema of a configuration's type.

use schemars::JsonSchema;
use serde_json::Value;

/// The schema of a whole configuration. The schema of a part, for example of one field, is a [`Value`] in it.
pub(super) struct Schema {
    root: Value,
}

impl Schema {
    /// Returns the schema of `T`.
    pub(super) fn of<T: JsonSchema>() -> Self {
        Self { root: schemars::schema_for!(T).to_value() }
    }

    /// Returns the schema of the top of the file.
    pub(super) fn root(&self) -> &Value {
        &self.root
    }

    /// Follows the references (`$ref`) of a part.
    fn resolve<'a>(&'a self, mut part: &'a Value) -> &'a Value {
        while let Some(target) = part.get("$ref").and_then(Value::as_str) {
            match self.root.pointer(target.trim_start_matches('#')) {
                Some(next) => part = next,
                None => break,
            }
        }
        part
    }

    /// Returns the alternatives that a part combines, for example the variants of an enum.
    fn alternatives<'a>(&'a self, part: &'a Value) -> impl Iterator<Item = &'a Value> {
        ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|kind| part.get(kind)?.as_array()).flatten()
    }

    /// Returns the fields of a part, in order. For an enum whose variants have fields, these are the fields of all
    /// variants.
    pub(super) fn fields<'a>(&'a self, part: &'a Value) -> Vec<(&'a str, &'a Value)> {
        let part = self.resolve(part);
        let mut fields: Vec<(&str, &Value)> = Vec::new();
        if let Some(properties) = part.get("properties").and_then(Value::as_object) {
            fields.extend(properties.iter().map(|(name, child)| (name.as_str(), child)));
        }
        for alternative in self.alternatives(part) {
            for (name, child) in self.fields(alternative) {
                if fields.iter().all(|(known, _)| *known != name) {
                    fields.push((name, child));
                }
            }
        }
        fields
    }

    /// Returns whether a part allows fields that the schema does not name.
    pub(super) fn is_open(&self, part: &Value) -> bool {
        self.resolve(part).get("additionalProperties").is_some_and(|more| more != &Value::Bool(false))
    }

    /// Returns the schema of the elements of a list.
    pub(super) fn items<'a>(&'a self, part: &'a Value) -> Option<&'a Value> {
        self.resolve(part).get("items")
    }

    /// Returns the schema at a path of field names and list indices.
    pub(super) fn find(&self, path: &[String]) -> Option<&Value> {
        let mut part = self.root();
        for key in path {
            let field = self.fields(part).into_iter().find(|(name, _)| name == key).map(|(_, child)| child);
            part = field.or_else(|| key.parse::<usize>().ok().and_then(|_| self.items(part)))?;
        }
        Some(part)
    }

    /// Returns the path of the field `name` if exactly one section has such a field.
    pub(super) fn path_of_unique_field(&self, name: &str) -> Option<String> {
        let sections = self.fields(self.root());
        let mut paths = sections.iter().filter(|(_, section)| self.fields(section).iter().any(|(n, _)| *n == name));
        match (paths.next(), paths.next()) {
            (Some((section, _)), None) => Some(format!("{section}.{name}")),
            _ => None,
        }
    }

    /// Returns the documentation of a field on one line. If it has none, returns that of its type.
    pub(super) fn description(&self, part: &Value) -> Option<String> {
        let text = |part: &Value| part.get("description").and_then(Value::as_str).map(str::to_owned);
        let text_of_alternative = || self.alternatives(part).find_map(|alternative| text(self.resolve(alternative)));
        let found = text(part).or_else(|| text(self.resolve(part))).or_else(text_of_alternative)?;
        Some(found.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Returns the words that a part allows: the names of an enum's variants without fields.
    pub(super) fn words<'a>(&'a self, part: &'a Value) -> Vec<&'a str> {
        let part = self.resolve(part);
        if let Some(word) = part.get("const").and_then(Value::as_str) {
            return vec![word];
        }
        if let Some(words) = part.get("enum").and_then(Value::as_array) {
            return words.iter().filter_map(Value::as_str).collect();
        }
        self.alternatives(part).flat_map(|alternative| self.words(alternative)).collect()
    }

    /// Returns a description of the values that a part allows, or `None` if the schema does not tell.
    pub(super) fn expected(&self, part: &Value) -> Option<String> {
        let part = self.resolve(part);
        let words = self.words(part);
        if !words.is_empty() {
            return Some(format!("one of {}", words.join(", ")));
        }
        match part.get("type") {
            Some(Value::String(kind)) => self.expected_type(part, kind),
            Some(Value::Array(kinds)) => {
                let kinds: Option<Vec<_>> = kinds.iter().map(|kind| self.expected_type(part, kind.as_str()?)).collect();
                kinds.map(|kinds| kinds.join(" or "))
            }
            _ => {
                let kinds: Option<Vec<_>> = self.alternatives(part).map(|kind| self.expected(kind)).collect();
                kinds.filter(|kinds| !kinds.is_empty()).map(|kinds| kinds.join(" or "))
            }
        }
    }

    /// Returns a description of the JSON type `kind`.
    fn expected_type(&self, part: &Value, kind: &str) -> Option<String> {
        let not_negative = part.get("minimum").and_then(Value::as_f64) == Some(0.0);
        Some(match kind {
            "boolean" => "true or false".into(),
            "integer" if not_negative => "a whole number of 0 or more".into(),
            "integer" => "a whole number".into(),
            "number" => "a number".into(),
            "string" => "text".into(),
            "null" => "null".into(),
            "object" => "fields below it".into(),
            "array" => match self.items(part).and_then(|items| self.expected(items)) {
                Some(items) => format!("a list [..], each {items}"),
                None => "a list [..]".into(),
            },
            _ => return None,
        })
    }
}
