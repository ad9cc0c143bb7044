//! Compiles the C++ in `src/ops/cpp` against libtorch's headers, and links libtorch with an rpath.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    // The only watched folder: an edit of Rust code compiles no C++.
    println!("cargo:rerun-if-changed=src/ops/cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    // Cargo passes this variable of torch-sys to direct dependents only.
    let lib = PathBuf::from(env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names libtorch's folder"));
    let include = lib.parent().expect("libtorch/lib has a parent").join("include");
    compile_bridge(&include);
    compile_kernels();
    // The rpath that torch-sys sets does not apply to the binaries of this package. Without --no-as-needed the linker
    // drops libtorch, whose static initializers register the CUDA backend.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
    println!("cargo:rustc-link-search=native={}", lib.display());
    for library in ["torch", "torch_cpu", "c10"] {
        println!("cargo:rustc-link-arg=-l{library}");
    }
    if lib.join("libtorch_cuda.so").exists() {
        println!("cargo:rustc-link-arg=-ltorch_cuda");
    }
    // The bridge shares libtorch's thread pool. It must use the same OpenMP runtime, which libtorch may ship itself.
    match fs::read_dir(&lib).into_iter().flatten().flatten().map(|entry| entry.path()).find(|path| is_openmp(path)) {
        Some(runtime) => println!("cargo:rustc-link-arg={}", runtime.display()),
        None => println!("cargo:rustc-link-arg=-lgomp"),
    }
}

fn is_openmp(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("libgomp"))
}

/// The files of the bridge to libtorch, in `src/ops/cpp`.
const BRIDGE: [&str; 12] = [
    "bridge",
    "concatenate",
    "convolve",
    "dispatch",
    "flat",
    "group_norm",
    "group_norm_gpu",
    "hooks",
    "packed_convolution",
    "profile",
    "recompute",
    "winograd",
];

/// Compiles the bridge to libtorch as one file, because reading libtorch's headers takes far longer than the rest.
fn compile_bridge(include: &Path) {
    let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo sets the variable");
    let includes: Vec<String> =
        BRIDGE.iter().map(|name| format!("#include \"{folder}/src/ops/cpp/{name}.cpp\"\n")).collect();
    let all = PathBuf::from(env::var("OUT_DIR").expect("cargo sets the variable")).join("admiral_bridge.cpp");
    fs::write(&all, includes.concat()).expect("the output folder can be written");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .opt_level(2)
        // Full debug information would double the size of each binary.
        .debug(false)
        .flag("-g1")
        .warnings(false)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .flag("-fopenmp")
        .include(include)
        .include(include.join("torch/csrc/api/include"))
        .file(all)
        .compile("admiral_bridge");
}

/// Compiles the CPU kernels once for each instruction set that `dispatch.cpp` chooses from.
fn compile_kernels() {
    let mut sets: Vec<(&str, &[&str])> = vec![("baseline", &[])];
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        sets.push(("avx2", &["-mavx2", "-mfma", "-mf16c"]));
        const AVX512: [&str; 9] = [
            "-mavx2",
            "-mfma",
            "-mf16c",
            "-mavx512f",
            "-mavx512bw",
            "-mavx512dq",
            "-mavx512vl",
            "-mprefer-vector-width=512",
            "-mavx512bf16",
        ];
        sets.push(("avx512", &AVX512[..8]));
        sets.push(("avx512_bf16", &AVX512));
    }
    for (name, flags) in sets {
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .std("c++17")
            .pic(true)
            .opt_level(3)
            .debug(false)
            .flag("-g1")
            .define("ADMIRAL_INSTRUCTION_SET", name);
        for flag in ["-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"].iter().chain(flags) {
            build.flag(flag);
        }
        build.file("src/ops/cpp/kernels.cpp").compile(&format!("admiral_kernels_{name}"));
    }
}
