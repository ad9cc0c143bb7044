//! Compares the group normalization kernels with float64, on the CPU and, if there is one, on a GPU.

use crate::support::machine::{Machine, Memory};
use crate::support::numbers::{Random, half_ulp, rounded};
use crate::support::reference::{self, Inputs, Outputs};
use admiral_gpu::Kind;
use admiral_gpu::group_norm::{Activation, Backward, Dropout, Forward, GroupNorm, Layout};

const DROPOUT: Dropout = Dropout { probability: 0.3, seed: 0x1234_5678_9abc_def0, offset: 0x0fed_cba9_8765_4321 };

/// Returns random inputs. All values are representable in the type, so that all errors come from the kernel.
fn inputs(norm: &GroupNorm, modulated: bool) -> Inputs {
    let mut random = Random::fresh((norm.channels * norm.spatial + norm.batch) as u64);
    let values = norm.batch * norm.channels * norm.spatial;
    // A mean far from zero would reveal cancellation.
    let x = random.normals(values).iter().map(|x| rounded(norm.kind, x * 2.0 + 3.0)).collect();
    let dy = random.normals(values).iter().map(|x| rounded(norm.kind, *x)).collect();
    let mut floats = |length| -> Vec<f64> { random.normals(length).iter().map(|x| rounded(Kind::Float, *x)).collect() };
    let (weight, bias) = (floats(norm.channels), floats(norm.channels));
    let modulation = modulated.then(|| (floats(norm.batch * norm.channels), floats(norm.batch * norm.channels)));
    Inputs { x, dy, weight, bias, modulation }
}

/// Runs forward and backward into poisoned memory. `moved` is an offset of x in elements, which makes it unaligned.
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
    // SAFETY: all memory has the sizes in `Forward`.
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

/// Checks that each error is at most a tolerance for float32 arithmetic, plus half a unit in the last place of the
/// type.
fn check_values(name: &str, kind: Kind, expected: &[f64], found: &[f64], tolerance: f64, context: &str) {
    check_terms(name, kind, expected, found, tolerance, 1e-3, context);
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0f64, |a, b| a.max(b.abs()))
}

/// Like `check_values`, for values that are sums of terms of the size `terms` and may cancel.
fn check_terms(name: &str, kind: Kind, expected: &[f64], found: &[f64], tolerance: f64, terms: f64, context: &str) {
    assert_eq!(expected.len(), found.len(), "{name}: {context}");
    let largest = largest(expected);
    for (i, (w, f)) in expected.iter().zip(found).enumerate() {
        let allowed = tolerance * largest.max(terms)
            + if kind == Kind::Float { 0.0 } else { half_ulp(kind, w.abs().max(f.abs())) };
        let error = (w - f).abs();
        assert!(error <= allowed, "{name}[{i}] is {f}, not {w}: {error:e} of {allowed:e}; {context}");
    }
}

fn check(norm: &GroupNorm, inputs: &Inputs, expected: &Outputs, found: &Outputs, context: &str) {
    // The gradient of a group with one value is 0: terms of this size cancel.
    let terms = largest(&expected.rstd) * largest(&inputs.dy) * largest(&inputs.weight) / 8.0;
    let context = format!("{norm:?} {context}");
    check_values("mean", Kind::Float, &expected.mean, &found.mean, 1e-6, &context);
    check_values("rstd", Kind::Float, &expected.rstd, &found.rstd, 4e-6, &context);
    check_values("y", norm.kind, &expected.y, &found.y, 4e-6, &context);
    check_terms("dx", norm.kind, &expected.dx, &found.dx, 1e-5, terms, &context);
    check_values("dweight", Kind::Float, &expected.dweight, &found.dweight, 1e-5, &context);
    check_values("dbias", Kind::Float, &expected.dbias, &found.dbias, 1e-5, &context);
    if !found.dscale.is_empty() {
        check_values("dscale", Kind::Float, &expected.dscale, &found.dscale, 1e-5, &context);
        check_values("dshift", Kind::Float, &expected.dshift, &found.dshift, 1e-5, &context);
    }
}

