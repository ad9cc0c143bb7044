// AdamW over flat memory in one pass: unscaling, clipping, moments, masters, averages, and the half-precision copy.
// Compiled with -DGRADIENT_KIND, and with -DHALF_KIND, which is -1 if there is no half-precision copy.

#define MAX_AVERAGES 8

struct Averages {
  float* addresses[MAX_AVERAGES];
  float rates[MAX_AVERAGES];
  float rests[MAX_AVERAGES];  // 1 - rate, rounded once
  int count;
  u32 reserved;
};

// The numbers of an update, rounded once.
struct AdamUpdate {
  float gradient_scale;
  float decay;  // 1 - learning_rate * weight_decay
  float beta1_rest;
  float beta2;
  float beta2_rest;
  float root_correction;
  float epsilon;
  float step_size;
};

struct AdamArguments {
  float* master;
  float* mean;
  float* variance;
  const void* gradient;
  void* half;
  const StepControl* control;  // or null: then the numbers in `update` are used and no step is skipped
  i64 length;
  Averages averages;
  AdamUpdate update;
};

struct AdamNumbers { float gradient_scale, root_correction, step_size; };

template <int kWidth> __device__ inline void update(const AdamArguments& a, const AdamNumbers& n, i64 index) {
  Vector<KIND_FLOAT, kWidth> master, mean, variance;
  Vector<GRADIENT_KIND, kWidth> gradients;
  gradients.load(a.gradient, index);
  master.load(a.master, index);
  mean.load(a.mean, index);
  variance.load(a.variance, index);
  // All loads come before the stores, so that they overlap. The compiler may not reorder them, because addresses could
  // alias.
  Vector<KIND_FLOAT, kWidth> averages[MAX_AVERAGES];
#pragma unroll
  for (int k = 0; k < MAX_AVERAGES; ++k) {
    if (k >= a.averages.count) break;
    averages[k].load(a.averages.addresses[k], index);
  }
  float parameters[kWidth];
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const float gradient = gradients.get(i) * n.gradient_scale;
    const float m = mean.get(i) + (gradient - mean.get(i)) * a.update.beta1_rest;
    const float v = variance.get(i) * a.update.beta2 + gradient * gradient * a.update.beta2_rest;
    parameters[i] = master.get(i) * a.update.decay - n.step_size * m / (sqrtf(v) * n.root_correction + a.update.epsilon);
    mean.set(i, m);
    variance.set(i, v);
    master.set(i, parameters[i]);
  }
  master.store(a.master, index);
  mean.store(a.mean, index);
  variance.store(a.variance, index);
#if HALF_KIND >= 0
  Vector<HALF_KIND, kWidth> half;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) half.set(i, parameters[i]);
  half.store(a.half, index);
#endif
#pragma unroll
  for (int k = 0; k < MAX_AVERAGES; ++k) {
    if (k >= a.averages.count) break;
#pragma unroll
    for (int i = 0; i < kWidth; ++i)
      averages[k].set(i, averages[k].get(i) * a.averages.rates[k] + parameters[i] * a.averages.rests[k]);
    averages[k].store(a.averages.addresses[k], index);
  }
}

// Grid (blocks), 256 threads. A thread processes four elements at once.
extern "C" __global__ void __launch_bounds__(256) adam(const AdamArguments a) {
  AdamNumbers n = {a.update.gradient_scale, a.update.root_correction, a.update.step_size};
  if (a.control) {
    if (a.control->skip) return;
    n.gradient_scale *= a.control->clip;
    n.root_correction = a.control->root_correction;
    n.step_size = a.control->step_size;
  }
  const i64 vectors = a.length / 4;
  const i64 stride = static_cast<i64>(gridDim.x) * blockDim.x;
  const i64 thread = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (i64 i = thread; i < vectors; i += stride) update<4>(a, n, i * 4);
  const i64 last = vectors * 4 + thread;
  if (last < a.length) update<1>(a, n, last);
}

struct AverageArguments {
  const float* master;
  const StepControl* control;  // or null
  i64 length;
  Averages averages;
};

template <int kWidth> __device__ inline void average(const AverageArguments& a, i64 index) {
  Vector<KIND_FLOAT, kWidth> master;
  master.load(a.master, index);
#pragma unroll
  for (int k = 0; k < MAX_AVERAGES; ++k) {
    if (k >= a.averages.count) break;
    Vector<KIND_FLOAT, kWidth> values;
    values.load(a.averages.addresses[k], index);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) values.set(i, values.get(i) * a.averages.rates[k] + master.get(i) * a.averages.rests[k]);
    values.store(a.averages.addresses[k], index);
  }
}

// Updates the averages that did not fit into the launch of `adam`, from the masters that it wrote.
extern "C" __global__ void __launch_bounds__(256) more_averages(const AverageArguments a) {
  if (a.control && a.control->skip) return;
  const i64 vectors = a.length / 4;
  const i64 stride = static_cast<i64>(gridDim.x) * blockDim.x;
  const i64 thread = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (i64 i = thread; i < vectors; i += stride) average<4>(a, i * 4);
  const i64 last = vectors * 4 + thread;
  if (last < a.length) average<1>(a, last);
}
