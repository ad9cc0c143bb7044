//! Group normalization with what follows it in a residual block, forward and backward.
//!
//!     normalized = (x - mean) * rstd                          over each (sample, group)
//!     y = dropout(silu((normalized * weight + bias) * (1 + scale) + shift))

use crate::Kind;
use crate::launch::{DevicePointer, Error, Launch, Shape, launch, require, require_address};
use crate::program::Program;

/// How a tensor lies in memory, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// [batch, spatial, channels]
    ChannelsLast,
    /// [batch, channels, spatial]
    Contiguous,
}

/// What follows the normalization.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// Nothing.
    None,
    /// z * sigmoid(z).
    Silu,
    /// SiLU, then dropout.
    SiluDropout(Dropout),
}

/// A dropout mask: a function of seed, offset, and an element's place in memory. It is never stored; backward draws it
/// again. `probability` is rounded to a multiple of 2^-16, and what stays is scaled by what that makes right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Of a value becoming 0, in [0, 1).
    pub probability: f64,
    /// Key of the generator.
    pub seed: u64,
    /// Names this use of the seed: another step, layer or microbatch takes another.
    pub offset: u64,
}

impl Dropout {
    /// Of 65536 equally likely numbers, those below this drop a value.
    #[must_use]
    pub fn drop_below(&self) -> u32 {
        (self.probability * 65536.0).round() as u32
    }

    /// What the values that stay are multiplied by.
    #[must_use]
    pub fn keep_scale(&self) -> f32 {
        65536.0 / (65536 - self.drop_below().min(65535)) as f32
    }
}

/// Shape and kind of a group normalization.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNorm {
    /// Of x, y, dy and dx. All else is float32.
    pub kind: Kind,
    /// Of x, y, dy and dx.
    pub layout: Layout,
    /// Samples.
    pub batch: usize,
    /// Channels; `groups` must divide them.
    pub channels: usize,
    /// Positions: height times width.
    pub spatial: usize,
    /// Groups of neighbouring channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// What follows.
    pub activation: Activation,
}

/// Addresses of forward.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// Input.
    pub x: DevicePointer,
    /// Output; may be `x`.
    pub y: DevicePointer,
    /// [channels]
    pub weight: DevicePointer,
    /// [channels]
    pub bias: DevicePointer,
    /// Scale and shift, [batch, channels] each.
    pub modulation: Option<(DevicePointer, DevicePointer)>,
    /// Written, [batch, groups].
    pub mean: DevicePointer,
    /// Written, [batch, groups].
    pub rstd: DevicePointer,
    /// [`GroupNorm::forward_workspace`] bytes, of any content.
    pub workspace: DevicePointer,
}

/// Addresses of backward.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// Forward's input.
    pub x: DevicePointer,
    /// Gradient of its output.
    pub dy: DevicePointer,
    /// Written: the gradient of the input; may be `dy`.
    pub dx: DevicePointer,
    /// As in forward.
    pub weight: DevicePointer,
    /// As in forward.
    pub bias: DevicePointer,
    /// As in forward.
    pub modulation: Option<(DevicePointer, DevicePointer)>,
    /// What forward wrote.
    pub mean: DevicePointer,
    /// What forward wrote.
    pub rstd: DevicePointer,
    /// Written, [channels].
    pub dweight: DevicePointer,
    /// Written, [channels].
    pub dbias: DevicePointer,
    /// Written, [batch, channels] each: gradients of scale and shift; there just when modulation is.
    pub dmodulation: Option<(DevicePointer, DevicePointer)>,
    /// [`GroupNorm::backward_workspace`] bytes, of any content.
    pub workspace: DevicePointer,
}

/// The kernels' argument; its twin is in `group_norm.cuh`.
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
    levels: DevicePointer,
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

/// How the work is cut into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    /// Values that a thread moves at once.
    width: usize,
    threads_x: usize,
    threads_y: usize,
    /// Channels of a block: whole groups where channels lie together, else one group.
    tile_channels: usize,
    tiles: usize,
    /// Parts that a sample's positions are cut into, and how many positions each has; the last may have fewer.
    chunks: usize,
    chunk_positions: usize,
}

