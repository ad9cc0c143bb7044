// A hash of flat memory, which does not depend on the shape of the grid.

struct HashArguments {
  const u64* words;
  u64* partials;  // [blocks]
  i64 length;
};

// Must be the function `mix` of `hash.rs`.
__device__ inline u64 mix(u64 word, u64 index) {
  u64 z = word + (index + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 32)) * 0xbf58476d1ce4e5b9ull;
  return z ^ (z >> 29);
}

// Writes one sum per block; the hash is the sum of all of them modulo 2^64. Grid (blocks), 256 threads.
extern "C" __global__ void __launch_bounds__(256) hash_words(const HashArguments a) {
  __shared__ u64 scratch[32];
  const i64 stride = static_cast<i64>(gridDim.x) * blockDim.x;
  u64 sum = 0;
#pragma unroll 4
  for (i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x; i < a.length; i += stride) {
    sum += mix(a.words[i], static_cast<u64>(i));
  }
  const u64 total = block_sum(sum, scratch);
  if (threadIdx.x == 0) a.partials[blockIdx.x] = total;
}
