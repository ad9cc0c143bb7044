//! Compiles the C++ bridge against libtorch's headers and links libtorch so that the binary finds it.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=src/ops/bridge");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    // torch-sys says where it found libtorch; a transitive dependency would not be told.
    let lib = PathBuf::from(env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names libtorch's folder"));
    let include = lib.parent().expect("libtorch/lib has a parent").join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .opt_level(3)
        .warnings(false)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("src/ops/bridge/bridge.cpp")
        .compile("admiral_bridge");
    // torch-sys' own rpath does not reach this crate's binaries. Without --no-as-needed the linker
    // drops libtorch, whose static initialisers register the CUDA backend.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
    println!("cargo:rustc-link-search=native={}", lib.display());
    for library in ["torch", "torch_cpu", "c10"] {
        println!("cargo:rustc-link-arg=-l{library}");
    }
    if lib.join("libtorch_cuda.so").exists() {
        println!("cargo:rustc-link-arg=-ltorch_cuda");
    }
}
