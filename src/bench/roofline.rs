//! The roofline of a machine: the highest rates of memory and arithmetic that libtorch reaches.

use serde::Serialize;
use tch::{Kind, Tensor};

use crate::ops::Error;
use crate::statistics::Spread;

use super::timing::{Timing, case, time_alternating};

/// The rates to which operations are compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Roofline {
    /// Bytes read and written per second by a copy of memory.
    pub(super) copy_bytes_per_second: Spread,
    /// The same for values that change in place. This rate is higher, because no memory is fetched only to be
    /// overwritten.
    pub(super) in_place_bytes_per_second: Spread,
    /// FLOPs per second of a product of two square matrices in float32.
    pub(super) float_flops: Spread,
    /// The same in the half-precision type.
    pub(super) half_flops: Spread,
}

impl Roofline {
    /// Measures the roofline, with `half` as the half-precision type.
    pub(super) fn measure(half: Kind, timing: Timing) -> Result<Self, Error> {
        let [copy_bytes_per_second, in_place_bytes_per_second] = memory(timing)?;
        Ok(Self {
            copy_bytes_per_second,
            in_place_bytes_per_second,
            float_flops: product(Kind::Float, timing)?,
            half_flops: product(half, timing)?,
        })
    }
}

/// Returns the bytes read and written per second by a copy of 256 MiB, and by an in-place change of 256 MiB.
pub(super) fn memory(timing: Timing) -> Result<[Spread; 2], Error> {
    const VALUES: usize = 64 << 20;
    let device = timing.device;
    let tensor = || Tensor::f_zeros([VALUES as i64], (Kind::Float, device));
    let (one, other) = (tensor()?, tensor()?);
    let host_values = if device.is_cuda() { 0 } else { VALUES };
    let (from, mut to) = (vec![1.0f32; host_values], vec![0.0f32; host_values]);
    let mut cases = vec![
        case(|| one.shallow_clone().f_add_scalar_(1.0).map(drop).map_err(Error::from)),
        case(|| one.shallow_clone().f_copy_(&other).map(drop).map_err(Error::from)),
    ];
    if host_values > 0 {
        // The C library's copy does not read the memory that it overwrites; libtorch's copy does. The number of threads
        // decides which one is faster.
        cases.push(case(|| {
            let part = VALUES.div_ceil(tch::get_num_threads().max(1) as usize);
            std::thread::scope(|scope| {
                for (to, from) in to.chunks_mut(part).zip(from.chunks(part)) {
                    scope.spawn(|| to.copy_from_slice(from));
                }
            });
            Ok(())
        }));
    }
    let seconds = time_alternating(&mut cases, timing)?;
    let rates = seconds.iter().map(|seconds| Spread::of(seconds.iter().map(|seconds| (8 * VALUES) as f64 / seconds)));
    let rates: Vec<Spread> = rates.collect();
    let copy = rates[1..].iter().copied().max_by(|a, b| a.median.total_cmp(&b.median)).unwrap_or_default();
    Ok([copy, rates[0]])
}

/// Returns the FLOPs per second of a product of square matrices, which are large enough to reach the full rate.
pub(super) fn product(kind: Kind, timing: Timing) -> Result<Spread, Error> {
    let size: i64 = if timing.device.is_cuda() { 8192 } else { 2048 };
    let [a, b] = [(); 2].map(|()| {
        Tensor::f_randn([size, size], (Kind::Float, timing.device)).and_then(|matrix| matrix.f_to_kind(kind))
    });
    let (a, b) = (a?, b?);
    let _no_grad = tch::no_grad_guard();
    let seconds = time_alternating(&mut [case(|| a.f_matmul(&b).map(drop).map_err(Error::from))], timing)?;
    Ok(Spread::of(seconds[0].iter().map(|seconds| 2.0 * (size as f64).powi(3) / seconds)))
}
