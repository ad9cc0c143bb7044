// The memory layout of feature maps.
#pragma once

#include <ATen/core/Tensor.h>

namespace admiral {

// Whether `x`, [batch, channels, ...], is stored as [batch, positions, channels].
inline bool is_channels_last(const at::Tensor& x) {
  int64_t expected = x.size(1);
  for (int64_t d = x.dim() - 1; d >= 2; --d) {
    if (x.size(d) != 1 && x.stride(d) != expected) return false;
    expected *= x.size(d);
  }
  return (x.size(1) == 1 || x.stride(1) == 1) && (x.size(0) == 1 || x.stride(0) == expected);
}

}  // namespace admiral
