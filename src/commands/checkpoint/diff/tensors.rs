//! The differences between the values of a role. Two files are in memory at a time, so checkpoints may be larger than
//! memory.

use std::collections::HashSet;

use admiral_checkpoint::{Checkpoint, Role, TensorFile};
use serde::Serialize;

use super::super::error::ToolError;

/// The differences between the values of a role.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct RoleDifference {
    role: String,
    /// The number of tensors that both have with the same shape.
    pub(super) tensors: usize,
    pub(super) different_tensors: usize,
    different_values: u64,
    /// The largest |a - b|; null in JSON if a value is not finite.
    largest_difference: f64,
    /// The largest |a - b| / max(|a|, |b|); null in JSON if a value is not finite.
    largest_relative_difference: f64,
    /// The tensor with the largest difference.
    r#in: Option<String>,
}

/// The differences between the values of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Difference {
    values: u64,
    absolute: f64,
    relative: f64,
}

impl RoleDifference {
    /// Returns the cells of a table.
    pub(super) fn cells(&self) -> [String; 7] {
        let number = |value: f64| if self.different_values == 0 { String::new() } else { format!("{value:.3e}") };
        [
            self.role.clone(),
            self.tensors.to_string(),
            self.different_tensors.to_string(),
            self.different_values.to_string(),
            number(self.largest_difference),
            number(self.largest_relative_difference),
            self.r#in.clone().unwrap_or_default(),
        ]
    }

    fn add(&mut self, name: &str, difference: Difference) {
        self.tensors += 1;
        if difference.values > 0 {
            self.different_tensors += 1;
            self.different_values += difference.values;
            if self.r#in.is_none() || difference.absolute > self.largest_difference {
                self.r#in = Some(name.to_owned());
                self.largest_difference = difference.absolute;
            }
            self.largest_relative_difference = self.largest_relative_difference.max(difference.relative);
        }
    }
}

/// Compares the tensors of a role that both checkpoints have with the same shape, and verifies files as it reads them.
/// If the checkpoints have the same number of ranks, each file is read once. Otherwise, each file of the checkpoint
/// with more files is read once for every file of the other one with which it shares tensors.
///
/// # Errors
/// When a file cannot be read or is damaged.
pub(super) fn compare_role(
    a: &Checkpoint,
    b: &Checkpoint,
    role: Role,
    tolerance: Option<f64>,
) -> Result<RoleDifference, ToolError> {
    let mut result = RoleDifference {
        role: role.to_string(),
        tensors: 0,
        different_tensors: 0,
        different_values: 0,
        largest_difference: 0.0,
        largest_relative_difference: 0.0,
        r#in: None,
    };
    let (few, many) = if a.files_of(role).len() <= b.files_of(role).len() { (a, b) } else { (b, a) };
    let mut held: Option<(String, TensorFile)> = None;
    for path in few.files_of(role) {
        let file = few.open_file(path, role)?;
        for (other, names) in shared(few, many, role, path) {
            if held.as_ref().is_none_or(|(held, _)| *held != other) {
                // Drops the previous file before the next one is read.
                drop(held.take());
                held = Some((other.clone(), many.open_file(&other, role)?));
            }
            for name in names {
                let other_values = held.as_ref().and_then(|(_, other)| other.values(&name));
                if let (Some(left), Some(right)) = (file.values(&name), other_values) {
                    result.add(&name, compare_values(left, right, tolerance));
                }
            }
        }
    }
    Ok(result)
}

/// Returns the files of `other` that share tensors with the file `path` of `checkpoint`, with the names of these
/// tensors.
fn shared(checkpoint: &Checkpoint, other: &Checkpoint, role: Role, path: &str) -> Vec<(String, Vec<String>)> {
    let own: HashSet<(&str, &[usize])> = checkpoint
        .manifest()
        .tensors
        .iter()
        .filter(|tensor| tensor.role == role && tensor.file == path)
        .map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice()))
        .collect();
    let mut files: Vec<(String, Vec<String>)> = Vec::new();
    for tensor in other.manifest().tensors.iter().filter(|tensor| tensor.role == role) {
        if own.contains(&(tensor.name.as_str(), tensor.shape.as_slice())) {
            match files.iter_mut().find(|(file, _)| *file == tensor.file) {
                Some((_, names)) => names.push(tensor.name.clone()),
                None => files.push((tensor.file.clone(), vec![tensor.name.clone()])),
            }
        }
    }
    files
}

/// Compares the bytes of float32 values. Both slices have the same length.
fn compare_values(a: &[u8], b: &[u8], tolerance: Option<f64>) -> Difference {
    let mut result = Difference::default();
    if a == b {
        return result;
    }
    for (a, b) in a.as_chunks::<4>().0.iter().zip(b.as_chunks::<4>().0) {
        if a == b {
            continue;
        }
        let (a, b) = (f64::from(f32::from_le_bytes(*a)), f64::from(f32::from_le_bytes(*b)));
        let absolute = if a.is_finite() && b.is_finite() { (a - b).abs() } else { f64::INFINITY };
        if tolerance.is_some_and(|tolerance| absolute <= tolerance) {
            continue;
        }
        let largest = a.abs().max(b.abs());
        result.values += 1;
        result.absolute = result.absolute.max(absolute);
        // Zeros of different signs have the difference 0, which would be divided by 0.
        let relative = if absolute == 0.0 { 0.0 } else { absolute / largest };
        result.relative = result.relative.max(if relative.is_nan() { f64::INFINITY } else { relative });
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(a: &[f32], b: &[f32], tolerance: Option<f64>) -> Difference {
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
        compare_values(&bytes(a), &bytes(b), tolerance)
    }

    #[test]
    fn differences_are_counted_and_measured() {
        let found = compare(&[1.0, 2.0, -4.0, 8.0], &[1.0, 2.5, -4.0, 7.0], None);
        assert_eq!(found, Difference { values: 2, absolute: 1.0, relative: 0.2 });
        assert_eq!(compare(&[2.0, 8.0], &[2.5, 7.0], Some(0.5)).values, 1);
        assert_eq!(compare(&[2.0, 8.0], &[2.5, 7.0], Some(1.0)), Difference::default());
    }

    #[test]
    fn bits_are_compared_unless_a_tolerance_is_given() {
        assert_eq!(compare(&[0.0], &[-0.0], None), Difference { values: 1, absolute: 0.0, relative: 0.0 });
        assert_eq!(compare(&[0.0], &[-0.0], Some(0.0)), Difference::default());
        assert_eq!(compare(&[f32::NAN], &[f32::NAN], None), Difference::default());
    }

    #[test]
    fn values_that_are_not_finite_differ_from_all_others() {
        for (a, b) in [(f32::NAN, 1.0), (f32::INFINITY, 1.0), (f32::INFINITY, f32::NEG_INFINITY)] {
            let infinite = Difference { values: 1, absolute: f64::INFINITY, relative: f64::INFINITY };
            assert_eq!(compare(&[a], &[b], Some(1e9)), infinite, "{a} {b}");
        }
    }
}
