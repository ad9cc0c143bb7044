// The decision of the device about a step, without waiting for the host. norms.cu writes it, adam.cu reads it.
struct StepControl {
  double gradient_norm;   // l2 norm of the unscaled gradient before clipping; not finite if the step is skipped
  double parameter_norm;  // l2 norm of the masters before the step
  u64 updates;            // number of updates, including this one unless it is skipped
  u64 skipped;            // number of consecutive skipped steps, including this one
  float clip;             // factor of the gradient
  float step_size;        // learning_rate / (1 - beta1^updates)
  float root_correction;  // 1 / sqrt(1 - beta2^updates)
  u32 skip;               // 1 if the step is skipped, else 0
};
