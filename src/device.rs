//! `admiral device`: what this machine computes with, which kernels and which attention run on it, and what is missing.

use std::fmt;
use std::path::Path;

use admiral_gpu::found::{FoundLibrary, find_all};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::gpus::{Gpus, loaded_file};
use crate::ops::{self, KernelChoice, Kernels};
use crate::version::Versions;

/// All that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The program, libtorch and MPI.
    #[serde(flatten)]
    pub versions: Versions,
    /// What libtorch has of CUDA; none where it has nothing.
    pub libtorch_cuda: Option<TorchCuda>,
    /// The processor.
    pub processor: Processor,
    /// NVIDIA's libraries.
    pub libraries: Vec<FoundFile>,
    /// Each GPU that the driver shows.
    pub gpus: Vec<Gpu>,
    /// What GPUs would need and is not there, each with the remedy; empty where there is nothing to do.
    pub missing: Vec<String>,
}

/// libtorch's CUDA part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TorchCuda {
    /// The file; none where it is part of another.
    pub path: Option<String>,
    /// How many GPUs libtorch sees.
    pub num_gpus: usize,
    /// The run-time library, as `12.8`.
    pub cudart: String,
    /// cuDNN, as `9.10.2`.
    pub cudnn: String,
}

/// The processor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Processor {
    /// As it names itself.
    pub name: String,
    /// How many threads of it this process may use.
    pub threads: usize,
    /// Its instructions for bfloat16; without any, bf16 is slower than fp32.
    pub bf16_instructions: Vec<String>,
    /// Which kernels run.
    #[serde(flatten)]
    pub kernels: KernelChoice,
    /// Which attention runs.
    pub attention: Attention,
}

/// A library, or why it is not there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FoundFile {
    /// What it is.
    pub library: String,
    /// Its file; none where there is none.
    pub path: Option<String>,
    /// Its release; of the driver the newest CUDA that it supports.
    pub version: Option<String>,
    /// Why it is not there, where it was looked for, and how to get it.
    pub missing: Option<String>,
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gpu {
    /// Its number.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// As `9.0`.
    pub compute_capability: String,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// All its memory, in bytes.
    pub total_memory: usize,
    /// Its free memory, in bytes.
    pub free_memory: usize,
    /// Which kernels run.
    #[serde(flatten)]
    pub kernels: KernelChoice,
    /// Which attention runs; none where libtorch does not see the GPU.
    pub attention: Option<Attention>,
}

/// libtorch's own answer which of its kernels runs attention with heads of 64 channels in training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Attention {
    /// In float32.
    pub fp32: &'static str,
    /// In float16.
    pub fp16: &'static str,
    /// In bfloat16.
    pub bf16: &'static str,
}

impl Report {
    /// Looks at everything. Takes some hundred MiB of each GPU while it does.
    ///
    /// # Errors
    /// When libtorch cannot say what it is.
    pub fn of_this_machine(gpu_libraries: &Gpus) -> Result<Self, ops::Error> {
        let torch_sees = if tch::Cuda::is_available() { tch::Cuda::device_count() as usize } else { 0 };
        let found = find_all(gpu_libraries.search());
        let libraries: Vec<FoundFile> =
            found.libraries.into_iter().map(|(library, found)| describe(&library.to_string(), found)).collect();
        let mut gpus = Vec::new();
        let mut lost = Vec::new();
        for device in found.devices {
            match device {
                Ok(device) => gpus.push(Gpu {
                    ordinal: device.ordinal,
                    name: device.name,
                    compute_capability: format!("{}.{}", device.architecture.major, device.architecture.minor),
                    multiprocessors: device.multiprocessors,
                    total_memory: device.total_memory,
                    free_memory: device.free_memory,
                    kernels: Kernels::open(Device::Cuda(device.ordinal), gpu_libraries).choice(),
                    attention: (device.ordinal < torch_sees).then(|| attention(Device::Cuda(device.ordinal))),
                }),
                Err(reason) => lost.push(format!("a GPU cannot be used: {reason}")),
            }
        }
        let libtorch_cuda = tch::utils::has_cuda().then(|| TorchCuda {
            path: loaded_file("libtorch_cuda").map(|path| path.display().to_string()),
            num_gpus: torch_sees,
            cudart: thousands(tch::utils::version_cudart(), 10),
            cudnn: if tch::Cuda::cudnn_is_available() { cudnn(tch::utils::version_cudnn()) } else { "none".into() },
        });
        let mut missing = missing(libtorch_cuda.as_ref(), gpus.len(), &libraries);
        missing.append(&mut lost);
        Ok(Self {
            versions: Versions::of_this_process()?,
            libtorch_cuda,
            processor: processor(),
            libraries,
            gpus,
            missing,
        })
    }
}

