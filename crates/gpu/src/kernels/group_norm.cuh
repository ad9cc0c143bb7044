// Common code of the group normalization kernels.
//
//   normalized = (x - mean) * rstd                     for each (sample, group)
//   z = (normalized * weight + bias) * (1 + scale) + shift
//   y = dropout(silu(z))                               silu and dropout are compile-time options
//
// Compiled with -DKIND (type of x and y), -DWIDTH (elements loaded at once), -DSILU, -DDROPOUT.
// The positions of a sample are divided into chunks, so that there are enough blocks for any batch. The results of the
// chunks are written to `partials` and combined in the order of the chunks, so no result depends on the order in which
// blocks run.

typedef Vector<KIND, WIDTH> Values;

struct GroupNormArguments {
  const void* x;
  void* y;
  const void* dy;
  void* dx;
  const float* weight;  // [channels]
  const float* bias;    // [channels]
  const float* scale;   // [batch, channels], or null as shift is
  const float* shift;
  float* mean;      // [batch, groups]
  float* rstd;      // [batch, groups]
  float* partials;  // forward [batch, chunks, groups, 2]; backward [batch, chunks, channels, 2]
  float* sums;      // backward [batch, channels, 2]: sums of dz and of dz * normalized
  float* dx_terms;    // backward [batch, groups, 2]: dx is linear in x - mean; its slope and its constant term
  float* dweight;   // [channels]
  float* dbias;     // [channels]
  float* dscale;    // [batch, channels], or null as dshift is
  float* dshift;
  u64 seed;
  u64 offset;
  int batch;
  int channels;
  int spatial;
  int groups;
  int chunks;
  int chunk_positions;
  int threads_x;
  int threads_y;
  int tile_channels;
  u32 drop_below;    // threshold out of 65536
  float keep_scale;  // 65536 / (65536 - drop_below)
  float eps;
};

__device__ inline float sigmoid(float z) { return __fdividef(1.0f, 1.0f + __expf(-z)); }

// Multiplies by the dropout mask. An element takes 16 random bits, and a call of the generator gives bits for eight
// elements. The mask is a function of (seed, offset, index), so backward computes it again.
__device__ inline void dropout(const GroupNormArguments& a, i64 index, float (&values)[WIDTH]) {
#if DROPOUT
  const Random random = philox_4x32_10(static_cast<u64>(index) >> 3, a.offset, a.seed);
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
    const int lane = (static_cast<int>(index & 7) + i) & 7;
    const u32 high = lane & 2 ? random.word[3] : random.word[2];
    const u32 low = lane & 2 ? random.word[1] : random.word[0];
    const u32 bits = ((lane & 4 ? high : low) >> (lane & 1 ? 16 : 0)) & 0xffffu;
    values[i] *= bits < a.drop_below ? 0.0f : a.keep_scale;
  }
#endif
}

// z = (x - center) * factor + rest. Subtracting the mean first avoids cancellation if the mean is far from zero.
struct Coefficients { float factor, rest; };

__device__ inline Coefficients coefficients(const GroupNormArguments& a, int sample, int channel, float rstd) {
  float factor = a.weight[channel], rest = a.bias[channel];
  if (a.scale) {
    const float multiplier = 1.0f + a.scale[static_cast<i64>(sample) * a.channels + channel];
    factor *= multiplier;
    rest = rest * multiplier + a.shift[static_cast<i64>(sample) * a.channels + channel];
  }
  Coefficients result = {rstd * factor, rest};
  return result;
}

__device__ inline float activate(float z) {
#if SILU
  return z * sigmoid(z);
#else
  return z;
#endif
}

// d activate(z) / dz
__device__ inline float activation_slope(float z) {
#if SILU
  const float gate = sigmoid(z);
  return gate * (1.0f + z * (1.0f - gate));
#else
  return 1.0f;
#endif
}

__device__ inline int positions_in_chunk(const GroupNormArguments& a, int chunk) {
  const int rest = a.spatial - chunk * a.chunk_positions;
  return rest < a.chunk_positions ? rest : a.chunk_positions;
}

