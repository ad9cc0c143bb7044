//! Conversion of a network's input to the type and memory layout of the torso.

use tch::Tensor;

use super::blocks::{Block, Layer};
use super::params::Params;
use crate::ops::Kernels;

/// Converts the input `[batch, channels, height, width]` to the type of the torso and the preferred memory layout. All
/// layers of the torso preserve both. The layers accept any layout.
pub(super) fn enter_torso(input_blocks: &[Block], kernels: &Kernels, params: &Params, x: &Tensor) -> Tensor {
    match input_blocks.first().map(Vec::as_slice) {
        Some([Layer::Conv(conv, _), ..]) => to_preferred_layout(kernels, &x.to_kind(conv.kind(params))),
        _ => x.shallow_clone(),
    }
}

/// Converts to channels-last if it is faster on the device. On the CPU, libtorch's convolutions then do not reorder
/// their input and output. `ops::group_norm_silu` accepts both layouts.
fn to_preferred_layout(kernels: &Kernels, x: &Tensor) -> Tensor {
    if !kernels.prefer_channels_last(x.kind()) {
        return x.shallow_clone();
    }
    let size = x.size();
    let (channels, height, width) = (size[1], size[2], size[3]);
    // With a single channel the default strides match both layouts, and libtorch would treat the tensor as contiguous.
    // Explicit strides select channels-last.
    let strides = [channels * height * width, 1, channels * width, channels];
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]).as_strided(&size, strides, None)
}
