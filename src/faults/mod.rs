//! Faults that a run does to itself, so that its survival can be proved: one section of the configuration, off by
//! default. The modules that a fault strikes look here for whether it is wanted.

use serde::{Deserialize, Serialize};

use crate::config::Invalid;

/// Faults that the run does to itself, to prove that it survives them. For tests and drills alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FaultsConfig {
    /// Must be true for any fault to strike.
    pub enabled: bool,
    /// A rank dies, as by a power cut, at this operation (from 1) of its saves on their place; null: at none.
    pub die_at_store_operation: Option<u64>,
    /// Operations are counted from the first that belongs to a checkpoint of this step or a later one.
    pub die_from_step: u64,
    /// The rank that dies.
    pub die_rank: usize,
}

impl FaultsConfig {
    /// What cannot work, with field paths from the top of the file.
    #[must_use]
    pub fn validate(&self) -> Vec<Invalid> {
        if !self.enabled && self.die_at_store_operation.is_some() {
            let message = "a fault is configured and faults.enabled is false; set it to true, or take the fault out";
            return vec![Invalid::new("faults.enabled", message)];
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_has_to_be_switched_on() {
        assert_eq!(FaultsConfig::default().validate(), []);
        let off = FaultsConfig { die_at_store_operation: Some(1), ..FaultsConfig::default() };
        assert_eq!(off.validate()[0].field, "faults.enabled");
        assert_eq!(FaultsConfig { enabled: true, ..off }.validate(), []);
    }
}
