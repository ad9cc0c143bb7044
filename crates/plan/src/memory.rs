//! The memory of one GPU, by part.

use serde::Serialize;

/// CUDA's context, libtorch's kernels, and what cuDNN and cuBLAS keep for themselves.
const GPU_LIBRARIES_BYTES: u64 = 1 << 30;

/// Of the activations, what rounding and gaps in libtorch's memory pool add.
const POOL_OVERHEAD: f64 = 0.05;

/// The parameters of a network and what a run keeps for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Weights {
    /// All values.
    pub parameters: u64,
    /// Those of the torso, which mixed precision keeps in half.
    pub torso: u64,
    /// Whether the torso is in half precision.
    pub half: bool,
    /// Moving averages of the parameters.
    pub num_emas: u64,
    /// Whether sums of the torso's half-precision gradients over GPUs come in float32 memory of their own.
    pub float_sums: bool,
}

impl Weights {
    /// Bytes of one value of each parameter in the types of the network: half in a half-precision torso.
    #[must_use]
    pub fn network_bytes(&self) -> u64 {
        4 * self.parameters - if self.half { 2 * self.torso } else { 0 }
    }

    /// Bytes of one float32 value of each parameter.
    #[must_use]
    pub fn float_bytes(&self) -> u64 {
        4 * self.parameters
    }

    /// Bytes of the float32 sums of half-precision gradients.
    fn sum_bytes(&self) -> u64 {
        if self.half && self.float_sums { 4 * self.torso } else { 0 }
    }

    /// Bytes that the end of a step reads and writes: gradients set to zero, both norms, and one pass over masters,
    /// moments, gradients, averages and the half-precision copy.
    #[must_use]
    pub fn optimizer_traffic(&self) -> u64 {
        let (float, gradient) = (self.float_bytes(), self.network_bytes());
        let half_copy = if self.half { 2 * self.torso } else { 0 };
        let sums = if self.float_sums { float } else { gradient };
        let norms = float + sums;
        let update = sums + 2 * float * (3 + self.num_emas) + half_copy;
        gradient + norms + update
    }
}

/// How group normalization and the SiLU after it are computed, which decides what they keep for backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Norms {
    /// One operation, which keeps its input and the groups' statistics.
    Fused,
    /// libtorch's operations one after the other, each of which keeps its own input in float32.
    Composed,
}

/// What one layer of a network keeps for backward, in bytes an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerMemory {
    /// The layer's name in the network.
    pub name: String,
    /// Its input.
    pub input_bytes: u64,
    /// Whether backward needs the input.
    pub keeps_input: bool,
    /// All else that is kept for backward.
    pub inner_bytes: u64,
    /// Gradients of feature maps that live at once while backward goes through the layer.
    pub backward_bytes: u64,
    /// Whether checkpointing would keep the input alone, and compute the rest again.
    pub can_checkpoint: bool,
}

impl LayerMemory {
    fn kept(&self) -> u64 {
        self.inner_bytes + if self.keeps_input { self.input_bytes } else { 0 }
    }
}

/// The memory of a run on one GPU as a function of the microbatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    weights: Weights,
    is_gpu: bool,
    activation_bytes: u64,
    /// What backward needs besides, at its worst, in bytes an image.
    backward_bytes: u64,
}

/// Bytes of one GPU, by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Parts {
    /// What the network computes with: the half-precision torso and the float32 rest.
    pub parameters: u64,
    /// Gradients, in the types of the parameters.
    pub gradients: u64,
    /// Float32 sums of half-precision gradients over GPUs.
    pub sums: u64,
    /// The float32 parameters that the optimizer changes; none where the network computes with them.
    pub masters: u64,
    /// Adam's two moments.
    pub moments: u64,
    /// Moving averages of the parameters.
    pub emas: u64,
    /// What forward keeps for backward.
    pub activations: u64,
    /// Libraries, gaps in the memory pool, and what backward needs while it goes on: gradients of feature maps, and a
    /// checkpointed layer computed again.
    pub workspace: u64,
    /// All of it.
    pub total: u64,
}

impl Memory {
    /// Of a network with these layers, in the order of forward. With `checkpointing` each layer that can keeps its
    /// input alone, and one at a time is computed again.
    ///
    /// Backward lets go of a layer's memory when it has been there: in the layer at hand lives what is kept up to that
    /// one, what it needs itself, and nothing of those behind it.
    #[must_use]
    pub fn new(weights: Weights, layers: &[LayerMemory], checkpointing: bool, is_gpu: bool) -> Self {
        let (mut kept, mut most) = (0, 0);
        for layer in layers {
            let is_checkpointed = checkpointing && layer.can_checkpoint;
            kept += if is_checkpointed { layer.input_bytes } else { layer.kept() };
            let again = if is_checkpointed { layer.inner_bytes } else { 0 };
            most = most.max(kept + again + layer.backward_bytes);
        }
        Self { weights, is_gpu, activation_bytes: kept, backward_bytes: most.saturating_sub(kept) }
    }

    /// What forward keeps for backward, in bytes an image.
    #[must_use]
    pub fn activation_bytes(&self) -> u64 {
        self.activation_bytes
    }

    /// What each part takes at a microbatch.
    #[must_use]
    pub fn parts(&self, microbatch: u64) -> Parts {
        let weights = &self.weights;
        let parameters = weights.network_bytes();
        let masters = if weights.half { weights.float_bytes() } else { 0 };
        let sums = weights.sum_bytes();
        let moments = 2 * weights.float_bytes();
        let emas = weights.num_emas * weights.float_bytes();
        let activations = microbatch * self.activation_bytes;
        let (libraries, overhead) = if self.is_gpu { (GPU_LIBRARIES_BYTES, POOL_OVERHEAD) } else { (0, 0.0) };
        let workspace = libraries + (overhead * activations as f64) as u64 + microbatch * self.backward_bytes;
        let total = 2 * parameters + sums + masters + moments + emas + activations + workspace;
        Parts { parameters, gradients: parameters, sums, masters, moments, emas, activations, workspace, total }
    }

