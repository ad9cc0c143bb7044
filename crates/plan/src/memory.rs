//! The memory of one GPU, by part.

use serde::Serialize;

/// The CUDA context, libtorch's kernels, and the workspaces of cuDNN and cuBLAS.
const GPU_LIBRARIES_BYTES: u64 = 1 << 30;

/// The fraction of the activations that rounding and fragmentation in libtorch's memory pool add.
const POOL_OVERHEAD: f64 = 0.05;

/// The parameters of a network, and the copies of them that a run keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Weights {
    /// The number of parameters.
    pub parameters: u64,
    /// The number of parameters in the torso, which mixed precision keeps in half precision.
    pub torso: u64,
    /// Whether the torso is in half precision.
    pub half: bool,
    /// The number of moving averages of the parameters.
    pub num_emas: u64,
    /// Whether the all-reduce sums the half-precision gradients of the torso into a separate float32 buffer.
    pub float_sums: bool,
}

impl Weights {
    /// Returns the bytes of one copy of the parameters in the network's types: half precision in a half-precision
    /// torso, else float32.
    #[must_use]
    pub fn network_bytes(&self) -> u64 {
        4 * self.parameters - if self.half { 2 * self.torso } else { 0 }
    }

    /// Returns the bytes of one float32 copy of the parameters.
    #[must_use]
    pub fn float_bytes(&self) -> u64 {
        4 * self.parameters
    }

    /// Returns the bytes of the float32 buffer for the sums of half-precision gradients.
    fn sum_bytes(&self) -> u64 {
        if self.half && self.float_sums { 4 * self.torso } else { 0 }
    }

    /// Returns the bytes that the end of a step reads and writes: the gradients are set to zero, both norms are
    /// computed, and one pass updates masters, moments, averages and the half-precision copy from the gradients.
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

/// The implementation of group normalization and the SiLU after it. It determines what is kept for backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Norms {
    /// One operation, which keeps its input and the statistics of the groups.
    Fused,
    /// Separate operations of libtorch, each of which keeps its input in float32.
    Composed,
}

/// The memory that one layer of a network needs, in bytes per image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerMemory {
    /// The layer's name in the network.
    pub name: String,
    /// The bytes of its input.
    pub input_bytes: u64,
    /// Whether the input is kept for backward.
    pub keeps_input: bool,
    /// The bytes of everything else that is kept for backward.
    pub inner_bytes: u64,
    /// The largest number of bytes of feature-map gradients that are live at once in the layer's backward pass.
    pub backward_bytes: u64,
    /// Whether activation checkpointing applies to the layer: it keeps only the input and recomputes the rest.
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
    /// The activations that forward keeps for backward, in bytes per image.
    activation_bytes: u64,
    /// The peak of what backward needs in addition, in bytes per image.
    backward_bytes: u64,
}

/// The memory of one GPU by part, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryParts {
    /// The parameters that the network computes with: the half-precision torso and the float32 rest.
    pub parameters: u64,
    /// The gradients, in the types of the parameters.
    pub gradients: u64,
    /// The float32 buffer of the all-reduce for half-precision gradients.
    pub sums: u64,
    /// The float32 parameters of the optimizer; 0 if the network computes with them directly.
    pub masters: u64,
    /// Adam's two moments.
    pub moments: u64,
    /// The moving averages of the parameters.
    pub emas: u64,
    /// The activations that forward keeps for backward.
    pub activations: u64,
    /// Libraries, fragmentation of the memory pool, and the working memory of backward: gradients of feature maps, and
    /// the recomputed activations of a checkpointed layer.
    pub workspace: u64,
    /// The sum of all parts.
    pub total: u64,
}

impl Memory {
    /// Computes the memory of a network with these layers, in the order of the forward pass. With `checkpointing`, each
    /// layer that supports it keeps only its input, and one layer at a time is recomputed.
    ///
    /// Backward frees the memory of a layer when it is done with it. While it is in a layer, the live memory is what
    /// all layers up to this one keep and what this layer needs in addition; later layers hold nothing.
    #[must_use]
    pub fn new(weights: Weights, layers: &[LayerMemory], checkpointing: bool, is_gpu: bool) -> Self {
        let (mut kept, mut peak) = (0, 0);
        for layer in layers {
            let is_checkpointed = checkpointing && layer.can_checkpoint;
            kept += if is_checkpointed { layer.input_bytes } else { layer.kept() };
            let recomputed = if is_checkpointed { layer.inner_bytes } else { 0 };
            peak = peak.max(kept + recomputed + layer.backward_bytes);
        }
        Self { weights, is_gpu, activation_bytes: kept, backward_bytes: peak.saturating_sub(kept) }
    }

