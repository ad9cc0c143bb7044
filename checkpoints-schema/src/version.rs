//! Reading a manifest. Older versions are accepted; newer and inconsistent ones are refused.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value;

use crate::manifest::{Manifest, TensorRecord, Writer};
use crate::role::Role;

/// The schema version that this Admiral writes, and the newest that it reads.
///
/// Increase it when a reader of the previous version would misunderstand the manifest. A new field that old readers can
/// ignore does not need a new version, because unknown fields are ignored. Older versions stay readable:
/// [`Manifest::from_json`] fills in the fields that they lack.
///
/// | version | change |
/// |---|---|
/// | 1 | the first version |
/// | 2 | adds `writer` |
pub const SCHEMA_VERSION: u32 = 2;

/// The largest header of a safetensors file with its length, in bytes. The format limits it to 100 MB.
const MAX_HEADER: u64 = 100_000_008;

/// The reason why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A newer Admiral wrote it.
    #[error(
        "the manifest has schema version {found} and this Admiral reads up to {SCHEMA_VERSION}: use the Admiral that \
         wrote it, or a newer one"
    )]
    Newer {
        /// The manifest's version.
        found: u64,
    },
    /// The bytes are not a manifest.
    #[error("the manifest cannot be read: {reason}")]
    Malformed {
        /// The location and the cause.
        reason: String,
    },
    /// Parts of the manifest contradict each other.
    #[error("the manifest contradicts itself: {reason}")]
    Inconsistent {
        /// The contradiction.
        reason: String,
    },
}

/// Returns a manifest of version `from` with the fields that it lacks.
fn upgraded(mut manifest: Value, from: u64) -> Value {
    if let Some(fields) = manifest.as_object_mut()
        && from < 2
    {
        let unknown = Writer {
            run_id: "unknown".into(),
            attempt_id: "unknown".into(),
            host: "unknown".into(),
            started: fields.get("created").and_then(Value::as_str).unwrap_or_default().to_owned(),
        };
        fields.insert("writer".into(), serde_json::json!(unknown));
    }
    manifest
}

#[derive(Deserialize)]
struct VersionOnly {
    schema_version: u64,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// - [`ManifestError::Newer`] if the version is above [`SCHEMA_VERSION`]. Nothing else is checked then.
    /// - [`ManifestError::Malformed`] if the bytes are not a manifest.
    /// - [`ManifestError::Inconsistent`] if parts of it contradict each other.
    pub fn from_json(json: &[u8]) -> Result<Self, ManifestError> {
        let malformed = |error: serde_json::Error| ManifestError::Malformed { reason: error.to_string() };
        let VersionOnly { schema_version } = serde_json::from_slice(json).map_err(malformed)?;
        if schema_version > u64::from(SCHEMA_VERSION) {
            return Err(ManifestError::Newer { found: schema_version });
        }
        if schema_version == 0 {
            return Err(ManifestError::Malformed { reason: "schema versions start at 1, not 0".into() });
        }
        let manifest: Self = if schema_version == u64::from(SCHEMA_VERSION) {
            serde_json::from_slice(json).map_err(malformed)?
        } else {
            let older = serde_json::from_slice(json).map_err(malformed)?;
            serde_json::from_value(upgraded(older, schema_version)).map_err(malformed)?
        };
        manifest.check().map_err(|reason| ManifestError::Inconsistent { reason })?;
        Ok(manifest)
    }

