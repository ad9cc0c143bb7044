//! What a pickle makes.

use super::allowed::Allowed;
use crate::dtype::Dtype;

/// A value's place among all that a pickle made.
///
/// Values name each other by place and own none, so neither nesting nor circles cost stack or leak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ValueId(pub(super) u32);

/// A value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float,
    /// A whole number beyond 64 bits: the magic number of old files.
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
    /// What it is, for messages.
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

/// A storage as a pickle names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Storage {
    /// Its name in the file.
    pub(crate) key: String,
    /// The type of its values; none for bytes that the tensor gives a type.
    pub(crate) dtype: Option<Dtype>,
    /// How many values it has, or bytes where it has no type.
    pub(crate) length: u64,
    /// Where in the stored bytes it begins, in values: old files have storages that are parts of others.
    pub(crate) first: u64,
}

/// A tensor as a pickle describes it. Nothing has been held against anything.
#[derive(Debug, Clone)]
pub(crate) struct TensorView {
    pub(crate) storage: Storage,
    pub(crate) dtype: Dtype,
    pub(crate) offset: i64,
    pub(crate) shape: Vec<i64>,
    pub(crate) strides: Vec<i64>,
}

/// The outcome of a pickle.
#[derive(Debug)]
pub(crate) struct Pickled {
    pub(super) values: Vec<Value>,
    /// What the pickle is of.
    pub(crate) top: ValueId,
    /// The bytes that it took.
    pub(crate) length: usize,
}

impl Pickled {
    pub(crate) fn get(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// Every storage that the pickle names.
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