const OPERATION: &str = "group normalization";
const THREADS: usize = 256;
/// Blocks wanted: several for each multiprocessor of any device. A constant, so that sums have the same bits everywhere.
const BLOCKS: usize = 2048;
/// Vectors of channels in a block: 1 KiB in a row is as fast as memory goes, and more would leave a block few positions.
const TILE_VECTORS: usize = 64;
/// What a thread should at least do after its preparations.
const VECTORS_PER_THREAD: usize = 8;
/// The grid's bound in y and z.
const GRID: usize = 65_535;

impl Plan {
    fn threads(&self) -> usize {
        (self.threads_x * self.threads_y).next_multiple_of(32)
    }

    fn channels_last(norm: &GroupNorm, width: usize) -> Result<Self, Error> {
        let group = norm.channels / norm.groups;
        // Whole groups and whole vectors.
        let unit = least_common_multiple(group, width);
        let units = norm.channels / unit;
        let most = (TILE_VECTORS * width / unit).max(1);
        let in_tile = (1..=most.min(units)).rev().find(|count| units.is_multiple_of(*count)).unwrap_or(1);
        let tile_channels = unit * in_tile;
        let threads_x = tile_channels / width;
        require(
            threads_x <= THREADS,
            OPERATION,
            "channels",
            format!("{} in {} groups", norm.channels, norm.groups),
            format!("such that a tile of whole groups has at most {} channels, not {tile_channels}", THREADS * width),
        )?;
        let threads_y = THREADS / threads_x;
        let tiles = norm.channels / tile_channels;
        let most_chunks = norm.spatial.div_ceil(threads_y * VECTORS_PER_THREAD);
        let (chunks, chunk_positions) = chunks(norm, tiles, most_chunks, 1);
        Ok(Self { width, threads_x, threads_y, tile_channels, tiles, chunks, chunk_positions })
    }

    fn contiguous(norm: &GroupNorm, width: usize) -> Self {
        let group = norm.channels / norm.groups;
        let threads_x = (norm.spatial / width).next_power_of_two().min(THREADS);
        // No more rows than channels, but whole warps.
        let threads_y = (THREADS / threads_x).min(group.next_power_of_two().max(32_usize.div_ceil(threads_x)));
        let most_chunks = (group * norm.spatial).div_ceil(THREADS * width * VECTORS_PER_THREAD);
        let (chunks, chunk_positions) = chunks(norm, norm.groups, most_chunks, width);
        Self { width, threads_x, threads_y, tile_channels: group, tiles: norm.groups, chunks, chunk_positions }
    }

    fn new(norm: &GroupNorm, width: usize) -> Result<Self, Error> {
        match norm.layout {
            Layout::ChannelsLast => Self::channels_last(norm, width),
            Layout::Contiguous => Ok(Self::contiguous(norm, width)),
        }
    }
}

