//! The configurations in `configs/`, and messages for mistakes in configurations.

use std::path::{Path, PathBuf};

use admiral::diffusion::{DiffusionConfig, Sampler};
use admiral::model::{Network, Task};
use admiral::run_config::{RunConfig, SamplingConfig};
use admiral_config::{Invalid, Validate, load, parse, show};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The released model that each file describes.
const ARCHITECTURES: [(&str, &str); 14] = [
    ("lsun-bedroom", "lsun"),
    ("lsun-cat", "lsun"),
    ("lsun-horse", "lsun"),
    ("imagenet64", "64x64_diffusion"),
    ("imagenet128", "128x128_diffusion"),
    ("imagenet256", "256x256_diffusion"),
    ("imagenet256-uncond", "256x256_diffusion_uncond"),
    ("imagenet512", "512x512_diffusion"),
    ("classifier-64", "64x64_classifier"),
    ("classifier-128", "128x128_classifier"),
    ("classifier-256", "256x256_classifier"),
    ("classifier-512", "512x512_classifier"),
    ("upsample-64-256", "64_256_upsampler"),
    ("upsample-128-512", "128_512_upsampler"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs")
}

fn read(name: &str) -> RunConfig {
    load(&folder().join(format!("{name}.yaml")), &[]).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(text: &str, overrides: &[&str]) -> String {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    parse::<RunConfig>("my.yaml", text, &overrides).unwrap_err().to_string()
}

#[test]
fn every_file_loads_and_its_printed_form_is_equal() {
    let mut num_files = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let config: RunConfig = load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        let text = show(&config, &config.derived().unwrap());
        assert_eq!(parse::<RunConfig>("shown", &text, &[]).unwrap(), config, "{}", path.display());
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<RunConfig>(&json).unwrap(), config, "{}", path.display());
        num_files += 1;
    }
    assert!(num_files > ARCHITECTURES.len(), "the demo has files too");
}

#[test]
fn every_file_builds_its_released_model() {
    let golden = std::env::var("ADMIRAL_GOLDEN_DIR").unwrap_or_else(|_| "tests/golden".into());
    let text = std::fs::read_to_string(Path::new(&golden).join("architectures.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    for (file, architecture) in ARCHITECTURES {
        let expected = &all[architecture];
        let (_, specs) = Network::build(&read(file).network_spec().unwrap());
        let tensors = expected["tensors"].as_object().unwrap();
        assert_eq!(specs.len(), tensors.len(), "{file}");
        for spec in specs.iter() {
            assert_eq!(tensors.get(&spec.name), Some(&Value::from(spec.shape.clone())), "{file}: {}", spec.name);
        }
        assert_eq!(specs.num_elements() as u64, expected["parameters"].as_u64().unwrap(), "{file}");
        // Flags that do not change shapes.
        let (config, flags) = (read(file), &expected["flags"]);
        assert_eq!(config.model.use_new_attention_order, flags["use_new_attention_order"] == true, "{file}");
        if let Some(heads) = flags["num_heads"].as_i64() {
            assert_eq!((config.model.num_heads, config.model.num_head_channels), (heads, None), "{file}");
        } else {
            assert_eq!(config.model.num_head_channels, Some(64), "{file}");
        }
        if config.task != Task::Classifier {
            assert_eq!(config.model.dropout, flags["dropout"].as_f64().unwrap_or(0.0), "{file}");
        }
    }
}

#[test]
fn the_demo_is_small() {
    let (_, specs) = Network::build(&read("fashion").network_spec().unwrap());
    assert!((1_000_000..=4_000_000).contains(&specs.num_elements()), "{}", specs.num_elements());
}

#[test]
fn the_garments_models_fit_together() {
    let (base, classifier) = (read("fashion"), read("fashion-classifier"));
    assert_eq!(classifier.model.image_size, base.model.image_size);
    assert_eq!(classifier.model.num_classes, base.model.num_classes);
    assert_eq!(classifier.diffusion.noise_schedule, base.diffusion.noise_schedule);
    let (small, upsampler) = (read("fashion-16"), read("fashion-upsample"));
    assert_eq!(upsampler.model.small_size, Some(small.model.image_size));
    assert_eq!(upsampler.model.num_classes, small.model.num_classes);
}

/// Reads a file of `configs/sampling`.
fn sampling_file<T: DeserializeOwned + JsonSchema + Validate>(name: &str) -> T {
    load(&folder().join(format!("sampling/{name}.yaml")), &[]).unwrap_or_else(|error| panic!("{error}"))
}

/// The sampler, the timesteps and the guidance of a released model.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Preset {
    sampling: SamplingConfig,
    upsampler: Option<SamplingConfig>,
    guidance: Option<ClassifierGuidance>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ClassifierGuidance {
    kind: String,
    scale: f64,
}

impl Validate for Preset {
    fn validate(&self) -> Vec<Invalid> {
        let sections = std::iter::once(&self.sampling).chain(&self.upsampler);
        sections.flat_map(|section| section.validate(&DiffusionConfig::default())).collect()
    }
}

/// Settings that the paper tries one after the other.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Sweep {
    scales: Vec<f64>,
    respacings: Vec<String>,
}

