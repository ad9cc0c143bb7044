//! The hosts and ranks with which a run begins, after the hosts were examined.

use crate::hosts::Host;
use crate::job::Work;

/// The result of the preflight.
#[derive(Debug, Clone, Copy)]
pub struct Examined<'a> {
    /// All hosts, with the number of ranks that each can take.
    pub hosts: &'a [Host],
    /// The names of the hosts that cannot be used.
    pub bad: &'a [String],
    /// Whether no finding is bad.
    pub is_good: bool,
    /// Whether a bad finding names no host, or every host.
    pub is_bad_everywhere: bool,
}

/// The user's demands.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    /// The number of ranks; if it is not given, as many as all hosts take.
    pub ranks: Option<usize>,
    /// The run does not start with fewer ranks.
    pub min_ranks: usize,
    /// If given, bad hosts are left out as long as this many hosts remain.
    pub allow_fewer_hosts: Option<usize>,
    /// What the ranks do.
    pub work: Work,
}

/// The hosts and ranks of the first attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The hosts that are left.
    pub hosts: Vec<Host>,
    /// The number of ranks.
    pub world: usize,
}

/// Returns the hosts and the number of ranks with which the run begins. What differs from the demand is added to
/// `notes`, for people.
///
/// # Errors
/// If the run may not start on these hosts: the reason, for people.
pub fn admit(examined: Examined<'_>, demand: Demand, notes: &mut Vec<String>) -> Result<Admitted, String> {
    let slots = |hosts: &[Host]| hosts.iter().map(|host| host.slots).sum::<usize>();
    let wanted = demand.ranks.unwrap_or_else(|| slots(examined.hosts));
    if !examined.is_good && (examined.bad.is_empty() || examined.is_bad_everywhere) {
        return Err("the run would fail; see above".to_owned());
    }
    let mut hosts = examined.hosts.to_vec();
    if !examined.bad.is_empty() {
        hosts.retain(|host| !examined.bad.contains(&host.name));
        match demand.allow_fewer_hosts {
            Some(least) if hosts.len() >= least.max(1) => {
                notes.push(format!("goes on without {}", examined.bad.join(", ")));
            }
            Some(least) => return Err(format!("{} of at least {least} hosts are good", hosts.len())),
            None => return Err(cannot_be_used(examined.bad, hosts.len())),
        }
    }
    let available = slots(&hosts);
    if wanted <= available {
        return Ok(Admitted { hosts, world: wanted });
    }
    let largest = demand.work.largest_world(available);
    match largest.filter(|&world| world >= demand.min_ranks && demand.allow_fewer_hosts.is_some()) {
        Some(world) => {
            let batch = if demand.work == Work::Sample { "" } else { ", with the same global batch" };
            notes.push(format!("{world} ranks instead of {wanted}{batch}"));
            Ok(Admitted { hosts, world })
        }
        None => Err(format!("{wanted} ranks are wanted, and the hosts that are good take {available}")),
    }
}

/// Returns the advice on bad hosts when `left` others remain.
fn cannot_be_used(names: &[String], left: usize) -> String {
    let them = if names.len() == 1 { "it" } else { "them" };
    let without = match left {
        0 => String::new(),
        least => format!(", leave {them} out, or go on without {them}: --allow-fewer-hosts {least}"),
    };
    format!("{} cannot be used; mend that{without}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMAND: Demand = Demand {
        ranks: None,
        min_ranks: 1,
        allow_fewer_hosts: None,
        work: Work::Train { global_batch: 64, microbatch: 4 },
    };

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// Admits to three hosts of four ranks each: n0, n1, n2.
    fn admitted(bad: &[&str], demand: Demand) -> Result<(Vec<String>, usize, Vec<String>), String> {
        let host = |place: usize| Host { name: format!("n{place}"), slots: 4, slots_given: true };
        let (hosts, bad) = ((0..3).map(host).collect::<Vec<_>>(), names(bad));
        let examined = Examined { hosts: &hosts, bad: &bad, is_good: bad.is_empty(), is_bad_everywhere: false };
        let mut notes = Vec::new();
        let admitted = admit(examined, demand, &mut notes)?;
        Ok((admitted.hosts.into_iter().map(|host| host.name).collect(), admitted.world, notes))
    }

    #[test]
    fn good_hosts_are_all_admitted() {
        let all = names(&["n0", "n1", "n2"]);
        assert_eq!(admitted(&[], DEMAND), Ok((all.clone(), 12, vec![])));
        assert_eq!(admitted(&[], Demand { ranks: Some(8), ..DEMAND }), Ok((all, 8, vec![])));
    }

    #[test]
    fn bad_hosts_are_left_out_only_on_demand() {
        let refused = admitted(&["n1"], DEMAND);
        assert_eq!(
            refused,
            Err("n1 cannot be used; mend that, leave it out, or go on without it: --allow-fewer-hosts 2".into())
        );
        let allowed = |least| Demand { allow_fewer_hosts: Some(least), ..DEMAND };
        let notes = names(&["goes on without n1", "8 ranks instead of 12, with the same global batch"]);
        assert_eq!(admitted(&["n1"], allowed(2)), Ok((names(&["n0", "n2"]), 8, notes)));
        assert_eq!(admitted(&["n1"], allowed(3)), Err("2 of at least 3 hosts are good".into()));
    }

    #[test]
    fn a_sampling_job_takes_all_ranks_of_the_good_hosts() {
        let demand = Demand { ranks: Some(11), allow_fewer_hosts: Some(1), work: Work::Sample, ..DEMAND };
        let notes = names(&["goes on without n1", "8 ranks instead of 11"]);
        assert_eq!(admitted(&["n1"], demand), Ok((names(&["n0", "n2"]), 8, notes)));
    }

    #[test]
    fn spare_hosts_take_the_place_of_bad_ones() {
        let demand = Demand { ranks: Some(8), allow_fewer_hosts: Some(1), ..DEMAND };
        assert_eq!(admitted(&["n0"], demand), Ok((names(&["n1", "n2"]), 8, names(&["goes on without n0"]))));
    }

    #[test]
    fn too_few_ranks_are_refused() {
        let demand = Demand { min_ranks: 12, allow_fewer_hosts: Some(1), ..DEMAND };
        let refused = Err("12 ranks are wanted, and the hosts that are good take 8".into());
        assert_eq!(admitted(&["n0"], demand), refused);
    }

    #[test]
    fn a_problem_of_no_host_in_particular_is_refused() {
        let examined = Examined { hosts: &[], bad: &[], is_good: false, is_bad_everywhere: false };
        assert_eq!(admit(examined, DEMAND, &mut Vec::new()), Err("the run would fail; see above".into()));
    }

    #[test]
    fn the_advice_on_bad_hosts_is_possible() {
        assert_eq!(
            cannot_be_used(&names(&["n7"]), 2),
            "n7 cannot be used; mend that, leave it out, or go on without it: --allow-fewer-hosts 2"
        );
        assert_eq!(cannot_be_used(&names(&["n7", "n8"]), 0), "n7, n8 cannot be used; mend that");
    }
}
