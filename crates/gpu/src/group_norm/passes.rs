//! Launches the kernels of a group normalization.

use super::spec::{Activation, Dropout, GroupNorm, Layout, OPERATION};
use super::tiling::{THREADS, Tiling};
use crate::launch::{Error, Launch, launch, require, require_address};
use crate::program::Program;
use crate::shape::{DevicePointer, Shape};

/// The addresses of the forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// The input.
    pub x: DevicePointer,
    /// The output; may be `x`.
    pub y: DevicePointer,
    /// The weight, `[channels]`.
    pub weight: DevicePointer,
    /// The bias, `[channels]`.
    pub bias: DevicePointer,
    /// The scale and the shift, `[batch, channels]` each.
    pub modulation: Option<(DevicePointer, DevicePointer)>,
    /// Output: the mean of each group, `[batch, groups]`.
    pub mean: DevicePointer,
    /// Output: the reciprocal of each group's standard deviation, `[batch, groups]`.
    pub rstd: DevicePointer,
    /// [`GroupNorm::forward_workspace`] bytes with any content.
    pub workspace: DevicePointer,
}

/// The addresses of the backward pass.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// The input of forward.
    pub x: DevicePointer,
    /// The gradient of the output.
    pub dy: DevicePointer,
    /// Output: the gradient of the input; may be `dy`.
    pub dx: DevicePointer,
    /// As in [`Forward`].
    pub weight: DevicePointer,
    /// As in [`Forward`].
    pub bias: DevicePointer,
    /// As in [`Forward`].
    pub modulation: Option<(DevicePointer, DevicePointer)>,
    /// As written by forward.
    pub mean: DevicePointer,
    /// As written by forward.
    pub rstd: DevicePointer,
    /// Output: the gradient of the weight, `[channels]`.
    pub dweight: DevicePointer,
    /// Output: the gradient of the bias, `[channels]`.
    pub dbias: DevicePointer,
    /// Output: the gradients of the scale and the shift, `[batch, channels]` each. Must be given if and only if
    /// `modulation` is.
    pub dmodulation: Option<(DevicePointer, DevicePointer)>,
    /// [`GroupNorm::backward_workspace`] bytes with any content.
    pub workspace: DevicePointer,
}

/// The argument of the kernels. Must have the layout of `GroupNormArguments` in `group_norm.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Arguments {
    x: DevicePointer,
    y: DevicePointer,
    dy: DevicePointer,
    dx: DevicePointer,
    weight: DevicePointer,
    bias: DevicePointer,
    scale: DevicePointer,
    shift: DevicePointer,
    mean: DevicePointer,
    rstd: DevicePointer,
    partials: DevicePointer,
    sums: DevicePointer,
    dx_terms: DevicePointer,
    dweight: DevicePointer,
    dbias: DevicePointer,
    dscale: DevicePointer,
    dshift: DevicePointer,
    seed: u64,
    offset: u64,
    batch: i32,
    channels: i32,
    spatial: i32,
    groups: i32,
    chunks: i32,
    chunk_positions: i32,
    threads_x: i32,
    threads_y: i32,
    tile_channels: i32,
    drop_below: u32,
    keep_scale: f32,
    eps: f32,
}

impl GroupNorm {
    fn program(&self, tiling: &Tiling) -> Program {
        Program::GroupNorm {
            channels_last: self.layout == Layout::ChannelsLast,
            kind: self.kind,
            width: tiling.width,
            silu: self.activation != Activation::None,
            dropout: matches!(self.activation, Activation::SiluDropout(_)),
        }
    }

    fn arguments(&self, tiling: &Tiling) -> Arguments {
        let dropout = match self.activation {
            Activation::SiluDropout(dropout) => dropout,
            Activation::None | Activation::Silu => Dropout { probability: 0.0, seed: 0, offset: 0 },
        };
        // `check` has verified that all numbers fit.
        Arguments {
            seed: dropout.seed,
            offset: dropout.offset,
            batch: self.batch as i32,
            channels: self.channels as i32,
            spatial: self.spatial as i32,
            groups: self.groups as i32,
            chunks: tiling.chunks as i32,
            chunk_positions: tiling.chunk_positions as i32,
            threads_x: tiling.threads_x as i32,
            threads_y: tiling.threads_y as i32,
            tile_channels: tiling.tile_channels as i32,
            drop_below: dropout.drop_below(),
            keep_scale: dropout.keep_scale(),
            eps: self.eps,
            ..Arguments::default()
        }
    }