impl Validate for Sweep {
    fn validate(&self) -> Vec<Invalid> {
        let config =
            |respacing: &String| DiffusionConfig { timestep_respacing: respacing.clone(), ..Default::default() };
        self.respacings.iter().flat_map(|respacing| config(respacing).validate()).collect()
    }
}

#[test]
fn sampling_presets_are_those_of_the_papers_tables_6_and_14() {
    let table = [
        ("imagenet64", 250, Some(1.0), None),
        ("imagenet128", 250, Some(0.5), Some(1.25)),
        ("imagenet256", 250, Some(1.0), Some(2.5)),
        ("imagenet512", 250, Some(4.0), Some(9.0)),
        ("lsun", 250, None, None),
    ];
    let check = |name: &str, sampler: Sampler, steps: usize, scale: Option<f64>| {
        let preset: Preset = sampling_file(name);
        assert_eq!(preset.sampling.sampler, sampler, "{name}");
        let solver = preset.sampling.solver_plan(&DiffusionConfig::default()).unwrap().start();
        assert_eq!(solver.num_steps(), steps, "{name}");
        let guidance = preset.guidance.inspect(|guidance| assert_eq!(guidance.kind, "classifier", "{name}"));
        assert_eq!(guidance.map(|guidance| guidance.scale), scale, "{name}");
    };
    let mut num_presets = 0;
    for (name, steps, scale, ddim_scale) in table {
        check(name, Sampler::DDPM, steps, scale);
        num_presets += 1;
        if ddim_scale.is_some() {
            check(&format!("{name}-ddim25"), Sampler::DDIM, 25, ddim_scale);
            num_presets += 1;
        }
    }
    // The steps of both models, of Table 6.
    let stacks = [
        ("imagenet64-256", [250, 250], 1.0),
        ("imagenet128-512", [250, 250], 0.5),
        ("imagenet128-512-250-25", [250, 25], 0.5),
        ("imagenet128-512-ddim25", [25, 25], 1.25),
    ];
    for (name, [base, upsampler], scale) in stacks {
        let preset: Preset = sampling_file(name);
        for (section, steps) in [(&preset.sampling, base), (preset.upsampler.as_ref().unwrap(), upsampler)] {
            assert_eq!(section.sampler, if steps == 25 { Sampler::DDIM } else { Sampler::DDPM }, "{name}");
            assert_eq!(section.solver_plan(&DiffusionConfig::default()).unwrap().start().num_steps(), steps, "{name}");
        }
        assert_eq!(preset.guidance.map(|guidance| guidance.scale), Some(scale), "{name}");
        num_presets += 1;
    }
    let files =
        std::fs::read_dir(folder().join("sampling")).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_file());
    assert_eq!(files.count(), num_presets);
}

#[test]
fn sweeps_contain_the_settings_that_the_paper_chose() {
    let mut num_sweeps = 0;
    for entry in std::fs::read_dir(folder().join("sampling/sweeps")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let (preset, sweep): (Preset, Sweep) = (sampling_file(&name), sampling_file(&format!("sweeps/{name}")));
        assert!(sweep.respacings.contains(&preset.sampling.timestep_respacing), "{name}");
        match preset.guidance {
            Some(guidance) => assert!(sweep.scales.contains(&guidance.scale), "{name}"),
            None => assert!(sweep.scales.is_empty(), "{name}"),
        }
        num_sweeps += 1;
    }
    assert_eq!(num_sweeps, 7);
}

#[test]
fn a_mistake_is_reported_with_line_field_and_suggestion() {
    assert_eq!(
        refused("model:\n  num_head: 4\noptimiser:\n  learning_rate: 1\nprecision:\n  mode: fp61\n", &[]),
        "my.yaml:2:3: model.num_head: unknown field; did you mean `num_heads`?\n\
         my.yaml:3:1: optimiser: unknown field; did you mean `optimizer`?\n\
         my.yaml:6:3: precision.mode: must be one of fp32, fp16, bf16; found the text `fp61`; did you mean `fp16`?"
    );
    assert_eq!(
        refused("learning_rate: 1\n", &[]),
        "my.yaml:1:1: learning_rate: unknown field; did you mean `optimizer.learning_rate`?"
    );
}

