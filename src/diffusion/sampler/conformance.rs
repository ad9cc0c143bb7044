//! One suite of tests that every solver of the table passes, in each of its orders and grids.

#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};

use tch::{Kind, Tensor};

use super::levels::{Level, NoiseLevels, TimeGrid};
use super::options::{Churn, DynamicThresholding, SolverError, SolverOption, SolverOptions};
use super::solver::{GuidedModel, Step};
use super::table::{SOLVERS, Sampler, SolverPlan};
use super::trajectory::Trajectory;
use super::update::Interpolated;
use crate::diffusion::test_noise::normal;
use crate::diffusion::{DiffusionConfig, NoiseSchedule, Prediction, Variance};

/// A solver with options.
#[derive(Debug, Clone)]
struct Subject {
    sampler: Sampler,
    options: SolverOptions,
}

impl Subject {
    fn plan(&self, process: &DiffusionConfig) -> SolverPlan {
        SolverPlan::new(self.sampler, &self.options, process).unwrap()
    }
}

/// Every solver with its defaults, and with other values of each option that changes its arithmetic.
fn subjects() -> Vec<Subject> {
    let mut all = Vec::new();
    for entry in SOLVERS {
        let sampler: Sampler = entry.name.parse().unwrap();
        let plain = SolverOptions {
            timestep_respacing: "12".into(),
            clip_denoised: false,
            steps: sampler.takes(SolverOption::Steps).then_some(11),
            ..SolverOptions::default()
        };
        let mut add = |options: SolverOptions| all.push(Subject { sampler, options });
        add(plain.clone());
        if sampler.takes(SolverOption::Order) {
            entry.orders.iter().for_each(|&order| add(SolverOptions { order: Some(order), ..plain.clone() }));
        }
        if sampler.takes(SolverOption::TimeGrid) {
            entry.time_grids.iter().for_each(|&grid| add(SolverOptions { time_grid: Some(grid), ..plain.clone() }));
        }
        if sampler.takes(SolverOption::SolverType) {
            let solver_type = Some(super::update::SolverType::Taylor);
            add(SolverOptions { solver_type, ..plain.clone() });
        }
        if sampler.takes(SolverOption::Interpolated) {
            add(SolverOptions { interpolated: Some(Interpolated::Noise), ..plain.clone() });
        }
        if sampler.takes(SolverOption::LowerOrderFinal) {
            add(SolverOptions { lower_order_final: Some(true), steps: Some(6), ..plain.clone() });
            add(SolverOptions { lower_order_final: Some(false), steps: Some(6), ..plain.clone() });
        }
        if sampler.takes(SolverOption::DenoiseToZero) {
            add(SolverOptions { denoise_to_zero: Some(true), ..plain.clone() });
        }
        if sampler.takes(SolverOption::Churn) {
            add(SolverOptions { churn: Some(Churn { amount: 5.0, ..Churn::default() }), ..plain.clone() });
        }
        if sampler.takes(SolverOption::Steps) {
            (1..=4).for_each(|steps| add(SolverOptions { steps: Some(steps), ..plain.clone() }));
        }
        if sampler == Sampler::DDIM {
            add(SolverOptions { eta: 0.7, ..plain.clone() });
        }
    }
    all
}

fn process(predict: Prediction) -> DiffusionConfig {
    DiffusionConfig { variance: Variance::FixedSmall, predict, ..DiffusionConfig::default() }
}

/// Noise of deviation 1, two images.
fn noise(seed: u64) -> Tensor {
    normal(seed, &[2, 1, 4, 4]).to_kind(Kind::Double)
}

/// The only image of the data.
fn image() -> Tensor {
    normal(5, &[1, 1, 4, 4]).to_kind(Kind::Double).clamp(-1.0, 1.0)
}

/// Finds the level of a timestep: one of the solver's own, or of a node within a step.
struct Lookup {
    own: Vec<Level>,
    all: NoiseLevels,
}

