//! The configurations of the paper's Tables 1 to 3 in `configs/ablations/`, and their small twins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use admiral::model::Network;
use admiral::run_config::RunConfig;
use admiral_config::{load, parse, show};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/ablations")
}

fn read(name: &str) -> RunConfig {
    load(&folder().join(format!("{name}.yaml")), &[]).unwrap_or_else(|error| panic!("{error}"))
}

/// The names of the files of a folder.
fn names(inner: &str) -> BTreeSet<String> {
    let paths = std::fs::read_dir(folder().join(inner)).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.is_file()).map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

fn num_parameters(name: &str) -> usize {
    Network::build(&read(name).network_spec().unwrap()).1.num_elements()
}

/// The fields that differ between two files, with the values of the second. The run's folder is its own in each.
fn changes(from: &str, to: &str) -> BTreeMap<String, Value> {
    let [from, to] = [from, to].map(|name| serde_json::to_value(read(name)).unwrap());
    let mut found = BTreeMap::new();
    for (section, fields) in to.as_object().unwrap() {
        let Some(fields) = fields.as_object() else {
            assert_eq!(from[section], *fields, "{section}");
            continue;
        };
        for (field, value) in fields {
            if from[section][field] != *value {
                found.insert(format!("{section}.{field}"), value.clone());
            }
        }
    }
    assert!(found.remove("run.folder").is_some(), "{found:?}");
    found
}

fn has_changes(from: &str, to: &str, expected: &[(&str, Value)]) {
    let expected = expected.iter().map(|(field, value)| (format!("model.{field}"), value.clone())).collect();
    assert_eq!(changes(from, to), expected, "{to}");
}

#[test]
fn every_file_loads_and_its_printed_form_is_equal() {
    for name in names("").into_iter().chain(names("small").into_iter().map(|name| format!("small/{name}"))) {
        let config = read(&name);
        let text = show(&config, &config.derived().unwrap());
        assert_eq!(parse::<RunConfig>("shown", &text, &[]).unwrap(), config, "{name}");
        assert_eq!(config.run.folder, Path::new("runs/ablations").join(&name), "{name}");
    }
}

#[test]
fn all_have_the_size_the_batch_and_the_length_of_the_paper() {
    let expected =
        ["1-all", "1-attention", "1-base", "1-depth", "1-heads", "1-rescale", "1-updown", "2-head-channels-128"]
            .into_iter()
            .chain(["2-head-channels-32", "2-head-channels-64", "2-heads-1", "2-heads-2", "2-heads-4", "2-heads-8"])
            .chain(["3-addition", "3-adagn"]);
    assert_eq!(names(""), expected.map(|name| format!("table{name}")).collect());
    for name in names("") {
        let config = read(&name);
        assert_eq!((config.model.image_size, config.training.global_batch), (128, 256), "{name}");
        assert_eq!((config.training.steps, config.sampling.timestep_respacing.as_str()), (700_000, "250"), "{name}");
    }
}

#[test]
fn table_1_changes_one_thing_at_a_time() {
    let model = read("table1-base").model;
    assert_eq!((model.num_channels, model.num_res_blocks, model.num_heads), (160, 2, 1));
    assert_eq!((model.attention_resolutions, model.num_head_channels), (vec![16], None));
    assert!(model.use_scale_shift_norm && !model.resblock_updown && !model.rescale_residual);
    let attention = ("attention_resolutions", json!([32, 16, 8]));
    let (heads, updown) = (("num_heads", json!(4)), ("resblock_updown", json!(true)));
    let from_base = |name, expected: &[(&str, Value)]| has_changes("table1-base", name, expected);
    from_base("table1-depth", &[("num_channels", json!(128)), ("num_res_blocks", json!(4))]);
    from_base("table1-heads", std::slice::from_ref(&heads));
    from_base("table1-attention", std::slice::from_ref(&attention));
    from_base("table1-updown", std::slice::from_ref(&updown));
    from_base("table1-rescale", &[("rescale_residual", json!(true))]);
    from_base("table1-all", &[attention, heads, updown]);
    let base = num_parameters("table1-base");
    for same in ["table1-heads", "table1-rescale"] {
        assert_eq!(num_parameters(same), base, "{same}");
    }
    for larger in ["table1-attention", "table1-updown", "table1-all"] {
        assert!(num_parameters(larger) > base, "{larger}");
    }
    // The paper holds the size relatively constant.
    let ratio = num_parameters("table1-depth") as f64 / base as f64;
    assert!((ratio - 1.0).abs() < 0.15, "{ratio}");
}

