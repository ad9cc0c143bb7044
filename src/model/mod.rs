//! Networks: the UNet, the encoder (classifier), the super-resolution UNet, and the blocks they share.

mod params;

pub use params::{Init, ParamId, ParamSpec, ParamSpecs, Params};
