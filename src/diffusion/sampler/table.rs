//! The table of solvers.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::super::config::{DiffusionConfig, Prediction};
use super::ddim::ddim;
use super::ddpm::ddpm;
use super::deis::{deis_tab, ipndm};
use super::heun::heun;
use super::levels::TimeGrid;
use super::multistep::{dpm, dpmpp_sde};
use super::options::{Settings, SolverError, SolverOption, SolverOptions};
use super::singlestep::dpm_singlestep;
use super::solver::{Factory, Solver};
use super::unipc::{Variant, unipc};
use super::update::Interpolated;

/// A solver of the table.
pub struct SolverEntry {
    /// The name in configurations.
    pub name: &'static str,
    /// What it is, in a line.
    pub description: &'static str,
    /// The options that it takes. All take `clip_denoised` and `epsilon_temperature`.
    pub options: &'static [SolverOption],
    /// The number of steps by default; 0 where the timesteps are those of `timestep_respacing`.
    pub default_steps: usize,
    /// The orders that it has, the default first.
    pub orders: &'static [usize],
    /// For each of `orders`, the order of convergence in theory: the error falls with this power of the width of steps.
    /// For random solvers, that of the part without noise.
    pub convergence: &'static [usize],
    /// The spacings of noise levels that it has, the default first.
    pub time_grids: &'static [TimeGrid],
    /// Whether samples depend on noise beside that of the start, unless an option says otherwise.
    pub is_noisy: bool,
    /// Computes the coefficients.
    prepare: fn(&Settings) -> Result<Factory, SolverError>,
}

/// The options of ddpm and ddim. Configurations with ddpm may hold an eta, which has no effect.
const RESPACED: &[SolverOption] = &[SolverOption::TimestepRespacing, SolverOption::Eta];

const MULTISTEP: &[SolverOption] = &[
    SolverOption::Steps,
    SolverOption::TimeGrid,
    SolverOption::TimeRange,
    SolverOption::SolverType,
    SolverOption::LowerOrderFinal,
    SolverOption::DenoiseToZero,
    SolverOption::DynamicThresholding,
];

const SINGLESTEP: &[SolverOption] = &[
    SolverOption::Steps,
    SolverOption::TimeGrid,
    SolverOption::TimeRange,
    SolverOption::SolverType,
    SolverOption::DenoiseToZero,
    SolverOption::DynamicThresholding,
];

const UNIPC: &[SolverOption] = &[
    SolverOption::Steps,
    SolverOption::TimeGrid,
    SolverOption::TimeRange,
    SolverOption::Order,
    SolverOption::Interpolated,
    SolverOption::LowerOrderFinal,
    SolverOption::DenoiseToZero,
    SolverOption::DynamicThresholding,
];

const POLYNOMIAL: &[SolverOption] =
    &[SolverOption::Steps, SolverOption::TimeGrid, SolverOption::Order, SolverOption::DynamicThresholding];

const HEUN: &[SolverOption] = &[
    SolverOption::Steps,
    SolverOption::TimeGrid,
    SolverOption::NoiseRange,
    SolverOption::DynamicThresholding,
    SolverOption::Churn,
];

/// Evenly in lambda comes first: on data with a known score, every solver that has it errs less than evenly in time, and
/// dpmpp_2m a tenth in 10 steps (`admiral bench solvers`).
const ANY_GRID: &[TimeGrid] = &[TimeGrid::Logsnr, TimeGrid::Uniform, TimeGrid::Quadratic, TimeGrid::Karras];
const IN_THE_INDEX: &[TimeGrid] = &[TimeGrid::Quadratic, TimeGrid::Uniform];
const OF_HEUN: &[TimeGrid] = &[TimeGrid::Karras, TimeGrid::Uniform];

