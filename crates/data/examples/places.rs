//! Measures the opening of a data set, and the reading of its images on one thread. `ci/bench-data-places` runs it:
//!
//!     places open SOURCE PATH          seconds and peak memory of opening
//!     places read SOURCE PATH SIZE     images a second of one thread, by its processor time
//!
//! SOURCE is a value of `data.source`. The output is JSON.

use std::error::Error;
use std::time::Instant;

use admiral_data::{Buffers, ClassSource, DataConfig, Decoding, OnBrokenImage, SampleReader, SampleSpec};
use admiral_storage::StoreOptions;
use serde_json::json;

/// The images of a batch.
const BATCH: u64 = 64;
/// The images of a round.
const IMAGES: u64 = 6400;
const ROUNDS: u64 = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = match arguments[..] {
        ["open", source, path] => open(source, path)?,
        ["read", source, path, size] => read(source, path, size.parse()?)?,
        _ => return Err("give `open SOURCE PATH` or `read SOURCE PATH SIZE`".into()),
    };
    println!("{output}");
    Ok(())
}

fn config(source: &str, path: &str, classes: ClassSource) -> Result<DataConfig, Box<dyn Error>> {
    let source = serde_json::from_value(json!(source))?;
    Ok(DataConfig { source, path: path.to_owned(), classes, ..DataConfig::default() })
}

fn open(source: &str, path: &str) -> Result<serde_json::Value, Box<dyn Error>> {
    let config = config(source, path, ClassSource::Folder)?;
    let start = Instant::now();
    let source = admiral_data::open(&config, 0, &StoreOptions::default())?.train;
    let seconds = start.elapsed().as_secs_f64();
    let (processor, peak) = (processor_seconds_of_all_threads()?, status("VmHWM:")?);
    let digest = Instant::now();
    source.digest();
    Ok(json!({
        "images": source.num_images(),
        "classes": source.num_classes(),
        "seconds": seconds,
        "processor_seconds": processor,
        "digest_seconds": digest.elapsed().as_secs_f64(),
        "peak_mb": peak / 1e6,
    }))
}

fn read(source: &str, path: &str, size: usize) -> Result<serde_json::Value, Box<dyn Error>> {
    let source = admiral_data::open(&config(source, path, ClassSource::None)?, 0, &StoreOptions::default())?.train;
    let num_images = source.num_images();
    let spec = SampleSpec {
        seed: 1,
        size,
        channels: 3,
        random_crop: false,
        random_flip: true,
        decode: Decoding::Exact,
        on_broken_image: OnBrokenImage::Stop,
    };
    let reader = SampleReader::new(source, spec);
    let mut buffers = Buffers::default();
    let mut rates = Vec::new();
    // The first round is a warm-up.
    for round in 0..=ROUNDS {
        let start = processor_seconds()?;
        for batch in 0..IMAGES / BATCH {
            let first = (round * IMAGES + batch * BATCH) % num_images;
            let batch = reader.read((first..first + BATCH).collect(), &mut buffers)?;
            buffers.keep_numbers(batch.images);
            buffers.keep_numbers(batch.noise);
        }
        rates.push(IMAGES as f64 / (processor_seconds()? - start));
    }
    rates.remove(0);
    rates.sort_by(f64::total_cmp);
    Ok(json!({ "least": rates[0], "median": rates[rates.len() / 2], "most": rates[rates.len() - 1] }))
}

/// Returns a value of this process in bytes.
fn status(field: &str) -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("the field is missing")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
}

/// Returns the processor time of all threads in seconds, in units of 1/100.
fn processor_seconds_of_all_threads() -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/stat")?;
    // The name of the program, in brackets, may have spaces.
    let fields: Vec<&str> = status.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |place: usize| fields.get(place).and_then(|field| field.parse::<f64>().ok());
    Ok((ticks(11).zip(ticks(12)).map(|(user, system)| user + system).ok_or("the times are missing")?) / 100.0)
}

/// Returns the processor time of the main thread, which does all work of reading, in seconds.
fn processor_seconds() -> Result<f64, Box<dyn Error>> {
    let times = std::fs::read_to_string("/proc/self/schedstat")?;
    Ok(times.split_whitespace().next().ok_or("the processor time is missing")?.parse::<f64>()? * 1e-9)
}
