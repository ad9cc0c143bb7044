//! Group normalization on the CPU, as an autograd node.

use std::ffi::c_int;

use tch::Tensor;
use torch_sys::C_tensor;

use super::status::check;
use crate::ops::{Error, GroupNorm};

unsafe extern "C" {
    fn admiral_group_norm_silu(
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        scale: *const C_tensor,
        shift: *const C_tensor,
        num_groups: i64,
        eps: f64,
        silu: bool,
        dropout: f64,
        seed: i64,
        result: *mut *mut C_tensor,
    ) -> c_int;
}

/// The fused autograd node on the CPU. All tensors are on the CPU, in float32 or a half kind.
pub(in crate::ops) fn group_norm_silu(x: &Tensor, norm: &GroupNorm<'_>) -> Result<Tensor, Error> {
    group_norm_node(norm, |optional, result| {
        // SAFETY: all pointers are live tensors, or null where the bridge allows it.
        unsafe {
            admiral_group_norm_silu(
                x.as_ptr(),
                norm.weight.as_ptr(),
                norm.bias.as_ptr(),
                optional.scale,
                optional.shift,
                norm.num_groups,
                norm.eps,
                norm.silu,
                optional.probability,
                optional.seed,
                result,
            )
        }
    })
}

/// The optional arguments of a group normalization in the form of the bridge.
pub(super) struct OptionalArguments {
    /// Null without modulation, as is `shift`.
    pub(super) scale: *const C_tensor,
    pub(super) shift: *const C_tensor,
    /// 0 without dropout.
    pub(super) probability: f64,
    pub(super) seed: i64,
}

/// Returns the output tensor of a node. `create` writes it to its second argument and returns the bridge's status.
pub(super) fn group_norm_node(
    norm: &GroupNorm<'_>,
    create: impl FnOnce(&OptionalArguments, &mut *mut C_tensor) -> c_int,
) -> Result<Tensor, Error> {
    let (scale, shift) =
        norm.modulation.map_or((std::ptr::null(), std::ptr::null()), |(scale, shift)| (scale.as_ptr(), shift.as_ptr()));
    let (probability, seed) = norm.dropout.map_or((0.0, 0), |dropout| (dropout.probability, dropout.seed));
    let optional = OptionalArguments { scale, shift, probability, seed: seed.cast_signed() };
    let mut result = std::ptr::null_mut();
    check("group_norm_silu", create(&optional, &mut result))?;
    // SAFETY: on success the bridge transfers the ownership of the tensor.
    Ok(unsafe { Tensor::from_ptr(result) })
}
