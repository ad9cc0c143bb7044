//! The place of each rank. Ranks fill the hosts in order, and each uses the GPU with the number of its local rank.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::hosts::Host;

/// The place of a rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The rank, from 0.
    pub rank: usize,
    /// The host, as the host list names it.
    pub host: String,
    /// The rank's number among those of its host, from 0; also the number of its GPU.
    pub local_rank: usize,
}

/// The places of all ranks of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The hosts with ranks, in the order of their ranks, and the number of ranks of each.
    pub hosts: Vec<(String, usize)>,
    /// The place of each rank, by rank.
    pub placements: Vec<Placement>,
}

/// There is no layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// No ranks were requested.
    #[error("a run has at least one rank")]
    Empty,
    /// The hosts have too few slots.
    #[error(
        "{world} ranks need {world} slots, and there are {available}: {hosts}; ask for fewer with --np, or name more \
         hosts"
    )]
    TooFew {
        /// The number of ranks.
        world: usize,
        /// The slots of all hosts.
        available: usize,
        /// The hosts and their slots.
        hosts: String,
    },
}

/// The place that a rank's process reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// Its rank, from MPI.
    pub rank: usize,
    /// The name that its host gives itself.
    pub host: String,
    /// Its local rank, from MPI.
    pub local_rank: usize,
    /// Its GPU: the entry of its host's `CUDA_VISIBLE_DEVICES`, or the number; `None` without one.
    pub gpu: Option<String>,
}

/// Ranks are not where they were planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misplaced {
    /// A rank did not report, reported twice, or is not one of the run.
    #[error("rank {rank} reported {times} times: each of the ranks 0 to {last} has to report once")]
    Count {
        /// The rank.
        rank: usize,
        /// The number of its reports.
        times: usize,
        /// The last rank of the run.
        last: usize,
    },
    /// Two ranks use one GPU.
    #[error(
        "ranks {first} and {second} both use GPU {gpu} of {host}: CUDA_VISIBLE_DEVICES or the ranks of this host are \
         wrong"
    )]
    SharedGpu {
        /// One rank.
        first: usize,
        /// The other rank.
        second: usize,
        /// Their GPU.
        gpu: String,
        /// Their host.
        host: String,
    },
    /// Two names of the host list are one machine.
    #[error("{first} and {second} are one machine, which calls itself {host}: name it once")]
    OneMachine {
        /// One name.
        first: String,
        /// The other name.
        second: String,
        /// The name that the machine gives itself.
        host: String,
    },
    /// A rank is on another host, or has another local rank.
    #[error(
        "rank {rank} is on {host} as its number {local_rank}, and was planned for {planned_host} as number \
         {planned_local_rank}: mpirun places ranks in another way than the launcher asked for; look for rmaps settings \
         in OMPI_MCA_* variables and in openmpi-mca-params.conf"
    )]
    Elsewhere {
        /// The rank.
        rank: usize,
        /// Its actual host.
        host: String,
        /// Its actual local rank.
        local_rank: usize,
        /// Its planned host.
        planned_host: String,
        /// Its planned local rank.
        planned_local_rank: usize,
    },
}

impl Layout {
    /// Places `world` ranks on the first `hosts` that have room for them.
    ///
    /// # Errors
    /// If there are no ranks, or more than slots.
    pub fn new(hosts: &[Host], world: usize) -> Result<Self, LayoutError> {
        Self::with_first(hosts, world, |_| false)
    }

