// Norms over flat memory, and the decision about a step that follows from them. Compiled with -DKIND.

struct SumOfSquaresArguments {
  const void* values;
  double* partials;  // [blocks]
  i64 length;
};

// Writes one sum per block, in float64. The square of a float32 does not overflow there, so a sum is finite if and only
// if all values are. Grid (blocks), 256 threads.
extern "C" __global__ void __launch_bounds__(256) sum_of_squares(const SumOfSquaresArguments a) {
  __shared__ double scratch[32];
  const int kWidth = 16 / SizeOf<KIND>::value;
  typedef Vector<KIND, kWidth> Values;
  const i64 vectors = a.length / kWidth;
  const i64 stride = static_cast<i64>(gridDim.x) * blockDim.x;
  const i64 thread = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  // Two independent chains of additions, which overlap.
  double sums[2] = {0, 0};
#pragma unroll 4
  for (i64 i = thread; i < vectors; i += stride) {
    Values values;
    values.load(a.values, i * kWidth);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const double value = values.get(j);
      sums[j % 2] += value * value;
    }
  }
  const i64 last = vectors * kWidth + thread;
  if (last < a.length) {
    Vector<KIND, 1> rest;
    rest.load(a.values, last);
    const double value = rest.get(0);
    sums[0] += value * value;
  }
  const double total = block_sum(sums[0] + sums[1], scratch);
  if (threadIdx.x == 0) a.partials[blockIdx.x] = total;
}

struct FinishArguments {
  const double* gradient_partials;
  const double* parameter_partials;
  StepControl* control;
  i64 num_gradient_partials;
  i64 num_parameter_partials;
  double gradient_scale;  // the inverse loss scale
  double clip_norm;       // 0 turns clipping off
  double learning_rate;
  double beta1;
  double beta2;
};

__device__ inline double sum_partials(const double* partials, i64 length, double* scratch) {
  double sum = 0;
  for (i64 i = threadIdx.x; i < length; i += blockDim.x) sum += partials[i];
  return block_sum(sum, scratch);
}

// Decides whether the step is skipped, and computes its numbers. One block of 256 threads.
extern "C" __global__ void __launch_bounds__(256) finish_norms(const FinishArguments a) {
  __shared__ double scratch[32];
  const double gradient = sum_partials(a.gradient_partials, a.num_gradient_partials, scratch);
  const double parameter = sum_partials(a.parameter_partials, a.num_parameter_partials, scratch);
  if (threadIdx.x != 0) return;
  StepControl* const control = a.control;
  const double norm = sqrt(gradient) * a.gradient_scale;
  const bool skip = !(norm <= 1.7976931348623157e308);
  control->gradient_norm = norm;
  control->parameter_norm = sqrt(parameter);
  control->skip = skip ? 1 : 0;
  control->skipped = skip ? control->skipped + 1 : 0;
  control->clip = !skip && a.clip_norm > 0 && norm > a.clip_norm ? static_cast<float>(a.clip_norm / norm) : 1.0f;
  if (skip) return;
  const u64 updates = control->updates + 1;
  control->updates = updates;
  const double exponent = static_cast<double>(updates);
  control->step_size = static_cast<float>(a.learning_rate / (1 - pow(a.beta1, exponent)));
  control->root_correction = static_cast<float>(1 / sqrt(1 - pow(a.beta2, exponent)));
}
