//! `admiral device` on this machine.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn device(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_admiral"))
        .arg("device")
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn report(environment: &[(&str, &str)]) -> Value {
    serde_json::from_slice(&device(&["--json"], environment).stdout).unwrap()
}

#[test]
fn device_reports_the_machine_and_its_kernels() {
    let report = report(&[]);
    assert!(Path::new(report["libtorch_path"].as_str().unwrap()).exists());
    let processor = &report["processor"];
    assert_eq!(processor["kernels"], "own");
    assert_eq!(processor["compiled_for"], admiral::ops::bridge::instruction_set());
    assert_eq!(processor["attention"]["fp32"], "flash", "libtorch has flash attention for processors");
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    for instruction in processor["bf16_instructions"].as_array().unwrap() {
        assert!(cpuinfo.contains(instruction.as_str().unwrap()));
    }
    let has_bf16 = !processor["bf16_instructions"].as_array().unwrap().is_empty();
    assert_eq!(has_bf16, cpuinfo.contains("bf16"));
    // Each library has a file or a reason why it is missing.
    let libraries = report["libraries"].as_array().unwrap();
    assert_eq!(libraries.len(), 3);
    for library in libraries {
        assert_ne!(library["path"].is_string(), library["missing"].is_string(), "{library}");
    }
    for gpu in report["gpus"].as_array().unwrap() {
        assert!(gpu["kernels"] == "own" || gpu["because"].is_string(), "{gpu}");
    }
}

#[test]
fn a_missing_library_is_named_with_its_path_and_a_remedy() {
    let environment = [("ADMIRAL_NVRTC", "/nowhere/libnvrtc.so.12")];
    let report = report(&environment);
    let missing: Vec<&str> = report["missing"].as_array().unwrap().iter().map(|what| what.as_str().unwrap()).collect();
    let nvrtc = missing.iter().find(|what| what.contains("NVRTC")).unwrap();
    assert!(nvrtc.contains("/nowhere/libnvrtc.so.12") && nvrtc.contains("pip install"), "{nvrtc}");
    for gpu in report["gpus"].as_array().unwrap() {
        assert_eq!(gpu["kernels"], "libtorch", "{gpu}");
    }
    let text = String::from_utf8(device(&[], &environment).stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.iter().any(|line| line.ends_with("(libnvrtc.so): not found")), "{text}");
    assert!(lines.iter().any(|line| line.starts_with("processor: ")), "{text}");
    assert!(text.contains("fused operations: own kernels for ") && text.contains("pip install"), "{text}");
    assert!(!text.contains("Looked at"), "places fill pages: {text}");
}
