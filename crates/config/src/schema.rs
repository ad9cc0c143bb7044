//! The JSON Schema of a configuration's type, asked for names, documentation and what a field takes.

use schemars::JsonSchema;
use serde_json::Value;

/// The schema of a whole configuration.
pub(super) struct Schema {
    root: Value,
}

impl Schema {
    pub(super) fn of<T: JsonSchema>() -> Self {
        Self { root: schemars::schema_for!(T).to_value() }
    }

    /// The place of the whole configuration.
    pub(super) fn root(&self) -> &Value {
        &self.root
    }

    /// Follows `$ref`.
    fn resolve<'a>(&'a self, mut place: &'a Value) -> &'a Value {
        while let Some(target) = place.get("$ref").and_then(Value::as_str) {
            match self.root.pointer(target.trim_start_matches('#')) {
                Some(next) => place = next,
                None => break,
            }
        }
        place
    }

    fn alternatives<'a>(&'a self, place: &'a Value) -> impl Iterator<Item = &'a Value> {
        ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|kind| place.get(kind)?.as_array()).flatten()
    }

    /// The fields below a place, in order; of an enum with fields those of all its variants.
    pub(super) fn fields<'a>(&'a self, place: &'a Value) -> Vec<(&'a str, &'a Value)> {
        let place = self.resolve(place);
        let mut fields: Vec<(&str, &Value)> = Vec::new();
        if let Some(properties) = place.get("properties").and_then(Value::as_object) {
            fields.extend(properties.iter().map(|(name, child)| (name.as_str(), child)));
        }
        for alternative in self.alternatives(place) {
            for (name, child) in self.fields(alternative) {
                if fields.iter().all(|(known, _)| *known != name) {
                    fields.push((name, child));
                }
            }
        }
        fields
    }

    /// Whether names that are not fields are allowed below a place.
    pub(super) fn is_open(&self, place: &Value) -> bool {
        self.resolve(place).get("additionalProperties").is_some_and(|more| more != &Value::Bool(false))
    }

    /// The place of the elements of a list.
    pub(super) fn items<'a>(&'a self, place: &'a Value) -> Option<&'a Value> {
        self.resolve(place).get("items")
    }

    /// The place that a path of names and list indices leads to.
    pub(super) fn find(&self, path: &[String]) -> Option<&Value> {
        let mut place = self.root();
        for key in path {
            let field = self.fields(place).into_iter().find(|(name, _)| name == key).map(|(_, child)| child);
            place = field.or_else(|| key.parse::<usize>().ok().and_then(|_| self.items(place)))?;
        }
        Some(place)
    }

    /// The path of the one section's field with this name.
    pub(super) fn elsewhere(&self, name: &str) -> Option<String> {
        let sections = self.fields(self.root());
        let mut paths = sections.iter().filter(|(_, section)| self.fields(section).iter().any(|(n, _)| *n == name));
        match (paths.next(), paths.next()) {
            (Some((section, _)), None) => Some(format!("{section}.{name}")),
            _ => None,
        }
    }

    /// The documentation of a field, else of its type, on one line.
    pub(super) fn description(&self, place: &Value) -> Option<String> {
        let text = |place: &Value| place.get("description").and_then(Value::as_str).map(str::to_owned);
        let of_alternative = || self.alternatives(place).find_map(|alternative| text(self.resolve(alternative)));
        let found = text(place).or_else(|| text(self.resolve(place))).or_else(of_alternative)?;
        Some(found.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// The words that an enumeration allows; none where other values are allowed too.
    pub(super) fn words<'a>(&'a self, place: &'a Value) -> Vec<&'a str> {
        let place = self.resolve(place);
        if let Some(word) = place.get("const").and_then(Value::as_str) {
            return vec![word];
        }
        if let Some(words) = place.get("enum").and_then(Value::as_array) {
            return words.iter().filter_map(Value::as_str).collect();
        }
        self.alternatives(place).flat_map(|alternative| self.words(alternative)).collect()
    }

    /// What a place takes, in words; none where the schema cannot say.
    pub(super) fn expected(&self, place: &Value) -> Option<String> {
        let place = self.resolve(place);
        let words = self.words(place);
        if !words.is_empty() {
            return Some(format!("one of {}", words.join(", ")));
        }
        match place.get("type") {
            Some(Value::String(kind)) => self.expected_type(place, kind),
            Some(Value::Array(kinds)) => {
                let kinds: Option<Vec<_>> =
                    kinds.iter().map(|kind| self.expected_type(place, kind.as_str()?)).collect();
                kinds.map(|kinds| kinds.join(" or "))
            }
            _ => {
                let kinds: Option<Vec<_>> = self.alternatives(place).map(|kind| self.expected(kind)).collect();
                kinds.filter(|kinds| !kinds.is_empty()).map(|kinds| kinds.join(" or "))
            }
        }
    }

    fn expected_type(&self, place: &Value, kind: &str) -> Option<String> {
        let not_negative = place.get("minimum").and_then(Value::as_f64) == Some(0.0);
        Some(match kind {
            "boolean" => "true or false".into(),
            "integer" if not_negative => "a whole number of 0 or more".into(),
            "integer" => "a whole number".into(),
            "number" => "a number".into(),
            "string" => "text".into(),
            "null" => "null".into(),
            "object" => "fields below it".into(),
            "array" => match self.items(place).and_then(|items| self.expected(items)) {
                Some(items) => format!("a list [..], each {items}"),
                None => "a list [..]".into(),
            },
            _ => return None,
        })
    }
}
