//! The evaluations of checkpoints, each in the folder of its checkpoint. Retention ranks checkpoints by them.

use std::collections::BTreeMap;

use admiral_checkpoints_schema::{Evaluation, EvaluationRecord, Manifest, SCHEMA_VERSION};
use admiral_storage::Store;

use crate::catalog::Catalog;
use crate::error::Error;
use crate::layout;
use crate::manifests::json;
use crate::retention::Score;

impl Catalog {
    /// Records the evaluation of a published checkpoint, in place of an earlier one. The file appears as a whole or not at
    /// all. Metrics without a finite value are left out. Only one process may call it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the step is not published; [`Error::Damaged`]; [`Error::Schema`]; [`Error::Store`].
    pub fn record_evaluation(&self, step: u64, evaluation: &Evaluation) -> Result<(), Error> {
        let checkpoint = self.checkpoint(step)?;
        let mut evaluation = evaluation.clone();
        for result in &mut evaluation.results {
            result.metrics.retain(|_, value| value.is_finite());
        }
        let record = EvaluationRecord {
            schema_version: SCHEMA_VERSION,
            step,
            attempt_id: checkpoint.manifest.writer.attempt_id,
            created: jiff::Timestamp::now().to_string(),
            evaluation,
        };
        let path = layout::join(&layout::step_folder(step), layout::EVALUATION);
        let bytes = json(&self.store, &path, &record)?;
        Ok(self.store.wait(self.store.put(&path, bytes))?)
    }

    /// Returns the evaluation of a published checkpoint. `None` if none of its weights is recorded, or the record cannot be
    /// read, which is logged.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the step is not published; [`Error::Damaged`]; [`Error::Schema`]; [`Error::Store`].
    pub fn evaluation(&self, step: u64) -> Result<Option<EvaluationRecord>, Error> {
        let checkpoint = self.checkpoint(step)?;
        self.store.wait(evaluation_of(&self.store, checkpoint.manifest()))
    }

    /// Returns the scores of the evaluated checkpoints among `manifests`, by step.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn scores<'a>(&self, manifests: impl IntoIterator<Item = &'a Manifest>) -> Result<BTreeMap<u64, Score>, Error> {
        self.store.wait(async {
            let mut scores = BTreeMap::new();
            for manifest in manifests {
                scores.extend(score_of(&self.store, manifest).await?.map(|score| (manifest.training.step, score)));
            }
            Ok(scores)
        })
    }
}

/// Returns the score of a checkpoint. `None` if it has not been evaluated.
///
/// # Errors
/// [`Error::Store`].
pub(crate) async fn score_of(store: &Store, manifest: &Manifest) -> Result<Option<Score>, Error> {
    let record = evaluation_of(store, manifest).await?;
    Ok(record.and_then(|record| {
        let fid = record.evaluation.lowest_fid()?;
        let Evaluation { settings, num_images, .. } = record.evaluation;
        Some(Score { settings: format!("{num_images} images, {settings}"), fid })
    }))
}