/// Batch, channels, spatial, groups.
type Size = (usize, usize, usize, usize);

/// The variants of a kernel: layout, activation, and whether scale and shift modulate the result.
fn variants() -> Vec<(Layout, Activation, bool)> {
    let mut random = Random::fresh(0);
    let dropout = Dropout { seed: random.bits(), offset: random.bits(), ..DROPOUT };
    let activations = [
        (Activation::None, false),
        (Activation::Silu, true),
        (Activation::Silu, false),
        (Activation::SiluDropout(dropout), true),
    ];
    [Layout::ChannelsLast, Layout::Contiguous]
        .into_iter()
        .flat_map(|layout| activations.map(|(activation, modulated)| (layout, activation, modulated)))
        .collect()
}

fn check_variant(
    machine: &Machine,
    kind: Kind,
    (batch, channels, spatial, groups): Size,
    (layout, activation, modulated): (Layout, Activation, bool),
    moved: usize,
) {
    let norm = GroupNorm { kind, layout, batch, channels, spatial, groups, eps: 1e-5, activation };
    let inputs = inputs(&norm, modulated);
    let found = run(machine, &norm, &inputs, moved);
    check(&norm, &inputs, &reference::group_norm(&norm, &inputs), &found, &format!("modulated {modulated}"));
}

fn check_all_variants(machine: &Machine, kind: Kind, sizes: &[Size], moved: usize) {
    for variant in variants() {
        for &size in sizes {
            check_variant(machine, kind, size, variant, moved);
        }
    }
}

/// Checks every `stride`-th pair of a size and a variant, from the one at `first` on.
fn check_some_variants(order: u32, kind: Kind, sizes: &[Size], first: usize, stride: usize) {
    let machine = Machine::host(order);
    let pairs = sizes.iter().flat_map(|&size| variants().into_iter().map(move |variant| (size, variant)));
    for (size, variant) in pairs.skip(first).step_by(stride) {
        check_variant(&machine, kind, size, variant, 0);
    }
}

/// Groups narrower and wider than a vector, tiles of one group and of many, one chunk and several, one position,
/// positions that do and do not form whole vectors, few and many idle threads.
const SIZES: [Size; 7] = [
    (1, 32, 1, 32),
    (2, 192, 35, 32),
    (3, 64, 64, 32),
    (1, 1152, 9, 32),
    (1, 32, 2400, 32),
    (2, 576, 16, 32),
    (1, 48, 600, 3),
];
/// Shapes whose values do not form vectors.
const NARROW: [Size; 3] = [(2, 6, 35, 3), (1, 33, 50, 11), (1, 96, 5, 32)];

#[test]
fn float_matches_the_definition() {
    check_some_variants(0, Kind::Float, &SIZES, 0, 13);
}

#[test]
fn half_matches_the_definition() {
    check_some_variants(1, Kind::Half, &SIZES, 1, 13);
}

#[test]
fn bfloat16_matches_the_definition() {
    check_some_variants(2, Kind::BFloat16, &SIZES, 2, 13);
}

#[test]
fn unaligned_and_narrow_shapes_match_the_definition() {
    for (order, kind) in Kind::ALL.into_iter().enumerate() {
        check_some_variants(order as u32, kind, &NARROW, 3 * order, 11);
        let variant = variants()[3 * order];
        check_variant(&Machine::host(order as u32), kind, (2, 64, 10, 32), variant, 1);
    }
}

/// Exhaustive tests.
mod long {
    use super::*;

    #[test]
    #[ignore = "long: make test-long"]
    fn every_size_matches_the_definition_in_every_type() {
        for (order, kind) in Kind::ALL.into_iter().enumerate() {
            let machine = Machine::host(order as u32);
            check_all_variants(&machine, kind, &SIZES, 0);
            check_all_variants(&machine, kind, &NARROW, 0);
            check_all_variants(&machine, kind, &[(2, 64, 10, 32)], 1);
        }
    }