impl Lookup {
    fn new(plan: &SolverPlan, process: &DiffusionConfig) -> Self {
        Self { own: plan.start().levels().to_vec(), all: NoiseLevels::new(process) }
    }

    fn of(&self, timesteps: &Tensor) -> Level {
        let timestep = timesteps.double_value(&[0]);
        let own = self.own.iter().find(|level| (level.model_timestep - timestep).abs() < 1e-9);
        own.copied().unwrap_or_else(|| self.all.at_index(timestep))
    }
}

/// Takes all steps, and returns them with the indices of the noise that was asked for.
fn steps(subject: &Subject, process: &DiffusionConfig, model: &GuidedModel, start: &Tensor) -> (Vec<Step>, Vec<usize>) {
    let mut asked = Vec::new();
    let mut noise = |index: usize| {
        asked.push(index);
        normal(100 + index as u64, &start.size()).to_kind(start.kind())
    };
    let steps = Trajectory::new(subject.plan(process).start(), *model, start, &mut noise).collect();
    (steps, asked)
}

/// A network without meaning that depends on everything it is given.
fn network(x: &Tensor, timesteps: &Tensor) -> Tensor {
    (x * 1.3).sin() + x * 0.5 + (timesteps * 1e-3).view([-1, 1, 1, 1]) * 0.2
}

fn largest(tensor: &Tensor) -> f64 {
    tensor.abs().max().double_value(&[])
}

#[test]
fn the_only_image_of_the_data_is_sampled() {
    for subject in subjects() {
        let process = process(Prediction::Epsilon);
        let plan = subject.plan(&process);
        let lookup = Lookup::new(&plan, &process);
        let oracle = |x: &Tensor, timesteps: &Tensor| {
            let level = lookup.of(timesteps);
            (x - image() * level.alpha) / level.sigma
        };
        let (steps, asked) = steps(&subject, &process, &GuidedModel::unguided(&oracle), &noise(1));
        let mut first: Option<Tensor> = None;
        for (index, (step, level)) in steps.iter().zip(&lookup.own[1..]).enumerate() {
            let error = largest(&(&step.x_start - image()));
            assert!(error < 1e-3, "{subject:?}: x_0 in step {index} is off by {error}");
            let rest = &step.sample - image() * level.alpha;
            assert!(largest(&rest) <= 6.0 * level.sigma + 1e-4, "{subject:?}: step {index}: {}", largest(&rest));
            if asked.is_empty() && level.sigma > 0.0 {
                // The path of a deterministic solver keeps its noise.
                let noise = &rest / level.sigma;
                let error = largest(&(rest - first.as_ref().unwrap_or(&noise) * level.sigma));
                // Two steps of DEIS from end to end show its quadrature.
                let tolerance = if subject.sampler.to_string() == "deis_tab" { 5e-3 } else { 1e-5 };
                assert!(error < tolerance, "{subject:?}: step {index} leaves the path by {error}");
                first.get_or_insert(noise);
            }
        }
    }
}

#[test]
fn steps_and_evaluations_are_as_declared() {
    for subject in subjects() {
        let process = process(Prediction::Epsilon);
        let solver = subject.plan(&process).start();
        let calls = Cell::new(0);
        let model = |x: &Tensor, timesteps: &Tensor| {
            calls.set(calls.get() + 1);
            assert_eq!(timesteps.size(), [2]);
            network(x, timesteps)
        };
        let (steps, _) = steps(&subject, &process, &GuidedModel::unguided(&model), &noise(1));
        assert_eq!((steps.len(), calls.get()), (solver.num_steps(), solver.num_evaluations()), "{subject:?}");
        assert_eq!(solver.levels().len(), solver.num_steps() + 1, "{subject:?}");
        assert!(solver.levels().windows(2).all(|pair| pair[0].lambda < pair[1].lambda), "{subject:?}");
        let updates = solver.num_steps() - usize::from(subject.options.denoise_to_zero == Some(true));
        for (index, step) in steps.iter().enumerate() {
            // UniPC corrects steps of first order too, except the last.
            let has_corrector = subject.sampler.to_string().starts_with("unipc") && index + 1 < updates;
            let is_higher = solver.order(index) > 1 || has_corrector;
            assert_eq!(step.correction.is_some(), is_higher, "{subject:?}: step {index}");
            assert!(largest(&step.sample).is_finite(), "{subject:?}");
        }
    }
}

