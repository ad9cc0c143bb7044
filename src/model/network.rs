//! A network of any kind behind one face.

use tch::Tensor;

use super::encoder::{Encoder, EncoderPlan};
use super::params::{ParamSpecs, Params};
use super::unet::{UNet, UNetPlan};

/// What a network is given.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Images, `[batch, channels, height, width]`, float32.
    pub x: &'a Tensor,
    /// Timesteps as the diffusion process scales them, `[batch]`.
    pub timesteps: &'a Tensor,
    /// Classes, `[batch]`, int64; for class-conditional UNets.
    pub labels: Option<&'a Tensor>,
    /// Small images, `[batch, channels, small height, small width]`; for super-resolution.
    pub low_res: Option<&'a Tensor>,
}

/// A network, whole.
#[derive(Debug, Clone, PartialEq)]
pub enum NetworkPlan {
    /// A UNet.
    UNet(UNetPlan),
    /// A UNet that is also given a smaller image, raised to the large size and concatenated to its input.
    SuperRes(UNetPlan),
    /// A classifier.
    Encoder(EncoderPlan),
}

/// The structure of a network; the values of its parameters lie elsewhere.
#[derive(Debug)]
pub enum Network {
    /// A UNet.
    UNet(UNet),
    /// A super-resolution UNet.
    SuperRes(UNet),
    /// A classifier.
    Encoder(Encoder),
}

impl Network {
    /// Builds the structure and lists its parameters. No memory is allocated for values.
    #[must_use]
    pub fn build(plan: &NetworkPlan) -> (Self, ParamSpecs) {
        match plan {
            NetworkPlan::UNet(plan) => {
                let (unet, specs) = UNet::build(plan);
                (Self::UNet(unet), specs)
            }
            NetworkPlan::SuperRes(plan) => {
                let (unet, specs) = UNet::build(plan);
                (Self::SuperRes(unet), specs)
            }
            NetworkPlan::Encoder(plan) => {
                let (encoder, specs) = Encoder::build(plan);
                (Self::Encoder(encoder), specs)
            }
        }
    }

    /// The network's output, float32: `[batch, out_channels, height, width]`, or logits `[batch, classes]`.
    /// `train` turns dropout on, whose masks come from libtorch's generator.
    #[must_use]
    pub fn forward(&self, params: &Params, inputs: &Inputs<'_>, train: bool) -> Tensor {
        let Inputs { x, timesteps, labels, low_res } = *inputs;
        match (self, low_res) {
            (Self::Encoder(encoder), _) => encoder.forward(params, x, timesteps, train),
            (Self::SuperRes(unet), Some(low_res)) => {
                let size = x.size();
                let raised = low_res.upsample_bilinear2d([size[2], size[3]], false, None, None);
                unet.forward(params, &Tensor::cat(&[x, &raised], 1), timesteps, labels, train)
            }
            (Self::UNet(unet) | Self::SuperRes(unet), _) => unet.forward(params, x, timesteps, labels, train),
        }
    }

    /// FLOPs of one image's forward pass: 2 for a multiply-add, convolutions and matrix products.
    #[must_use]
    pub fn forward_flops(&self) -> u64 {
        match self {
            Self::UNet(unet) | Self::SuperRes(unet) => unet.forward_flops(),
            Self::Encoder(encoder) => encoder.forward_flops(),
        }
    }
}
