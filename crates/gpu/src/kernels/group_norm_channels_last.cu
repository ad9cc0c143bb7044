// Group normalization in the channels-last layout: x[sample, position, channel].
//
// A block processes a tile of whole groups, a chunk of positions, and a sample: grid (tiles, chunks, batch). Its
// threads are threads_x vectors of channels times threads_y positions, rounded up to whole warps. The coefficients of a
// thread's channels stay in registers while it loops over the positions.

struct Place {
  int sample, chunk, tx, ty;
  int channel;     // channel of the thread's first element
  int first, end;  // positions of the chunk
  bool active;
  i64 base;  // index of the sample's first element of this channel
};

__device__ inline Place place_of(const GroupNormArguments& a, int sample) {
  Place p;
  p.sample = sample;
  p.chunk = blockIdx.y;
  p.ty = threadIdx.x / a.threads_x;
  p.tx = threadIdx.x - p.ty * a.threads_x;
  p.channel = blockIdx.x * a.tile_channels + p.tx * WIDTH;
  p.first = p.chunk * a.chunk_positions;
  p.end = p.first + positions_in_chunk(a, p.chunk);
  p.active = p.ty < a.threads_y;
  p.base = static_cast<i64>(sample) * a.spatial * a.channels + p.channel;
  return p;
}

// Computes mean and sum of squared differences of each group over the chunk.
// Dynamic shared memory: 2 * threads_y * tile_channels floats.
extern "C" __global__ void __launch_bounds__(256, 3) group_norm_statistics_channels_last(const GroupNormArguments a) {
  DYNAMIC_SHARED(float, shared);
  const Place p = place_of(a, blockIdx.z);
  float* const means = shared;
  float* const squares_of = shared + a.threads_y * a.tile_channels;
  const int positions = p.end - p.first;
  if (p.active && p.first + p.ty < p.end) {
    // Each thread sums differences from its first values, which are near the mean of its values.
    float origin[WIDTH], sum[WIDTH], squares[WIDTH];
    Values values;
    values.load(a.x, p.base + static_cast<i64>(p.first + p.ty) * a.channels);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      origin[i] = values.get(i);
      sum[i] = 0;
      squares[i] = 0;
    }
#pragma unroll 4
    for (int position = p.first + p.ty; position < p.end; position += a.threads_y) {
      values.load(a.x, p.base + static_cast<i64>(position) * a.channels);
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        const float difference = values.get(i) - origin[i];
        sum[i] += difference;
        squares[i] += difference * difference;
      }
    }
    const float count = static_cast<float>((positions - p.ty + a.threads_y - 1) / a.threads_y);
    const int at = p.ty * a.tile_channels + p.tx * WIDTH;
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      const float mean = sum[i] / count;
      means[at + i] = origin[i] + mean;
      squares_of[at + i] = squares[i] - sum[i] * mean;
    }
  }
  __syncthreads();

  const int width = a.channels / a.groups, tile_groups = a.tile_channels / width;
  const int rows = positions < a.threads_y ? positions : a.threads_y;
  const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
  const float count = static_cast<float>(width) * static_cast<float>(positions);
  for (int group = threadIdx.x / 32; group < tile_groups; group += warps) {
    const float origin = means[group * width];
    float sum = 0;
    for (int i = lane; i < width * rows; i += 32) {
      const int row = i / width;
      const float of_row = static_cast<float>((positions - row + a.threads_y - 1) / a.threads_y);
      sum += of_row * (means[row * a.tile_channels + group * width + i - row * width] - origin);
    }
    const float mean = origin + warp_sum(sum) / count;
    float squares = 0;
    for (int i = lane; i < width * rows; i += 32) {
      const int row = i / width;
      const int at = row * a.tile_channels + group * width + i - row * width;
      const float of_row = static_cast<float>((positions - row + a.threads_y - 1) / a.threads_y);
      const float difference = means[at] - mean;
      squares += squares_of[at] + of_row * difference * difference;
    }
    squares = warp_sum(squares);
    if (lane == 0) {
      const i64 chunk = static_cast<i64>(p.sample) * a.chunks + p.chunk;
      float* const partials = a.partials + 2 * (chunk * a.groups + blockIdx.x * tile_groups + group);
      partials[0] = mean;
      partials[1] = squares;
    }
  }
}