    /// Checks that files, parameters and tensors are consistent.
    fn check(&self) -> Result<(), String> {
        let mut files = HashMap::new();
        for file in &self.files {
            if file.path.split('/').any(|part| matches!(part, "" | "." | "..")) || file.path.contains('\\') {
                return Err(format!("{:?} is not a path inside the checkpoint", file.path));
            }
            if files.insert(file.path.as_str(), FileContent { length: file.length, ..FileContent::default() }).is_some()
            {
                return Err(format!("the file {} is listed twice", file.path));
            }
        }
        let mut parameters = HashMap::new();
        for parameter in &self.parameters {
            if parameters.insert(parameter.name.as_str(), parameter).is_some() {
                return Err(format!("the parameter {} is listed twice", parameter.name));
            }
        }
        let mut seen: HashMap<String, HashSet<&str>> = HashMap::new();
        for tensor in &self.tensors {
            let (role, name) = (tensor.role, tensor.name.as_str());
            if let Role::Ema { rate } = role
                && (!(0.0..=1.0).contains(&rate) || rate.is_sign_negative())
            {
                return Err(format!("{rate} is not the rate of an average"));
            }
            let Some(parameter) = parameters.get(name) else {
                return Err(format!("{role} {name} is not a parameter"));
            };
            if parameter.shape != tensor.shape {
                return Err(format!(
                    "{role} {name} has shape {:?}, but the parameter has {:?}",
                    tensor.shape, parameter.shape
                ));
            }
            let Some(file) = files.get_mut(tensor.file.as_str()) else {
                return Err(format!("{role} {name} lies in {}, which is not among the files", tensor.file));
            };
            file.take(tensor)?;
            if !seen.entry(role.folder()).or_default().insert(name) {
                return Err(format!("{role} {name} is listed twice"));
            }
        }
        for (path, file) in &files {
            // Readers allocate memory for a whole file.
            if file.length - file.bytes_of_values > MAX_HEADER {
                let (length, values) = (file.length, file.bytes_of_values);
                return Err(format!("{path} has {length} bytes, far more than the {values} of its tensors"));
            }
        }
        for (role, names) in &seen {
            if let Some(missing) = self.parameters.iter().find(|p| !names.contains(p.name.as_str())) {
                return Err(format!("{role} lacks {}", missing.name));
            }
        }
        Ok(())
    }
}

/// The content of a file according to the tensor records.
#[derive(Default)]
struct FileContent<'a> {
    length: u64,
    bytes_of_values: u64,
    roles: HashMap<&'a str, Role>,
}

