//! The division of a group normalization into blocks.

use super::spec::{GRID, GroupNorm, Layout, OPERATION};
use crate::launch::{Error, require};
use crate::shape::DevicePointer;

/// The division of a group normalization into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiling {
    /// The number of values that a thread loads or stores at once.
    pub(super) width: usize,
    pub(super) threads_x: usize,
    pub(super) threads_y: usize,
    /// The channels of a block: whole groups in the channels-last layout, else one group.
    pub(super) tile_channels: usize,
    pub(super) tiles: usize,
    /// The number of chunks that the positions of a sample are divided into.
    pub(super) chunks: usize,
    /// The number of positions in a chunk; the last chunk may have fewer.
    pub(super) chunk_positions: usize,
}

/// The largest number of threads in a block.
pub(super) const THREADS: usize = 256;
/// The desired number of blocks: several per multiprocessor on any device. It does not depend on the device, so that
/// sums have the same bits everywhere.
const BLOCKS: usize = 2048;
/// The desired number of channel vectors in a block: 1 KiB of consecutive memory reaches the full bandwidth, and more
/// would leave a block few positions.
const TILE_VECTORS: usize = 64;
/// The least number of vectors per thread that makes its preparations worthwhile.
const VECTORS_PER_THREAD: usize = 8;

impl Tiling {
    pub(super) fn threads(&self) -> usize {
        (self.threads_x * self.threads_y).next_multiple_of(32)
    }

    fn channels_last(norm: &GroupNorm, width: usize) -> Result<Self, Error> {
        let group = norm.channels / norm.groups;
        // The smallest tile has whole groups and whole vectors.
        let unit = least_common_multiple(group, width);
        let units = norm.channels / unit;
        let max_units = (TILE_VECTORS * width / unit).max(1);
        let in_tile = (1..=max_units.min(units)).rev().find(|count| units.is_multiple_of(*count)).unwrap_or(1);
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
        let max_chunks = norm.spatial.div_ceil(threads_y * VECTORS_PER_THREAD);
        let (chunks, chunk_positions) = chunks(norm, tiles, max_chunks, 1);
        Ok(Self { width, threads_x, threads_y, tile_channels, tiles, chunks, chunk_positions })
    }

    fn contiguous(norm: &GroupNorm, width: usize) -> Self {
        let group = norm.channels / norm.groups;
        let threads_x = (norm.spatial / width).next_power_of_two().min(THREADS);
        // At most as many rows as channels, but whole warps.
        let threads_y = (THREADS / threads_x).min(group.next_power_of_two().max(32_usize.div_ceil(threads_x)));
        let max_chunks = (group * norm.spatial).div_ceil(THREADS * width * VECTORS_PER_THREAD);
        let (chunks, chunk_positions) = chunks(norm, norm.groups, max_chunks, width);
        Self { width, threads_x, threads_y, tile_channels: group, tiles: norm.groups, chunks, chunk_positions }
    }

    pub(super) fn new(norm: &GroupNorm, width: usize) -> Result<Self, Error> {
        match norm.layout {
            Layout::ChannelsLast => Self::channels_last(norm, width),
            Layout::Contiguous => Ok(Self::contiguous(norm, width)),
        }
    }
}

