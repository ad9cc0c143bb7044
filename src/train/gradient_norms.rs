//! The norm of each parameter's gradient.

use admiral_comm::buckets::Slot;
use tch::{Device, Kind, Tensor};

use super::error::TrainError;
use super::flat::FlatMemory;

/// Returns the position of each parameter's gradient in the flat buffers, in the network's order.
pub(super) fn gradient_slots(memory: &FlatMemory) -> Vec<Slot> {
    let slots = memory.segments().iter().enumerate().flat_map(|(buffer, segment)| {
        let slot = move |offset, length| Slot { buffer, elements: offset..offset + length };
        segment.layout.ranges.iter().map(move |range| (range.param, slot(range.offset, range.length)))
    });
    let mut slots: Vec<(usize, Slot)> = slots.collect();
    slots.sort_by_key(|(param, _)| *param);
    slots.into_iter().map(|(_, slot)| slot).collect()
}

/// Computes the l2 norm of each parameter's gradient, in the network's order, from flat buffers of gradients. The norm of a
/// gradient with a value that is not finite is not finite either.
///
/// # Errors
/// When libtorch fails.
pub(super) fn gradient_norms(memory: &FlatMemory, buffers: &[Tensor]) -> Result<Vec<f64>, TrainError> {
    let _no_grad = tch::no_grad_guard();
    let norms = gradient_slots(memory).into_iter().map(|Slot { buffer, elements }| {
        let flat = buffers.get(buffer).ok_or_else(|| TrainError::Bug("a gradient has no buffer".into()))?;
        // float64, in which no sum of squares of float32 overflows.
        let values = flat.f_narrow(0, elements.start as i64, elements.len() as i64)?.f_to_kind(Kind::Double)?;
        Ok(values.f_norm()?)
    });
    let norms: Vec<Tensor> = norms.collect::<Result<_, TrainError>>()?;
    // One copy, so that the host waits for the GPU once.
    Ok(Vec::try_from(Tensor::f_stack(&norms, 0)?.f_to_device(Device::Cpu)?)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::model::{Init, ParamSpec, ParamSpecs};

    use super::*;

    #[test]
    fn norms_are_those_of_each_parameter_in_both_segments() {
        let mut specs = ParamSpecs::default();
        for (name, shape, torso) in [("a", vec![2], false), ("b", vec![20], true), ("c", vec![1], false)] {
            specs.add(ParamSpec { name: name.into(), shape, torso, init: Init::Zeros });
        }
        let memory = FlatMemory::allocate(specs, Kind::Half, 0, Device::Cpu).unwrap();
        for (gradient, value) in memory.gradients().tensors().iter().zip([3.0, 60_000.0, f64::INFINITY]) {
            let _ = gradient.shallow_clone().fill_(value);
        }
        let buffers: Vec<Tensor> = memory.segments().iter().map(|segment| segment.gradient.shallow_clone()).collect();
        let norms = gradient_norms(&memory, &buffers).unwrap();
        assert!((norms[0] - 3.0 * 2f64.sqrt()).abs() < 1e-9, "{norms:?}");
        // The largest values of float16 are multiples of 32.
        assert!((norms[1] - 60_000.0 * 20f64.sqrt()).abs() < 1e-6, "{norms:?}");
        assert!(!norms[2].is_finite());
    }
}
