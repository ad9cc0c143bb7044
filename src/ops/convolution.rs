//! 2-d convolution.

use tch::Tensor;

use super::{Kernels, bridge};

/// Convolves `x` `[batch, in, height, width]` with `weight` `[out, in, kernel, kernel]` and adds `bias` `[out]`. The
/// result is `[batch, out, height / stride, width / stride]`.
///
/// On the CPU, if `x` is channels-last and `weight` is contiguous, the operation is a single autograd node of our own.
/// It converts the weights between the layouts faster than libtorch. It uses Winograd's F(2x2, 3x3) (Lavin and Gray,
/// 2016) for 3x3 convolutions with stride 1 and padding 1 in float32 that are large enough and whose channels are
/// multiples of 32: 16 multiplications instead of 36 for each tile of 2x2 outputs. It uses libtorch's convolution for
/// all others.
///
/// # Panics
/// If libtorch reports an error, as tch's operations do.
pub fn conv2d(kernels: &Kernels, x: &Tensor, weight: &Tensor, bias: &Tensor, stride: i64, padding: i64) -> Tensor {
    if kernels.is_cpu(x.device())
        && bridge::can_convolve(x, weight)
        // If the bridge fails, libtorch's convolution below fails too, with tch's error message.
        && let Ok(out) = bridge::convolve(x, weight, bias, stride, padding)
    {
        return out;
    }
    x.conv2d(weight, Some(bias), [stride; 2], [padding; 2], [1, 1], 1)
}

/// Transforms the weights of a convolution, `[out, in, 3, 3]`, once for many calls of [`conv2d_transformed`]. They take 16 / 9
/// of the weights' memory. `None` where no convolution on the device of `kernels` uses them.
#[must_use]
pub fn transform_weights(kernels: &Kernels, weight: &Tensor) -> Option<Tensor> {
    if !kernels.is_cpu(weight.device()) {
        return None;
    }
    // Without transformed weights, `conv2d` does the same work in each call.
    bridge::transform_weights(weight).ok().flatten()
}