    /// Returns the activations that forward keeps for backward, in bytes per image.
    #[must_use]
    pub fn activation_bytes(&self) -> u64 {
        self.activation_bytes
    }

    /// Returns the memory by part at a microbatch.
    #[must_use]
    pub fn parts(&self, microbatch: u64) -> MemoryParts {
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
        MemoryParts { parameters, gradients: parameters, sums, masters, moments, emas, activations, workspace, total }
    }

    /// Returns the largest microbatch that fits; 0 if not even one image fits.
    #[must_use]
    pub fn largest_microbatch(&self, memory_bytes: u64) -> u64 {
        let fits = |microbatch: u64| self.parts(microbatch).total <= memory_bytes;
        let one = self.parts(1).total - self.parts(0).total;
        if !fits(0) || one == 0 {
            return 0;
        }
        // The overhead is rounded, so the quotient may be off by one.
        let estimate = (memory_bytes - self.parts(0).total) / one;
        (estimate.saturating_sub(1)..=estimate + 1).rev().find(|&microbatch| fits(microbatch)).unwrap_or(0)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn weights(half: bool) -> Weights {
        Weights { parameters: 300_000_000, torso: 290_000_000, half, num_emas: 1, float_sums: false }
    }

    /// A few layers of the same size. The last one does not support checkpointing.
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
    fn mixed_precision_keeps_masters_and_half_parameters() {
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
    fn checkpointing_keeps_inputs_and_one_recomputed_layer() {
        let plain = Memory::new(weights(true), &layers(), false, true);
        let checkpointed = Memory::new(weights(true), &layers(), true, true);
        let inner: u64 = (0..5).map(|index| 3_000_000 + 7 * index).sum();
        assert_eq!(plain.activation_bytes(), 4 * 1_000_003 + inner);
        // Five inputs, and the inner bytes of the last layer.
        assert_eq!(checkpointed.activation_bytes(), 5 * 1_000_003 + 3_000_028);
        // The last layer has the peak in both cases: the others are recomputed after its memory is freed.
        assert_eq!((plain.backward_bytes, checkpointed.backward_bytes), (3_999_996, 3_999_996));
    }

    #[test]
    fn the_peak_of_backward_is_where_kept_and_needed_memory_is_largest() {
        let layer = |inner_bytes, backward_bytes| LayerMemory {
            name: String::new(),
            input_bytes: 10,
            keeps_input: true,
            inner_bytes,
            backward_bytes,
            can_checkpoint: true,
        };
        // 110 + 500 in the first layer, 220 + 5 in the second; checkpointed 10 + 100 + 500 and 20 + 100 + 5.
        let layers = [layer(100, 500), layer(100, 5)];
        let memory = |checkpointing| Memory::new(weights(true), &layers, checkpointing, false);
        assert_eq!((memory(false).activation_bytes, memory(false).backward_bytes), (220, 610 - 220));
        assert_eq!((memory(true).activation_bytes, memory(true).backward_bytes), (20, 610 - 20));
    }

    #[test]
    fn optimizer_traffic_counts_every_read_and_write() {
        // Float32: the gradient is zeroed and read twice (4 bytes each), the norm of the masters reads 4, and the
        // master, two moments and one average are read and written (8 each).
        assert_eq!(weights(false).optimizer_traffic(), 300_000_000 * (3 * 4 + 4 + 4 * 8));
        // Half precision saves 2 bytes in each of three passes over the torso's gradients, and writes a copy of 2
        // bytes.
        assert_eq!(weights(true).optimizer_traffic(), 300_000_000 * (3 * 4 + 4 + 4 * 8) - 290_000_000 * (3 * 2 - 2));
    }
}
