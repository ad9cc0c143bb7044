//! Device addresses, and the shape of a kernel's grid.

/// An address in device memory, which the caller owns.
pub type DevicePointer = u64;

/// The number of threads of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The number of blocks in x, y and z.
    pub grid: [u32; 3],
    /// The number of threads in a block, all in x; a multiple of the warp size.
    pub block: u32,
    /// The dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
}

/// The number of threads in a block of kernels that process flat memory.
pub(crate) const FLAT_THREADS: u32 = 256;
/// The largest number of blocks of such kernels: enough to fill any device, and few enough that each block processes
/// several vectors of long memory. It does not depend on the device, so that sums have the same bits everywhere.
const FLAT_BLOCKS: u64 = 2048;

/// Returns the shape for `length` values of flat memory, of which a thread processes `width` at once.
pub(crate) fn flat_shape(length: u64, width: u64) -> Shape {
    let blocks = length.div_ceil(width * u64::from(FLAT_THREADS)).clamp(1, FLAT_BLOCKS);
    Shape { grid: [blocks as u32, 1, 1], block: FLAT_THREADS, shared_bytes: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_blocks_grows_with_the_length_up_to_a_limit() {
        for (length, width, blocks) in [(1, 4, 1), (1024, 4, 1), (1025, 4, 2), (1 << 40, 8, 2048), (2049, 8, 2)] {
            assert_eq!(flat_shape(length, width).grid, [blocks, 1, 1], "{length} by {width}");
        }
    }
}
