// Selects the kernels for the CPU at run time.
#include "kernels.h"

namespace admiral {

extern const Kernels kernels_baseline;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512_bf16;
#endif

const Kernels& kernels() {
#if defined(__x86_64__)
  static const Kernels& chosen = []() -> const Kernels& {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      return __builtin_cpu_supports("avx512bf16") ? kernels_avx512_bf16 : kernels_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
      return kernels_avx2;
    return kernels_baseline;
  }();
  return chosen;
#else
  return kernels_baseline;
#endif
}

}  // namespace admiral
