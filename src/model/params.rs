//! Parameters, separate from networks. A network has the names, shapes and order of its parameters. The caller owns the
//! values: flat training memory, an EMA, or a loaded checkpoint.

use std::fmt::Debug;
use std::sync::Arc;

use tch::Tensor;

use crate::ops::{Kernels, transform_weights};

/// The index of a parameter in its network, in the order of the released checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub usize);

/// The initialization of a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Zeros.
    Zeros,
    /// Ones.
    Ones,
    /// Uniform in `-bound..bound`.
    Uniform {
        /// Half the width of the interval.
        bound: f64,
    },
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
}

/// The description of a parameter, without its values.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// The name in the released checkpoints, such as `input_blocks.1.0.in_layers.2.weight`.
    pub name: String,
    /// The shape in libtorch's order.
    pub shape: Vec<i64>,
    /// Whether the parameter belongs to a convolution of the torso, which has half precision in mixed-precision
    /// training.
    pub torso: bool,
    /// The initialization.
    pub init: Init,
}

impl ParamSpec {
    /// Returns the number of values.
    #[must_use]
    pub fn num_elements(&self) -> usize {
        self.shape.iter().map(|&n| n as usize).product()
    }
}

/// The parameters of a network, in the order of the released checkpoints.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ParamSpecs(Vec<ParamSpec>);

impl ParamSpecs {
    /// Adds a parameter and returns its ID.
    pub fn add(&mut self, spec: ParamSpec) -> ParamId {
        self.0.push(spec);
        ParamId(self.0.len() - 1)
    }

    /// Iterates over the parameters in order.
    pub fn iter(&self) -> std::slice::Iter<'_, ParamSpec> {
        self.0.iter()
    }

    /// Returns the parameters in order.
    #[must_use]
    pub fn as_slice(&self) -> &[ParamSpec] {
        &self.0
    }

    /// Returns the number of parameters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no parameters.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the total number of values.
    #[must_use]
    pub fn num_elements(&self) -> usize {
        self.0.iter().map(ParamSpec::num_elements).sum()
    }
}

/// Parameters that do not match a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the values do not fit the network: {}", .0.join("; "))]
pub struct ParamError(pub Vec<String>);

impl ParamSpecs {
    /// Compares named shapes with these parameters.
    ///
    /// # Errors
    /// If a name is missing or unexpected, or a shape differs. The error lists the first few differences.
    pub fn check<'a>(&self, given: impl IntoIterator<Item = (&'a str, &'a [i64])>) -> Result<(), ParamError> {
        const MAX_LISTED: usize = 5;
        let given: std::collections::BTreeMap<&str, &[i64]> = given.into_iter().collect();
        let mut differences = Vec::new();
        for spec in &self.0 {
            match given.get(spec.name.as_str()) {
                None => differences.push(format!("{} is missing", spec.name)),
                Some(shape) if *shape != spec.shape => {
                    differences.push(format!("{} has shape {shape:?}, not {:?}", spec.name, spec.shape));
                }
                Some(_) => {}
            }
        }
        let known: std::collections::BTreeSet<&str> = self.0.iter().map(|spec| spec.name.as_str()).collect();
        differences
            .extend(given.keys().filter(|name| !known.contains(*name)).map(|name| format!("{name} is unexpected")));
        if differences.len() > MAX_LISTED {
            let more = differences.len() - MAX_LISTED;
            differences.truncate(MAX_LISTED);
            differences.push(format!("and {more} more"));
        }
        if differences.is_empty() { Ok(()) } else { Err(ParamError(differences)) }
    }
}

/// A tensor of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerTensor {
    /// What the layer takes.
    Input,
    /// What the layer returns.
    Output,
}

/// Sees the tensors of layers while a network runs. A replay of a step finds values that are not finite with it. Backward
/// may run a layer again on another thread, if activations are recomputed.
pub trait Probe: Debug + Send + Sync {
    /// Sees a tensor of the layer whose first parameter is `layer`. The tensor is part of the graph if one is recorded.
    fn see(&self, layer: ParamId, tensor: LayerTensor, values: &Tensor);
}

/// The values of a network's parameters: one tensor for each [`ParamSpec`], in order. Clones share the values.
#[derive(Debug, Clone)]
pub struct Params {
    tensors: Arc<Tensors>,
    /// Sees what the layers compute with these values.
    probe: Option<Arc<dyn Probe>>,
}

