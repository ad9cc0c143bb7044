// What the ranks' GPUs decide about a step without asking the host: written by norms.cu, read by adam.cu.
struct StepControl {
  double gradient_norm;   // l2, of the unscaled gradient, before clipping; not finite where the step is skipped
  double parameter_norm;  // l2, of the masters before the step
  u64 updates;            // updates made, this one included unless it is skipped
  u64 skipped;            // steps skipped in a row, this one included
  float clip;             // multiplies the gradient
  float step_size;        // learning_rate / (1 - beta1^updates)
  float root_correction;  // 1 / sqrt(1 - beta2^updates)
  u32 skip;               // 1: leave everything unchanged
};
