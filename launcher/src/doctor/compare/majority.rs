//! Finds hosts that differ from most others.

/// Hosts with different values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Deviation<'a, T> {
    /// The most frequent value.
    pub(super) usual: &'a T,
    /// The hosts that have it.
    pub(super) usual_hosts: Vec<String>,
    /// The other values with their hosts.
    pub(super) others: Vec<(&'a T, Vec<String>)>,
}

/// Returns `None` if all values are equal. Of two equally frequent values, the first host's counts as the usual one.
pub(super) fn deviations<'a, T: PartialEq>(
    all: impl IntoIterator<Item = (&'a str, &'a T)>,
) -> Option<Deviation<'a, T>> {
    let mut groups: Vec<(&T, Vec<String>)> = Vec::new();
    for (host, thing) in all {
        match groups.iter_mut().find(|(known, _)| *known == thing) {
            Some((_, hosts)) => hosts.push(host.to_owned()),
            None => groups.push((thing, vec![host.to_owned()])),
        }
    }
    if groups.len() < 2 {
        return None;
    }
    let most = groups.iter().map(|(_, hosts)| hosts.len()).max()?;
    let usual = groups.iter().position(|(_, hosts)| hosts.len() == most)?;
    let (usual, usual_hosts) = groups.remove(usual);
    Some(Deviation { usual, usual_hosts, others: groups })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_majority_and_the_deviations_are_separated() {
        let all = [("a", &1), ("b", &2), ("c", &2), ("d", &3)];
        let found = deviations(all).unwrap();
        assert_eq!((found.usual, found.usual_hosts), (&2, vec!["b".to_owned(), "c".into()]));
        assert_eq!(found.others, [(&1, vec!["a".to_owned()]), (&3, vec!["d".into()])]);
        assert_eq!(deviations([("a", &1), ("b", &2)]).unwrap().usual, &1);
        assert_eq!(deviations([("a", &1), ("b", &1)]), None);
        assert_eq!(deviations::<i32>([]), None);
    }

    proptest! {
        #[test]
        fn every_host_is_in_one_group_and_the_usual_one_is_the_largest(
            things in prop::collection::vec(0_u8..4, 0..12)
        ) {
            let names: Vec<String> = (0..things.len()).map(|number| format!("n{number}")).collect();
            let all = names.iter().map(String::as_str).zip(&things);
            match deviations(all) {
                None => prop_assert!(things.windows(2).all(|pair| pair[0] == pair[1])),
                Some(found) => {
                    prop_assert!(found.others.iter().all(|(_, hosts)| hosts.len() <= found.usual_hosts.len()));
                    let mut hosts = found.usual_hosts;
                    hosts.extend(found.others.into_iter().flat_map(|(_, hosts)| hosts));
                    hosts.sort();
                    let mut names = names;
                    names.sort();
                    prop_assert_eq!(hosts, names);
                }
            }
        }
    }
}
