//! Who holds a group of ranks up.
//!
//! All ranks enter the same exchanges in the same order, and each ledger counts them. A rank inside an exchange waits
//! for those that have entered fewer; a rank that is busy with work of its own waits for nobody. So of a group that
//! stands still, those busy with their own work are to blame; and where all are inside exchanges, no rank is.

use std::collections::BTreeMap;
use std::time::Duration;

use admiral_rank_contract::{Phase, Reading, Timeouts};

use super::sentence;

/// Who is stuck as long as this part of a timeout when another rank reaches the timeout is to blame with it.
const TOGETHER: f64 = 0.8;

/// What is known of a rank that has not ended.
#[derive(Debug, Clone, PartialEq)]
pub struct RankView {
    /// Its number.
    pub rank: usize,
    /// Where it runs.
    pub host: String,
    /// Its GPU there.
    pub gpu: Option<usize>,
    /// What its attendant said last; None before its attendant has said hello.
    pub reading: Option<Reading>,
    /// The state of its process, as `/proc/PID/stat` calls it: R, S, D, T, Z...
    pub state: Option<char>,
    /// For how long nothing was heard of its attendant; since the start of the group where nothing ever was.
    pub silent_seconds: f64,
}

/// What the ledgers say of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It gets on, or has not stood still for long enough to say.
    Healthy,
    /// It is getting ready.
    Starting {
        /// Ranks that have begun to train.
        ready: usize,
        /// All of them.
        of: usize,
    },
    /// Some never got ready.
    NotReady {
        /// Who, ascending.
        culprits: Vec<usize>,
        /// For people.
        sentence: String,
    },
    /// Some stand still, and the others wait for them or soon will.
    Late {
        /// Who, ascending.
        culprits: Vec<usize>,
        /// For people.
        sentence: String,
    },
    /// All are inside exchanges and none gets on: no rank is to blame.
    AllWait {
        /// For people.
        sentence: String,
    },
    /// Nothing is heard of some.
    Silent {
        /// The hosts of which nothing is heard at all. Empty: only attendants are lost.
        hosts: Vec<String>,
        /// The silent ranks, ascending.
        ranks: Vec<usize>,
        /// For people.
        sentence: String,
    },
}

impl Verdict {
    /// What is wrong; None where nothing is.
    #[must_use]
    pub fn sentence(&self) -> Option<&str> {
        match self {
            Self::Healthy | Self::Starting { .. } => None,
            Self::NotReady { sentence, .. }
            | Self::Late { sentence, .. }
            | Self::AllWait { sentence }
            | Self::Silent { sentence, .. } => Some(sentence),
        }
    }

    /// The ranks to blame.
    #[must_use]
    pub fn culprits(&self) -> &[usize] {
        match self {
            Self::Healthy | Self::Starting { .. } | Self::AllWait { .. } => &[],
            Self::NotReady { culprits, .. } | Self::Late { culprits, .. } => culprits,
            Self::Silent { ranks, .. } => ranks,
        }
    }
}

/// What to think of a group. `ranks` are those that have not ended.
#[must_use]
pub fn verdict(ranks: &[RankView], timeouts: &Timeouts) -> Verdict {
    if let Some(silent) = silent(ranks, timeouts) {
        return silent;
    }
    let missing: Vec<&RankView> = ranks.iter().filter(|rank| rank.reading.is_none()).collect();
    if missing.iter().any(|rank| rank.silent_seconds >= timeouts.start.as_secs_f64()) {
        return Verdict::NotReady { culprits: numbers(&missing), sentence: sentence::missing(&missing, ranks.len()) };
    }
    let known: Vec<Known<'_>> = ranks.iter().filter_map(Known::new).collect();
    if let Some(stuck) = stuck(&known, timeouts) {
        return stuck;
    }
    let ready = known.iter().filter(|rank| rank.reading.step > 0).count();
    if missing.is_empty() && ready == ranks.len() {
        all_wait(&known, timeouts).unwrap_or(Verdict::Healthy)
    } else {
        all_wait(&known, timeouts)
            .filter(|_| missing.is_empty())
            .unwrap_or(Verdict::Starting { ready, of: ranks.len() })
    }
}

/// A rank with a ledger.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) view: &'a RankView,
    pub(super) reading: &'a Reading,
}

impl<'a> Known<'a> {
    fn new(view: &'a RankView) -> Option<Self> {
        Some(Self { view, reading: view.reading.as_ref()? })
    }

    /// Whether it waits for others. The run's end is an exchange as well: MPI lets none go before all are there.
    pub(super) fn waits(&self) -> bool {
        self.reading.phase.is_collective() || self.reading.phase == Phase::End
    }