    /// Returns the shape of the kernels that process all values.
    fn shape(&self, tiling: &Tiling, shared_floats: usize) -> Shape {
        Shape {
            grid: [tiling.tiles as u32, tiling.chunks as u32, self.batch as u32],
            block: tiling.threads() as u32,
            shared_bytes: (shared_floats * size_of::<f32>()) as u32,
        }
    }

    /// Returns the name of a kernel in this layout, and the dynamic shared memory that it needs, in floats: either two
    /// rows of the tile for each row of threads, or two numbers for each group of the tile.
    pub(super) fn kernel(&self, tiling: &Tiling, pass: Pass) -> (&'static str, usize) {
        let rows = 2 * tiling.threads_y * tiling.tile_channels;
        let groups = 2 * tiling.tile_channels / (self.channels / self.groups);
        match (self.layout, pass) {
            (Layout::ChannelsLast, Pass::Statistics) => ("group_norm_statistics_channels_last", rows),
            (Layout::ChannelsLast, Pass::Apply) => ("group_norm_apply_channels_last", groups),
            (Layout::ChannelsLast, Pass::Sums) => ("group_norm_sums_channels_last", rows),
            (Layout::ChannelsLast, Pass::Dx) => ("group_norm_dx_channels_last", 0),
            (Layout::Contiguous, Pass::Statistics) => ("group_norm_statistics_contiguous", 0),
            (Layout::Contiguous, Pass::Apply) => ("group_norm_apply_contiguous", 0),
            (Layout::Contiguous, Pass::Sums) => ("group_norm_sums_contiguous", 0),
            (Layout::Contiguous, Pass::Dx) => ("group_norm_dx_contiguous", 0),
        }
    }

    /// Enqueues the forward pass, which computes y, mean and rstd.
    ///
    /// # Errors
    /// If a shape or an address is not supported ([`Error::Unsuitable`]), or a kernel cannot be compiled or launched.
    ///
    /// # Safety
    /// All addresses must be valid for the sizes in [`Forward`] until the kernels have run.
    pub unsafe fn forward(&self, on: &dyn Launch, memory: &Forward) -> Result<(), Error> {
        let tiling = self.tiling(&[memory.x, memory.y])?;
        let bytes = self.kind.bytes() as u64;
        for (name, address, bytes) in [
            ("x", memory.x, bytes),
            ("y", memory.y, bytes),
            ("weight", memory.weight, 4),
            ("bias", memory.bias, 4),
            ("mean", memory.mean, 4),
            ("rstd", memory.rstd, 4),
            ("workspace", memory.workspace, 4),
        ] {
            require_address(OPERATION, name, address, bytes)?;
        }
        let mut arguments = self.arguments(&tiling);
        (arguments.scale, arguments.shift) = modulation(memory.modulation, "scale", "shift")?;
        arguments.x = memory.x;
        arguments.y = memory.y;
        arguments.weight = memory.weight;
        arguments.bias = memory.bias;
        arguments.mean = memory.mean;
        arguments.rstd = memory.rstd;
        arguments.partials = memory.workspace;
        for pass in [Pass::Statistics, Pass::Apply] {
            let (kernel, shared) = self.kernel(&tiling, pass);
            // SAFETY: `Arguments` is the argument of the kernels, and the caller guarantees the addresses.
            unsafe { launch(on, &self.program(&tiling), kernel, &self.shape(&tiling, shared), &arguments)? };
        }
        Ok(())
    }

