//! Group normalization with what follows it in a residual block, forward and backward.
//!
//! ```text
//! normalized = (x - mean) * rstd                          over each (sample, group)
//! y = dropout(silu((normalized * weight + bias) * (1 + scale) + shift))
//! ```

mod passes;
mod plan;

use crate::Kind;
use crate::launch::{DevicePointer, Error, require};
use plan::Plan;

const OPERATION: &str = "group normalization";
/// The grid's bound in y and z.
const GRID: usize = 65_535;

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

/// Addresses of forward.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// Input.
    pub x: DevicePointer,
    /// Output; may be `x`.
    pub y: DevicePointer,
    /// `[channels]`
    pub weight: DevicePointer,
    /// `[channels]`
    pub bias: DevicePointer,
    /// Scale and shift, [batch, channels] each.
    pub modulation: Option<(DevicePointer, DevicePointer)>,
    /// Written, [batch, groups].
    pub mean: DevicePointer,
    /// Written, [batch, groups].
    pub rstd: DevicePointer,
    /// [`GroupNorm::forward_workspace`] bytes, of any content.
    pub workspace: DevicePointer,
}

/// Addresses of backward.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// Forward's input.
    pub x: DevicePointer,
    /// Gradient of its output.
    pub dy: DevicePointer,
    /// Written: the gradient of the input; may be `dy`.
    pub dx: DevicePointer,
    /// As in forward.
    pub weight: DevicePointer,
    /// As in forward.
    pub bias: DevicePointer,
    /// As in forward.
    pub modulation: Option<(DevicePointer, DevicePointer)>,
    /// What forward wrote.
    pub mean: DevicePointer,
    /// What forward wrote.
    pub rstd: DevicePointer,
    /// Written, `[channels]`.
    pub dweight: DevicePointer,
    /// Written, `[channels]`.
    pub dbias: DevicePointer,
    /// Written, [batch, channels] each: gradients of scale and shift; there just when modulation is.
    pub dmodulation: Option<(DevicePointer, DevicePointer)>,
    /// [`GroupNorm::backward_workspace`] bytes, of any content.
    pub workspace: DevicePointer,
}

impl GroupNorm {
    fn check(&self) -> Result<(), Error> {
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

    /// The widest that shape and addresses allow.
    fn plan(&self, addresses: &[DevicePointer]) -> Result<Plan, Error> {
        self.check()?;
        let width = self.kind.vector_width();
        let neighbours = match self.layout {
            Layout::ChannelsLast => self.channels,
            Layout::Contiguous => self.spatial,
        };
        let is_wide = neighbours.is_multiple_of(width) && addresses.iter().all(|address| address.is_multiple_of(16));
        Plan::new(self, if is_wide { width } else { 1 })
    }

    /// Both plans that a shape may get, depending on addresses.
    fn most_chunks(&self) -> Result<usize, Error> {
        Ok(self.plan(&[])?.chunks.max(self.plan(&[1])?.chunks))
    }

    /// Bytes of workspace that forward wants.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] where the shape is nothing to normalize.
    pub fn forward_workspace(&self) -> Result<usize, Error> {
        Ok(self.batch * self.most_chunks()? * self.groups * 2 * size_of::<f32>())
    }

    /// Bytes of workspace that backward wants.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] where the shape is nothing to normalize.
    pub fn backward_workspace(&self) -> Result<usize, Error> {
        let rows = (self.most_chunks()? + 1) * self.channels + self.groups;
        Ok(self.batch * rows * 2 * size_of::<f32>())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn shapes_that_cannot_be_are_refused_with_the_reason() {
        let good = GroupNorm {
            kind: Kind::Float,
            layout: Layout::ChannelsLast,
            batch: 2,
            channels: 64,
            spatial: 9,
            groups: 32,
            eps: 1e-5,
            activation: Activation::Silu,
        };
        let text = |norm: GroupNorm| norm.forward_workspace().unwrap_err().to_string();
        assert!(good.forward_workspace().is_ok());
        assert!(text(GroupNorm { groups: 5, ..good }).contains("`groups` is 5, but must be a divisor of the 64"));
        assert!(text(GroupNorm { spatial: 0, ..good }).contains("`spatial` is 0"));
        assert!(text(GroupNorm { batch: 70_000, ..good }).contains("at most 65535"));
        assert!(text(GroupNorm { spatial: 1 << 40, ..good }).contains("less than 2^30"));
        let all = Dropout { probability: 1.0, seed: 0, offset: 0 };
        assert!(text(GroupNorm { activation: Activation::SiluDropout(all), ..good }).contains("below 1"));
    }

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
