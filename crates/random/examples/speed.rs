//! Measures the nanoseconds that a random number takes on one thread, by each set of instructions that the processor has:
//! `cargo run --release -p admiral-random --example speed`.

use std::hint::black_box;
use std::time::Instant;

use admiral_random::{Instructions, Philox, Stream};

/// The values of an image of 64 x 64 pixels in 3 channels.
const VALUES: usize = 3 * 64 * 64;
const ROUNDS: usize = 9;
const FILLS: u64 = 500;

fn main() {
    println!("{:<10} {:>12} {:>12}", "", "normal, ns", "uniform, ns");
    for instructions in Instructions::all() {
        let mut values = vec![0.0; VALUES];
        let normal = nanoseconds(|index| {
            Philox::new(1, Stream::Noise, index).fill_normal_with(&mut values, instructions);
            black_box(&mut values);
        });
        let mut values = vec![0.0; VALUES];
        let uniform = nanoseconds(|index| {
            Philox::new(1, Stream::Initialization, index).fill_uniform_with(&mut values, instructions);
            black_box(&mut values);
        });
        println!("{:<10} {normal:>12.2} {uniform:>12.2}", instructions.name());
    }
}

/// Returns the time for a value of a function that fills a buffer: the least of some rounds.
fn nanoseconds(mut fill: impl FnMut(u64)) -> f64 {
    let round = |_| {
        let start = Instant::now();
        (0..FILLS).for_each(&mut fill);
        start.elapsed().as_secs_f64() * 1e9 / (FILLS as f64 * VALUES as f64)
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}
