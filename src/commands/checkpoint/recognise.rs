//! Recognizes the network of a file by the names and shapes of its tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use crate::model::{Network, ParamSpecs};
use crate::run_config::RunConfig;

use super::error::ToolError;

macro_rules! configurations {
    ($($name:literal),*) => {
        /// The configurations in `configs/`, by name.
        const CONFIGURATIONS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../configs/", $name, ".yaml")))),*];
    };
}

configurations![
    "imagenet64",
    "imagenet128",
    "imagenet256",
    "imagenet256-uncond",
    "imagenet512",
    "lsun-bedroom",
    "lsun-cat",
    "lsun-horse",
    "upsample-64-256",
    "upsample-128-512",
    "classifier-64",
    "classifier-128",
    "classifier-256",
    "classifier-512",
    "fashion",
    "fashion-16",
    "fashion-classifier",
    "fashion-upsample"
];

/// The number of differences of one kind that a message lists.
const MAX_LISTED: usize = 5;

/// The shapes of a file's tensors, by name.
pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

/// A known network.
#[derive(Debug)]
pub(super) struct Model {
    /// The name or the path of its configuration.
    pub(super) name: String,
    /// The configuration.
    pub(super) config: RunConfig,
    /// The network's parameters.
    pub(super) specs: ParamSpecs,
}

impl Model {
    fn of(name: &str, config: RunConfig) -> Result<Self, ToolError> {
        let spec = config.network_spec().map_err(|mistakes| ToolError::Refused(format!("{name}: {mistakes:?}")))?;
        Ok(Self { name: name.to_owned(), specs: Network::build(&spec).1, config })
    }

    fn of_text(name: &str, text: &str) -> Result<Self, ToolError> {
        let config = admiral_config::parse(name, text, &[]).map_err(|error| ToolError::Refused(error.to_string()))?;
        Self::of(name, config)
    }

    /// Returns the differences between these shapes and the network's.
    fn differences(&self, shapes: &Shapes) -> Differences {
        let mut found = Differences::default();
        for spec in self.specs.iter() {
            match shapes.get(&spec.name) {
                None => found.missing.push(spec.name.clone()),
                Some(shape) if !is_same(shape, &spec.shape) => {
                    found.reshaped.push(format!("{} is {shape:?}, not {:?}", spec.name, spec.shape));
                }
                Some(_) => {}
            }
        }
        let known: BTreeSet<&str> = self.specs.iter().map(|spec| spec.name.as_str()).collect();
        found.unexpected.extend(shapes.keys().filter(|name| !known.contains(name.as_str())).cloned());
        found
    }
}

fn is_same(shape: &[usize], spec: &[i64]) -> bool {
    shape.len() == spec.len() && shape.iter().zip(spec).all(|(&n, &own)| i64::try_from(n) == Ok(own))
}

#[derive(Debug, Default)]
struct Differences {
    missing: Vec<String>,
    unexpected: Vec<String>,
    reshaped: Vec<String>,
}

impl Differences {
    fn count(&self) -> usize {
        self.missing.len() + self.unexpected.len() + self.reshaped.len()
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, list) in
            [("missing", &self.missing), ("unexpected", &self.unexpected), ("of another shape", &self.reshaped)]
        {
            if !list.is_empty() {
                let first = list.iter().take(MAX_LISTED).cloned().collect::<Vec<_>>().join("; ");
                let more = list.len().saturating_sub(MAX_LISTED);
                let more = if more > 0 { format!("; and {more} more") } else { String::new() };
                write!(f, "\n  {} {kind}: {first}{more}", list.len())?;
            }
        }
        Ok(())
    }
}

/// Returns the model of a file with these shapes. `wanted` is a name or the path of a configuration; without it, the
/// model is the only one in `configs/` that fits.
///
/// # Errors
/// When no model fits, with the differences, or when several fit, with their names.
pub(super) fn recognise(file: &str, shapes: &Shapes, wanted: Option<&str>) -> Result<Model, ToolError> {
    if let Some(wanted) = wanted {
        let model = named(wanted)?;
        let differences = model.differences(shapes);
        return match differences.count() {
            0 => Ok(model),
            count => Err(ToolError::Refused(format!(
                "{file} does not fit {wanted}, whose {} network has {} tensors; {count} differ:{differences}",
                model.config.task.name(),
                model.specs.len()
            ))),
        };
    }
    let mut models =
        CONFIGURATIONS.iter().map(|(name, text)| Model::of_text(name, text)).collect::<Result<Vec<_>, _>>()?;
    let counts: Vec<usize> = models.iter().map(|model| model.differences(shapes).count()).collect();
    let fitting: Vec<usize> = (0..models.len()).filter(|&i| counts[i] == 0).collect();
    match fitting.as_slice() {
        [only] => Ok(models.swap_remove(*only)),
        [] => {
            let closest = (0..models.len()).min_by_key(|&i| counts[i]).map(|i| &models[i]);
            let differences = closest.map_or_else(String::new, |closest| {
                let differences = closest.differences(shapes);
                let (name, count) = (&closest.name, closest.specs.len());
                format!(
                    ". Of {name}, the closest, with {count} tensors, {} differ:{differences}\nIf it holds another \
                     network, give that one's configuration with --config FILE.yaml",
                    differences.count()
                )
            });
            Err(ToolError::Refused(format!("{file} fits none of {}{differences}", known().join(", "))))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|&i| models[i].name.as_str()).collect();
            Err(ToolError::Refused(format!(
                "{file} fits {}, whose networks have the same names and shapes: choose one with --config {}",
                names.join(", "),
                names[0]
            )))
        }
    }
}

