//! `admiral bench allreduce`: the speed of the all-reduce, and slow links between two ranks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use admiral_comm::buckets::Slot;
use admiral_comm::{Collective, Ending, PhaseTracker, agree, any};
use admiral_contract::host::host_name;
use clap::Args;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::context::{RankContext, choose_device};
use crate::reduce::{GradientReducer, NcclReducer};
use crate::run_config::DeviceChoice;
use crate::statistics::{Spread, median};
use crate::train::TrainError;

use super::output::print_on_root;
use super::timing::wait_for;

/// A link is slow if its speed is below this part of the median of its kind.
const SLOW_RATIO: f64 = 0.5;

/// The number of links of a kind below which none is compared with their median.
const MIN_LINKS: usize = 3;

/// The options of `admiral bench allreduce`.
#[derive(Debug, Clone, Args)]
pub struct AllReduceBenchOptions {
    /// Size of the all-reduce, and of the exchange between two ranks, in MiB
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    mebibytes: u64,
    /// Device of the all-reduce: cpu (over MPI), cuda (over NCCL), or auto (cuda if there is a GPU); links use MPI
    #[arg(long, value_enum, default_value_t = DeviceChoice::Cpu)]
    device: DeviceChoice,
    /// Number of measurements of each, after one of warm-up; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    repeats: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, PartialEq, Serialize)]
struct Measured {
    mebibytes: u64,
    repeats: u64,
    /// MPI or NCCL.
    over: &'static str,
    /// The median of the slowest rank.
    all_reduce_seconds: f64,
    /// The median and the range of the slowest rank.
    all_reduce_spread: Spread,
    /// The bytes of the all-reduce divided by that median.
    all_reduce_bytes_per_second: f64,
    ranks: Vec<RankMeasurement>,
    links: Vec<Link>,
    /// A sentence for each slow link and host. Empty if none is slow.
    outliers: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct RankMeasurement {
    rank: usize,
    host: String,
    all_reduce_seconds: f64,
    all_reduce_spread: Spread,
}

/// The link between a rank and the next rank of the ring.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Link {
    ranks: [usize; 2],
    hosts: [String; 2],
    /// Bytes per second in each direction, while both ranks send.
    bytes_per_second: f64,
    is_slow: bool,
}

impl Link {
    fn is_within_a_host(&self) -> bool {
        self.hosts[0] == self.hosts[1]
    }

    fn kind(&self) -> &'static str {
        if self.is_within_a_host() { "links within a host" } else { "links between hosts" }
    }
}

const MIXED: &str = "some ranks have a GPU and some have none, so NCCL cannot sum their values: give --device cpu";

/// The timeout for a rank's GPU.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures and prints. Every rank calls it.
///
/// # Errors
/// When the ranks cannot be measured. The [`Ending`] says whether the ranks leave together.
pub fn all_reduce(options: &AllReduceBenchOptions, rank: RankContext<'_>) -> Result<(), Ending> {
    let collective = rank.collective;
    let phases = PhaseTracker::new(Arc::clone(rank.ledger), None);
    let device = choose_device(options.device, collective.local_rank()).map_err(TrainError::from);
    let device = agree(collective, device, TrainError::exit_code)?;
    let gpu = match device {
        Device::Cuda(ordinal) => Some(ordinal),
        _ => None,
    };
    let any_rank = |flag| any(collective, flag).map_err(|error| TrainError::from(error).ending());
    let is_mixed = any_rank(gpu.is_some())? && any_rank(gpu.is_none())?;
    let checked = if is_mixed { Err(TrainError::Refused(MIXED.into())) } else { Ok(()) };
    agree(collective, checked, TrainError::exit_code)?;
    let nccl = match gpu.filter(|_| collective.world_size() > 1) {
        Some(ordinal) => {
            let opened = NcclReducer::open(collective, rank.gpus, ordinal, PATIENCE, phases.clone());
            let opened = opened.map_err(|error| TrainError::from(error).ending())?;
            let refuse = |reason| TrainError::Refused(format!("NCCL cannot be used: {reason}"));
            Some(agree(collective, opened.map_err(refuse), TrainError::exit_code)?)
        }
        None => None,
    };
    let Some(measured) = measure(options, nccl, device, &phases, collective).map_err(TrainError::ending)? else {
        return Ok(());
    };
    print_on_root(&measured, options.json, print, collective)
}

