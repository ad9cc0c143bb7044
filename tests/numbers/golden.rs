//! Compares Admiral with numbers of the published reference implementation.
//!
//! A case is a file of `$ADMIRAL_GOLDEN_DIR` (by default `tests/golden`), and is checked by its kind. Images are in the
//! folder `images/` next to it.

mod support;

mod bpd;
mod cfg;
mod diffusion;
mod encode;
mod evaluate;
mod fill;
mod image_pipeline;
mod inception;
mod loops;
mod metrics;
mod network;
mod sample;
mod solver;
mod stack;
mod temperature;
mod timestep_embedding;
mod train;

use support::{Case, Outcome};

/// Compares one case with its numbers.
type Check = fn(&Case) -> Outcome;

/// Every kind of case and its check.
const KINDS: &[(&str, Check)] = &[
    ("fill", fill::check),
    ("image_pipeline", image_pipeline::check),
    ("train", train::check),
    ("unet", network::check),
    ("super_res", network::check),
    ("encoder", network::check),
    ("timestep_embedding", timestep_embedding::check),
    ("metrics", metrics::check),
    ("schedule", diffusion::schedule),
    ("respacing", diffusion::respacing),
    ("process", diffusion::process),
    ("loss_second_moment", diffusion::loss_second_moment),
    ("sample", sample::check),
    ("solver", solver::check),
    ("temperature", temperature::check),
    ("encode", encode::check),
    ("stack", stack::check),
    ("bpd", bpd::check),
    ("cfg", cfg::check),
    ("inception", inception::check),
    ("evaluate", evaluate::check),
];

fn check_kind(kind: &str) {
    let check = KINDS.iter().find(|(name, _)| *name == kind).expect("the kind is in the table").1;
    let cases: Vec<Case> = support::cases().into_iter().filter(|case| case.kind == kind).collect();
    let failures: Vec<String> =
        cases.iter().filter_map(|case| check(case).err().map(|message| format!("{}: {message}", case.name))).collect();
    println!("{kind}: {} of {} cases passed", cases.len() - failures.len(), cases.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_file_has_a_known_kind() {
    let cases = support::cases();
    assert!(!cases.is_empty(), "{} holds no golden case", support::folder().display());
    for case in cases {
        assert!(KINDS.iter().any(|(kind, _)| *kind == case.kind), "{} is of unknown kind {:?}", case.name, case.kind);
    }
}

#[test]
fn fill() {
    check_kind("fill");
}

#[test]
fn unet() {
    check_kind("unet");
}

#[test]
fn super_res() {
    check_kind("super_res");
}

#[test]
fn encoder() {
    check_kind("encoder");
}

#[test]
fn timestep_embedding() {
    check_kind("timestep_embedding");
}

#[test]
fn image_pipeline() {
    check_kind("image_pipeline");
}

#[test]
fn metrics() {
    check_kind("metrics");
}

#[test]
fn train() {
    check_kind("train");
}

#[test]
fn schedule() {
    check_kind("schedule");
}

#[test]
fn respacing() {
    check_kind("respacing");
}

#[test]
fn process() {
    check_kind("process");
}

#[test]
fn loss_second_moment() {
    check_kind("loss_second_moment");
}

#[test]
fn sampling() {
    check_kind("sample");
}

#[test]
fn solver() {
    check_kind("solver");
}

#[test]
fn temperature() {
    check_kind("temperature");
}

#[test]
fn encode() {
    check_kind("encode");
}

#[test]
fn stack() {
    check_kind("stack");
}

#[test]
fn bpd() {
    check_kind("bpd");
}

#[test]
fn cfg() {
    check_kind("cfg");
}

#[test]
fn inception() {
    check_kind("inception");
}

#[test]
fn evaluate() {
    check_kind("evaluate");
}

/// The tests above run Admiral's own kernels. This runs some of them again with libtorch's operations, in another
/// process of this program.
#[test]
fn networks_without_fused_kernels() {
    if std::env::var_os("ADMIRAL_TEST_FUSED").is_some() {
        return;
    }
    let kinds = ["unet", "encoder", "train"];
    let output = std::process::Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["--exact", "--nocapture", "--test-threads", "1"])
        .args(kinds.map(|kind| format!("golden::{kind}")))
        .env("ADMIRAL_TEST_FUSED", "off")
        .output()
        .expect("this program runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for kind in kinds {
        assert!(said.contains(&format!("{kind}: ")), "{kind} was not checked: {said}");
    }
}
