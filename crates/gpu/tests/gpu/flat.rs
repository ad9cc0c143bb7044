//! Compares the optimizer, the norms and the hash with their definitions, on the CPU and, if there is one, on a GPU.

use crate::support::machine::{Machine, Memory};
use crate::support::numbers::{Random, rounded};
use crate::support::relative_error;
use admiral_gpu::Kind;
use admiral_gpu::adam::{AdamHyper, AdamMemory, adam};
use admiral_gpu::hash;
use admiral_gpu::norms::{self, Finish, StepControl};

const HYPER: AdamHyper = AdamHyper {
    learning_rate: 1e-2,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.05,
    step: 1,
    gradient_scale: 0.25,
};

/// The reference state in float64: master, mean, variance, then the averages.
#[derive(Clone)]
struct State {
    values: Vec<Vec<f64>>,
    rates: Vec<f64>,
}

impl State {
    fn random(length: usize, rates: &[f64], random: &mut Random) -> Self {
        let mut floats = |square: bool| -> Vec<f64> {
            let value = |x: f64| if square { x * x } else { x };
            random.normals(length).iter().map(|&x| rounded(Kind::Float, value(x))).collect()
        };
        let mut values = vec![floats(false), floats(false), floats(true)];
        values.extend(rates.iter().map(|_| floats(false)));
        Self { values, rates: rates.to_vec() }
    }

    /// Returns the terms of vector `i` besides the gradient: its initial values, and the masters for an average.
    fn terms<'a>(&'a self, i: usize, start: &'a Self) -> [&'a [f64]; 2] {
        let masters: &[f64] = if i < 3 { &[] } else { &self.values[0] };
        [&start.values[i], masters]
    }

    /// Updates the state by the definition of AdamW.
    fn update(&mut self, gradient: &[f64], hyper: &AdamHyper) {
        let correction1 = 1.0 - hyper.beta1.powf(hyper.step as f64);
        let correction2 = 1.0 - hyper.beta2.powf(hyper.step as f64);
        let [p, m, v, averages @ ..] = &mut self.values[..] else { panic!("three values at least") };
        for (i, g) in gradient.iter().map(|g| g * hyper.gradient_scale).enumerate() {
            p[i] *= 1.0 - hyper.learning_rate * hyper.weight_decay;
            m[i] = hyper.beta1 * m[i] + (1.0 - hyper.beta1) * g;
            v[i] = hyper.beta2 * v[i] + (1.0 - hyper.beta2) * g * g;
            p[i] -= hyper.learning_rate / correction1 * m[i] / ((v[i] / correction2).sqrt() + hyper.epsilon);
            for (average, rate) in averages.iter_mut().zip(&self.rates) {
                average[i] = average[i] * rate + p[i] * (1.0 - rate);
            }
        }
    }
}

/// The state in the memory of a machine.
struct OnMachine {
    flat: Vec<Memory>,
    gradient: Memory,
    half: Option<Memory>,
}

impl OnMachine {
    fn new(machine: &Machine, state: &State, kind: Kind, gradient: &[f64], half: Option<Kind>) -> Self {
        Self {
            flat: state.values.iter().map(|values| machine.put(Kind::Float, values)).collect(),
            gradient: machine.put(kind, gradient),
            half: half.map(|kind| machine.poisoned(kind, gradient.len())),
        }
    }

    fn memory(&self, length: usize, rates: &[f64], gradient: Kind, half: Option<Kind>) -> AdamMemory {
        AdamMemory {
            length,
            master: self.flat[0].address(),
            mean: self.flat[1].address(),
            variance: self.flat[2].address(),
            gradient: (gradient, self.gradient.address()),
            half: half.zip(self.half.as_ref().map(Memory::address)),
            averages: rates.iter().copied().zip(self.flat[3..].iter().map(Memory::address)).collect(),
        }
    }
}

