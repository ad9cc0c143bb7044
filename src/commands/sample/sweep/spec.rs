//! The file that describes a sweep.

use std::path::PathBuf;

use admiral_config::{Invalid, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::diffusion::Sampler;
use crate::run_config::{DeviceChoice, MAX_THREADS, PrecisionMode};
use crate::sample::Error;

use super::super::options::{Classes, GuidanceKind, GuidanceName};

/// The most images of a cell in the picture.
const MAX_STRIP: u64 = 64;

/// A sweep: jobs of the same images with different settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SweepSpec {
    /// The models, each a checkpoint's folder, a folder of checkpoints or a run's folder (then the newest), as a path or an
    /// bucket's URL.
    pub(super) checkpoints: Vec<String>,
    /// Weights: `ema` (the first average), `master`, or an average by its rate, such as `ema-0.9999`. null: `ema` if there
    /// is an average, else `master`.
    pub(super) weights: Option<String>,
    /// What guides the sampling; null for no guidance.
    pub(super) guidance: Option<SweepGuidance>,
    /// Images of each cell.
    pub(super) num: u64,
    /// Seed of the noise and of random classes. All cells start from the same noise.
    pub(super) seed: u64,
    /// Classes, repeated in this order. null: as `classes` says.
    pub(super) labels: Option<Vec<i64>>,
    /// How classes are chosen: `balanced` or `random`. null: `random`.
    pub(super) classes: Option<Classes>,
    /// `data` for classes as frequent as in the training data, or an npz file with classes. null: as `classes` says.
    pub(super) labels_from: Option<String>,
    /// Images that are drawn together. null: that of the checkpoint's configuration.
    pub(super) batch_size: Option<u64>,
    /// Images of a part, a multiple of the batch. null: 64, rounded up to whole batches.
    pub(super) part_images: Option<u64>,
    /// Fields of the section `sampling` that all cells share, such as `clip_denoised` or `time_grid`.
    pub(super) sampling: Map<String, Value>,
    /// What the cells differ in. There is a cell for each combination.
    pub(super) lists: Lists,
    /// A file with lists, such as configs/sampling/sweeps/imagenet256-ddim25.yaml. Those of `lists` replace them.
    pub(super) include: Option<PathBuf>,
    /// What the images of each cell are evaluated with; null for no evaluation.
    pub(super) evaluate: Option<SweepEvaluation>,
    /// Images of each cell in the picture `sweep.png`, which has a row for each cell.
    pub(super) strip_images: u64,
    /// Precision of the network's torso: `fp32`, `fp16` or `bf16`. null: that of training.
    pub(super) precision: Option<PrecisionMode>,
    /// Device: `auto`, `cpu` or `cuda`. null: that of the checkpoint's configuration.
    pub(super) device: Option<DeviceChoice>,
    /// Threads of one rank on a CPU. null: the cores are divided among the ranks of a host.
    pub(super) threads: Option<usize>,
    /// Folder or bucket's URL for everything that the sweep writes. Each cell is a job in a folder of its own.
    pub(super) out: String,
}

/// What guides all cells. How strongly is a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SweepGuidance {
    /// What guides the sampling: `classifier`, `free` (the model without classes) or `auto` (a worse version).
    kind: GuidanceName,
    /// The checkpoint of the classifier or of the worse version.
    #[serde(default)]
    checkpoint: Option<String>,
    /// Its weights, as those of the models.
    #[serde(default)]
    pub(super) weights: Option<String>,
}

/// What the images of all cells are evaluated with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SweepEvaluation {
    /// The images to compare with, or their statistics: as `--reference` of `admiral evaluate`.
    pub(super) reference: String,
    /// The network of the features: `inception`, or a classifier's checkpoint.
    pub(super) features: String,
    /// The weights of Inception. null: the file that the environment variable ADMIRAL_INCEPTION names.
    pub(super) inception: Option<PathBuf>,
    /// Weights of the classifier: `ema`, `master`, or an average such as `ema-0.9999`. null: as `weights` of the models.
    pub(super) weights: Option<String>,
    /// Height and width to which pictures of a folder are scaled and cropped. null: the size of the network.
    pub(super) size: Option<u32>,
    /// Whose numerics: `adm` for the published evaluator's, or `exact` for those of float64.
    pub(super) mode: Numerics,
}

