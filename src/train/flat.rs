//! Flat memory: a few flat buffers hold all parameters, gradients, masters, moments and averages.
//!
//! With mixed precision there are two segments: one for the torso's convolutions, which are in half precision, and one
//! for the other parameters. In float32 there is one segment, and the network's parameters are views of the masters.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::model::{ParamSpec, ParamSpecs, Params, Probe};
use crate::ops::bridge;

use super::TrainError;

/// Each parameter's offset is a multiple of this many elements: 64 bytes in float32, which vector loads and oneDNN
/// prefer.
const ALIGNMENT: usize = 16;

/// The range of a parameter in the flat buffers of its segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamRange {
    /// The parameter's index in its network.
    pub param: usize,
    /// The first element.
    pub offset: usize,
    /// The number of elements.
    pub length: usize,
}

/// The parameters of a segment and their ranges in its flat buffers. The elements between two ranges stay zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentLayout {
    /// The ranges of the parameters, in the order of the released checkpoints.
    pub ranges: Vec<ParamRange>,
    /// The number of elements of a flat buffer, including padding.
    pub length: usize,
    /// The data type of the network's copy of these parameters, and of their gradients.
    pub kind: Kind,
}

/// Divides the parameters into segments: one if `torso_kind` is float32, else one for the torso and one for the rest.
#[must_use]
pub fn layout(specs: &ParamSpecs, torso_kind: Kind) -> Vec<SegmentLayout> {
    let segment = |kind, belongs: &dyn Fn(&ParamSpec) -> bool| {
        let mut ranges = Vec::new();
        let mut length = 0;
        for (param, spec) in specs.iter().enumerate().filter(|(_, spec)| belongs(spec)) {
            let range = ParamRange { param, offset: length, length: spec.num_elements() };
            length = (length + range.length).next_multiple_of(ALIGNMENT);
            ranges.push(range);
        }
        SegmentLayout { ranges, length, kind }
    };
    let segments = if torso_kind == Kind::Float {
        vec![segment(Kind::Float, &|_| true)]
    } else {
        vec![segment(torso_kind, &|spec| spec.torso), segment(Kind::Float, &|spec| !spec.torso)]
    };
    segments.into_iter().filter(|segment| segment.length > 0).collect()
}

/// The flat buffers of one segment, each a vector of the layout's length.
#[derive(Debug)]
pub struct Segment {
    /// The range of each parameter.
    pub layout: SegmentLayout,
    /// The float32 parameters that the optimizer updates.
    pub master: Tensor,
    /// Adam's running mean of gradients.
    pub mean: Tensor,
    /// Adam's running mean of squared gradients.
    pub variance: Tensor,
    /// One exponential moving average of the masters for each configured rate.
    pub emas: Vec<Tensor>,
    /// The parameters that the network computes with: the master itself in float32, else a half-precision copy.
    pub model: Tensor,
    /// Gradients, in the data type of `model`.
    pub gradient: Tensor,
}

impl Segment {
    /// Returns whether the network computes with a half-precision copy.
    #[must_use]
    pub fn is_half(&self) -> bool {
        self.layout.kind != Kind::Float
    }

    /// Returns the buffers that are equal on all ranks after a step.
    fn shared_buffers(&self) -> impl Iterator<Item = SharedBuffer<'_>> {
        let moments = [
            ("the parameters", &self.master),
            ("the mean of gradients", &self.mean),
            ("the mean of squared gradients", &self.variance),
        ];
        let mut buffers: Vec<_> = moments.map(|(name, buffer)| (name.to_owned(), buffer)).into();
        buffers.extend(self.emas.iter().enumerate().map(|(index, ema)| (format!("average {index}"), ema)));
        buffers.extend(self.is_half().then(|| ("the half-precision copy".to_owned(), &self.model)));
        buffers.into_iter().map(|(name, tensor)| SharedBuffer { name, tensor, layout: &self.layout })
    }

    fn view(&self, buffer: &Tensor, range: &ParamRange, shape: &[i64]) -> Tensor {
        buffer.narrow(0, range.offset as i64, range.length as i64).view(shape)
    }
}

/// A flat buffer that is equal on all ranks after a step.
#[derive(Debug)]
pub struct SharedBuffer<'a> {
    /// The name, for messages.
    pub name: String,
    /// The values.
    pub tensor: &'a Tensor,
    /// The ranges of the parameters.
    pub layout: &'a SegmentLayout,
}

impl SharedBuffer<'_> {
    /// Returns the range of each parameter, with the padding after it.
    pub(super) fn padded_ranges(&self) -> impl Iterator<Item = Tensor> {
        self.layout
            .ranges
            .iter()
            .map(|range| self.tensor.narrow(0, range.offset as i64, range.length.next_multiple_of(ALIGNMENT) as i64))
    }
}

/// All training state that is as large as the network.
#[derive(Debug)]
pub struct FlatMemory {
    segments: Vec<Segment>,
    params: Params,
    specs: ParamSpecs,
}

