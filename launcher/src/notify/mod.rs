//! Tells a webhook or a command about incidents, recoveries, silence and the end of a run.

mod command;
mod message;
mod notifier;
mod queue;
mod silence;
mod webhook;

pub(crate) use message::{Kind, Message, Outcome};
pub use notifier::NotifierError;
pub(crate) use notifier::{Notifier, Patience};
pub(crate) use silence::Silence;
