// The CPU kernels. Compiled once for each instruction set, with -DADMIRAL_INSTRUCTION_SET=name: see kernels.h. The
// compiler vectorizes all loops for the instruction set. The included parts define all functions in unnamed namespaces,
// so that instruction sets do not share functions.
#include "kernels_group_norm.inl"
#include "kernels_flat.inl"
#include "kernels_winograd.inl"

namespace admiral {

#define ADMIRAL_JOIN2(a, b) a##b
#define ADMIRAL_JOIN(a, b) ADMIRAL_JOIN2(a, b)
#define ADMIRAL_TEXT2(a) #a
#define ADMIRAL_TEXT(a) ADMIRAL_TEXT2(a)

extern const Kernels ADMIRAL_JOIN(kernels_, ADMIRAL_INSTRUCTION_SET);
const Kernels ADMIRAL_JOIN(kernels_, ADMIRAL_INSTRUCTION_SET) = {
    ADMIRAL_TEXT(ADMIRAL_INSTRUCTION_SET), group_norm_scratch, group_norm_moments, group_norm_forward,
    group_norm_backward_sums, group_norm_backward, adam, average, sum_of_squares, winograd_scratch, winograd_forward,
    winograd_backward, winograd_weights_scratch, winograd_weights, winograd_weight_gradients,
};

}  // namespace admiral
