//! `admiral bench sample`: how fast images are drawn, and where the time goes.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use admiral_comm::{Collective, Ending};
use admiral_samples::{Job, JobSettings};
use admiral_storage::{Location, Store, StoreOptions};
use clap::Args;
use serde::Serialize;
use serde_json::Map;
use tch::Device;

use crate::context::RunContext;
use crate::run_config::PrecisionMode;
use crate::sample::{Error, ImageBatches, Part, SampleRequest, Stages, Watch};
use crate::statistics::{Spread, median};

use super::output::print_on_root;
use super::timing::{Clock, wait_for};

/// The share of the time that the arithmetic of a solver should stay below, in percent.
const SOLVER_AIM: f64 = 3.0;

/// The options of `admiral bench sample`.
#[derive(Debug, Clone, Args)]
pub struct SampleBenchOptions {
    /// Batches that are measured, on each rank
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    batches: u64,
    /// Batches of warm-up before them, which are not measured
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    warmup: u64,
    /// Measure CPU time divided by the number of threads instead of elapsed time, for a shared machine. Not for GPUs
    #[arg(long)]
    processor_time: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl SampleBenchOptions {
    fn clock(&self) -> Clock {
        if self.processor_time { Clock::Processor } else { Clock::Wall }
    }

    /// Returns the number of batches that one rank draws at most.
    #[must_use]
    pub fn batches_of_rank(&self) -> u64 {
        self.warmup + 2 * self.batches
    }
}

/// What is drawn.
#[derive(Debug)]
pub struct Drawing<'a> {
    /// The models.
    pub stages: Stages<'a>,
    /// The images: [`batches_of_rank`](SampleBenchOptions::batches_of_rank) batches for each rank.
    pub request: SampleRequest,
    /// The name of the sampler of the first model.
    pub sampler: String,
    /// The precision of the networks.
    pub precision: PrecisionMode,
}

/// Medians over the measured batches of rank 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Measured {
    ranks: usize,
    device: String,
    threads: i32,
    clock: Clock,
    precision: PrecisionMode,
    sampler: String,
    /// The steps of all models.
    steps: usize,
    /// Height, width and channels of an image.
    shape: [usize; 3],
    batch_size: u64,
    batches: u64,
    /// A batch, drawn and written.
    batch_seconds: Spread,
    /// The images of all ranks.
    images_per_second: f64,
    /// The evaluations of networks for one image, with those of what guides.
    evaluations: f64,
    /// Evaluations for single images, of all ranks.
    evaluations_per_second: f64,
    network_seconds: f64,
    guidance_seconds: f64,
    noise_seconds: f64,
    bytes_seconds: f64,
    write_seconds: f64,
    /// The rest: the arithmetic of the solver.
    solver_seconds: f64,
    /// Its share of the time, in percent.
    solver_percent: f64,
}

/// The times of one batch.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    batch: Duration,
    network: Duration,
    guidance: Duration,
    noise: Duration,
    bytes: Duration,
    write: Duration,
    evaluations: u64,
}

impl Times {
    /// Returns what is left for the solver.
    fn solver(&self) -> Duration {
        self.batch.saturating_sub(self.network + self.guidance + self.noise + self.bytes + self.write)
    }
}

/// Adds up the times of the parts of a batch.
#[derive(Debug)]
struct PartTimer {
    /// The device for which each part waits. `None` does not wait.
    device: Option<Device>,
    clock: Clock,
    began: Cell<Duration>,
    times: RefCell<Times>,
}

impl PartTimer {
    fn new(device: Option<Device>, clock: Clock) -> Self {
        Self { device, clock, began: Cell::new(clock.now()), times: RefCell::default() }
    }

    fn wait(&self) {
        if let Some(device) = self.device {
            wait_for(device);
        }
    }
}

impl Watch for PartTimer {
    fn begin(&self, _: Part) {
        self.wait();
        self.began.set(self.clock.now());
    }

