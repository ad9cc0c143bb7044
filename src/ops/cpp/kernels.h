// The CPU kernels: loops over raw memory, compiled once for each instruction set in build.rs and selected at run time.
//
// This header and kernels.cpp must not include headers that define inline functions. The linker keeps only one copy of
// an inline function, which could be the copy for the newest instruction set. The parts (*.inl) avoid this with unnamed
// namespaces. The compiler's vector intrinsics are always inlined and have no copy.
#pragma once

#include <stdint.h>

namespace admiral {

enum class Kind : int32_t { kFloat = 0, kHalf = 1, kBFloat16 = 2 };

// The dropout mask of a sample. A hash of the keys and of a value's index in [channels, spatial] gives 32 random bits,
// and a value is dropped if they are below `drop_below`. 0 disables dropout.
struct DropoutMask {
  uint32_t drop_below;
  float keep_scale;  // 1 / (1 - probability)
  uint32_t key0;
  uint32_t key1;
};

// One sample of a group normalization. x, y and their gradients have the same kind and are [channels, spatial], or
// [spatial, channels] if `channels_last`.
struct GroupNorm {
  int64_t channels;
  int64_t spatial;
  bool channels_last;
  bool silu;
  Kind kind;
  DropoutMask mask;
};

// A contiguous part of a sample: some positions of all channels if `channels_last`, otherwise all positions of some
// channels.
struct Piece {
  int64_t channel;
  int64_t num_channels;
  int64_t position;
  int64_t num_positions;
};

// The coefficients of z = x * factor + offset, and the mean of x's group, [channels] each.
struct Affine {
  const float* factor;
  const float* offset;
  const float* center;
};

// The coefficients of dx = dz * gain + (x - center) * slope + level, [channels] each. dz is the gradient of z, the
// input of SiLU and dropout.
struct Slopes {
  const float* gain;
  const float* slope;
  const float* level;
};

// The coefficients of one update, in the precision of the loop. The same layout as `AdamUpdate` in admiral-gpu.
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

// The memory of one update. The same layout as `AdamMemory` in bridge/cpu_kernels.rs.
struct AdamMemory {
  float* master;
  float* mean;
  float* variance;
  const void* gradient;
  Kind gradient_kind;
  void* half;  // null without a half copy
  Kind half_kind;
};

// The shape of a 3x3 convolution with stride 1 and padding 1 of channels-last float32 maps, [batch, height, width,
// channels]. The numbers of input and output channels are multiples of kPanel. Tiles are the squares of 2x2 outputs,
// smaller at the edges, in the order of rows and images.
struct Winograd {
  int64_t batch;
  int64_t height;
  int64_t width;
  int64_t inputs;
  int64_t outputs;
};

// The number of columns of a panel of a matrix.
constexpr int64_t kPanel = 32;

// The layout of 3x3 weights as matrices [rows, columns]. The 9 taps start at row * row_step + column * column_step, and
// are in reverse order if `mirrored`.
struct WinogradWeights {
  int64_t rows;
  int64_t columns;
  int64_t row_step;
  int64_t column_step;
  bool mirrored;
};

// The kernels of one instruction set.
struct Kernels {
  const char* instruction_set;
  // Returns the floats of scratch memory for the four functions below. x, y, dy, dx and the coefficients are those of
  // the whole sample. Sums and moments are those of the piece, [num_channels].
  int64_t (*group_norm_scratch)(const GroupNorm& norm);
  // Writes the mean of each channel of a piece, and the sum of squared differences from the mean.
  void (*group_norm_moments)(const GroupNorm& norm, const Piece& piece, const void* x, double* mean, double* squares,
                             float* scratch);
  // Writes a piece of y.
  void (*group_norm_forward)(const GroupNorm& norm, const Piece& piece, const Affine& affine, const void* x, void* y,
                             float* scratch);
  // Writes the sums of dz and of dz * (x - center) of each channel of a piece. Stores dz of each value of the piece to
  // `dz`, in the order of x, for the function below. If `dz` is null, the function below computes dz again. In float32
  // `dz` may be the memory of dx.
  void (*group_norm_backward_sums)(const GroupNorm& norm, const Piece& piece, const Affine& affine, const void* x,
                                   const void* dy, float* dz, double* sum_dz, double* sum_dz_centered,
                                   float* scratch);
  // Writes a piece of dx.
  void (*group_norm_backward)(const GroupNorm& norm, const Piece& piece, const Affine& affine, const Slopes& slopes,
                              const void* x, const void* dy, float* dz, void* dx, float* scratch);
  // Updates `length` values by AdamW.
  void (*adam)(const AdamMemory& memory, const AdamUpdate& update, int64_t length);
  // ema = ema * rate + master * rest, for `length` values.
  void (*average)(float* ema, const float* master, float rate, float rest, int64_t length);
  // Returns the sum of squares of `length` values. The order of summation depends on `length` only.
  double (*sum_of_squares)(const void* values, Kind kind, int64_t length);
  // Returns the floats of scratch memory for `tiles` tiles of the two functions below.
  int64_t (*winograd_scratch)(const Winograd& maps, int64_t tiles);
  // Writes tiles `begin` to `end` of y. `weights` is the output of `winograd_weights` with one row for each input
  // channel. `bias` may be null.
  void (*winograd_forward)(const Winograd& maps, const float* x, const float* weights, const float* bias, int64_t begin,
                           int64_t end, float* scratch, float* y);
  // Adds the contribution of tiles `begin` to `end` to the gradients of the transformed weights and of the bias.
  void (*winograd_backward)(const Winograd& maps, const float* x, const float* dy, int64_t begin, int64_t end,
                            float* scratch, float* dweights, float* dbias);
  // Returns the floats of scratch memory for the two functions below.
  int64_t (*winograd_weights_scratch)(const WinogradWeights& layout);
  // Transforms rows `begin` to `end` of the weights to 16 matrices [columns / kPanel, rows, kPanel].
  void (*winograd_weights)(const WinogradWeights& layout, const float* weights, int64_t begin, int64_t end,
                           float* scratch, float* to);
  // Transforms rows `begin` to `end` of the gradients of these matrices to gradients of the weights, which must not be
  // mirrored.
  void (*winograd_weight_gradients)(const WinogradWeights& layout, const float* from, int64_t begin, int64_t end,
                                    float* scratch, float* dweights);
};

// Returns the kernels for this CPU.
const Kernels& kernels();

}  // namespace admiral
