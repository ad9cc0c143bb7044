//! Dynamic loss scaling. In half precision, gradients are computed from the loss times 2^lg, so that small gradients do
//! not underflow. `lg` grows a little after each good step and decreases by one after an overflow.

/// The decision of loss scaling on a step's gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The gradients are finite: take the step.
    Step,
    /// A gradient overflowed: skip the step. The scale has been lowered.
    Skip,
    /// A gradient overflowed and the scale is already at its minimum: training has diverged.
    Diverged,
}

/// The state of loss scaling. It is part of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LossScale {
    /// No scaling, for float32 and bfloat16: gradients have the range of float32. A gradient that is not finite means
    /// that training has diverged.
    Off,
    /// Dynamic scaling, for float16.
    Dynamic {
        /// The base-2 logarithm of the scale of the next step.
        lg: f64,
        /// The amount that a good step adds to `lg`.
        growth: f64,
        /// The minimum of `lg`, below which the run has diverged: finite gradients do not overflow at such a small
        /// scale.
        floor: f64,
    },
}

impl LossScale {
    /// Returns the base-2 logarithm of the scale, or 0 without scaling.
    #[must_use]
    pub fn lg(&self) -> f64 {
        match self {
            Self::Off => 0.0,
            Self::Dynamic { lg, .. } => *lg,
        }
    }

    /// Returns the factor by which the loss is multiplied.
    #[must_use]
    pub fn factor(&self) -> f64 {
        self.lg().exp2()
    }

    /// Decides what to do with a step, and updates the scale.
    pub fn judge(&mut self, gradients_are_finite: bool) -> Verdict {
        match self {
            Self::Off if gradients_are_finite => Verdict::Step,
            Self::Off => Verdict::Diverged,
            Self::Dynamic { lg, growth, .. } if gradients_are_finite => {
                *lg += *growth;
                Verdict::Step
            }
            Self::Dynamic { lg, floor, .. } => {
                *lg -= 1.0;
                if *lg < *floor { Verdict::Diverged } else { Verdict::Skip }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_grows_slowly_decreases_by_one_and_diverges_below_the_floor() {
        let mut scale = LossScale::Dynamic { lg: 1.5, growth: 0.25, floor: 0.0 };
        assert_eq!((scale.judge(true), scale.lg()), (Verdict::Step, 1.75));
        assert_eq!((scale.judge(false), scale.lg()), (Verdict::Skip, 0.75));
        assert_eq!((scale.judge(false), scale.lg()), (Verdict::Diverged, -0.25));
    }

    #[test]
    fn without_scaling_a_gradient_that_is_not_finite_is_divergence() {
        let mut scale = LossScale::Off;
        assert_eq!((scale.judge(true), scale.judge(false), scale.factor()), (Verdict::Step, Verdict::Diverged, 1.0));
    }
}