    /// Like [`Layout::new`], but among the hosts that are used, those for which `is_first` holds come first. `mpirun`
    /// places the first ranks on its own machine, whatever the order of its host list.
    ///
    /// # Errors
    /// As [`Layout::new`].
    pub fn with_first(hosts: &[Host], world: usize, is_first: impl Fn(&str) -> bool) -> Result<Self, LayoutError> {
        if world == 0 {
            return Err(LayoutError::Empty);
        }
        let available = hosts.iter().fold(0_usize, |sum, host| sum.saturating_add(host.slots));
        if available < world {
            let hosts = hosts.iter().map(|host| format!("{}:{}", host.name, host.slots)).collect::<Vec<_>>().join(", ");
            return Err(LayoutError::TooFew { world, available, hosts });
        }
        let mut left = world;
        let mut taken = Vec::new();
        for host in hosts {
            let ranks = host.slots.min(left);
            if ranks > 0 {
                taken.push((host.name.clone(), ranks));
                left -= ranks;
            }
        }
        taken.sort_by_key(|(name, _)| !is_first(name));
        Ok(Self::of(taken))
    }

    /// Places one process on each host, to examine the hosts themselves.
    #[must_use]
    pub fn one_per_host(hosts: &[Host], is_first: impl Fn(&str) -> bool) -> Self {
        let mut hosts: Vec<_> = hosts.iter().map(|host| (host.name.clone(), 1)).collect();
        hosts.sort_by_key(|(name, _)| !is_first(name));
        Self::of(hosts)
    }

    fn of(hosts: Vec<(String, usize)>) -> Self {
        let places = hosts.iter().flat_map(|(host, ranks)| (0..*ranks).map(move |local_rank| (host, local_rank)));
        let placements =
            places.enumerate().map(|(rank, (host, local_rank))| Placement { rank, host: host.clone(), local_rank });
        Self { placements: placements.collect(), hosts }
    }

    /// Returns the number of ranks.
    #[must_use]
    pub fn world(&self) -> usize {
        self.placements.len()
    }

