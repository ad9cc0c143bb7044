//! Converts the result of a pickle to names with tensors.

use std::collections::HashMap;

use crate::error::Error;
use crate::pickle::{Pickled, TensorView, Value, ValueId};

/// The largest number of tensors in a file. Each takes memory, even if the pickle only repeats a reference to it.
const MAX_TENSORS: usize = 1 << 16;

/// The number of entries of a dictionary that are inspected for an error message. A hostile pickle may repeat a large
/// dictionary in every entry of another.
const INSPECTED_ENTRIES: usize = 100;

/// The number of nested state dicts that an error message lists.
const LISTED_STATE_DICTS: usize = 4;

/// Names with tensors, in the order of the file.
pub(crate) type Views = Vec<(String, TensorView)>;

/// Returns the names and tensors of a state dict, in its order. As in Python, a name that is set twice keeps its first
/// position and gets the last tensor.
pub(crate) fn tensors(pickled: &Pickled) -> Result<Views, Error> {
    let Value::Dict(entries) = pickled.get(pickled.top) else {
        return not_a_state_dict(format!("it holds {}", pickled.get(pickled.top).kind()));
    };
    let mut positions: HashMap<&str, usize> = HashMap::new();
    let mut tensors: Views = Vec::new();
    for (key, value) in entries {
        let Some(name) = pickled.text(*key) else {
            return not_a_state_dict(format!("{} is a key, where names are text", pickled.get(*key).kind()));
        };
        let Value::Tensor(view) = pickled.get(*value) else {
            return not_a_state_dict(describe_entry(pickled, entries, name, *value));
        };
        match positions.get(name) {
            Some(&position) => tensors[position].1 = view.clone(),
            None if tensors.len() == MAX_TENSORS => {
                return Error::unsupported(format!(
                    "it has more than {MAX_TENSORS} tensors; no network here has as many"
                ));
            }
            None => {
                positions.insert(name, tensors.len());
                tensors.push((name.to_owned(), view.clone()));
            }
        }
    }
    Ok(tensors)
}

fn not_a_state_dict<T>(reason: String) -> Result<T, Error> {
    Err(Error::NotAStateDict(reason))
}

/// Describes an entry that is not a tensor.
fn describe_entry(pickled: &Pickled, entries: &[(ValueId, ValueId)], name: &str, value: ValueId) -> String {
    let nested: Vec<String> = entries
        .iter()
        .take(INSPECTED_ENTRIES)
        .filter(|(_, value)| is_state_dict(pickled, *value))
        .filter_map(|(key, _)| pickled.text(*key).map(|key| format!("{key:?}")))
        .take(LISTED_STATE_DICTS)
        .collect();
    match nested.as_slice() {
        [] => format!("{name:?} is {}, not a tensor", pickled.get(value).kind()),
        keys => {
            format!(
                "a state dict lies inside it, under {}: save that alone with torch.save and take the new file",
                keys.join(" and under ")
            )
        }
    }
}

/// Returns whether the inspected entries of a value are all tensors.
fn is_state_dict(pickled: &Pickled, value: ValueId) -> bool {
    match pickled.get(value) {
        Value::Dict(entries) => {
            !entries.is_empty()
                && entries
                    .iter()
                    .take(INSPECTED_ENTRIES)
                    .all(|(_, value)| matches!(pickled.get(*value), Value::Tensor(_)))
        }
        _ => false,
    }
}
