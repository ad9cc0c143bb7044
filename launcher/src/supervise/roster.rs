//! What is known of each rank of an attempt.

use admiral_contract::Reading;

use crate::incident::RankRecord;
use crate::protocol::{FromAgent, Hello};

/// A rank.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The host that it was placed on, as the hostfile calls it.
    pub host: String,
    /// Its number among the ranks of its host.
    pub local_rank: usize,
    /// What its agent said first.
    pub hello: Option<Hello>,
    /// The newest ledger.
    pub reading: Option<Reading>,
    /// The state of its process.
    pub state: Option<char>,
    /// Its last lines, when it has ended.
    pub last_lines: Vec<String>,
    /// What its threads were doing, when that was asked for.
    pub stack: Option<String>,
    /// Processes that could not be ended; none while it runs.
    pub left: Option<usize>,
    /// The code and the signal that it ended with.
    pub end: Option<(Option<u8>, Option<i32>)>,
}

/// All ranks, by their number.
#[derive(Debug, Clone)]
pub struct Roster {
    /// The ranks.
    pub entries: Vec<Entry>,
}

impl Roster {
    /// Ranks that have not been heard yet, at their hosts and with their number there.
    pub fn new(places: impl IntoIterator<Item = (String, usize)>) -> Self {
        let entry = |(host, local_rank)| Entry {
            host,
            local_rank,
            hello: None,
            reading: None,
            state: None,
            last_lines: Vec::new(),
            stack: None,
            left: None,
            end: None,
        };
        Self { entries: places.into_iter().map(entry).collect() }
    }

    /// Notes what a rank's agent says.
    pub fn note(&mut self, rank: usize, said: &FromAgent) {
        let Some(entry) = self.entries.get_mut(rank) else { return };
        match said {
            FromAgent::Hello(hello) => entry.hello = Some(hello.clone()),
            FromAgent::Beat { reading, state } => {
                entry.reading = Some(reading.clone());
                entry.state = *state;
            }
            FromAgent::Ended { code, signal, reading, last_lines } => {
                entry.end = Some((*code, *signal));
                entry.state = None;
                if reading.is_some() {
                    entry.reading.clone_from(reading);
                }
                entry.last_lines.clone_from(last_lines);
            }
            FromAgent::Stack { text, .. } => entry.stack = Some(text.clone()),
            FromAgent::Gone { left } => entry.left = Some(*left),
            FromAgent::Started { .. } | FromAgent::Line { .. } | FromAgent::DaemonGone | FromAgent::Alive => {}
        }
    }

    /// Whether every agent has called in.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.entries.iter().all(|entry| entry.hello.is_some())
    }

    /// Steps that every rank has done.
    #[must_use]
    pub fn steps_done(&self) -> Option<u64> {
        let done = |reading: &Reading| reading.step.saturating_sub(u64::from(is_within_step(reading)));
        self.entries.iter().filter_map(|entry| entry.reading.as_ref()).filter(|r| r.last_step > 0).map(done).max()
    }

    /// The hosts, each once.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        let mut hosts: Vec<String> = self.entries.iter().map(|entry| entry.host.clone()).collect();
        hosts.dedup();
        hosts
    }

    /// The newest checkpoint that a rank knows of.
    #[must_use]
    pub fn checkpoint_step(&self) -> u64 {
        self.readings().map(|reading| reading.checkpoint_step).max().unwrap_or(0)
    }

    /// The ledgers that are known.
    pub fn readings(&self) -> impl Iterator<Item = &Reading> {
        self.entries.iter().filter_map(|entry| entry.reading.as_ref())
    }

    /// For files.
    #[must_use]
    pub fn records(&self) -> Vec<RankRecord> {
        let record = |(rank, entry): (usize, &Entry)| RankRecord {
            rank,
            host: entry.host.clone(),
            gpu: entry.local_rank,
            state: entry.state,
            ledger: entry.reading.clone(),
        };
        self.entries.iter().enumerate().map(record).collect()
    }
}

/// Whether a rank is in the middle of the step that its ledger names.
fn is_within_step(reading: &Reading) -> bool {
    use admiral_contract::Phase;
    matches!(reading.phase, Phase::Data | Phase::Forward | Phase::Backward | Phase::Reduce | Phase::Optimizer)
}