#[derive(Debug)]
struct Tensors {
    values: Vec<Tensor>,
    /// For each parameter, its transform if a convolution uses one. Empty for parameters that change.
    transformed: Vec<Option<Tensor>>,
}

// SAFETY: libtorch's reference counts are atomic, and it allows several threads to read a tensor. The methods of `Tensor`
// that take `&self` and change the tensor all the same are `backward`, `set_requires_grad`, `f_set_data` and in-place
// operations on a `shallow_clone`. Only the thread of the training step calls them, between the forward passes that other
// threads (those of autograd, which compute activations again) take part in.
unsafe impl Sync for Tensors {}

impl Params {
    /// Creates the values from tensors in the order of the network's [`ParamSpecs`].
    #[must_use]
    pub fn new(tensors: Vec<Tensor>) -> Self {
        Self { tensors: Arc::new(Tensors { values: tensors, transformed: Vec::new() }), probe: None }
    }

    /// Returns the same values for networks that only run forward, and whose values no longer change. On the CPU, weights of
    /// convolutions are transformed here once, in place of each call. They take 16 / 9 of their memory in addition.
    #[must_use]
    pub fn for_inference(&self, kernels: &Kernels) -> Self {
        let values: Vec<Tensor> = self.tensors().iter().map(Tensor::shallow_clone).collect();
        let transformed = values.iter().map(|value| transform_weights(kernels, value)).collect();
        Self { tensors: Arc::new(Tensors { values, transformed }), probe: self.probe.clone() }
    }

    /// Returns the transform of a parameter, if it is the weight of a convolution that uses one.
    pub fn transformed(&self, id: ParamId) -> Option<&Tensor> {
        self.tensors.transformed.get(id.0)?.as_ref()
    }

    /// Returns the tensor of a parameter.
    pub fn get(&self, id: ParamId) -> &Tensor {
        &self.tensors.values[id.0]
    }

    /// Returns the same values, with a probe that sees what the layers compute with them.
    #[must_use]
    pub fn with_probe(&self, probe: Arc<dyn Probe>) -> Self {
        Self { tensors: Arc::clone(&self.tensors), probe: Some(probe) }
    }

    /// Runs a layer, whose first parameter is `layer`, on `x`. A probe sees the input and the output.
    pub(super) fn probed(&self, layer: ParamId, x: &Tensor, forward: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
        let Some(probe) = &self.probe else { return forward(x) };
        // An alias has a gradient of its own: that of this layer only, if other layers take `x` too.
        let x = x.alias();
        probe.see(layer, LayerTensor::Input, &x);
        let output = forward(&x);
        probe.see(layer, LayerTensor::Output, &output);
        output
    }

    /// Returns all tensors in order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_read_the_same_parameters() {
        let values: Vec<f32> = (0..4096).map(|i| i as f32).collect();
        let params = Params::new(vec![Tensor::from_slice(&values)]);
        let expected: f64 = values.iter().map(|value| f64::from(*value)).sum();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let params = params.clone();
                scope.spawn(move || {
                    for _ in 0..100 {
                        let copy = params.get(ParamId(0)).shallow_clone();
                        assert_eq!(copy.sum(tch::Kind::Double).double_value(&[]), expected);
                    }
                });
            }
        });
        assert_eq!(params.get(ParamId(0)).sum(tch::Kind::Double).double_value(&[]), expected);
    }

    #[test]
    fn check_lists_differences_by_name() {
        let mut specs = ParamSpecs::default();
        for (name, shape) in [("a", vec![2, 3]), ("b", vec![4])] {
            specs.add(ParamSpec { name: name.into(), shape, torso: false, init: Init::Zeros });
        }
        assert_eq!(specs.num_elements(), 10);
        assert_eq!(specs.check([("a", [2i64, 3].as_slice()), ("b", &[4])]), Ok(()));
        let error = specs.check([("a", [3i64, 2].as_slice()), ("c", &[4])]).map_err(|error| error.0);
        assert_eq!(
            error,
            Err(vec!["a has shape [3, 2], not [2, 3]".into(), "b is missing".into(), "c is unexpected".into()])
        );
    }
}
