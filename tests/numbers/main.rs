//! Numbers that do not depend on a run: golden cases, the released architectures, memory, plans and configurations.
#![allow(clippy::unwrap_used)]

mod ablations;
mod activations;
mod architectures;
mod config;
mod golden;
mod plan;