#[test]
fn noise_is_asked_for_where_it_is_declared() {
    for subject in subjects() {
        let process = process(Prediction::Epsilon);
        let solver = subject.plan(&process).start();
        let model = |x: &Tensor, timesteps: &Tensor| network(x, timesteps);
        let (_, asked) = steps(&subject, &process, &GuidedModel::unguided(&model), &noise(1));
        let declared: Vec<usize> = (0..solver.num_steps()).filter(|&index| solver.uses_noise(index)).collect();
        assert_eq!(asked, declared, "{subject:?}");
        let has_noise_option = subject.options.eta > 0.0 || subject.options.churn.is_some();
        assert_eq!(asked.is_empty(), !(subject.sampler.entry().is_noisy || has_noise_option), "{subject:?}");
    }
}

#[test]
fn images_of_a_batch_do_not_depend_on_each_other() {
    for mut subject in subjects() {
        if subject.sampler.takes(SolverOption::DynamicThresholding) {
            subject.options.dynamic_thresholding = Some(DynamicThresholding { quantile: 0.8, max: 0.5 });
        }
        let process = process(Prediction::Epsilon);
        let model = |x: &Tensor, timesteps: &Tensor| network(x, timesteps);
        let run = |start: &Tensor, row: i64| {
            let mut noise = |index: usize| {
                let both = normal(100 + index as u64, &[2, 1, 4, 4]).to_kind(Kind::Double);
                both.narrow(0, row, start.size()[0])
            };
            let solver = subject.plan(&process).start();
            Trajectory::new(solver, GuidedModel::unguided(&model), start, &mut noise).finish()
        };
        let together = run(&noise(1), 0);
        let apart = run(&noise(1).narrow(0, 1, 1), 1);
        let error = largest(&(together.narrow(0, 1, 1) - apart));
        assert!(error < 1e-9, "{subject:?}: {error}");
    }
}

#[test]
fn networks_that_predict_the_image_give_the_same_samples() {
    for subject in subjects() {
        let epsilon = process(Prediction::Epsilon);
        let lookup = Lookup::new(&subject.plan(&epsilon), &epsilon);
        let noisy = |x: &Tensor, timesteps: &Tensor| network(x, timesteps);
        let clean = |x: &Tensor, timesteps: &Tensor| {
            let level = lookup.of(timesteps);
            (x - network(x, timesteps) * level.sigma) / level.alpha
        };
        let last = |predict: Prediction, model: &GuidedModel| {
            steps(&subject, &process(predict), model, &noise(1)).0.pop().unwrap().sample
        };
        let expected = last(Prediction::Epsilon, &GuidedModel::unguided(&noisy));
        let actual = last(Prediction::XStart, &GuidedModel::unguided(&clean));
        let error = largest(&(&actual - &expected)) / largest(&expected);
        assert!(error < 1e-3, "{subject:?}: {error}");
    }
}

#[test]
fn learned_variances_do_not_change_deterministic_samples() {
    for subject in subjects() {
        let fixed = process(Prediction::Epsilon);
        let learned = DiffusionConfig { variance: Variance::LearnedRange, ..fixed.clone() };
        let model = |x: &Tensor, timesteps: &Tensor| network(x, timesteps);
        let wide = |x: &Tensor, timesteps: &Tensor| Tensor::cat(&[network(x, timesteps), x * 3.0], 1);
        let (expected, asked) = steps(&subject, &fixed, &GuidedModel::unguided(&model), &noise(1));
        let (actual, _) = steps(&subject, &learned, &GuidedModel::unguided(&wide), &noise(1));
        assert_eq!(actual[0].sample.size(), [2, 1, 4, 4], "{subject:?}");
        let equal = actual.last().unwrap().sample.equal(&expected.last().unwrap().sample);
        assert!(equal || subject.sampler == Sampler::DDPM, "{subject:?}: noise {asked:?}");
    }
}

