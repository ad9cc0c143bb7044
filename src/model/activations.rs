//! What forward keeps for backward, in bytes an image: counted layer by layer as the networks are run, each tensor once.
//! `tests/activations.rs` holds it against what is allocated.

use admiral_plan::{LayerMemory, Norms};

use super::layers::{GroupNorm, NUM_GROUPS};

const FLOAT: u64 = 4;
const HALF: u64 = 2;

/// Gradients of feature maps that live at once in the backward pass of a layer: of its result, which the way around it
/// holds, and of the input and the result of the operation at hand.
const GRADIENT_MAPS: u64 = 3;

/// How a network is run, as far as it decides what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Whether the torso computes in half precision.
    pub half: bool,
    /// How normalization is computed.
    pub norms: Norms,
    /// Whether on a GPU, where dropout's masks are bytes.
    pub on_gpu: bool,
}

/// What a group normalization keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NormMemory {
    /// Whether its input is kept in the type in which it comes.
    pub keeps_input: bool,
    /// Bytes besides.
    pub inner: u64,
}

impl Running {
    /// Bytes of `elements` in the torso's type.
    pub(super) fn torso(self, elements: i64) -> u64 {
        elements as u64 * if self.half { HALF } else { FLOAT }
    }

    /// Bytes of `elements` in float32.
    pub(super) fn float(self, elements: i64) -> u64 {
        elements as u64 * FLOAT
    }

    /// Bytes of dropout's mask: fused, it is drawn again in backward.
    pub(super) fn mask(self, elements: i64) -> u64 {
        match self.norms {
            Norms::Fused => 0,
            Norms::Composed if self.on_gpu => elements as u64,
            Norms::Composed => self.torso(elements),
        }
    }

    /// A normalization of maps of `pixels` that come in half precision or not.
    ///
    /// One operation keeps its input, scale and shift. Composed, group normalization keeps its input in float32, the
    /// product with the scale keeps both factors, and `SiLU` keeps its input.
    pub(super) fn norm(self, norm: &GroupNorm, pixels: i64, half: bool, modulated: bool, silu: bool) -> NormMemory {
        let channels = norm.channels();
        let map = self.float(channels * pixels);
        let statistics = self.float(2 * NUM_GROUPS);
        // A processor normalizes the float32 ends of a half-precision network in one operation all the same.
        let norms = if half || self.on_gpu { self.norms } else { Norms::Fused };
        match norms {
            Norms::Fused => {
                let modulation = if modulated { self.float(2 * channels) } else { 0 };
                NormMemory { keeps_input: true, inner: statistics + modulation }
            }
            Norms::Composed => {
                let copy = if half { map } else { 0 };
                let product = if modulated { map + self.float(channels) } else { 0 };
                let activation = if silu { map } else { 0 };
                NormMemory { keeps_input: !half, inner: statistics + copy + product + activation }
            }
        }
    }

    /// Gradients of feature maps that live at once where the larger of a layer's input and result has `elements`.
    pub(super) fn backward(self, elements: i64) -> u64 {
        match self.norms {
            Norms::Fused => GRADIENT_MAPS * self.torso(elements),
            Norms::Composed => GRADIENT_MAPS * self.float(elements),
        }
    }
}

/// A layer without a place in the checkpoints' names: what holds for all of a network.
pub(super) fn whole(name: &str, inner_bytes: u64) -> LayerMemory {
    LayerMemory {
        name: name.to_owned(),
        input_bytes: 0,
        keeps_input: false,
        inner_bytes,
        backward_bytes: 0,
        can_checkpoint: false,
    }
}