fn check_adam(machine: &Machine, lengths: &[usize]) {
    let launcher = machine.launcher();
    for &length in lengths {
        for kind in Kind::ALL {
            for half in [None, Some(Kind::Half), Some(Kind::BFloat16)] {
                // No averages, some, and more than one launch takes.
                for rates in [&[][..], &[0.9, 0.9999], &[0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999]] {
                    let mut random = Random::fresh(length as u64);
                    let mut state = State::random(length, rates, &mut random);
                    let gradient: Vec<f64> = random.normals(length).iter().map(|g| rounded(kind, *g)).collect();
                    let start = state.clone();
                    let on = OnMachine::new(machine, &state, kind, &gradient, half);
                    for step in 1..=3 {
                        let hyper = AdamHyper { step, ..HYPER };
                        // SAFETY: all memory has that length.
                        unsafe { adam(&*launcher, &on.memory(length, rates, kind, half), &hyper, None) }.unwrap();
                        state.update(&gradient, &hyper);
                    }
                    for (i, (expected, found)) in state.values.iter().zip(&on.flat).enumerate() {
                        let error = relative_error(expected, &found.values(), &state.terms(i, &start));
                        assert!(error < 1e-6, "{length} of {kind:?}, half {half:?}, vector {i}: {error}");
                    }
                    if let (Some(half), Some(copy)) = (half, &on.half) {
                        let expected: Vec<f64> = on.flat[0].values().iter().map(|p| rounded(half, *p)).collect();
                        assert_eq!(expected, copy.values(), "the half copy is the rounded master");
                    }
                }
            }
        }
    }
}

/// Lengths with every kind of tail, and several turns of several blocks.
const LENGTHS: [usize; 6] = [1, 3, 4, 1023, 2054, 5000];

#[test]
fn adam_matches_the_definition() {
    check_adam(&Machine::host(2), &LENGTHS);
}

/// The memory of a step: the partial sums of its gradient, and the decision.
struct Step {
    gradient: Vec<Memory>,
    control: Memory,
}

fn partials(machine: &Machine, kind: Kind, memory: &Memory, length: usize) -> Memory {
    // A float64 takes two floats of the machine's memory.
    let partials = machine.poisoned(Kind::Float, 2 * norms::num_partials(kind, length));
    // SAFETY: both ranges have these lengths.
    unsafe { norms::sum_of_squares(&*machine.launcher(), kind, memory.address(), length, partials.address()) }.unwrap();
    partials
}

fn doubles(memory: &Memory) -> Vec<f64> {
    memory.bytes().chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn control_of(machine: &Machine, control: &StepControl) -> Memory {
    let bytes = control.to_bytes();
    let floats: Vec<f64> =
        bytes.chunks_exact(4).map(|word| f64::from(f32::from_le_bytes(word.try_into().unwrap()))).collect();
    let memory = machine.put(Kind::Float, &floats);
    assert_eq!(memory.bytes(), bytes, "the bits are unchanged");
    memory
}

fn read_control(memory: &Memory) -> StepControl {
    StepControl::from_bytes(memory.bytes().try_into().unwrap())
}

impl Step {
    fn finish(&self, machine: &Machine, parameters: &Memory, gradient_scale: f64, clip_norm: f64) -> StepControl {
        let launcher = machine.launcher();
        for gradient in &self.gradient {
            let num = gradient.bytes().len() / 8;
            let input = Finish {
                gradient_partials: (gradient.address(), num),
                parameter_partials: (parameters.address(), parameters.bytes().len() / 8),
                control: self.control.address(),
                gradient_scale,
                clip_norm,
                learning_rate: HYPER.learning_rate,
                beta1: HYPER.beta1,
                beta2: HYPER.beta2,
            };
            // SAFETY: all memory has these lengths.
            unsafe { norms::finish(&*launcher, &input) }.unwrap();
        }
        read_control(&self.control)
    }
}

fn check_sums(machine: &Machine, lengths: &[usize]) {
    for &length in lengths {
        for kind in Kind::ALL {
            let mut random = Random::fresh(7);
            let values: Vec<f64> = random.normals(length).iter().map(|x| rounded(kind, x * 1e3)).collect();
            let memory = machine.put(kind, &values);
            let found: f64 = doubles(&partials(machine, kind, &memory, length)).iter().sum();
            let expected: f64 = values.iter().map(|x| x * x).sum();
            assert!((found / expected - 1.0).abs() < 1e-12, "{length} of {kind:?}: {found} for {expected}");
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                for index in [0, length / 2, length - 1] {
                    let mut values = values.clone();
                    values[index] = bad;
                    let memory = machine.put(kind, &values);
                    let found: f64 = doubles(&partials(machine, kind, &memory, length)).iter().sum();
                    assert!(!found.is_finite(), "{bad} at {index} of {length} is not detected: {found}");
                }
            }
        }
    }
}

