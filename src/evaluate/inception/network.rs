//! The layers of the network.

use std::collections::HashMap;

use admiral_inception::{Weights, convolutions};
use tch::{Kind, Tensor};

use crate::ops::{Error, FixedConvolution, Kernels};

/// The epsilon of batch normalization.
const EPSILON: f64 = 1e-3;

/// The number of channels of `Mixed_6d.branch1x1` that are spatial features.
const SPATIAL_CHANNELS: i64 = 7;

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
    layers: HashMap<String, FixedConvolution>,
    /// `[1008, 2048]`.
    classes: Option<Tensor>,
}

impl Network {
    /// Folds the batch normalization of each layer into its convolution, in float64, and prepares the convolutions for
    /// batches of `batch` images.
    ///
    /// # Errors
    /// If libtorch fails: [`Error::Bridge`].
    pub(super) fn new(weights: &Weights, kernels: &Kernels, batch: i64) -> Result<Self, Error> {
        let read = |name: &str, shape: &[i64]| {
            let values = weights.get(name).unwrap_or_default();
            Tensor::from_slice(values).to_kind(Kind::Double).reshape(shape)
        };
        let layers = convolutions().into_iter().map(|layer| {
            let (outputs, inputs, side) = (layer.outputs as i64, layer.inputs as i64, layer.side as i64);
            let shape = [outputs, inputs, layer.kernel[0] as i64, layer.kernel[1] as i64];
            let of = |part: &str| read(&format!("{}.bn.{part}", layer.name), &[outputs]);
            let scale = of("weight") / (of("running_var") + EPSILON).sqrt();
            let bias = (of("bias") - of("running_mean") * &scale).to_kind(Kind::Float);
            let weight = read(&format!("{}.conv.weight", layer.name), &shape) * scale.reshape([-1, 1, 1, 1]);
            let (weight, padding) = (weight.to_kind(Kind::Float), layer.padding.map(|zeros| zeros as i64));
            let map = [batch, inputs, side, side];
            let fixed = FixedConvolution::new(kernels, &weight, &bias, layer.stride as i64, padding, map)?;
            Ok((layer.name, fixed))
        });
        let layers = layers.collect::<Result<_, Error>>()?;
        let classes = weights
            .get("fc.weight")
            .map(|values| Tensor::from_slice(values).reshape([-1, admiral_inception::POOL as i64]));
        Ok(Self { layers, classes: classes.map(|classes| classes.to_device(kernels.device())) })
    }

    /// Computes the outputs for `x`, `[batch, 3, 299, 299]`, channels-last, on the device of the network.
    ///
    /// # Errors
    /// If libtorch fails: [`Error::Bridge`].
    pub(super) fn forward(&self, x: &Tensor) -> Result<Outputs, Error> {
        let stem = Block { network: self, prefix: "" };
        // ReLU after a maximum is the same as before, on a quarter of the values.
        let x = stem.linear("Conv2d_2b_3x3", &stem.chain(&["Conv2d_1a_3x3", "Conv2d_2a_3x3"], x)?)?;
        let x = max_pool(&x, 2, 0).relu_();
        let x = stem.linear("Conv2d_4a_3x3", &stem.layer("Conv2d_3b_1x1", &x)?)?;
        let mut x = max_pool(&x, 2, 0).relu_();
        for prefix in ["Mixed_5b.", "Mixed_5c.", "Mixed_5d."] {
            x = self.block(prefix).on_35(&x)?;
        }
        x = self.block("Mixed_6a.").reduce_35(&x)?;
        for prefix in ["Mixed_6b.", "Mixed_6c.", "Mixed_6d."] {
            x = self.block(prefix).on_17(&x)?;
        }
        let spatial = x.narrow(1, 0, SPATIAL_CHANNELS).permute([0, 2, 3, 1]).flatten(1, 3);
        x = self.block("Mixed_6e.").on_17(&x)?;
        x = self.block("Mixed_7a.").reduce_17(&x)?;
        let block = self.block("Mixed_7b.");
        x = block.on_8(&x, block.average_pooled(&x)?)?;
        let block = self.block("Mixed_7c.");
        x = block.on_8(&x, block.layer("branch_pool", &max_pool(&x, 1, 1))?)?;
        let pool = x.mean_dim([2, 3].as_slice(), false, Kind::Float);
        let logits = self.classes.as_ref().map(|classes| pool.linear::<&Tensor>(classes, None));
        Ok(Outputs { pool, spatial, logits })
    }