/// Number of chunks and positions in each: enough for all multiprocessors, but no more than `most`, and so few that
/// adding up what chunks found (which each block of forward does again) stays small against a block's own work.
fn chunks(norm: &GroupNorm, tiles: usize, most: usize, multiple: usize) -> (usize, usize) {
    let wanted = BLOCKS.div_ceil(norm.batch * tiles);
    let cheap = (norm.spatial * (norm.channels / norm.groups) / 64).isqrt().max(1);
    let chunks = wanted.min(most).min(cheap).clamp(1, GRID);
    let positions = norm.spatial.div_ceil(chunks).next_multiple_of(multiple);
    (norm.spatial.div_ceil(positions), positions)
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

impl GroupNorm {
    fn check(&self) -> Result<(), Error> {
        for (name, value) in
            [("batch", self.batch), ("channels", self.channels), ("spatial", self.spatial), ("groups", self.groups)]
        {
            require(value > 0, OPERATION, name, value, "at least 1")?;
        }
        require(self.batch <= GRID, OPERATION, "batch", self.batch, format!("at most {GRID}"))?;
        require(
            self.channels.is_multiple_of(self.groups),
            OPERATION,
            "groups",
            self.groups,
            format!("a divisor of the {} channels", self.channels),
        )?;
        let group = self.channels / self.groups;
        require(group <= 4096, OPERATION, "groups", format!("{group} channels wide"), "at most 4096 channels wide")?;
        let sample = self.channels.checked_mul(self.spatial).filter(|&sample| sample <= i32::MAX as usize / 2);
        require(
            sample.is_some(),
            OPERATION,
            "spatial",
            format!("{} with {} channels", self.spatial, self.channels),
            "less than 2^30 values a sample",
        )?;
        if let Activation::SiluDropout(dropout) = self.activation {
            require(
                (0.0..1.0).contains(&dropout.probability) && dropout.drop_below() < 65536,
                OPERATION,
                "probability",
                dropout.probability,
                "at least 0 and below 1",
            )?;
        }
        Ok(())
    }

    /// The widest that shape and addresses allow.
    fn plan(&self, addresses: &[DevicePointer]) -> Result<Plan, Error> {
        self.check()?;
        let width = self.kind.vector_width();
        let neighbours = match self.layout {
            Layout::ChannelsLast => self.channels,
            Layout::Contiguous => self.spatial,
        };
        let is_wide = neighbours.is_multiple_of(width) && addresses.iter().all(|address| address.is_multiple_of(16));
        Plan::new(self, if is_wide { width } else { 1 })
    }

    /// Both plans that a shape may get, depending on addresses.
    fn most_chunks(&self) -> Result<usize, Error> {
        Ok(self.plan(&[])?.chunks.max(self.plan(&[1])?.chunks))
    }

    /// Bytes of workspace that forward wants.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] where the shape is nothing to normalize.
    pub fn forward_workspace(&self) -> Result<usize, Error> {
        Ok(self.batch * self.most_chunks()? * self.groups * 2 * size_of::<f32>())
    }

    /// Bytes of workspace that backward wants.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] where the shape is nothing to normalize.
    pub fn backward_workspace(&self) -> Result<usize, Error> {
        let rows = (self.most_chunks()? + 1) * self.channels + self.groups;
        Ok(self.batch * rows * 2 * size_of::<f32>())
    }

    fn program(&self, plan: &Plan) -> Program {
        Program::GroupNorm {
            channels_last: self.layout == Layout::ChannelsLast,
            kind: self.kind,
            width: plan.width,
            silu: self.activation != Activation::None,
            dropout: matches!(self.activation, Activation::SiluDropout(_)),
        }
    }

    fn arguments(&self, plan: &Plan) -> Arguments {
        let dropout = match self.activation {
            Activation::SiluDropout(dropout) => dropout,
            Activation::None | Activation::Silu => Dropout { probability: 0.0, seed: 0, offset: 0 },
        };
        // `check` bounds all numbers.
        Arguments {
            seed: dropout.seed,
            offset: dropout.offset,
            batch: self.batch as i32,
            channels: self.channels as i32,
            spatial: self.spatial as i32,
            groups: self.groups as i32,
            chunks: plan.chunks as i32,
            chunk_positions: plan.chunk_positions as i32,
            threads_x: plan.threads_x as i32,
            threads_y: plan.threads_y as i32,
            tile_channels: plan.tile_channels as i32,
            drop_below: dropout.drop_below(),
            keep_scale: dropout.keep_scale(),
            eps: self.eps,
            ..Arguments::default()
        }
    }

    /// The shape of the kernels that go over all values.
    fn shape(&self, plan: &Plan, shared_floats: usize) -> Shape {
        Shape {
            grid: [plan.tiles as u32, plan.chunks as u32, self.batch as u32],
            block: plan.threads() as u32,
            shared_bytes: (shared_floats * size_of::<f32>()) as u32,
        }
    }

    /// A kernel's name in this layout, and the floats of shared memory that it wants of its launch: a row of the tile for
    /// each row of threads, twice, or the numbers of the tile's groups.
    fn kernel(&self, plan: &Plan, pass: Pass) -> (&'static str, usize) {
        let rows = 2 * plan.threads_y * plan.tile_channels;
        let groups = 2 * plan.tile_channels / (self.channels / self.groups);
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

    /// Enqueues y, mean and rstd.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] for shapes and addresses; else what compiling and launching says.
    ///
    /// # Safety
    /// All addresses are good for the lengths that [`Forward`] says until the kernels have run.
    pub unsafe fn forward(&self, on: &dyn Launch, memory: &Forward) -> Result<(), Error> {
        let plan = self.plan(&[memory.x, memory.y])?;
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
        let mut arguments = self.arguments(&plan);
        (arguments.scale, arguments.shift) = modulation(memory.modulation, "scale", "shift")?;
        arguments.x = memory.x;
        arguments.y = memory.y;
        arguments.weight = memory.weight;
        arguments.bias = memory.bias;
        arguments.mean = memory.mean;
        arguments.rstd = memory.rstd;
        arguments.partials = memory.workspace;
        for pass in [Pass::Statistics, Pass::Apply] {
            let (kernel, shared) = self.kernel(&plan, pass);
            // SAFETY: `Arguments` is the kernels' argument, and the addresses are good by the caller's word.
            unsafe { launch(on, &self.program(&plan), kernel, &self.shape(&plan, shared), &arguments)? };
        }
        Ok(())
    }

    /// Enqueues dx and the gradients of weight, bias, scale and shift.
    ///
    /// # Errors
    /// As [`GroupNorm::forward`].
    ///
    /// # Safety
    /// All addresses are good for the lengths that [`Backward`] says until the kernels have run.
    pub unsafe fn backward(&self, on: &dyn Launch, memory: &Backward) -> Result<(), Error> {
        let plan = self.plan(&[memory.x, memory.dy, memory.dx])?;
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
        let mut arguments = self.arguments(&plan);
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
        arguments.sums = arguments.partials + pairs(plan.chunks * self.channels);
        arguments.levels = arguments.sums + pairs(self.channels);

        let program = self.program(&plan);
        let group = self.channels / self.groups;
        let levels = Shape {
            grid: [self.groups as u32, 1, self.batch as u32],
            block: (32 * group.min(THREADS / 32)) as u32,
            shared_bytes: (2 * group * size_of::<f32>()) as u32,
        };
        let weights = Shape { grid: [self.channels.div_ceil(32) as u32, 1, 1], block: 256, shared_bytes: 0 };
        let (sums_kernel, sums_shared) = self.kernel(&plan, Pass::Sums);
        let (dx_kernel, dx_shared) = self.kernel(&plan, Pass::Dx);
        for (kernel, shape) in [
            (sums_kernel, self.shape(&plan, sums_shared)),
            ("group_norm_levels", levels),
            (dx_kernel, self.shape(&plan, dx_shared)),
            ("group_norm_weights", weights),
        ] {
            // SAFETY: as in `forward`.
            unsafe { launch(on, &program, kernel, &shape, &arguments)? };
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
enum Pass {
    Statistics,
    Apply,
    Sums,
    Dx,
}

/// Two addresses, or null for none.
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

    fn norm(layout: Layout, kind: Kind, batch: usize, channels: usize, spatial: usize, groups: usize) -> GroupNorm {
        GroupNorm { kind, layout, batch, channels, spatial, groups, eps: 1e-5, activation: Activation::Silu }
    }

    #[test]
    fn blocks_hold_whole_groups_and_cover_everything_once() {
        for layout in [Layout::ChannelsLast, Layout::Contiguous] {
            for kind in Kind::ALL {
                for channels in [32, 96, 192, 384, 576, 768, 1024, 1056, 1152, 1536, 2304] {
                    for spatial in [1, 5, 49, 64, 256, 1024, 4096, 65_536, 65_537] {
                        for batch in [1, 3, 64, 256] {
                            let norm = norm(layout, kind, batch, channels, spatial, 32);
                            for addresses in [&[16, 32][..], &[16, 18]] {
                                check_plan(&norm, &norm.plan(addresses).unwrap());
                            }
                        }
                    }
                }
            }
        }
    }

    fn check_plan(norm: &GroupNorm, plan: &Plan) {
        let group = norm.channels / norm.groups;
        assert_eq!(plan.tiles * plan.tile_channels, norm.channels, "{norm:?} {plan:?}");
        assert!(plan.tile_channels.is_multiple_of(group), "{norm:?} {plan:?}");
        assert!(plan.threads() <= THREADS && plan.threads_x * plan.threads_y > 0, "{norm:?} {plan:?}");
        assert!((plan.chunks - 1) * plan.chunk_positions < norm.spatial, "no chunk is empty: {norm:?} {plan:?}");
        assert!(plan.chunks * plan.chunk_positions >= norm.spatial, "{norm:?} {plan:?}");
        assert!(plan.chunks <= norm.most_chunks().unwrap(), "the workspace is long enough: {norm:?} {plan:?}");
        for pass in [Pass::Statistics, Pass::Apply, Pass::Sums, Pass::Dx] {
            assert!(norm.kernel(plan, pass).1 * 4 <= 48 << 10, "shared memory: {norm:?} {plan:?}");
        }
        match norm.layout {
            Layout::ChannelsLast => assert_eq!(plan.threads_x * plan.width, plan.tile_channels),
            Layout::Contiguous => {
                assert!(plan.threads_x.is_power_of_two() && plan.threads_y.is_power_of_two(), "{norm:?} {plan:?}");
                assert!((plan.threads_x * plan.threads_y).is_multiple_of(32), "{norm:?} {plan:?}");
                assert!(plan.chunk_positions.is_multiple_of(plan.width), "{norm:?} {plan:?}");
                assert!(norm.spatial.is_multiple_of(plan.width), "{norm:?} {plan:?}");
            }
        }
    }

    #[test]
    fn large_tensors_get_enough_blocks_and_wide_rows() {
        for (channels, spatial) in [(192, 4096), (384, 1024), (576, 256), (768, 64)] {
            let norm = norm(Layout::ChannelsLast, Kind::Half, 64, channels, spatial, 32);
            let plan = norm.plan(&[0, 256]).unwrap();
            assert_eq!(plan.width, 8);
            assert!(plan.threads_x * plan.threads_y >= 224, "few threads idle: {plan:?}");
            assert!(plan.tile_channels * 2 >= 256, "rows of 256 bytes: {plan:?}");
            assert!(plan.tiles * plan.chunks * 64 >= 128, "{plan:?}");
        }
    }

    #[test]
    fn what_cannot_be_moved_in_vectors_is_moved_one_by_one() {
        let shape = |channels, spatial, layout| norm(layout, Kind::Half, 2, channels, spatial, 2);
        assert_eq!(shape(16, 7, Layout::ChannelsLast).plan(&[16]).unwrap().width, 8);
        assert_eq!(shape(16, 7, Layout::ChannelsLast).plan(&[8]).unwrap().width, 1);
        assert_eq!(shape(12, 7, Layout::ChannelsLast).plan(&[16]).unwrap().width, 1);
        assert_eq!(shape(12, 8, Layout::Contiguous).plan(&[16]).unwrap().width, 8);
        assert_eq!(shape(12, 7, Layout::Contiguous).plan(&[16]).unwrap().width, 1);
    }

    #[test]
    fn shapes_that_cannot_be_are_refused_with_the_reason() {
        let good = norm(Layout::ChannelsLast, Kind::Float, 2, 64, 9, 32);
        let text = |norm: GroupNorm| norm.forward_workspace().unwrap_err().to_string();
        assert!(good.forward_workspace().is_ok());
        assert!(text(GroupNorm { groups: 5, ..good }).contains("`groups` is 5, but must be a divisor of the 64"));
        assert!(text(GroupNorm { spatial: 0, ..good }).contains("`spatial` is 0"));
        assert!(text(GroupNorm { batch: 70_000, ..good }).contains("at most 65535"));
        assert!(text(GroupNorm { spatial: 1 << 40, ..good }).contains("less than 2^30"));
        let all = Dropout { probability: 1.0, seed: 0, offset: 0 };
        assert!(text(GroupNorm { activation: Activation::SiluDropout(all), ..good }).contains("below 1"));
    }

    #[test]
    fn the_rounded_dropout_probability_and_the_scale_belong_together() {
        for probability in [0.0, 0.1, 0.3, 0.5, 0.999] {
            let dropout = Dropout { probability, seed: 1, offset: 2 };
            let dropped = f64::from(dropout.drop_below()) / 65536.0;
            assert!((dropped - probability).abs() <= 0.5 / 65536.0);
            assert!((f64::from(dropout.keep_scale()) * (1.0 - dropped) - 1.0).abs() < 1e-6);
        }
    }
}
