//! The JSON Schemas of the files, generated from their types.

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

use crate::evaluation::EvaluationRecord;
use crate::manifest::{Latest, Manifest, Owner};
use crate::version::SCHEMA_VERSION;

/// Returns the file name in `schema/` and the text of each schema.
#[must_use]
pub fn json_schemas() -> [(&'static str, String); 4] {
    [
        ("manifest.schema.json", schema_of::<Manifest>("The manifest.json of an Admiral checkpoint")),
        ("latest.schema.json", schema_of::<Latest>("The latest.json beside Admiral checkpoints")),
        ("evaluation.schema.json", schema_of::<EvaluationRecord>("The evaluation.json of an Admiral checkpoint")),
        ("owner.schema.json", schema_of::<Owner>("The owner.json beside Admiral checkpoints")),
    ]
}

fn schema_of<T: JsonSchema>(title: &str) -> String {
    let schema = SchemaGenerator::default().into_root_schema_for::<T>().to_value();
    let summary = schema["description"].as_str().unwrap_or_default();
    let description =
        format!("{summary} This is schema version {SCHEMA_VERSION}. Readers ignore fields that it does not name.");
    // The title and description come first, for human readers.
    let mut ordered = Map::new();
    ordered.insert("$schema".into(), schema["$schema"].clone());
    ordered.insert("title".into(), title.into());
    ordered.insert("description".into(), description.into());
    for (key, value) in schema.as_object().into_iter().flatten() {
        ordered.entry(key).or_insert_with(|| value.clone());
    }
    let mut schema = Value::Object(ordered);
    // Older versions have another structure, which the reader converts to this one.
    if let Some(Value::Object(version)) = schema.pointer_mut("/properties/schema_version") {
        version.insert("const".into(), SCHEMA_VERSION.into());
    }
    format!("{schema:#}\n")
}