    /// Enqueues the backward pass, which computes dx and the gradients of weight, bias, scale and shift.
    ///
    /// # Errors
    /// As for [`GroupNorm::forward`].
    ///
    /// # Safety
    /// All addresses must be valid for the sizes in [`Backward`] until the kernels have run.
    pub unsafe fn backward(&self, on: &dyn Launch, memory: &Backward) -> Result<(), Error> {
        let tiling = self.tiling(&[memory.x, memory.dy, memory.dx])?;
        let bytes = self.kind.bytes() as u64;
        for (name, address, bytes) in [
            ("x", memory.x, bytes),
            ("dy", memory.dy, bytes),
            ("dx", memory.dx, bytes),
            ("weight", memory.weight, 4),
            ("bias", memory.bias, 4),
            ("mean", memory.mean, 4),
            ("rstd", memory.rstd, 4),
            ("dweight", memory.dweight, 4),
            ("dbias", memory.dbias, 4),
            ("workspace", memory.workspace, 4),
        ] {
            require_address(OPERATION, name, address, bytes)?;
        }
        require(
            memory.modulation.is_some() == memory.dmodulation.is_some(),
            OPERATION,
            "dmodulation",
            if memory.dmodulation.is_some() { "given" } else { "not given" },
            "given just when modulation is",
        )?;
        let mut arguments = self.arguments(&tiling);
        (arguments.scale, arguments.shift) = modulation(memory.modulation, "scale", "shift")?;
        (arguments.dscale, arguments.dshift) = modulation(memory.dmodulation, "dscale", "dshift")?;
        arguments.x = memory.x;
        arguments.dy = memory.dy;
        arguments.dx = memory.dx;
        arguments.weight = memory.weight;
        arguments.bias = memory.bias;
        arguments.mean = memory.mean;
        arguments.rstd = memory.rstd;
        arguments.dweight = memory.dweight;
        arguments.dbias = memory.dbias;
        let pairs = |count: usize| (self.batch * count * 2 * size_of::<f32>()) as u64;
        arguments.partials = memory.workspace;
        arguments.sums = arguments.partials + pairs(tiling.chunks * self.channels);
        arguments.dx_terms = arguments.sums + pairs(self.channels);

        let program = self.program(&tiling);
        let group = self.channels / self.groups;
        let dx_terms = Shape {
            grid: [self.groups as u32, 1, self.batch as u32],
            block: (32 * group.min(THREADS / 32)) as u32,
            shared_bytes: (2 * group * size_of::<f32>()) as u32,
        };
        let weights = Shape { grid: [self.channels.div_ceil(32) as u32, 1, 1], block: 256, shared_bytes: 0 };
        let (sums_kernel, sums_shared) = self.kernel(&tiling, Pass::Sums);
        let (dx_kernel, dx_shared) = self.kernel(&tiling, Pass::Dx);
        for (kernel, shape) in [
            (sums_kernel, self.shape(&tiling, sums_shared)),
            ("group_norm_dx_terms", dx_terms),
            (dx_kernel, self.shape(&tiling, dx_shared)),
            ("group_norm_weights", weights),
        ] {
            // SAFETY: as in `forward`.
            unsafe { launch(on, &program, kernel, &shape, &arguments)? };
        }
        Ok(())
    }
}

/// A pass over all values. `Statistics` and `Apply` are forward, `Sums` and `Dx` are backward.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pass {
    Statistics,
    Apply,
    Sums,
    Dx,
}

/// Returns the checked addresses of a pair, or null for `None`.
fn modulation(
    pair: Option<(DevicePointer, DevicePointer)>,
    first: &'static str,
    second: &'static str,
) -> Result<(DevicePointer, DevicePointer), Error> {
    let Some((a, b)) = pair else { return Ok((0, 0)) };
    require_address(OPERATION, first, a, 4)?;
    require_address(OPERATION, second, b, 4)?;
    Ok((a, b))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::kind::Kind;

    #[test]
    fn every_pass_needs_at_most_48_kib_of_shared_memory() {
        for layout in [Layout::ChannelsLast, Layout::Contiguous] {
            for kind in Kind::ALL {
                for channels in [32, 96, 192, 384, 576, 768, 1024, 1056, 1152, 1536, 2304] {
                    for spatial in [1, 5, 49, 64, 256, 1024, 4096, 65_536, 65_537] {
                        for batch in [1, 3, 64, 256] {
                            let activation = Activation::Silu;
                            let norm =
                                GroupNorm { kind, layout, batch, channels, spatial, groups: 32, eps: 1e-5, activation };
                            for addresses in [&[16, 32][..], &[16, 18]] {
                                let tiling = norm.tiling(addresses).unwrap();
                                for pass in [Pass::Statistics, Pass::Apply, Pass::Sums, Pass::Dx] {
                                    assert!(norm.kernel(&tiling, pass).1 * 4 <= 48 << 10, "{norm:?} {tiling:?}");
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
