//! Ranks that go through their steps. Each stretch of own work ends in a collective, which completes when all ranks are
//! in it.

use admiral_contract::{Ledger, Phase, Reading};

use crate::random::Random;

const BUCKETS: u64 = 4;
/// Seconds that a collective takes once all ranks are in it.
const LATENCY: f64 = 0.01;

/// A phase of a rank: its start, the phase, and the bucket.
type Doing = (f64, Phase, u64);

pub struct Ranks {
    /// Each rank's phases in the current stretch; the last one is the collective.
    timelines: Vec<Vec<Doing>>,
    /// The end of the current collective.
    over: f64,
    /// The number of completed collectives.
    exchanges: u64,
    step: u64,
    /// The current stretch of the step, from 0; [`BUCKETS`] is the last.
    stretch: u64,
    /// The times of each rank's current and last step: total, data, waiting.
    times: Vec<[f64; 2]>,
    last_times: Vec<[f64; 3]>,
    step_began: f64,
    /// The factor of each rank's computing time.
    pace: Vec<f64>,
    stall: f64,
    random: Random,
    states: Vec<char>,
    /// The rank that hangs, the phase, the process state, and the time.
    hang: Option<(usize, Phase, char, f64)>,
    hung_since: f64,
    empty: Reading,
}

impl Ranks {
    /// Creates ranks that continue after `step`. A single phase may take almost as long as `stall`.
    pub fn new(world: usize, step: u64, stall: f64, random: &mut Random) -> Self {
        let pace = (0..world).map(|_| random.between(0.9, 1.1)).collect();
        Self {
            timelines: vec![Vec::new(); world],
            over: f64::INFINITY,
            exchanges: 0,
            step: 0,
            stretch: BUCKETS,
            times: vec![[0.0; 2]; world],
            last_times: vec![[0.0; 3]; world],
            step_began: 0.0,
            pace,
            stall,
            random: Random::new(random.below(1 << 40) as u64 + step),
            states: vec!['S'; world],
            hang: None,
            hung_since: f64::NAN,
            empty: Ledger::private().read(),
        }
    }

    pub fn will_hang(&mut self, rank: usize, phase: Phase, state: char, from: f64) {
        self.hang = Some((rank, phase, state, from));
    }

    pub fn hung_since(&self, rank: usize) -> f64 {
        assert!(self.hang.is_some_and(|(other, ..)| other == rank));
        self.hung_since
    }

    /// Lets the rank get ready for `seconds`.
    pub fn start(&mut self, rank: usize, now: f64, seconds: f64) {
        self.timelines[rank] = vec![(now, Phase::Start, 0), (now + seconds, Phase::Exchange, 0)];
    }

    /// Begins the first stretch, after all ranks were started.
    pub fn all_started(&mut self, now: f64) {
        self.step_began = now;
        self.close();
    }

    pub fn is_started(&self, rank: usize) -> bool {
        !self.timelines[rank].is_empty()
    }

    /// Applies a hang in this stretch, and computes the end of its collective.
    fn close(&mut self) {
        if let Some((rank, phase, state, from)) = self.hang
            && self.hung_since.is_nan()
            && let Some(place) = self.timelines[rank].iter().position(|doing| doing.1 == phase && doing.0 >= from)
        {
            self.timelines[rank].truncate(place + 1);
            self.states[rank] = state;
            self.hung_since = self.timelines[rank][place].0;
        }
        self.over = (0..self.timelines.len()).map(|rank| self.enters(rank)).fold(0.0, f64::max) + LATENCY;
    }

