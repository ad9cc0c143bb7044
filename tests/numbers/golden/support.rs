//! Reading golden cases, computing their inputs, and comparing with their tolerances.
#![allow(dead_code, reason = "each kind uses its part")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use admiral::gpus::Gpus;
use admiral::ops::Kernels;
use admiral_gpu::GpuEnvironment;
use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor};

/// The result of a check: nothing, or a description of the difference.
pub type Outcome = Result<(), String>;

/// The tolerance in float32 of one pass of a network, and of the diffusion process.
pub const PASS: f64 = 1e-5;
/// The tolerance in float32 of gradients, traces of runs, and sampling loops.
pub const GRADIENT: f64 = 1e-4;
/// The tolerance in float32 of fingerprints after a run.
pub const RUN_FINGERPRINT: f64 = 2e-3;
/// The tolerance in half precision of a pass and of traces.
pub const HALF: f64 = 1e-2;
/// The tolerance in half precision of fingerprints.
pub const HALF_FINGERPRINT: f64 = 2e-2;
/// The tolerance of schedules.
pub const SCHEDULE: f64 = 1e-12;

/// One golden file.
pub struct Case {
    /// The file's name without extension.
    pub name: String,
    pub kind: String,
    pub salt: String,
    pub config: serde_json::Value,
    /// All metadata, with `parameters` and `shapes` as JSON.
    pub metadata: BTreeMap<String, String>,
    /// The tensors in the file's type, on the CPU.
    pub tensors: BTreeMap<String, Tensor>,
}

impl Case {
    pub fn tensor(&self, name: &str) -> Result<&Tensor, String> {
        self.tensors.get(name).ok_or_else(|| format!("the file holds no tensor {name}"))
    }

    /// A list of names in the metadata.
    pub fn parameters(&self) -> Vec<String> {
        serde_json::from_str(&self.metadata["parameters"]).expect("metadata `parameters` is a JSON list")
    }
}

/// The folder of golden cases.
pub fn folder() -> PathBuf {
    std::env::var_os("ADMIRAL_GOLDEN_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden"), PathBuf::from)
}

/// The folder of images for the golden cases.
pub fn images() -> PathBuf {
    let folder = folder().canonicalize().expect("the golden folder exists");
    folder.parent().expect("the golden folder has a parent").join("images")
}

/// The device of the checks: `ADMIRAL_TEST_DEVICE=cuda` moves them to the GPU.
pub fn device() -> Device {
    match std::env::var("ADMIRAL_TEST_DEVICE").as_deref() {
        Ok("cuda") => {
            admiral::ops::bridge::allow_tf32(false).expect("libtorch takes the setting");
            Device::Cuda(0)
        }
        Ok("cpu") | Err(_) => Device::Cpu,
        Ok(other) => panic!("ADMIRAL_TEST_DEVICE={other}: cpu or cuda"),
    }
}

/// The kernels of the checks: Admiral's own on [`device`]. `ADMIRAL_TEST_FUSED=off` checks libtorch's operations
/// instead.
pub fn kernels() -> Kernels {
    static KERNELS: OnceLock<Kernels> = OnceLock::new();
    let open = || match std::env::var("ADMIRAL_TEST_FUSED").as_deref() {
        Ok("off") => Kernels::libtorch(device()),
        Ok("auto") | Err(_) => {
            let environment = GpuEnvironment::from_vars(|name| std::env::var_os(name));
            Kernels::open(device(), &Gpus::new(&environment))
        }
        Ok(other) => panic!("ADMIRAL_TEST_FUSED={other}: auto or off"),
    };
    KERNELS.get_or_init(open).clone()
}

/// Every case of the folder, by name.
pub fn cases() -> Vec<Case> {
    let folder = folder();
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "safetensors"))
        .collect();
    paths.sort();
    paths.into_iter().map(read).collect()
}

fn read(path: PathBuf) -> Case {
    let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    let metadata: BTreeMap<String, String> = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    let tensors = file
        .iter()
        .map(|(key, view)| {
            let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
            let kind = match view.dtype() {
                Dtype::F32 => Kind::Float,
                Dtype::F64 => Kind::Double,
                Dtype::I32 => Kind::Int,
                Dtype::I64 => Kind::Int64,
                Dtype::U8 => Kind::Uint8,
                other => panic!("{name}: tensor {key} has the unexpected type {other:?}"),
            };
            (key.to_owned(), Tensor::from_data_size(view.data(), &shape, kind))
        })
        .collect();
    let text = |key: &str| metadata.get(key).cloned().unwrap_or_default();
    let config = serde_json::from_str(&text("config")).unwrap_or_else(|error| panic!("{name}: config: {error}"));
    Case { name, kind: text("kind"), salt: text("salt"), config, metadata, tensors }
}

