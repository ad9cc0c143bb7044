//! The layers of the network.

use std::collections::HashMap;

use admiral_inception::{Weights, convolutions};
use tch::{Device, Kind, Tensor};

/// The epsilon of batch normalization.
const EPSILON: f64 = 1e-3;

/// The number of channels of `Mixed_6d.branch1x1` that are spatial features.
const SPATIAL_CHANNELS: i64 = 7;

/// A convolution with its batch normalization, and ReLU.
#[derive(Debug)]
struct Layer {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    padding: [i64; 2],
}

impl Layer {
    fn forward(&self, x: &Tensor) -> Tensor {
        x.conv2d(&self.weight, Some(&self.bias), [self.stride; 2], self.padding, [1, 1], 1).relu_()
    }
}

/// What the network computes for a batch.
#[derive(Debug)]
pub(super) struct Outputs {
    /// `[batch, 2048]`.
    pub(super) pool: Tensor,
    /// `[batch, 2023]`.
    pub(super) spatial: Tensor,
    /// `[batch, 1008]`.
    pub(super) logits: Option<Tensor>,
}

/// The network, with batch normalization folded into the convolutions.
#[derive(Debug)]
pub(super) struct Network {
    layers: HashMap<String, Layer>,
    /// `[1008, 2048]`.
    classes: Option<Tensor>,
}

impl Network {
    /// Folds the batch normalization of each layer into its convolution, in float64.
    pub(super) fn new(weights: &Weights, device: Device) -> Self {
        let read = |name: &str, shape: &[i64]| {
            let values = weights.get(name).unwrap_or_default();
            Tensor::from_slice(values).to_kind(Kind::Double).reshape(shape)
        };
        let layers = convolutions().into_iter().map(|layer| {
            let outputs = layer.outputs as i64;
            let shape = [outputs, layer.inputs as i64, layer.kernel[0] as i64, layer.kernel[1] as i64];
            let of = |part: &str| read(&format!("{}.bn.{part}", layer.name), &[outputs]);
            let scale = of("weight") / (of("running_var") + EPSILON).sqrt();
            let bias = of("bias") - of("running_mean") * &scale;
            let weight = read(&format!("{}.conv.weight", layer.name), &shape) * scale.reshape([-1, 1, 1, 1]);
            let weight = channels_last(&weight.to_kind(Kind::Float).to_device(device));
            let bias = bias.to_kind(Kind::Float).to_device(device);
            let padding = layer.padding.map(|zeros| zeros as i64);
            (layer.name, Layer { weight, bias, stride: layer.stride as i64, padding })
        });
        let classes =
            weights.get("fc.weight").map(|values| Tensor::from_slice(values).reshape([-1, 2048]).to_device(device));
        Self { layers: layers.collect(), classes }
    }

    fn layer(&self, block: &str, name: &str, x: &Tensor) -> Tensor {
        self.layers[&format!("{block}{name}")].forward(x)
    }

    /// Computes the outputs for `x`, `[batch, 3, 299, 299]`, channels-last, on the device of the network.
    pub(super) fn forward(&self, x: &Tensor) -> Outputs {
        let x = self.chain("", &["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"], x);
        let x = self.chain("", &["Conv2d_3b_1x1", "Conv2d_4a_3x3"], &max_pool(&x, 2, 0));
        let mut x = max_pool(&x, 2, 0);
        for block in ["Mixed_5b.", "Mixed_5c.", "Mixed_5d."] {
            x = self.block_35(block, &x);
        }
        x = self.reduce_35("Mixed_6a.", &x);
        let mut spatial = None;
        for block in ["Mixed_6b.", "Mixed_6c.", "Mixed_6d.", "Mixed_6e."] {
            x = self.block_17(block, &x);
            if block == "Mixed_6d." {
                spatial = Some(x.narrow(1, 0, SPATIAL_CHANNELS).permute([0, 2, 3, 1]).flatten(1, 3));
            }
        }
        x = self.reduce_17("Mixed_7a.", &x);
        x = self.block_8("Mixed_7b.", &x, &average_pool(&x));
        x = self.block_8("Mixed_7c.", &x, &max_pool(&x, 1, 1));
        let pool = x.mean_dim([2, 3].as_slice(), false, Kind::Float);
        let logits = self.classes.as_ref().map(|classes| pool.linear::<&Tensor>(classes, None));
        Outputs { pool, spatial: spatial.unwrap_or_default(), logits }
    }

    /// Applies layers one after the other.
    fn chain(&self, block: &str, names: &[&str], x: &Tensor) -> Tensor {
        names.iter().fold(x.shallow_clone(), |x, name| self.layer(block, name, &x))
    }

    fn block_35(&self, block: &str, x: &Tensor) -> Tensor {
        join(&[
            self.layer(block, "branch1x1", x),
            self.chain(block, &["branch5x5_1", "branch5x5_2"], x),
            self.chain(block, &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], x),
            self.layer(block, "branch_pool", &average_pool(x)),
        ])
    }

    fn reduce_35(&self, block: &str, x: &Tensor) -> Tensor {
        join(&[
            self.layer(block, "branch3x3", x),
            self.chain(block, &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], x),
            max_pool(x, 2, 0),
        ])
    }

    fn block_17(&self, block: &str, x: &Tensor) -> Tensor {
        let double = ["branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"];
        join(&[
            self.layer(block, "branch1x1", x),
            self.chain(block, &["branch7x7_1", "branch7x7_2", "branch7x7_3"], x),
            self.chain(block, &double, x),
            self.layer(block, "branch_pool", &average_pool(x)),
        ])
    }

    fn reduce_17(&self, block: &str, x: &Tensor) -> Tensor {
        join(&[
            self.chain(block, &["branch3x3_1", "branch3x3_2"], x),
            self.chain(block, &["branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"], x),
            max_pool(x, 2, 0),
        ])
    }

    fn block_8(&self, block: &str, x: &Tensor, pooled: &Tensor) -> Tensor {
        let single = self.layer(block, "branch3x3_1", x);
        let double = self.chain(block, &["branch3x3dbl_1", "branch3x3dbl_2"], x);
        join(&[
            self.layer(block, "branch1x1", x),
            self.layer(block, "branch3x3_2a", &single),
            self.layer(block, "branch3x3_2b", &single),
            self.layer(block, "branch3x3dbl_3a", &double),
            self.layer(block, "branch3x3dbl_3b", &double),
            self.layer(block, "branch_pool", pooled),
        ])
    }
}

fn join(parts: &[Tensor]) -> Tensor {
    Tensor::cat(parts, 1)
}

fn max_pool(x: &Tensor, stride: i64, padding: i64) -> Tensor {
    x.max_pool2d([3, 3], [stride; 2], [padding; 2], [1, 1], false)
}

/// The mean over 3 x 3 positions. Padding does not count.
fn average_pool(x: &Tensor) -> Tensor {
    x.avg_pool2d([3, 3], [1, 1], [1, 1], false, false, None)
}

fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}
