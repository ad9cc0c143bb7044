//! Convolutions whose weights never change.

use tch::Tensor;

use super::{Error, Kernels, bridge, conv2d_transformed, transform_weights};

/// The least height of maps for which Winograd's algorithm is used: the transform of small maps costs more than it saves.
const LEAST_WINOGRAD_SIDE: i64 = 32;

/// A 2-d convolution for inference, prepared once for maps of one size.
///
/// On the CPU the weights are kept in the form that the fastest algorithm needs: transformed for Winograd's algorithm
/// where [`super::conv2d`] uses it, otherwise in oneDNN's layout, where ReLU is part of the convolution. Nothing is
/// recorded for backward.
#[derive(Debug)]
pub struct FixedConvolution {
    kernels: Kernels,
    weights: Weights,
    bias: Tensor,
    stride: i64,
    padding: [i64; 2],
}

#[derive(Debug)]
enum Weights {
    Winograd {
        weight: Tensor,
        transformed: Tensor,
    },
    Packed(Tensor),
    /// Channels-last.
    Plain(Tensor),
}

impl FixedConvolution {
    /// Prepares the convolution of maps of the size `map`, `[batch, in, height, width]`, with `weight` `[out, in, height,
    /// width]` and `bias` `[out]`, on the device of `kernels`.
    ///
    /// # Errors
    /// If libtorch fails: [`Error::Bridge`].
    pub fn new(
        kernels: &Kernels,
        weight: &Tensor,
        bias: &Tensor,
        stride: i64,
        padding: [i64; 2],
        map: [i64; 4],
    ) -> Result<Self, Error> {
        let device = kernels.device();
        let (weight, bias) = (weight.to_device(device).contiguous(), bias.to_device(device));
        let is_winograd = stride == 1 && padding == [1, 1] && map[2] >= LEAST_WINOGRAD_SIDE;
        let transformed = is_winograd.then(|| transform_weights(kernels, &weight)).flatten();
        let weights = if let Some(transformed) = transformed {
            Weights::Winograd { weight, transformed }
        } else {
            let weight = weight.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
            let packed = if kernels.is_cpu(device) {
                bridge::pack_convolution(&weight, [stride; 2], padding, map)?
            } else {
                None
            };
            packed.map_or(Weights::Plain(weight), Weights::Packed)
        };
        Ok(Self { kernels: kernels.clone(), weights, bias, stride, padding })
    }

    /// Convolves the channels-last map `x`. Call it where libtorch records no gradients.
    ///
    /// # Errors
    /// If libtorch fails: [`Error::Bridge`].
    ///
    /// # Panics
    /// If libtorch reports an error in an operation of tch.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        self.apply(x, false)
    }

    /// Convolves the channels-last map `x`, and sets negative values to 0.
    ///
    /// # Errors
    /// As for [`Self::forward`].
    ///
    /// # Panics
    /// As for [`Self::forward`].
    pub fn forward_relu(&self, x: &Tensor) -> Result<Tensor, Error> {
        self.apply(x, true)
    }

    fn apply(&self, x: &Tensor, relu: bool) -> Result<Tensor, Error> {
        let Self { bias, stride, padding, .. } = self;
        let mut y = match &self.weights {
            Weights::Packed(packed) => {
                return bridge::convolve_packed(x, packed, bias, [*stride; 2], *padding, relu);
            }
            Weights::Winograd { weight, transformed } => {
                conv2d_transformed(&self.kernels, x, [weight, transformed], bias, *stride, padding[0])
            }
            Weights::Plain(weight) => x.conv2d(weight, Some(bias), [*stride; 2], *padding, [1, 1], 1),
        };
        Ok(if relu { y.relu_() } else { y })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tch::{Device, Kind};

    use super::*;

    /// The map's batch, inputs and side, the outputs, the kernel, stride and padding.
    const CASES: [[i64; 9]; 6] = [
        [2, 3, 19, 32, 3, 3, 2, 0, 0],
        [3, 48, 35, 64, 5, 5, 1, 2, 2],
        [2, 32, 40, 64, 3, 3, 1, 1, 1],
        [2, 64, 9, 96, 3, 3, 1, 1, 1],
        [2, 160, 17, 192, 1, 7, 1, 0, 3],
        [1, 20, 8, 7, 1, 1, 1, 0, 0],
    ];

    #[test]
    fn each_form_of_weights_gives_libtorchs_values() {
        let _guard = tch::no_grad_guard();
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let mut forms = [0; 3];
        for [batch, inputs, side, outputs, height, width, stride, top, left] in CASES {
            let padding = [top, left];
            let map = [batch, inputs, side, side];
            let x = random(&map).permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
            let (weight, bias) = (random(&[outputs, inputs, height, width]), random(&[outputs]));
            let expected = x.conv2d(&weight, Some(&bias), [stride; 2], padding, [1, 1], 1);
            for kernels in [Kernels::cpu(), Kernels::libtorch(Device::Cpu)] {
                let fixed = FixedConvolution::new(&kernels, &weight, &bias, stride, padding, map).unwrap();
                forms[match fixed.weights {
                    Weights::Winograd { .. } => 0,
                    Weights::Packed(_) => 1,
                    Weights::Plain(_) => 2,
                }] += 1;
                for (found, expected) in
                    [(fixed.forward(&x), expected.shallow_clone()), (fixed.forward_relu(&x), expected.relu())]
                {
                    let difference = (found.unwrap() - &expected).abs().max() / expected.abs().max();
                    assert!(difference.double_value(&[]) < 1e-5, "{map:?}: {difference:?}");
                }
            }
        }
        assert_eq!(forms, [1, 5, 6]);
    }
}
