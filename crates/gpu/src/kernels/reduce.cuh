// Sums over the threads of a warp and of a block, in an order that depends on the block's size alone.

// Every lane gets the sum over `segment` neighbouring lanes; all 32 lanes must take part.
template <typename T> __device__ inline T segment_sum(T value, int segment) {
  for (int distance = 1; distance < segment; distance *= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

template <typename T> __device__ inline T warp_sum(T value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

// Every thread gets the sum over the block. `scratch` holds 32 values; the block is a whole number of warps.
template <typename T> __device__ inline T block_sum(T value, T* scratch) {
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  value = warp_sum(value);
  // Also keeps this sum's writes behind the reads of one before it.
  __syncthreads();
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  T total = 0;
  for (int i = 0; i < warps; ++i) total += scratch[i];
  return total;
}