fn fnv1a64(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// `n` numbers in [0, 1), as a function of the salt and the key.
pub fn uniform(salt: &str, key: &str, n: usize) -> Vec<f64> {
    let seed = fnv1a64(&format!("{salt}/{key}"));
    (1..=n as u64)
        .map(|i| {
            let z = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 24)
        })
        .collect()
}

fn count(shape: &[i64]) -> usize {
    shape.iter().product::<i64>() as usize
}

/// A float32 tensor of numbers in `offset - scale .. offset + scale`.
pub fn signed(salt: &str, key: &str, shape: &[i64], scale: f64, offset: f64) -> Tensor {
    let values: Vec<f32> =
        uniform(salt, key, count(shape)).into_iter().map(|u| (offset + scale * (2.0 * u - 1.0)) as f32).collect();
    Tensor::from_slice(&values).reshape(shape)
}

/// A float32 tensor of standard normal numbers.
pub fn gaussian(salt: &str, key: &str, shape: &[i64]) -> Tensor {
    let n = count(shape);
    let values: Vec<f32> = uniform(salt, &format!("{key}/u1"), n)
        .into_iter()
        .zip(uniform(salt, &format!("{key}/u2"), n))
        .map(|(u1, u2)| ((-2.0 * (1.0 - u1).ln()).sqrt() * (std::f64::consts::TAU * u2).cos()) as f32)
        .collect();
    Tensor::from_slice(&values).reshape(shape)
}

/// An int64 vector of numbers in `0..hi`.
pub fn ints(salt: &str, key: &str, n: usize, hi: i64) -> Tensor {
    let values: Vec<i64> = uniform(salt, key, n).into_iter().map(|u| (u * hi as f64).floor() as i64).collect();
    Tensor::from_slice(&values)
}

/// The values of a model's parameter in a golden case.
pub fn parameter(salt: &str, name: &str, shape: &[i64]) -> Tensor {
    if name.ends_with("label_emb.weight") {
        signed(salt, name, shape, 1.0, 0.0)
    } else if name.ends_with("positional_embedding") {
        signed(salt, name, shape, 0.1, 0.0)
    } else if shape.len() >= 2 {
        signed(salt, name, shape, (3.0 / shape[1..].iter().product::<i64>() as f64).sqrt(), 0.0)
    } else if name.ends_with("weight") {
        signed(salt, name, shape, 0.2, 1.0)
    } else {
        signed(salt, name, shape, 0.1, 0.0)
    }
}

/// The fingerprint of named tensors: a `[P, 2]` float64 tensor of l2 norms and dot products with probes.
pub fn fingerprint<'a>(salt: &str, named: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Tensor {
    let mut rows: Vec<f64> = Vec::new();
    for (name, tensor) in named {
        let tensor = tensor.to_device(Device::Cpu).to_kind(Kind::Double);
        let probe = signed(salt, &format!("probe/{name}"), &tensor.size(), 1.0, 0.0).to_kind(Kind::Double);
        rows.push(tensor.square().sum(Kind::Double).sqrt().double_value(&[]));
        rows.push((&tensor * probe).sum(Kind::Double).double_value(&[]));
    }
    Tensor::from_slice(&rows).reshape([-1, 2])
}

/// Fails if `actual` differs from `expected` by more than `tolerance` times the largest value of `expected`.
///
/// NaN is equal to NaN (the norms of a skipped step), and an infinity only to itself.
pub fn close(what: &str, actual: &Tensor, expected: &Tensor, tolerance: f64) -> Outcome {
    let actual = actual.detach().to_device(Device::Cpu).to_kind(Kind::Double).contiguous();
    let expected = expected.to_kind(Kind::Double).contiguous();
    if actual.size() != expected.size() {
        return Err(format!("{what}: shape {:?}, expected {:?}", actual.size(), expected.size()));
    }
    let values = |tensor: &Tensor| -> Vec<f64> { tensor.flatten(0, -1).try_into().expect("a vector of doubles") };
    let (actual, expected) = (values(&actual), values(&expected));
    let largest = expected.iter().filter(|v| v.is_finite()).fold(0.0f64, |most, v| most.max(v.abs()));
    let mut worst = (0.0, 0);
    for (place, (&a, &e)) in actual.iter().zip(&expected).enumerate() {
        let error = if a == e || (a.is_nan() && e.is_nan()) { 0.0 } else { (a - e).abs() };
        if error.is_nan() || error > worst.0 {
            worst = (if error.is_nan() { f64::INFINITY } else { error }, place);
        }
    }
    if worst.0 <= tolerance * largest {
        return Ok(());
    }
    Err(format!(
        "{what}: element {} is {:e}, expected {:e}: {:.2e} of the largest value, allowed {tolerance:.0e}",
        worst.1,
        actual[worst.1],
        expected[worst.1],
        worst.0 / largest
    ))
}
