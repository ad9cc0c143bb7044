//! A machine for the pickles of state dicts: it knows the operations and the few names that they need.

mod allowed;
mod call;
mod machine;
mod operands;
mod value;

#[cfg(test)]
mod tests;

pub(crate) use machine::run;
pub(crate) use value::{Pickled, Storage, TensorView, Value, ValueId};
