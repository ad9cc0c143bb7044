//! Kinds `unet`, `super_res` and `encoder`: one pass of a network and its gradients.

use admiral::model::{
    AttentionOrder, BlockSpec, EncoderSpec, Inputs, Network, NetworkSpec, ParamSpecs, Params, Pool, UNetSpec,
};
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::support::{
    Case, GRADIENT, HALF, HALF_FINGERPRINT, Outcome, PASS, close, device, fingerprint, kernels, parameter,
};

/// A network in the golden files, with the reference's names.
#[derive(Debug, Deserialize)]
pub struct NetworkConfig {
    model: String,
    image_size: i64,
    /// The channels of the image. The reference doubles them inside its super-resolution network.
    #[serde(default = "three", alias = "in_channels")]
    image_channels: i64,
    model_channels: i64,
    out_channels: Option<i64>,
    num_res_blocks: usize,
    channel_mult: Vec<f64>,
    attention_resolutions: Vec<i64>,
    #[serde(default = "one")]
    num_heads: i64,
    #[serde(default)]
    num_head_channels: Option<i64>,
    pub num_classes: Option<i64>,
    #[serde(default)]
    learn_sigma: bool,
    #[serde(default)]
    use_new_attention_order: bool,
    #[serde(default)]
    resblock_updown: bool,
    #[serde(default)]
    use_scale_shift_norm: bool,
    #[serde(default)]
    dropout: f64,
    #[serde(default)]
    pub use_fp16: bool,
    #[serde(default = "adaptive")]
    pool: Pool,
}

fn one() -> i64 {
    1
}

fn three() -> i64 {
    3
}

fn adaptive() -> Pool {
    Pool::Adaptive
}

impl NetworkConfig {
    pub fn read(config: &serde_json::Value) -> Result<Self, String> {
        serde_json::from_value(config.clone()).map_err(|error| format!("config: {error}"))
    }

    pub fn spec(&self) -> Result<NetworkSpec, String> {
        let image_channels = self.image_channels;
        let blocks = BlockSpec {
            model_channels: self.model_channels,
            num_res_blocks: self.num_res_blocks,
            channel_mult: self.channel_mult.clone(),
            attention_factors: self.attention_resolutions.iter().map(|size| self.image_size / size).collect(),
            num_heads: self.num_heads,
            num_head_channels: self.num_head_channels.filter(|&width| width > 0),
            attention_order: if self.use_new_attention_order {
                AttentionOrder::QkvOutside
            } else {
                AttentionOrder::HeadsOutside
            },
            dropout: self.dropout,
            use_scale_shift_norm: self.use_scale_shift_norm,
            resblock_updown: self.resblock_updown,
            rescale_residual: false,
            use_checkpoint: false,
        };
        let unet = |in_channels| UNetSpec {
            image_size: self.image_size,
            in_channels,
            out_channels: self.out_channels.unwrap_or(if self.learn_sigma {
                2 * image_channels
            } else {
                image_channels
            }),
            num_classes: self.num_classes,
            blocks: blocks.clone(),
        };
        match self.model.as_str() {
            "unet" => Ok(NetworkSpec::UNet(unet(image_channels))),
            "super_res" => Ok(NetworkSpec::SuperRes(unet(2 * image_channels))),
            "encoder" => Ok(NetworkSpec::Encoder(EncoderSpec {
                image_size: self.image_size,
                in_channels: image_channels,
                out_channels: self.out_channels.ok_or("an encoder has out_channels")?,
                pool: self.pool,
                blocks: blocks.clone(),
            })),
            other => Err(format!("unknown model {other:?}")),
        }
    }
}

/// The parameters of a network in the golden cases. If `half`, those of the torso are in half precision.
pub fn golden_params(salt: &str, specs: &ParamSpecs, half: bool) -> Params {
    let values = specs.iter().map(|spec| {
        let kind = if half && spec.torso { Kind::Half } else { Kind::Float };
        parameter(salt, &spec.name, &spec.shape).to_device(device()).to_kind(kind)
    });
    Params::new(values.collect())
}

pub fn check(case: &Case) -> Outcome {
    let config = NetworkConfig::read(&case.config)?;
    let (network, specs) = Network::build(&config.spec()?);
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    if names != case.parameters() {
        return Err(format!("the parameters are {names:?}, expected {:?}", case.parameters()));
    }
    let params = golden_params(&case.salt, &specs, config.use_fp16);
    for tensor in params.tensors() {
        let _ = tensor.set_requires_grad(true);
    }
    let input = |name: &str| case.tensors.get(name).map(|tensor| tensor.to_device(device()));
    let (labels, low_res) = (input("y"), input("low_res"));
    let x = case.tensor("x")?.to_device(device()).set_requires_grad(true);
    let timesteps = case.tensor("t")?.to_device(device());
    let inputs = Inputs { x: &x, timesteps: &timesteps, labels: labels.as_ref(), low_res: low_res.as_ref() };
    let out = network.forward(&kernels(), &params, &inputs, None);
    let weight = case.tensor("out_weight")?.to_device(device());
    (&out * weight).sum(Kind::Float).backward();

    let half = config.use_fp16;
    close("out", &out, case.tensor("out")?, if half { HALF } else { PASS })?;
    let tolerance = if half { HALF_FINGERPRINT } else { GRADIENT };
    close("grad.x", &x.grad(), case.tensor("grad.x")?, tolerance)?;
    let gradients: Vec<Tensor> = params.tensors().iter().map(Tensor::grad).collect();
    let actual = fingerprint(&case.salt, names.into_iter().zip(&gradients));
    close("grad.fingerprint", &actual, case.tensor("grad.fingerprint")?, tolerance)
}