    /// The largest microbatch that fits; 0 where not even one image does.
    #[must_use]
    pub fn largest_microbatch(&self, memory_bytes: u64) -> u64 {
        let fits = |microbatch: u64| self.parts(microbatch).total <= memory_bytes;
        let one = self.parts(1).total - self.parts(0).total;
        if !fits(0) || one == 0 {
            return 0;
        }
        // The overhead is rounded, so that the quotient may miss by one.
        let about = (memory_bytes - self.parts(0).total) / one;
        (about.saturating_sub(1)..=about + 1).rev().find(|&microbatch| fits(microbatch)).unwrap_or(0)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn weights(half: bool) -> Weights {
        Weights { parameters: 300_000_000, torso: 290_000_000, half, num_emas: 1, float_sums: false }
    }

    /// A few layers of one size, of which the last cannot be computed again.
    pub(crate) fn layers() -> Vec<LayerMemory> {
        (0..5)
            .map(|index| LayerMemory {
                name: index.to_string(),
                input_bytes: 1_000_003,
                keeps_input: index != 2,
                inner_bytes: 3_000_000 + 7 * index,
                backward_bytes: 4_000_000 - index,
                can_checkpoint: index < 4,
            })
            .collect()
    }

    #[test]
    fn parts_sum_to_the_total() {
        for (half, float_sums) in [(false, false), (true, false), (true, true)] {
            for microbatch in [0, 1, 7, 96] {
                let weights = Weights { float_sums, ..weights(half) };
                let parts = Memory::new(weights, &layers(), false, true).parts(microbatch);
                let sum = parts.parameters
                    + parts.gradients
                    + parts.sums
                    + parts.masters
                    + parts.moments
                    + parts.emas
                    + parts.activations
                    + parts.workspace;
                assert_eq!(sum, parts.total);
            }
        }
    }

    #[test]
    fn mixed_precision_holds_masters_and_half_parameters() {
        let parts = Memory::new(weights(true), &[], false, true).parts(1);
        assert_eq!(parts.parameters, 2 * 290_000_000 + 4 * 10_000_000);
        assert_eq!((parts.masters, parts.moments, parts.emas), (1_200_000_000, 2_400_000_000, 1_200_000_000));
        assert_eq!(parts.sums, 0);
        let summed = Weights { float_sums: true, ..weights(true) };
        assert_eq!(Memory::new(summed, &[], false, true).parts(1).sums, 4 * 290_000_000);
        let parts = Memory::new(weights(false), &[], false, true).parts(1);
        assert_eq!((parts.parameters, parts.masters), (1_200_000_000, 0));
    }

    #[test]
    fn the_largest_microbatch_fits_and_one_more_does_not() {
        for checkpointing in [false, true] {
            let memory = Memory::new(weights(true), &layers(), checkpointing, true);
            for gibibytes in 8..40 {
                let limit = gibibytes << 30;
                let largest = memory.largest_microbatch(limit);
                assert!(memory.parts(largest).total <= limit, "{gibibytes} GiB: {largest}");
                assert!(memory.parts(largest + 1).total > limit, "{gibibytes} GiB: {largest}");
            }
            assert_eq!(memory.largest_microbatch(1 << 20), 0);
        }
    }

    #[test]
    fn checkpointing_keeps_inputs_and_one_layer() {
        let all = Memory::new(weights(true), &layers(), false, true);
        let few = Memory::new(weights(true), &layers(), true, true);
        let inner: u64 = (0..5).map(|index| 3_000_000 + 7 * index).sum();
        assert_eq!(all.activation_bytes(), 4 * 1_000_003 + inner);
        // Five inputs, and the last layer's own.
        assert_eq!(few.activation_bytes(), 5 * 1_000_003 + 3_000_028);
        // The last layer's backward is the worst of either: the others are computed again when it is gone.
        assert_eq!((all.backward_bytes, few.backward_bytes), (3_999_996, 3_999_996));
    }

    #[test]
    fn backward_is_at_its_worst_where_most_is_kept_and_needed() {
        let layer = |inner_bytes, backward_bytes| LayerMemory {
            name: String::new(),
            input_bytes: 10,
            keeps_input: true,
            inner_bytes,
            backward_bytes,
            can_checkpoint: true,
        };
        // 110 + 500 at the first against 220 + 5 at the second; checkpointed 10 + 100 + 500 against 20 + 100 + 5.
        let layers = [layer(100, 500), layer(100, 5)];
        let worst = |checkpointing| Memory::new(weights(true), &layers, checkpointing, false);
        assert_eq!((worst(false).activation_bytes, worst(false).backward_bytes), (220, 610 - 220));
        assert_eq!((worst(true).activation_bytes, worst(true).backward_bytes), (20, 610 - 20));
    }

    #[test]
    fn the_optimizer_moves_every_value_as_often_as_it_says() {
        // Float32: zeroed and read twice (4 each), masters' norm 4, then master, two moments and one average 8 each.
        assert_eq!(weights(false).optimizer_traffic(), 300_000_000 * (3 * 4 + 4 + 4 * 8));
        // Half precision saves 2 bytes of each of three passes over the torso's gradients, and writes a copy of 2.
        assert_eq!(weights(true).optimizer_traffic(), 300_000_000 * (3 * 4 + 4 + 4 * 8) - 290_000_000 * (3 * 2 - 2));
    }
}
