// Group normalization in the contiguous layout: x[sample, channel, position].
//
// A block processes a group, a chunk of positions, and a sample: grid (groups, chunks, batch). Its threads are
// threads_x (a power of two) vectors of positions times threads_y channels: threads_x * threads_y is a whole number of
// warps.

struct Place {
  int sample, chunk, group, width, tx, ty;
  int first, end;  // positions of the chunk
  i64 base;        // index of the group's first element
};

__device__ inline Place place_of(const GroupNormArguments& a, int sample) {
  Place p;
  p.sample = sample;
  p.chunk = blockIdx.y;
  p.group = blockIdx.x;
  p.width = a.channels / a.groups;
  p.ty = threadIdx.x / a.threads_x;
  p.tx = threadIdx.x - p.ty * a.threads_x;
  p.first = p.chunk * a.chunk_positions;
  p.end = p.first + positions_in_chunk(a, p.chunk);
  p.base = (static_cast<i64>(sample) * a.channels + p.group * p.width) * a.spatial;
  return p;
}

// Computes mean and sum of squared differences of the group over the chunk.
extern "C" __global__ void __launch_bounds__(256, 3) group_norm_statistics_contiguous(const GroupNormArguments a) {
  __shared__ float scratch[32];
  const Place p = place_of(a, blockIdx.z);
  float origin = 0, sum = 0, squares = 0;
  int seen = 0;
  for (int c = p.ty; c < p.width; c += a.threads_y) {
    const i64 row = p.base + static_cast<i64>(c) * a.spatial;
#pragma unroll 4
    for (int position = p.first + p.tx * WIDTH; position < p.end; position += a.threads_x * WIDTH) {
      Values values;
      values.load(a.x, row + position);
      // Each thread sums differences from its first value, which is near the mean of its values.
      if (seen == 0) origin = values.get(0);
      seen += WIDTH;
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        const float difference = values.get(i) - origin;
        sum += difference;
        squares += difference * difference;
      }
    }
  }
  const float mine = static_cast<float>(seen);
  const float offset = seen ? sum / mine : 0.0f;
  const float count = static_cast<float>(p.width) * static_cast<float>(p.end - p.first);
  // Relative to the first value of the chunk, to avoid cancellation.
  Values values;
  values.load(a.x, p.base + p.first);
  const float start = values.get(0);
  const float mean = start + block_sum(seen ? mine * (origin + offset - start) : 0.0f, scratch) / count;
  const float difference = origin + offset - mean;
  const float total = block_sum(seen ? squares - sum * offset + mine * difference * difference : 0.0f, scratch);
  if (threadIdx.x == 0) {
    const i64 chunk = static_cast<i64>(p.sample) * a.chunks + p.chunk;
    a.partials[2 * (chunk * a.groups + p.group)] = mean;
    a.partials[2 * (chunk * a.groups + p.group) + 1] = total;
  }
}

// Writes y, mean and rstd. The samples are processed in reverse order, because the last ones that the statistics read
// are still in the L2 cache.
extern "C" __global__ void __launch_bounds__(256, 3) group_norm_apply_contiguous(const GroupNormArguments a) {
  const Place p = place_of(a, gridDim.z - 1 - blockIdx.z);
  float mean, rstd;
  combine_chunks(a, p.sample, p.group, &mean, &rstd);
  if (threadIdx.x == 0 && p.chunk == 0) {
    a.mean[static_cast<i64>(p.sample) * a.groups + p.group] = mean;
    a.rstd[static_cast<i64>(p.sample) * a.groups + p.group] = rstd;
  }
  // All loads of a batch are issued before the first value is needed.
  const int kBatch = 4;
  const int step = a.threads_x * WIDTH;
  for (int c = p.ty; c < p.width; c += a.threads_y) {
    const Coefficients k = coefficients(a, p.sample, p.group * p.width + c, rstd);
    const i64 row = p.base + static_cast<i64>(c) * a.spatial;
    for (int position = p.first + p.tx * WIDTH; position < p.end; position += kBatch * step) {
      Values values[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j)
        if (position + j * step < p.end) values[j].load(a.x, row + position + j * step);
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (position + j * step >= p.end) break;
        const i64 index = row + position + j * step;
        float out[WIDTH];
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) out[i] = activate((values[j].get(i) - mean) * k.factor + k.rest);
        dropout(a, index, out);
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) values[j].set(i, out[i]);
        values[j].store(a.y, index);
      }
    }
  }
}

