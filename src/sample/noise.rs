//! Standard normal noise of images.

use admiral_random::{Philox, Stream};
use tch::{Device, Tensor};

use crate::diffusion::copy_to_device;

/// Returns a function that draws the next noise of a batch, `[batch, channels, height, width]`. All noise of an image comes
/// from one random sequence of (seed, stream, index of the image). `shape` is channels, height and width.
pub(super) fn noise_of(
    seed: u64,
    stream: Stream,
    images: &[u64],
    shape: [i64; 3],
    device: Device,
) -> impl FnMut() -> Tensor + use<> {
    let [channels, height, width] = shape;
    let length = (channels * height * width) as usize;
    let mut sequences: Vec<Philox> = images.iter().map(|&image| Philox::new(seed, stream, image)).collect();
    move || {
        let mut values = vec![0.0f32; length * sequences.len()];
        for (sequence, values) in sequences.iter_mut().zip(values.chunks_exact_mut(length)) {
            sequence.fill_normal(values);
        }
        copy_to_device(&Tensor::from_slice(&values).view([-1, channels, height, width]), device)
    }
}
