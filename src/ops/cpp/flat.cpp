// The optimizer update and norms of flat CPU memory, on libtorch's threads.
#include "bridge.h"
#include "kernels.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

namespace {

// Values of one tile: they stay in the first-level cache between the update and the averages, and threads divide work
// in tiles.
constexpr int64_t kTile = 2048;
// Values of one partial sum: fixed, so that the result does not depend on the number of threads.
constexpr int64_t kChunk = 65536;

int64_t num_tiles(int64_t length, int64_t tile) { return (length + tile - 1) / tile; }

// Returns the address of the value with index `values`.
void* advance(void* memory, admiral::Kind kind, int64_t values) {
  return static_cast<char*>(memory) + values * (kind == admiral::Kind::kFloat ? 4 : 2);
}

}  // namespace

extern "C" {

// One EMA. The same layout as `Average` in bridge/cpu_kernels.rs.
struct AdmiralAverage {
  float* ema;
  float rate;
  float rest;
};

// Updates `length` values, then each of the averages.
int admiral_adam(const admiral::AdamMemory* memory, const admiral::AdamUpdate* update, const AdmiralAverage* averages,
                 int64_t num_averages, int64_t length) {
  return admiral::guarded([&] {
    const admiral::Kernels& k = admiral::kernels();
    at::parallel_for(0, num_tiles(length, kTile), 8, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t start = tile * kTile, size = std::min(kTile, length - start);
        admiral::AdamMemory at = *memory;
        at.master += start;
        at.mean += start;
        at.variance += start;
        at.gradient = advance(const_cast<void*>(at.gradient), at.gradient_kind, start);
        if (at.half) at.half = advance(at.half, at.half_kind, start);
        k.adam(at, *update, size);
        for (int64_t i = 0; i < num_averages; ++i)
          k.average(averages[i].ema + start, at.master, averages[i].rate, averages[i].rest, size);
      }
    });
  });
}

// Writes the sum of squares of `length` values of the kind `kind`.
int admiral_sum_of_squares(const void* values, int32_t kind, int64_t length, double* result) {
  return admiral::guarded([&] {
    const admiral::Kind k = static_cast<admiral::Kind>(kind);
    std::vector<double> partial(static_cast<size_t>(num_tiles(length, kChunk)));
    at::parallel_for(0, static_cast<int64_t>(partial.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        const int64_t start = chunk * kChunk;
        partial[static_cast<size_t>(chunk)] = admiral::kernels().sum_of_squares(
            advance(const_cast<void*>(values), k, start), k, std::min(kChunk, length - start));
      }
    });
    *result = 0;
    for (const double sum : partial) *result += sum;
  });
}

// Returns the instruction set of the selected kernels.
const char* admiral_instruction_set() { return admiral::kernels().instruction_set; }

}  // extern "C"
