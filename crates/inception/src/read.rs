//! What the readers of the formats have in common.

use std::collections::HashMap;

/// The number of differences that a message lists.
const LISTED: usize = 3;

/// Why a reader fails.
#[derive(Debug)]
pub(crate) enum Problem {
    Foreign(String),
    Damaged(String),
    OtherNetwork(String),
    Io(std::io::Error),
}

/// The tensors that a reader has found, by canonical name, and what it has not found.
#[derive(Debug, Default)]
pub(crate) struct Values {
    found: HashMap<String, Vec<f32>>,
    differences: Vec<String>,
    num_differences: usize,
}

impl Values {
    /// Adds a tensor, if it was found.
    pub(crate) fn insert(&mut self, name: &str, values: Option<Vec<f32>>) {
        if let Some(values) = values {
            self.found.insert(name.to_owned(), values);
        }
    }

    /// Notes a difference between the file and the network.
    pub(crate) fn difference(&mut self, text: String) {
        self.num_differences += 1;
        if self.differences.len() < LISTED {
            self.differences.push(text);
        }
    }

    /// Returns the tensors by canonical name.
    ///
    /// # Errors
    /// [`Problem::OtherNetwork`] if the file differs from the network.
    pub(crate) fn finish(self) -> Result<HashMap<String, Vec<f32>>, Problem> {
        if self.num_differences == 0 {
            return Ok(self.found);
        }
        let mut text = self.differences.join("; ");
        if self.num_differences > LISTED {
            text += &format!("; and {} more differences", self.num_differences - LISTED);
        }
        Err(Problem::OtherNetwork(text))
    }
}

/// Describes a tensor of another shape.
pub(crate) fn shape_problem(name: &str, found: &[usize], expected: &[usize]) -> String {
    format!("{name} has the shape {found:?}, not {expected:?}")
}