/// Returns the evaluation of the weights that a manifest describes. One that cannot be read is as good as none: the
/// checkpoint can be evaluated again.
///
/// # Errors
/// [`Error::Store`].
async fn evaluation_of(store: &Store, manifest: &Manifest) -> Result<Option<EvaluationRecord>, Error> {
    let step = manifest.training.step;
    let path = layout::join(&layout::step_folder(step), layout::EVALUATION);
    let Some(bytes) = store.get(&path).await? else { return Ok(None) };
    match EvaluationRecord::from_json(&bytes) {
        Ok(record) => {
            let is_of_these_weights = record.step == step && record.attempt_id == manifest.writer.attempt_id;
            Ok(is_of_these_weights.then_some(record))
        }
        Err(reason) => {
            tracing::warn!("{}: {reason}; the checkpoint counts as not evaluated", store.url(&path));
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use admiral_checkpoints_schema::{Parameter, Role, TrainingState, WeightsEvaluation, Writer};
    use admiral_comm::Single;
    use admiral_storage::{InjectedFaults, Location, StoreOptions};

    use super::*;
    use crate::deletion::{delete, to_delete};
    use crate::write::{Content, TensorView, save};
    use crate::{Error, Retention};

    fn folder() -> (tempfile::TempDir, Catalog) {
        let folder = tempfile::tempdir().unwrap();
        let catalog = open(folder.path(), StoreOptions::default());
        (folder, catalog)
    }

    fn open(folder: &Path, options: StoreOptions) -> Catalog {
        Catalog::new(&Store::create(&Location::Folder(folder.to_owned()), &options).unwrap())
    }

    /// Publishes a checkpoint with one parameter.
    fn publish(catalog: &Catalog, step: u64, attempt_id: &str) {
        let text = |text: &str| text.to_owned();
        let content = Content {
            writer: Writer { run_id: text("r"), attempt_id: text(attempt_id), host: text("h"), started: text("t") },
            task: text("diffusion"),
            configuration: serde_json::json!({}),
            training: TrainingState {
                step,
                next_sample_index: step,
                optimizer_steps: step,
                lg_loss_scale: None,
                timestep_sampler: None,
                images: None,
            },
            parameters: Arc::new(vec![Parameter { name: text("w"), shape: vec![2] }]),
        };
        let view = TensorView { role: Role::Master, name: "w", shape: &[2], values: &[1.0, 2.0] };
        save(catalog.store(), &Single, &content, &[view]).unwrap();
    }

    const ATTEMPT: &str = "0123456789abcdef";

    fn evaluation(fid: f64) -> Evaluation {
        let metrics = [("fid".to_owned(), fid), ("recall".to_owned(), 0.5)].into();
        let results = vec![WeightsEvaluation { weights: "master".into(), metrics }];
        Evaluation { settings: "reference a".into(), num_images: 100, results }
    }

    fn fid(catalog: &Catalog, step: u64) -> Option<f64> {
        catalog.evaluation(step).unwrap().and_then(|record| record.evaluation.lowest_fid())
    }

    fn deletable(catalog: &Catalog, keep_best: u64) -> Vec<u64> {
        let retention = Retention { keep_last: Some(1), keep_best, ..Retention::default() };
        catalog.store.wait(to_delete(&catalog.store, &retention, None, "r")).unwrap()
    }

    fn paths(folder: &Path) -> Vec<PathBuf> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn the_newest_evaluation_is_read() {
        let (_folder, catalog) = folder();
        publish(&catalog, 10, ATTEMPT);
        assert_eq!(catalog.evaluation(10).unwrap(), None);
        catalog.record_evaluation(10, &evaluation(7.5)).unwrap();
        catalog.record_evaluation(10, &evaluation(6.5)).unwrap();
        let record = catalog.evaluation(10).unwrap().unwrap();
        assert_eq!((record.step, record.attempt_id.as_str(), &record.evaluation), (10, ATTEMPT, &evaluation(6.5)));
        catalog.record_evaluation(10, &evaluation(f64::NAN)).unwrap();
        let metrics = &catalog.evaluation(10).unwrap().unwrap().evaluation.results[0].metrics;
        assert_eq!(metrics.keys().collect::<Vec<_>>(), ["recall"]);
    }

    #[test]
    fn only_published_checkpoints_are_evaluated() {
        let (folder, catalog) = folder();
        assert!(matches!(catalog.record_evaluation(10, &evaluation(1.0)), Err(Error::NotFound { .. })));
        assert!(paths(folder.path()).is_empty(), "nothing is written");
    }

    #[test]
    fn an_evaluation_of_other_weights_and_a_damaged_one_do_not_count() {
        let (folder, catalog) = folder();
        publish(&catalog, 10, ATTEMPT);
        catalog.record_evaluation(10, &evaluation(7.5)).unwrap();
        let path = folder.path().join("step-000000010/evaluation.json");
        let whole = std::fs::read_to_string(&path).unwrap();
        for text in [
            whole.replace(ATTEMPT, "fedcba9876543210"),
            whole.replace("\"step\": 10", "\"step\": 11"),
            whole.replace("\"schema_version\": 2", "\"schema_version\": 3"),
            whole[..whole.len() / 2].to_owned(),
            String::new(),
        ] {
            assert_ne!(text, whole);
            std::fs::write(&path, text).unwrap();
            assert_eq!(catalog.evaluation(10).unwrap(), None);
        }
        // The step is saved again, by another attempt.
        std::fs::write(&path, whole).unwrap();
        assert_eq!(fid(&catalog, 10), Some(7.5));
        crate::catalog::set_aside(&catalog.store, 10).unwrap();
        publish(&catalog, 10, "fedcba9876543210");
        assert_eq!(fid(&catalog, 10), None);
    }

    #[test]
    fn retention_reads_the_evaluations_of_the_store() {
        let (folder, catalog) = folder();
        for (step, fid) in [(10, Some(5.0)), (20, Some(9.0)), (30, Some(4.0)), (40, Some(8.0)), (50, None)] {
            publish(&catalog, step, ATTEMPT);
            if let Some(fid) = fid {
                catalog.record_evaluation(step, &evaluation(fid)).unwrap();
            }
        }
        assert_eq!(deletable(&catalog, 0), [10, 20, 30, 40]);
        assert_eq!(deletable(&catalog, 1), [10, 20, 40]);
        assert_eq!(deletable(&catalog, 2), [20, 40]);
        let manifests: Vec<Manifest> = [10, 50].map(|step| catalog.checkpoint(step).unwrap().manifest().clone()).into();
        let scores = catalog.scores(&manifests).unwrap();
        assert_eq!(scores.keys().copied().collect::<Vec<_>>(), [10]);
        delete(&catalog.store, 20).unwrap();
        assert!(!folder.path().join("step-000000020").exists(), "an evaluation goes with its checkpoint");
    }

    /// A crash is a store that answers no more from some operation on.
    #[test]
    fn an_evaluation_that_is_interrupted_at_any_operation_is_whole_or_as_before() {
        let mut num_crashes = 0;
        for earlier in [None, Some(9.0)] {
            for crash in 0.. {
                let (folder, catalog) = folder();
                for step in [10, 20, 30] {
                    publish(&catalog, step, ATTEMPT);
                }
                catalog.record_evaluation(20, &evaluation(5.0)).unwrap();
                earlier.iter().for_each(|&fid| catalog.record_evaluation(10, &evaluation(fid)).unwrap());
                let operations = Arc::new(AtomicU64::new(0));
                let counter = Arc::clone(&operations);
                let is_cut = move || counter.fetch_add(1, Ordering::SeqCst) >= crash;
                let faults = InjectedFaults { is_cut: Some(Arc::new(is_cut)), ..InjectedFaults::default() };
                // Operations of a store that is gone are repeated until its patience is over.
                let options = StoreOptions { patience: Duration::from_millis(100), ..StoreOptions::default() };
                let dying = open(folder.path(), options).store().clone().with_faults(faults);
                let dying = Catalog::new(&dying);
                let recorded = dying.record_evaluation(10, &evaluation(1.0));
                let found = fid(&open(folder.path(), StoreOptions::default()), 10);
                assert!(found == earlier || found == Some(1.0), "{crash}: {found:?}");
                // Neither kind of state makes retention delete the best.
                let best = if found == Some(1.0) { 10 } else { 20 };
                let deleted = deletable(&catalog, 1);
                assert!(!deleted.contains(&best) && !deleted.contains(&30), "{crash}: {deleted:?}");
                // The next attempt to record succeeds.
                catalog.record_evaluation(10, &evaluation(1.0)).unwrap();
                assert_eq!((fid(&catalog, 10), deletable(&catalog, 1)), (Some(1.0), vec![20]));
                if recorded.is_ok() && operations.load(Ordering::SeqCst) <= crash {
                    break;
                }
                num_crashes += 1;
            }
        }
        assert!(num_crashes >= 4, "the manifest is read and a file is written: {num_crashes}");
    }
}