/// As [`conv2d`], with the same bits, but not recorded for backward. `transformed` are the transformed weights, which
/// convolutions by Winograd's algorithm use.
///
/// # Panics
/// If libtorch reports an error, as tch's operations do.
pub fn conv2d_transformed(
    kernels: &Kernels,
    x: &Tensor,
    [weight, transformed]: [&Tensor; 2],
    bias: &Tensor,
    stride: i64,
    padding: i64,
) -> Tensor {
    if kernels.is_cpu(x.device())
        && bridge::uses_winograd(x, weight, stride, padding)
        && let Ok(out) = bridge::convolve_transformed(x, transformed, bias)
    {
        return out;
    }
    conv2d(kernels, x, weight, bias, stride, padding)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tch::{Device, Kind};

    use super::*;
    use crate::ops::bridge::gradients;

    fn channels_last(x: &Tensor) -> Tensor {
        x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
    }

    /// Batch, inputs, outputs, height and width of cases that use Winograd: edge tiles that are cut in both directions,
    /// in one direction, and rows that do not fill a block.
    const WINOGRAD: [[i64; 5]; 4] =
        [[5, 32, 64, 12, 12], [4, 96, 64, 15, 11], [7, 64, 32, 7, 10], [1, 128, 160, 1, 300]];

    /// Batch, inputs, outputs, height, width, kernel, stride.
    const CASES: [[i64; 7]; 9] = [
        [2, 5, 7, 9, 9, 3, 1],
        [3, 32, 64, 8, 8, 3, 1],
        [2, 6, 3, 8, 8, 3, 2],
        [1, 4, 2, 7, 7, 5, 1],
        [2, 300, 260, 4, 4, 3, 1],
        [5, 32, 64, 12, 12, 3, 1],
        [4, 96, 64, 15, 11, 3, 1],
        [7, 64, 32, 7, 10, 3, 1],
        [1, 128, 160, 1, 300, 3, 1],
    ];

    #[test]
    fn values_and_gradients_match_libtorch() {
        // The choice of Winograd depends on the number of threads.
        tch::set_num_threads(2);
        for [batch, inputs, outputs, height, width, kernel, stride] in CASES {
            for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
                let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind);
                let x = channels_last(&random(&[batch, inputs, height, width])).set_requires_grad(true);
                let weight = random(&[outputs, inputs, kernel, kernel]).set_requires_grad(true);
                let bias = random(&[outputs]).set_requires_grad(true);
                assert!(bridge::can_convolve(&x, &weight));
                let is_winograd = kind == Kind::Float && WINOGRAD.contains(&[batch, inputs, outputs, height, width]);
                assert_eq!(bridge::uses_winograd(&x, &weight, stride, kernel / 2), is_winograd, "{batch} {inputs}");
                let found = conv2d(&Kernels::cpu(), &x, &weight, &bias, stride, kernel / 2);
                let expected = x.conv2d(&weight, Some(&bias), [stride; 2], [kernel / 2; 2], [1, 1], 1);
                let close = |a: &Tensor, b: &Tensor| {
                    let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
                    let scale = b.abs().max().double_value(&[]);
                    assert_eq!(a.size(), b.size());
                    assert!((a - b).abs().max().double_value(&[]) <= tolerance * scale, "{kind:?} of {batch} {inputs}");
                };
                close(&found, &expected);
                let dy = Tensor::randn_like(&expected);
                let inputs = [&x, &weight, &bias];
                let expected_gradients = gradients(&expected, &dy, &inputs).unwrap();
                let found_gradients = gradients(&found, &dy, &inputs).unwrap();
                for (found, expected) in found_gradients.iter().zip(&expected_gradients) {
                    close(found, expected);
                }
                assert!(found_gradients[1].is_contiguous(), "the gradient has the layout of the weights");
                // Each gradient separately, for an output gradient in the other layout.
                let dy = dy.contiguous();
                for (input, expected) in inputs.iter().zip(&expected_gradients) {
                    let found = conv2d(&Kernels::cpu(), &x, &weight, &bias, stride, kernel / 2);
                    close(&gradients(&found, &dy, &[input]).unwrap()[0], expected);
                }
            }
        }
    }

    #[test]
    fn transformed_weights_give_the_same_bits() {
        tch::set_num_threads(2);
        let kernels = Kernels::cpu();
        for [batch, inputs, outputs, height, width] in WINOGRAD.into_iter().chain([[1, 32, 64, 2, 2]]) {
            let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
            let x = channels_last(&random(&[batch, inputs, height, width]));
            let (weight, bias) = (random(&[outputs, inputs, 3, 3]), random(&[outputs]));
            let transformed = transform_weights(&kernels, &weight).unwrap();
            assert_eq!(transformed.size(), [16 * inputs * outputs]);
            let found = conv2d_transformed(&kernels, &x, [&weight, &transformed], &bias, 1, 1);
            assert!(found.equal(&conv2d(&kernels, &x, &weight, &bias, 1, 1)), "{batch} {inputs}");
        }
        let [odd, small] = [[5, 7, 3, 3], [32, 32, 1, 1]].map(|shape| Tensor::randn(shape, (Kind::Float, Device::Cpu)));
        assert!(transform_weights(&kernels, &odd).is_none() && transform_weights(&kernels, &small).is_none());
        assert!(
            transform_weights(
                &Kernels::libtorch(Device::Cpu),
                &Tensor::randn([32, 32, 3, 3], (Kind::Float, Device::Cpu))
            )
            .is_none()
        );
    }

    #[test]
    fn an_image_does_not_depend_on_the_others_in_its_batch() {
        tch::set_num_threads(2);
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        // Blocks of tiles start and end inside images.
        let (x, weight, bias) = (channels_last(&random(&[7, 64, 42, 42])), random(&[32, 64, 3, 3]), random(&[32]));
        let together = conv2d(&Kernels::cpu(), &x, &weight, &bias, 1, 1);
        for image in 0..7 {
            let image_alone = x.narrow(0, image, 1);
            assert!(bridge::uses_winograd(&image_alone, &weight, 1, 1));
            let alone = conv2d(&Kernels::cpu(), &image_alone, &weight, &bias, 1, 1);
            assert_eq!(alone, together.narrow(0, image, 1), "image {image}");
        }
    }

    #[test]
    fn other_layouts_and_kinds_are_left_to_libtorch() {
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let (map, weight) = (random(&[2, 4, 6, 6]), random(&[3, 4, 3, 3]));
        assert!(!bridge::can_convolve(&map, &weight));
        let map = channels_last(&map);
        assert!(bridge::can_convolve(&map, &weight));
        for (x, weight) in [
            (&map, &channels_last(&weight)),
            (&map, &random(&[3, 4, 1, 1])),
            (&map.to_kind(Kind::Double), &weight.to_kind(Kind::Double)),
        ] {
            assert!(!bridge::can_convolve(x, weight));
        }
    }
}