/// The numerics of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Numerics {
    /// Those of the published evaluator.
    Adm,
    /// Those of float64.
    #[default]
    Exact,
}

impl Default for SweepEvaluation {
    fn default() -> Self {
        let (inception, weights, size) = (None, None, None);
        let (reference, features) = (String::new(), "inception".into());
        Self { reference, features, inception, weights, size, mode: Numerics::default() }
    }
}

/// What cells differ in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Lists {
    /// Strengths of the guidance.
    pub(super) scales: Vec<f64>,
    /// Samplers.
    pub(super) samplers: Vec<Sampler>,
    /// Numbers of steps of samplers other than ddpm and ddim. Empty: each sampler's own.
    pub(super) steps: Vec<usize>,
    /// Timesteps that ddpm and ddim visit: `"250"`, `ddim25`, sections such as `"90,60,60,20,20"`, or `""` for all. Empty:
    /// those of the checkpoint's configuration.
    pub(super) respacings: Vec<String>,
}

impl Default for SweepSpec {
    fn default() -> Self {
        Self {
            checkpoints: Vec::new(),
            weights: None,
            guidance: None,
            num: 64,
            seed: 0,
            labels: None,
            classes: None,
            labels_from: None,
            batch_size: None,
            part_images: None,
            sampling: Map::new(),
            lists: Lists::default(),
            include: None,
            evaluate: None,
            strip_images: 8,
            precision: None,
            device: None,
            threads: None,
            out: String::new(),
        }
    }
}

impl SweepGuidance {
    /// Returns the guidance with its checkpoint. `None` if it lacks one, or has one that it does not use.
    pub(super) fn kind(&self) -> Option<GuidanceKind> {
        match (self.kind, self.checkpoint.clone()) {
            (GuidanceName::Classifier, Some(checkpoint)) => Some(GuidanceKind::Classifier(checkpoint)),
            (GuidanceName::Auto, Some(checkpoint)) => Some(GuidanceKind::Auto(checkpoint)),
            (GuidanceName::Free, None) => Some(GuidanceKind::Free),
            _ => None,
        }
    }
}

impl Validate for SweepSpec {
    fn validate(&self) -> Vec<Invalid> {
        let mut mistakes = self.lists.mistakes("lists.");
        let mut check = |good: bool, field: &str, message: &str| {
            if !good {
                mistakes.push(Invalid::new(field, message));
            }
        };
        check(!self.checkpoints.is_empty(), "checkpoints", "is empty; name a checkpoint");
        check(is_distinct(&self.checkpoints), "checkpoints", "has the same checkpoint twice");
        check(!self.out.is_empty(), "out", "is empty; name a folder or a bucket's URL");
        let threads = self.threads.is_none_or(|threads| threads <= MAX_THREADS);
        check(threads, "threads", &format!("is more than {MAX_THREADS}"));
        check(self.num > 0, "num", "is 0; a cell needs an image");
        let strip = (1..=MAX_STRIP).contains(&self.strip_images);
        check(strip, "strip_images", &format!("is {}; it must lie in [1, {MAX_STRIP}]", self.strip_images));
        let rules = [self.labels.is_some(), self.classes.is_some(), self.labels_from.is_some()];
        let is_one = rules.iter().filter(|given| **given).count() <= 1;
        check(is_one, "classes", "labels, classes and labels_from exclude each other; give one of them");
        let guidance = self.guidance.as_ref().is_none_or(|guidance| guidance.kind().is_some());
        check(guidance, "guidance.checkpoint", "classifier and auto need a checkpoint, and free has none");
        let has_reference = self.evaluate.as_ref().is_none_or(|evaluate| !evaluate.reference.is_empty());
        check(has_reference, "evaluate.reference", "is empty; name images or their statistics");
        for (field, list) in [("sampler", "samplers"), ("steps", "steps"), ("timestep_respacing", "respacings")] {
            let message = format!("is a list of its own: give lists.{list}");
            check(!self.sampling.contains_key(field), &format!("sampling.{field}"), &message);
        }
        check(!self.sampling.contains_key("batch_size"), "sampling.batch_size", "is the field batch_size here");
        mistakes
    }
}

