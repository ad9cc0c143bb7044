//! The record of a checkpoint's evaluation.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::version::SCHEMA_VERSION;

/// The metrics of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evaluation {
    /// A fingerprint of everything that values depend on besides the weights: the reference, the feature network, the
    /// sampler, seeds. Only values with the same settings are compared with each other.
    pub settings: String,
    /// The number of images that were drawn from each set of weights.
    pub num_images: u64,
    /// The metrics by name, for each set of weights.
    pub results: Vec<WeightsEvaluation>,
}

/// The metrics of one set of weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WeightsEvaluation {
    /// The folder of the weights: `master`, or an average such as `ema-0.9999`.
    pub weights: String,
    /// The values by name, such as `fid`. A metric without a finite value is left out.
    pub metrics: BTreeMap<String, f64>,
}

impl Evaluation {
    /// The name of the metric by which checkpoints are ranked.
    pub const FID: &'static str = "fid";

    /// Returns the lowest FID of the sets of weights. `None` if there is none.
    #[must_use]
    pub fn lowest_fid(&self) -> Option<f64> {
        let fids = self.results.iter().filter_map(|result| result.metrics.get(Self::FID).copied());
        fids.filter(|fid| fid.is_finite()).min_by(f64::total_cmp)
    }
}

/// `evaluation.json` in the folder of a checkpoint: its newest evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EvaluationRecord {
    /// The schema version of this file.
    pub schema_version: u32,
    /// The step of the checkpoint.
    pub step: u64,
    /// The attempt that wrote the checkpoint. If the manifest names another one, the evaluation is of other weights.
    pub attempt_id: String,
    /// When it was recorded (RFC 3339, UTC).
    pub created: String,
    /// The metrics.
    #[serde(flatten)]
    pub evaluation: Evaluation,
}

impl EvaluationRecord {
    /// Reads a record.
    ///
    /// # Errors
    /// A reason, if the bytes are not a record, or a newer Admiral wrote it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(bytes).map_err(|error| format!("it cannot be read: {error}"))?;
        if record.schema_version > SCHEMA_VERSION {
            let found = record.schema_version;
            return Err(format!("it has schema version {found} and this Admiral reads up to {SCHEMA_VERSION}"));
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn result(weights: &str, fid: Option<f64>) -> WeightsEvaluation {
        let metrics = fid.map(|fid| (Evaluation::FID.to_owned(), fid)).into_iter().chain([("recall".into(), 0.1)]);
        WeightsEvaluation { weights: weights.into(), metrics: metrics.collect() }
    }

    fn record(results: Vec<WeightsEvaluation>) -> EvaluationRecord {
        EvaluationRecord {
            schema_version: SCHEMA_VERSION,
            step: 5000,
            attempt_id: "0123456789abcdef".into(),
            created: "2021-05-11T00:00:00Z".into(),
            evaluation: Evaluation { settings: "a".into(), num_images: 10_000, results },
        }
    }

    #[test]
    fn the_lowest_fid_counts() {
        let fid = |results| record(results).evaluation.lowest_fid();
        assert_eq!(
            fid(vec![result("master", Some(9.0)), result("ema-0.9", Some(4.5)), result("ema-0.99", None)]),
            Some(4.5)
        );
        assert_eq!(fid(vec![result("master", Some(f64::NAN)), result("ema-0.9", Some(7.0))]), Some(7.0));
        assert_eq!((fid(vec![]), fid(vec![result("master", None)])), (None, None));
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = record(vec![result("ema-0.9999", Some(2.97))]);
        let json = serde_json::to_vec(&record).unwrap();
        assert_eq!(EvaluationRecord::from_json(&json).unwrap(), record);
        for length in 0..json.len() {
            assert!(EvaluationRecord::from_json(&json[..length]).unwrap_err().contains("cannot be read"), "{length}");
        }
        let newer = EvaluationRecord { schema_version: SCHEMA_VERSION + 1, ..record };
        let error = EvaluationRecord::from_json(&serde_json::to_vec(&newer).unwrap()).unwrap_err();
        assert!(error.contains("reads up to"), "{error}");
    }
}