#[test]
fn predicted_images_are_limited() {
    for subject in subjects() {
        let wild = |x: &Tensor, _: &Tensor| x * -4.0;
        let gradient = |x: &Tensor, _: &Tensor| x * 2.0;
        let guided = GuidedModel { predict: &wild, gradient: Some(&gradient) };
        let run = |options: SolverOptions| {
            let subject = Subject { sampler: subject.sampler, options };
            steps(&subject, &process(Prediction::Epsilon), &guided, &noise(1)).0
        };
        if !subject.sampler.takes(SolverOption::Steps) {
            // ddpm and ddim clamp before guidance.
            continue;
        }
        let clipped = run(SolverOptions { clip_denoised: true, ..subject.options.clone() });
        assert!(clipped.iter().all(|step| largest(&step.x_start) <= 1.0), "{subject:?}");
        let dynamic = Some(DynamicThresholding { quantile: 0.5, max: 1.0 });
        let limited = run(SolverOptions { dynamic_thresholding: dynamic, ..subject.options.clone() });
        assert!(limited.iter().all(|step| largest(&step.x_start) <= 1.0 + 1e-12), "{subject:?}");
        assert!(!limited[0].x_start.equal(&clipped[0].x_start), "{subject:?}");
    }
}

#[test]
fn guidance_by_a_gradient_is_a_shift_of_epsilon() {
    for subject in subjects().into_iter().filter(|subject| subject.sampler != Sampler::DDPM) {
        let process = process(Prediction::Epsilon);
        let lookup = Lookup::new(&subject.plan(&process), &process);
        let model = |x: &Tensor, timesteps: &Tensor| network(x, timesteps);
        let gradient = |x: &Tensor, _: &Tensor| x.cos() * 0.3;
        let shifted = |x: &Tensor, timesteps: &Tensor| {
            network(x, timesteps) - gradient(x, timesteps) * lookup.of(timesteps).sigma
        };
        let guided = GuidedModel { predict: &model, gradient: Some(&gradient) };
        let last = |model: &GuidedModel| steps(&subject, &process, model, &noise(1)).0.pop().unwrap().sample;
        let (actual, expected) = (last(&guided), last(&GuidedModel::unguided(&shifted)));
        let error = largest(&(&actual - &expected)) / largest(&expected);
        assert!(error < 1e-3, "{subject:?}: {error}");
    }
}

#[test]
fn networks_get_the_timesteps_of_training() {
    for (diffusion_steps, rescale_timesteps) in [(1000, false), (500, true), (500, false)] {
        for subject in subjects() {
            let process = DiffusionConfig { diffusion_steps, rescale_timesteps, ..process(Prediction::Epsilon) };
            let solver = subject.plan(&process).start();
            let seen = RefCell::new(Vec::new());
            let model = |x: &Tensor, timesteps: &Tensor| {
                seen.borrow_mut().push(timesteps.double_value(&[0]));
                network(x, timesteps)
            };
            steps(&subject, &process, &GuidedModel::unguided(&model), &noise(1));
            let scale = if rescale_timesteps { 1000.0 / diffusion_steps as f64 } else { 1.0 };
            let highest = (diffusion_steps - 1) as f64 * scale;
            let seen = seen.into_inner();
            assert!(seen.iter().all(|t| (0.0..=highest + 1e-9).contains(t)), "{subject:?}: {seen:?}");
            if subject.options.churn.is_none() {
                assert!((seen[0] - solver.levels()[0].model_timestep).abs() < 1e-9, "{subject:?}: {seen:?}");
            }
        }
    }
}