impl<'a> FileContent<'a> {
    /// Adds a tensor to the file. Returns an error if it does not fit into the file.
    fn take(&mut self, tensor: &'a TensorRecord) -> Result<(), String> {
        let (role, name, file) = (tensor.role, tensor.name.as_str(), &tensor.file);
        if let Some(other) = self.roles.insert(name, role)
            && other != role
        {
            return Err(format!("{file} holds {name} both as {other} and as {role}"));
        }
        let bytes = tensor.shape.iter().try_fold(tensor.dtype.size(), |product, &n| product.checked_mul(n as u64));
        let sum = bytes.and_then(|bytes| self.bytes_of_values.checked_add(bytes));
        // A file also has a header, so that the values are always shorter.
        match sum.filter(|&sum| sum < self.length) {
            Some(sum) => self.bytes_of_values = sum,
            None => return Err(format!("{file} has {} bytes, too few for {role} {name} in it", self.length)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn example() -> Value {
        json!({
            "schema_version": 2,
            "created": "2021-05-11T00:00:00Z",
            "code_version": "0.1.0",
            "writer": {
                "run_id": "7e57", "attempt_id": "a1", "host": "node0", "started": "2021-05-10T00:00:00Z"
            },
            "task": "diffusion",
            "configuration": {"model": {"num_channels": 32}},
            "training": {
                "step": 20, "next_sample_index": 640, "optimizer_steps": 19, "lg_loss_scale": 19.018,
                "timestep_sampler": null
            },
            "world_size": 1,
            "parameters": [{"name": "out.2.bias", "shape": [2]}],
            "files": [{"path": "master/model-00001-of-00001.safetensors", "length": 72, "sha256": "00"}],
            "tensors": [{
                "role": {"kind": "master"}, "name": "out.2.bias", "shape": [2], "dtype": "F32",
                "file": "master/model-00001-of-00001.safetensors"
            }]
        })
    }

    fn read(value: &Value) -> Result<Manifest, ManifestError> {
        Manifest::from_json(&serde_json::to_vec(value).unwrap())
    }

    #[test]
    fn a_manifest_is_unchanged_by_a_round_trip() {
        let manifest = read(&example()).unwrap();
        assert_eq!(manifest.roles(), [Role::Master]);
        assert_eq!(manifest.parameters()[0].num_elements(), Some(2));
        assert_eq!(Manifest::from_json(&serde_json::to_vec(&manifest).unwrap()).unwrap(), manifest);
    }

    #[test]
    fn a_newer_version_is_refused_before_other_fields_are_read() {
        let error = Manifest::from_json(br#"{"schema_version": 3, "tensors": "elsewhere"}"#).unwrap_err();
        assert_eq!(error, ManifestError::Newer { found: 3 });
        assert!(error.to_string().contains("version 3"), "{error}");
    }

    #[test]
    fn version_1_is_read_without_a_writer() {
        let mut value = example();
        value["schema_version"] = json!(1);
        value.as_object_mut().unwrap().remove("writer");
        let manifest = read(&value).unwrap();
        assert_eq!(manifest.writer.run_id, "unknown");
        assert_eq!(manifest.writer.started, manifest.created);
        value["schema_version"] = json!(2);
        assert!(matches!(read(&value), Err(ManifestError::Malformed { reason }) if reason.contains("writer")));
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let mut value = example();
        value["mood"] = json!("good");
        assert_eq!(read(&value), read(&example()));
    }

    #[test]
    fn bytes_that_are_not_a_manifest_are_malformed() {
        for json in [&b""[..], b"[]", b"{}", b"{\"schema_version\": 0}", b"{\"schema_version\": 1}", b"\xff"] {
            assert!(matches!(Manifest::from_json(json), Err(ManifestError::Malformed { .. })), "{json:?}");
        }
    }

    #[test]
    fn two_averages_with_the_same_rate_are_refused() {
        let mut value = example();
        let mut file = value["files"][0].clone();
        file["path"] = json!("other.safetensors");
        let mut first = value["tensors"][0].clone();
        first["role"] = json!({"kind": "ema", "rate": 0.9999});
        let mut second = first.clone();
        second["file"] = file["path"].clone();
        value["files"].as_array_mut().unwrap().push(file);
        value["tensors"] = json!([first, second]);
        let error = read(&value).unwrap_err();
        assert!(error.to_string().contains("ema-0.9999 out.2.bias is listed twice"), "{error}");
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        for shape in [json!([u64::MAX]), json!([1_u64 << 40, 1_u64 << 40]), json!([1_u64 << 62])] {
            let mut value = example();
            value["parameters"][0]["shape"] = shape.clone();
            value["tensors"][0]["shape"] = shape;
            value["files"][0]["length"] = json!(u64::MAX);
            let error = read(&value).unwrap_err();
            assert!(matches!(&error, ManifestError::Inconsistent { reason } if reason.contains("too few")), "{error}");
        }
    }

    #[test]
    fn contradictions_are_reported() {
        let master = example()["tensors"][0].clone();
        let twice = |role: Value| {
            let mut other = master.clone();
            other["role"] = role;
            json!([master, other])
        };
        let cases: [(&str, Value, &str); 15] = [
            ("/files/0/path", json!("/etc/passwd"), "inside"),
            ("/files/0/path", json!("master\\x"), "inside"),
            ("/files", json!([example()["files"][0], example()["files"][0]]), "file master/model"),
            ("/files/0/length", json!(8), "too few for master out.2.bias"),
            ("/tensors", twice(json!({"kind": "master"})), "listed twice"),
            ("/tensors", twice(json!({"kind": "adam-mean"})), "both as master and as adam-mean"),
            ("/tensors/0/role", json!({"kind": "ema", "rate": -0.0}), "rate"),
            ("/tensors/0/role", json!({"kind": "ema", "rate": -0.5}), "rate"),
            ("/files/0/path", json!("../x"), "inside"),
            ("/files", json!([]), "not among the files"),
            ("/parameters", json!([]), "not a parameter"),
            ("/parameters/0/shape", json!([3]), "shape"),
            ("/tensors/0/role", json!({"kind": "ema", "rate": 2.0}), "rate"),
            ("/parameters", json!([{"name": "out.2.bias", "shape": [2]}, {"name": "b", "shape": []}]), "lacks b"),
            ("/parameters", json!([{"name": "a", "shape": [2]}, {"name": "a", "shape": []}]), "listed twice"),
        ];
        for (pointer, replacement, expected) in cases {
            let mut value = example();
            *value.pointer_mut(pointer).unwrap() = replacement;
            let error = read(&value).unwrap_err();
            assert!(matches!(&error, ManifestError::Inconsistent { reason } if reason.contains(expected)), "{error}");
        }
    }
}
