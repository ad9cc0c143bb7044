//! The values that a pickle creates.

use super::allowed::Allowed;
use crate::dtype::Dtype;

/// The index of a value among all values that a pickle created.
///
/// Values refer to each other by index, so that deep nesting needs no stack and cycles do not leak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ValueId(pub(super) u32);

/// A value that a pickle created.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float,
    /// An integer of more than 64 bits, such as the magic number of old files.
    BigInt,
    Text(String),
    Bytes,
    Tuple(Vec<ValueId>),
    List(Vec<ValueId>),
    Dict(Vec<(ValueId, ValueId)>),
    Allowed(Allowed),
    Storage(Storage),
    Tensor(TensorView),
}

impl Value {
    /// Returns the kind of the value, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Bool(_) => "a truth value",
            Self::Int(_) | Self::Float | Self::BigInt => "a number",
            Self::Text(_) => "text",
            Self::Bytes => "bytes",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Allowed(_) => "a name",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}

/// A storage as a pickle describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Storage {
    /// Its key in the file.
    pub(crate) key: String,
    /// Its data type; `None` for untyped bytes, whose type the tensor gives.
    pub(crate) dtype: Option<Dtype>,
    /// Its number of values, or of bytes if it has no type.
    pub(crate) length: u64,
    /// The index of its first value in the stored bytes: in old files a storage may be a part of another one.
    pub(crate) first: u64,
}

/// A tensor as a pickle describes it. Nothing has been checked yet.
#[derive(Debug, Clone)]
pub(crate) struct TensorView {
    pub(crate) storage: Storage,
    pub(crate) dtype: Dtype,
    pub(crate) offset: i64,
    pub(crate) shape: Vec<i64>,
    pub(crate) strides: Vec<i64>,
}

/// The result of a pickle.
#[derive(Debug)]
pub(crate) struct Pickled {
    pub(super) values: Vec<Value>,
    /// The pickled value.
    pub(crate) top: ValueId,
    /// The length of the pickle in bytes.
    pub(crate) length: usize,
}

impl Pickled {
    pub(crate) fn get(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// Returns every storage that the pickle names.
    pub(crate) fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.values.iter().filter_map(|value| match value {
            Value::Storage(storage) => Some(storage),
            _ => None,
        })
    }

    pub(crate) fn text(&self, id: ValueId) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}
