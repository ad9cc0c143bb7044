//! [`RunConfig`]: the configuration of a run, with the sections of all components.

use std::path::PathBuf;

use admiral_checkpoint::CheckpointConfig;
use admiral_comm::FaultsConfig;
use admiral_config::{Invalid, Validate};
use admiral_contract::files::needs_shell;
use admiral_contract::secret::masked_text;
use admiral_contract::{BatchDivision, LaunchConfig, world_sizes};
use admiral_data::{DataConfig, SampleSpec};
use admiral_telemetry::TelemetryConfig;
use serde::{Deserialize, Serialize};

use crate::diffusion::DiffusionConfig;
use crate::model::flops::theoretical_images_per_v100_second;
use crate::model::{ModelConfig, Network, NetworkSpec, Task};

use super::evaluation::EvaluationConfig;
use super::sampling::SamplingConfig;
use super::sections::{ClassifierConfig, OptimizerConfig, PrecisionConfig, RunSection, TrainingConfig};

/// The configuration of a run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// The task: diffusion, classifier or super_resolution.
    pub task: Task,
    /// The run itself.
    pub run: RunSection,
    /// The network.
    pub model: ModelConfig,
    /// The diffusion process.
    pub diffusion: DiffusionConfig,
    /// The images.
    pub data: DataConfig,
    /// The length of the run, its batch and its intervals.
    pub training: TrainingConfig,
    /// The optimizer: AdamW.
    pub optimizer: OptimizerConfig,
    /// Mixed precision.
    pub precision: PrecisionConfig,
    /// Fields for classifiers only.
    pub classifier: ClassifierConfig,
    /// How samples are drawn.
    pub sampling: SamplingConfig,
    /// How the run evaluates itself.
    pub evaluation: EvaluationConfig,
    /// Where checkpoints are saved, and how.
    pub checkpoint: CheckpointConfig,
    /// Progress and TensorBoard.
    pub telemetry: TelemetryConfig,
    /// How admiral-launch watches the run and restarts it.
    pub launch: LaunchConfig,
    /// Faults that the run injects into itself, for tests and drills.
    pub faults: FaultsConfig,
}

impl Validate for RunConfig {
    fn validate(&self) -> Vec<Invalid> {
        let mut mistakes = self.run.validate();
        mistakes.extend(self.unusable_paths());
        mistakes.extend(self.model.validate(self.task));
        let of_diffusion = self.diffusion.validate();
        let is_process = of_diffusion.is_empty();
        mistakes.extend(of_diffusion);
        mistakes.extend(self.data.validate());
        mistakes.extend(self.training.validate());
        mistakes.extend(self.optimizer.validate());
        mistakes.extend(self.precision.validate());
        mistakes.extend(self.classifier.validate());
        // The steps of a sampler are those of a valid process.
        if is_process {
            mistakes.extend(self.sampling.validate(&self.diffusion));
        }
        if self.training.sample_interval > 0 && self.task != Task::Classifier {
            let rows = self.sampling.grid_rows(self.model.num_classes);
            mistakes.extend(self.sampling.check_grid(rows, self.model.image_size));
        }
        mistakes.extend(self.evaluation.validate(self.task == Task::Diffusion));
        mistakes.extend(self.checkpoint.validate());
        mistakes.extend(self.unevaluated_checkpoints());
        mistakes.extend(self.telemetry.validate());
        let launch = self.launch.mistakes().into_iter();
        mistakes.extend(launch.map(|(field, message)| Invalid::new(format!("launch.{field}"), message)));
        mistakes.extend(self.shared_destinations());
        mistakes.extend(self.faults.validate());
        mistakes
    }
}

impl RunConfig {
    /// Returns a mistake if `checkpoint.keep_best` can find no evaluated checkpoints.
    fn unevaluated_checkpoints(&self) -> Option<Invalid> {
        let (saves, evaluations) = (self.training.save_interval, self.evaluation.interval);
        if self.checkpoint.keep_best == 0 || saves == 0 {
            return None;
        }
        if evaluations > 0 && (evaluations.is_multiple_of(saves) || saves.is_multiple_of(evaluations)) {
            return None;
        }
        let message = format!(
            "needs evaluated checkpoints: set evaluation.interval (now {evaluations}) to a multiple or a divisor of \
             training.save_interval ({saves})"
        );
        Some(Invalid::new("checkpoint.keep_best", message))
    }

    /// Returns a mistake for each place to which both rank 0 and the launcher would export their metrics. They may be on
    /// one host.
    fn shared_destinations(&self) -> Vec<Invalid> {
        let (run, launch) = (&self.telemetry, &self.launch);
        let listen = run.listen.is_some() && run.listen == launch.listen;
        let textfile = run.textfile.is_some() && run.textfile == launch.textfile;
        let mistake =
            |field| Invalid::new(format!("launch.{field}"), format!("is also telemetry.{field}: give each its own"));
        [(listen, "listen"), (textfile, "textfile")]
            .into_iter()
            .filter(|(is, _)| *is)
            .map(|(_, f)| mistake(f))
            .collect()
    }