#[test]
fn table_2_changes_heads_only() {
    let model = read("table2-heads-1").model;
    assert_eq!((model.num_channels, model.num_res_blocks, model.num_heads), (128, 2, 1));
    assert_eq!((model.attention_resolutions, model.num_head_channels), (vec![32, 16, 8], None));
    assert!(model.use_scale_shift_norm && model.resblock_updown && !model.rescale_residual);
    for heads in [2, 4, 8] {
        has_changes("table2-heads-1", &format!("table2-heads-{heads}"), &[("num_heads", json!(heads))]);
    }
    for channels in [32, 64, 128] {
        let name = format!("table2-head-channels-{channels}");
        // num_heads has no effect there.
        let default = json!(admiral::model::ModelConfig::default().num_heads);
        has_changes("table2-heads-1", &name, &[("num_head_channels", json!(channels)), ("num_heads", default)]);
    }
    for name in names("").iter().filter(|name| name.starts_with("table2")) {
        assert_eq!(num_parameters(name), num_parameters("table2-heads-1"), "{name}");
    }
}

#[test]
fn table_3_changes_how_the_embedding_is_applied() {
    has_changes("table2-head-channels-64", "table3-adagn", &[]);
    has_changes("table3-adagn", "table3-addition", &[("use_scale_shift_norm", json!(false))]);
    // A scale less for each channel of each residual block.
    assert!(num_parameters("table3-addition") < num_parameters("table3-adagn"));
}

#[test]
fn the_small_twins_make_the_same_changes() {
    let expected = ["addition", "attention", "base", "rescale", "updown"];
    assert_eq!(names("small"), expected.map(String::from).into());
    let from_base = |name, change| has_changes("small/base", &format!("small/{name}"), &[change]);
    from_base("addition", ("use_scale_shift_norm", json!(false)));
    from_base("attention", ("attention_resolutions", json!([16, 8])));
    from_base("updown", ("resblock_updown", json!(true)));
    from_base("rescale", ("rescale_residual", json!(true)));
    for name in expected {
        let found = num_parameters(&format!("small/{name}"));
        assert!((500_000..1_500_000).contains(&found), "{name}: {found}");
    }
    // Everything else is as in the demo.
    let demo: RunConfig = load(&folder().join("../fashion.yaml"), &[]).unwrap();
    let base = read("small/base");
    let model = admiral::model::ModelConfig { resblock_updown: false, ..demo.model.clone() };
    assert_eq!((&base.model, &base.diffusion, &base.data), (&model, &demo.diffusion, &demo.data));
}

#[test]
fn the_models_of_the_reproduction_fit_together() {
    let read = |name: &str| read(&format!("../reproduce/{name}"));
    let names = ["base-16", "conditional", "features", "noised-classifier", "unconditional", "upsampler"];
    assert_eq!(self::names("../reproduce"), names.map(String::from).into());
    for name in names {
        assert_eq!(read(name).run.folder, Path::new("runs/reproduce").join(name));
    }
    let (with, without) = (read("conditional"), read("unconditional"));
    let model = admiral::model::ModelConfig { num_classes: None, ..with.model.clone() };
    assert_eq!((&without.model, &without.diffusion, &without.training), (&model, &with.diffusion, &with.training));
    let (noised, clean) = (read("noised-classifier"), read("features"));
    assert!(noised.classifier.noised && !clean.classifier.noised);
    assert_eq!((&noised.model, noised.diffusion.noise_schedule), (&clean.model, with.diffusion.noise_schedule));
    assert_eq!(read("upsampler").model.small_size, Some(read("base-16").model.image_size));
}