/// Every solver.
pub const SOLVERS: &[SolverEntry] = &[
    SolverEntry {
        name: "ddpm",
        description: "ancestral sampling (Ho et al. 2020)",
        options: RESPACED,
        default_steps: 0,
        orders: &[1],
        convergence: &[1],
        time_grids: &[TimeGrid::Uniform],
        is_noisy: true,
        prepare: ddpm,
    },
    SolverEntry {
        name: "ddim",
        description: "DDIM (Song et al. 2020), partly random with eta above 0",
        options: RESPACED,
        default_steps: 0,
        orders: &[1],
        convergence: &[1],
        time_grids: &[TimeGrid::Uniform],
        is_noisy: false,
        prepare: ddim,
    },
    SolverEntry {
        name: "dpmpp_1m",
        description: "DPM-Solver++ of first order: DDIM between any noise levels",
        options: MULTISTEP,
        default_steps: 20,
        orders: &[1],
        convergence: &[1],
        time_grids: ANY_GRID,
        is_noisy: false,
        prepare: |settings| dpm(settings, Interpolated::Data),
    },
    SolverEntry {
        name: "dpmpp_2m",
        description: "multistep DPM-Solver++ of two evaluations (Lu et al. 2022b)",
        options: MULTISTEP,
        default_steps: 15,
        orders: &[2],
        convergence: &[2],
        time_grids: ANY_GRID,
        is_noisy: false,
        prepare: |settings| dpm(settings, Interpolated::Data),
    },
    SolverEntry {
        name: "dpmpp_3m",
        description: "multistep DPM-Solver++ of three evaluations",
        options: MULTISTEP,
        default_steps: 15,
        orders: &[3],
        convergence: &[2],
        time_grids: ANY_GRID,
        is_noisy: false,
        prepare: |settings| dpm(settings, Interpolated::Data),
    },
    SolverEntry {
        name: "dpmpp_2s",
        description: "singlestep DPM-Solver++ of second order",
        options: SINGLESTEP,
        default_steps: 16,
        orders: &[2],
        convergence: &[2],
        time_grids: ANY_GRID,
        is_noisy: false,
        prepare: |settings| dpm_singlestep(settings, Interpolated::Data),
    },
    SolverEntry {
        name: "dpmpp_3s",
        description: "singlestep DPM-Solver++ of third order",
        options: SINGLESTEP,
        default_steps: 15,
        orders: &[3],
        convergence: &[3],
        time_grids: ANY_GRID,
        is_noisy: false,
        prepare: |settings| dpm_singlestep(settings, Interpolated::Data),
    },
    SolverEntry {
        name: "dpmpp_2m_sde",
        description: "multistep DPM-Solver++ of the reverse SDE, of two evaluations",
        options: MULTISTEP,
        default_steps: 25,
        orders: &[2],
        convergence: &[2],
        time_grids: ANY_GRID,
        is_noisy: true,
        prepare: dpmpp_sde,
    },
    SolverEntry {
        name: "dpmpp_3m_sde",
        description: "multistep DPM-Solver++ of the reverse SDE, of three evaluations",
        options: MULTISTEP,
        default_steps: 25,
        orders: &[3],
        convergence: &[3],
        time_grids: ANY_GRID,
        is_noisy: true,
        prepare: dpmpp_sde,
    },
    SolverEntry {
        name: "dpm_2m",
        description: "multistep DPM-Solver (Lu et al. 2022), which interpolates the noise, of two evaluations",
        options: MULTISTEP,
        default_steps: 20,
        orders: &[2],
        convergence: &[2],
        time_grids: ANY_GRID,
        is_noisy: false,
        prepare: |settings| dpm(settings, Interpolated::Noise),
    },
    SolverEntry {
        name: "dpm_3m",
        description: "multistep DPM-Solver of three evaluations",
        options: MULTISTEP,
        default_steps: 20,
        orders: &[3],
        convergence: &[2],
        time_grids: ANY_GRID,
        is_noisy: false,
        prepare: |settings| dpm(settings, Interpolated::Noise),
    },
    SolverEntry {
        name: "dpm_2s",
        description: "singlestep DPM-Solver of second order",
        options: SINGLESTEP,
        default_steps: 20,
        orders: &[2],
        convergence: &[2],
        time_grids: ANY_GRID,
        is_noisy: false,
        prepare: |settings| dpm_singlestep(settings, Interpolated::Noise),
    },
    SolverEntry {
        name: "dpm_3s",
        description: "singlestep DPM-Solver of third order",
        options: SINGLESTEP,
        default_steps: 21,
        orders: &[3],
        convergence: &[3],
        time_grids: ANY_GRID,
        is_noisy: false,
        prepare: |settings| dpm_singlestep(settings, Interpolated::Noise),
    },
    SolverEntry {
        name: "unipc_bh1",
        description: "UniPC (Zhao et al. 2023) with B = h, for few steps without guidance",
        options: UNIPC,
        default_steps: 10,
        orders: &[3, 2, 1],
        convergence: &[4, 3, 2],
        time_grids: ANY_GRID,
        is_noisy: false,
        prepare: |settings| unipc(settings, Variant::Bh1),
    },
    SolverEntry {
        name: "unipc_bh2",
        description: "UniPC with B = exp(h) - 1",
        options: UNIPC,
        default_steps: 10,
        orders: &[2, 3, 1],
        convergence: &[3, 4, 2],
        time_grids: ANY_GRID,
        is_noisy: false,
        prepare: |settings| unipc(settings, Variant::Bh2),
    },
    SolverEntry {
        name: "deis_tab",
        description: "DEIS with tabulated coefficients (Zhang and Chen 2022): order earlier evaluations in each step",
        options: POLYNOMIAL,
        default_steps: 10,
        orders: &[2, 3, 1],
        convergence: &[3, 4, 2],
        time_grids: IN_THE_INDEX,
        is_noisy: false,
        prepare: deis_tab,
    },
    SolverEntry {
        name: "ipndm",
        description: "improved PNDM (Liu et al. 2022): order earlier evaluations in each step",
        options: POLYNOMIAL,
        default_steps: 15,
        orders: &[3, 2, 1],
        convergence: &[2, 2, 2],
        time_grids: IN_THE_INDEX,
        is_noisy: false,
        prepare: ipndm,
    },
    SolverEntry {
        name: "heun",
        description: "the Heun solver of EDM (Karras et al. 2022), random with churn: two evaluations a step",
        options: HEUN,
        default_steps: 18,
        orders: &[2],
        convergence: &[2],
        time_grids: OF_HEUN,
        is_noisy: false,
        prepare: heun,
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
                let options = self.0.options.iter().filter(|option| option.is_in_configurations());
                let takes: Vec<&str> = options.map(|option| option.name()).collect();
                mistakes.push(SolverError::Unknown { option, solver: self.0.name, takes: takes.join(", ") });
            }
        }
        let entry = self.0;
        if self.takes(SolverOption::TimestepRespacing) {
            mistakes.extend(options.respaced(process).retained_timesteps().err().map(SolverError::from));
        } else if process.predict == Prediction::PreviousX {
            mistakes.push(SolverError::PreviousX { solver: entry.name });
        } else if process.diffusion_steps < 2 {
            mistakes.push(SolverError::OneTimestep { solver: entry.name });
        }
        mistakes.extend(options.out_of_range(process.diffusion_steps));
        if let Some(order) = options.order.filter(|order| !entry.orders.contains(order)) {
            let known: Vec<String> = entry.orders.iter().map(usize::to_string).collect();
            mistakes.extend(self.not_among(SolverOption::Order, order.to_string(), &known));
        }
        if let Some(grid) = options.time_grid.filter(|grid| !entry.time_grids.contains(grid)) {
            let known: Vec<String> = entry.time_grids.iter().map(|grid| grid.name().to_owned()).collect();
            mistakes.extend(self.not_among(SolverOption::TimeGrid, grid.name().to_owned(), &known));
        }
        mistakes
    }

    /// The mistake of a value that other solvers have; none where the whole option is no option of this one.
    fn not_among(self, option: SolverOption, value: String, known: &[String]) -> Option<SolverError> {
        let rule = format!("{} has {}", self.0.name, known.join(", "));
        self.takes(option).then_some(SolverError::Value { option, value, rule })
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
        let entry = sampler.0;
        let settings = Settings {
            options,
            process,
            steps: options.steps.unwrap_or(entry.default_steps.min(process.diffusion_steps)),
            order: options.order.unwrap_or(entry.orders[0]),
            time_grid: options.time_grid.unwrap_or(entry.time_grids[0]),
        };
        Ok(Self { sampler, factory: (entry.prepare)(&settings)? })
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
