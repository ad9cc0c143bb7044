//! The JSON Schemas of the files, made from their types.

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

use crate::manifest::{Latest, Manifest, Owner};
use crate::version::SCHEMA_VERSION;

/// The name of each schema's file in `schema/`, with its text.
#[must_use]
pub fn json_schemas() -> [(&'static str, String); 3] {
    [
        ("manifest.schema.json", schema_of::<Manifest>("The manifest.json of an Admiral checkpoint")),
        ("latest.schema.json", schema_of::<Latest>("The latest.json beside Admiral checkpoints")),
        ("owner.schema.json", schema_of::<Owner>("The owner.json beside Admiral checkpoints")),
    ]
}

fn schema_of<T: JsonSchema>(title: &str) -> String {
    let schema = SchemaGenerator::default().into_root_schema_for::<T>().to_value();
    let what = schema["description"].as_str().unwrap_or_default();
    let description =
        format!("{what} This is schema version {SCHEMA_VERSION}; fields that it does not name are passed over.");
    // What a reader wants to know first comes first.
    let mut ordered = Map::new();
    ordered.insert("$schema".into(), schema["$schema"].clone());
    ordered.insert("title".into(), title.into());
    ordered.insert("description".into(), description.into());
    for (key, value) in schema.as_object().into_iter().flatten() {
        ordered.entry(key).or_insert_with(|| value.clone());
    }
    let mut schema = Value::Object(ordered);
    // An older version has another form, which the reader makes into this one.
    if let Some(Value::Object(version)) = schema.pointer_mut("/properties/schema_version") {
        version.insert("const".into(), SCHEMA_VERSION.into());
    }
    format!("{schema:#}\n")
}
