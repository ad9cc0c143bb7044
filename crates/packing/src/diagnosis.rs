//! What limits the loading of images, from measured speeds and the speed that training needs.

use serde::Serialize;

/// The surplus with which loading counts as fast enough: images and steps are not equally fast all the time.
const MARGIN: f64 = 1.2;

/// The part of the processor time from which a stage is worth a remedy of its own.
const LARGE_PART: f64 = 0.25;

/// What was measured and what is configured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measured {
    /// The images per second that a rank needs; `None` if it is not known.
    pub needed: Option<f64>,
    /// The seconds that a thread which reads alone waits for an image.
    pub fetch_seconds: f64,
    /// The images per second that the disk or store delivers to many threads of one host.
    pub host_fetch_rate: f64,
    /// The seconds of a processor core that decoding takes for an image; 0 if images are stored as pixels.
    pub decode_seconds: f64,
    /// The seconds of a core that scaling, cropping and conversion take for an image.
    pub scale_seconds: f64,
    /// The seconds of a core that the noise takes for an image.
    pub noise_seconds: f64,
    /// The threads of a rank that read images.
    pub workers: u64,
    /// The ranks of a host.
    pub ranks_per_host: u64,
    /// The processor cores of a host.
    pub cores: u64,
    /// Whether the images are in a store.
    pub is_remote: bool,
    /// Whether a cache on a local disk is configured.
    pub has_cache: bool,
    /// Whether images are decoded exactly, although they could be decoded faster.
    pub can_decode_fast: bool,
    /// Whether random crops need larger images than those of training.
    pub has_random_crop: bool,
}

/// What limits loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bottleneck {
    /// Loading is fast enough.
    None,
    /// The disk or store.
    Fetching,
    /// The processor, mostly by decoding.
    Decoding,
    /// The processor, mostly by scaling and cropping.
    Scaling,
    /// The processor, mostly by the noise.
    Noise,
    /// Threads wait while cores are idle: there are too few of them.
    Workers,
}

/// What helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// Set `data.num_workers` to this number.
    NumWorkers(u64),
    /// Keep images on a local disk with `data.cache`.
    Cache,
    /// Pack the images in the size of training with `admiral data pack --size`.
    PackSmaller,
    /// Set `data.decode: fast`, which changes pixels.
    DecodeFast,
    /// Use fewer ranks on each host, or hosts with more cores.
    MoreCores,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diagnosis {
    /// Images per second of one thread that loads alone.
    pub per_worker: f64,
    /// Images per second that a rank gets with its threads.
    pub per_rank: f64,
    /// Images per second that its threads could load with enough cores and bandwidth.
    pub by_workers: f64,
    /// Images per second that its share of the cores could load with enough threads and bandwidth.
    pub by_cores: f64,
    /// Images per second of its share of the disk or store.
    pub by_fetching: f64,
    /// What limits loading.
    pub bottleneck: Bottleneck,
    /// What helps, the best first.
    pub remedies: Vec<Remedy>,
}

/// Finds what limits the loading of images. If the needed speed is not known, this is what limits it first.
#[must_use]
pub fn diagnose(measured: &Measured) -> Diagnosis {
    let Measured { decode_seconds: decode, scale_seconds: scale, noise_seconds: noise, .. } = *measured;
    let (ranks, workers) = (measured.ranks_per_host.max(1) as f64, measured.workers.max(1) as f64);
    let busy = decode + scale + noise;
    let per_worker = rate(measured.fetch_seconds + busy);
    let by_workers = workers * per_worker;
    let by_cores = measured.cores.max(1) as f64 / ranks * rate(busy);
    let by_fetching = measured.host_fetch_rate / ranks;
    let per_rank = by_workers.min(by_cores).min(by_fetching);
    let wanted = measured.needed.map_or(f64::INFINITY, |needed| needed * MARGIN);
    let bottleneck = if per_rank >= wanted {
        Bottleneck::None
    } else if by_fetching <= by_cores
        && by_fetching < wanted
        && (by_fetching <= by_workers || measured.needed.is_some())
    {
        Bottleneck::Fetching
    } else if by_cores < wanted && (by_cores <= by_workers || measured.needed.is_some()) {
        largest_stage(decode, scale, noise)
    } else {
        Bottleneck::Workers
    };
    let remedies = remedies(bottleneck, measured, wanted, per_worker);
    Diagnosis { per_worker, per_rank, by_workers, by_cores, by_fetching, bottleneck, remedies }
}

fn rate(seconds: f64) -> f64 {
    if seconds > 0.0 { 1.0 / seconds } else { f64::INFINITY }
}

fn largest_stage(decode: f64, scale: f64, noise: f64) -> Bottleneck {
    if decode >= scale && decode >= noise {
        Bottleneck::Decoding
    } else if scale >= noise {
        Bottleneck::Scaling
    } else {
        Bottleneck::Noise
    }
}