// Writes y, mean and rstd. The samples are processed in reverse order, because the last ones that the statistics read
// are still in the L2 cache. Dynamic shared memory: 2 * tile_channels / (channels / groups) floats.
extern "C" __global__ void __launch_bounds__(256, 2) group_norm_apply_channels_last(const GroupNormArguments a) {
  DYNAMIC_SHARED(float, shared);
  const Place p = place_of(a, gridDim.z - 1 - blockIdx.z);
  const int width = a.channels / a.groups, tile_groups = a.tile_channels / width;
  for (int group = threadIdx.x / 32; group < tile_groups; group += blockDim.x / 32) {
    float mean, rstd;
    combine_chunks(a, p.sample, blockIdx.x * tile_groups + group, &mean, &rstd);
    if (threadIdx.x % 32 == 0) {
      shared[group] = mean;
      shared[tile_groups + group] = rstd;
      if (p.chunk == 0) {
        const i64 place = static_cast<i64>(p.sample) * a.groups + blockIdx.x * tile_groups + group;
        a.mean[place] = mean;
        a.rstd[place] = rstd;
      }
    }
  }
  __syncthreads();
  if (!p.active) return;

  float center[WIDTH];
  Coefficients k[WIDTH];
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
    const int group = (p.tx * WIDTH + i) / width;
    center[i] = shared[group];
    k[i] = coefficients(a, p.sample, p.channel + i, shared[tile_groups + group]);
  }
  // All loads of a batch are issued before the first value is needed.
  const int kBatch = 4;
  for (int position = p.first + p.ty; position < p.end; position += kBatch * a.threads_y) {
    Values values[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j)
      if (position + j * a.threads_y < p.end)
        values[j].load(a.x, p.base + static_cast<i64>(position + j * a.threads_y) * a.channels);
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if (position + j * a.threads_y >= p.end) break;
      const i64 index = p.base + static_cast<i64>(position + j * a.threads_y) * a.channels;
      float out[WIDTH];
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) out[i] = activate((values[j].get(i) - center[i]) * k[i].factor + k[i].rest);
      dropout(a, index, out);
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) values[j].set(i, out[i]);
      values[j].store(a.y, index);
    }
  }
}

// Computes the sums of dz and of dz * (x - mean) of each channel over the chunk.
// Dynamic shared memory: 2 * threads_y * tile_channels floats.
extern "C" __global__ void __launch_bounds__(256, 2) group_norm_sums_channels_last(const GroupNormArguments a) {
  DYNAMIC_SHARED(float, shared);
  const Place p = place_of(a, blockIdx.z);
  const int width = a.channels / a.groups;
  const int half = a.threads_y * a.tile_channels;
  if (p.active) {
    float center[WIDTH], sum[WIDTH], sum_centered[WIDTH];
    Coefficients k[WIDTH];
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      const i64 group = static_cast<i64>(p.sample) * a.groups + (p.channel + i) / width;
      center[i] = a.mean[group];
      k[i] = coefficients(a, p.sample, p.channel + i, a.rstd[group]);
      sum[i] = 0;
      sum_centered[i] = 0;
    }
#pragma unroll 2
    for (int position = p.first + p.ty; position < p.end; position += a.threads_y) {
      const i64 index = p.base + static_cast<i64>(position) * a.channels;
      Values x, dy;
      x.load(a.x, index);
      dy.load(a.dy, index);
      float dz[WIDTH];
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) dz[i] = dy.get(i);
      dropout(a, index, dz);
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        const float centered = x.get(i) - center[i];
        const float gradient = dz[i] * activation_slope(centered * k[i].factor + k[i].rest);
        sum[i] += gradient;
        sum_centered[i] += gradient * centered;
      }
    }
    const int at = p.ty * a.tile_channels + p.tx * WIDTH;
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      shared[at + i] = sum[i];
      shared[half + at + i] = sum_centered[i];
    }
  }
  __syncthreads();
  for (int c = threadIdx.x; c < a.tile_channels; c += blockDim.x) {
    float sum = 0, sum_centered = 0;
    for (int row = 0; row < a.threads_y; ++row) {
      sum += shared[row * a.tile_channels + c];
      sum_centered += shared[half + row * a.tile_channels + c];
    }
    const i64 chunk = static_cast<i64>(p.sample) * a.chunks + p.chunk;
    float* const partials = a.partials + 2 * (chunk * a.channels + blockIdx.x * a.tile_channels + c);
    partials[0] = sum;
    partials[1] = sum_centered;
  }
}

// dx = rstd * (g - mean(g) - normalized * mean(g * normalized)) with g = dz * (1 + scale) * weight,
// computed as dz * factor + (x - mean) * slope + constant. The samples are processed in reverse order, as above.
extern "C" __global__ void __launch_bounds__(256, 2) group_norm_dx_channels_last(const GroupNormArguments a) {
  const Place p = place_of(a, gridDim.z - 1 - blockIdx.z);
  if (!p.active) return;
  const int width = a.channels / a.groups;
  float center[WIDTH], slope[WIDTH], constant[WIDTH];
  Coefficients k[WIDTH];
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
    const i64 group = static_cast<i64>(p.sample) * a.groups + (p.channel + i) / width;
    center[i] = a.mean[group];
    k[i] = coefficients(a, p.sample, p.channel + i, a.rstd[group]);
    slope[i] = a.dx_terms[2 * group];
    constant[i] = a.dx_terms[2 * group + 1];
  }
  const int kBatch = 2;
  for (int position = p.first + p.ty; position < p.end; position += kBatch * a.threads_y) {
    Values x[kBatch], dy[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if (position + j * a.threads_y < p.end) {
        const i64 index = p.base + static_cast<i64>(position + j * a.threads_y) * a.channels;
        x[j].load(a.x, index);
        dy[j].load(a.dy, index);
      }
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if (position + j * a.threads_y >= p.end) break;
      const i64 index = p.base + static_cast<i64>(position + j * a.threads_y) * a.channels;
      float dz[WIDTH];
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) dz[i] = dy[j].get(i);
      dropout(a, index, dz);
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        const float centered = x[j].get(i) - center[i];
        const float gradient = dz[i] * activation_slope(centered * k[i].factor + k[i].rest);
        dz[i] = gradient * k[i].factor + (centered * slope[i] + constant[i]);
      }
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) x[j].set(i, dz[i]);
      x[j].store(a.dx, index);
    }
  }
}