impl FlatMemory {
    /// Allocates the buffers on `device`. All values are zero until [`FlatMemory::set_master`] is called.
    ///
    /// # Errors
    /// When the memory cannot be allocated.
    pub fn allocate(specs: ParamSpecs, torso_kind: Kind, num_emas: usize, device: Device) -> Result<Self, TrainError> {
        let _no_grad = tch::no_grad_guard();
        let mut segments = Vec::new();
        for layout in layout(&specs, torso_kind) {
            let flat = |kind| Tensor::f_zeros([layout.length as i64], (kind, device));
            let master = flat(Kind::Float)?;
            let model = if layout.kind == Kind::Float { master.shallow_clone() } else { flat(layout.kind)? };
            segments.push(Segment {
                master,
                mean: flat(Kind::Float)?,
                variance: flat(Kind::Float)?,
                emas: (0..num_emas).map(|_| flat(Kind::Float)).collect::<Result<_, _>>()?,
                model,
                gradient: flat(layout.kind)?,
                layout,
            });
        }
        let params = views(&specs, &segments, |segment| &segment.model);
        let gradients = views(&specs, &segments, |segment| &segment.gradient);
        for (parameter, gradient) in params.tensors().iter().zip(gradients.tensors()) {
            let _ = parameter.set_requires_grad(true);
            bridge::set_gradient(parameter, gradient)?;
        }
        Ok(Self { segments, params, specs })
    }

    /// Returns the parameters that the network computes with. Backward accumulates their gradients.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Lets a probe see what the layers compute with the parameters.
    pub fn set_probe(&mut self, probe: Arc<dyn Probe>) {
        self.params = self.params.with_probe(probe);
    }

    /// Returns the names, shapes and order of the parameters.
    #[must_use]
    pub fn specs(&self) -> &ParamSpecs {
        &self.specs
    }

    /// Returns the flat buffers of each segment.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns views of the average with index `ema`. Sampling with an average needs no copy.
    #[must_use]
    pub fn ema_params(&self, ema: usize) -> Params {
        views(&self.specs, &self.segments, |segment| &segment.emas[ema])
    }

    /// Returns views of the masters.
    #[must_use]
    pub fn master_params(&self) -> Params {
        views(&self.specs, &self.segments, |segment| &segment.master)
    }

    /// Returns views of the gradients.
    #[must_use]
    pub fn gradients(&self) -> Params {
        views(&self.specs, &self.segments, |segment| &segment.gradient)
    }

    /// Returns all flat buffers that are equal on all ranks after a step. Gradients are not among them.
    #[must_use]
    pub fn shared_buffers(&self) -> Vec<SharedBuffer<'_>> {
        self.segments.iter().flat_map(Segment::shared_buffers).collect()
    }

    /// Changes one bit of the masters, as a fault of the memory would. For drills.
    ///
    /// # Errors
    /// When libtorch refuses.
    pub(super) fn flip_bit(&self) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        if let Some(segment) = self.segments.first() {
            let bits = segment.master.f_view_dtype(Kind::Int)?;
            let _ = bits.f_narrow(0, 1, 1)?.f_bitwise_xor_(1i64 << 20)?;
        }
        Ok(())
    }

    /// Sets the masters, the averages and the network's copy to initial values. `fill` gets the index of a parameter in
    /// the network, and writes its values.
    pub fn set_master(&self, fill: impl Fn(usize, &mut [f32])) {
        let _no_grad = tch::no_grad_guard();
        for segment in &self.segments {
            let mut values = vec![0.0f32; segment.layout.length];
            for range in &segment.layout.ranges {
                fill(range.param, &mut values[range.offset..range.offset + range.length]);
            }
            let values = Tensor::from_slice(&values);
            for mut buffer in std::iter::once(&segment.master).chain(&segment.emas).map(Tensor::shallow_clone) {
                buffer.copy_(&values);
            }
        }
        self.refresh_model();
    }

    /// Copies the masters to the network's half-precision parameters. Does nothing in float32.
    pub fn refresh_model(&self) {
        let _no_grad = tch::no_grad_guard();
        for segment in self.segments.iter().filter(|segment| segment.is_half()) {
            segment.model.shallow_clone().copy_(&segment.master);
        }
    }

    /// Sets every gradient to zero.
    pub fn zero_gradients(&self) {
        let _no_grad = tch::no_grad_guard();
        for segment in &self.segments {
            let _ = segment.gradient.shallow_clone().zero_();
        }
    }

    /// Returns the name of the last parameter, in the network's order, whose gradient has an infinity or NaN: backward
    /// reached it before the others. Only looks at the segments that `includes` selects.
    #[must_use]
    pub fn last_bad_gradient(&self, includes: impl Fn(&Segment) -> bool) -> Option<&str> {
        let bad = self.bad_parameters(&includes, |segment| &segment.gradient);
        bad.into_iter().max().map(|param| self.specs.as_slice()[param].name.as_str())
    }

    /// Returns the names of the parameters of which the optimizer's or the network's copy has an infinity or NaN, in the
    /// network's order.
    #[must_use]
    pub fn bad_values(&self) -> Vec<&str> {
        let mut bad = self.bad_parameters(&|_| true, |segment| &segment.master);
        bad.extend(self.bad_parameters(&Segment::is_half, |segment| &segment.model));
        bad.sort_unstable();
        bad.dedup();
        bad.into_iter().map(|param| self.specs.as_slice()[param].name.as_str()).collect()
    }

    /// Returns the indices of the parameters with an infinity or NaN in the buffer that `choose` selects from their segment.
    fn bad_parameters(&self, includes: &dyn Fn(&Segment) -> bool, choose: impl Fn(&Segment) -> &Tensor) -> Vec<usize> {
        let _no_grad = tch::no_grad_guard();
        let is_bad = |values: &Tensor| bool::try_from(values.isfinite().all().logical_not()).unwrap_or(true);
        let segments = self.segments.iter().filter(|segment| includes(segment) && is_bad(choose(segment)));
        let ranges = segments.flat_map(|segment| {
            let part = |range: &ParamRange| choose(segment).narrow(0, range.offset as i64, range.length as i64);
            segment.layout.ranges.iter().filter(move |range| is_bad(&part(range)))
        });
        ranges.map(|range| range.param).collect()
    }
}

