// The CPU kernels: plain loops over raw memory, compiled once for every instruction set that build.rs names and
// chosen at run time. Neither this header nor kernels.cpp includes anything that defines inline functions, but for its
// parts (*.inl), whose functions lie in unnamed namespaces: the linker keeps one copy of such a function, and it could be
// the one for the newest instruction set. (The compiler's own vector intrinsics are always inlined and leave no copy.)
#pragma once

#include <stdint.h>

namespace admiral {

enum class Kind : int32_t { kFloat = 0, kHalf = 1, kBFloat16 = 2 };

// Which values of a sample dropout keeps, a function of the keys and of a value's index in [channels, spatial]: of
// 2^32 equally likely numbers those below `drop_below` drop a value. 0 is no dropout.
struct DropoutMask {
  uint32_t drop_below;
  float keep_scale;  // 1 / (1 - probability)
  uint32_t key0;
  uint32_t key1;
};

// One sample of a group normalization. x, y and their gradients are [channels, spatial], or [spatial, channels] where
// channels_last, all of one kind.
struct GroupNorm {
  int64_t channels;
  int64_t spatial;
  bool channels_last;
  bool silu;
  Kind kind;
  DropoutMask mask;
};

// A part of a sample that lies in one run of memory: some positions of all channels where channels_last, else all
// positions of some channels.
struct Piece {
  int64_t channel;
  int64_t num_channels;
  int64_t position;
  int64_t num_positions;
};

// z = x * factor + offset, and the mean of x's group; [channels] each.
struct Affine {
  const float* factor;
  const float* offset;
  const float* center;
};

// dx = dz * gain + (x - center) * slope + level, with dz the gradient before SiLU and dropout; [channels] each.
struct Slopes {
  const float* gain;
  const float* slope;
  const float* level;
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

// Channels-last float32 maps [batch, height, width, channels] of a 3x3 convolution with stride 1 and padding 1; both
// numbers of channels are multiples of kPanel. Its tiles are the squares of 2x2 outputs, or what there is of them at the
// edges, row by row, image by image.
struct Winograd {
  int64_t batch;
  int64_t height;
  int64_t width;
  int64_t inputs;
  int64_t outputs;
};

constexpr int64_t kPanel = 32;

// How 3x3 weights lie that make matrices [rows, columns]: tap by tap at row * row_step + column * column_step, from
// the last to the first where mirrored.
struct WinogradWeights {
  int64_t rows;
  int64_t columns;
  int64_t row_step;
  int64_t column_step;
  bool mirrored;
};

struct Kernels {
  const char* instruction_set;
  // Floats of scratch memory that the four functions below need. Their x, y, dy, dx and coefficients are the whole
  // sample's, their sums and moments the piece's: [num_channels].
  int64_t (*group_norm_scratch)(const GroupNorm& norm);
  // Writes for each channel of a piece the mean, and the sum of the squared differences from it.
  void (*group_norm_moments)(const GroupNorm& norm, const Piece& piece, const void* x, double* mean, double* squares,
                             float* scratch);
  // Writes a piece of y.
  void (*group_norm_forward)(const GroupNorm& norm, const Piece& piece, const Affine& affine, const void* x, void* y,
                             float* scratch);
  // Writes for each channel of a piece the sums of dz and of dz * (x - center). It leaves dz in `dz`, which has a place
  // for each value of the piece in the order of x, and the function below finds it there. Where `dz` is null it leaves
  // nothing, and the function below computes dz once more. In float32 dx's memory may be dz's.
  void (*group_norm_backward_sums)(const GroupNorm& norm, const Piece& piece, const Affine& affine, const void* x,
                                   const void* dy, float* dz, double* sum_dz, double* sum_dz_centered,
                                   float* scratch);
  // Writes a piece of dx.
  void (*group_norm_backward)(const GroupNorm& norm, const Piece& piece, const Affine& affine, const Slopes& slopes,
                              const void* x, const void* dy, float* dz, void* dx, float* scratch);
  // Updates `length` values.
  void (*adam)(const AdamMemory& memory, const AdamUpdate& update, int64_t length);
  // ema = ema * rate + master * rest, for `length` values.
  void (*average)(float* ema, const float* master, float rate, float rest, int64_t length);
  // The sum of squares of `length` values, in an order that depends on nothing but `length`.
  double (*sum_of_squares)(const void* values, Kind kind, int64_t length);
  // Floats of scratch memory for so many tiles of the two functions below.
  int64_t (*winograd_scratch)(const Winograd& maps, int64_t tiles);
  // Writes tiles `begin` to `end` of y, with the weights as `winograd_weights` gives them for rows of inputs. `bias` may
  // be null.
  void (*winograd_forward)(const Winograd& maps, const float* x, const float* weights, const float* bias, int64_t begin,
                           int64_t end, float* scratch, float* y);
  // Adds what these tiles give to the gradients of the transformed weights, and of the bias.
  void (*winograd_backward)(const Winograd& maps, const float* x, const float* dy, int64_t begin, int64_t end,
                            float* scratch, float* dweights, float* dbias);
  // Floats of scratch memory for the two functions below.
  int64_t (*winograd_weights_scratch)(const WinogradWeights& lie);
  // Transforms these rows to 16 matrices [columns / kPanel, rows, kPanel].
  void (*winograd_weights)(const WinogradWeights& lie, const float* weights, int64_t begin, int64_t end, float* scratch,
                           float* to);
  // From the gradients of those matrices to the weights', which are not mirrored.
  void (*winograd_weight_gradients)(const WinogradWeights& lie, const float* from, int64_t begin, int64_t end,
                                    float* scratch, float* dweights);
};

// The kernels for the machine at hand.
const Kernels& kernels();

}  // namespace admiral