    fn block<'a>(&'a self, prefix: &'a str) -> Block<'a> {
        Block { network: self, prefix }
    }
}

/// The layers whose names begin with a prefix.
#[derive(Debug, Clone, Copy)]
struct Block<'a> {
    network: &'a Network,
    prefix: &'a str,
}

impl Block<'_> {
    fn find(&self, name: &str) -> &FixedConvolution {
        &self.network.layers[&format!("{}{name}", self.prefix)]
    }

    fn layer(&self, name: &str, x: &Tensor) -> Result<Tensor, Error> {
        self.find(name).forward_relu(x)
    }

    /// A layer without its ReLU.
    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor, Error> {
        self.find(name).forward(x)
    }

    /// Applies layers one after the other.
    fn chain(&self, names: &[&str], x: &Tensor) -> Result<Tensor, Error> {
        names.iter().try_fold(x.shallow_clone(), |x, name| self.layer(name, &x))
    }

    /// The branch that averages 3 x 3 positions and convolves 1 x 1. Both are linear, so the convolution comes first:
    /// it leaves fewer channels to average.
    fn average_pooled(&self, x: &Tensor) -> Result<Tensor, Error> {
        let convolved = self.linear("branch_pool", x)?;
        // Padding does not count.
        Ok(convolved.avg_pool2d([3, 3], [1, 1], [1, 1], false, false, None).relu_())
    }

    /// A block on 35 x 35.
    fn on_35(&self, x: &Tensor) -> Result<Tensor, Error> {
        Ok(join(&[
            self.layer("branch1x1", x)?,
            self.chain(&["branch5x5_1", "branch5x5_2"], x)?,
            self.chain(&["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], x)?,
            self.average_pooled(x)?,
        ]))
    }

    /// The block from 35 x 35 to 17 x 17.
    fn reduce_35(&self, x: &Tensor) -> Result<Tensor, Error> {
        Ok(join(&[
            self.layer("branch3x3", x)?,
            self.chain(&["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], x)?,
            max_pool(x, 2, 0),
        ]))
    }

    /// A block on 17 x 17.
    fn on_17(&self, x: &Tensor) -> Result<Tensor, Error> {
        let double = ["branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"];
        Ok(join(&[
            self.layer("branch1x1", x)?,
            self.chain(&["branch7x7_1", "branch7x7_2", "branch7x7_3"], x)?,
            self.chain(&double, x)?,
            self.average_pooled(x)?,
        ]))
    }

    /// The block from 17 x 17 to 8 x 8.
    fn reduce_17(&self, x: &Tensor) -> Result<Tensor, Error> {
        Ok(join(&[
            self.chain(&["branch3x3_1", "branch3x3_2"], x)?,
            self.chain(&["branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"], x)?,
            max_pool(x, 2, 0),
        ]))
    }

    /// A block on 8 x 8. `pooled` is its last branch.
    fn on_8(&self, x: &Tensor, pooled: Tensor) -> Result<Tensor, Error> {
        let single = self.layer("branch3x3_1", x)?;
        let double = self.chain(&["branch3x3dbl_1", "branch3x3dbl_2"], x)?;
        Ok(join(&[
            self.layer("branch1x1", x)?,
            self.layer("branch3x3_2a", &single)?,
            self.layer("branch3x3_2b", &single)?,
            self.layer("branch3x3dbl_3a", &double)?,
            self.layer("branch3x3dbl_3b", &double)?,
            pooled,
        ]))
    }
}

fn join(parts: &[Tensor]) -> Tensor {
    Tensor::cat(parts, 1)
}

fn max_pool(x: &Tensor, stride: i64, padding: i64) -> Tensor {
    x.max_pool2d([3, 3], [stride; 2], [padding; 2], [1, 1], false)
}
