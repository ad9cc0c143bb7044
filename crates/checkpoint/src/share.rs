//! Which rank writes which parameters.

use std::cmp::Reverse;

/// For each parameter, given its size in bytes, the rank that writes it in every role.
///
/// Whole parameters, the largest first, each to the rank with least so far: every rank knows the answer without
/// asking. Ranks without any come last, so writers are `0..min(world_size, sizes.len())`.
#[must_use]
pub fn owners(sizes: &[u64], world_size: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&i| (Reverse(sizes[i]), i));
    // The number of parameters breaks ties, so that empty ones do not pile up on one rank.
    let mut loads = vec![(0_u64, 0_usize); world_size];
    let mut owners = vec![0; sizes.len()];
    for i in order {
        let rank = (0..world_size).min_by_key(|&rank| (loads[rank], rank)).unwrap_or(0);
        loads[rank].0 += sizes[i];
        loads[rank].1 += 1;
        owners[i] = rank;
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_balanced_by_bytes() {
        let sizes: Vec<u64> = (0..200).map(|i| 4 * (1 + (i * 7919) % 1000)).collect();
        for world_size in [1, 2, 3, 8] {
            let owners = owners(&sizes, world_size);
            let mut loads = vec![0; world_size];
            for (&owner, &size) in owners.iter().zip(&sizes) {
                loads[owner] += size;
            }
            let mean = sizes.iter().sum::<u64>() / world_size as u64;
            assert!(loads.iter().all(|load| load.abs_diff(mean) <= mean / 50), "{loads:?}");
        }
    }

    #[test]
    fn the_first_ranks_have_something_to_write() {
        assert_eq!(owners(&[4, 8, 4], 5), [1, 0, 2]);
        assert_eq!(owners(&[0, 0, 0], 2), [0, 1, 0]);
        assert!(owners(&[], 2).is_empty());
    }
}
