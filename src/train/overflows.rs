//! Counts the gradients that overflowed under loss scaling.

use std::collections::BTreeMap;

/// For each parameter, the number of skipped steps in which its gradient overflowed first, since the start of the attempt.
#[derive(Debug, Default)]
pub(super) struct Overflows(BTreeMap<String, u64>);

impl Overflows {
    /// Counts a step in which the gradient of the parameter `name` overflowed first. Returns the parameter's count.
    pub(super) fn add(&mut self, name: &str) -> u64 {
        let num = self.0.entry(name.to_owned()).or_default();
        *num += 1;
        *num
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_parameter_has_its_own_count() {
        let mut overflows = Overflows::default();
        assert_eq!(["a", "b", "a"].map(|name| overflows.add(name)), [1, 1, 2]);
    }
}
