//! The calls that a pickle may make.

use super::allowed::Allowed;
use super::value::{Pickled, Storage, TensorView, Value, ValueId};
use crate::dtype::Dtype;
use crate::error::Error;

impl Allowed {
    /// Returns the result of a call, which is always plain data. `None` if the arguments differ from those that
    /// `torch.save` writes.
    pub(super) fn call(self, pickled: &Pickled, arguments: &[ValueId]) -> Option<Value> {
        match self {
            Self::OrderedDict => match arguments {
                [] => Some(Value::Dict(Vec::new())),
                // Python 2 passes the entries as a list of pairs.
                [entries] => {
                    let Value::List(entries) = pickled.get(*entries) else { return None };
                    let pair = |id: &ValueId| match pickled.get(*id) {
                        Value::List(pair) | Value::Tuple(pair) => Some((*pair.first()?, *pair.get(1)?)),
                        _ => None,
                    };
                    entries.iter().map(pair).collect::<Option<Vec<_>>>().map(Value::Dict)
                }
                _ => None,
            },
            Self::RebuildTensor => {
                has_no_metadata(pickled, arguments.get(6))?;
                let view = tensor(pickled, arguments, None)?;
                Some(Value::Tensor(view))
            }
            Self::RebuildTypedTensor => {
                has_no_metadata(pickled, arguments.get(7))?;
                let Value::Allowed(Self::Dtype(dtype)) = pickled.get(*arguments.get(6)?) else { return None };
                Some(Value::Tensor(tensor(pickled, arguments, Some(*dtype))?))
            }
            Self::RebuildParameter => match pickled.get(*arguments.first()?) {
                tensor @ Value::Tensor(_) => Some(tensor.clone()),
                _ => None,
            },
            Self::Storage(_) | Self::Dtype(_) => None,
        }
    }
}

/// Returns `None` if a tensor has metadata: the bits by which PyTorch marks values that are to be negated or conjugated
/// when they are read.
fn has_no_metadata(pickled: &Pickled, metadata: Option<&ValueId>) -> Option<()> {
    match metadata.map(|id| pickled.get(*id)) {
        None | Some(Value::None) => Some(()),
        Some(Value::Dict(entries)) if entries.is_empty() => Some(()),
        Some(_) => None,
    }
}

/// The largest number of dimensions that PyTorch's kernels support.
const MAX_DIMENSIONS: usize = 64;

/// The longest key of a storage, in bytes. PyTorch's keys are short: a counter or an address.
const MAX_KEY_BYTES: usize = 255;

/// Returns the tensor that the arguments describe: storage, offset, shape and strides.
fn tensor(pickled: &Pickled, arguments: &[ValueId], dtype: Option<Dtype>) -> Option<TensorView> {
    let [storage, offset, shape, strides, ..] = arguments else { return None };
    let Value::Storage(storage) = pickled.get(*storage) else { return None };
    let Value::Int(offset) = pickled.get(*offset) else { return None };
    let numbers = |id: ValueId| match pickled.get(id) {
        Value::Tuple(ids) | Value::List(ids) => ids
            .iter()
            .map(|id| match pickled.get(*id) {
                Value::Int(number) => Some(*number),
                _ => None,
            })
            .collect::<Option<Vec<i64>>>(),
        _ => None,
    };
    let dtype = dtype.or(storage.dtype)?;
    let (shape, strides) = (numbers(*shape)?, numbers(*strides)?);
    // A limit, because a hostile file may copy the numbers thousands of times.
    if shape.len().max(strides.len()) > MAX_DIMENSIONS {
        return None;
    }
    Some(TensorView { storage: storage.clone(), dtype, offset: *offset, shape, strides })
}

/// Returns the storage of a persistent ID: `("storage", class, key, device, number of values)`. In old files a sixth
/// element is `None` or a view `(key, first value, number of values)`.
pub(super) fn storage(pickled: &Pickled, id: ValueId) -> Result<Storage, Error> {
    let Value::Tuple(parts) = pickled.get(id) else {
        return Error::damaged("a storage is named by something else than a tuple");
    };
    match parts.first().and_then(|kind| pickled.text(*kind)) {
        Some("storage") => {}
        Some("module") => {
            return Err(Error::NotAStateDict(
                "a whole module was saved, source code and all; save its state_dict() instead".into(),
            ));
        }
        _ => return Error::damaged("a persistent id is not that of a storage"),
    }
    let found = (|| {
        let [_, class, key, _, length, ..] = parts.as_slice() else { return None };
        let Value::Allowed(Allowed::Storage(dtype)) = pickled.get(*class) else { return None };
        let natural = |id: ValueId| match pickled.get(id) {
            Value::Int(number) => u64::try_from(*number).ok(),
            _ => None,
        };
        let key = pickled.text(*key).filter(|key| key.len() <= MAX_KEY_BYTES)?;
        let whole = Storage { key: key.to_owned(), dtype: *dtype, length: natural(*length)?, first: 0 };
        match parts.get(5).map(|view| pickled.get(*view)) {
            None | Some(Value::None) => Some(whole),
            Some(Value::Tuple(view)) => {
                let [_, first, length] = view.as_slice() else { return None };
                Some(Storage { first: natural(*first)?, length: natural(*length)?, ..whole })
            }
            Some(_) => None,
        }
    })();
    found.ok_or_else(|| Error::Damaged("a storage's class, key or length is not what torch.save writes".into()))
}
