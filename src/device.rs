//! `admiral device`: the libraries, GPUs, kernels and attention of this machine, and what is missing for GPUs.

use std::fmt;
use std::path::Path;

use admiral_gpu::found::{FoundLibrary, find_all};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::gpus::{Gpus, loaded_file};
use crate::ops::{self, KernelChoice, Kernels};
use crate::version::Versions;

/// The report of `admiral device`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The versions of Admiral, libtorch and MPI.
    #[serde(flatten)]
    pub versions: Versions,
    /// The CUDA part of libtorch, or `None` if it has none.
    pub libtorch_cuda: Option<TorchCuda>,
    /// The processor.
    pub processor: Processor,
    /// NVIDIA's libraries.
    pub libraries: Vec<FoundFile>,
    /// The GPUs that the driver reports.
    pub gpus: Vec<Gpu>,
    /// What is missing for GPUs, each with the remedy. Empty if nothing is missing.
    pub missing: Vec<String>,
}

/// The CUDA part of libtorch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TorchCuda {
    /// The file of the library, or `None` if it is part of another file.
    pub path: Option<String>,
    /// The number of GPUs that libtorch sees.
    pub num_gpus: usize,
    /// The version of the CUDA runtime, for example `12.8`.
    pub cudart: String,
    /// The version of cuDNN, for example `9.10.2`.
    pub cudnn: String,
}

/// The processor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Processor {
    /// The processor's name for itself.
    pub name: String,
    /// The number of threads that this process may use.
    pub threads: usize,
    /// The processor's bfloat16 instructions. Without them, bf16 is slower than fp32.
    pub bf16_instructions: Vec<String>,
    /// The kernels of fused operations.
    #[serde(flatten)]
    pub kernels: KernelChoice,
    /// The attention kernels.
    pub attention: Attention,
}

/// A library, or the reason why it was not found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FoundFile {
    /// The name of the library.
    pub library: String,
    /// The file, or `None` if it was not found.
    pub path: Option<String>,
    /// The version. For the driver, the newest CUDA version that it supports.
    pub version: Option<String>,
    /// Why it was not found, the locations that were searched, and how to install it.
    pub missing: Option<String>,
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gpu {
    /// The GPU's number.
    pub ordinal: usize,
    /// The GPU's name.
    pub name: String,
    /// The compute capability, for example `9.0`.
    pub compute_capability: String,
    /// The number of multiprocessors.
    pub multiprocessors: u32,
    /// The total memory in bytes.
    pub total_memory: usize,
    /// The free memory in bytes.
    pub free_memory: usize,
    /// The kernels of fused operations.
    #[serde(flatten)]
    pub kernels: KernelChoice,
    /// The attention kernels, or `None` if libtorch does not see the GPU.
    pub attention: Option<Attention>,
}

/// The kernels that libtorch chooses for attention with heads of 64 channels in training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Attention {
    /// The kernel for float32.
    pub fp32: &'static str,
    /// The kernel for float16.
    pub fp16: &'static str,
    /// The kernel for bfloat16.
    pub bf16: &'static str,
}

impl Report {
    /// Collects the report. Uses some hundred MiB of each GPU meanwhile.
    ///
    /// # Errors
    /// When libtorch cannot report its version.
    pub fn of_this_machine(gpu_libraries: &Gpus) -> Result<Self, ops::Error> {
        let num_torch_gpus = if tch::Cuda::is_available() { tch::Cuda::device_count() as usize } else { 0 };
        let found = find_all(gpu_libraries.search());
        let libraries: Vec<FoundFile> =
            found.libraries.into_iter().map(|(library, found)| describe(&library.to_string(), found)).collect();
        let mut gpus = Vec::new();
        let mut unusable = Vec::new();
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
                    attention: (device.ordinal < num_torch_gpus).then(|| attention(Device::Cuda(device.ordinal))),
                }),
                Err(reason) => unusable.push(format!("a GPU cannot be used: {reason}")),
            }
        }
        let libtorch_cuda = tch::utils::has_cuda().then(|| TorchCuda {
            path: loaded_file("libtorch_cuda").map(|path| path.display().to_string()),
            num_gpus: num_torch_gpus,
            cudart: thousands(tch::utils::version_cudart(), 10),
            cudnn: if tch::Cuda::cudnn_is_available() { cudnn(tch::utils::version_cudnn()) } else { "none".into() },
        });
        let mut missing = missing(libtorch_cuda.as_ref(), gpus.len(), &libraries);
        missing.append(&mut unusable);
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

