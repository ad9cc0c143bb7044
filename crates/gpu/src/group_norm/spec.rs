//! The shape, type and activation of a group normalization.

use crate::kind::Kind;
use crate::launch::{Error, require};

pub(super) const OPERATION: &str = "group normalization";
/// The largest size of a grid in y and z.
pub(super) const GRID: usize = 65_535;

/// The memory layout of a tensor without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `[batch, spatial, channels]`
    ChannelsLast,
    /// `[batch, channels, spatial]`
    Contiguous,
}

/// The activation after the normalization.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// No activation.
    None,
    /// SiLU: `z * sigmoid(z)`.
    Silu,
    /// SiLU, then dropout.
    SiluDropout(Dropout),
}

/// A dropout mask, which is a function of seed, offset, and the index of an element in memory. It is not stored;
/// backward computes it again. `probability` is rounded to a multiple of 2^-16, and the kept values are scaled
/// accordingly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// The probability that a value is set to 0, in [0, 1).
    pub probability: f64,
    /// The key of the random number generator.
    pub seed: u64,
    /// Distinguishes uses of the same seed. It must differ between steps, layers and microbatches.
    pub offset: u64,
}

impl Dropout {
    /// Returns the threshold: a value is dropped if its random number out of 65536 is below it.
    #[must_use]
    pub fn drop_below(&self) -> u32 {
        (self.probability * 65536.0).round() as u32
    }

    /// Returns the factor for the kept values.
    #[must_use]
    pub fn keep_scale(&self) -> f32 {
        65536.0 / (65536 - self.drop_below().min(65535)) as f32
    }
}

/// The shape, type and activation of a group normalization.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNorm {
    /// The type of x, y, dy and dx. Everything else is float32.
    pub kind: Kind,
    /// The layout of x, y, dy and dx.
    pub layout: Layout,
    /// The number of samples.
    pub batch: usize,
    /// The number of channels, a multiple of `groups`.
    pub channels: usize,
    /// The number of positions: height times width.
    pub spatial: usize,
    /// The number of groups of consecutive channels.
    pub groups: usize,
    /// The constant that is added to the variance.
    pub eps: f32,
    /// The activation after the normalization.
    pub activation: Activation,
}

impl GroupNorm {
    pub(super) fn check(&self) -> Result<(), Error> {
        for (name, value) in
            [("batch", self.batch), ("channels", self.channels), ("spatial", self.spatial), ("groups", self.groups)]
        {
            require(value > 0, OPERATION, name, value, "at least 1")?;
        }
        require(self.batch <= GRID, OPERATION, "batch", self.batch, format!("at most {GRID}"))?;
        require(
            self.channels.is_multiple_of(self.groups),
            OPERATION,
            "groups",
            self.groups,
            format!("a divisor of the {} channels", self.channels),
        )?;
        let group = self.channels / self.groups;
        require(group <= 4096, OPERATION, "groups", format!("{group} channels wide"), "at most 4096 channels wide")?;
        let sample = self.channels.checked_mul(self.spatial).filter(|&sample| sample <= i32::MAX as usize / 2);
        require(
            sample.is_some(),
            OPERATION,
            "spatial",
            format!("{} with {} channels", self.spatial, self.channels),
            "less than 2^30 values a sample",
        )?;
        if let Activation::SiluDropout(dropout) = self.activation {
            require(
                (0.0..1.0).contains(&dropout.probability) && dropout.drop_below() < 65536,
                OPERATION,
                "probability",
                dropout.probability,
                "at least 0 and below 1",
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_of_dropout_matches_the_rounded_probability() {
        for probability in [0.0, 0.1, 0.3, 0.5, 0.999] {
            let dropout = Dropout { probability, seed: 1, offset: 2 };
            let dropped = f64::from(dropout.drop_below()) / 65536.0;
            assert!((dropped - probability).abs() <= 0.5 / 65536.0);
            assert!((f64::from(dropout.keep_scale()) * (1.0 - dropped) - 1.0).abs() < 1e-6);
        }
    }
}