    #[test]
    #[ignore = "long: make test-long"]
    fn results_do_not_depend_on_the_order_of_threads_and_blocks_in_any_layout() {
        for layout in [Layout::ChannelsLast, Layout::Contiguous] {
            for size in [(2, 192, 320, 32), (1, 48, 600, 3)] {
                check_orders(layout, size, &[1, 2, 5, 8]);
            }
        }
    }
}

fn bits(outputs: &Outputs) -> Vec<u64> {
    let Outputs { y, mean, rstd, dx, dweight, dbias, dscale, dshift } = outputs;
    [y, mean, rstd, dx, dweight, dbias, dscale, dshift].into_iter().flatten().map(|x| x.to_bits()).collect()
}

/// Checks that the results have the same bits for all `orders` of the emulated threads and blocks as for order 0.
fn check_orders(layout: Layout, (batch, channels, spatial, groups): Size, orders: &[u32]) {
    let activation = Activation::SiluDropout(DROPOUT);
    let norm = GroupNorm { kind: Kind::Half, layout, batch, channels, spatial, groups, eps: 1e-5, activation };
    let inputs = inputs(&norm, true);
    let first = bits(&run(&Machine::host(0), &norm, &inputs, 0));
    for &order in orders {
        assert_eq!(first, bits(&run(&Machine::host(order), &norm, &inputs, 0)), "{norm:?}, order {order}");
    }
}

#[test]
fn results_do_not_depend_on_the_order_of_threads_and_blocks() {
    check_orders(Layout::ChannelsLast, (2, 192, 320, 32), &[5]);
    check_orders(Layout::Contiguous, (1, 48, 600, 3), &[2, 8]);
}

#[test]
fn non_finite_values_affect_their_whole_group_and_no_other() {
    let machine = Machine::host(0);
    for (layout, bad) in [(Layout::ChannelsLast, f64::NAN), (Layout::Contiguous, f64::INFINITY)] {
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
        let mut inputs = inputs(&norm, true);
        inputs.x[reference::index(&norm, 1, 5, 3)] = bad;
        let found = run(&machine, &norm, &inputs, 0);
        for sample in 0..2 {
            for channel in 0..64 {
                for position in 0..12 {
                    let is_nan = found.y[reference::index(&norm, sample, channel, position)].is_nan();
                    assert_eq!(is_nan, sample == 1 && channel / 2 == 2, "{sample} {channel} {position}");
                }
            }
        }
    }
}

#[test]
fn dropout_has_its_probability_and_masks_are_independent() {
    let dropped =
        |dropout: &Dropout| -> Vec<bool> { (0..40_000).map(|i| reference::mask(dropout, i) == 0.0).collect() };
    let first = dropped(&DROPOUT);
    let fraction = first.iter().filter(|dropped| **dropped).count() as f64 / first.len() as f64;
    // Four standard deviations of the fraction are 0.0092.
    assert!((fraction - 0.3).abs() < 0.0092, "{fraction}");
    for other in [Dropout { offset: DROPOUT.offset + 1, ..DROPOUT }, Dropout { seed: DROPOUT.seed + 1, ..DROPOUT }] {
        let both = first.iter().zip(dropped(&other)).filter(|(a, b)| **a && *b).count() as f64 / first.len() as f64;
        assert!((both - 0.09).abs() < 0.006, "independent masks overlap in 9 % of the elements, not {both}");
    }
    // The first test vector that the authors of Philox publish.
    assert_eq!(reference::philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
}

#[test]
fn a_gpu_matches_the_definition() {
    let Some(machine) = Machine::gpu() else { return };
    for kind in Kind::ALL {
        check_all_variants(&machine, kind, &SIZES, 0);
        check_all_variants(&machine, kind, &NARROW, 0);
        check_all_variants(&machine, kind, &[(2, 64, 10, 32)], 1);
        check_all_variants(&machine, kind, &[(3, 192, 1024, 32), (2, 384, 35 * 35, 32), (8, 768, 64, 32)], 0);
    }
}