    /// Returns a mistake for each path that cannot be meant: one that only a shell would expand, one with a password, which
    /// would be written to files and logs, and a URL where a folder or a file is needed.
    fn unusable_paths(&self) -> Vec<Invalid> {
        let optional = |path: &Option<String>| path.clone().unwrap_or_default();
        let local = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let locations = [
            ("data.path", self.data.path.clone()),
            ("data.label_path", optional(&self.data.label_path)),
            ("data.validation_path", optional(&self.data.validation_path)),
            ("data.validation_label_path", optional(&self.data.validation_label_path)),
            ("evaluation.reference", self.evaluation.reference.clone()),
            ("evaluation.features", self.evaluation.features.clone()),
            ("evaluation.inception", optional(&self.evaluation.inception)),
            ("evaluation.work", optional(&self.evaluation.work)),
            ("checkpoint.url", optional(&self.checkpoint.url)),
        ];
        let files = [
            ("run.folder", self.run.folder.clone()),
            ("data.cache.folder", self.data.cache.as_ref().map(|cache| cache.folder.clone()).unwrap_or_default()),
            ("telemetry.tensorboard_folder", local(&self.telemetry.tensorboard_folder)),
            ("telemetry.textfile", local(&self.telemetry.textfile)),
            ("launch.textfile", local(&self.launch.textfile)),
        ];
        let mut mistakes = Vec::new();
        for (field, path) in locations.iter().chain(&files) {
            if needs_shell(path) {
                mistakes.push(Invalid::new(*field, format!("{path:?} is not expanded here; write the whole path")));
            }
            if has_credentials(path) {
                let message = "has a user, a password or a signature in it, which would be written to files and logs; \
                               credentials come from environment variables";
                mistakes.push(Invalid::new(*field, message));
            }
        }
        for (field, path) in files.iter().filter(|(_, path)| path.contains("://")) {
            mistakes.push(Invalid::new(*field, format!("{:?} is a URL; name a local path", masked_text(path))));
        }
        mistakes
    }

    /// Returns how the samples of a step are divided over `world_size` ranks.
    ///
    /// # Errors
    /// If they cannot be divided evenly. The message lists the numbers of ranks that can.
    pub fn divide_batch(&self, world_size: u64) -> Result<BatchDivision, Invalid> {
        let TrainingConfig { global_batch, microbatch, .. } = self.training;
        BatchDivision::new(global_batch, microbatch, world_size).map_err(|error| {
            let possible = world_sizes(global_batch, microbatch, u64::MAX);
            Invalid::new("training.global_batch", format!("{error}; these numbers of ranks can: {possible:?}"))
        })
    }

    /// Returns how images become samples: seed, size, cropping and flipping.
    #[must_use]
    pub fn sample_spec(&self, random_crop: bool) -> SampleSpec {
        SampleSpec {
            seed: self.run.seed,
            size: self.model.image_size as usize,
            channels: self.model.image_channels as usize,
            random_crop,
            random_flip: self.data.random_flip,
            decode: self.data.decode,
            on_broken_image: self.data.on_broken_image,
        }
    }

    /// Returns the spec of the network.
    ///
    /// # Errors
    /// When the configuration makes no valid network, with every mistake.
    pub fn network_spec(&self) -> Result<NetworkSpec, Vec<Invalid>> {
        self.model.spec(self.task, self.diffusion.learns_variance())
    }

    /// Returns the network's parameters and FLOPs, as names and values for people.
    ///
    /// # Errors
    /// When the configuration makes no valid network, with every mistake.
    pub fn network_cost(&self) -> Result<Vec<(String, String)>, Vec<Invalid>> {
        let (network, specs) = Network::build(&self.network_spec()?);
        let torso: usize = specs.iter().filter(|spec| spec.torso).map(|spec| spec.num_elements()).sum();
        let flops = network.forward_flops();
        Ok(vec![
            ("parameters".to_owned(), group_digits(specs.num_elements() as u64)),
            ("parameters of the torso".to_owned(), group_digits(torso as u64)),
            ("forward FLOPs an image".to_owned(), group_digits(flops)),
            ("images a V100-second, in theory".to_owned(), format!("{:.2}", theoretical_images_per_v100_second(flops))),
        ])
    }