/// Returns the number of chunks and the positions in each. There are enough chunks for all multiprocessors, but at most
/// `max_chunks`, and few enough that combining the results of the chunks, which each block of forward repeats, is cheap
/// compared with the rest of its work. The positions are a multiple of `multiple`.
fn chunks(norm: &GroupNorm, tiles: usize, max_chunks: usize, multiple: usize) -> (usize, usize) {
    let desired = BLOCKS.div_ceil(norm.batch * tiles);
    let cheap = (norm.spatial * (norm.channels / norm.groups) / 64).isqrt().max(1);
    let chunks = desired.min(max_chunks).min(cheap).clamp(1, GRID);
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
    /// Returns the tiling with the widest vectors that the shape and the addresses allow.
    pub(super) fn tiling(&self, addresses: &[DevicePointer]) -> Result<Tiling, Error> {
        self.check()?;
        let width = self.kind.vector_width();
        let consecutive = match self.layout {
            Layout::ChannelsLast => self.channels,
            Layout::Contiguous => self.spatial,
        };
        let is_wide = consecutive.is_multiple_of(width) && addresses.iter().all(|address| address.is_multiple_of(16));
        Tiling::new(self, if is_wide { width } else { 1 })
    }

    /// Returns the largest number of chunks of the two tilings that are possible for this shape, depending on the
    /// addresses.
    pub(super) fn max_chunks(&self) -> Result<usize, Error> {
        Ok(self.tiling(&[])?.chunks.max(self.tiling(&[1])?.chunks))
    }

    /// Returns the workspace size of forward in bytes.
    ///
    /// # Errors
    /// If the shape is not supported ([`Error::Unsuitable`]).
    pub fn forward_workspace(&self) -> Result<usize, Error> {
        Ok(self.batch * self.max_chunks()? * self.groups * 2 * size_of::<f32>())
    }

    /// Returns the workspace size of backward in bytes.
    ///
    /// # Errors
    /// If the shape is not supported ([`Error::Unsuitable`]).
    pub fn backward_workspace(&self) -> Result<usize, Error> {
        let rows = (self.max_chunks()? + 1) * self.channels + self.groups;
        Ok(self.batch * rows * 2 * size_of::<f32>())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::group_norm::spec::{Activation, Dropout};
    use crate::kind::Kind;

    fn norm(layout: Layout, kind: Kind, batch: usize, channels: usize, spatial: usize, groups: usize) -> GroupNorm {
        GroupNorm { kind, layout, batch, channels, spatial, groups, eps: 1e-5, activation: Activation::Silu }
    }

    #[test]
    fn blocks_have_whole_groups_and_cover_everything_once() {
        for layout in [Layout::ChannelsLast, Layout::Contiguous] {
            for kind in Kind::ALL {
                for channels in [32, 96, 192, 384, 576, 768, 1024, 1056, 1152, 1536, 2304] {
                    for spatial in [1, 5, 49, 64, 256, 1024, 4096, 65_536, 65_537] {
                        for batch in [1, 3, 64, 256] {
                            let norm = norm(layout, kind, batch, channels, spatial, 32);
                            for addresses in [&[16, 32][..], &[16, 18]] {
                                check_tiling(&norm, &norm.tiling(addresses).unwrap());
                            }
                        }
                    }
                }
            }
        }
    }

    fn check_tiling(norm: &GroupNorm, tiling: &Tiling) {
        let group = norm.channels / norm.groups;
        assert_eq!(tiling.tiles * tiling.tile_channels, norm.channels, "{norm:?} {tiling:?}");
        assert!(tiling.tile_channels.is_multiple_of(group), "{norm:?} {tiling:?}");
        assert!(tiling.threads() <= THREADS && tiling.threads_x * tiling.threads_y > 0, "{norm:?} {tiling:?}");
        assert!((tiling.chunks - 1) * tiling.chunk_positions < norm.spatial, "no chunk is empty: {norm:?} {tiling:?}");
        assert!(tiling.chunks * tiling.chunk_positions >= norm.spatial, "{norm:?} {tiling:?}");
        assert!(tiling.chunks <= norm.max_chunks().unwrap(), "the workspace is long enough: {norm:?} {tiling:?}");
        match norm.layout {
            Layout::ChannelsLast => assert_eq!(tiling.threads_x * tiling.width, tiling.tile_channels),
            Layout::Contiguous => {
                assert!(
                    tiling.threads_x.is_power_of_two() && tiling.threads_y.is_power_of_two(),
                    "{norm:?} {tiling:?}"
                );
                assert!((tiling.threads_x * tiling.threads_y).is_multiple_of(32), "{norm:?} {tiling:?}");
                assert!(tiling.chunk_positions.is_multiple_of(tiling.width), "{norm:?} {tiling:?}");
                assert!(norm.spatial.is_multiple_of(tiling.width), "{norm:?} {tiling:?}");
            }
        }
    }

    #[test]
    fn large_tensors_have_enough_blocks_and_wide_rows() {
        for (channels, spatial) in [(192, 4096), (384, 1024), (576, 256), (768, 64)] {
            let norm = norm(Layout::ChannelsLast, Kind::Half, 64, channels, spatial, 32);
            let tiling = norm.tiling(&[0, 256]).unwrap();
            assert_eq!(tiling.width, 8);
            assert!(tiling.threads_x * tiling.threads_y >= 224, "few threads idle: {tiling:?}");
            assert!(tiling.tile_channels * 2 >= 256, "rows of 256 bytes: {tiling:?}");
            assert!(tiling.tiles * tiling.chunks * 64 >= 128, "{tiling:?}");
        }
    }

    #[test]
    fn values_that_do_not_form_vectors_are_accessed_one_by_one() {
        let shape = |channels, spatial, layout| norm(layout, Kind::Half, 2, channels, spatial, 2);
        assert_eq!(shape(16, 7, Layout::ChannelsLast).tiling(&[16]).unwrap().width, 8);
        assert_eq!(shape(16, 7, Layout::ChannelsLast).tiling(&[8]).unwrap().width, 1);
        assert_eq!(shape(12, 7, Layout::ChannelsLast).tiling(&[16]).unwrap().width, 1);
        assert_eq!(shape(12, 8, Layout::Contiguous).tiling(&[16]).unwrap().width, 8);
        assert_eq!(shape(12, 7, Layout::Contiguous).tiling(&[16]).unwrap().width, 1);
    }

    #[test]
    fn unsupported_shapes_are_refused_with_the_reason() {
        let good = GroupNorm {
            kind: Kind::Float,
            layout: Layout::ChannelsLast,
            batch: 2,
            channels: 64,
            spatial: 9,
            groups: 32,
            eps: 1e-5,
            activation: Activation::Silu,
        };
        let text = |norm: GroupNorm| norm.forward_workspace().unwrap_err().to_string();
        assert!(good.forward_workspace().is_ok());
        assert!(text(GroupNorm { groups: 5, ..good }).contains("`groups` is 5, but must be a divisor of the 64"));
        assert!(text(GroupNorm { spatial: 0, ..good }).contains("`spatial` is 0"));
        assert!(text(GroupNorm { batch: 70_000, ..good }).contains("at most 65535"));
        assert!(text(GroupNorm { spatial: 1 << 40, ..good }).contains("less than 2^30"));
        let all = Dropout { probability: 1.0, seed: 0, offset: 0 };
        assert!(text(GroupNorm { activation: Activation::SiluDropout(all), ..good }).contains("below 1"));
    }
}