/// What comes before the places where a library was looked for, in its message.
const PLACES: &str = ". Looked at:";

fn describe(library: &str, found: Result<FoundLibrary, String>) -> FoundFile {
    match found {
        Ok(found) => {
            // A name alone is one that the loader found.
            let is_name = !Path::new(&found.path).is_absolute();
            let stem = found.path.split(".so").next().unwrap_or_default();
            let file = if is_name { loaded_file(stem) } else { None };
            let path = file.map_or(found.path, |file| file.display().to_string());
            FoundFile { library: library.into(), path: Some(path), version: Some(found.version), missing: None }
        }
        Err(reason) => FoundFile { library: library.into(), path: None, version: None, missing: Some(reason) },
    }
}

/// What GPUs would need and is not there. Where there is no driver there is no GPU, and nothing else matters.
fn missing(torch: Option<&TorchCuda>, num_gpus: usize, libraries: &[FoundFile]) -> Vec<String> {
    let mut missing: Vec<String> = libraries.iter().filter_map(|library| library.missing.clone()).collect();
    match torch {
        None if num_gpus > 0 => missing.push(
            "this libtorch has no CUDA, so networks run on the CPU: `make setup` on a machine with a GPU installs one \
             that has, or put another libtorch of the same release into LD_LIBRARY_PATH"
                .into(),
        ),
        Some(torch) if torch.num_gpus < num_gpus => missing.push(format!(
            "the driver shows {num_gpus} GPUs and libtorch {}: libtorch's CUDA {} may be newer than the driver's",
            torch.num_gpus, torch.cudart
        )),
        _ => {}
    }
    missing
}

fn processor() -> Processor {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = field(&text, "model name").unwrap_or(std::env::consts::ARCH);
    Processor {
        name: name.to_owned(),
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        bf16_instructions: bf16_instructions(&text),
        kernels: Kernels::cpu().choice(),
        attention: attention(Device::Cpu),
    }
}

/// The value of a field in the text of /proc/cpuinfo, the first processor's.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name).map(|(_, v)| v.trim())
}

fn bf16_instructions(cpuinfo: &str) -> Vec<String> {
    let flags = field(cpuinfo, "flags").or_else(|| field(cpuinfo, "Features")).unwrap_or_default();
    flags.split_whitespace().filter(|flag| flag.contains("bf16")).map(str::to_owned).collect()
}

fn attention(device: Device) -> Attention {
    let by = |kind| {
        let q = Tensor::f_zeros([1, 1, 64, 64], (kind, device)).map(|q| q.set_requires_grad(true));
        let chosen =
            q.and_then(|q| Tensor::f_internal_fused_sdp_choice(&q, &q, &q, None::<&Tensor>, 0.0, false, None, false));
        match chosen {
            Ok(0) => "libtorch's separate operations",
            Ok(1) => "flash",
            Ok(2) => "memory-efficient",
            Ok(3) => "cuDNN",
            Ok(_) => "one that this program does not know",
            Err(_) => "none",
        }
    };
    Attention { fp32: by(Kind::Float), fp16: by(Kind::Half), bf16: by(Kind::BFloat16) }
}

/// NVIDIA's way to number releases: 12080 is 12.8.
fn thousands(version: i64, minor: i64) -> String {
    format!("{}.{}", version / 1000, version % 1000 / minor)
}