#[test]
fn sums_of_squares_match_the_definition_and_detect_non_finite_values() {
    check_sums(&Machine::host(1), &LENGTHS);
}

#[test]
fn squares_beyond_float32_are_finite() {
    let machine = Machine::host(0);
    let memory = machine.put(Kind::Float, &[3e38; 1000]);
    let found: f64 = doubles(&partials(&machine, Kind::Float, &memory, 1000)).iter().sum();
    let expected = 1000.0 * rounded(Kind::Float, 3e38).powi(2);
    assert!((found / expected - 1.0).abs() < 1e-12, "{found}");
}

#[test]
fn sums_do_not_depend_on_the_order_of_threads_and_blocks() {
    let values = Random::new(3).normals(9_999);
    let sums = |order| {
        let machine = Machine::host(order);
        let memory = machine.put(Kind::Half, &values);
        partials(&machine, Kind::Half, &memory, values.len()).bytes()
    };
    let first = sums(0);
    for order in [1, 2, 5] {
        assert_eq!(first, sums(order));
    }
}

fn check_hashes(machine: &Machine, lengths: &[usize]) {
    let words_of = |bytes: &[u8]| -> Vec<u64> {
        bytes.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect()
    };
    for &length in lengths {
        let memory = machine.put(Kind::Float, &Random::new(5).normals(2 * length));
        let partials = machine.poisoned(Kind::Float, 2 * hash::num_partials(length));
        // SAFETY: both ranges have these lengths.
        unsafe { hash::hash_words(&*machine.launcher(), memory.address(), length, partials.address()) }.unwrap();
        let found = words_of(&partials.bytes()).into_iter().fold(0, u64::wrapping_add);
        assert_eq!(found, hash::of_words(words_of(&memory.bytes())), "{length} words");
    }
}

#[test]
fn hashes_match_the_definition_in_any_order() {
    for order in [0, 1, 5] {
        check_hashes(&Machine::host(order), &LENGTHS);
    }
}