/// Returns a view of each parameter, in the network's order, in the buffer that `choose` selects from its segment.
fn views(specs: &ParamSpecs, segments: &[Segment], choose: impl Fn(&Segment) -> &Tensor) -> Params {
    let _no_grad = tch::no_grad_guard();
    let mut tensors: Vec<Option<Tensor>> = specs.iter().map(|_| None).collect();
    for segment in segments {
        for range in &segment.layout.ranges {
            let shape = &specs.as_slice()[range.param].shape;
            tensors[range.param] = Some(segment.view(choose(segment), range, shape));
        }
    }
    Params::new(tensors.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::model::Init;

    use super::*;

    fn specs() -> ParamSpecs {
        let mut specs = ParamSpecs::default();
        for (name, shape, torso) in [("a", vec![3, 2], false), ("b", vec![5], true), ("c", vec![17], true)] {
            specs.add(ParamSpec { name: name.into(), shape, torso, init: Init::Zeros });
        }
        specs
    }

    #[test]
    fn float32_has_one_segment_and_half_two() {
        let full = layout(&specs(), Kind::Float);
        assert_eq!(full.len(), 1);
        let offsets: Vec<_> = full[0].ranges.iter().map(|range| (range.param, range.offset)).collect();
        assert_eq!((offsets, full[0].length), (vec![(0, 0), (1, 16), (2, 32)], 64));
        let half = layout(&specs(), Kind::Half);
        assert_eq!(half.iter().map(|s| (s.kind, s.length)).collect::<Vec<_>>(), [(Kind::Half, 48), (Kind::Float, 16)]);
    }

    #[test]
    fn backward_accumulates_gradients_in_the_flat_buffers() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let memory = FlatMemory::allocate(specs(), kind, 1, Device::Cpu).unwrap();
            memory.set_master(|param, values| values.fill(param as f32 + 1.0));
            let loss = || {
                memory
                    .params()
                    .tensors()
                    .iter()
                    .map(|p| p.to_kind(Kind::Float).square().sum(Kind::Float))
                    .sum::<Tensor>()
            };
            loss().backward();
            loss().backward();
            // The gradient of p^2 is 2p; two passes accumulate 4p.
            let total: f64 = memory.segments().iter().map(|s| s.gradient.sum(Kind::Double).double_value(&[])).sum();
            assert_eq!(total, 4.0 * (6.0 + 2.0 * 5.0 + 3.0 * 17.0));
            memory.zero_gradients();
            assert_eq!(memory.params().tensors()[1].grad().abs().sum(Kind::Double).double_value(&[]), 0.0);
        }
    }

    #[test]
    fn the_parameter_of_a_nan_gradient_is_named() {
        let memory = FlatMemory::allocate(specs(), Kind::Float, 0, Device::Cpu).unwrap();
        assert_eq!(memory.last_bad_gradient(|_| true), None);
        for param in 0..2 {
            let _ = memory.gradients().tensors()[param].get(1).fill_(f64::NAN);
        }
        assert_eq!(memory.last_bad_gradient(|_| true), Some("b"));
        assert_eq!(memory.last_bad_gradient(Segment::is_half), None);
    }

    #[test]
    fn bad_values_are_found_in_masters_and_in_the_network() {
        let memory = FlatMemory::allocate(specs(), Kind::Half, 0, Device::Cpu).unwrap();
        assert_eq!(memory.bad_values(), [""; 0]);
        let _ = memory.params().tensors()[2].detach().get(3).fill_(f64::INFINITY);
        let _ = memory.master_params().tensors()[0].get(0).fill_(f64::NAN);
        assert_eq!(memory.bad_values(), ["a", "c"]);
    }
}
