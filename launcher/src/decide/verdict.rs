//! Which rank holds a group up.
//!
//! All ranks enter the same collective operations in the same order, and each ledger counts them. A rank inside a
//! collective waits for the ranks that have entered fewer; a rank that is busy with its own work waits for nobody. So
//! if a group stands still, the ranks that are busy are to blame; and if all ranks are inside collectives, no rank is.

use std::collections::BTreeMap;

use admiral_contract::{Phase, Timeouts};

use super::sentence;
use super::view::{KnownRank, RankView};
use crate::job::JobKind;

/// If one rank reaches a timeout, the ranks that have reached this fraction of it are to blame too.
const CO_CULPRIT_FRACTION: f64 = 0.8;
/// The same for silence. The last messages of a host's agents are several heartbeats apart.
const SILENT_FRACTION: f64 = 0.5;

/// The judgement of a group, by its ledgers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The group makes progress, or has not stood still for long enough.
    Healthy,
    /// The group is getting ready.
    Starting {
        /// The number of ranks that have begun with their work.
        ready: usize,
        /// The number of all ranks.
        of: usize,
    },
    /// Some ranks did not get ready.
    NotReady {
        /// The ranks to blame, ascending.
        culprits: Vec<usize>,
        /// The description, for people.
        sentence: String,
    },
    /// Some ranks stand still, and the others wait for them or will soon.
    Late {
        /// The ranks to blame, ascending.
        culprits: Vec<usize>,
        /// The description, for people.
        sentence: String,
    },
    /// All ranks are inside collectives without progress. No rank is to blame.
    AllWait {
        /// The description, for people.
        sentence: String,
    },
    /// Some agents are silent.
    Silent {
        /// The hosts whose agents are all silent. If empty, only single agents are lost.
        hosts: Vec<String>,
        /// The silent ranks, ascending.
        ranks: Vec<usize>,
        /// The description, for people.
        sentence: String,
    },
}

impl Verdict {
    /// Returns what is wrong, if anything is.
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

    /// Returns the ranks to blame.
    #[must_use]
    pub fn culprits(&self) -> &[usize] {
        match self {
            Self::Healthy | Self::Starting { .. } | Self::AllWait { .. } => &[],
            Self::NotReady { culprits, .. } | Self::Late { culprits, .. } => culprits,
            Self::Silent { ranks, .. } => ranks,
        }
    }
}

/// Judges a group. `ranks` are those that have not ended.
#[must_use]
pub fn verdict(ranks: &[RankView], timeouts: &Timeouts, kind: JobKind) -> Verdict {
    if let Some(silent) = silent(ranks, timeouts) {
        return silent;
    }
    let missing: Vec<&RankView> = ranks.iter().filter(|rank| rank.reading.is_none()).collect();
    if missing.iter().any(|rank| rank.silent_seconds >= timeouts.start.as_secs_f64()) {
        return Verdict::NotReady { culprits: numbers(&missing), sentence: sentence::missing(&missing, ranks.len()) };
    }
    let known: Vec<KnownRank<'_>> = ranks.iter().filter_map(KnownRank::new).collect();
    if let Some(stuck) = stuck(&known, timeouts, kind) {
        return stuck;
    }
    let ready = known.iter().filter(|rank| kind.has_begun(rank.reading)).count();
    if missing.is_empty() && ready == ranks.len() {
        all_wait(&known, timeouts, kind).unwrap_or(Verdict::Healthy)
    } else {
        all_wait(&known, timeouts, kind)
            .filter(|_| missing.is_empty())
            .unwrap_or(Verdict::Starting { ready, of: ranks.len() })
    }
}

fn numbers(ranks: &[&RankView]) -> Vec<usize> {
    ranks.iter().map(|rank| rank.rank).collect()
}

fn silent(ranks: &[RankView], timeouts: &Timeouts) -> Option<Verdict> {
    let limit = timeouts.silence.as_secs_f64();
    let is_silent_for = |rank: &RankView, limit| rank.reading.is_some() && rank.silent_seconds > limit;
    if !ranks.iter().any(|rank| is_silent_for(rank, limit)) {
        return None;
    }
    let is_silent = |rank: &RankView| is_silent_for(rank, SILENT_FRACTION * limit);
    let silent: Vec<&RankView> = ranks.iter().filter(|rank| is_silent(rank)).collect();
    // The numbers of silent ranks and of all ranks of each host.
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
    // If all hosts are silent, the launcher's own host is as likely to be cut off, so no host is to blame.
    Some(Verdict::Silent { hosts: if all_lost { Vec::new() } else { lost }, ranks: numbers(&silent), sentence })
}

