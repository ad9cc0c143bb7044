//! Networks: the UNet, the encoder (classifier), the super-resolution UNet, and the blocks they share.

mod activations;
mod attention;
mod blocks;
mod config;
mod embedding;
mod encoder;
pub mod flops;
mod init;
mod layers;
mod network;
mod params;
mod residual;
mod torso;
mod unet;

pub use activations::ExecutionMode;
pub use attention::AttentionOrder;
pub use blocks::BlockSpec;
pub use config::{ModelConfig, Task};
pub use embedding::timestep_embedding;
pub use encoder::{Encoder, EncoderSpec, Pool};
pub use init::initialize;
pub use network::{Inputs, Network, NetworkSpec};
pub use params::{Init, LayerTensor, ParamError, ParamId, ParamSpec, ParamSpecs, Params, Probe};
pub use unet::{UNet, UNetSpec};
