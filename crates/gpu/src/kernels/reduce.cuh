// Sums over the threads of a warp and of a block, in an order that depends only on the size of the block.

// Returns the sum over `segment` consecutive lanes to each of them. All 32 lanes must take part.
template <typename T> __device__ inline T segment_sum(T value, int segment) {
  for (int distance = 1; distance < segment; distance *= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

template <typename T> __device__ inline T warp_sum(T value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

// Returns the sum over the block to every thread. `scratch` has 32 values. The block must have whole warps.
template <typename T> __device__ inline T block_sum(T value, T* scratch) {
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  value = warp_sum(value);
  // This barrier also keeps the writes of this sum after the reads of a previous one.
  __syncthreads();
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  T total = 0;
  for (int i = 0; i < warps; ++i) total += scratch[i];
  return total;
}
