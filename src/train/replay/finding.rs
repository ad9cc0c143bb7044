//! A tensor with values that are not finite.

use std::fmt;

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::pass::Pass;
use crate::train::black_box::Number;

/// What a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The values of a parameter.
    Parameter,
    /// The images of a pass.
    Image,
    /// The noise of a pass.
    Noise,
    /// The input of a layer.
    Input,
    /// The output of a layer.
    Output,
    /// The loss of each sample.
    Loss,
    /// The gradient with respect to the output of a layer.
    OutputGradient,
    /// The gradient with respect to the input of a layer.
    InputGradient,
    /// The gradient of a parameter.
    ParameterGradient,
}

/// The least and the greatest finite value of a tensor; `None` if it has none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Range {
    /// The least value.
    pub min: f64,
    /// The greatest value.
    pub max: f64,
}

/// A sample of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FoundSample {
    /// Its position in the pass.
    pub position: usize,
    /// Its index in the run.
    pub index: u64,
    /// Its diffusion timestep.
    pub timestep: i64,
}

/// A tensor with values that are not finite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The rank whose samples were replayed.
    pub rank: usize,
    /// The pass of the rank in the step.
    pub pass: usize,
    /// The module path of the layer or the name of the parameter; empty for the images, the noise and the loss.
    pub module: String,
    /// What the tensor is.
    pub tensor: What,
    /// Its data type.
    pub data_type: String,
    /// Its shape.
    pub shape: Vec<i64>,
    /// The number of values that are NaN.
    pub num_nan: u64,
    /// The number of infinite values.
    pub num_infinite: u64,
    /// The range of its finite values.
    pub range: Option<Range>,
    /// The position of the first value that is not finite.
    pub first: Vec<i64>,
    /// The value there.
    pub value: Number,
    /// The sample that this value belongs to.
    pub sample: Option<FoundSample>,
    /// For the output of a layer, the range of the layer's input; for the loss, that of the network's output.
    pub input_range: Option<Range>,
    /// The last tensor before it that was seen to be finite.
    pub after: Option<String>,
}

/// Returns whether all values of a tensor are finite.
pub(super) fn is_finite(values: &Tensor) -> bool {
    let _no_grad = tch::no_grad_guard();
    !values.is_floating_point() || bool::try_from(values.isfinite().all()).unwrap_or(false)
}

fn host_values(values: &Tensor) -> Vec<f32> {
    let _no_grad = tch::no_grad_guard();
    let flat = values.to_device(Device::Cpu).to_kind(Kind::Float).contiguous().flatten(0, -1);
    Vec::try_from(flat).unwrap_or_default()
}

/// Returns the range of the finite values.
pub(super) fn range_of(values: &Tensor) -> Option<Range> {
    range(&host_values(values))
}

fn range(values: &[f32]) -> Option<Range> {
    let mut finite = values.iter().filter(|value| value.is_finite()).map(|&value| f64::from(value));
    let first = finite.next()?;
    let (min, max) = finite.fold((first, first), |(min, max), value| (min.min(value), max.max(value)));
    Some(Range { min, max })
}

impl Finding {
    /// Describes a tensor. `None` if it is finite.
    pub(super) fn of(pass: &Pass, module: &str, tensor: What, tensor_values: &Tensor) -> Option<Self> {
        let values = host_values(tensor_values);
        let first = values.iter().position(|value| !value.is_finite())?;
        let shape = tensor_values.size();
        let mut rest = first as i64;
        let mut position: Vec<i64> = Vec::new();
        for &length in shape.iter().rev() {
            position.push(rest % length.max(1));
            rest /= length.max(1);
        }
        position.reverse();
        let has_samples = !matches!(tensor, What::Parameter | What::ParameterGradient);
        let sample = position.first().filter(|_| has_samples).and_then(|&position| {
            let position = position as usize;
            Some(FoundSample {
                position,
                index: *pass.indices.get(position)?,
                timestep: *pass.timesteps.get(position)?,
            })
        });
        Some(Self {
            rank: pass.rank,
            pass: pass.number,
            module: module.to_owned(),
            tensor,
            data_type: format!("{:?}", tensor_values.kind()).to_lowercase(),
            shape,
            num_nan: values.iter().filter(|value| value.is_nan()).count() as u64,
            num_infinite: values.iter().filter(|value| value.is_infinite()).count() as u64,
            range: range(&values),
            first: position,
            value: Number(values[first].into()),
            sample,
            input_range: None,
            after: None,
        })
    }
}

/// Names a tensor for people.
pub(super) fn name_of(module: &str, tensor: What) -> String {
    match tensor {
        What::Parameter => format!("parameter {module}"),
        What::Image => "the images".into(),
        What::Noise => "the noise".into(),
        What::Input => format!("the input of {module}"),
        What::Output => format!("the output of {module}"),
        What::Loss => "the loss".into(),
        What::OutputGradient => format!("the gradient of the output of {module}"),
        What::InputGradient => format!("the gradient of the input of {module}"),
        What::ParameterGradient => format!("the gradient of parameter {module}"),
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |range: Option<Range>| {
            range.map_or_else(|| "none".into(), |range| format!("{:.4e} to {:.4e}", range.min, range.max))
        };
        write!(f, "{}: {} at {:?}", name_of(&self.module, self.tensor), self.value, self.first)?;
        if let Some(sample) = self.sample {
            let FoundSample { position, index, timestep } = sample;
            write!(f, ", sample {index} (number {position} of its pass, timestep {timestep})")?;
        }
        write!(f, ", rank {}, pass {}", self.rank, self.pass)?;
        write!(
            f,
            "\n    {} {:?}, {} NaN, {} infinite, finite values {}",
            self.data_type,
            self.shape,
            self.num_nan,
            self.num_infinite,
            show(self.range)
        )?;
        match self.tensor {
            What::Output => write!(f, "; the layer's input {}", show(self.input_range))?,
            What::Loss => write!(f, "; the network's output {}", show(self.input_range))?,
            _ => {}
        }
        if let Some(after) = &self.after {
            write!(f, "\n    the tensor before it, {after}, is finite")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_finding_names_the_sample_the_position_and_the_range() {
        let pass = Pass { rank: 1, number: 2, indices: vec![40, 41], timesteps: vec![7, 900] };
        let values = Tensor::from_slice(&[1.0f32, -2.0, 3.0, 4.0, f32::INFINITY, 5.0, f32::NAN, 6.0]).view([2, 2, 2]);
        let found = Finding::of(&pass, "out.2", What::Output, &values).unwrap();
        assert_eq!(found.sample, Some(FoundSample { position: 1, index: 41, timestep: 900 }));
        assert_eq!((found.first.as_slice(), found.num_nan, found.num_infinite), ([1, 0, 0].as_slice(), 1, 1));
        assert_eq!(found.range, Some(Range { min: -2.0, max: 6.0 }));
        let text = found.to_string();
        for part in ["the output of out.2: inf at [1, 0, 0]", "sample 41", "timestep 900", "rank 1, pass 2"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(Finding::of(&pass, "out.2", What::Output, &values.nan_to_num(0.0, 0.0, 0.0)), None);
        assert!(!is_finite(&values) && is_finite(&values.nan_to_num(0.0, 0.0, 0.0)));
        assert!(is_finite(&Tensor::from_slice(&[3i64])));
    }
}
