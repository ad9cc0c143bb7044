//! What a set of tensors is to the training run.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a set of tensors is to the training run. Every role has every parameter, under the same names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Role {
    /// The parameters as the optimizer keeps them, in single precision.
    Master,
    /// An exponential moving average of the parameters: what one samples from.
    Ema {
        /// The weight of the old average in each step: 0.9999.
        rate: f64,
    },
    /// Adam's running mean of the gradients.
    AdamMean,
    /// Adam's running mean of the squared gradients.
    AdamVariance,
}

impl Role {
    /// The folder that holds the role's files: `ema-0.9999`.
    #[must_use]
    pub fn folder(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master => write!(f, "master"),
            Self::Ema { rate } => write!(f, "ema-{rate}"),
            Self::AdamMean => write!(f, "adam-mean"),
            Self::AdamVariance => write!(f, "adam-variance"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_role_says_its_rate_in_folder_and_json() {
        for (role, folder, json) in [
            (Role::Master, "master", r#"{"kind":"master"}"#),
            (Role::Ema { rate: 0.9999 }, "ema-0.9999", r#"{"kind":"ema","rate":0.9999}"#),
            (Role::AdamMean, "adam-mean", r#"{"kind":"adam-mean"}"#),
            (Role::AdamVariance, "adam-variance", r#"{"kind":"adam-variance"}"#),
        ] {
            assert_eq!(role.folder(), folder);
            assert_eq!(serde_json::to_string(&role).unwrap(), json);
            assert_eq!(serde_json::from_str::<Role>(json).unwrap(), role);
        }
    }
}