/// Measures the all-reduce and the links. Returns the measurements of all ranks on rank 0.
fn measure(
    options: &AllReduceBenchOptions,
    nccl: Option<NcclReducer>,
    device: Device,
    phases: &PhaseTracker,
    collective: &dyn Collective,
) -> Result<Option<Measured>, TrainError> {
    let (rank, world) = (collective.rank(), collective.world_size());
    if world == 1 {
        return Err(TrainError::Refused("one rank has nothing to sum: start several with mpirun -n".into()));
    }
    let length = (options.mebibytes << 20) as usize;
    let repeats = options.repeats as usize;
    let over = if nccl.is_some() { "NCCL" } else { "MPI" };
    let all_reduce = match nccl {
        Some(nccl) => between_gpus(nccl, length / size_of::<f32>(), device, repeats, phases, collective)?,
        None => {
            let mut values = vec![0.0_f32; length / size_of::<f32>()];
            measure_repeatedly(repeats, || {
                collective.barrier()?;
                let start = Instant::now();
                collective.all_reduce_sum_f32(&mut values)?;
                Ok(start.elapsed().as_secs_f64())
            })?
        }
    };
    let mut bytes = vec![0; length];
    let mut link = f64::NAN;
    for round in rounds(world) {
        collective.barrier()?;
        let Some(&[first, second]) = round.iter().find(|pair| pair.contains(&rank)) else { continue };
        let peer = if rank == first { second } else { first };
        let seconds = measure_repeatedly(repeats, || {
            let start = Instant::now();
            collective.sendrecv(peer, &mut bytes)?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        if rank == first {
            link = length as f64 / seconds.median;
        }
    }
    let numbers = [all_reduce.median, all_reduce.least, all_reduce.most, link];
    let mut own: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    own.extend(host_name().as_bytes());
    let Some(all) = collective.gather(0, &own)? else { return Ok(None) };
    let number = |bytes: &[u8], index: usize| {
        let bytes = bytes.get(8 * index..8 * index + 8).and_then(|bytes| bytes.try_into().ok());
        f64::from_le_bytes(bytes.unwrap_or_default())
    };
    let host = |bytes: &[u8]| String::from_utf8_lossy(bytes.get(8 * numbers.len()..).unwrap_or_default()).into_owned();
    let ranks: Vec<RankMeasurement> = (0..world)
        .map(|rank| {
            let [median, least, most] = [0, 1, 2].map(|index| number(&all[rank], index));
            let all_reduce_spread = Spread { median, least, most };
            RankMeasurement { rank, host: host(&all[rank]), all_reduce_seconds: median, all_reduce_spread }
        })
        .collect();
    let mut pairs: Vec<[usize; 2]> = rounds(world).into_iter().flatten().collect();
    pairs.sort_unstable();
    let links = pairs.into_iter().map(|pair| Link {
        ranks: pair,
        hosts: pair.map(|rank| ranks[rank].host.clone()),
        bytes_per_second: number(&all[pair[0]], 3),
        is_slow: false,
    });
    let mut links: Vec<Link> = links.collect();
    let outliers = mark_slow_links(&mut links);
    let spreads = ranks.iter().map(|rank| rank.all_reduce_spread);
    let slowest = spreads.max_by(|a, b| a.median.total_cmp(&b.median)).unwrap_or_default();
    Ok(Some(Measured {
        mebibytes: options.mebibytes,
        repeats: options.repeats,
        over,
        all_reduce_seconds: slowest.median,
        all_reduce_spread: slowest,
        all_reduce_bytes_per_second: length as f64 / slowest.median,
        ranks,
        links,
        outliers,
    }))
}

/// Measures the all-reduce of `length` float32 values over NCCL, with the reducer of gradients. Returns seconds.
fn between_gpus(
    nccl: NcclReducer,
    length: usize,
    device: Device,
    repeats: usize,
    phases: &PhaseTracker,
    collective: &dyn Collective,
) -> Result<Spread, TrainError> {
    let mut reducer = GradientReducer::new(&[Slot { buffer: 0, elements: 0..length }], usize::MAX, phases.clone());
    reducer.use_nccl(nccl);
    let values = Tensor::f_zeros([length as i64], (Kind::Float, device))?;
    let seconds = measure_repeatedly(repeats, || {
        collective.barrier()?;
        let start = Instant::now();
        reducer.reduce(collective, &[&values])?;
        wait_for(device);
        Ok(start.elapsed().as_secs_f64())
    })?;
    reducer.finish()?;
    Ok(seconds)
}

/// Measures `repeats` times, after one measurement that is discarded.
fn measure_repeatedly(repeats: usize, mut once: impl FnMut() -> Result<f64, TrainError>) -> Result<Spread, TrainError> {
    once()?;
    let seconds = (0..repeats).map(|_| once()).collect::<Result<Vec<_>, _>>()?;
    Ok(Spread::of(seconds.iter().copied()))
}

/// Returns the pairs of neighbours in a ring, in rounds in which no rank appears twice, so that each link is measured
/// while its two ranks do nothing else. The first rank of a pair comes before the second in the ring.
fn rounds(world: usize) -> Vec<Vec<[usize; 2]>> {
    match world {
        0 | 1 => Vec::new(),
        2 => vec![vec![[0, 1]]],
        _ => {
            let mut rounds = vec![Vec::new(), Vec::new(), Vec::new()];
            for rank in 0..world {
                let is_odd_one_out = world % 2 == 1 && rank == world - 1;
                rounds[if is_odd_one_out { 2 } else { rank % 2 }].push([rank, (rank + 1) % world]);
            }
            rounds.retain(|round| !round.is_empty());
            rounds
        }
    }
}

/// Marks the links that are slow compared with the other links of their kind. Returns a sentence for each slow link,
/// and for each host whose links to other hosts are all slow.
fn mark_slow_links(links: &mut [Link]) -> Vec<String> {
    let mut sentences = Vec::new();
    for is_within in [true, false] {
        let indices: Vec<usize> = (0..links.len()).filter(|&i| links[i].is_within_a_host() == is_within).collect();
        if indices.len() < MIN_LINKS {
            continue;
        }
        let typical = median(indices.iter().map(|&i| links[i].bytes_per_second));
        for i in indices {
            let link = &mut links[i];
            link.is_slow = link.bytes_per_second < SLOW_RATIO * typical;
            if link.is_slow {
                sentences.push(format!(
                    "between rank {} ({}) and rank {} ({}): {}, and {} have {} in the median",
                    link.ranks[0],
                    link.hosts[0],
                    link.ranks[1],
                    link.hosts[1],
                    speed(link.bytes_per_second),
                    link.kind(),
                    speed(typical)
                ));
            }
        }
    }
    let between: Vec<&Link> = links.iter().filter(|link| !link.is_within_a_host()).collect();
    let mut hosts: Vec<&String> = between.iter().flat_map(|link| &link.hosts).collect();
    hosts.sort_unstable();
    hosts.dedup();
    for host in hosts {
        let own: Vec<&&Link> = between.iter().filter(|link| link.hosts.contains(host)).collect();
        if own.len() > 1 && own.iter().all(|link| link.is_slow) {
            sentences.push(format!("host {host}: every link to another host is slow; check its network"));
        }
    }
    sentences
}

fn speed(bytes_per_second: f64) -> String {
    format!("{:.3} GB/s", bytes_per_second / 1e9)
}

fn print(measured: &Measured) {
    println!(
        "{} ranks sum {} MiB over {} in {:.2} ms ({:.2} to {:.2}), {}; medians of {}",
        measured.ranks.len(),
        measured.mebibytes,
        measured.over,
        1e3 * measured.all_reduce_seconds,
        1e3 * measured.all_reduce_spread.least,
        1e3 * measured.all_reduce_spread.most,
        speed(measured.all_reduce_bytes_per_second),
        measured.repeats
    );
    println!("{:>5}  {:<24} {:>12}  {:>5}  {:>16}", "rank", "host", "sum in ms", "with", "each way");
    for rank in &measured.ranks {
        let link = measured.links.iter().find(|link| link.ranks[0] == rank.rank);
        let (with, link_speed) = match link {
            Some(link) => {
                let mark = if link.is_slow { "  SLOW" } else { "" };
                (link.ranks[1].to_string(), format!("{}{mark}", speed(link.bytes_per_second)))
            }
            None => (String::new(), String::new()),
        };
        println!(
            "{:>5}  {:<24} {:>12.2}  {with:>5}  {link_speed:>16}",
            rank.rank,
            rank.host,
            1e3 * rank.all_reduce_seconds
        );
    }
    for outlier in &measured.outliers {
        println!("slow: {outlier}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_link_of_the_ring_is_measured_once_and_each_rank_is_in_one_link_per_round() {
        assert!(rounds(1).is_empty());
        for world in 2..=9 {
            let rounds = rounds(world);
            for round in &rounds {
                let mut ranks: Vec<usize> = round.iter().flatten().copied().collect();
                ranks.sort_unstable();
                let asked = ranks.len();
                ranks.dedup();
                assert_eq!(ranks.len(), asked, "{world}: {round:?}");
            }
            let mut firsts: Vec<usize> = rounds.iter().flatten().map(|pair| pair[0]).collect();
            firsts.sort_unstable();
            assert_eq!(firsts, (0..if world == 2 { 1 } else { world }).collect::<Vec<_>>());
        }
    }

    /// Two ranks on each of four hosts.
    fn ring(speeds: [f64; 8]) -> Vec<Link> {
        let host = |rank: usize| format!("node{}", rank / 2);
        let link = |rank: usize| Link {
            ranks: [rank, (rank + 1) % 8],
            hosts: [host(rank), host((rank + 1) % 8)],
            bytes_per_second: speeds[rank],
            is_slow: false,
        };
        (0..8).map(link).collect()
    }

    #[test]
    fn slow_links_are_compared_with_links_of_their_kind() {
        // Links between hosts are slower than links within a host. This is not reported.
        let mut links = ring([8e9, 1e9, 8e9, 1e9, 3e9, 1e9, 8e9, 1e9]);
        let sentences = mark_slow_links(&mut links);
        assert_eq!(sentences.len(), 1, "{sentences:?}");
        assert_eq!(
            sentences[0],
            "between rank 4 (node2) and rank 5 (node2): 3.000 GB/s, and links within a host have 8.000 GB/s in the \
             median"
        );
        assert_eq!(links.iter().filter(|link| link.is_slow).map(|link| link.ranks).collect::<Vec<_>>(), [[4, 5]]);
    }

    #[test]
    fn a_host_with_only_slow_links_is_named() {
        let sentences = mark_slow_links(&mut ring([8e9, 0.1e9, 8e9, 0.1e9, 8e9, 1e9, 8e9, 1e9]));
        assert_eq!(sentences.len(), 3, "{sentences:?}");
        assert!(sentences[2].starts_with("host node1:"), "{sentences:?}");
        assert!(mark_slow_links(&mut ring([8e9, 1e9, 8e9, 1e9, 8e9, 1e9, 8e9, 1e9])).is_empty());
    }
}