// Computes mean and rstd of a group from the means and sums of squared differences of its chunks. All lanes of a warp
// must call this.
__device__ inline void combine_chunks(const GroupNormArguments& a, int sample, int group, float* mean, float* rstd) {
  const int lane = threadIdx.x % 32;
  const float* const partials = a.partials + 2 * (static_cast<i64>(sample) * a.chunks * a.groups + group);
  const i64 stride = 2 * static_cast<i64>(a.groups);
  const float width = static_cast<float>(a.channels / a.groups);
  const float count = width * static_cast<float>(a.spatial);
  // Relative to the mean of the first chunk, to avoid cancellation.
  const float first = partials[0];
  float sum = 0;
  for (int chunk = lane; chunk < a.chunks; chunk += 32)
    sum += width * positions_in_chunk(a, chunk) * (partials[chunk * stride] - first);
  const float center = first + warp_sum(sum) / count;
  float squares = 0;
  for (int chunk = lane; chunk < a.chunks; chunk += 32) {
    const float difference = partials[chunk * stride] - center;
    squares += partials[chunk * stride + 1] + width * positions_in_chunk(a, chunk) * difference * difference;
  }
  *mean = center;
  *rstd = 1.0f / sqrtf(warp_sum(squares) / count + a.eps);
}

// Combines the sums of the chunks to those of the sample, and computes slope and constant term of dx, dscale and
// dshift. Grid (groups, 1, batch), any number of whole warps, dynamic shared memory of 2 * channels / groups floats.
extern "C" __global__ void __launch_bounds__(256) group_norm_dx_terms(const GroupNormArguments a) {
  DYNAMIC_SHARED(float, shared);
  const int group = blockIdx.x, sample = blockIdx.z;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const int width = a.channels / a.groups;
  const float rstd = a.rstd[static_cast<i64>(sample) * a.groups + group];
  for (int c = warp; c < width; c += warps) {
    const int channel = group * width + c;
    const float* const partials = a.partials + 2 * (static_cast<i64>(sample) * a.chunks * a.channels + channel);
    float sum = 0, sum_centered = 0;
    for (int chunk = lane; chunk < a.chunks; chunk += 32) {
      sum += partials[chunk * 2 * static_cast<i64>(a.channels)];
      sum_centered += partials[chunk * 2 * static_cast<i64>(a.channels) + 1];
    }
    sum = warp_sum(sum);
    const float sum_normalized = warp_sum(sum_centered) * rstd;
    if (lane == 0) {
      const i64 place = static_cast<i64>(sample) * a.channels + channel;
      a.sums[2 * place] = sum;
      a.sums[2 * place + 1] = sum_normalized;
      if (a.dscale) {
        a.dscale[place] = sum_normalized * a.weight[channel] + sum * a.bias[channel];
        a.dshift[place] = sum;
      }
      const float multiplier = a.weight[channel] * (a.scale ? 1.0f + a.scale[place] : 1.0f);
      shared[c] = multiplier * sum;
      shared[width + c] = multiplier * sum_normalized;
    }
  }
  __syncthreads();
  if (warp == 0) {
    float sum = 0, sum_normalized = 0;
    for (int c = lane; c < width; c += 32) {
      sum += shared[c];
      sum_normalized += shared[width + c];
    }
    sum = warp_sum(sum);
    sum_normalized = warp_sum(sum_normalized);
    if (lane == 0) {
      const float count = static_cast<float>(width) * static_cast<float>(a.spatial);
      float* const dx_terms = a.dx_terms + 2 * (static_cast<i64>(sample) * a.groups + group);
      dx_terms[0] = -rstd * rstd * sum_normalized / count;
      dx_terms[1] = -rstd * sum / count;
    }
  }
}

// Computes dweight and dbias as sums over the batch. Grid (channels / 32, rounded up), 256 threads: 8 rows of 32
// channels.
extern "C" __global__ void __launch_bounds__(256) group_norm_weights(const GroupNormArguments a) {
  __shared__ float rows[2][8][32];
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32, channel = blockIdx.x * 32 + lane;
  float dweight = 0, dbias = 0;
  if (channel < a.channels) {
    for (int sample = row; sample < a.batch; sample += 8) {
      const i64 place = static_cast<i64>(sample) * a.channels + channel;
      const float multiplier = a.scale ? 1.0f + a.scale[place] : 1.0f;
      dbias += multiplier * a.sums[2 * place];
      dweight += multiplier * a.sums[2 * place + 1];
    }
  }
  rows[0][row][lane] = dweight;
  rows[1][row][lane] = dbias;
  __syncthreads();
  if (row == 0 && channel < a.channels) {
    dweight = 0;
    dbias = 0;
    for (int i = 0; i < 8; ++i) {
      dweight += rows[0][i][lane];
      dbias += rows[1][i][lane];
    }
    a.dweight[channel] = dweight;
    a.dbias[channel] = dbias;
  }
}
