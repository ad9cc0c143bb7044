//! Runs kernels on the CPU: their source is compiled as C++ with `host_shim.h`.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use admiral_gpu::{Error, Launch, Program, Shape};
use libloading::Library;
use tempfile::TempDir;

const SHIM: &str = include_str!("../host_shim.h");

/// Runs kernels synchronously in the caller's thread.
pub struct Emulator {
    /// Selects the order in which threads and blocks run. Results must not depend on it.
    order: u32,
}

impl Emulator {
    pub fn new(order: u32) -> Self {
        Self { order }
    }
}

#[repr(C)]
struct HostLaunch {
    grid: [u32; 3],
    block: u32,
    shared_bytes: u32,
    order: u32,
}

impl Launch for Emulator {
    unsafe fn launch(
        &self,
        program: &Program,
        kernel: &'static str,
        shape: &Shape,
        arguments: *const c_void,
        size: usize,
    ) -> Result<(), Error> {
        let library = compiled(program);
        // One launch at a time, because a library has only one threadIdx and one shared memory.
        let library = library.lock().unwrap();
        // SAFETY: the caller guarantees the argument.
        let done = unsafe { run(&library, kernel, shape, self.order, arguments, size) };
        assert_eq!(done, Ok(()), "{kernel} with {shape:?}");
        Ok(())
    }
}

/// Runs a kernel of a library that was compiled with the shim. Returns an error if the kernel violates a rule.
///
/// # Safety
/// The argument must have the type that the kernel takes, with valid addresses.
pub unsafe fn run(
    library: &Library,
    kernel: &str,
    shape: &Shape,
    order: u32,
    arguments: *const c_void,
    size: usize,
) -> Result<(), String> {
    let name = |prefix: &str| format!("{prefix}_{kernel}");
    let launch = HostLaunch { grid: shape.grid, block: shape.block, shared_bytes: shape.shared_bytes, order };
    // SAFETY: the types are those of HOST_KERNEL.
    let error = unsafe {
        let size_of = library.get::<extern "C" fn() -> usize>(name("host_size").as_bytes()).unwrap();
        assert_eq!(size, size_of(), "{kernel}: the size of the argument differs between Rust and CUDA");
        type Run = unsafe extern "C" fn(*const HostLaunch, *const c_void) -> *const c_char;
        let error = library.get::<Run>(name("host_run").as_bytes()).unwrap()(&launch, arguments);
        (!error.is_null()).then(|| CStr::from_ptr(error).to_string_lossy().into_owned())
    };
    error.map_or(Ok(()), Err)
}

/// Returns a kernel source with the shim around it.
pub fn with_shim(text: &str, kernels: &[&str]) -> String {
    let trailer: String = kernels.iter().map(|kernel| format!("HOST_KERNEL({kernel})\n")).collect();
    format!("{SHIM}\n{text}\n#line 1 \"trailer\"\n{trailer}")
}

type Compiled = Arc<Mutex<Library>>;

/// Returns the library of a program. Each program is compiled once per process.
fn compiled(program: &Program) -> Compiled {
    static ALL: OnceLock<Mutex<HashMap<Program, Arc<OnceLock<Compiled>>>>> = OnceLock::new();
    let cell = Arc::clone(ALL.get_or_init(Mutex::default).lock().unwrap().entry(*program).or_default());
    // Threads that need the same program wait here; other threads do not.
    Arc::clone(cell.get_or_init(|| {
        let text = with_shim(&program.source(), program.kernels());
        Arc::new(Mutex::new(compile(program.name(), &text, &program.options())))
    }))
}

/// Compiles C++ to a library and loads it. Misaligned accesses and other undefined behavior abort the test.
pub fn compile(name: &str, text: &str, options: &[String]) -> Library {
    let (folder, path) = compile_to_file(name, text, options);
    // SAFETY: its initializers only set plain variables.
    let library = unsafe { Library::new(path) }.unwrap();
    // A loaded library no longer needs its file.
    drop(folder);
    library
}

/// Compiles C++ to a library with the compiler in `CXX`, else `c++`. The file is deleted with the folder.
pub fn compile_to_file(name: &str, text: &str, options: &[String]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("text.cpp"), folder.path().join("library.so"));
    std::fs::write(&source, text).unwrap();
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let output = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-shared", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off"])
        .args(["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", "-Wno-unknown-pragmas"])
        // A fortified longjmp would reject a switch of fibers.
        .arg("-U_FORTIFY_SOURCE")
        .args(options)
        .arg(&source)
        .arg("-o")
        .arg(&library)
        .output()
        .unwrap_or_else(|error| panic!("{compiler:?}: {error}; a C++ compiler runs kernels where there is no GPU"));
    assert!(output.status.success(), "{name} {options:?}:\n{}", String::from_utf8_lossy(&output.stderr));
    (folder, library)
}
