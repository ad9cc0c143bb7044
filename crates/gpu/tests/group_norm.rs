//! The group normalization's kernels against float64: their own text run on the CPU, and on a GPU where there is one.
#![allow(clippy::unwrap_used)]

mod support;

use admiral_gpu::Kind;
use admiral_gpu::group_norm::{Activation, Backward, Dropout, Forward, GroupNorm, Layout};
use support::machine::{Machine, Memory};
use support::numbers::{Random, half_a_step, rounded};
use support::twin::{self, Inputs, Outputs};

const DROPOUT: Dropout = Dropout { probability: 0.3, seed: 0x1234_5678_9abc_def0, offset: 0x0fed_cba9_8765_4321 };

/// All values are such as the kind can hold: errors are the kernel's alone.
fn inputs(norm: &GroupNorm, modulated: bool) -> Inputs {
    let mut random = Random::fresh((norm.channels * norm.spatial + norm.batch) as u64);
    let values = norm.batch * norm.channels * norm.spatial;
    // A mean far from zero shows cancellation.
    let x = random.normals(values).iter().map(|x| rounded(norm.kind, x * 2.0 + 3.0)).collect();
    let dy = random.normals(values).iter().map(|x| rounded(norm.kind, *x)).collect();
    let mut floats = |length| -> Vec<f64> { random.normals(length).iter().map(|x| rounded(Kind::Float, *x)).collect() };
    let (weight, bias) = (floats(norm.channels), floats(norm.channels));
    let modulation = modulated.then(|| (floats(norm.batch * norm.channels), floats(norm.batch * norm.channels)));
    Inputs { x, dy, weight, bias, modulation }
}

/// Forward, then backward, into poisoned memory. `moved` moves x by some elements, so that it is not aligned.
fn run(machine: &Machine, norm: &GroupNorm, inputs: &Inputs, moved: usize) -> Outputs {
    let launcher = machine.launcher();
    let float = |values: &[f64]| machine.put(Kind::Float, values);
    let empty = |length: usize| machine.poisoned(Kind::Float, length);
    let rows = norm.batch * norm.channels;
    let (x, dy) = (machine.put_at(norm.kind, &inputs.x, moved), machine.put(norm.kind, &inputs.dy));
    let (y, dx) = (machine.poisoned(norm.kind, inputs.x.len()), machine.poisoned(norm.kind, inputs.x.len()));
    let (weight, bias) = (float(&inputs.weight), float(&inputs.bias));
    let modulation = inputs.modulation.as_ref().map(|(scale, shift)| (float(scale), float(shift)));
    let dmodulation = modulation.is_some().then(|| (empty(rows), empty(rows)));
    let addresses = |pair: &Option<(Memory, Memory)>| pair.as_ref().map(|(a, b)| (a.address(), b.address()));
    let (mean, rstd) = (empty(norm.batch * norm.groups), empty(norm.batch * norm.groups));
    let (dweight, dbias) = (empty(norm.channels), empty(norm.channels));
    let workspace = empty(norm.forward_workspace().unwrap() / 4);
    let forward = Forward {
        x: x.address(),
        y: y.address(),
        weight: weight.address(),
        bias: bias.address(),
        modulation: addresses(&modulation),
        mean: mean.address(),
        rstd: rstd.address(),
        workspace: workspace.address(),
    };
    // SAFETY: all memory has the lengths that `Forward` says.
    unsafe { norm.forward(&*launcher, &forward) }.unwrap();
    workspace.bytes();
    let workspace = empty(norm.backward_workspace().unwrap() / 4);
    let backward = Backward {
        x: x.address(),
        dy: dy.address(),
        dx: dx.address(),
        weight: weight.address(),
        bias: bias.address(),
        modulation: addresses(&modulation),
        mean: mean.address(),
        rstd: rstd.address(),
        dweight: dweight.address(),
        dbias: dbias.address(),
        dmodulation: addresses(&dmodulation),
        workspace: workspace.address(),
    };
    // SAFETY: as above.
    unsafe { norm.backward(&*launcher, &backward) }.unwrap();
    workspace.bytes();
    let (dscale, dshift) = dmodulation.as_ref().map_or((Vec::new(), Vec::new()), |(a, b)| (a.values(), b.values()));
    Outputs {
        y: y.values(),
        mean: mean.values(),
        rstd: rstd.values(),
        dx: dx.values(),
        dweight: dweight.values(),
        dbias: dbias.values(),
        dscale,
        dshift,
    }
}

