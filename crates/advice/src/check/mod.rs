//! Finds what is doubtful in a configuration that is valid: what users of such trainers regretted after days of
//! computing.

mod data;
mod doubt;
mod facts;
mod memory;
mod network;
mod training;

use crate::survey::Pictures;

pub use doubt::Doubt;
pub use facts::{EmaFacts, Evaluation, LearningRate, Planned, RunFacts};

/// Returns everything that is doubtful in a run: about its images, if they were looked at; its network; its training;
/// and its memory and time, if they were planned.
#[must_use]
pub fn doubts(run: &RunFacts, pictures: Option<&Pictures>, planned: Option<&Planned>) -> Vec<Doubt> {
    let mut found = Vec::new();
    if let Some(pictures) = pictures {
        found.extend(data::doubts(run, pictures));
    }
    found.extend(network::doubts(run, pictures));
    found.extend(training::doubts(run, pictures.map(|pictures| pictures.count)));
    if let Some(planned) = planned {
        found.extend(memory::doubts(run, planned));
    }
    found
}
