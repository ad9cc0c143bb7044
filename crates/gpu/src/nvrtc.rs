//! NVRTC, the run-time compiler. It compiles kernel sources to machine code for one architecture.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;

use crate::library::{self, Library, LibraryError, Loaded, SearchPath};
use crate::program::Program;

/// The reason why a kernel was not compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The compiler is not available.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The compiler reported an error.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
}

/// A failed compilation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name} does not compile for {architecture} with {options:?} ({call}: {error}); NVRTC {version} from {path} said:\n{log}"
)]
pub struct Refusal {
    /// The name of the source.
    pub name: String,
    /// The architecture: `sm_90`.
    pub architecture: String,
    /// The options of the compiler.
    pub options: Vec<String>,
    /// The NVRTC function that failed.
    pub call: &'static str,
    /// NVRTC's name of the error.
    pub error: String,
    /// The version of NVRTC.
    pub version: String,
    /// The path of NVRTC.
    pub path: String,
    /// The compiler's log.
    pub log: String,
}

/// The architecture of a device: compute capability 9.0 is `sm_90`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Architecture {
    /// The major number of the compute capability.
    pub major: u32,
    /// The minor number of the compute capability.
    pub minor: u32,
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sm_{}{}", self.major, self.minor)
    }
}

/// The resources that a kernel needs, as the assembler reports them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// The kernel's name.
    pub kernel: String,
    /// The registers of a thread.
    pub registers: u32,
    /// The spilled bytes of a thread, stores and loads together.
    pub spill_bytes: u32,
    /// The stack of a thread in bytes.
    pub stack_bytes: u32,
}

/// The machine code of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cubin {
    /// The ELF image that the driver loads.
    pub image: Vec<u8>,
    /// The log of the compiler and the assembler.
    pub log: String,
}

impl Cubin {
    /// Returns the resources of each kernel, in the order of the log.
    #[must_use]
    pub fn resources(&self) -> Vec<Resources> {
        resources_in(&self.log)
    }
}

/// Parses the assembler's report (`--ptxas-options=-v`). It has the stack and spills of each kernel, then the
/// registers.
fn resources_in(log: &str) -> Vec<Resources> {
    let mut all: Vec<Resources> = Vec::new();
    let number_before = |line: &str, unit: &str| -> Option<u32> {
        line[..line.find(unit)?].split_whitespace().next_back()?.parse().ok()
    };
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            all.push(Resources { kernel, registers: 0, spill_bytes: 0, stack_bytes: 0 });
        } else if let Some(last) = all.last_mut() {
            if let Some(bytes) = number_before(line, " bytes stack frame") {
                last.stack_bytes = bytes;
                last.spill_bytes = number_before(line, " bytes spill stores").unwrap_or(0)
                    + number_before(line, " bytes spill loads").unwrap_or(0);
            }
            if let Some(registers) = line.split("Used ").nth(1).and_then(|rest| number_before(rest, " registers")) {
                last.registers = registers;
            }
        }
    }
    all
}

type Handle = *mut c_void;

struct Functions {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    create: unsafe extern "C" fn(
        *mut Handle,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    destroy: unsafe extern "C" fn(*mut Handle) -> c_int,
    compile: unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int,
    log_size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    cubin_size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
    cubin: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    num_architectures: unsafe extern "C" fn(*mut c_int) -> c_int,
    architectures: unsafe extern "C" fn(*mut c_int) -> c_int,
}

/// The loaded compiler.
pub struct Nvrtc {
    loaded: Loaded,
    functions: Functions,
    version: (i32, i32),
}

impl std::fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NVRTC {} from {}", self.version(), self.loaded.path())
    }
}

impl Nvrtc {
    /// Finds and loads the compiler.
    ///
    /// # Errors
    /// If it is not found, or is too old.
    pub fn load(search: &SearchPath) -> Result<Self, LibraryError> {
        Self::from_library(library::load(Library::Nvrtc, search)?)
    }

    /// Uses a library that is already loaded.
    ///
    /// # Errors
    /// If the library is not NVRTC 11.3 or later ([`LibraryError::Symbol`]).
    pub fn from_library(loaded: Loaded) -> Result<Self, LibraryError> {
        // SAFETY: the types are those of nvrtc.h.
        let functions = unsafe {
            Functions {
                version: loaded.function("nvrtcVersion")?,
                error_string: loaded.function("nvrtcGetErrorString")?,
                create: loaded.function("nvrtcCreateProgram")?,
                destroy: loaded.function("nvrtcDestroyProgram")?,
                compile: loaded.function("nvrtcCompileProgram")?,
                log_size: loaded.function("nvrtcGetProgramLogSize")?,
                log: loaded.function("nvrtcGetProgramLog")?,
                cubin_size: loaded.function("nvrtcGetCUBINSize")?,
                cubin: loaded.function("nvrtcGetCUBIN")?,
                num_architectures: loaded.function("nvrtcGetNumSupportedArchs")?,
                architectures: loaded.function("nvrtcGetSupportedArchs")?,
            }
        };
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are valid. The call cannot fail otherwise.
        unsafe { (functions.version)(&mut major, &mut minor) };
        Ok(Self { loaded, functions, version: (major, minor) })
    }

    /// Returns its version: `12.8`.
    #[must_use]
    pub fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// Returns the name or path under which it was loaded.
    #[must_use]
    pub fn path(&self) -> &str {
        self.loaded.path()
    }