    /// Returns a line for each host: its ranks, and their GPUs, which have the numbers of the local ranks.
    #[must_use]
    pub fn by_host(&self) -> String {
        let range = |numbers: &[usize]| match numbers {
            [] => String::new(),
            [one] => one.to_string(),
            [first, .., last] => format!("{first} to {last}"),
        };
        let line = |(host, _): &(String, usize)| {
            let of = self.placements.iter().filter(|placement| placement.host == *host);
            let (ranks, gpus): (Vec<_>, Vec<_>) = of.map(|placement| (placement.rank, placement.local_rank)).unzip();
            let plural = if ranks.len() == 1 { "" } else { "s" };
            format!("{host}: rank{plural} {}, local rank{plural} = GPU{plural} {}", range(&ranks), range(&gpus))
        };
        self.hosts.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Returns a line for each rank: rank, host, local rank and GPU.
    #[must_use]
    pub fn table(&self) -> String {
        let width = self.hosts.iter().map(|(host, _)| host.len()).max().unwrap_or(0).max("host".len());
        let mut table = format!("rank  {:width$}  local rank = GPU\n", "host");
        for Placement { rank, host, local_rank } in &self.placements {
            let _ = writeln!(table, "{rank:>4}  {host:width$}  {local_rank:>16}");
        }
        table
    }
}

/// Checks the reported places against the layout. A host's own name may differ from the one in the list, which may be
/// an address or an alias, so the check compares which ranks share a machine.
///
/// # Errors
/// If something is wrong: the first problem.
pub fn check_reported(layout: &Layout, reported: &[Reported]) -> Result<(), Misplaced> {
    check_complete(layout, reported)?;
    check_hosts(layout, reported)?;
    let mut users = HashMap::new();
    for report in reported {
        let Some(gpu) = &report.gpu else { continue };
        if let Some(first) = users.insert((&report.host, gpu), report.rank) {
            let (first, second) = (first.min(report.rank), first.max(report.rank));
            return Err(Misplaced::SharedGpu { first, second, gpu: gpu.clone(), host: report.host.clone() });
        }
    }
    Ok(())
}

fn check_complete(layout: &Layout, reported: &[Reported]) -> Result<(), Misplaced> {
    let last = layout.world() - 1;
    let mut times = vec![0; layout.world()];
    for report in reported {
        match times.get_mut(report.rank) {
            Some(times) => *times += 1,
            None => return Err(Misplaced::Count { rank: report.rank, times: 1, last }),
        }
    }
    match times.iter().position(|&times| times != 1) {
        Some(rank) => Err(Misplaced::Count { rank, times: times[rank], last }),
        None => Ok(()),
    }
}

/// Checks that ranks share a machine exactly where planned. A machine whose own name is another host of the list is
/// that other host.
fn check_hosts(layout: &Layout, reported: &[Reported]) -> Result<(), Misplaced> {
    let mut planned_of = HashMap::new();
    let mut own_of = HashMap::new();
    for report in reported {
        let planned = &layout.placements[report.rank];
        let is_anothers = report.host != planned.host && layout.hosts.iter().any(|(name, _)| *name == report.host);
        let own = *own_of.entry(&planned.host).or_insert(&report.host);
        if report.local_rank != planned.local_rank || is_anothers || own != &report.host {
            return Err(Misplaced::Elsewhere {
                rank: report.rank,
                host: report.host.clone(),
                local_rank: report.local_rank,
                planned_host: planned.host.clone(),
                planned_local_rank: planned.local_rank,
            });
        }
        let first = *planned_of.entry(&report.host).or_insert(&planned.host);
        if *first != planned.host {
            let (first, second) = (first.clone(), planned.host.clone());
            return Err(Misplaced::OneMachine { first, second, host: report.host.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn hosts(slots: &[usize]) -> Vec<Host> {
        let host = |(i, &slots): (usize, &usize)| Host { name: format!("n{i}"), slots, slots_given: true };
        slots.iter().enumerate().map(host).collect()
    }

    /// Returns reports of all ranks at their planned places, where each host calls itself by its `own` name.
    fn reports(layout: &Layout, own: impl Fn(&str) -> String) -> Vec<Reported> {
        let report = |place: &Placement| Reported {
            rank: place.rank,
            host: own(&place.host),
            local_rank: place.local_rank,
            gpu: Some(place.local_rank.to_string()),
        };
        layout.placements.iter().map(report).collect()
    }

    #[test]
    fn ranks_fill_hosts_in_order() {
        let layout = Layout::new(&hosts(&[2, 3, 1]), 4).unwrap();
        assert_eq!(layout.hosts, [("n0".to_owned(), 2), ("n1".to_owned(), 2)]);
        assert_eq!(layout.placements[3], Placement { rank: 3, host: "n1".to_owned(), local_rank: 1 });
        assert_eq!(layout.table().lines().nth(3).unwrap(), "   2  n1                   0");
        let map = "n0: ranks 0 to 1, local ranks = GPUs 0 to 1\nn1: rank 2, local rank = GPU 0";
        assert_eq!(Layout::new(&hosts(&[2, 3, 1]), 3).unwrap().by_host(), map);
    }

    #[test]
    fn mpiruns_machine_comes_first_if_it_has_ranks() {
        let here = |name: &str| name == "n1";
        let layout = Layout::with_first(&hosts(&[2, 3, 1]), 4, here).unwrap();
        assert_eq!(layout.hosts, [("n1".to_owned(), 2), ("n0".to_owned(), 2)]);
        // A spare host gets no ranks.
        let layout = Layout::with_first(&hosts(&[2, 3, 1]), 2, here).unwrap();
        assert_eq!(layout.hosts, [("n0".to_owned(), 2)]);
        let hosts = Layout::one_per_host(&hosts(&[2, 3, 1]), here).hosts;
        assert_eq!(hosts, ["n1", "n0", "n2"].map(|name| (name.to_owned(), 1)));
    }

    #[test]
    fn more_ranks_than_slots_are_refused() {
        assert_eq!(Layout::new(&hosts(&[2]), 0), Err(LayoutError::Empty));
        let message = Layout::new(&hosts(&[2, 3]), 6).unwrap_err().to_string();
        assert!(message.starts_with("6 ranks need 6 slots, and there are 5: n0:2, n1:3;"), "{message}");
    }

    #[test]
    fn misplaced_ranks_are_found() {
        let layout = Layout::new(&hosts(&[2, 2]), 4).unwrap();
        let as_planned = reports(&layout, |name| format!("node-{name}"));
        check_reported(&layout, &as_planned).unwrap();
        let changed = |change: &dyn Fn(&mut Vec<Reported>)| {
            let mut reported = as_planned.clone();
            change(&mut reported);
            check_reported(&layout, &reported).unwrap_err().to_string()
        };
        let shared = changed(&|ranks| ranks[3].gpu = Some("0".to_owned()));
        assert!(shared.starts_with("ranks 2 and 3 both use GPU 0 of node-n1"), "{shared}");
        let missing = changed(&|ranks| drop(ranks.pop()));
        assert!(missing.starts_with("rank 3 reported 0 times"), "{missing}");
        let foreign = changed(&|ranks| ranks[0].rank = 4);
        assert!(foreign.starts_with("rank 4 reported 1 times: each of the ranks 0 to 3"), "{foreign}");
        let moved = changed(&|ranks| ranks[1].host = "node-n1".to_owned());
        assert!(moved.starts_with("rank 1 is on node-n1 as its number 1, and was planned for n0"), "{moved}");
        let numbered = changed(&|ranks| ranks[1].local_rank = 2);
        assert!(numbered.starts_with("rank 1 is on node-n0 as its number 2"), "{numbered}");
        let one = changed(&|ranks| ranks.iter_mut().for_each(|rank| rank.host = "x".to_owned()));
        assert!(one.starts_with("n0 and n1 are one machine, which calls itself x"), "{one}");
        let swapped = reports(&layout, |name| if name == "n0" { "n1".to_owned() } else { "n0".to_owned() });
        assert!(matches!(check_reported(&layout, &swapped), Err(Misplaced::Elsewhere { rank: 0, .. })));
    }

    proptest! {
        #[test]
        fn every_rank_has_its_own_place(
            slots in prop::collection::vec(0_usize..9, 1..12),
            part in 0.0..1.0,
            here in 0_usize..12,
        ) {
            let hosts = hosts(&slots);
            let available: usize = slots.iter().sum();
            let world = (available as f64 * part) as usize + 1;
            let layout = Layout::with_first(&hosts, world, |name| name == format!("n{here}"));
            if world > available {
                prop_assert!(layout.is_err());
                return Ok(());
            }
            let layout = layout.unwrap();
            prop_assert!(layout.placements.iter().enumerate().all(|(rank, place)| place.rank == rank));
            prop_assert_eq!(layout.hosts.iter().map(|(_, ranks)| ranks).sum::<usize>(), world);
            let mut places: Vec<_> = layout.placements.iter().map(|place| (&place.host, place.local_rank)).collect();
            // The ranks of a host are consecutive.
            let follows = |a: &(&String, usize), b: &(&String, usize)| a.0 != b.0 && b.1 == 0 || a.1 + 1 == b.1;
            prop_assert!(places.windows(2).all(|pair| follows(&pair[0], &pair[1])));
            places.sort();
            places.dedup();
            prop_assert_eq!(places.len(), world);
            for (name, ranks) in &layout.hosts {
                let host = hosts.iter().find(|host| host.name == *name).unwrap();
                prop_assert!(0 < *ranks && *ranks <= host.slots);
            }
            // A host is used only when those before it in the list are full.
            let is_full = |host: &&Host| host.slots == 0 || layout.hosts.contains(&(host.name.clone(), host.slots));
            let full = hosts.iter().take_while(is_full).count();
            let is_taken = |host: &Host| layout.hosts.iter().any(|(name, _)| *name == host.name);
            prop_assert!(!hosts.iter().skip(full + 1).any(is_taken));
            check_reported(&layout, &reports(&layout, str::to_owned)).unwrap();
        }
    }
}
