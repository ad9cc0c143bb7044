//! Interprets the pickles of state dicts. Only the operations and names that state dicts need are supported.

mod allowed;
mod call;
mod machine;
mod operands;
mod value;

#[cfg(test)]
mod tests;

pub(crate) use machine::run;
pub(crate) use value::{Pickled, Storage, TensorView, Value, ValueId};
