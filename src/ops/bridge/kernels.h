// The CPU kernels: plain loops over raw memory, compiled once for every instruction set that build.rs names and
// chosen at run time. Neither this header nor kernels.cpp includes anything that defines inline functions: the linker
// keeps one copy of such a function, and it could be the one for the newest instruction set.
#pragma once

#include <stdint.h>

namespace admiral {

enum class Kind : int32_t { kFloat = 0, kHalf = 1, kBFloat16 = 2 };

// One sample of a group normalization. `x`, `y` and their gradients are [channels, spatial], or [spatial, channels]
// where channels_last; `scale` and `shift` are [channels] or both null.
struct GroupNorm {
  int64_t channels;
  int64_t spatial;
  int64_t num_groups;
  bool channels_last;
  bool silu;
  float eps;
  const float* weight;
  const float* bias;
  const float* scale;
  const float* shift;
};

// The sums over positions that the gradients of a sample's coefficients are made of, [channels] each:
// of dz, and of dz times the normalized x, where dz is the gradient before the SiLU.
struct GroupNormSums {
  float* dz;
  float* dz_normalized;
};

// The numbers of one update, already rounded to what the loop uses.
struct AdamUpdate {
  float gradient_scale;
  float decay;           // 1 - learning_rate * weight_decay
  float beta1_rest;      // 1 - beta1
  float beta2;
  float beta2_rest;      // 1 - beta2
  float root_correction; // 1 / sqrt(1 - beta2^step)
  float epsilon;
  float step_size;       // learning_rate / (1 - beta1^step)
};

struct AdamMemory {
  float* master;
  float* mean;
  float* variance;
  const void* gradient;
  Kind gradient_kind;
  void* half;  // null where there is none
  Kind half_kind;
};

struct Kernels {
  const char* instruction_set;
  // Floats of scratch memory that the two functions below need.
  int64_t (*group_norm_scratch)(const GroupNorm& norm);
  // Writes y, and the mean and 1 / standard deviation of each group.
  void (*group_norm_forward)(const GroupNorm& norm, const float* x, float* y, float* mean, float* rstd,
                             float* scratch);
  // Writes dx and the sums.
  void (*group_norm_backward)(const GroupNorm& norm, const float* x, const float* dy, const float* mean,
                              const float* rstd, float* dx, const GroupNormSums& sums, float* scratch);
  // Updates `length` values.
  void (*adam)(const AdamMemory& memory, const AdamUpdate& update, int64_t length);
  // ema = ema * rate + master * rest, for `length` values.
  void (*average)(float* ema, const float* master, float rate, float rest, int64_t length);
  // The sum of squares of `length` values, in an order that depends on nothing but `length`.
  double (*sum_of_squares)(const void* values, Kind kind, int64_t length);
};

// The kernels for the machine at hand.
const Kernels& kernels();

}  // namespace admiral