    /// Advances to `now`.
    pub fn advance(&mut self, now: f64) {
        while self.over <= now {
            let begin = self.over;
            for (rank, way) in self.timelines.iter().enumerate() {
                let mut ends = way.iter().skip(1).map(|doing| doing.0).chain([begin]);
                for &(at, phase, _) in way {
                    let spent = ends.next().map_or(0.0, |end| end - at);
                    self.times[rank][0] += if phase == Phase::Data { spent } else { 0.0 };
                    self.times[rank][1] += if phase.is_collective() { spent } else { 0.0 };
                }
            }
            self.exchanges += 1;
            if self.stretch == BUCKETS {
                for (last, so_far) in self.last_times.iter_mut().zip(&mut self.times) {
                    *last = [begin - self.step_began, so_far[0], so_far[1]];
                    *so_far = [0.0; 2];
                }
                (self.stretch, self.step, self.step_began) = (0, self.step + 1, begin);
            } else {
                self.stretch += 1;
            }
            self.new_stretch(begin);
            self.close();
        }
    }

    fn new_stretch(&mut self, begin: f64) {
        for rank in 0..self.timelines.len() {
            let mut way = Vec::with_capacity(5);
            let mut at = begin;
            for (phase, usual) in match self.stretch {
                0 => vec![(Phase::Data, 0.05), (Phase::Forward, 0.5), (Phase::Backward, 0.2)],
                BUCKETS => vec![(Phase::Optimizer, 0.1)],
                _ => vec![(Phase::Backward, 0.2)],
            } {
                way.push((at, phase, 0));
                // Some phases take very long, but not as long as a stall.
                let rare =
                    if self.random.below(200_000) == 0 { self.random.between(0.3, 0.95) * self.stall } else { 0.0 };
                at += usual * self.pace[rank] * self.random.between(0.7, 1.6) + rare;
            }
            if rank == 0 && self.stretch == BUCKETS && self.step.is_multiple_of(10) {
                for phase in [Phase::Checkpoint, Phase::Sample] {
                    way.push((at, phase, 0));
                    at +=
                        self.random.between(0.05, 0.5) * self.stall * f64::from(u8::from(self.step.is_multiple_of(50)))
                            + 0.5;
                }
            }
            let exchange = if self.stretch == BUCKETS { Phase::Exchange } else { Phase::Reduce };
            way.push((at, exchange, self.stretch));
            self.timelines[rank] = way;
        }
    }

    fn place(&self, rank: usize, now: f64) -> usize {
        self.timelines[rank].iter().rposition(|doing| doing.0 <= now).unwrap_or(0)
    }

    /// Stops the rank for good. Returns when the group comes to a standstill without it.
    pub fn stop(&mut self, rank: usize, now: f64) -> f64 {
        let place = self.place(rank, now);
        self.timelines[rank].truncate(place + 1);
        self.states[rank] = 'T';
        self.over = f64::INFINITY;
        let last = |way: &Vec<Doing>| way.last().map_or(now, |doing| doing.0);
        // Inside a collective, the rank is missed when all ranks are there; in its own work, it is missed at once.
        if self.timelines[rank][place].1.is_collective() {
            self.timelines.iter().map(last).fold(now, f64::max)
        } else {
            now
        }
    }

    /// Lets the current collective never complete. Returns when all ranks are in it.
    pub fn stall(&mut self, now: f64) -> f64 {
        self.over = f64::INFINITY;
        self.timelines.iter().filter_map(|way| way.last()).map(|doing| doing.0).fold(now, f64::max)
    }

    /// Returns when the rank enters the current collective.
    pub fn enters(&self, rank: usize) -> f64 {
        match self.timelines[rank].last() {
            Some(&(at, phase, _)) if phase.is_collective() => at,
            _ => f64::INFINITY,
        }
    }

    pub fn state(&self, rank: usize) -> char {
        self.states[rank]
    }

    /// Returns the rank's ledger at `now`.
    pub fn reading(&self, rank: usize, now: f64) -> Reading {
        let (since, phase, bucket) = self.timelines[rank][self.place(rank, now)];
        let [step_seconds, data_seconds, wait_seconds] = self.last_times[rank];
        Reading {
            pid: 1000 + rank as u64,
            step: self.step,
            last_step: 1_000_000,
            phase,
            bucket,
            phase_seconds: now - since,
            collectives: self.exchanges + u64::from(phase.is_collective()),
            step_seconds,
            data_seconds,
            wait_seconds,
            ..self.empty.clone()
        }
    }
}
