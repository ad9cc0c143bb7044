//! The cells of a sweep: the combinations of its lists.

use std::fmt;

use admiral_storage::StoreOptions;

use crate::commands::compute::{ComputeOptions, DeviceOptions};
use crate::diffusion::{Sampler, SolverOption};
use crate::sample::{Error, Identity, OpenedModel};

use super::super::options::{DrawingOptions, Format, SampleOptions, SolverOptions};
use super::spec::{Lists, SweepSpec};

/// The hexadecimal digits of a checkpoint's hash in the name of a cell.
const NAME_DIGITS: usize = 8;

/// A checkpoint of a sweep.
#[derive(Debug, Clone)]
pub(super) struct SweptCheckpoint {
    /// Where it is. Of a run it is the one that was the newest, also while the run goes on.
    pub(super) url: String,
    /// Its weights.
    pub(super) identity: Identity,
}

/// The settings in which cells differ.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    pub(super) checkpoint: SweptCheckpoint,
    pub(super) sampler: Sampler,
    pub(super) timesteps: Timesteps,
    pub(super) scale: Option<f64>,
}

/// The steps of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Timesteps {
    /// Those of the configuration, or the sampler's own.
    Default,
    /// A number of steps.
    Steps(usize),
    /// The timesteps that are visited.
    Respacing(String),
}

impl fmt::Display for Timesteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Steps(steps) => write!(f, "{steps}"),
            Self::Respacing(respacing) if respacing.is_empty() => f.write_str("all"),
            Self::Respacing(respacing) => f.write_str(respacing),
        }
    }
}

impl Cell {
    /// Returns the name of the cell and of its folder.
    pub(super) fn name(&self) -> String {
        let timesteps = self.timesteps.to_string().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let scale = self.scale.map(|scale| format!("-scale{scale}")).unwrap_or_default();
        let digits = &self.checkpoint.identity.sha256[..NAME_DIGITS];
        format!("{}-{timesteps}{scale}-{digits}", self.sampler)
    }

    /// Returns the options of `admiral sample` that draw the same images.
    pub(super) fn options(&self, spec: &SweepSpec) -> SampleOptions {
        let (steps, respacing) = match &self.timesteps {
            Timesteps::Default => (None, None),
            Timesteps::Steps(steps) => (Some(*steps), None),
            Timesteps::Respacing(respacing) => (None, Some(respacing.clone())),
        };
        let set = spec.sampling.iter().map(|(field, value)| format!("{field}={value}")).collect();
        let solver = SolverOptions { sampler: Some(self.sampler), steps, respacing, set, ..SolverOptions::default() };
        let drawing = DrawingOptions {
            weights: spec.weights.clone(),
            solver,
            guidance: spec.guidance.as_ref().and_then(|guidance| guidance.kind()),
            guidance_weights: spec.guidance.as_ref().and_then(|guidance| guidance.weights.clone()),
            scale: self.scale,
            labels: spec.labels.clone(),
            classes: spec.classes,
            labels_from: spec.labels_from.clone(),
            seed: spec.seed,
            batch_size: spec.batch_size,
            compute: ComputeOptions {
                precision: spec.precision,
                device: DeviceOptions { device: spec.device, threads: spec.threads },
            },
            ..DrawingOptions::default()
        };
        SampleOptions {
            checkpoint: self.checkpoint.url.clone(),
            out: format!("{}/{}", spec.out.trim_end_matches('/'), self.name()),
            num: Some(spec.num),
            drawing,
            per_class: None,
            part_images: spec.part_images,
            format: vec![Format::Npz],
            tensorboard: None,
        }
    }
}

/// Opens the checkpoints of a sweep.
///
/// # Errors
/// When one cannot be opened, or two have the same weights.
pub(super) fn open_checkpoints(spec: &SweepSpec, stores: &StoreOptions) -> Result<Vec<SweptCheckpoint>, Error> {
    let mut opened: Vec<SweptCheckpoint> = Vec::new();
    for location in &spec.checkpoints {
        let model = OpenedModel::open(location, spec.weights.as_deref(), stores)?;
        let (url, identity) = (model.url(), model.identity());
        if let Some(same) = opened.iter().find(|other| other.identity.sha256 == identity.sha256) {
            return refuse(format!("checkpoints: {url} has the same weights as {}", same.url));
        }
        opened.push(SweptCheckpoint { url, identity });
    }
    Ok(opened)
}

