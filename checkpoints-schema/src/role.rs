//! The sets of tensors in a checkpoint.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A set of tensors in a checkpoint. Every role has a tensor for each parameter, under the same names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Role {
    /// The optimizer's single-precision parameters.
    Master,
    /// An exponential moving average of the parameters, used for sampling.
    Ema {
        /// The weight of the previous average in each update: 0.9999.
        rate: f64,
    },
    /// Adam's running mean of the gradients.
    AdamMean,
    /// Adam's running mean of the squared gradients.
    AdamVariance,
}

impl Role {
    /// Returns the name of the folder that holds the role's files: `ema-0.9999`.
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
    fn folder_name_and_json_of_a_role_contain_its_rate() {
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