    /// Returns the values that are derived from a valid configuration, as names and values for people.
    ///
    /// # Errors
    /// When the configuration makes no valid network, with every mistake.
    pub fn derived(&self) -> Result<Vec<(String, String)>, Vec<Invalid>> {
        let spec = self.network_spec()?;
        let mut rows = self.network_cost()?;
        let TrainingConfig { global_batch, microbatch, steps, .. } = self.training;
        match &spec {
            NetworkSpec::UNet(unet) | NetworkSpec::SuperRes(unet) => {
                rows.push(("channels in and out".to_owned(), format!("{} -> {}", unet.in_channels, unet.out_channels)));
            }
            NetworkSpec::Encoder(encoder) => rows.push(("classes".to_owned(), encoder.out_channels.to_string())),
        }
        let mult = self.model.effective_channel_mult(self.task).unwrap_or_default();
        let levels: Vec<String> = mult
            .iter()
            .enumerate()
            .map(|(level, multiple)| {
                let width = (multiple * self.model.num_channels as f64) as i64;
                let heads = self.model.num_head_channels.map_or(self.model.num_heads, |channels| width / channels);
                let size = self.model.image_size >> level;
                let attends = self.model.attention_resolutions.contains(&size) || level + 1 == mult.len();
                let attention = if attends { format!(" x {heads} heads") } else { String::new() };
                format!("{size} px: {width}{attention}")
            })
            .collect();
        rows.push(("channels by level".to_owned(), levels.join(", ")));
        rows.push(("samples of the run".to_owned(), group_digits(global_batch * steps)));
        rows.push((
            "numbers of ranks that divide".to_owned(),
            format!("{:?}", world_sizes(global_batch, microbatch, u64::MAX)),
        ));
        rows.push((
            "first loss scale".to_owned(),
            format!("2^{}", self.precision.effective_initial_lg_loss_scale(self.task)),
        ));
        Ok(rows)
    }
}

/// Formats `1234567` as `1,234,567`.
#[must_use]
pub fn group_digits(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Returns whether a URL holds a user, a password or a signature. An `@` in the name of an object is neither.
fn has_credentials(path: &str) -> bool {
    let authority = path.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or(rest));
    let has_user = authority.contains('@') || authority.contains(':') && path.contains('@');
    let without_user = path.replace('@', "");
    has_user || masked_text(&without_user) != without_user
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1000, 1234567].map(group_digits), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_batch_that_cannot_be_divided_is_refused_with_the_numbers_of_ranks_that_can() {
        let training = TrainingConfig { global_batch: 12, microbatch: 4, ..TrainingConfig::default() };
        let config = RunConfig { training, ..RunConfig::default() };
        let mistake = config.divide_batch(5).expect_err("5 does not divide 12");
        assert_eq!(mistake.field, "training.global_batch");
        let possible = "cannot be divided over 5 ranks; these numbers of ranks can: [1, 3, 4, 6, 12]";
        assert!(mistake.message.contains(possible), "{}", mistake.message);
        assert_eq!(config.divide_batch(4).expect("4 divides 12").world_size, 4);
    }

    #[test]
    fn paths_that_cannot_be_meant_are_refused() {
        let fields = |overrides: &[&str]| {
            let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
            match admiral_config::parse::<RunConfig>("test", "{}", &overrides) {
                Ok(_) => String::new(),
                Err(error) => error.to_string(),
            }
        };
        for (setting, expected) in [
            ("telemetry.tensorboard_folder=~/x", "is not expanded here"),
            ("data.cache={folder: $HOME/c, size_gb: 1}", "is not expanded here"),
            ("telemetry.textfile=~/x.prom", "is not expanded here"),
            ("run.folder=$(pwd)/x", "is not expanded here"),
            ("run.folder=file:///tmp/x", "is a URL"),
            ("evaluation.work=s3://me:hush@b/x", "has a user, a password"),
            ("data.path=s3://me:hush@b/x", "has a user, a password"),
            ("evaluation.reference=az://c/p?sig=hush", "has a user, a password"),
        ] {
            let error = fields(&[setting]);
            assert!(error.contains(expected) && !error.contains("hush"), "{setting}: {error:?}");
        }
        assert_eq!(fields(&["run.folder=/a/~/b", "data.path=s3://bucket/a@b"]), "");
    }

    /// Returns the names of all fields that hold a number.
    fn numbers(value: &serde_json::Value, path: &str) -> Vec<String> {
        match value {
            serde_json::Value::Object(fields) => {
                let inner = |(name, value): (&String, _)| numbers(value, &format!("{path}.{name}"));
                fields.iter().flat_map(inner).collect()
            }
            serde_json::Value::Number(_) => vec![path.trim_start_matches('.').to_owned()],
            _ => Vec::new(),
        }
    }

    #[test]
    fn no_number_makes_a_configuration_hang_or_overflow() {
        let default = serde_json::to_value(RunConfig::default()).expect("a configuration is JSON");
        let nullable = ["model.num_classes", "model.num_head_channels"].map(str::to_owned);
        let fields: Vec<String> = numbers(&default, "").into_iter().chain(nullable).collect();
        assert!(fields.len() > 50 && fields.contains(&"model.num_res_blocks".to_owned()), "{fields:?}");
        for field in fields {
            for number in ["18446744073709551615", "9223372036854775807", "4294967296", "100000000"] {
                // Refused, or with numbers that can be computed.
                if let Ok(config) = admiral_config::parse::<RunConfig>("test", "{}", &[format!("{field}={number}")]) {
                    assert!(config.derived().is_ok(), "{field}={number}");
                }
            }
        }
        for mult in ["[1e15]", "[1e300]", "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"] {
            let set = format!("model.channel_mult={mult}");
            assert!(admiral_config::parse::<RunConfig>("test", "{}", &[set]).is_err(), "{mult}");
        }
    }

    #[test]
    fn the_default_configuration_is_valid() {
        assert_eq!(RunConfig::default().validate(), []);
    }
}
