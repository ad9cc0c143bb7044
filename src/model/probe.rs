//! A probe sees the tensors of each layer while a network runs. Replays of a step use it to find values that are not
//! finite.

use std::fmt::Debug;

use tch::Tensor;

use super::params::ParamId;

/// A tensor of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerTensor {
    /// What the layer takes.
    Input,
    /// What the layer returns.
    Output,
}

/// Sees the tensors of layers. Backward may run a layer again on another thread, if activations are recomputed.
pub trait Probe: Debug + Send + Sync {
    /// Sees a tensor of the layer whose first parameter is `layer`. The tensor is part of the graph if one is recorded.
    fn see(&self, layer: ParamId, tensor: LayerTensor, values: &Tensor);
}
