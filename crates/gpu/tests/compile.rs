//! Every kernel in every variant, compiled by NVRTC for three generations of GPUs, held to a budget of registers.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use admiral_gpu::Program;
use admiral_gpu::cache::{KernelCache, Origin};
use admiral_gpu::nvrtc::{Architecture, CompileError, Nvrtc};

/// Volta, Ampere, Hopper.
const ARCHITECTURES: [Architecture; 3] =
    [Architecture { major: 7, minor: 0 }, Architecture { major: 8, minor: 0 }, Architecture { major: 9, minor: 0 }];

/// The most registers a kernel of 256 threads may take. With 128 two blocks fit a multiprocessor, with 80 three, with
/// 64 four: what streams memory needs many loads under way.
const BUDGET: [(&str, u32); 14] = [
    ("group_norm_statistics_channels_last", 80),
    ("group_norm_apply_channels_last", 128),
    ("group_norm_sums_channels_last", 128),
    ("group_norm_dx_channels_last", 128),
    ("group_norm_statistics_contiguous", 64),
    ("group_norm_apply_contiguous", 80),
    ("group_norm_sums_contiguous", 128),
    ("group_norm_dx_contiguous", 96),
    ("group_norm_levels", 64),
    ("group_norm_weights", 40),
    ("adam", 96),
    ("more_averages", 40),
    ("sum_of_squares", 48),
    ("finish_norms", 48),
];

/// The kernels of a program for one architecture, and what is wrong with them.
fn examine(nvrtc: &Nvrtc, program: &Program, architecture: Architecture) -> (Vec<String>, Vec<String>) {
    let budget: BTreeMap<&str, u32> = BUDGET.into_iter().collect();
    let cubin = nvrtc.compile(program, architecture).unwrap();
    assert_eq!(&cubin.image[..4], b"\x7fELF");
    let resources = cubin.resources();
    let mut found: Vec<&str> = resources.iter().map(|of| of.kernel.as_str()).collect();
    let mut wanted = program.kernels().to_vec();
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted, "the log of {program:?} for {architecture} names all kernels:\n{}", cubin.log);
    let mut wrong = Vec::new();
    for of in &resources {
        let allowed = budget[of.kernel.as_str()];
        // A kernel of no registers was not read: every thread needs some.
        if of.spill_bytes != 0 || of.stack_bytes != 0 || of.registers == 0 || of.registers > allowed {
            wrong.push(format!("{of:?} of {allowed} for {architecture}, {:?}", program.options()));
        }
    }
    (resources.into_iter().map(|of| of.kernel).collect(), wrong)
}

#[test]
fn every_variant_compiles_for_volta_ampere_and_hopper_within_its_registers() {
    let nvrtc = support::nvrtc();
    let jobs: Vec<(Program, Architecture)> = Program::all()
        .into_iter()
        .flat_map(|program| ARCHITECTURES.map(|architecture| (program, architecture)))
        .collect();
    let next = AtomicUsize::new(0);
    let all: Mutex<(BTreeSet<String>, Vec<String>)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((program, architecture)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (kernels, wrong) = examine(&nvrtc, program, *architecture);
                    let mut all = all.lock().unwrap();
                    all.0.extend(kernels);
                    all.1.extend(wrong);
                }
            });
        }
    });
    let (seen, wrong) = all.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen.len(), BUDGET.len(), "the table names kernels that do not exist: {seen:?}");
}

#[test]
fn a_mistake_is_reported_with_file_line_and_the_compilers_word() {
    let nvrtc = support::nvrtc();
    let hopper = ARCHITECTURES[2];
    let source = "#line 1 \"mine.cu\"\nextern \"C\" __global__ void f(float* x) {\n  x[0] = nothing;\n}\n";
    let error = nvrtc.compile_text("mine.cu", source, &["--gpu-architecture=sm_90".into()], hopper).unwrap_err();
    let CompileError::Refused(refusal) = &error else { panic!("{error}") };
    assert!(refusal.log.contains("mine.cu(2)") && refusal.log.contains("nothing"), "{}", refusal.log);
    let text = error.to_string();
    assert!(
        text.starts_with("mine.cu does not compile for sm_90") && text.contains("NVRTC_ERROR_COMPILATION"),
        "{text}"
    );
}

#[test]
fn an_architecture_that_the_compiler_does_not_know_is_refused() {
    let nvrtc = support::nvrtc();
    let unknown = Architecture { major: 2, minor: 3 };
    assert!(!nvrtc.architectures().contains(&unknown));
    let error = nvrtc.compile(&Program::Norms { kind: admiral_gpu::Kind::Float }, unknown).unwrap_err().to_string();
    assert!(error.contains("sm_23"), "{error}");
    for architecture in ARCHITECTURES {
        assert!(nvrtc.architectures().contains(&architecture), "{architecture} of {:?}", nvrtc.architectures());
    }
}

#[test]
fn compiled_kernels_are_kept_and_come_back_whole() {
    let nvrtc = support::nvrtc();
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::new(Some(folder.path().to_owned()));
    let program = Program::Norms { kind: admiral_gpu::Kind::Half };
    let (compiled, origin) = cache.get(&nvrtc, &program, ARCHITECTURES[1]).unwrap();
    assert_eq!(origin, Origin::Compiled);
    let (kept, origin) = cache.get(&nvrtc, &program, ARCHITECTURES[1]).unwrap();
    assert_eq!(origin, Origin::Cache);
    assert_eq!(kept, compiled);
    let (_, origin) = cache.get(&nvrtc, &program, ARCHITECTURES[2]).unwrap();
    assert_eq!(origin, Origin::Compiled, "another architecture is another entry");
}
