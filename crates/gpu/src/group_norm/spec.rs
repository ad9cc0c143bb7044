//! The shape, type and activation of a group normalization.

use crate::kind::Kind;
use crate::launch::{Error, require};

pub(super) const OPERATION: &str = "group normalization";
/// The grid's bound in y and z.
pub(super) const GRID: usize = 65_535;

/// How a tensor lies in memory, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// [batch, spatial, channels]
    ChannelsLast,
    /// [batch, channels, spatial]
    Contiguous,
}

/// What follows the normalization.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// Nothing.
    None,
    /// z * sigmoid(z).
    Silu,
    /// SiLU, then dropout.
    SiluDropout(Dropout),
}

/// A dropout mask: a function of seed, offset, and an element's place in memory. It is never stored; backward draws it
/// again. `probability` is rounded to a multiple of 2^-16, and what stays is scaled by what that makes right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Of a value becoming 0, in [0, 1).
    pub probability: f64,
    /// Key of the generator.
    pub seed: u64,
    /// Names this use of the seed: another step, layer or microbatch takes another.
    pub offset: u64,
}

impl Dropout {
    /// Of 65536 equally likely numbers, those below this drop a value.
    #[must_use]
    pub fn drop_below(&self) -> u32 {
        (self.probability * 65536.0).round() as u32
    }

    /// What the values that stay are multiplied by.
    #[must_use]
    pub fn keep_scale(&self) -> f32 {
        65536.0 / (65536 - self.drop_below().min(65535)) as f32
    }
}

/// Shape and kind of a group normalization.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNorm {
    /// Of x, y, dy and dx. All else is float32.
    pub kind: Kind,
    /// Of x, y, dy and dx.
    pub layout: Layout,
    /// Samples.
    pub batch: usize,
    /// Channels; `groups` must divide them.
    pub channels: usize,
    /// Positions: height times width.
    pub spatial: usize,
    /// Groups of neighbouring channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// What follows.
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
    fn the_rounded_dropout_probability_and_the_scale_belong_together() {
        for probability in [0.0, 0.1, 0.3, 0.5, 0.999] {
            let dropout = Dropout { probability, seed: 1, offset: 2 };
            let dropped = f64::from(dropout.drop_below()) / 65536.0;
            assert!((dropped - probability).abs() <= 0.5 / 65536.0);
            assert!((f64::from(dropout.keep_scale()) * (1.0 - dropped) - 1.0).abs() < 1e-6);
        }
    }
}