impl Validate for Lists {
    fn validate(&self) -> Vec<Invalid> {
        self.mistakes("")
    }
}

impl Lists {
    fn mistakes(&self, prefix: &str) -> Vec<Invalid> {
        let distinct = [
            ("scales", is_distinct(&self.scales)),
            ("samplers", is_distinct(&self.samplers)),
            ("steps", is_distinct(&self.steps)),
            ("respacings", is_distinct(&self.respacings)),
        ];
        let twice = distinct.into_iter().filter(|(_, is_distinct)| !is_distinct);
        twice.map(|(list, _)| Invalid::new(format!("{prefix}{list}"), "has the same value twice")).collect()
    }
}

impl SweepSpec {
    /// Returns the lists, with those of the included file.
    ///
    /// # Errors
    /// When the file cannot be read or has mistakes.
    pub(super) fn all_lists(&self) -> Result<Lists, Error> {
        let own = self.lists.clone();
        let Some(path) = &self.include else { return Ok(own) };
        let included: Lists =
            admiral_config::load(path, &[]).map_err(|error| Error::Refused(format!("include: {error}")))?;
        let scales = if own.scales.is_empty() { included.scales } else { own.scales };
        let samplers = if own.samplers.is_empty() { included.samplers } else { own.samplers };
        let steps = if own.steps.is_empty() { included.steps } else { own.steps };
        let respacings = if own.respacings.is_empty() { included.respacings } else { own.respacings };
        Ok(Lists { scales, samplers, steps, respacings })
    }
}

fn is_distinct<T: PartialEq>(values: &[T]) -> bool {
    values.iter().enumerate().all(|(index, value)| !values[..index].contains(value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mistakes(text: &str) -> String {
        admiral_config::parse::<SweepSpec>("sweep.yaml", text, &[]).unwrap_err().to_string()
    }

    #[test]
    fn mistakes_name_their_field() {
        let found = mistakes("{strip_images: 0, lists: {scales: [1, 1.0]}}");
        for field in ["checkpoints", "out", "strip_images", "lists.scales"] {
            assert!(found.contains(field), "{field}: {found}");
        }
        for (more, field) in [
            ("guidance: {kind: classifier}", "guidance.checkpoint"),
            ("guidance: {kind: free, checkpoint: c}", "guidance.checkpoint"),
            ("labels: [1]\nclasses: balanced", "classes"),
            ("sampling: {steps: 3}", "sampling.steps"),
            ("evaluate: {features: c}", "evaluate.reference"),
            ("evaluate: {reference: a, mode: float}", "evaluate.mode"),
            ("lists: {scale: [1]}", "did you mean `scales`"),
        ] {
            let found = mistakes(&format!("checkpoints: [a]\nout: b\n{more}"));
            assert!(found.contains(field), "{more}: {found}");
        }
    }

    #[test]
    fn the_sweeps_of_the_reproduction_are_valid_and_evaluated() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/sampling/reproduce");
        let files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 6, "{files:?}");
        for file in files {
            let spec: SweepSpec = admiral_config::load(&file, &[]).unwrap_or_else(|error| panic!("{error}"));
            let name = file.file_stem().unwrap().to_str().unwrap();
            assert_eq!(spec.out, format!("runs/reproduce/sweeps/{name}"));
            assert!(spec.evaluate.is_some() && spec.num.is_multiple_of(spec.batch_size.unwrap()), "{name}");
        }
    }

    #[test]
    fn the_lists_of_the_paper_can_be_included() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/sampling/sweeps");
        let files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 7, "{files:?}");
        for file in files {
            let spec = SweepSpec {
                include: Some(file.clone()),
                lists: Lists { samplers: vec![Sampler::DDIM], scales: vec![9.0], ..Lists::default() },
                ..SweepSpec::default()
            };
            let lists = spec.all_lists().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert_eq!((lists.scales, lists.samplers), (vec![9.0], vec![Sampler::DDIM]));
            assert!(!lists.respacings.is_empty(), "{}", file.display());
        }
    }
}
