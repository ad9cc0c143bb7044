//! The differences between two manifests.

use std::collections::{BTreeSet, HashMap};

use admiral_checkpoint::Manifest;
use serde::Serialize;
use serde_json::Value;

/// The number of characters of a value that a table shows.
const MAX_SHOWN: usize = 60;

/// A field that differs. The value is `None` if the field does not exist.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct FieldDifference {
    /// The path of the field, for example `model.num_channels`.
    field: String,
    a: Option<Value>,
    b: Option<Value>,
}

/// A parameter whose shapes differ. The shape is `None` if the parameter does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ShapeDifference {
    name: String,
    a: Option<Vec<usize>>,
    b: Option<Vec<usize>>,
}

impl FieldDifference {
    /// Returns the cells of a table.
    pub(super) fn cells(&self) -> [String; 3] {
        let shown = |value: &Option<Value>| match value {
            None => "(none)".to_owned(),
            Some(value) => {
                let text = value.to_string();
                if text.chars().count() > MAX_SHOWN {
                    text.chars().take(MAX_SHOWN).chain("...".chars()).collect()
                } else {
                    text
                }
            }
        };
        [self.field.clone(), shown(&self.a), shown(&self.b)]
    }
}

impl ShapeDifference {
    /// Returns the cells of a table.
    pub(super) fn cells(&self) -> [String; 3] {
        let shown = |shape: &Option<Vec<usize>>| shape.as_ref().map_or("(none)".to_owned(), |s| format!("{s:?}"));
        [self.name.clone(), shown(&self.a), shown(&self.b)]
    }
}

/// Returns the fields that differ, in the order of `a`, followed by those that only `b` has.
pub(super) fn compare_fields(a: &Value, b: &Value) -> Vec<FieldDifference> {
    let mut differences = Vec::new();
    collect("", Some(a), Some(b), &mut differences);
    differences
}

fn collect(path: &str, a: Option<&Value>, b: Option<&Value>, differences: &mut Vec<FieldDifference>) {
    if let (Some(Value::Object(in_a)), Some(Value::Object(in_b))) = (a, b) {
        let only_in_b = in_b.keys().filter(|name| !in_a.contains_key(*name));
        for name in in_a.keys().chain(only_in_b) {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            collect(&path, in_a.get(name), in_b.get(name), differences);
        }
    } else if a != b {
        differences.push(FieldDifference { field: path.to_owned(), a: a.cloned(), b: b.cloned() });
    }
}

/// Returns the parameters that differ, in the order of `a`, followed by those that only `b` has.
pub(super) fn compare_shapes(a: &Manifest, b: &Manifest) -> Vec<ShapeDifference> {
    let shapes = |manifest: &Manifest| -> HashMap<String, Vec<usize>> {
        manifest.parameters.iter().map(|p| (p.name.clone(), p.shape.clone())).collect()
    };
    let (in_a, in_b) = (shapes(a), shapes(b));
    let mut seen = BTreeSet::new();
    a.parameters
        .iter()
        .chain(&b.parameters)
        .map(|parameter| parameter.name.as_str())
        .filter(|name| seen.insert(*name))
        .map(|name| ShapeDifference { name: name.to_owned(), a: in_a.get(name).cloned(), b: in_b.get(name).cloned() })
        .filter(|difference| difference.a != difference.b)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_compared_by_their_path_in_any_order() {
        let a = json!({"model": {"width": 32, "mult": [1, 2]}, "seed": 5, "old": null});
        let b = json!({"seed": 5, "model": {"mult": [1, 3], "width": 32, "depth": 2}});
        let found: Vec<[String; 3]> = compare_fields(&a, &b).iter().map(FieldDifference::cells).collect();
        let expected = [["model.mult", "[1,2]", "[1,3]"], ["model.depth", "(none)", "2"], ["old", "null", "(none)"]];
        assert_eq!(found, expected.map(|cells| cells.map(str::to_owned)));
        assert_eq!(compare_fields(&a, &a), []);
    }

    #[test]
    fn long_values_are_cut() {
        let (a, b) = (json!({"losses": vec![0.1; 100]}), json!({"losses": []}));
        let [_, a, b] = compare_fields(&a, &b)[0].cells();
        assert_eq!((a.len(), a.ends_with("..."), b.as_str()), (MAX_SHOWN + 3, true, "[]"));
    }
}
