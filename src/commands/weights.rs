//! The choice of a checkpoint's weights by name.

use admiral_checkpoint::{Checkpoint, Role};

use crate::train::TrainError;

/// Returns the role of named weights: `ema` (the first average), `master`, or an average by its rate, such as
/// `ema-0.9999`.
///
/// # Errors
/// When the checkpoint has no such weights. The message lists the weights that it has.
pub fn choose_role(checkpoint: &Checkpoint, weights: &str) -> Result<Role, TrainError> {
    let roles = checkpoint.manifest().roles();
    let networks: Vec<Role> =
        roles.into_iter().filter(|role| matches!(role, Role::Master | Role::Ema { .. })).collect();
    let found = match weights {
        "ema" => networks.iter().find(|role| matches!(role, Role::Ema { .. })),
        name => networks.iter().find(|role| role.to_string() == name),
    };
    found.copied().ok_or_else(|| {
        let names: Vec<String> = networks.iter().map(Role::to_string).collect();
        TrainError::Refused(format!("{} has no weights {weights:?}; it has {}", checkpoint.url(), names.join(", ")))
    })
}