/// Returns a verdict on ranks that are busy with their own work for too long, or whose process the system stopped
/// inside a collective.
fn stuck(known: &[KnownRank<'_>], timeouts: &Timeouts, kind: JobKind) -> Option<Verdict> {
    let busy = || known.iter().filter(|rank| !rank.waits());
    let furthest = known.iter().map(KnownRank::entered).max()?;
    let mut culprits: Vec<KnownRank<'_>> = if busy().any(|rank| rank.exceeds(1.0, timeouts)) {
        busy().filter(|rank| rank.exceeds(CO_CULPRIT_FRACTION, timeouts)).copied().collect()
    } else if known.iter().all(|rank| rank.waits() && rank.exceeds(1.0, timeouts)) {
        held_by_system(known)
    } else {
        return None;
    };
    // If other ranks wait for some culprits, only those are named; among ranks that get ready, only those whose program
    // has not begun.
    for is_worse in [&(|rank: &KnownRank<'_>| rank.entered() < furthest) as &dyn Fn(&KnownRank<'_>) -> bool, &|rank| {
        rank.reading.pid == 0
    }] {
        if culprits.iter().any(is_worse) && !culprits.iter().all(|rank| rank.waits()) {
            culprits.retain(is_worse);
        }
    }
    if culprits.is_empty() {
        return None;
    }
    let sentence = sentence::late(&culprits, known, kind);
    let not_ready = culprits.iter().all(|rank| rank.reading.phase == Phase::Start);
    let culprits = culprits.iter().map(|rank| rank.view.rank).collect();
    Some(if not_ready { Verdict::NotReady { culprits, sentence } } else { Verdict::Late { culprits, sentence } })
}

/// Of ranks that all wait, returns those whose process the system holds. A process in a system call counts only if most
/// others are not in one.
fn held_by_system<'a>(known: &[KnownRank<'a>]) -> Vec<KnownRank<'a>> {
    let halted: Vec<KnownRank<'a>> = known.iter().filter(|rank| rank.is_halted()).copied().collect();
    if !halted.is_empty() {
        return halted;
    }
    let hanging: Vec<KnownRank<'a>> = known.iter().filter(|rank| rank.view.state == Some('D')).copied().collect();
    if hanging.len() * 2 < known.len() { hanging } else { Vec::new() }
}