/// Returns all cells: the checkpoints in turn, with all samplers, their timesteps and the scales. Neighbours have
/// neighbouring scales.
///
/// # Errors
/// When a list is missing, or no cell uses it.
pub(super) fn cells(spec: &SweepSpec, lists: &Lists, checkpoints: &[SweptCheckpoint]) -> Result<Vec<Cell>, Error> {
    let Lists { scales, samplers, steps, respacings } = lists;
    if samplers.is_empty() {
        return refuse("lists.samplers: is empty; name a sampler".into());
    }
    let scales: Vec<Option<f64>> = match (&spec.guidance, scales.as_slice()) {
        (None, []) => vec![None],
        (None, _) => {
            return refuse("lists.scales: without guidance there is no strength; remove it, or give guidance".into());
        }
        (Some(_), []) => return refuse("lists.scales: is empty; say how strong the guidance is".into()),
        (Some(_), scales) => scales.iter().copied().map(Some).collect(),
    };
    let is_respaced = |sampler: &Sampler| sampler.takes(SolverOption::TimestepRespacing);
    if !respacings.is_empty() && !samplers.iter().any(is_respaced) {
        return refuse("lists.respacings: they are for ddpm and ddim, which lists.samplers does not have".into());
    }
    if !steps.is_empty() && samplers.iter().all(is_respaced) {
        return refuse("lists.steps: ddpm and ddim have lists.respacings in place of steps".into());
    }
    let timesteps_of = |sampler: &Sampler| -> Vec<Timesteps> {
        let own: Vec<Timesteps> = if is_respaced(sampler) {
            respacings.iter().cloned().map(Timesteps::Respacing).collect()
        } else {
            steps.iter().copied().map(Timesteps::Steps).collect()
        };
        if own.is_empty() { vec![Timesteps::Default] } else { own }
    };
    let mut cells = Vec::new();
    for checkpoint in checkpoints {
        for sampler in samplers {
            for timesteps in timesteps_of(sampler) {
                cells.extend(scales.iter().map(|&scale| Cell {
                    checkpoint: checkpoint.clone(),
                    sampler: *sampler,
                    timesteps: timesteps.clone(),
                    scale,
                }));
            }
        }
    }
    Ok(cells)
}

fn refuse<T>(message: String) -> Result<T, Error> {
    Err(Error::Refused(message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn checkpoint() -> SweptCheckpoint {
        let sha256 = "0123456789abcdef".repeat(4);
        let identity = Identity { run: "run".into(), step: 7, weights: "master".into(), sha256 };
        SweptCheckpoint { url: "place/step-000000007".into(), identity }
    }

    fn spec(text: &str) -> SweepSpec {
        let text = format!("checkpoints: [place]\nout: s3://bucket/sweep/\n{text}");
        admiral_config::parse("sweep.yaml", &text, &[]).unwrap()
    }

    fn names(text: &str) -> Result<Vec<String>, String> {
        let spec = spec(text);
        let cells = cells(&spec, &spec.lists, &[checkpoint()]).map_err(|error| error.to_string())?;
        Ok(cells.iter().map(Cell::name).collect())
    }

    #[test]
    fn each_sampler_has_its_own_kind_of_timesteps() {
        let lists = "lists: {samplers: [ddim, dpmpp_2m], respacings: [ddim25, '90,10', ''], steps: [10]}";
        let expected = ["ddim-ddim25", "ddim-90_10", "ddim-all", "dpmpp_2m-10"].map(|name| format!("{name}-01234567"));
        assert_eq!(names(lists).unwrap(), expected);
        assert_eq!(names("lists: {samplers: [heun]}").unwrap(), ["heun-default-01234567"]);
        let guided = "guidance: {kind: free}\nlists: {samplers: [ddim], scales: [0.5, 10]}";
        assert_eq!(names(guided).unwrap(), ["ddim-default-scale0.5-01234567", "ddim-default-scale10-01234567"]);
    }

    #[test]
    fn lists_without_use_are_refused() {
        for (text, list) in [
            ("lists: {}", "samplers"),
            ("lists: {samplers: [ddim], steps: [3]}", "steps"),
            ("lists: {samplers: [heun], respacings: ['3']}", "respacings"),
            ("lists: {samplers: [ddim], scales: [1]}", "scales"),
            ("guidance: {kind: free}\nlists: {samplers: [ddim]}", "scales"),
        ] {
            assert!(names(text).unwrap_err().starts_with(&format!("lists.{list}")), "{text}");
        }
    }

    #[test]
    fn a_cell_is_a_job_with_the_options_of_the_sweep() {
        let text = "num: 5\nseed: 3\nbatch_size: 2\nsampling: {clip_denoised: false}\nguidance: {kind: free}\nlists: \
                    {samplers: [dpmpp_2m], steps: [4], scales: [2]}";
        let spec = spec(text);
        let options = cells(&spec, &spec.lists, &[checkpoint()]).unwrap()[0].options(&spec);
        assert_eq!(options.checkpoint, "place/step-000000007");
        assert_eq!(options.out, "s3://bucket/sweep/dpmpp_2m-4-scale2-01234567");
        assert_eq!((options.num, options.drawing.seed, options.drawing.batch_size), (Some(5), 3, Some(2)));
        assert_eq!((options.drawing.scale, options.drawing.solver.steps), (Some(2.0), Some(4)));
        assert_eq!(options.drawing.solver.set, ["clip_denoised=false"]);
    }
}
