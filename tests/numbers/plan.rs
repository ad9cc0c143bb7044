//! `admiral plan` for the files of `configs/`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use admiral::model::Network;
use admiral::run_config::RunConfig;
use admiral_plan::{GpuKind, TABLE_7};
use serde_json::Value;

fn file(name: &str) -> String {
    Path::new("configs").join(format!("{name}.yaml")).to_str().unwrap().to_owned()
}

fn plan(names: &[&str], options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_admiral"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("plan").args(names.iter().map(|name| file(name)));
    command.args(options).output().unwrap()
}

fn json(names: &[&str], options: &[&str]) -> Value {
    let output = plan(names, &[options, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn config(name: &str) -> RunConfig {
    admiral_config::load(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file(name)), &[]).unwrap()
}

#[test]
fn imagenet_64_on_64_v100s() {
    let plans = json(&["imagenet64"], &["--gpus", "64", "--gpu", "v100"]);
    let plan = &plans["plans"][0];
    let number = |path: &str| plan.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {plan}"));
    let parts = plan["memory"].as_object().unwrap();
    let sum: u64 = parts.iter().filter(|(name, _)| *name != "total").map(|(_, bytes)| bytes.as_u64().unwrap()).sum();
    assert_eq!(sum, parts["total"].as_u64().unwrap());

    let config = config("imagenet64");
    let (network, specs) = Network::build(&config.network_spec().unwrap());
    let values = specs.num_elements() as f64;
    assert_eq!((number("/memory/masters"), number("/memory/moments")), (4.0 * values, 8.0 * values));
    assert_eq!(number("/storage/checkpoint_bytes"), 16.0 * values);

    // 2048 images on 64 GPUs are 32 for each, in one microbatch.
    assert_eq!((number("/batch/microbatch"), number("/batch/accumulation")), (32.0, 1.0));
    let hardware = GpuKind::V100.hardware();
    let compute = 32.0 * 3.0 * network.forward_flops() as f64 / (hardware.mfu * hardware.half_flops);
    assert!((number("/time/step/compute_seconds") / compute - 1.0).abs() < 1e-9);
    let step = number("/time/step_seconds");
    let days = config.training.steps as f64 * step / 86400.0;
    assert!((number("/time/days") / days - 1.0).abs() < 1e-9);
    assert!((plans["gpu_days"].as_f64().unwrap() / (64.0 * days) - 1.0).abs() < 1e-9);

    // Microbatches of 96 do not divide the batch on 8 and 16 GPUs.
    let rows = plan["scaling"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["refused"].is_null() && row["days"].as_f64().unwrap() > 0.0), "{plan}");
    let needy = rows.iter().filter(|row| !row["needs"].is_null());
    let needy: Vec<(u64, &str, u64)> = needy
        .map(|row| (row["gpus"].as_u64().unwrap(), row["needs"].as_str().unwrap(), row["microbatch"].as_u64().unwrap()))
        .collect();
    assert_eq!(needy, [8, 16].map(|gpus| (gpus, "--set training.microbatch=64", 64)));
    assert!(plan["shortage"].is_null() && rows.iter().all(|row| row["fits"] == true), "{plan}");
}

#[test]
fn suggested_options_solve_refusals_and_shortages() {
    let refused = plan(&["imagenet64"], &["--gpu", "v100"]);
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(64), "{message}");
    assert!(message.contains("for 8 give --set training.microbatch=64"), "{message}");
    json(&["imagenet64"], &["--gpu", "v100", "--set", "training.microbatch=64"]);

    let tight = ["--gpus", "32", "--gpu", "v100", "--gpu-memory-gib", "24"];
    let output = plan(&["imagenet512"], &tight);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.matches("This does not fit: ").count() == 1, "{text}");
    let lack = json(&["imagenet512"], &tight)["plans"][0]["shortage"].clone();
    let options = lack["options"].as_array().unwrap();
    assert!(!options.is_empty() && lack["missing_bytes"].as_u64().unwrap() > 0, "{lack}");
    for option in options {
        let option = option.as_str().unwrap();
        assert!(text.contains(option), "{option} in {text}");
        let with: Vec<&str> = tight.iter().copied().chain(option.split(' ')).collect();
        let plans = json(&["imagenet512"], &with);
        assert!(plans["plans"][0]["shortage"].is_null(), "{option}: {plans}");
    }

    let nothing = json(&["imagenet64"], &["--gpus", "64", "--gpu", "v100", "--gpu-memory-gib", "2"]);
    let lack = &nothing["plans"][0]["shortage"];
    assert!(
        lack["options"].as_array().unwrap().is_empty() && lack["least_bytes"].as_u64().unwrap() > 2 << 30,
        "{lack}"
    );
}

#[test]
fn a_very_large_number_of_steps_is_planned() {
    let plans = json(&["imagenet64"], &["--gpus", "64", "--gpu", "v100", "--steps", "1000000000000000"]);
    let saves = plans["plans"][0]["storage"]["num_saves"].as_u64().unwrap();
    assert_eq!(saves, 1_000_000_000_000_000_u64.div_ceil(config("imagenet64").training.save_interval));
}

