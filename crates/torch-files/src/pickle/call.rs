//! The calls that a pickle may make.

use super::allowed::Allowed;
use super::value::{Pickled, Storage, TensorView, Value, ValueId};
use crate::dtype::Dtype;
use crate::error::Error;

impl Allowed {
    /// The value of a call, which is data in every case; none where the arguments are not those of `torch.save`.
    pub(super) fn call(self, made: &Pickled, arguments: &[ValueId]) -> Option<Value> {
        match self {
            Self::OrderedDict => match arguments {
                [] => Some(Value::Dict(Vec::new())),
                // Python 2 gives the entries as a list of pairs.
                [entries] => {
                    let Value::List(entries) = made.get(*entries) else { return None };
                    let pair = |id: &ValueId| match made.get(*id) {
                        Value::List(pair) | Value::Tuple(pair) => Some((*pair.first()?, *pair.get(1)?)),
                        _ => None,
                    };
                    entries.iter().map(pair).collect::<Option<Vec<_>>>().map(Value::Dict)
                }
                _ => None,
            },
            Self::RebuildTensor => {
                let view = tensor(made, arguments, None)?;
                Some(Value::Tensor(view))
            }
            Self::RebuildTypedTensor => {
                let Value::Allowed(Self::Dtype(dtype)) = made.get(*arguments.get(6)?) else { return None };
                Some(Value::Tensor(tensor(made, arguments, Some(*dtype))?))
            }
            Self::RebuildParameter => match made.get(*arguments.first()?) {
                tensor @ Value::Tensor(_) => Some(tensor.clone()),
                _ => None,
            },
            Self::Storage(_) | Self::Dtype(_) => None,
        }
    }
}

/// PyTorch itself has kernels for no more.
const MOST_DIMENSIONS: usize = 64;

/// The longest key of a storage, in bytes: PyTorch counts them, or takes their address.
const MOST_KEY_BYTES: usize = 255;

/// The tensor of storage, offset, shape and strides.
fn tensor(made: &Pickled, arguments: &[ValueId], dtype: Option<Dtype>) -> Option<TensorView> {
    let [storage, offset, shape, strides, ..] = arguments else { return None };
    let Value::Storage(storage) = made.get(*storage) else { return None };
    let Value::Int(offset) = made.get(*offset) else { return None };
    let numbers = |id: ValueId| match made.get(id) {
        Value::Tuple(ids) | Value::List(ids) => ids
            .iter()
            .map(|id| match made.get(*id) {
                Value::Int(number) => Some(*number),
                _ => None,
            })
            .collect::<Option<Vec<i64>>>(),
        _ => None,
    };
    let dtype = dtype.or(storage.dtype)?;
    let (shape, strides) = (numbers(*shape)?, numbers(*strides)?);
    // A few numbers that a file may name ten thousand times over; no network's tensor has as many dimensions.
    if shape.len().max(strides.len()) > MOST_DIMENSIONS {
        return None;
    }
    Some(TensorView { storage: storage.clone(), dtype, offset: *offset, shape, strides })
}

/// The storage of a persistent id: `("storage", class, key, device, number of values)`, in old files with a view as
/// `(key, first value, number of values)` or nothing at the end.
pub(super) fn storage(made: &Pickled, id: ValueId) -> Result<Storage, Error> {
    let Value::Tuple(parts) = made.get(id) else {
        return Error::damaged("a storage is named by something else than a tuple");
    };
    match parts.first().and_then(|kind| made.text(*kind)) {
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
        let Value::Allowed(Allowed::Storage(dtype)) = made.get(*class) else { return None };
        let natural = |id: ValueId| match made.get(id) {
            Value::Int(number) => u64::try_from(*number).ok(),
            _ => None,
        };
        let key = made.text(*key).filter(|key| key.len() <= MOST_KEY_BYTES)?;
        let whole = Storage { key: key.to_owned(), dtype: *dtype, length: natural(*length)?, first: 0 };
        match parts.get(5).map(|view| made.get(*view)) {
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
