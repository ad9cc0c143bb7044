//! The tensors of the network in state dicts, in PyTorch's formats and in safetensors.

use std::collections::HashMap;
use std::io::{Read, Seek};

use admiral_torch_files::{Dtype, Error, StateDict};

use crate::names::Naming;
use crate::read::{Problem, Values, shape_problem};
use crate::tensors::tensors;

/// What PyTorch's batch normalization keeps beside what the network needs.
const IGNORED: &str = ".num_batches_tracked";

/// Reads the weights from a state dict.
pub(crate) fn read<R: Read + Seek>(mut state: StateDict<R>) -> Result<Values, Problem> {
    let naming =
        Naming::of(state.tensors().iter().map(|tensor| tensor.name.as_str())).map_err(Problem::OtherNetwork)?;
    let mut places: HashMap<String, usize> = HashMap::new();
    for (place, tensor) in state.tensors().iter().enumerate() {
        if let Some(name) = naming.canonical(&tensor.name).filter(|name| !name.ends_with(IGNORED)) {
            places.insert(name, place);
        }
    }
    let has_classes = places.contains_key("fc.weight") || places.contains_key("fc.bias");
    let mut values = Values::default();
    for expected in tensors().into_iter().filter(|tensor| has_classes || !tensor.is_last_layer()) {
        let Some(place) = places.remove(&expected.name) else {
            values.difference(format!("it has no tensor {}", expected.name));
            continue;
        };
        let found = &state.tensors()[place];
        if found.shape != expected.shape {
            values.difference(shape_problem(&expected.name, &found.shape, &expected.shape));
            continue;
        }
        if !matches!(found.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            values.difference(format!("{} is {:?}, no kind of floating-point numbers", expected.name, found.dtype));
            continue;
        }
        let mut numbers = vec![0.0; expected.num_elements()];
        state.read_f32(place, &mut numbers).map_err(problem)?;
        values.insert(&expected.name, Some(numbers));
    }
    let mut others: Vec<String> = places.into_keys().collect();
    others.sort_unstable();
    for name in others {
        values.difference(format!("it has a tensor {name}, which the network does not have"));
    }
    Ok(values)
}

/// Converts an error of the reader of state dicts.
pub(crate) fn problem(error: Error) -> Problem {
    match error {
        Error::Io(source) => Problem::Io(source),
        Error::Damaged(reason) => Problem::Damaged(reason),
        Error::Foreign(reason) => Problem::Foreign(reason),
        other => Problem::Foreign(other.to_string()),
    }
}
