//! The kernels of one device. A kernel is compiled at its first launch and stays loaded.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::cache::{KernelCache, Origin};
use crate::driver::{Device, Function, Module, StreamHandle};
use crate::launch::{Error, Launch};
use crate::library::SearchPath;
use crate::nvrtc::{Architecture, CompileError, Nvrtc};
use crate::program::Program;
use crate::shape::Shape;

/// The compiled and loaded programs of a device.
#[derive(Debug)]
pub struct Kernels {
    device: Arc<Device>,
    architecture: Architecture,
    search: SearchPath,
    cache: KernelCache,
    nvrtc: OnceLock<Nvrtc>,
    programs: Mutex<HashMap<Program, Arc<LoadedProgram>>>,
}

#[derive(Debug)]
struct LoadedProgram {
    module: Module,
    functions: Mutex<HashMap<&'static str, Function>>,
    origin: Origin,
}

impl Kernels {
    /// Makes the kernels of a device. Nothing is compiled yet.
    ///
    /// # Errors
    /// If the driver cannot report the device's architecture.
    pub fn new(device: &Arc<Device>, search: SearchPath, cache: KernelCache) -> Result<Self, Error> {
        Ok(Self {
            device: Arc::clone(device),
            architecture: device.architecture()?,
            search,
            cache,
            nvrtc: OnceLock::new(),
            programs: Mutex::new(HashMap::new()),
        })
    }

    /// Returns the device.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Compiles and loads a program before its first launch. Returns the origin of its machine code.
    ///
    /// # Errors
    /// If the program does not compile, or cannot be loaded.
    pub fn prepare(&self, program: &Program) -> Result<Origin, Error> {
        self.program(program).map(|loaded| loaded.origin.clone())
    }

    /// Returns a launcher for a stream.
    ///
    /// # Safety
    /// The stream must belong to this device and live as long as the result.
    #[must_use]
    pub unsafe fn on(&self, stream: StreamHandle) -> OnStream<'_> {
        OnStream { kernels: self, stream }
    }

    fn nvrtc(&self) -> Result<&Nvrtc, CompileError> {
        if let Some(nvrtc) = self.nvrtc.get() {
            return Ok(nvrtc);
        }
        let nvrtc = Nvrtc::load(&self.search)?;
        Ok(self.nvrtc.get_or_init(|| nvrtc))
    }

    fn program(&self, program: &Program) -> Result<Arc<LoadedProgram>, Error> {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = programs.get(program) {
            return Ok(Arc::clone(loaded));
        }
        let (cubin, origin) = self.cache.get(self.nvrtc()?, program, self.architecture)?;
        let module = Module::load(&self.device, &cubin.image)?;
        let loaded = Arc::new(LoadedProgram { module, functions: Mutex::new(HashMap::new()), origin });
        programs.insert(*program, Arc::clone(&loaded));
        Ok(loaded)
    }
}

impl LoadedProgram {
    fn function(&self, name: &'static str) -> Result<Function, Error> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(*function);
        }
        let function = self.module.function(name)?;
        functions.insert(name, function);
        Ok(function)
    }
}

/// Launches kernels on a stream.
#[derive(Debug, Clone, Copy)]
pub struct OnStream<'a> {
    kernels: &'a Kernels,
    stream: StreamHandle,
}

impl Launch for OnStream<'_> {
    unsafe fn launch(
        &self,
        program: &Program,
        kernel: &'static str,
        shape: &Shape,
        arguments: *const c_void,
        _size: usize,
    ) -> Result<(), Error> {
        let loaded = self.kernels.program(program)?;
        let function = loaded.function(kernel)?;
        // SAFETY: the function belongs to this module. The caller of `on` guarantees the stream, and the caller of this
        // method guarantees the argument.
        unsafe { loaded.module.launch(function, shape, self.stream, arguments) }.map_err(Error::from)
    }
}
