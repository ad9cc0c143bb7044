//! Compiles every variant of every kernel with NVRTC for three GPU architectures, and checks the number of registers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use admiral_gpu::Program;
use admiral_gpu::cache::{KernelCache, Origin};
use admiral_gpu::nvrtc::{Architecture, CompileError, Nvrtc};

/// Volta, Ampere, Hopper.
const ARCHITECTURES: [Architecture; 3] =
    [Architecture { major: 7, minor: 0 }, Architecture { major: 8, minor: 0 }, Architecture { major: 9, minor: 0 }];

/// The largest number of registers of a kernel with 256 threads. With 128 registers two blocks fit into a
/// multiprocessor, with 80 three, with 64 four. Kernels that stream memory need many concurrent loads.
const BUDGET: [(&str, u32); 15] = [
    ("group_norm_statistics_channels_last", 80),
    ("group_norm_apply_channels_last", 128),
    ("group_norm_sums_channels_last", 128),
    ("group_norm_dx_channels_last", 128),
    ("group_norm_statistics_contiguous", 64),
    ("group_norm_apply_contiguous", 80),
    ("group_norm_sums_contiguous", 128),
    ("group_norm_dx_contiguous", 96),
    ("group_norm_dx_terms", 64),
    ("group_norm_weights", 40),
    ("adam", 96),
    ("more_averages", 40),
    ("hash_words", 48),
    ("sum_of_squares", 48),
    ("finish_norms", 48),
];

/// Returns the kernels of a program for one architecture, and a list of violations.
fn examine(nvrtc: &Nvrtc, program: &Program, architecture: Architecture) -> (Vec<String>, Vec<String>) {
    let budget: BTreeMap<&str, u32> = BUDGET.into_iter().collect();
    let cubin = nvrtc.compile(program, architecture).unwrap();
    assert_eq!(&cubin.image[..4], b"\x7fELF");
    let resources = cubin.resources();
    let mut found: Vec<&str> = resources.iter().map(|kernel| kernel.kernel.as_str()).collect();
    let mut expected = program.kernels().to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected, "the log of {program:?} for {architecture} names all kernels:\n{}", cubin.log);
    let mut violations = Vec::new();
    for used in &resources {
        let allowed = budget[used.kernel.as_str()];
        // Every kernel needs registers, so 0 means that the log was not parsed.
        if used.spill_bytes != 0 || used.stack_bytes != 0 || used.registers == 0 || used.registers > allowed {
            violations
                .push(format!("{used:?}, but at most {allowed} registers for {architecture}, {:?}", program.options()));
        }
    }
    (resources.into_iter().map(|kernel| kernel.kernel).collect(), violations)
}

/// Checks that all these programs compile, that each kernel stays within its budget, and that all kernels occur.
fn check_all(jobs: &[(Program, Architecture)]) {
    let nvrtc = crate::support::nvrtc();
    let next = AtomicUsize::new(0);
    let all: Mutex<(BTreeSet<String>, Vec<String>)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((program, architecture)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (kernels, violations) = examine(&nvrtc, program, *architecture);
                    let mut all = all.lock().unwrap();
                    all.0.extend(kernels);
                    all.1.extend(violations);
                }
            });
        }
    });
    let (seen, violations) = all.into_inner().unwrap();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    assert_eq!(seen.len(), BUDGET.len(), "the table names kernels that do not exist: {seen:?}");
}

#[test]
fn every_kernel_compiles_within_its_register_budget() {
    // Each type has 16 programs. Every fifth of all is of each kind, layout and type. The hash has no type.
    let is_chosen = |(i, program): &(usize, Program)| i % 5 == 0 || *program == Program::Hash;
    let programs = Program::all().into_iter().enumerate().filter(is_chosen);
    check_all(&programs.map(|(i, program)| (program, ARCHITECTURES[i % 3])).collect::<Vec<_>>());
}

#[test]
fn an_error_is_reported_with_file_line_and_log() {
    let nvrtc = crate::support::nvrtc();
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
fn an_unknown_architecture_is_refused() {
    let nvrtc = crate::support::nvrtc();
    let unknown = Architecture { major: 2, minor: 3 };
    assert!(!nvrtc.architectures().contains(&unknown));
    let error = nvrtc.compile(&Program::Norms { kind: admiral_gpu::Kind::Float }, unknown).unwrap_err().to_string();
    assert!(error.contains("sm_23"), "{error}");
    for architecture in ARCHITECTURES {
        assert!(nvrtc.architectures().contains(&architecture), "{architecture} of {:?}", nvrtc.architectures());
    }
}

#[test]
fn compiled_kernels_are_cached() {
    let nvrtc = crate::support::nvrtc();
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

/// Exhaustive tests.
mod long {
    use super::*;

    #[test]
    #[ignore = "long: make test-long"]
    fn every_variant_compiles_for_volta_ampere_and_hopper_within_its_register_budget() {
        let programs = Program::all().into_iter();
        let jobs = programs.flat_map(|program| ARCHITECTURES.map(|architecture| (program, architecture)));
        check_all(&jobs.collect::<Vec<_>>());
    }
}