#[test]
fn heads_that_do_not_divide_are_refused_at_their_line() {
    let error = refused("model:\n  num_head_channels: null\n  num_heads: 3\n", &[]);
    assert!(error.starts_with("my.yaml:3:3: model.num_heads: 3 does not divide"), "{error}");
    let error = refused("model:\n  num_head_channels: null\n", &["model.num_heads=3"]);
    assert!(error.starts_with("--set model.num_heads=3: model.num_heads: 3 does not divide"), "{error}");
}

#[test]
fn overrides_reach_every_section() {
    let overrides = ["optimizer.learning_rate=2e-4", "optimizer.ema_rates=[0.99, 0.9999]"].map(str::to_owned);
    let config: RunConfig = load(&folder().join("imagenet64.yaml"), &overrides).unwrap();
    assert_eq!(config.optimizer.learning_rate, 2e-4);
    assert_eq!(config.optimizer.ema_rates, [0.99, 0.9999]);
}

fn admiral(arguments: &[&str]) -> std::process::Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_admiral")).args(arguments).current_dir(folder()).output().unwrap()
}

#[test]
fn config_show_prints_fields_and_derived_values_as_json() {
    let shown = admiral(&["config", "show", "fashion.yaml", "--json", "--set", "launch.stall_seconds=60"]);
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let config: RunConfig = serde_json::from_value(shown["config"].clone()).unwrap();
    assert_eq!(config.launch.stall_seconds, 60);
    assert_eq!(config, load(&folder().join("fashion.yaml"), &["launch.stall_seconds=60".into()]).unwrap());
    let (_, specs) = Network::build(&config.network_spec().unwrap());
    let derived = &shown["derived"];
    assert_eq!(derived["parameters"], specs.num_elements());
    assert_eq!(derived["run_folder"], folder().join(&config.run.folder).display().to_string());
    assert_eq!(derived["worlds"], serde_json::json!([1, 2, 4, 8, 16, 32]));

    let refused = admiral(&["config", "show", "fashion.yaml", "--json", "--set", "launch.stall_seconds=1"]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(64), 0));
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(message.starts_with("error: --set launch.stall_seconds=1: launch.stall_seconds: must be"), "{message}");
}

#[test]
fn the_secret_of_a_webhook_is_given_to_the_launcher_only() {
    let url = "https://hooks.example.org/T0/hush";
    let set = format!("launch.notify={url}");
    let show = |more: &[&str]| admiral(&[&["config", "show", "fashion.yaml", "--set", &set], more].concat());
    for output in [show(&[]), show(&["--json"])] {
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("https://hooks.example.org/(secret, not shown)") && !text.contains("hush"), "{text}");
    }
    let shown: Value = serde_json::from_slice(&show(&["--json", "--secrets"]).stdout).unwrap();
    assert_eq!(shown["secrets"]["notify"], url);
    // A file of a run can be read again.
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("config.yaml");
    std::fs::write(&own, show(&[]).stdout).unwrap();
    let again = admiral(&["config", "show", own.to_str().unwrap()]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    for wrong in ["hooks.example.org/hush", "[[https://h/hush]]", "{url: https://h/hush}", "[]"] {
        let refused = admiral(&["config", "show", "fashion.yaml", "--set", &format!("launch.notify={wrong}")]);
        let message = String::from_utf8_lossy(&refused.stderr);
        assert_eq!((refused.status.code(), message.contains("hush")), (Some(64), false), "{message}");
        assert!(message.contains("launch.notify"), "{message}");
    }
}

#[test]
fn completions_and_manual_pages_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = admiral(&["completions", shell]);
        assert!(String::from_utf8(output.stdout).unwrap().contains("checkpoint"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(admiral(&["man", folder.path().to_str().unwrap()]).status.success());
    for page in ["admiral.1", "admiral-train.1", "admiral-checkpoint-list.1"] {
        assert!(folder.path().join(page).is_file(), "{page}");
    }
    assert_eq!(admiral(&["man", "/nowhere/man"]).status.code(), Some(64));
}

#[test]
fn version_prints_libraries() {
    let said = admiral(&["version", "--json"]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(said["admiral"], env!("CARGO_PKG_VERSION"));
    assert!(Path::new(said["libtorch_path"].as_str().unwrap()).exists(), "{said}");
    let plain = String::from_utf8(admiral(&["version"]).stdout).unwrap();
    assert!(plain.contains(said["libtorch_loaded"].as_str().unwrap()), "{plain}");
    assert!(plain.contains(said["mpi"].as_str().unwrap()), "{plain}");
}