/// The paper's authors ran the batch sizes of Table 7 on V100s with fused normalization and without checkpointing.
#[test]
fn the_papers_batches_fit_a_v100() {
    let files = ["imagenet64", "imagenet128", "imagenet256", "upsample-64-256", "upsample-128-512"];
    for (name, row) in files.iter().zip(TABLE_7) {
        let plans = json(&[name], &["--gpus", "32", "--gpu", "v100"]);
        let variants = plans["plans"][0]["variants"].as_array().unwrap();
        let theirs = variants.iter().find(|v| v["norms"] == "fused" && v["checkpointing"] == false).unwrap();
        assert!(theirs["largest_microbatch"].as_u64().unwrap() >= row.batch, "{name}: {theirs}");
    }
}

/// V100-days of the generators in Table 10, computed from the rates of Table 7 and from batches and steps of the files.
#[test]
fn the_papers_rates_give_its_table_10() {
    for (expected, names, steps) in [
        (116.0, &["lsun-horse"][..], ""),
        (92.0, &["lsun-cat"], ""),
        (521.0, &["imagenet128"], ""),
        (54.0, &["imagenet128"], "450000"),
        (916.0, &["imagenet256"], ""),
        (347.0, &["imagenet256"], "750000"),
        (329.0, &["imagenet64", "upsample-64-256"], ""),
        (219.0, &["imagenet64", "upsample-64-256"], "540000,150000"),
        (110.0, &["imagenet64", "upsample-64-256"], "200000,150000"),
        (1878.0, &["imagenet128", "upsample-128-512"], ""),
        (189.0, &["imagenet128", "upsample-128-512"], "500000,100000"),
    ] {
        let mut options = vec!["--gpus", "64", "--gpu", "v100", "--rates", "paper"];
        if !steps.is_empty() {
            options.extend(["--steps", steps]);
        }
        let days = json(names, &options)["gpu_days"].as_f64().unwrap();
        assert!((days / expected - 1.0).abs() < 0.01, "{names:?} {steps}: {days}, in the paper {expected}");
    }
}

#[test]
fn every_file_has_a_table() {
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let output = plan(&[&name], &["--gpus", "32", "--gpu", "h100"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("GPU-days"), "{name}: {text}");
    }
}

#[test]
fn a_plan_for_cpus_uses_the_measured_rate() {
    let output = plan(&["fashion"], &["--gpus", "2", "--gpu", "cpu"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("admiral bench step --config configs/fashion.yaml"), "{text}");
    let output = plan(&["fashion", "fashion"], &["--gpus", "2", "--gpu", "cpu", "--images-per-second", "100"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("process-days of all") && !text.contains("GPU"), "{text}");
    let plans = json(&["fashion"], &["--gpus", "2", "--gpu", "cpu", "--images-per-second", "100"]);
    let seconds = plans["plans"][0]["time"]["step"]["compute_seconds"].as_f64().unwrap();
    assert!((seconds - 0.16).abs() < 1e-9, "16 images each: {seconds}");
}

#[test]
fn an_impossible_plan_is_one_error_with_code_64() {
    for (name, options, says) in [
        ("imagenet64", &["--gpus", "64", "--gpu", "k80"][..], "these are known: v100, a100, h100, h200, cpu"),
        ("imagenet64", &["--gpus", "0", "--gpu", "v100"], "--gpus is 0"),
        ("imagenet64", &["--gpus", "24", "--gpu", "v100"], "cannot be divided over 24 ranks"),
        ("imagenet512", &["--gpus", "64", "--gpu", "v100", "--rates", "paper"], "Table 7 has no rate of this network"),
        ("imagenet64", &["--gpus", "64", "--gpu", "h100", "--rates", "paper"], "ask for --gpu v100"),
        ("imagenet64", &["--gpus", "64", "--gpu", "v100", "--steps", "1,2"], "2 numbers for 1 configurations"),
        ("none", &["--gpu", "v100"], "none.yaml"),
        ("imagenet64", &["--gpu", "v100", "--mfu", "-0.4"], "--mfu is -0.4; it must be positive"),
        ("imagenet64", &["--gpu", "v100", "--image-kb", "-5"], "--image-kb is -5; it must be positive"),
        ("imagenet64", &["--gpu", "v100", "--images-per-second", "-1"], "--images-per-second is -1; it must"),
        ("imagenet64", &["--gpu", "v100", "--nvlink-gbs", "-1"], "--nvlink-gbs is -1; it must be positive"),
        ("imagenet64", &["--gpu", "v100", "--network-gbs", "-1"], "--network-gbs is -1; it must be positive"),
        ("imagenet64", &["--gpu", "v100", "--gpu-memory-gib", "-1"], "--gpu-memory-gib is -1; it must be positive"),
    ] {
        let output = plan(&[name], options);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{message}");
        assert_eq!(message.matches(says).count(), 1, "{message}");
        assert!(output.stdout.is_empty());
    }
    for (option, value) in [("--gpus", "-3"), ("--steps", "-3"), ("--steps", "-3,2")] {
        let output = plan(&["imagenet64"], &["--gpu", "v100", option, value]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && message.contains("invalid value '-3' for"), "{message}");
    }
}