    /// How far it has come, in exchanges.
    pub(super) fn entered(&self) -> u64 {
        if self.reading.phase == Phase::End { u64::MAX } else { self.reading.collectives }
    }

    /// Whether the system keeps its process from running.
    fn halted(&self) -> bool {
        matches!(self.view.state, Some('T' | 't' | 'Z' | 'X'))
    }

    /// How long it may be busy with one thing.
    fn limit(&self, timeouts: &Timeouts) -> f64 {
        let gets_ready = self.reading.phase == Phase::Start && !self.halted();
        let limit: Duration = if gets_ready { timeouts.start } else { timeouts.stall };
        limit.as_secs_f64()
    }

    /// Whether it is busy with one thing for `part` of what it may.
    fn over(&self, part: f64, timeouts: &Timeouts) -> bool {
        self.reading.phase_seconds >= part * self.limit(timeouts)
    }
}

fn numbers(ranks: &[&RankView]) -> Vec<usize> {
    ranks.iter().map(|rank| rank.rank).collect()
}

fn silent(ranks: &[RankView], timeouts: &Timeouts) -> Option<Verdict> {
    let is_silent = |rank: &RankView| rank.reading.is_some() && rank.silent_seconds > timeouts.silence.as_secs_f64();
    let silent: Vec<&RankView> = ranks.iter().filter(|rank| is_silent(rank)).collect();
    if silent.is_empty() {
        return None;
    }
    // (silent, all) ranks of each host.
    let mut hosts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for rank in ranks {
        let host = hosts.entry(&rank.host).or_default();
        host.0 += usize::from(is_silent(rank));
        host.1 += 1;
    }
    let all_lost = hosts.values().all(|(silent, all)| silent == all);
    let lost: Vec<String> =
        hosts.iter().filter(|(_, (silent, all))| silent == all).map(|(host, _)| (*host).to_owned()).collect();
    let sentence = sentence::silent(&silent, &lost, all_lost);
    // Where nothing is heard of anybody, the one that listens is as likely to be cut off: no host is to blame.
    Some(Verdict::Silent { hosts: if all_lost { Vec::new() } else { lost }, ranks: numbers(&silent), sentence })
}

/// Ranks that are busy with one thing of their own for too long, or that the system stopped inside an exchange.
fn stuck(known: &[Known<'_>], timeouts: &Timeouts) -> Option<Verdict> {
    let busy = || known.iter().filter(|rank| !rank.waits());
    let furthest = known.iter().map(Known::entered).max()?;
    let mut culprits: Vec<Known<'_>> = if busy().any(|rank| rank.over(1.0, timeouts)) {
        busy().filter(|rank| rank.over(TOGETHER, timeouts)).copied().collect()
    } else if known.iter().all(|rank| rank.waits() && rank.over(1.0, timeouts)) {
        held(known)
    } else {
        return None;
    };
    // Those that others wait for come before those that nobody has missed yet; among those that get ready, those whose
    // program has not even begun.
    for is_worse in
        [&(|rank: &Known<'_>| rank.entered() < furthest) as &dyn Fn(&Known<'_>) -> bool, &|rank| rank.reading.pid == 0]
    {
        if culprits.iter().any(is_worse) && !culprits.iter().all(|rank| rank.waits()) {
            culprits.retain(is_worse);
        }
    }
    if culprits.is_empty() {
        return None;
    }
    let sentence = sentence::late(&culprits, known);
    let not_ready = culprits.iter().all(|rank| rank.reading.phase == Phase::Start);
    let culprits = culprits.iter().map(|rank| rank.view.rank).collect();
    Some(if not_ready { Verdict::NotReady { culprits, sentence } } else { Verdict::Late { culprits, sentence } })
}

/// Of ranks that all wait, those whose process the system holds. One that hangs in a system call stands out only where
/// most do not.
fn held<'a>(known: &[Known<'a>]) -> Vec<Known<'a>> {
    let halted: Vec<Known<'a>> = known.iter().filter(|rank| rank.halted()).copied().collect();
    if !halted.is_empty() {
        return halted;
    }
    let hanging: Vec<Known<'a>> = known.iter().filter(|rank| rank.view.state == Some('D')).copied().collect();
    if hanging.len() * 2 < known.len() { hanging } else { Vec::new() }
}

fn all_wait(known: &[Known<'_>], timeouts: &Timeouts) -> Option<Verdict> {
    let all = !known.is_empty() && known.iter().all(|rank| rank.waits() && rank.over(1.0, timeouts));
    all.then(|| Verdict::AllWait { sentence: sentence::all_wait(known) })
}
