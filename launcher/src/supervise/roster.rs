//! The known state of each rank of an attempt.

use admiral_contract::Reading;

use crate::incident::RankRecord;
use crate::job::JobKind;
use crate::protocol::{FromAgent, Hello};

/// The known state of a rank.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its host, as the host list names it.
    pub host: String,
    /// Its number among the ranks of its host.
    pub local_rank: usize,
    /// Its agent's first message.
    pub hello: Option<Hello>,
    /// The newest ledger.
    pub reading: Option<Reading>,
    /// The state of its process.
    pub state: Option<char>,
    /// Its last lines of output, after its end.
    pub last_lines: Vec<String>,
    /// The stacks of its threads, if they were requested.
    pub stack: Option<String>,
    /// The number of its processes that could not be ended; `None` while it runs.
    pub left: Option<usize>,
    /// Its exit code and signal, after its end.
    pub end: Option<(Option<u8>, Option<i32>)>,
}

/// All ranks.
#[derive(Debug, Clone)]
pub struct Roster {
    /// The ranks, by number.
    pub entries: Vec<Entry>,
}

impl Roster {
    /// Creates a roster of ranks that have not been heard from, with their hosts and local ranks.
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

    /// Records a message of a rank's agent.
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

    /// Returns whether every agent has connected.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.entries.iter().all(|entry| entry.hello.is_some())
    }

    /// Returns the number of steps that every rank has completed, or of images that all ranks together have finished;
    /// `None` until it is known. The images are known once every rank has begun.
    #[must_use]
    pub fn done(&self, kind: JobKind) -> Option<u64> {
        match kind {
            JobKind::Train => {
                let done = |reading: &Reading| reading.step.saturating_sub(u64::from(is_within_step(reading)));
                self.readings().filter(|reading| reading.last_step > 0).map(done).max()
            }
            JobKind::Sample => {
                let have_begun = self.readings().filter(|reading| kind.has_begun(reading)).count();
                (have_begun == self.entries.len()).then(|| kind.total(self.readings().map(|reading| reading.step)))
            }
        }
    }

    /// Returns the last step, or the number of images of all shares.
    #[must_use]
    pub fn goal(&self, kind: JobKind) -> u64 {
        kind.total(self.readings().map(|reading| reading.last_step))
    }

    /// Returns the hosts, each once.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        let mut hosts: Vec<String> = self.entries.iter().map(|entry| entry.host.clone()).collect();
        hosts.dedup();
        hosts
    }

    /// Returns the step of the newest checkpoint that a rank knows of.
    #[must_use]
    pub fn checkpoint_step(&self) -> u64 {
        self.readings().map(|reading| reading.checkpoint_step).max().unwrap_or(0)
    }

    /// Returns the known ledgers.
    pub fn readings(&self) -> impl Iterator<Item = &Reading> {
        self.entries.iter().filter_map(|entry| entry.reading.as_ref())
    }

    /// Returns the ranks in the form of the launch's files.
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

/// Returns whether a rank is inside the step that its ledger names.
fn is_within_step(reading: &Reading) -> bool {
    use admiral_contract::Phase;
    matches!(reading.phase, Phase::Data | Phase::Forward | Phase::Backward | Phase::Reduce | Phase::Optimizer)
}

#[cfg(test)]
mod tests {
    use admiral_contract::Phase;

    use super::*;

    fn roster(readings: &[Option<(u64, u64, Phase)>]) -> Roster {
        let mut roster = Roster::new((0..readings.len()).map(|rank| ("n0".to_owned(), rank)));
        for (entry, reading) in roster.entries.iter_mut().zip(readings) {
            entry.reading =
                reading.map(|(step, last_step, phase)| Reading { step, last_step, phase, ..Reading::default() });
        }
        roster
    }

    #[test]
    fn all_ranks_do_the_same_steps() {
        let roster = roster(&[Some((7, 100, Phase::Exchange)), Some((7, 100, Phase::Forward)), None]);
        assert_eq!((roster.done(JobKind::Train), roster.goal(JobKind::Train)), (Some(7), 100));
    }

    #[test]
    fn images_of_all_shares_are_added_once_every_rank_has_begun() {
        let all = [Some((64, 100, Phase::Sample)), Some((32, 100, Phase::Checkpoint)), Some((0, 0, Phase::End))];
        let whole = roster(&all);
        assert_eq!((whole.done(JobKind::Sample), whole.goal(JobKind::Sample)), (Some(96), 200));
        assert_eq!(roster(&[all[0], Some((0, 0, Phase::Start))]).done(JobKind::Sample), None);
        assert_eq!(roster(&[all[0], None]).done(JobKind::Sample), None);
    }
}