fn check_decisions(machine: &Machine) {
    const LENGTH: usize = 3000;
    const SCALE: f64 = 0.25;
    let mut random = Random::fresh(11);
    let rates = [0.9, 0.99];
    let mut state = State::random(LENGTH, &rates, &mut random);
    let good: Vec<f64> = random.normals(LENGTH).iter().map(|g| rounded(Kind::Half, *g)).collect();
    let mut bad = good.clone();
    bad[2999] = f64::INFINITY;
    let norm = good.iter().map(|g| g * g).sum::<f64>().sqrt() * SCALE;
    let start = state.clone();
    let on = OnMachine::new(machine, &state, Kind::Half, &good, Some(Kind::Half));
    let control = control_of(machine, &StepControl { updates: 4, ..StepControl::default() });
    let mut step = Step { gradient: Vec::new(), control };
    let overflowing = machine.put(Kind::Half, &bad);
    let launcher = machine.launcher();
    let mut updates = 4;
    // The largest norm, whether the gradient overflows, and the expected clip factor.
    for (clip_norm, overflows, clip) in [
        (0.0, false, 1.0),
        (norm * 2.0, false, 1.0),
        (norm / 4.0, true, 1.0),
        (norm / 4.0, true, 1.0),
        (norm / 4.0, false, 0.25),
    ] {
        let before: Vec<Vec<u8>> = on.flat.iter().chain(&on.half).map(Memory::bytes).collect();
        let skipped = read_control(&step.control).skipped;
        let gradient = if overflows { &overflowing } else { &on.gradient };
        step.gradient = vec![partials(machine, Kind::Half, gradient, LENGTH)];
        let parameters = partials(machine, Kind::Float, &on.flat[0], LENGTH);
        let expected_parameter_norm = on.flat[0].values().iter().map(|p| p * p).sum::<f64>().sqrt();
        let found = step.finish(machine, &parameters, SCALE, clip_norm);
        assert!((found.parameter_norm / expected_parameter_norm - 1.0).abs() < 1e-12, "{found:?}");
        let mut memory = on.memory(LENGTH, &rates, Kind::Half, Some(Kind::Half));
        memory.gradient.1 = gradient.address();
        // The device counts updates, so the host's number is ignored.
        let hyper = AdamHyper { step: 999, gradient_scale: SCALE, ..HYPER };
        // SAFETY: all memory has that length.
        unsafe { adam(&*launcher, &memory, &hyper, Some(step.control.address())) }.unwrap();
        let after: Vec<Vec<u8>> = on.flat.iter().chain(&on.half).map(Memory::bytes).collect();
        if overflows {
            assert_eq!((found.skip, found.updates, found.skipped), (1, updates, skipped + 1), "{found:?}");
            assert!(!found.gradient_norm.is_finite(), "{found:?}");
            assert!(before == after, "a skipped step changes nothing");
            continue;
        }
        updates += 1;
        assert_eq!((found.skip, found.updates, found.skipped), (0, updates, 0), "{found:?}");
        assert!((found.gradient_norm / norm - 1.0).abs() < 1e-12, "{found:?}");
        assert!((f64::from(found.clip) / clip - 1.0).abs() < 1e-6, "{found:?}");
        state.update(&good, &AdamHyper { step: updates, gradient_scale: SCALE * clip, ..HYPER });
        for (i, (expected, found)) in state.values.iter().zip(&on.flat).enumerate() {
            let error = relative_error(expected, &found.values(), &state.terms(i, &start));
            assert!(error < 1e-6, "vector {i} after update {updates}: {error}");
        }
    }
}

#[test]
fn the_device_skips_clips_and_counts_steps() {
    check_decisions(&Machine::host(0));
}

#[test]
fn invalid_addresses_are_refused() {
    let machine = Machine::host(0);
    let state = State::random(8, &[], &mut Random::new(1));
    let on = OnMachine::new(&machine, &state, Kind::Float, &[0.0; 8], None);
    let memory = on.memory(8, &[], Kind::Float, None);
    let text = |memory: AdamMemory| {
        // SAFETY: the call is refused before anything runs.
        unsafe { adam(&*machine.launcher(), &memory, &HYPER, None) }.unwrap_err().to_string()
    };
    assert!(text(AdamMemory { mean: 0, ..memory.clone() }).contains("`mean` is 0x0"));
    assert!(
        text(AdamMemory { variance: memory.variance + 4, ..memory.clone() }).contains("an address that 16 divides")
    );
    assert!(text(AdamMemory { half: Some((Kind::Float, memory.mean)), ..memory }).contains("of a half kind"));
}

#[test]
fn a_gpu_matches_the_definition() {
    let Some(machine) = Machine::gpu() else { return };
    check_adam(&machine, &LENGTHS);
    check_adam(&machine, &[3_000_001]);
    check_sums(&machine, &LENGTHS);
    check_sums(&machine, &[9_000_001]);
    check_hashes(&machine, &LENGTHS);
    check_hashes(&machine, &[4_500_001]);
    check_decisions(&machine);
}
