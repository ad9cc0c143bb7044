//! How the work of a group normalization is cut into blocks.

use super::{GRID, GroupNorm, Layout, OPERATION};
use crate::launch::{Error, require};

/// How the work is cut into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Values that a thread moves at once.
    pub(super) width: usize,
    pub(super) threads_x: usize,
    pub(super) threads_y: usize,
    /// Channels of a block: whole groups where channels lie together, else one group.
    pub(super) tile_channels: usize,
    pub(super) tiles: usize,
    /// Parts that a sample's positions are cut into, and how many positions each has; the last may have fewer.
    pub(super) chunks: usize,
    pub(super) chunk_positions: usize,
}

pub(super) const THREADS: usize = 256;
/// Blocks wanted: several for each multiprocessor of any device. A constant, so that sums have the same bits everywhere.
const BLOCKS: usize = 2048;
/// Vectors of channels in a block: 1 KiB in a row is as fast as memory goes, and more would leave a block few positions.
const TILE_VECTORS: usize = 64;
/// What a thread should at least do after its preparations.
const VECTORS_PER_THREAD: usize = 8;

impl Plan {
    pub(super) fn threads(&self) -> usize {
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

    pub(super) fn new(norm: &GroupNorm, width: usize) -> Result<Self, Error> {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::passes::Pass;
    use super::*;
    use crate::Kind;
    use crate::group_norm::Activation;

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
}