#[test]
fn without_its_correction_a_step_is_of_first_order() {
    for name in ["dpmpp_2m", "dpmpp_3m"] {
        let options = SolverOptions { clip_denoised: false, steps: Some(10), ..SolverOptions::default() };
        let subject = Subject { sampler: name.parse().unwrap(), options };
        let process = process(Prediction::Epsilon);
        let model = |x: &Tensor, timesteps: &Tensor| network(x, timesteps);
        let (steps, _) = steps(&subject, &process, &GuidedModel::unguided(&model), &noise(1));
        let levels = subject.plan(&process).start().levels().to_vec();
        for (index, pair) in steps.windows(2).enumerate() {
            let (from, to) = (levels[index + 1], levels[index + 2]);
            let first = &pair[0].sample * (to.sigma / from.sigma)
                - &pair[1].x_start * (to.alpha * (from.lambda - to.lambda).exp_m1());
            let error = largest(&(&pair[1].sample - pair[1].correction.as_ref().unwrap() - &first)) / largest(&first);
            assert!(error < 1e-9, "{name}, step {}: {error}", index + 1);
        }
    }
}

#[test]
fn the_relative_correction_falls_with_the_width_of_steps() {
    let process = process(Prediction::Epsilon);
    let largest_of = |name: &str, steps_taken: usize| {
        let options = SolverOptions { clip_denoised: false, steps: Some(steps_taken), ..SolverOptions::default() };
        let subject = Subject { sampler: name.parse().unwrap(), options };
        let lookup = Lookup::new(&subject.plan(&process), &process);
        let model = |x: &Tensor, timesteps: &Tensor| exact_epsilon(x, &lookup.of(timesteps));
        let (steps, _) = steps(&subject, &process, &GuidedModel::unguided(&model), &noise(1));
        assert_eq!(steps[3].relative_correction().size(), [2]);
        steps.iter().map(|step| largest(&step.relative_correction())).fold(0.0, f64::max)
    };
    assert_eq!(largest_of("dpmpp_1m", 10), 0.0);
    for name in ["dpmpp_2m", "dpmpp_2s", "dpm_3m", "unipc_bh2", "deis_tab", "ipndm", "heun"] {
        let (few, many) = (largest_of(name, 10), largest_of(name, 80));
        assert!(0.0 < many && many < 0.7 * few, "{name}: {few} and {many}");
    }
}

#[test]
fn random_samplers_sample_the_distribution() {
    let process = process(Prediction::Epsilon);
    let churn = Some(Churn { amount: 20.0, ..Churn::default() });
    for (name, churn) in [("dpmpp_2m_sde", None), ("dpmpp_3m_sde", None), ("heun", churn)] {
        let options = SolverOptions { clip_denoised: false, steps: Some(100), churn, ..SolverOptions::default() };
        let subject = Subject { sampler: name.parse().unwrap(), options };
        let lookup = Lookup::new(&subject.plan(&process), &process);
        let model = |x: &Tensor, timesteps: &Tensor| exact_epsilon(x, &lookup.of(timesteps));
        let start = normal(1, &[2, 1, 128, 128]).to_kind(Kind::Double);
        let (mut steps, asked) = steps(&subject, &process, &GuidedModel::unguided(&model), &start);
        assert!(asked.len() > 50, "{name}: {asked:?}");
        let samples = steps.pop().unwrap().sample;
        let (mean, deviation) = (samples.mean(None::<Kind>), samples.std(true));
        let (mean, deviation) = (mean.double_value(&[]), deviation.double_value(&[]));
        // The error of 32768 numbers is 0.003 for the mean and 0.002 for the deviation.
        assert!((mean - 0.2).abs() < 0.012 && (deviation - 0.5).abs() < 0.01, "{name}: {mean} and {deviation}");
        // What is sampled is not the path of the start.
        let together = (&start * &samples).mean(None::<Kind>).double_value(&[]);
        assert!(together.abs() < 0.2, "{name}: {together}");
    }
}