fn remedies(bottleneck: Bottleneck, measured: &Measured, wanted: f64, per_worker: f64) -> Vec<Remedy> {
    let Measured { decode_seconds: decode, scale_seconds: scale, noise_seconds: noise, .. } = *measured;
    let is_large = |stage: f64| stage >= LARGE_PART * (decode + scale + noise);
    // With random crops, images of the size of training are too small.
    let can_pack = !measured.has_random_crop;
    let mut remedies = Vec::new();
    let mut add = |helps: bool, remedy: Remedy| {
        if helps {
            remedies.push(remedy);
        }
    };
    match bottleneck {
        Bottleneck::None => {}
        Bottleneck::Fetching => {
            add(measured.is_remote && !measured.has_cache, Remedy::Cache);
            add(can_pack, Remedy::PackSmaller);
        }
        Bottleneck::Decoding | Bottleneck::Scaling | Bottleneck::Noise => {
            add(can_pack && is_large(decode + scale), Remedy::PackSmaller);
            add(measured.can_decode_fast && is_large(decode), Remedy::DecodeFast);
            add(true, Remedy::MoreCores);
        }
        Bottleneck::Workers => {
            let needed = if wanted.is_finite() {
                wanted / per_worker
            } else {
                // As many as keep the cores busy.
                measured.cores.max(1) as f64 / measured.ranks_per_host.max(1) as f64 * rate(decode + scale + noise)
                    / per_worker
            };
            add(true, Remedy::NumWorkers(((needed - ROUNDING).ceil() as u64).clamp(measured.workers + 1, MAX_WORKERS)));
        }
    }
    remedies
}

/// What rounding adds to a number of threads at most.
const ROUNDING: f64 = 1e-6;

/// The most threads that a configuration may have.
const MAX_WORKERS: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// A rank that needs 100 images/s, and gets 4 * 100 from its threads, 8 * 125 from the cores and 10,000 from the disk.
    fn measured() -> Measured {
        Measured {
            needed: Some(100.0),
            fetch_seconds: 0.002,
            host_fetch_rate: 10_000.0,
            decode_seconds: 0.005,
            scale_seconds: 0.002,
            noise_seconds: 0.001,
            workers: 4,
            ranks_per_host: 1,
            cores: 8,
            is_remote: false,
            has_cache: false,
            can_decode_fast: true,
            has_random_crop: false,
        }
    }

    fn verdict(measured: Measured) -> (Bottleneck, Vec<Remedy>) {
        let diagnosis = diagnose(&measured);
        (diagnosis.bottleneck, diagnosis.remedies)
    }

    #[test]
    fn enough_is_no_bottleneck() {
        let diagnosis = diagnose(&measured());
        assert_eq!((diagnosis.bottleneck, diagnosis.remedies.len()), (Bottleneck::None, 0));
        for (found, expected) in [
            (diagnosis.per_worker, 100.0),
            (diagnosis.by_workers, 400.0),
            (diagnosis.by_cores, 1000.0),
            (diagnosis.by_fetching, 10_000.0),
            (diagnosis.per_rank, 400.0),
        ] {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn too_few_threads_are_told_from_too_few_cores() {
        // 500 images/s with the margin are 600: 6 threads.
        let slow = Measured { needed: Some(500.0), ..measured() };
        assert_eq!(verdict(slow), (Bottleneck::Workers, vec![Remedy::NumWorkers(6)]));
        // On a host with 8 ranks, the share of the cores limits a rank to 125 images/s. More threads would not help.
        let shared = Measured { ranks_per_host: 8, needed: Some(110.0), ..measured() };
        let packed = vec![Remedy::PackSmaller, Remedy::DecodeFast, Remedy::MoreCores];
        assert_eq!(verdict(shared), (Bottleneck::Decoding, packed));
        let cropped = Measured { has_random_crop: true, ..shared };
        assert_eq!(verdict(cropped).1, [Remedy::DecodeFast, Remedy::MoreCores]);
    }

    #[test]
    fn the_largest_stage_is_named() {
        let slow = Measured { needed: Some(5000.0), ..measured() };
        assert_eq!(verdict(slow).0, Bottleneck::Decoding);
        let scaling = Measured { decode_seconds: 0.001, scale_seconds: 0.009, ..slow };
        assert_eq!(verdict(scaling), (Bottleneck::Scaling, vec![Remedy::PackSmaller, Remedy::MoreCores]));
        let noise = Measured { decode_seconds: 0.0, scale_seconds: 0.001, noise_seconds: 0.02, ..slow };
        assert_eq!(verdict(noise), (Bottleneck::Noise, vec![Remedy::MoreCores]));
    }

    #[test]
    fn a_slow_store_needs_a_cache_or_smaller_images() {
        let slow = Measured { host_fetch_rate: 90.0, is_remote: true, ..measured() };
        assert_eq!(verdict(slow), (Bottleneck::Fetching, vec![Remedy::Cache, Remedy::PackSmaller]));
        assert_eq!(verdict(Measured { has_cache: true, ..slow }).1, [Remedy::PackSmaller]);
        assert_eq!(verdict(Measured { is_remote: false, ..slow }).1, [Remedy::PackSmaller]);
        // A store with a high latency, but enough bandwidth, needs more threads: 100 * 1.2 * 0.108 s.
        let latency = Measured { fetch_seconds: 0.1, is_remote: true, ..measured() };
        assert_eq!(verdict(latency), (Bottleneck::Workers, vec![Remedy::NumWorkers(13)]));
    }

    #[test]
    fn without_a_need_the_first_limit_is_named() {
        let unknown = Measured { needed: None, ..measured() };
        // 8 cores of 125 images/s each, by threads of 100.
        assert_eq!(verdict(unknown), (Bottleneck::Workers, vec![Remedy::NumWorkers(10)]));
        assert_eq!(verdict(Measured { workers: 50, ..unknown }).0, Bottleneck::Decoding);
        assert_eq!(verdict(Measured { host_fetch_rate: 5.0, ..unknown }).0, Bottleneck::Fetching);
    }
}