/// The text in the message of a missing library before the locations that were searched.
const SEARCHED: &str = ". Looked at:";

fn describe(library: &str, found: Result<FoundLibrary, String>) -> FoundFile {
    match found {
        Ok(found) => {
            // A file name without a folder means that the dynamic loader found the library.
            let is_name = !Path::new(&found.path).is_absolute();
            let stem = found.path.split(".so").next().unwrap_or_default();
            let file = if is_name { loaded_file(stem) } else { None };
            let path = file.map_or(found.path, |file| file.display().to_string());
            FoundFile { library: library.into(), path: Some(path), version: Some(found.version), missing: None }
        }
        Err(reason) => FoundFile { library: library.into(), path: None, version: None, missing: Some(reason) },
    }
}

/// Returns what is missing for GPUs. Without a driver there is no GPU, and only missing libraries are listed.
fn missing(torch: Option<&TorchCuda>, num_gpus: usize, libraries: &[FoundFile]) -> Vec<String> {
    let mut missing: Vec<String> = libraries.iter().filter_map(|library| library.missing.clone()).collect();
    match torch {
        None if num_gpus > 0 => missing.push(
            "this libtorch has no CUDA, so networks run on the CPU: `make setup` on a machine with a GPU installs one \
             with CUDA, or put another libtorch of the same release into LD_LIBRARY_PATH"
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

/// Returns the value of a field in the text of /proc/cpuinfo, for the first processor.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name).map(|(_, v)| v.trim())
}

fn bf16_instructions(cpuinfo: &str) -> Vec<String> {
    let flags = field(cpuinfo, "flags").or_else(|| field(cpuinfo, "Features")).unwrap_or_default();
    flags.split_whitespace().filter(|flag| flag.contains("bf16")).map(str::to_owned).collect()
}

fn attention(device: Device) -> Attention {
    let kernel = |kind| {
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
    Attention { fp32: kernel(Kind::Float), fp16: kernel(Kind::Half), bf16: kernel(Kind::BFloat16) }
}

/// Formats NVIDIA's version numbers: 12080 is 12.8.
fn thousands(version: i64, minor: i64) -> String {
    format!("{}.{}", version / 1000, version % 1000 / minor)
}

/// Formats cuDNN's version numbers: 8902 is 8.9.2, and from version 9 on, 91002 is 9.10.2.
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
            let short = |what: &str| what.split(SEARCHED).next().unwrap_or_default().to_owned();
            self.missing.iter().try_for_each(|what| writeln!(f, "- {}", short(what)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nvidia_version_numbers_are_formatted() {
        assert_eq!(thousands(12_080, 10), "12.8");
        assert_eq!((cudnn(8902), cudnn(91_002)), ("8.9.2".into(), "9.10.2".into()));
    }

    #[test]
    fn processor_name_and_bf16_instructions_are_read() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx512_bf16 avx2 amx_bf16\n\n\
                    processor\t: 1\nmodel name\t: Other\nflags\t\t: fpu\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2 GHz"));
        assert_eq!(bf16_instructions(text), ["avx512_bf16", "amx_bf16"]);
        assert!(bf16_instructions("flags : fpu avx2\n").is_empty());
    }

    #[test]
    fn missing_libraries_and_gpus_are_listed_with_their_remedy() {
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
