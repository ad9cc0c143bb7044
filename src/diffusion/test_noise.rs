//! Noise for tests.

use admiral_random::{Philox, Stream};
use tch::Tensor;

/// Returns normal numbers that depend on the seed and the shape only. libtorch's generator is shared by all threads, so
/// that tests that run side by side change each other's numbers.
pub(super) fn normal(seed: u64, shape: &[i64]) -> Tensor {
    let mut values = vec![0.0; shape.iter().product::<i64>() as usize];
    Philox::new(seed, Stream::Noise, 0).fill_normal(&mut values);
    Tensor::from_slice(&values).view(shape)
}