fn all_wait(known: &[KnownRank<'_>], timeouts: &Timeouts, kind: JobKind) -> Option<Verdict> {
    let all = !known.is_empty() && known.iter().all(|rank| rank.waits() && rank.exceeds(1.0, timeouts));
    all.then(|| Verdict::AllWait { sentence: sentence::all_wait(known, kind) })
}

#[cfg(test)]
mod tests {
    use admiral_contract::{LaunchConfig, Reading};
    use proptest::prelude::*;

    use super::*;

    /// Stall 90 s, start 180 s, silence 4.5 s.
    fn timeouts() -> Timeouts {
        LaunchConfig { stall_seconds: 90, ..LaunchConfig::default() }.timeouts()
    }

    fn reading(phase: Phase, collectives: u64, phase_seconds: f64) -> Reading {
        Reading {
            pid: 7,
            step: 812,
            last_step: 1000,
            phase,
            bucket: 3,
            phase_seconds,
            collectives,
            beats: 99,
            step_seconds: 1.0,
            data_seconds: 0.1,
            wait_seconds: 0.2,
            checkpoint_step: 800,
            global_batch: 256,
            attempt_id: String::new(),
            awaited: String::new(),
        }
    }

    /// `world` ranks, eight per host, in bucket 3 of step 812 for 93.9 s.
    fn waiting(world: usize) -> Vec<RankView> {
        let view = |rank| RankView {
            rank,
            host: format!("node{}", rank / 8),
            gpu: Some(rank % 8),
            reading: Some(reading(Phase::Reduce, 5000, 93.9)),
            state: Some('S'),
            silent_seconds: 0.4,
        };
        (0..world).map(view).collect()
    }

    /// The same, with these ranks busy instead.
    fn with(world: usize, busy: &[(usize, Phase, f64)]) -> Vec<RankView> {
        let mut ranks = waiting(world);
        for &(rank, phase, seconds) in busy {
            ranks[rank].reading = Some(reading(phase, 4999, seconds));
        }
        ranks
    }

    fn awaits(rank: &mut RankView, what: &str) {
        rank.reading.as_mut().expect("it has one").awaited = what.to_owned();
    }

    fn late(ranks: &[RankView]) -> (Vec<usize>, String) {
        match verdict(ranks, &timeouts(), JobKind::Train) {
            Verdict::Late { culprits, sentence } => (culprits, sentence),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn busy_ranks_are_named_and_waiting_ranks_are_counted() {
        let mut ranks = with(16, &[(13, Phase::Data, 94.2)]);
        awaits(&mut ranks[13], "/data/7.tar: 3\u{1b}.jpg");
        let sentence = late(&ranks).1;
        let expected = "it has been reading data for 94 s (/data/7.tar: 3\\u{1b}.jpg); 15 ranks wait for it";
        assert!(sentence.ends_with(expected), "{sentence}");
        awaits(&mut ranks[13], "");
        let sentence = "rank 13 (node1, GPU 5) never reached bucket 3 of step 812; it has been reading data for 94 s; \
                        15 ranks wait for it";
        assert_eq!(late(&ranks), (vec![13], sentence.to_owned()));
        ranks[13].state = Some('T');
        let sentence = late(&ranks).1;
        assert!(sentence.contains("for 94 s; its process is stopped (SIGSTOP or a debugger); 15 ranks"), "{sentence}");
        ranks[13].state = Some('D');
        let sentence = late(&ranks).1;
        assert!(sentence.contains("for 94 s; it hangs in a system call (driver or disk); 15 ranks"), "{sentence}");
    }

    #[test]
    fn up_to_three_ranks_are_named() {
        let mut two = with(3, &[(0, Phase::Data, 94.0), (1, Phase::Data, 93.0)]);
        let sentence = "rank 0 (node0, GPU 0) and rank 1 (node0, GPU 1) never reached bucket 3 of step 812; they have \
                        been reading data for 94 s; 1 rank waits for them";
        assert_eq!(late(&two), (vec![0, 1], sentence.to_owned()));
        awaits(&mut two[0], "a.jpg");
        awaits(&mut two[1], "b.jpg");
        let sentence = late(&two).1;
        assert!(sentence.contains("reading data for 94 s (rank 0: a.jpg, rank 1: b.jpg); 1 rank"), "{sentence}");
        let five: Vec<_> = (8..13).map(|rank| (rank, Phase::Forward, 94.0)).collect();
        let (culprits, sentence) = late(&with(16, &five));
        assert_eq!(culprits, [8, 9, 10, 11, 12]);
        let names = "rank 8 (node1, GPU 0), rank 9 (node1, GPU 1), rank 10 (node1, GPU 2) and 2 more (all on node1) \
                     never reached";
        assert!(sentence.starts_with(names) && sentence.ends_with("11 ranks wait for them"), "{sentence}");
        let differ = with(4, &[(0, Phase::Data, 94.0), (3, Phase::Optimizer, 91.0)]);
        let sentence = late(&differ).1;
        let what = "rank 0 has been reading data for 94 s and rank 3 has been in the optimizer for 91 s";
        assert!(sentence.contains(what), "{sentence}");
    }

    #[test]
    fn a_rank_is_stuck_although_nobody_waits_yet() {
        let mut alone = with(1, &[(0, Phase::Forward, 94.0)]);
        let sentence = "rank 0 (node0, GPU 0) stands still in step 812; it has been in the forward pass for 94 s";
        assert_eq!(late(&alone).1, sentence);
        alone[0].gpu = None;
        assert!(late(&alone).1.starts_with("rank 0 (node0) stands"));
        let all: Vec<_> = (0..4).map(|rank| (rank, Phase::Data, 94.0)).collect();
        assert_eq!(late(&with(4, &all)).0, [0, 1, 2, 3]);
        let (_, sentence) = late(&with(2, &[(0, Phase::Data, 94.0), (1, Phase::Data, 1.0)]));
        assert!(sentence.ends_with("for 94 s; no rank waits for it yet"), "{sentence}");
    }

    #[test]
    fn a_standstill_of_a_sampling_job_is_told_in_images() {
        let drawing = |rank: usize, step, phase, seconds| RankView {
            reading: Some(Reading { step, bucket: 0, checkpoint_step: 0, ..reading(phase, 1, seconds) }),
            ..waiting(4).remove(rank)
        };
        let mut ranks: Vec<RankView> = (0..4).map(|rank| drawing(rank, 64, Phase::Sample, 20.0)).collect();
        ranks[1] = drawing(1, 128, Phase::Exchange, 500.0);
        assert_eq!(verdict(&ranks, &timeouts(), JobKind::Sample), Verdict::Healthy, "one rank is done and waits");
        ranks[2] = drawing(2, 0, Phase::Sample, 94.0);
        let judged = |ranks: &[RankView]| verdict(ranks, &timeouts(), JobKind::Sample);
        let sentence = "rank 2 (node0, GPU 2) stands still before its first image; it has been drawing samples for \
                        94 s; 1 rank waits for it";
        assert_eq!(judged(&ranks), Verdict::Late { culprits: vec![2], sentence: sentence.to_owned() });
        ranks[2] = drawing(2, 32, Phase::Checkpoint, 94.0);
        let stores = "still after 32 images; it has been storing images for 94 s";
        assert!(judged(&ranks).sentence().is_some_and(|sentence| sentence.contains(stores)));
        let ranks: Vec<RankView> = (0..4).map(|rank| drawing(rank, 128, Phase::Exchange, 94.0)).collect();
        let sentence = judged(&ranks).sentence().map(str::to_owned).unwrap_or_default();
        assert!(sentence.starts_with("all 4 ranks stand in the exchange after 128 images for 94 s"), "{sentence}");
    }

    #[test]
    fn if_all_ranks_wait_none_is_to_blame() {
        let Verdict::AllWait { sentence } = verdict(&waiting(16), &timeouts(), JobKind::Train) else { panic!() };
        let expected = "all 16 ranks stand in bucket 3 of step 812 for 94 s and none is late; the network between \
                        node0 and node1 or the collective library is to blame";
        assert_eq!(sentence, expected);
        let Verdict::AllWait { sentence } = verdict(&waiting(8), &timeouts(), JobKind::Train) else { panic!() };
        assert!(sentence.ends_with("what links the GPUs of node0, is to blame"), "{sentence}");
        // Some ranks have left the collective, the others have not.
        let mut ranks = waiting(16);
        ranks[9].reading = Some(Reading { bucket: 2, ..reading(Phase::Reduce, 4999, 95.0) });
        let Verdict::AllWait { sentence } = verdict(&ranks, &timeouts(), JobKind::Train) else { panic!() };
        assert!(sentence.contains("1 rank in bucket 2 of step 812 (rank 9 (node1, GPU 1)) and 15 ranks in bucket 3"));
    }

    #[test]
    fn a_process_that_is_stopped_while_it_waits_is_to_blame() {
        let mut ranks = waiting(16);
        ranks[13].state = Some('T');
        let sentence = "rank 13 (node1, GPU 5) does not get on in bucket 3 of step 812; its process is stopped \
                        (SIGSTOP or a debugger); 15 ranks wait for it";
        assert_eq!(late(&ranks), (vec![13], sentence.to_owned()));
        ranks[13].state = Some('D');
        assert!(late(&ranks).1.contains("it hangs in a system call"));
        ranks.iter_mut().for_each(|rank| rank.state = Some('D'));
        assert!(matches!(verdict(&ranks, &timeouts(), JobKind::Train), Verdict::AllWait { .. }));
    }

    #[test]
    fn a_rank_that_does_not_get_ready_is_named_after_the_start_timeout() {
        let mut ranks = waiting(4);
        ranks[3].reading = Some(Reading { pid: 0, step: 0, ..reading(Phase::Start, 0, 179.0) });
        assert_eq!(verdict(&ranks, &timeouts(), JobKind::Train), Verdict::Starting { ready: 3, of: 4 });
        ranks[2].reading = Some(Reading { step: 0, ..reading(Phase::Start, 0, 181.0) });
        ranks[3].reading = Some(Reading { pid: 0, step: 0, ..reading(Phase::Start, 0, 181.0) });
        let Verdict::NotReady { culprits, sentence } = verdict(&ranks, &timeouts(), JobKind::Train) else { panic!() };
        assert_eq!(culprits, [3], "the other may wait for it");
        assert!(sentence.contains("its program has not begun in 181 s; 2 ranks wait"), "{sentence}");
        ranks[3].reading = None;
        ranks[3].silent_seconds = 200.0;
        let Verdict::NotReady { culprits, sentence } = verdict(&ranks, &timeouts(), JobKind::Train) else { panic!() };
        assert_eq!(culprits, [3]);
        assert_eq!(sentence, "rank 3 (node0, GPU 3) never answered in 200 s; its host did not start it");
    }

    #[test]
    fn a_silent_host_is_distinguished_from_a_silent_agent() {
        let mut ranks = with(24, &[(13, Phase::Data, 94.2)]);
        ranks[13].silent_seconds = 4.4;
        assert!(matches!(verdict(&ranks, &timeouts(), JobKind::Train), Verdict::Late { .. }));
        ranks[13].silent_seconds = 6.0;
        let Verdict::Silent { hosts, ranks: silent, sentence } = verdict(&ranks, &timeouts(), JobKind::Train) else {
            panic!()
        };
        assert_eq!((hosts.len(), silent), (0, vec![13]));
        assert!(sentence.starts_with("the agent of rank 13 (node1, GPU 5) said nothing for 6 s"), "{sentence}");
        ranks[8..16].iter_mut().for_each(|rank| rank.silent_seconds = 5.8 - rank.rank as f64 / 10.0);
        ranks[15].silent_seconds = 6.0;
        let Verdict::Silent { hosts, ranks: silent, sentence } = verdict(&ranks, &timeouts(), JobKind::Train) else {
            panic!()
        };
        assert_eq!((hosts, silent.len()), (vec!["node1".to_owned()], 8));
        let expected = "nothing is heard of host node1 for 6 s (ranks 8, 9, 10 and 5 more): lost, or cut off";
        assert_eq!(sentence, expected);
        ranks.iter_mut().for_each(|rank| rank.silent_seconds = 6.0);
        let Verdict::Silent { hosts, sentence, .. } = verdict(&ranks, &timeouts(), JobKind::Train) else { panic!() };
        assert!(hosts.is_empty() && sentence.contains("any host"), "{sentence}");
    }

    proptest! {
        #[test]
        fn only_busy_ranks_are_blamed(
            world in 1..40usize,
            busy in proptest::collection::vec((any::<proptest::sample::Index>(), 1..9usize, 0.0..200.0f64), 0..5),
            waits in 0.0..200.0f64,
        ) {
            let phases = [Phase::Data, Phase::Forward, Phase::Backward, Phase::Optimizer, Phase::Checkpoint,
                Phase::Sample, Phase::Log, Phase::Data, Phase::Data];
            let one = |(at, phase, time): (proptest::sample::Index, usize, f64)| (at.index(world), phases[phase], time);
            let busy: Vec<_> = busy.into_iter().map(one).collect();
            let mut ranks = waiting(world);
            for rank in &mut ranks {
                rank.reading = Some(reading(Phase::Reduce, 5000, waits));
            }
            for &(rank, phase, seconds) in &busy {
                ranks[rank].reading = Some(reading(phase, 4999, seconds));
            }
            let seconds = |rank: usize| ranks[rank].reading.as_ref().map_or(0.0, |reading| reading.phase_seconds);
            let is_busy = |rank: usize| busy.iter().any(|&(other, ..)| other == rank);
            let stuck: Vec<usize> = (0..world).filter(|&rank| is_busy(rank) && seconds(rank) >= 90.0).collect();
            match verdict(&ranks, &timeouts(), JobKind::Train) {
                Verdict::Healthy => prop_assert!(stuck.is_empty() && (!busy.is_empty() || waits < 90.0)),
                Verdict::AllWait { .. } => prop_assert!(busy.is_empty() && waits >= 90.0),
                Verdict::Late { culprits, sentence } => {
                    prop_assert!(!stuck.is_empty() && stuck.iter().all(|rank| culprits.contains(rank)));
                    prop_assert!(culprits.iter().all(|&rank| is_busy(rank) && seconds(rank) >= 72.0));
                    prop_assert!(sentence.contains(&format!("rank {} (", culprits[0])), "{}", sentence);
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
