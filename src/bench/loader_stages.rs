//! The time of each stage of a sample: fetching its file, decoding, halving, cutting, scaling to [-1, 1], and noise.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use admiral_data::{Buffers, Decoding, Draws, ImageSource, Pixels, cut, halve, into_pixels};
use admiral_random::{Philox, Stream};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::run_config::RunConfig;
use crate::statistics::Spread;
use crate::train::TrainError;

/// The stages, in their order.
const STAGES: [&str; 6] = ["fetch", "decode", "halve", "cut", "planes", "noise"];

/// The time of each stage for an image, on one thread.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Stages {
    decoding: Decoding,
    /// The names of the stages.
    names: [&'static str; STAGES.len()],
    /// The median over the rounds of the seconds of processor time for an image, for each stage.
    seconds: [f64; STAGES.len()],
    /// Images per second of all stages.
    with_noise: f64,
    /// Images per second of all stages but the noise.
    without_noise: f64,
}

impl Stages {
    /// Measures `images` images in each of `rounds` rounds, after one round of warm-up.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub(crate) fn measure(
        source: &dyn ImageSource,
        config: &RunConfig,
        decoding: Decoding,
        images: u64,
        rounds: u64,
    ) -> Result<Self, TrainError> {
        let mut rows = Vec::new();
        let mut sample = Sample::default();
        for _ in 0..=rounds {
            let mut total = [Duration::ZERO; STAGES.len()];
            for item in 0..images {
                let times = sample.read(source, item % source.num_images(), config, decoding)?;
                total.iter_mut().zip(times).for_each(|(total, time)| *total += time);
            }
            rows.push(total.map(|total| total.as_secs_f64() / images as f64));
        }
        // The first round is a warm-up.
        rows.remove(0);
        let seconds = std::array::from_fn(|stage| Spread::of(rows.iter().map(|row| row[stage])).median);
        let rate = |left_out: usize| {
            let sums = rows.iter().map(|row| row[..STAGES.len() - left_out].iter().sum::<f64>());
            1.0 / Spread::of(sums).median
        };
        Ok(Self { decoding, names: STAGES, seconds, with_noise: rate(0), without_noise: rate(1) })
    }

    /// Returns the median of the seconds of processor time for an image, of the stage with this name.
    pub(crate) fn seconds_of(&self, name: &str) -> f64 {
        self.names.iter().zip(&self.seconds).find_map(|(other, &time)| (*other == name).then_some(time)).unwrap_or(0.0)
    }

    /// Prints the time of each stage.
    pub(crate) fn print(&self) {
        let stages = self.names.iter().zip(&self.seconds);
        let stages: Vec<String> = stages.map(|(name, seconds)| format!("{name} {:.3}", seconds * 1e3)).collect();
        let name = match self.decoding {
            Decoding::Exact => "exact",
            Decoding::Fast => "fast",
        };
        println!("{name} decoding, ms of one thread for an image: {}", stages.join(", "));
        println!("{:>8.0} images a second with noise, {:.0} without", self.with_noise, self.without_noise);
    }
}

/// Writes the center crops of all images, `[height, width, channels]` each, in the order of the files.
///
/// # Errors
/// When an image cannot be read, or the file not written.
pub(super) fn write_squares(source: &dyn ImageSource, config: &RunConfig, path: &Path) -> Result<(), TrainError> {
    let refused = |error: std::io::Error| TrainError::Refused(format!("{}: {error}", path.display()));
    let mut file = File::create(path).map_err(refused)?;
    let mut sample = Sample::default();
    for item in 0..source.num_images() {
        sample.read(source, item, config, Decoding::Exact)?;
        let bytes = sample.square.as_ref().map_or(&[][..], |square| &square.bytes);
        file.write_all(bytes).map_err(refused)?;
    }
    Ok(())
}

/// What the stages of one image made.
#[derive(Debug, Default)]
struct Sample {
    buffers: Buffers,
    square: Option<Pixels>,
    planes: Vec<f32>,
    noise: Vec<f32>,
}

impl Sample {
    /// Makes a sample of the center crop of an image. Returns the processor time of each stage.
    fn read(
        &mut self,
        source: &dyn ImageSource,
        item: u64,
        config: &RunConfig,
        decoding: Decoding,
    ) -> Result<[Duration; STAGES.len()], TrainError> {
        let (size, channels) = (config.model.image_size as usize, config.model.image_channels as usize);
        let path = source.name(item);
        let broken = |reason: String| TrainError::Refused(format!("{path}: {reason}"));
        let draws = Draws { crop: None, flip: false };
        let mut times = [Duration::ZERO; STAGES.len()];
        let mut last = processor_time();
        let mut stages = times.iter_mut();
        let mut end_stage = || {
            let now = processor_time();
            if let Some(time) = stages.next() {
                *time = now.saturating_sub(last);
            }
            last = now;
        };
        let fetched = source.fetch(item)?;
        end_stage();
        let image = into_pixels(fetched, size, decoding, &mut self.buffers).map_err(broken)?.with_channels(channels);
        end_stage();
        let halved = halve(&image, size, &mut self.buffers);
        end_stage();
        let square = cut(halved.as_ref().unwrap_or(&image), size, &draws, &mut self.buffers);
        halved.into_iter().chain([image]).for_each(|image| self.buffers.keep(image));
        end_stage();
        self.planes.clear();
        square.append_planes(&mut self.planes);
        end_stage();
        self.noise.resize(self.planes.len(), 0.0);
        Philox::new(config.run.seed, Stream::Noise, item).fill_normal(&mut self.noise);
        end_stage();
        if let Some(last) = self.square.replace(square) {
            self.buffers.keep(last);
        }
        Ok(times)
    }
}

/// Returns the processor time of this thread.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}