    fn end(&self, part: Part) {
        self.wait();
        let elapsed = self.clock.now().saturating_sub(self.began.get());
        let mut times = self.times.borrow_mut();
        match part {
            Part::Network => times.network += elapsed,
            Part::Guidance => times.guidance += elapsed,
            Part::Noise => times.noise += elapsed,
            Part::Bytes => times.bytes += elapsed,
        }
        times.evaluations += u64::from(matches!(part, Part::Network | Part::Guidance));
    }
}

/// Draws batches, writes them to a temporary folder, and prints how long it took. Every rank calls it.
///
/// # Errors
/// When an image cannot be drawn or written, on this rank alone.
pub fn run(mut drawing: Drawing<'_>, options: &SampleBenchOptions, context: &RunContext<'_>) -> Result<(), Ending> {
    let measured = measure(&mut drawing, options, context);
    let measured = measured.map_err(|error| Ending::alone(error.exit_code(), &error))?;
    print_on_root(&measured, options.json, print, context.collective)
}

fn measure(
    drawing: &mut Drawing<'_>,
    options: &SampleBenchOptions,
    context: &RunContext<'_>,
) -> Result<Measured, Error> {
    let (collective, device) = (context.collective, context.device);
    let mut bench = Bench::open(drawing, options, collective)?;
    for _ in 0..options.warmup {
        bench.batch(&PartTimer::new(None, options.clock()))?;
    }
    collective.barrier()?;
    let mut batches = |waits: Option<Device>| -> Result<Vec<Times>, Error> {
        (0..options.batches).map(|_| bench.batch(&PartTimer::new(waits, options.clock()))).collect()
    };
    let whole = batches(None)?;
    // A GPU works on parts while the host is ahead, unless each part waits, which takes longer.
    let split = if device.is_cuda() { batches(Some(device))? } else { whole.clone() };

    let batch_seconds = Spread::of(whole.iter().map(|times| times.batch.as_secs_f64()));
    let batch_size = drawing.request.batch_size;
    let images_per_second = sum(batch_size as f64 / batch_seconds.median, collective)?;
    let evaluations = split.first().map_or(0.0, |times| times.evaluations as f64);
    let part = |choose: fn(&Times) -> Duration| median(split.iter().map(|times| choose(times).as_secs_f64()));
    let shares = split.iter().map(|times| 100.0 * times.solver().as_secs_f64() / times.batch.as_secs_f64());
    let stages = [Some(drawing.stages.first), drawing.stages.upsampler];
    Ok(Measured {
        ranks: collective.world_size(),
        device: format!("{device:?}"),
        threads: tch::get_num_threads(),
        clock: options.clock(),
        precision: drawing.precision,
        sampler: drawing.sampler.clone(),
        steps: stages.iter().flatten().map(|stage| stage.solver.start().num_steps()).sum(),
        shape: drawing.stages.image_shape(),
        batch_size,
        batches: options.batches,
        batch_seconds,
        images_per_second,
        evaluations,
        evaluations_per_second: evaluations * images_per_second,
        network_seconds: part(|times| times.network),
        guidance_seconds: part(|times| times.guidance),
        noise_seconds: part(|times| times.noise),
        bytes_seconds: part(|times| times.bytes),
        write_seconds: part(|times| times.write),
        solver_seconds: part(Times::solver),
        solver_percent: median(shares),
    })
}

/// Draws the batches of this rank, one after the other.
struct Bench<'a, 'd> {
    drawing: &'d mut Drawing<'a>,
    job: Job,
    next: u64,
    /// Removed at the end.
    _folder: tempfile::TempDir,
}

impl<'a, 'd> Bench<'a, 'd> {
    fn open(
        drawing: &'d mut Drawing<'a>,
        options: &SampleBenchOptions,
        collective: &dyn Collective,
    ) -> Result<Self, Error> {
        let folder = tempfile::tempdir()
            .map_err(|source| Error::File { path: "a temporary folder for the measurement".into(), source })?;
        let location = Location::Folder(folder.path().join("samples"));
        let store = Store::create(&location, &StoreOptions::default()).map_err(admiral_samples::Error::from)?;
        let request = &drawing.request;
        let settings = JobSettings {
            num: request.count,
            part_size: request.batch_size,
            shape: drawing.stages.image_shape(),
            has_labels: request.labels.of(0).is_some(),
            settings: Map::new(),
        };
        let job = Job::create_or_open(&store, settings)?;
        let next = collective.rank() as u64 * options.batches_of_rank();
        Ok(Self { drawing, job, next, _folder: folder })
    }

