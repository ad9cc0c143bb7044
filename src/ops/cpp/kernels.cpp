// The CPU kernels' loops. Compiled with -DADMIRAL_INSTRUCTION_SET=name for each instruction set: see kernels.h.
// Every loop is written so that the compiler turns it into vector instructions; nothing here depends on which.
// The parts define nothing outside unnamed namespaces, so that no function is shared between instruction sets.
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
