//! The sentence of a verdict: which rank, what, for how long, and who waits.

use std::collections::{BTreeMap, BTreeSet};

use admiral_contract::{Phase, Reading, printable};

use super::view::{KnownRank, RankView};
use crate::job::JobKind;

/// The largest number of ranks that are named; others are counted.
const MAX_NAMED: usize = 3;

/// Returns "rank 5 (node1, GPU 5)".
pub(super) fn name(rank: &RankView) -> String {
    match rank.gpu {
        Some(gpu) => format!("rank {} ({}, GPU {gpu})", rank.rank, rank.host),
        None => format!("rank {} ({})", rank.rank, rank.host),
    }
}

/// Returns the collective operation that a waiting rank is in.
pub(super) fn place(reading: &Reading, kind: JobKind) -> String {
    match reading.phase {
        Phase::Reduce => format!("bucket {} of step {}", reading.bucket, reading.step),
        Phase::End => "the end of the run".to_owned(),
        _ if kind == JobKind::Sample => format!("the exchange {}", kind.place(reading.step)),
        _ if reading.step == 0 => "the exchange before the first step".to_owned(),
        _ => format!("the exchange after step {}", reading.step),
    }
}

/// Returns "reading data for 94 s".
pub(super) fn activity(reading: &Reading, kind: JobKind) -> String {
    format!("{} for {}", kind.doing(reading.phase), seconds(reading.phase_seconds))
}

pub(super) fn seconds(seconds: f64) -> String {
    format!("{seconds:.0} s")
}

/// Returns "a", "a and b", or "a, b and c".
pub(super) fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// Returns the first items, and the number of the others.
pub(super) fn first_few(items: Vec<String>) -> String {
    let more = items.len().saturating_sub(MAX_NAMED);
    let mut shown: Vec<String> = items.into_iter().take(MAX_NAMED).collect();
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    list(&shown)
}

fn names<'a>(ranks: impl Iterator<Item = &'a RankView> + Clone) -> String {
    let hosts: BTreeSet<&str> = ranks.clone().map(|rank| rank.host.as_str()).collect();
    let count = ranks.clone().count();
    let few = first_few(ranks.map(name).collect());
    match hosts.first() {
        Some(host) if hosts.len() == 1 && count > MAX_NAMED => format!("{few} (all on {host})"),
        _ => few,
    }
}

pub(super) fn count(count: usize, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

fn hosts<'a>(ranks: impl Iterator<Item = &'a RankView>) -> Vec<String> {
    ranks.map(|rank| rank.host.clone()).collect::<BTreeSet<_>>().into_iter().collect()
}

pub(super) fn missing(missing: &[&RankView], all: usize) -> String {
    let longest = missing.iter().map(|rank| rank.silent_seconds).fold(0.0, f64::max);
    let names = names(missing.iter().copied());
    if missing.len() == all {
        return format!("no host has answered for {}: mpirun could not start anything", seconds(longest));
    }
    let its = if missing.len() == 1 { "its host did not start it" } else { "their hosts did not start them" };
    format!("{names} never answered in {}; {its}", seconds(longest))
}

pub(super) fn silent(silent: &[&RankView], lost: &[String], all_lost: bool) -> String {
    let longest = seconds(silent.iter().map(|rank| rank.silent_seconds).fold(0.0, f64::max));
    if all_lost && lost.len() > 1 {
        return format!("nothing is heard of any host for {longest}: the network of this one may be down");
    }
    let mut parts = Vec::new();
    if !lost.is_empty() {
        let ranks: Vec<String> =
            silent.iter().filter(|rank| lost.contains(&rank.host)).map(|rank| rank.rank.to_string()).collect();
        let which = if ranks.len() == 1 { "rank" } else { "ranks" };
        let hosts = if lost.len() == 1 { "host" } else { "hosts" };
        parts.push(format!(
            "nothing is heard of {hosts} {} for {longest} ({which} {}): lost, or cut off",
            first_few(lost.to_vec()),
            first_few(ranks)
        ));
    }
    let others: Vec<&RankView> = silent.iter().filter(|rank| !lost.contains(&rank.host)).copied().collect();
    if !others.is_empty() {
        let what = if others.len() == 1 { "the agent of" } else { "the agents of" };
        parts.push(format!(
            "{what} {} said nothing for {longest}, while others on the same host do",
            names(others.iter().copied())
        ));
    }
    parts.join("; ")
}

pub(super) fn late(culprits: &[KnownRank<'_>], known: &[KnownRank<'_>], kind: JobKind) -> String {
    let one = culprits.len() == 1;
    let least = culprits.iter().map(KnownRank::entered).min().unwrap_or(0);
    let is_culprit = |rank: &KnownRank<'_>| culprits.iter().any(|culprit| culprit.view.rank == rank.view.rank);
    let waiting: Vec<&KnownRank<'_>> = known.iter().filter(|rank| rank.waits() && !is_culprit(rank)).collect();
    let ahead = waiting.iter().filter(|rank| rank.entered() > least).max_by_key(|rank| rank.entered());
    let stopped_inside = culprits.iter().find(|rank| rank.waits());
    let mut parts = Vec::new();
    let what = match (stopped_inside, ahead) {
        (Some(inside), _) => {
            format!("{} not get on in {}", if one { "does" } else { "do" }, place(inside.reading, kind))
        }
        (None, Some(ahead)) => format!("never reached {}", place(ahead.reading, kind)),
        (None, None) => {
            let step = culprits.first().map_or(0, |rank| rank.reading.step);
            format!("{} still {}", if one { "stands" } else { "stand" }, kind.place(step))
        }
    };
    parts.push(format!("{} {what}", names(culprits.iter().map(|rank| rank.view))));
    if stopped_inside.is_none() {
        parts.push(activities(culprits, kind) + &awaited(culprits));
    }
    parts.extend(process_states(culprits));
    if known.len() > culprits.len() {
        let them = if one { "it" } else { "them" };
        parts.push(match waiting.len() {
            0 => format!("no rank waits for {them} yet"),
            1 => format!("1 rank waits for {them}"),
            waiting => format!("{waiting} ranks wait for {them}"),
        });
    }
    parts.join("; ")
}