    /// Draws and writes the next batch.
    fn batch(&mut self, timer: &PartTimer) -> Result<Times, Error> {
        let number = self.next;
        self.next += 1;
        let images = self.job.settings().images_of(number);
        timer.wait();
        let start = timer.clock.now();
        let mut batches = ImageBatches::new(self.drawing.stages, &mut self.drawing.request, images).watched(timer);
        let batch = batches.next().transpose()?;
        let batch = batch.ok_or_else(|| Error::Bug("a batch of a measurement has no images".into()))?;
        let drawn = timer.clock.now();
        let labels = self.job.settings().has_labels.then_some(batch.labels.as_slice());
        self.job.write_part(number, &batch.pixels, labels)?;
        let end = timer.clock.now();
        Ok(Times { batch: end.saturating_sub(start), write: end.saturating_sub(drawn), ..*timer.times.borrow() })
    }
}

/// Returns the sum of a number over all ranks. Every rank calls it.
fn sum(number: f64, collective: &dyn Collective) -> Result<f64, Error> {
    let all = collective.all_gather(&number.to_le_bytes())?;
    Ok(all.iter().filter_map(|bytes| bytes.as_slice().try_into().ok().map(f64::from_le_bytes)).sum())
}

fn print(measured: &Measured) {
    let batch_seconds = measured.batch_seconds.median;
    let row = |name: &str, seconds: f64, of: f64| {
        println!("{name:<14} {:>10.2} ms {:>6.1} %", 1e3 * seconds, 100.0 * seconds / of);
    };
    let [height, width, channels] = measured.shape;
    println!(
        "ranks: {}, on {}; threads of each: {}; {:?}, {} in {} steps; batches of {} images, {height} x {width} x \
         {channels}; medians of {} batches",
        measured.ranks,
        measured.device,
        measured.threads,
        measured.precision,
        measured.sampler,
        measured.steps,
        measured.batch_size,
        measured.batches
    );
    row("batch", batch_seconds, batch_seconds);
    row("fastest", measured.batch_seconds.least, batch_seconds);
    row("slowest", measured.batch_seconds.most, batch_seconds);
    let parts = [
        ("  network", measured.network_seconds),
        ("  guidance", measured.guidance_seconds),
        ("  solver", measured.solver_seconds),
        ("  noise", measured.noise_seconds),
        ("  bytes", measured.bytes_seconds),
        ("  write", measured.write_seconds),
    ];
    // On a GPU the parts are those of other batches, in which each part waits for the device.
    let all: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
    for (name, seconds) in parts {
        row(name, seconds, all);
    }
    println!("images/s       {:>10.2}", measured.images_per_second);
    println!("evaluations/s  {:>10.2}, {} for each image", measured.evaluations_per_second, measured.evaluations);
    println!("the solver takes {:.2} % of the time; the aim is less than {SOLVER_AIM} %", measured.solver_percent);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_added_up_and_the_rest_is_the_solvers() {
        let timer = PartTimer::new(Some(Device::Cpu), Clock::Wall);
        for part in [Part::Noise, Part::Network, Part::Guidance, Part::Network, Part::Bytes] {
            timer.begin(part);
            timer.began.set(timer.began.get().saturating_sub(Duration::from_secs(1)));
            timer.end(part);
        }
        let whole = Times { batch: Duration::from_secs(9), write: Duration::from_secs(1), ..*timer.times.borrow() };
        assert_eq!(whole.evaluations, 3);
        assert_eq!((whole.network.as_secs(), whole.guidance.as_secs(), whole.noise.as_secs()), (2, 1, 1));
        // One second of each of five parts, and of writing.
        assert!(whole.solver() <= Duration::from_secs(3), "{whole:?}");
        assert!(Times { batch: Duration::ZERO, ..whole }.solver().is_zero());
    }
}
