//! Dynamic loss scaling: half-precision gradients are computed of the loss times 2^lg, so that small ones do not
//! vanish; lg grows a little every good step and falls by one where a gradient overflowed.

/// What loss scaling says of a step's gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The gradients are finite: take the step.
    Step,
    /// A gradient overflowed: skip the step, the scale has been lowered.
    Skip,
    /// A gradient overflowed and the scale cannot fall further: training has diverged.
    Diverged,
}

/// The state of loss scaling. It is part of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LossScale {
    /// float32 and bfloat16: gradients have float32's range and need no scale; one that is not finite is no
    /// overflow but a diverged run.
    Off,
    /// float16.
    Dynamic {
        /// The base-2 logarithm of the scale of the next step.
        lg: f64,
        /// What a good step adds to it.
        growth: f64,
        /// Below this the run stops: no gradient is large enough to overflow under so small a scale.
        floor: f64,
    },
}

impl LossScale {
    /// The base-2 logarithm of the scale, 0 where there is none.
    #[must_use]
    pub fn lg(&self) -> f64 {
        match self {
            Self::Off => 0.0,
            Self::Dynamic { lg, .. } => *lg,
        }
    }

    /// The factor on the loss.
    #[must_use]
    pub fn factor(&self) -> f64 {
        self.lg().exp2()
    }

    /// Decides on a step whose gradients are all finite, or are not, and moves the scale.
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
    fn the_scale_grows_slowly_falls_by_one_and_stops_at_the_floor() {
        let mut scale = LossScale::Dynamic { lg: 1.5, growth: 0.25, floor: 0.0 };
        assert_eq!((scale.judge(true), scale.lg()), (Verdict::Step, 1.75));
        assert_eq!((scale.judge(false), scale.lg()), (Verdict::Skip, 0.75));
        assert_eq!((scale.judge(false), scale.lg()), (Verdict::Diverged, -0.25));
    }

    #[test]
    fn without_a_scale_a_bad_gradient_is_divergence() {
        let mut scale = LossScale::Off;
        assert_eq!((scale.judge(true), scale.judge(false), scale.factor()), (Verdict::Step, Verdict::Diverged, 1.0));
    }
}
