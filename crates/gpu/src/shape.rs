//! Addresses, and the shape of a kernel's grid.

/// An address in device memory. Memory belongs to the caller; nothing here allocates or frees it.
pub type DevicePointer = u64;

/// How many threads run a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, all in x; a whole number of warps.
    pub block: u32,
    /// Bytes of shared memory that a block is given beside what the kernel declares.
    pub shared_bytes: u32,
}

/// Threads of a block in kernels that go over flat memory, and the most blocks they are given: enough to fill any
/// device, few enough that a block has several turns where memory is long. It is no property of the device, so that
/// sums have the same bits everywhere.
pub(crate) const FLAT_THREADS: u32 = 256;
const FLAT_BLOCKS: u64 = 2048;

/// The shape for `length` values of flat memory, `width` a thread and turn.
pub(crate) fn flat_shape(length: u64, width: u64) -> Shape {
    let blocks = length.div_ceil(width * u64::from(FLAT_THREADS)).clamp(1, FLAT_BLOCKS);
    Shape { grid: [blocks as u32, 1, 1], block: FLAT_THREADS, shared_bytes: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_memory_gets_a_block_for_each_thousand_values_up_to_a_bound() {
        for (length, width, blocks) in [(1, 4, 1), (1024, 4, 1), (1025, 4, 2), (1 << 40, 8, 2048), (2049, 8, 2)] {
            assert_eq!(flat_shape(length, width).grid, [blocks, 1, 1], "{length} by {width}");
        }
    }
}
