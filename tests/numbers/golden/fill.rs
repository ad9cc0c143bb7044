//! Kind `fill`: the generator of parameters and inputs.

use super::support::{Case, Outcome, close, gaussian, ints, signed, uniform};

pub fn check(case: &Case) -> Outcome {
    let salt = &case.salt;
    close("uniform", &tch::Tensor::from_slice(&uniform(salt, "check", 16)), case.tensor("uniform")?, 0.0)?;
    close("signed", &signed(salt, "check", &[16], 0.2, 1.0), case.tensor("signed")?, 0.0)?;
    close("gaussian", &gaussian(salt, "check", &[16]), case.tensor("gaussian")?, 1e-7)?;
    close("ints", &ints(salt, "check", 16, 1000), case.tensor("ints")?, 0.0)
}
