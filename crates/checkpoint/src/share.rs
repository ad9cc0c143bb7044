//! Assigns the parameters to the ranks that write them.

use std::cmp::Reverse;

/// Returns for each parameter the rank that writes it in every role. `sizes` has the size of each parameter in bytes.
///
/// Parameters are not split. They are assigned from the largest to the smallest, each to the rank with the fewest bytes so
/// far. Every rank computes the same result. The ranks that write anything are `0..min(world_size, sizes.len())`.
#[must_use]
pub fn owners(sizes: &[u64], world_size: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&i| (Reverse(sizes[i]), i));
    // The number of parameters breaks ties, so that empty parameters are spread over the ranks.
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
    fn only_the_first_ranks_write_if_there_are_few_parameters() {
        assert_eq!(owners(&[4, 8, 4], 5), [1, 0, 2]);
        assert_eq!(owners(&[0, 0, 0], 2), [0, 1, 0]);
        assert!(owners(&[], 2).is_empty());
    }
}