// Computes the sums of dz and of dz * (x - mean) of each channel over the chunk.
extern "C" __global__ void __launch_bounds__(256, 2) group_norm_sums_contiguous(const GroupNormArguments a) {
  __shared__ float scratch[2][8];
  const Place p = place_of(a, blockIdx.z);
  const i64 statistics = static_cast<i64>(p.sample) * a.groups + p.group;
  const float mean = a.mean[statistics], rstd = a.rstd[statistics];
  const int segment = a.threads_x < 32 ? a.threads_x : 32, segments = a.threads_x / segment;
  // All threads make the same number of turns, because all must take part in the sums.
  for (int turn = 0; turn < p.width; turn += a.threads_y) {
    const int c = turn + p.ty;
    float sum = 0, sum_centered = 0;
    if (c < p.width) {
      const Coefficients k = coefficients(a, p.sample, p.group * p.width + c, rstd);
      const i64 row = p.base + static_cast<i64>(c) * a.spatial;
#pragma unroll 2
      for (int position = p.first + p.tx * WIDTH; position < p.end; position += a.threads_x * WIDTH) {
        Values x, dy;
        x.load(a.x, row + position);
        dy.load(a.dy, row + position);
        float dz[WIDTH];
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) dz[i] = dy.get(i);
        dropout(a, row + position, dz);
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
          const float centered = x.get(i) - mean;
          const float gradient = dz[i] * activation_slope(centered * k.factor + k.rest);
          sum += gradient;
          sum_centered += gradient * centered;
        }
      }
    }
    sum = segment_sum(sum, segment);
    sum_centered = segment_sum(sum_centered, segment);
    if (segments > 1) {
      const int warp = threadIdx.x / 32;
      __syncthreads();
      if (threadIdx.x % 32 == 0) {
        scratch[0][warp] = sum;
        scratch[1][warp] = sum_centered;
      }
      __syncthreads();
      sum = 0;
      sum_centered = 0;
      for (int i = 0; i < segments; ++i) {
        sum += scratch[0][p.ty * segments + i];
        sum_centered += scratch[1][p.ty * segments + i];
      }
    }
    if (p.tx == 0 && c < p.width) {
      const i64 chunk = static_cast<i64>(p.sample) * a.chunks + p.chunk;
      float* const partials = a.partials + 2 * (chunk * a.channels + p.group * p.width + c);
      partials[0] = sum;
      partials[1] = sum_centered;
    }
  }
}

// dx = rstd * (g - mean(g) - normalized * mean(g * normalized)) with g = dz * (1 + scale) * weight,
// computed as dz * factor + (x - mean) * slope + constant. The samples are processed in reverse order, as above.
extern "C" __global__ void __launch_bounds__(256, 2) group_norm_dx_contiguous(const GroupNormArguments a) {
  const Place p = place_of(a, gridDim.z - 1 - blockIdx.z);
  const i64 statistics = static_cast<i64>(p.sample) * a.groups + p.group;
  const float mean = a.mean[statistics], rstd = a.rstd[statistics];
  const float slope = a.dx_terms[2 * statistics], constant = a.dx_terms[2 * statistics + 1];
  const int kBatch = 2;
  const int step = a.threads_x * WIDTH;
  for (int c = p.ty; c < p.width; c += a.threads_y) {
    const Coefficients k = coefficients(a, p.sample, p.group * p.width + c, rstd);
    const i64 row = p.base + static_cast<i64>(c) * a.spatial;
    for (int position = p.first + p.tx * WIDTH; position < p.end; position += kBatch * step) {
      Values x[kBatch], dy[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (position + j * step < p.end) {
          x[j].load(a.x, row + position + j * step);
          dy[j].load(a.dy, row + position + j * step);
        }
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (position + j * step >= p.end) break;
        const i64 index = row + position + j * step;
        float dz[WIDTH];
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) dz[i] = dy[j].get(i);
        dropout(a, index, dz);
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
          const float centered = x[j].get(i) - mean;
          const float gradient = dz[i] * activation_slope(centered * k.factor + k.rest);
          dz[i] = gradient * k.factor + (centered * slope + constant);
        }
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) x[j].set(i, dz[i]);
        x[j].store(a.dx, index);
      }
    }
  }
}
