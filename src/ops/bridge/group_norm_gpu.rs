//! Group normalization by our GPU kernels, as an autograd node. C++ owns the tensors and calls back into Rust to launch
//! kernels.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use admiral_gpu::DevicePointer;
use admiral_gpu::group_norm::{Activation, Backward, Dropout, Forward, GroupNorm as GpuGroupNorm, Layout};
use tch::Tensor;
use torch_sys::C_tensor;

use super::group_norm::group_norm_node;
use crate::ops::launcher::GpuLauncher;
use crate::ops::{Error, GroupNorm};

/// Shape and addresses. The same layout as `Arguments` in group_norm_gpu.cpp.
#[repr(C)]
struct Arguments {
    batch: i64,
    channels: i64,
    spatial: i64,
    groups: i64,
    eps: f64,
    dropout: f64,
    seed: u64,
    kind: i32,
    channels_last: bool,
    silu: bool,
    x: DevicePointer,
    weight: DevicePointer,
    bias: DevicePointer,
    scale: DevicePointer,
    shift: DevicePointer,
    dy: DevicePointer,
    y: DevicePointer,
    mean: DevicePointer,
    rstd: DevicePointer,
    dx: DevicePointer,
    dweight: DevicePointer,
    dbias: DevicePointer,
    dscale: DevicePointer,
    dshift: DevicePointer,
    workspace: DevicePointer,
}

type Call = unsafe extern "C" fn(*const c_void, i32, *const Arguments, *mut c_char, i64) -> i64;
type Drop = unsafe extern "C" fn(*const c_void);

unsafe extern "C" {
    fn admiral_group_norm_gpu(
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        scale: *const C_tensor,
        shift: *const C_tensor,
        groups: i64,
        eps: f64,
        silu: bool,
        dropout: f64,
        seed: i64,
        launcher: *const c_void,
        call: Call,
        drop: Drop,
        result: *mut *mut C_tensor,
    ) -> c_int;
}

/// The fused autograd node with the kernels of `launcher`. All tensors are on its device.
pub(in crate::ops) fn group_norm_gpu(
    launcher: &Arc<GpuLauncher>,
    x: &Tensor,
    norm: &GroupNorm<'_>,
) -> Result<Tensor, Error> {
    group_norm_node(norm, |optional, result| {
        // SAFETY: all pointers are live tensors, or null where the bridge allows it. The bridge takes ownership of the
        // reference to the launcher and passes it to `drop_launcher` once.
        unsafe {
            admiral_group_norm_gpu(
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
                Arc::into_raw(Arc::clone(launcher)).cast(),
                run,
                drop_launcher,
                result,
            )
        }
    })
}

unsafe extern "C" fn drop_launcher(launcher: *const c_void) {
    // SAFETY: `group_norm_gpu` transferred this reference, and the bridge returns it once.
    drop(unsafe { Arc::from_raw(launcher.cast::<GpuLauncher>()) });
}

unsafe extern "C" fn run(
    launcher: *const c_void,
    pass: i32,
    arguments: *const Arguments,
    failure: *mut c_char,
    capacity: i64,
) -> i64 {
    // SAFETY: the launcher that `group_norm_gpu` transferred, and arguments that are valid for this call.
    let (launcher, arguments) = unsafe { (&*launcher.cast::<GpuLauncher>(), &*arguments) };
    // A panic must not unwind into C++.
    // SAFETY: the addresses are libtorch's memory of the sizes given by the shape, freed on the stream of the kernels.
    let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { try_run(launcher, pass, arguments) }));
    let message = match outcome {
        Ok(Ok(bytes)) => return bytes as i64,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "a launch panicked".to_owned(),
    };
    let length = message.len().min(usize::try_from(capacity).unwrap_or(0).saturating_sub(1));
    // SAFETY: `failure` has `capacity` bytes, all zero, so the message remains NUL-terminated.
    unsafe { std::ptr::copy_nonoverlapping(message.as_ptr(), failure.cast(), length) };
    -1
}

/// Returns the bytes of workspace for a query, or 0 after enqueueing a pass.
///
/// # Safety
/// The addresses must be valid for the sizes given by the shape until the kernels have run.
unsafe fn try_run(launcher: &GpuLauncher, pass: i32, a: &Arguments) -> Result<usize, admiral_gpu::Error> {
    let size = |value: i64| usize::try_from(value).unwrap_or_default();
    let norm = GpuGroupNorm {
        kind: admiral_gpu::Kind::ALL[size(a.kind.into())],
        layout: if a.channels_last { Layout::ChannelsLast } else { Layout::Contiguous },
        batch: size(a.batch),
        channels: size(a.channels),
        spatial: size(a.spatial),
        groups: size(a.groups),
        eps: a.eps as f32,
        activation: match a.silu {
            true if a.dropout > 0.0 => {
                Activation::SiluDropout(Dropout { probability: a.dropout, seed: a.seed, offset: 0 })
            }
            true => Activation::Silu,
            false => Activation::None,
        },
    };
    let Arguments { x, weight, bias, mean, rstd, workspace, .. } = *a;
    let modulation = (a.scale != 0).then_some((a.scale, a.shift));
    match pass {
        0 => return norm.forward_workspace(),
        2 => return norm.backward_workspace(),
        1 => {
            let memory = Forward { x, y: a.y, weight, bias, modulation, mean, rstd, workspace };
            // SAFETY: guaranteed by the caller.
            unsafe { norm.forward(launcher.launch(), &memory)? };
        }
        _ => {
            let Arguments { dy, dx, dweight, dbias, .. } = *a;
            let dmodulation = modulation.map(|_| (a.dscale, a.dshift));
            let memory =
                Backward { x, dy, dx, weight, bias, modulation, mean, rstd, dweight, dbias, dmodulation, workspace };
            // SAFETY: guaranteed by the caller.
            unsafe { norm.backward(launcher.launch(), &memory)? };
        }
    }
    Ok(0)
}
