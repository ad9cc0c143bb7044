//! What a machine can do at most, as far as libtorch reaches it.

use serde::Serialize;
use tch::{Kind, Tensor};

use crate::ops::Error;
use crate::statistics::Spread;

use super::timing::{Rules, case, time_in_turn};

/// What operations are held to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Roofline {
    /// Bytes read and bytes written while memory is copied.
    pub(super) copy_bytes_per_second: Spread,
    /// The same while values change where they lie, which moves more: nothing new is fetched to be overwritten.
    pub(super) in_place_bytes_per_second: Spread,
    /// A product of two square matrices, float32.
    pub(super) float_flops: Spread,
    /// The same in the half kind that is measured.
    pub(super) half_flops: Spread,
}

impl Roofline {
    pub(super) fn of(half: Kind, rules: Rules) -> Result<Self, Error> {
        let [copy_bytes_per_second, in_place_bytes_per_second] = memory(rules)?;
        Ok(Self {
            copy_bytes_per_second,
            in_place_bytes_per_second,
            float_flops: product(Kind::Float, rules)?,
            half_flops: product(half, rules)?,
        })
    }
}

/// Bytes read and written a second while 256 MiB of memory are copied, and while they change in place.
pub(super) fn memory(rules: Rules) -> Result<[Spread; 2], Error> {
    const VALUES: usize = 64 << 20;
    let device = rules.device;
    let tensor = || Tensor::f_zeros([VALUES as i64], (Kind::Float, device));
    let (one, other) = (tensor()?, tensor()?);
    let of_host = if device.is_cuda() { 0 } else { VALUES };
    let (from, mut to) = (vec![1.0f32; of_host], vec![0.0f32; of_host]);
    let mut cases = vec![
        case(|| one.shallow_clone().f_add_scalar_(1.0).map(drop).map_err(Error::from)),
        case(|| one.shallow_clone().f_copy_(&other).map(drop).map_err(Error::from)),
    ];
    if of_host > 0 {
        // The C library's copy does not read what it overwrites, libtorch's does; which one is faster depends on
        // threads.
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
    let seconds = time_in_turn(&mut cases, rules)?;
    let rates = seconds.iter().map(|seconds| Spread::of(seconds.iter().map(|seconds| (8 * VALUES) as f64 / seconds)));
    let rates: Vec<Spread> = rates.collect();
    let copy = rates[1..].iter().copied().max_by(|a, b| a.median.total_cmp(&b.median)).unwrap_or_default();
    Ok([copy, rates[0]])
}

/// FLOPs a second of a product of square matrices, large enough that more would not be faster.
pub(super) fn product(kind: Kind, rules: Rules) -> Result<Spread, Error> {
    let size: i64 = if rules.device.is_cuda() { 8192 } else { 2048 };
    let [a, b] =
        [(); 2].map(|()| Tensor::f_randn([size, size], (Kind::Float, rules.device)).and_then(|of| of.f_to_kind(kind)));
    let (a, b) = (a?, b?);
    let _no_grad = tch::no_grad_guard();
    let seconds = time_in_turn(&mut [case(|| a.f_matmul(&b).map(drop).map_err(Error::from))], rules)?;
    Ok(Spread::of(seconds[0].iter().map(|seconds| 2.0 * (size as f64).powi(3) / seconds)))
}