/// Each value within what float32 inside costs, plus half a step of its own kind.
fn check_values(what: &str, kind: Kind, wanted: &[f64], found: &[f64], tolerance: f64, context: &str) {
    check_terms(what, kind, wanted, found, tolerance, 1e-3, context);
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0f64, |a, b| a.max(b.abs()))
}

/// As `check_values`, where values of the size of `terms` are added up to what may be nothing.
fn check_terms(what: &str, kind: Kind, wanted: &[f64], found: &[f64], tolerance: f64, terms: f64, context: &str) {
    assert_eq!(wanted.len(), found.len(), "{what}: {context}");
    let largest = largest(wanted);
    for (i, (w, f)) in wanted.iter().zip(found).enumerate() {
        let allowed = tolerance * largest.max(terms)
            + if kind == Kind::Float { 0.0 } else { half_a_step(kind, w.abs().max(f.abs())) };
        let error = (w - f).abs();
        assert!(error <= allowed, "{what}[{i}] is {f}, not {w}: {error:e} of {allowed:e}; {context}");
    }
}

fn check(norm: &GroupNorm, inputs: &Inputs, wanted: &Outputs, found: &Outputs, context: &str) {
    // A group of one value has no gradient: terms of this size cancel.
    let terms = largest(&wanted.rstd) * largest(&inputs.dy) * largest(&inputs.weight) / 8.0;
    let context = format!("{norm:?} {context}");
    check_values("mean", Kind::Float, &wanted.mean, &found.mean, 1e-6, &context);
    check_values("rstd", Kind::Float, &wanted.rstd, &found.rstd, 4e-6, &context);
    check_values("y", norm.kind, &wanted.y, &found.y, 4e-6, &context);
    check_terms("dx", norm.kind, &wanted.dx, &found.dx, 1e-5, terms, &context);
    check_values("dweight", Kind::Float, &wanted.dweight, &found.dweight, 1e-5, &context);
    check_values("dbias", Kind::Float, &wanted.dbias, &found.dbias, 1e-5, &context);
    if !found.dscale.is_empty() {
        check_values("dscale", Kind::Float, &wanted.dscale, &found.dscale, 1e-5, &context);
        check_values("dshift", Kind::Float, &wanted.dshift, &found.dshift, 1e-5, &context);
    }
}

/// batch, channels, spatial, groups.
type Size = (usize, usize, usize, usize);

fn all_variants(machine: &Machine, kind: Kind, sizes: &[Size], moved: usize) {
    let mut random = Random::fresh(0);
    let dropout = Dropout { seed: random.bits(), offset: random.bits(), ..DROPOUT };
    for layout in [Layout::ChannelsLast, Layout::Contiguous] {
        for &(batch, channels, spatial, groups) in sizes {
            for (activation, modulated) in [
                (Activation::None, false),
                (Activation::Silu, true),
                (Activation::Silu, false),
                (Activation::SiluDropout(dropout), true),
            ] {
                let norm = GroupNorm { kind, layout, batch, channels, spatial, groups, eps: 1e-5, activation };
                let inputs = inputs(&norm, modulated);
                let found = run(machine, &norm, &inputs, moved);
                check(&norm, &inputs, &twin::group_norm(&norm, &inputs), &found, &format!("modulated {modulated}"));
            }
        }
    }
}

/// Groups narrower and wider than a vector, tiles of one and of many, one chunk and several, one position, positions in
/// no and in whole vectors, few threads idle and many.
const SIZES: [Size; 7] = [
    (1, 32, 1, 32),
    (2, 192, 35, 32),
    (3, 64, 64, 32),
    (1, 1152, 9, 32),
    (1, 32, 2400, 32),
    (2, 576, 16, 32),
    (1, 48, 600, 3),
];
/// What can only be moved one by one.
const NARROW: [Size; 3] = [(2, 6, 35, 3), (1, 33, 50, 11), (1, 96, 5, 32)];

#[test]
fn float_equals_the_definition() {
    all_variants(&Machine::host(0), Kind::Float, &SIZES, 0);
}