/// Describes what the culprits do, in one clause if they all do the same.
fn activities(culprits: &[KnownRank<'_>], kind: JobKind) -> String {
    let Some(longest) = culprits.iter().max_by(|a, b| a.reading.phase_seconds.total_cmp(&b.reading.phase_seconds))
    else {
        return String::new();
    };
    let (have, their) =
        if culprits.len() == 1 { ("it has", "its program has") } else { ("they have", "their programs have") };
    if culprits.iter().all(|rank| rank.reading.pid == 0) {
        return format!("{their} not begun in {}", seconds(longest.reading.phase_seconds));
    }
    if culprits.iter().all(|rank| rank.reading.phase == longest.reading.phase) {
        return format!("{have} been {}", activity(longest.reading, kind));
    }
    let each = culprits.iter().map(|rank| format!("rank {} has been {}", rank.view.rank, activity(rank.reading, kind)));
    first_few(each.collect())
}

/// Returns what culprits wait for, if that is known: " (7.tar: 3.jpg)", or with their numbers if there are several culprits.
fn awaited(culprits: &[KnownRank<'_>]) -> String {
    let known = culprits.iter().filter(|rank| !rank.reading.awaited.is_empty());
    // The name of a file may have characters that control a terminal.
    let each = known.map(|rank| match printable(&rank.reading.awaited) {
        awaited if culprits.len() == 1 => awaited.into_owned(),
        awaited => format!("rank {}: {awaited}", rank.view.rank),
    });
    match each.take(MAX_NAMED).collect::<Vec<_>>().join(", ") {
        all if all.is_empty() => all,
        all => format!(" ({all})"),
    }
}

/// Describes the states of the culprits' processes that explain something.
fn process_states(culprits: &[KnownRank<'_>]) -> Vec<String> {
    let said = |state: Option<char>| match state {
        Some('T' | 't') => Some(" stopped (SIGSTOP or a debugger)"),
        Some('D') => Some("D"),
        Some('Z' | 'X') => Some(" dead already, but was not taken away"),
        _ => None,
    };
    let mut parts = Vec::new();
    let mut by_state: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for culprit in culprits {
        if let Some(said) = said(culprit.view.state) {
            by_state.entry(said).or_default().push(culprit.view.rank.to_string());
        }
    }
    for (state, ranks) in by_state {
        let all = ranks.len() == culprits.len();
        let who = match (all, ranks.len()) {
            (true, 1) if state == "D" => "it".to_owned(),
            (true, _) if state == "D" => "they".to_owned(),
            (true, 1) => "its process".to_owned(),
            (true, _) => "their processes".to_owned(),
            (false, 1) => format!("rank {}", ranks[0]),
            (false, _) => format!("ranks {}", first_few(ranks.clone())),
        };
        let one = ranks.len() == 1;
        parts.push(if state == "D" {
            format!("{who} {} in a system call (driver or disk)", if one { "hangs" } else { "hang" })
        } else {
            format!("{who} {}{state}", if one { "is" } else { "are" })
        });
    }
    parts
}

pub(super) fn all_wait(known: &[KnownRank<'_>], kind: JobKind) -> String {
    let shortest = known.iter().map(|rank| rank.reading.phase_seconds).fold(f64::INFINITY, f64::min);
    let shortest = seconds(shortest);
    let hosts_of_all = hosts(known.iter().map(|rank| rank.view));
    let blame = match hosts_of_all.as_slice() {
        [host] => format!("the collective library, or what links the GPUs of {host}, is to blame"),
        hosts => format!("the network between {} or the collective library is to blame", first_few(hosts.to_vec())),
    };
    if known.iter().all(|rank| rank.reading.phase == Phase::End) {
        return format!("{} at the end of the run for {shortest} and cannot leave it; {blame}", all_stand(known.len()));
    }
    let mut places: BTreeMap<u64, Vec<&KnownRank<'_>>> = BTreeMap::new();
    for rank in known {
        places.entry(rank.entered()).or_default().push(rank);
    }
    if let (1, Some(rank)) = (places.len(), known.first()) {
        let place = place(rank.reading, kind);
        return format!("{} in {place} for {shortest} and none is late; {blame}", all_stand(known.len()));
    }
    // Some ranks have left a collective operation that others are still in. It broke there.
    let each = places.into_values().map(|ranks| {
        let place = place(ranks[0].reading, kind);
        let on = if ranks.len() * 2 <= known.len() {
            format!(" ({})", names(ranks.iter().map(|rank| rank.view)))
        } else {
            String::new()
        };
        format!("{} in {place}{on}", count(ranks.len(), "rank"))
    });
    format!("all ranks wait for {shortest} and none is late: {}; {blame}", list(&each.collect::<Vec<_>>()))
}

fn all_stand(ranks: usize) -> String {
    if ranks == 1 { "the only rank stands".to_owned() } else { format!("all {ranks} ranks stand") }
}