/// The exact ε of normal data with mean 0.2 and deviation 0.5.
fn exact_epsilon(x: &Tensor, level: &Level) -> Tensor {
    let Level { alpha, sigma, .. } = *level;
    (x - 0.2 * alpha) * (sigma / ((0.5 * alpha).powi(2) + sigma * sigma))
}

#[test]
fn networks_that_predict_the_mean_need_the_timesteps_of_training() {
    for subject in subjects() {
        let plan = SolverPlan::new(subject.sampler, &subject.options, &process(Prediction::PreviousX));
        if subject.sampler.takes(SolverOption::TimestepRespacing) {
            assert!(plan.is_ok(), "{subject:?}");
        } else {
            let error = plan.err().unwrap();
            assert!(matches!(error, SolverError::PreviousX { .. }) && error.field() == "sampler", "{subject:?}");
        }
    }
}

#[test]
fn processes_of_few_timesteps_are_sampled_or_refused() {
    for diffusion_steps in 1..5 {
        for entry in SOLVERS {
            let process = DiffusionConfig {
                noise_schedule: NoiseSchedule::Cosine,
                diffusion_steps,
                ..process(Prediction::Epsilon)
            };
            let subject = Subject { sampler: entry.name.parse().unwrap(), options: SolverOptions::default() };
            match SolverPlan::new(subject.sampler, &subject.options, &process) {
                Ok(_) => {
                    let model = |x: &Tensor, timesteps: &Tensor| network(x, timesteps);
                    let (steps, _) = steps(&subject, &process, &GuidedModel::unguided(&model), &noise(1));
                    assert!(largest(&steps.last().unwrap().sample).is_finite(), "{subject:?} of {diffusion_steps}");
                }
                Err(error) => assert!(error.to_string().contains("timesteps"), "{subject:?}: {error}"),
            }
        }
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let mistakes = |name: &str, options: SolverOptions| -> Vec<String> {
        let sampler: Sampler = name.parse().unwrap();
        let mistakes = sampler.check(&options, &process(Prediction::Epsilon));
        mistakes.iter().map(|mistake| format!("{}: {mistake}", mistake.field())).collect()
    };
    let plain = SolverOptions::default;
    let cases = [
        ("dpmpp_2m", SolverOptions { steps: Some(0), ..plain() }, "steps: is 0; it must lie in [1, 1000]"),
        ("dpmpp_2m", SolverOptions { steps: Some(1001), ..plain() }, "steps: is 1001; it must lie in [1, 1000]"),
        ("dpmpp_2m", SolverOptions { time_range: Some((1.0, 0.0)), ..plain() }, "time_range: is 1 to 0; times"),
        ("dpmpp_2m", SolverOptions { order: Some(2), ..plain() }, "order: is no option of dpmpp_2m, which takes steps"),
        ("ddim", SolverOptions { steps: Some(10), ..plain() }, "steps: is no option of ddim"),
        ("heun", SolverOptions { eta: 0.5, ..plain() }, "eta: is no option of heun"),
        ("deis_tab", SolverOptions { order: Some(4), ..plain() }, "order: is 4; deis_tab has 2, 3, 1"),
        (
            "heun",
            SolverOptions { time_grid: Some(TimeGrid::Logsnr), ..plain() },
            "time_grid: is logsnr; heun has karras",
        ),
        (
            "heun",
            SolverOptions { churn: Some(Churn { noise: f64::NAN, ..Churn::default() }), ..plain() },
            "churn: is {amount: 0",
        ),
        (
            "unipc_bh1",
            SolverOptions { dynamic_thresholding: Some(DynamicThresholding { quantile: 1.5, max: 1.0 }), ..plain() },
            "dynamic_thresholding: is {quantile: 1.5, max: 1}; the quantile",
        ),
    ];
    for (name, options, expected) in cases {
        let found = mistakes(name, options);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    }
    assert_eq!(mistakes("unipc_bh2", SolverOptions { order: Some(3), ..plain() }), [""; 0]);
}