#[test]
fn half_equals_the_definition() {
    all_variants(&Machine::host(1), Kind::Half, &SIZES, 0);
}

#[test]
fn bfloat16_equals_the_definition() {
    all_variants(&Machine::host(2), Kind::BFloat16, &SIZES, 0);
}

#[test]
fn what_is_not_aligned_or_of_odd_width_equals_the_definition() {
    for (order, kind) in Kind::ALL.into_iter().enumerate() {
        all_variants(&Machine::host(order as u32), kind, &NARROW, 0);
        all_variants(&Machine::host(order as u32), kind, &[(2, 64, 10, 32)], 1);
    }
}

fn bits(outputs: &Outputs) -> Vec<u64> {
    let Outputs { y, mean, rstd, dx, dweight, dbias, dscale, dshift } = outputs;
    [y, mean, rstd, dx, dweight, dbias, dscale, dshift].into_iter().flatten().map(|x| x.to_bits()).collect()
}

#[test]
fn results_do_not_depend_on_the_order_of_threads_and_blocks() {
    for layout in [Layout::ChannelsLast, Layout::Contiguous] {
        for (batch, channels, spatial, groups) in [(2, 192, 320, 32), (1, 48, 600, 3)] {
            let activation = Activation::SiluDropout(DROPOUT);
            let norm = GroupNorm { kind: Kind::Half, layout, batch, channels, spatial, groups, eps: 1e-5, activation };
            let inputs = inputs(&norm, true);
            let first = bits(&run(&Machine::host(0), &norm, &inputs, 0));
            for order in [1, 2, 5, 8] {
                assert_eq!(first, bits(&run(&Machine::host(order), &norm, &inputs, 0)), "{norm:?}, order {order}");
            }
        }
    }
}

#[test]
fn what_is_not_finite_reaches_its_whole_group_and_no_other() {
    let machine = Machine::host(0);
    for layout in [Layout::ChannelsLast, Layout::Contiguous] {
        let norm = GroupNorm {
            kind: Kind::Float,
            layout,
            batch: 2,
            channels: 64,
            spatial: 12,
            groups: 32,
            eps: 1e-5,
            activation: Activation::SiluDropout(DROPOUT),
        };
        for bad in [f64::NAN, f64::INFINITY] {
            let mut inputs = inputs(&norm, true);
            inputs.x[twin::place(&norm, 1, 5, 3)] = bad;
            let found = run(&machine, &norm, &inputs, 0);
            for sample in 0..2 {
                for channel in 0..64 {
                    for position in 0..12 {
                        let is_nan = found.y[twin::place(&norm, sample, channel, position)].is_nan();
                        assert_eq!(is_nan, sample == 1 && channel / 2 == 2, "{sample} {channel} {position}");
                    }
                }
            }
        }
    }
}

#[test]
fn dropout_drops_the_part_that_it_says_and_another_offset_drops_others() {
    let dropped = |dropout: &Dropout| -> Vec<bool> { (0..40_000).map(|i| twin::mask(dropout, i) == 0.0).collect() };
    let first = dropped(&DROPOUT);
    let part = first.iter().filter(|dropped| **dropped).count() as f64 / first.len() as f64;
    // Four standard deviations of the part are 0.0092.
    assert!((part - 0.3).abs() < 0.0092, "{part}");
    for other in [Dropout { offset: DROPOUT.offset + 1, ..DROPOUT }, Dropout { seed: DROPOUT.seed + 1, ..DROPOUT }] {
        let both = first.iter().zip(dropped(&other)).filter(|(a, b)| **a && *b).count() as f64 / first.len() as f64;
        assert!((both - 0.09).abs() < 0.006, "independent masks meet in 9 % of places, not {both}");
    }
    // The first vector that the authors of Philox give to check an implementation by.
    assert_eq!(twin::philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
}

#[test]
fn a_gpu_equals_the_definition() {
    let Some(machine) = Machine::gpu() else { return };
    for kind in Kind::ALL {
        all_variants(&machine, kind, &SIZES, 0);
        all_variants(&machine, kind, &NARROW, 0);
        all_variants(&machine, kind, &[(2, 64, 10, 32)], 1);
        all_variants(&machine, kind, &[(3, 192, 1024, 32), (2, 384, 35 * 35, 32), (8, 768, 64, 32)], 0);
    }
}
