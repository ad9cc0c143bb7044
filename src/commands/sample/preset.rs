//! Files of `--preset`: how the images of a publication were drawn.

use std::path::Path;

use admiral_config::{Invalid, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::sample::Error;

use super::options::{DrawingOptions, GuidanceName};

/// A file of `--preset`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Preset {
    /// Fields of the section `sampling`.
    sampling: Map<String, Value>,
    /// Fields of the upsampler's section `sampling`, for a stack of two models.
    upsampler: Map<String, Value>,
    /// The guidance, if there is any.
    guidance: Option<PresetGuidance>,
}

/// The guidance of a preset.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PresetGuidance {
    /// What guides the sampling: `classifier`, `free` or `auto`.
    kind: GuidanceName,
    /// The scale of a classifier's gradient, or the weight of another guidance.
    scale: f64,
}

impl Validate for Preset {
    fn validate(&self) -> Vec<Invalid> {
        Vec::new()
    }
}

impl Preset {
    /// Reads the file of the options, if they name one, and checks that it is meant for such a request.
    ///
    /// # Errors
    /// When the file cannot be read, or is for another guidance or a stack of two models.
    pub(super) fn of(options: &DrawingOptions) -> Result<Self, Error> {
        let Some(path) = &options.preset else { return Ok(Self::default()) };
        let preset = Self::read(path)?;
        if let Some(PresetGuidance { kind, .. }) = preset.guidance
            && options.guidance.as_ref().is_none_or(|guidance| guidance.name() != kind)
        {
            return Err(Error::Refused(format!(
                "--preset: it is for sampling with --guidance {kind}, which is not asked for"
            )));
        }
        if !preset.upsampler.is_empty() && options.upsampler.is_none() {
            return Err(Error::Refused(
                "--preset: it is for a stack of two models; name the second one with --upsampler".into(),
            ));
        }
        Ok(preset)
    }

    fn read(path: &Path) -> Result<Self, Error> {
        admiral_config::load(path, &[]).map_err(|error| Error::Refused(error.to_string()))
    }

    /// Returns the scale of the guidance.
    pub(super) fn scale(&self) -> Option<f64> {
        self.guidance.as_ref().map(|guidance| guidance.scale)
    }

    /// Returns overrides of the section `sampling`: those of the preset, of the options, and of `--set`. Later ones count.
    ///
    /// # Errors
    /// When a text of `--set` has another form.
    pub(super) fn overrides(&self, options: &DrawingOptions) -> Result<Vec<String>, Error> {
        let solver = &options.solver;
        let mut fields = self.sampling.clone();
        let mut set = |field: &str, value: Option<Value>| fields.extend(value.map(|value| (field.to_owned(), value)));
        set("sampler", solver.sampler.map(|sampler| json!(sampler)));
        set("timestep_respacing", solver.respacing.as_ref().map(|respacing| json!(respacing)));
        set("steps", solver.steps.map(|steps| json!(steps)));
        set("eta", solver.eta.map(|eta| json!(eta)));
        set("clip_denoised", solver.no_clip.then(|| json!(false)));
        set("batch_size", options.batch_size.map(|size| json!(size)));
        with_set(&fields, "--set", &solver.set)
    }

    /// Returns overrides of the upsampler's section `sampling`: those of the preset, and of `--upsampler-set`.
    ///
    /// # Errors
    /// When `batch_size` is set, which the upsampler takes from the base model, or when an override is not of the form
    /// `FIELD=VALUE`.
    pub(super) fn upsampler_overrides(&self, options: &DrawingOptions) -> Result<Vec<String>, Error> {
        let overrides = with_set(&self.upsampler, "--upsampler-set", &options.upsampler_set)?;
        if overrides.iter().any(|field| field.starts_with("sampling.batch_size=")) {
            return Err(Error::Refused(
                "--upsampler-set: batch_size: both models draw the same batches; set it with --batch-size".into(),
            ));
        }
        Ok(overrides)
    }
}

/// Returns overrides of the section `sampling`: those of `fields`, then those of `set`, which has texts `FIELD=VALUE` of the
/// option that is named `option`.
///
/// # Errors
/// When a text has another form.
fn with_set(fields: &Map<String, Value>, option: &str, set: &[String]) -> Result<Vec<String>, Error> {
    if let Some(text) = set.iter().find(|text| !text.contains('=')) {
        return Err(Error::Refused(format!("{option} {text}: must look like FIELD=VALUE, such as sampler=ddim")));
    }
    let fields = fields.iter().map(|(field, value)| format!("sampling.{field}={value}"));
    Ok(fields.chain(set.iter().map(|text| format!("sampling.{text}"))).collect())
}
