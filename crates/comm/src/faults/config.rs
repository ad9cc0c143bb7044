//! The `faults` section of the configuration.

use admiral_config::Invalid;
use admiral_contract::Phase;
use serde::{Deserialize, Serialize};

/// The phase of a step in which a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FaultPhase {
    /// Before the rank waits for the data loader.
    Data,
    /// In the first forward pass.
    #[default]
    Forward,
    /// In the first backward pass.
    Backward,
    /// Before the first all-reduce of gradients. A run with one rank has none.
    Reduce,
    /// In the optimizer.
    Optimizer,
    /// In the part of a save that training waits for.
    Checkpoint,
}

impl FaultPhase {
    /// Returns the phase that the ledger shows.
    #[must_use]
    pub fn phase(self) -> Phase {
        match self {
            Self::Data => Phase::Data,
            Self::Forward => Phase::Forward,
            Self::Backward => Phase::Backward,
            Self::Reduce => Phase::Reduce,
            Self::Optimizer => Phase::Optimizer,
            Self::Checkpoint => Phase::Checkpoint,
        }
    }
}

/// A value that is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BadValue {
    /// Not a number.
    #[default]
    Nan,
    /// Infinity.
    Inf,
}

impl BadValue {
    /// Returns the value.
    #[must_use]
    pub fn value(self) -> f64 {
        match self {
            Self::Nan => f64::NAN,
            Self::Inf => f64::INFINITY,
        }
    }
}

/// Faults that the run injects into itself, to check that it recovers. For tests and drills only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FaultsConfig {
    /// Must be true for any fault to strike.
    pub enabled: bool,
    /// The start of the run in which faults strike, counted from 0 by the launcher in ADMIRAL_ATTEMPT; without that
    /// variable every start is start 0.
    pub attempt: u64,
    /// A rank aborts before this store operation (from 1) of its saves, as in a power cut; null: never.
    pub die_at_store_operation: Option<u64>,
    /// Operations are counted from the first one on a checkpoint of this step or a later one.
    pub die_from_step: u64,
    /// The rank that aborts.
    pub die_rank: usize,
    /// The step (from 1) of the faults below: each strikes when its rank first enters `phase` in this step or a later
    /// one; null: never.
    pub at_step: Option<u64>,
    /// The phase of the step: data, forward, backward, reduce, optimizer or checkpoint.
    pub phase: FaultPhase,
    /// This rank kills itself with SIGKILL.
    pub kill_rank: Option<usize>,
    /// This rank writes to unmapped memory and dies of SIGSEGV.
    pub segv_rank: Option<usize>,
    /// This rank stops itself with SIGSTOP.
    pub stop_rank: Option<usize>,
    /// This rank sleeps forever.
    pub hang_rank: Option<usize>,
    /// This rank exits with `exit_code` without telling the other ranks.
    pub exit_rank: Option<usize>,
    /// The exit code of that rank.
    pub exit_code: u8,
    /// After `at_step`, one bit of this rank's parameters changes, as by a fault of its memory.
    pub flip_bit_rank: Option<usize>,
    /// This rank is slow from `at_step` on, in every phase except exchanges with other ranks.
    pub slow_rank: Option<usize>,
    /// The factor by which the duration of its own work is multiplied.
    pub slow_factor: f64,
    /// From `at_step` on, every operation on the checkpoint store fails for this many seconds, on all ranks.
    pub cut_storage_seconds: Option<f64>,
    /// The value that the faults below put into a tensor: nan or inf.
    pub bad_value: BadValue,
    /// The rank whose memory `bad_parameter` and `bad_gradient` damage.
    pub bad_rank: usize,
    /// Name of a parameter whose first value becomes `bad_value` on that rank, once, before step `at_step`.
    pub bad_parameter: Option<String>,
    /// Name of a parameter whose gradient gets `bad_value` on that rank, once, in step `at_step`.
    pub bad_gradient: Option<String>,
    /// Index of a sample whose image has `bad_value` in its first pixel in every start of the run, and in replays.
    pub bad_sample: Option<u64>,
}

impl Default for FaultsConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            attempt: 0,
            die_at_store_operation: None,
            die_from_step: 0,
            die_rank: 0,
            at_step: None,
            phase: FaultPhase::Forward,
            kill_rank: None,
            segv_rank: None,
            stop_rank: None,
            hang_rank: None,
            exit_rank: None,
            exit_code: 1,
            flip_bit_rank: None,
            slow_rank: None,
            slow_factor: 2.0,
            cut_storage_seconds: None,
            bad_value: BadValue::Nan,
            bad_rank: 0,
            bad_parameter: None,
            bad_gradient: None,
            bad_sample: None,
        }
    }
}

