//! Parameters apart from networks: a network knows names, shapes and places; the values lie wherever the caller
//! keeps them (flat training memory, an EMA, a loaded checkpoint), and a network exists without any.

use std::sync::Arc;

use tch::Tensor;

/// The place of a parameter in its network: the released checkpoints' order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub usize);

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
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

/// A parameter without its values.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// The name that the released checkpoints give it: `input_blocks.1.0.in_layers.2.weight`.
    pub name: String,
    /// Its shape, as libtorch has it.
    pub shape: Vec<i64>,
    /// True for the convolutions of the torso, which mixed precision keeps in half.
    pub torso: bool,
    /// How it starts.
    pub init: Init,
}

impl ParamSpec {
    /// The number of values.
    #[must_use]
    pub fn num_elements(&self) -> usize {
        self.shape.iter().map(|&n| n as usize).product()
    }
}

/// Every parameter of a network, in the released checkpoints' order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ParamSpecs(Vec<ParamSpec>);

impl ParamSpecs {
    /// Adds a parameter and says its place.
    pub fn add(&mut self, spec: ParamSpec) -> ParamId {
        self.0.push(spec);
        ParamId(self.0.len() - 1)
    }

    /// The parameters in order.
    pub fn iter(&self) -> std::slice::Iter<'_, ParamSpec> {
        self.0.iter()
    }

    /// The parameters in order.
    #[must_use]
    pub fn as_slice(&self) -> &[ParamSpec] {
        &self.0
    }

    /// The number of parameter tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of values of all parameters.
    #[must_use]
    pub fn num_elements(&self) -> usize {
        self.0.iter().map(ParamSpec::num_elements).sum()
    }
}

/// Values that do not fit a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the values do not fit the network: {}", .0.join("; "))]
pub struct ParamError(pub Vec<String>);

impl ParamSpecs {
    /// Compares named shapes with these, and lists the first few that are missing, unexpected or of another shape.
    ///
    /// # Errors
    /// When a name or a shape differs.
    pub fn check<'a>(&self, given: impl IntoIterator<Item = (&'a str, &'a [i64])>) -> Result<(), ParamError> {
        const MOST: usize = 5;
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
        if differences.len() > MOST {
            let more = differences.len() - MOST;
            differences.truncate(MOST);
            differences.push(format!("and {more} more"));
        }
        if differences.is_empty() { Ok(()) } else { Err(ParamError(differences)) }
    }
}

/// The values of a network's parameters: one tensor for each spec, in order. A clone is another handle on the same values.
#[derive(Debug, Clone)]
pub struct Params {
    tensors: Arc<Tensors>,
}

#[derive(Debug)]
struct Tensors(Vec<Tensor>);

// SAFETY: through a shared reference a tensor is only read and its handle only copied, and libtorch counts handles
// atomically. What runs in place on a shallow copy is the caller's to keep apart, on one thread as on several.
unsafe impl Sync for Tensors {}

impl Params {
    /// Takes the tensors in the order of the network's specs.
    #[must_use]
    pub fn new(tensors: Vec<Tensor>) -> Self {
        Self { tensors: Arc::new(Tensors(tensors)) }
    }

    /// The tensor at a place.
    pub fn get(&self, id: ParamId) -> &Tensor {
        &self.tensors.0[id.0]
    }

    /// All tensors in order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_listed_by_name() {
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
