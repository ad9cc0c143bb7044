//! From what a pickle made to names with tensors.

use std::collections::HashMap;

use crate::error::Error;
use crate::pickle::{Pickled, TensorView, Value, ValueId};

/// Tensors of one file, each of which takes memory of its own where the pickle only names it again.
const MOST_TENSORS: usize = 1 << 16;

/// Entries of a dictionary that a message looks at: a pickle may name the same one in all entries of another.
const LOOKED_AT: usize = 100;

/// State dicts inside another that a message names.
const NESTED_LISTED: usize = 4;

/// Names with tensors, in the file's order.
pub(crate) type Views = Vec<(String, TensorView)>;

/// The names and tensors of a state dict, in its order. A name that is set twice has its first place and last tensor.
pub(crate) fn tensors(made: &Pickled) -> Result<Views, Error> {
    let Value::Dict(entries) = made.get(made.top) else {
        return not(format!("it holds {}", made.get(made.top).kind()));
    };
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut tensors: Views = Vec::new();
    for (key, value) in entries {
        let Some(name) = made.text(*key) else {
            return not(format!("{} is a key, where names are text", made.get(*key).kind()));
        };
        let Value::Tensor(view) = made.get(*value) else {
            return not(instead_of_tensor(made, entries, name, *value));
        };
        match places.get(name) {
            Some(&place) => tensors[place].1 = view.clone(),
            None if tensors.len() == MOST_TENSORS => {
                return Error::unsupported(format!(
                    "it has more than {MOST_TENSORS} tensors; no network here has as many"
                ));
            }
            None => {
                places.insert(name, tensors.len());
                tensors.push((name.to_owned(), view.clone()));
            }
        }
    }
    Ok(tensors)
}

fn not<T>(reason: String) -> Result<T, Error> {
    Err(Error::NotAStateDict(reason))
}

/// What to say of an entry that is no tensor.
fn instead_of_tensor(made: &Pickled, entries: &[(ValueId, ValueId)], name: &str, value: ValueId) -> String {
    let nested: Vec<String> = entries
        .iter()
        .take(LOOKED_AT)
        .filter(|(_, value)| is_state_dict(made, *value))
        .filter_map(|(key, _)| made.text(*key).map(|key| format!("{key:?}")))
        .take(NESTED_LISTED)
        .collect();
    match nested.as_slice() {
        [] => format!("{name:?} is {}, not a tensor", made.get(value).kind()),
        keys => {
            format!(
                "a state dict lies inside it, under {}: save that alone with torch.save and take the new file",
                keys.join(" and under ")
            )
        }
    }
}

/// Whether it looks like one.
fn is_state_dict(made: &Pickled, value: ValueId) -> bool {
    match made.get(value) {
        Value::Dict(entries) => {
            !entries.is_empty()
                && entries.iter().take(LOOKED_AT).all(|(_, value)| matches!(made.get(*value), Value::Tensor(_)))
        }
        _ => false,
    }
}