    /// Returns the architectures that it supports.
    #[must_use]
    pub fn architectures(&self) -> Vec<Architecture> {
        let mut count: c_int = 0;
        // SAFETY: the pointer is valid.
        if unsafe { (self.functions.num_architectures)(&mut count) } != 0 {
            return Vec::new();
        }
        let mut numbers = vec![0 as c_int; usize::try_from(count).unwrap_or(0)];
        // SAFETY: the list has the length that NVRTC reported.
        if unsafe { (self.functions.architectures)(numbers.as_mut_ptr()) } != 0 {
            return Vec::new();
        }
        numbers
            .iter()
            .filter_map(|&number| u32::try_from(number).ok())
            .map(|number| Architecture { major: number / 10, minor: number % 10 })
            .collect()
    }

    /// Returns the options of a compilation. They request the assembler's report, which [`Cubin::resources`] parses.
    #[must_use]
    pub fn options(program: &Program, architecture: Architecture) -> Vec<String> {
        let mut options =
            vec![format!("--gpu-architecture={architecture}"), "--ptxas-options=-v".into(), "--std=c++17".into()];
        options.extend(program.options());
        options
    }

    /// Compiles a program to machine code.
    ///
    /// # Errors
    /// If the compiler reports an error ([`CompileError::Refused`]). It contains the log.
    pub fn compile(&self, program: &Program, architecture: Architecture) -> Result<Cubin, CompileError> {
        let options = Self::options(program, architecture);
        self.compile_text(program.name(), &program.source(), &options, architecture)
    }

    /// Compiles a source text. `options` must name the architecture as `sm_XX`.
    ///
    /// # Errors
    /// If the compiler reports an error ([`CompileError::Refused`]). It contains the log.
    pub fn compile_text(
        &self,
        name: &str,
        source: &str,
        options: &[String],
        architecture: Architecture,
    ) -> Result<Cubin, CompileError> {
        let refused = |call, error: String, log: String| {
            CompileError::Refused(Box::new(Refusal {
                name: name.to_owned(),
                architecture: architecture.to_string(),
                options: options.to_vec(),
                call,
                error,
                version: self.version(),
                path: self.loaded.path().to_owned(),
                log,
            }))
        };
        let zero = |_| refused("nvrtcCreateProgram", "the text contains a zero byte".into(), String::new());
        let source = CString::new(source).map_err(zero)?;
        let file = CString::new(name).map_err(zero)?;
        let texts = options.iter().map(|option| CString::new(option.as_str())).collect::<Result<Vec<_>, _>>();
        let texts = texts.map_err(zero)?;
        let pointers: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();

        let mut build = Build { functions: &self.functions, handle: ptr::null_mut() };
        // SAFETY: all strings are zero-terminated and outlive the call. There are no headers.
        let code = unsafe {
            (self.functions.create)(&mut build.handle, source.as_ptr(), file.as_ptr(), 0, ptr::null(), ptr::null())
        };
        if code != 0 {
            return Err(refused("nvrtcCreateProgram", self.error_string(code), String::new()));
        }
        // SAFETY: the handle is valid, and the list has that many strings.
        let code = unsafe { (self.functions.compile)(build.handle, pointers.len() as c_int, pointers.as_ptr()) };
        let log = build.log();
        if code != 0 {
            return Err(refused("nvrtcCompileProgram", self.error_string(code), log));
        }
        match build.fetch(self.functions.cubin_size, self.functions.cubin) {
            Ok(image) if !image.is_empty() => Ok(Cubin { image, log }),
            Ok(_) => Err(refused("nvrtcGetCUBIN", "there is no machine code".into(), log)),
            Err(code) => Err(refused("nvrtcGetCUBIN", self.error_string(code), log)),
        }
    }

    fn error_string(&self, code: c_int) -> String {
        // SAFETY: NVRTC returns a constant string for every number.
        unsafe { library::text((self.functions.error_string)(code), "an unknown error") }
    }
}

struct Build<'a> {
    functions: &'a Functions,
    handle: Handle,
}

impl Build<'_> {
    fn fetch(
        &self,
        size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
        get: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>, c_int> {
        let mut length = 0;
        // SAFETY: the handle is valid.
        match unsafe { size(self.handle, &mut length) } {
            0 => {}
            code => return Err(code),
        }
        let mut bytes = vec![0u8; length];
        // SAFETY: the buffer has the length that NVRTC reported.
        match unsafe { get(self.handle, bytes.as_mut_ptr().cast()) } {
            0 => Ok(bytes),
            code => Err(code),
        }
    }

    fn log(&self) -> String {
        let bytes = self.fetch(self.functions.log_size, self.functions.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
    }
}

impl Drop for Build<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: the handle is valid and not used again.
            unsafe { (self.functions.destroy)(&mut self.handle) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_assemblers_report_is_parsed() {
        let log = "ptxas info    : 0 bytes gmem\n\
                   ptxas info    : Compiling entry function 'adam' for 'sm_90'\n\
                   ptxas info    : Function properties for adam\n    \
                   16 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads\n\
                   ptxas info    : Used 43 registers, used 0 barriers\n\
                   ptxas info    : Compiling entry function 'norm' for 'sm_90'\n\
                   ptxas info    : Function properties for norm\n    \
                   0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
                   ptxas info    : Used 7 registers\n";
        let resources = |kernel: &str, registers, spill_bytes, stack_bytes| Resources {
            kernel: kernel.into(),
            registers,
            spill_bytes,
            stack_bytes,
        };
        assert_eq!(resources_in(log), [resources("adam", 43, 32, 16), resources("norm", 7, 0, 0)]);
        assert!(resources_in("").is_empty());
    }
}
