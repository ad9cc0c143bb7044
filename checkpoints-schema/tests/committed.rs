//! Tests of the committed JSON Schemas, and of a committed manifest of each older version.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use admiral_checkpoints_schema::{Manifest, ManifestError, Role, json_schemas};

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_committed_schemas_match_the_types() {
    let mut expected: Vec<PathBuf> = Vec::new();
    for (name, text) in json_schemas() {
        let path = package().join("schema").join(name);
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "{} does not match the types; if the change is intended, generate it again with\n    cargo run -p \
             admiral-checkpoints-schema --example write_schemas\nand see in src/version.rs whether SCHEMA_VERSION must \
             increase",
            path.display()
        );
        expected.push(path);
    }
    let mut there: Vec<PathBuf> =
        std::fs::read_dir(package().join("schema")).unwrap().map(|entry| entry.unwrap().path()).collect();
    there.sort();
    expected.sort();
    assert_eq!(there, expected, "schema/ holds only the schemas");
}

#[test]
fn a_manifest_of_version_1_is_still_read() {
    let json = std::fs::read(package().join("tests/manifest-version-1.json")).unwrap();
    let manifest = Manifest::from_json(&json).unwrap();
    assert_eq!(manifest.schema_version, 1, "the version of the file is kept");
    assert_eq!((manifest.training.step, manifest.training.next_sample_index), (20, 160));
    assert_eq!(manifest.world_size, 2);
    assert_eq!(manifest.roles(), [Role::Master, Role::Ema { rate: 0.999 }, Role::AdamMean, Role::AdamVariance]);
    assert_eq!((manifest.writer.run_id.as_str(), manifest.writer.host.as_str()), ("unknown", "unknown"));
    assert_eq!(manifest.writer.started, manifest.created);
    let rewritten = serde_json::to_vec(&manifest).unwrap();
    assert_eq!(Manifest::from_json(&rewritten).unwrap(), manifest);
}

#[test]
fn a_truncated_manifest_is_refused_at_every_length() {
    let json = std::fs::read(package().join("tests/manifest-version-1.json")).unwrap();
    let end = json.trim_ascii_end().len();
    for length in 0..end {
        let error = Manifest::from_json(&json[..length]).unwrap_err();
        assert!(matches!(error, ManifestError::Malformed { .. }), "{length}: {error}");
    }
}