impl FaultsConfig {
    /// Returns the invalid fields, with their paths from the top of the file.
    #[must_use]
    pub fn validate(&self) -> Vec<Invalid> {
        let mut mistakes = Vec::new();
        let mut refuse = |field: &str, message: &str| mistakes.push(Invalid::new(format!("faults.{field}"), message));
        let at_step = self.fields_at_step();
        let at_any_step = self.die_at_store_operation.is_some() || self.bad_sample.is_some();
        if !self.enabled && (at_any_step || !at_step.is_empty()) {
            refuse("enabled", "a fault is configured and faults.enabled is false; set it to true, or remove the fault");
        }
        match (self.at_step, at_step.first()) {
            (None, Some(field)) => refuse(field, "strikes at a step; set faults.at_step"),
            (Some(0), _) => refuse("at_step", "must be at least 1: steps are counted from 1"),
            _ => {}
        }
        if !(self.slow_factor.is_finite() && self.slow_factor >= 1.0) {
            refuse("slow_factor", "must be at least 1");
        }
        if self.cut_storage_seconds.is_some_and(|seconds| !(0.0..=1e6).contains(&seconds)) {
            refuse("cut_storage_seconds", "must be between 0 and 1000000");
        }
        mistakes
    }

    /// Returns the names of the configured faults that strike at a step.
    fn fields_at_step(&self) -> Vec<&'static str> {
        let ranks = [
            ("kill_rank", self.kill_rank),
            ("segv_rank", self.segv_rank),
            ("stop_rank", self.stop_rank),
            ("hang_rank", self.hang_rank),
            ("exit_rank", self.exit_rank),
            ("flip_bit_rank", self.flip_bit_rank),
            ("slow_rank", self.slow_rank),
        ];
        let mut fields: Vec<&str> = ranks.iter().filter(|(_, rank)| rank.is_some()).map(|(field, _)| *field).collect();
        fields.extend(self.cut_storage_seconds.map(|_| "cut_storage_seconds"));
        fields.extend(self.bad_parameter.as_ref().map(|_| "bad_parameter"));
        fields.extend(self.bad_gradient.as_ref().map(|_| "bad_gradient"));
        fields
    }

    /// Returns the fields that differ from their defaults, as overrides of the form `faults.kill_rank=1`.
    #[must_use]
    pub fn fields(&self) -> Vec<String> {
        let defaults = serde_json::to_value(Self::default()).unwrap_or_default();
        let serde_json::Value::Object(own) = serde_json::to_value(self).unwrap_or_default() else { return Vec::new() };
        let set = own.into_iter().filter(|(field, value)| field != "enabled" && defaults.get(field) != Some(value));
        set.map(|(field, value)| format!("faults.{field}={value}")).collect()
    }

    /// Returns whether faults strike in the start of the run with this number, which the launcher counts from 0.
    #[must_use]
    pub fn is_active(&self, attempt: u64) -> bool {
        self.enabled && self.attempt == attempt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(faults: &FaultsConfig) -> Vec<String> {
        faults.validate().into_iter().map(|mistake| mistake.field).collect()
    }

    #[test]
    fn fields_that_are_set_become_overrides() {
        let faults = FaultsConfig { enabled: true, kill_rank: Some(3), at_step: Some(20), ..FaultsConfig::default() };
        assert_eq!(faults.fields(), ["faults.at_step=20", "faults.kill_rank=3"]);
    }

    #[test]
    fn a_configured_fault_has_to_be_enabled() {
        assert_eq!(FaultsConfig::default().validate(), []);
        let off = FaultsConfig { die_at_store_operation: Some(1), ..FaultsConfig::default() };
        assert_eq!(fields(&off), ["faults.enabled"]);
        assert_eq!(FaultsConfig { enabled: true, ..off }.validate(), []);
        let off = FaultsConfig { kill_rank: Some(0), at_step: Some(1), ..FaultsConfig::default() };
        assert_eq!(fields(&off), ["faults.enabled"]);
        assert_eq!(FaultsConfig { enabled: true, ..off }.validate(), []);
    }

    #[test]
    fn a_fault_at_a_step_needs_a_step() {
        let faults = FaultsConfig { enabled: true, ..FaultsConfig::default() };
        assert_eq!(fields(&FaultsConfig { hang_rank: Some(1), ..faults.clone() }), ["faults.hang_rank"]);
        let cut = FaultsConfig { cut_storage_seconds: Some(1.0), ..faults.clone() };
        assert_eq!(fields(&cut), ["faults.cut_storage_seconds"]);
        assert_eq!(fields(&FaultsConfig { at_step: Some(0), ..cut }), ["faults.at_step"]);
        let gradient = FaultsConfig { bad_gradient: Some("out.2.weight".into()), ..faults.clone() };
        assert_eq!(fields(&gradient), ["faults.bad_gradient"]);
        assert_eq!(fields(&FaultsConfig { bad_sample: Some(3), ..faults.clone() }), [""; 0]);
        assert_eq!(fields(&FaultsConfig { slow_factor: f64::NAN, ..faults }), ["faults.slow_factor"]);
    }
}
