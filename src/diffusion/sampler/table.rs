//! The table of solvers.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::super::config::DiffusionConfig;
use super::ddim::ddim;
use super::ddpm::ddpm;
use super::options::{SolverError, SolverOption, SolverOptions};
use super::solver::{Factory, Solver};

/// A solver of the table.
pub struct SolverEntry {
    /// The name in configurations.
    pub name: &'static str,
    /// What it is, in a line.
    pub description: &'static str,
    /// The options that it takes. All take `clip_denoised` and `epsilon_temperature`.
    pub options: &'static [SolverOption],
    /// Computes the coefficients.
    prepare: fn(&SolverOptions, &DiffusionConfig) -> Result<Factory, SolverError>,
}

/// Every solver.
pub const SOLVERS: &[SolverEntry] = &[
    SolverEntry {
        name: "ddpm",
        description: "ancestral sampling (Ho et al. 2020)",
        // Configurations with ddpm may hold an eta. It has no effect.
        options: &[SolverOption::TimestepRespacing, SolverOption::Eta],
        prepare: ddpm,
    },
    SolverEntry {
        name: "ddim",
        description: "DDIM (Song et al. 2020), partly random with eta above 0",
        options: &[SolverOption::TimestepRespacing, SolverOption::Eta],
        prepare: ddim,
    },
];

/// The name of a solver of the table.
#[derive(Clone, Copy)]
pub struct Sampler(&'static SolverEntry);

impl Sampler {
    /// Ancestral sampling.
    pub const DDPM: Self = Self(&SOLVERS[0]);
    /// DDIM.
    pub const DDIM: Self = Self(&SOLVERS[1]);

    /// All names, in the order of the table.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SOLVERS.iter().map(|entry| entry.name)
    }

    /// The solver's row of the table.
    #[must_use]
    pub fn entry(self) -> &'static SolverEntry {
        self.0
    }

    /// Whether the solver takes an option.
    #[must_use]
    pub fn takes(self, option: SolverOption) -> bool {
        self.0.options.contains(&option)
    }

    /// Returns all mistakes in the options of this solver, for the diffusion process of training.
    #[must_use]
    pub fn check(self, options: &SolverOptions, process: &DiffusionConfig) -> Vec<SolverError> {
        let mut mistakes = Vec::new();
        for option in options.given() {
            if !self.takes(option) {
                let takes: Vec<&str> = self.0.options.iter().map(|option| option.name()).collect();
                mistakes.push(SolverError::Unknown { option, solver: self.0.name, takes: takes.join(", ") });
            }
        }
        if self.takes(SolverOption::TimestepRespacing) {
            mistakes.extend(options.respaced(process).retained_timesteps().err().map(SolverError::from));
        }
        mistakes.extend(options.out_of_range());
        mistakes
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl PartialEq for Sampler {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Sampler {}

impl FromStr for Sampler {
    type Err = SolverError;

    fn from_str(name: &str) -> Result<Self, SolverError> {
        SOLVERS.iter().find(|entry| entry.name == name).map(Self).ok_or_else(|| SolverError::Name {
            name: name.to_owned(),
            known: Self::names().collect::<Vec<_>>().join(", "),
        })
    }
}

impl Serialize for Sampler {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.name)
    }
}

impl<'de> Deserialize<'de> for Sampler {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Sampler {
    fn schema_name() -> Cow<'static, str> {
        "Sampler".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": Self::names().collect::<Vec<_>>()})
    }
}

/// A solver with its coefficients, from which each batch starts a value of its own.
pub struct SolverPlan {
    sampler: Sampler,
    factory: Factory,
}

impl SolverPlan {
    /// Computes the coefficients of a solver for a diffusion process. The process's own respacing has no effect.
    ///
    /// # Errors
    /// If an option is no option of the solver or out of range, or does not fit the process.
    pub fn new(sampler: Sampler, options: &SolverOptions, process: &DiffusionConfig) -> Result<Self, SolverError> {
        if let Some(mistake) = sampler.check(options, process).into_iter().next() {
            return Err(mistake);
        }
        Ok(Self { sampler, factory: (sampler.0.prepare)(options, process)? })
    }

    /// The solver's name.
    #[must_use]
    pub fn sampler(&self) -> Sampler {
        self.sampler
    }

    /// Starts the solver for a batch.
    #[must_use]
    pub fn start(&self) -> Box<dyn Solver> {
        (self.factory)()
    }
}

impl fmt::Debug for SolverPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SolverPlan").field("sampler", &self.sampler).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_unique_and_survive_json() {
        assert_eq!((Sampler::DDPM.to_string(), Sampler::DDIM.to_string()), ("ddpm".to_owned(), "ddim".to_owned()));
        for name in Sampler::names() {
            assert_eq!(Sampler::names().filter(|other| *other == name).count(), 1, "{name}");
            let json = serde_json::to_string(&name.parse::<Sampler>().unwrap()).unwrap();
            assert_eq!(serde_json::from_str::<Sampler>(&json).unwrap().to_string(), name);
        }
        let message = serde_json::from_str::<Sampler>("\"dpmp\"").unwrap_err().to_string();
        assert!(message.contains("\"dpmp\" is no sampler: use one of ddpm, ddim"), "{message}");
    }
}
