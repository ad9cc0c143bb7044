//! Bytes that the forward pass saves for the backward pass, for one image and each layer. Each saved tensor is counted
//! once. `tests/numbers/activations.rs` compares these numbers with measured allocations.

use admiral_plan::{LayerMemory, Norms};

use super::layers::{GroupNorm, NUM_GROUPS};

const FLOAT: u64 = 4;
const HALF: u64 = 2;

/// Live gradients: the layer's output (held by the skip connection) and the current operation's input and output.
const GRADIENT_MAPS: u64 = 3;

/// The properties of a run that determine which tensors are saved for backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecutionMode {
    /// Whether the torso computes in half precision.
    pub half: bool,
    /// The implementation of normalization.
    pub norms: Norms,
    /// Whether the network runs on a GPU, where dropout masks have one byte for each value.
    pub on_gpu: bool,
}

/// Memory that a group normalization saves for backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NormMemory {
    /// Whether the input is saved in its original type.
    pub keeps_input: bool,
    /// Other saved bytes.
    pub inner_bytes: u64,
}

impl ExecutionMode {
    /// Bytes of `elements` values in the torso's type.
    pub(super) fn torso(self, elements: i64) -> u64 {
        elements as u64 * if self.half { HALF } else { FLOAT }
    }

    /// Bytes of `elements` values in float32.
    pub(super) fn float(self, elements: i64) -> u64 {
        elements as u64 * FLOAT
    }

    /// Bytes of a dropout mask. Fused normalization computes the mask again in backward and saves none.
    pub(super) fn mask(self, elements: i64) -> u64 {
        match self.norms {
            Norms::Fused => 0,
            Norms::Composed if self.on_gpu => elements as u64,
            Norms::Composed => self.torso(elements),
        }
    }

    /// Memory saved by a normalization of feature maps of `pixels`. `half` says whether the input has half precision.
    ///
    /// The fused operation saves its input, scale and shift. In the composed form, group normalization saves its input
    /// in float32, the product with the scale saves both factors, and `SiLU` saves its input.
    pub(super) fn norm(self, norm: &GroupNorm, pixels: i64, half: bool, modulated: bool, silu: bool) -> NormMemory {
        let channels = norm.channels();
        let map = self.float(channels * pixels);
        let statistics = self.float(2 * NUM_GROUPS);
        // On the CPU the float32 output layers of a half-precision network use the fused operation in any case.
        let norms = if half || self.on_gpu { self.norms } else { Norms::Fused };
        match norms {
            Norms::Fused => {
                let modulation = if modulated { self.float(2 * channels) } else { 0 };
                NormMemory { keeps_input: true, inner_bytes: statistics + modulation }
            }
            Norms::Composed => {
                let copy = if half { map } else { 0 };
                let product = if modulated { map + self.float(channels) } else { 0 };
                let activation = if silu { map } else { 0 };
                NormMemory { keeps_input: !half, inner_bytes: statistics + copy + product + activation }
            }
        }
    }

    /// Bytes of the live gradients of a layer. `elements` is the size of the larger of its input and output.
    pub(super) fn backward(self, elements: i64) -> u64 {
        match self.norms {
            Norms::Fused => GRADIENT_MAPS * self.torso(elements),
            Norms::Composed => GRADIENT_MAPS * self.float(elements),
        }
    }
}

/// The memory of a part of the network outside the blocks: only its own saved bytes count.
pub(super) fn outside_blocks(name: &str, inner_bytes: u64) -> LayerMemory {
    LayerMemory {
        name: name.to_owned(),
        input_bytes: 0,
        keeps_input: false,
        inner_bytes,
        backward_bytes: 0,
        can_checkpoint: false,
    }
}