/// 8902 is 8.9.2; since 9, 91002 is 9.10.2.
fn cudnn(version: i64) -> String {
    let major = if version < 10_000 { 1000 } else { 10_000 };
    format!("{}.{}.{}", version / major, version % major / 100, version % 100)
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fp32 {}, fp16 {}, bf16 {}", self.fp32, self.fp16, self.bf16)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.versions)?;
        match &self.libtorch_cuda {
            Some(TorchCuda { num_gpus, cudart, cudnn, .. }) => {
                writeln!(f, "          with CUDA {cudart} and cuDNN {cudnn}; sees {num_gpus} GPUs")?;
            }
            None => writeln!(f, "          libtorch without CUDA")?,
        }
        for FoundFile { library, path, version, .. } in &self.libraries {
            match (path, version) {
                (Some(path), Some(version)) => writeln!(f, "{library}: {version} from {path}")?,
                _ => writeln!(f, "{library}: not found")?,
            }
        }
        let Processor { name, threads, bf16_instructions, kernels, attention } = &self.processor;
        let bf16 = if bf16_instructions.is_empty() { "none".into() } else { bf16_instructions.join(", ") };
        writeln!(f, "\nprocessor: {name}, {threads} threads; bf16 instructions: {bf16}")?;
        writeln!(f, "  fused operations: {kernels}\n  attention: {attention}")?;
        for gpu in &self.gpus {
            let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
            writeln!(
                f,
                "GPU {}: {}, compute capability {}, {} multiprocessors, {:.1} of {:.1} GiB free",
                gpu.ordinal,
                gpu.name,
                gpu.compute_capability,
                gpu.multiprocessors,
                gib(gpu.free_memory),
                gib(gpu.total_memory)
            )?;
            writeln!(f, "  fused operations: {}", gpu.kernels)?;
            match &gpu.attention {
                Some(attention) => writeln!(f, "  attention: {attention}")?,
                None => writeln!(f, "  libtorch does not see it")?,
            }
        }
        if self.gpus.is_empty() {
            writeln!(f, "no GPU")?;
        }
        if !self.missing.is_empty() {
            writeln!(f, "\nmissing for GPUs (--json says where each was looked for):")?;
            let short = |what: &str| what.split(PLACES).next().unwrap_or_default().to_owned();
            self.missing.iter().try_for_each(|what| writeln!(f, "- {}", short(what)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nvidias_numbers_are_read() {
        assert_eq!(thousands(12_080, 10), "12.8");
        assert_eq!((cudnn(8902), cudnn(91_002)), ("8.9.2".into(), "9.10.2".into()));
    }

    #[test]
    fn the_processors_bf16_instructions_are_found() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx512_bf16 avx2 amx_bf16\n\n\
                    processor\t: 1\nmodel name\t: Other\nflags\t\t: fpu\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2 GHz"));
        assert_eq!(bf16_instructions(text), ["avx512_bf16", "amx_bf16"]);
        assert!(bf16_instructions("flags : fpu avx2\n").is_empty());
    }

    #[test]
    fn what_is_missing_is_said_once_and_only_where_it_matters() {
        let nvrtc = describe("NVRTC", Err("NVRTC was not found; install it".into()));
        let driver = describe("driver", Ok(FoundLibrary { path: "/lib/libcuda.so.1".into(), version: "12.8".into() }));
        assert_eq!(driver.path.as_deref(), Some("/lib/libcuda.so.1"));
        let torch = TorchCuda { path: None, num_gpus: 1, cudart: "13.0".into(), cudnn: "9.10.2".into() };
        assert!(missing(Some(&torch), 1, std::slice::from_ref(&driver)).is_empty());
        assert!(missing(None, 0, std::slice::from_ref(&driver)).is_empty());
        assert_eq!(missing(Some(&torch), 1, &[driver, nvrtc]), ["NVRTC was not found; install it"]);
        assert!(missing(None, 1, &[])[0].contains("this libtorch has no CUDA"));
        assert!(missing(Some(&torch), 2, &[])[0].contains("shows 2 GPUs and libtorch 1"));
    }
}