fn known() -> Vec<&'static str> {
    CONFIGURATIONS.iter().map(|(name, _)| *name).collect()
}

/// Returns the model with this name, or of the configuration at this path.
fn named(wanted: &str) -> Result<Model, ToolError> {
    if let Some((name, text)) = CONFIGURATIONS.iter().find(|(name, _)| *name == wanted) {
        return Model::of_text(name, text);
    }
    let path = Path::new(wanted);
    if !path.exists() {
        return Err(ToolError::Refused(format!(
            "--config {wanted}: there is no such file, and it is none of {}",
            known().join(", ")
        )));
    }
    let config = admiral_config::load(path, &[]).map_err(|error| ToolError::Refused(error.to_string()))?;
    Model::of(wanted, config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::Value;

    use super::*;

    /// The names and shapes of the reference implementation's networks.
    fn released() -> Vec<(String, Shapes)> {
        let text = std::fs::read_to_string("tests/golden/architectures.json").unwrap();
        let all: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
        all.into_iter().map(|(name, row)| (name, serde_json::from_value(row["tensors"].clone()).unwrap())).collect()
    }

    fn shapes(name: &str) -> Shapes {
        released().into_iter().find(|(row, _)| row == name).unwrap().1
    }

    #[test]
    fn every_released_model_is_recognized() {
        let expected = [
            ("128_512_upsampler", "upsample-128-512"),
            ("128x128_classifier", "classifier-128"),
            ("128x128_diffusion", "imagenet128"),
            ("256x256_classifier", "classifier-256"),
            ("256x256_diffusion", "imagenet256"),
            ("512x512_classifier", "classifier-512"),
            ("512x512_diffusion", "imagenet512"),
            ("64_256_upsampler", "upsample-64-256"),
            ("64x64_classifier", "classifier-64"),
            ("64x64_diffusion", "imagenet64"),
        ];
        for (row, name) in expected {
            assert_eq!(recognise("x.pt", &shapes(row), None).unwrap().name, name);
        }
        let ambiguous = ["256x256_diffusion_uncond", "lsun"];
        for row in ambiguous {
            let message = recognise("x.pt", &shapes(row), None).unwrap_err().to_string();
            assert!(message.contains("imagenet256-uncond, lsun-bedroom, lsun-cat, lsun-horse"), "{message}");
            assert_eq!(recognise("x.pt", &shapes(row), Some("lsun-cat")).unwrap().name, "lsun-cat");
        }
        assert_eq!(released().len(), expected.len() + ambiguous.len());
    }

    #[test]
    fn every_configuration_in_the_folder_is_known() {
        let files = std::fs::read_dir("configs").unwrap().map(|entry| entry.unwrap().path()).filter(|p| p.is_file());
        let mut names: Vec<String> = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort();
        let mut known = known();
        known.sort_unstable();
        assert_eq!(names, known);
    }

    #[test]
    fn differences_to_the_closest_model_are_listed() {
        let mut weights = shapes("64x64_classifier");
        weights.remove("out.2.c_proj.bias").unwrap();
        weights.insert("ema.decay".into(), vec![]);
        weights.get_mut("time_embed.0.bias").unwrap().push(1);
        let extra = (0..9).map(|number| (format!("head.{number}"), vec![1]));
        weights.extend(extra);
        let message = recognise("x.pt", &weights, None).unwrap_err().to_string();
        for expected in [
            "Of classifier-64, the closest, with 307 tensors, 12 differ:",
            "1 missing: out.2.c_proj.bias",
            "10 unexpected: ema.decay; head.0; head.1; head.2; head.3; and 5 more",
            "1 of another shape: time_embed.0.bias is [512, 1], not [512]",
            "--config",
        ] {
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_configuration_that_does_not_fit_or_does_not_exist_is_refused() {
        let weights = shapes("64x64_classifier");
        let message = |wanted: &str| recognise("x.pt", &weights, Some(wanted)).unwrap_err().to_string();
        assert!(message("classifier-128").contains("does not fit classifier-128"), "{}", message("classifier-128"));
        assert!(message("imagenet65").contains("imagenet64"), "{}", message("imagenet65"));
        assert!(message("Cargo.toml").contains("Cargo.toml"), "{}", message("Cargo.toml"));
    }
}
