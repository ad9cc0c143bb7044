//! A limit on connections whose other side has not proved itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The connections of strangers, by address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Strangers {
    counts: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

/// The place of a connection, given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    strangers: Strangers,
    address: IpAddr,
}

impl Strangers {
    /// The largest number of strangers from one address. All agents of a host connect at the same moment.
    pub(crate) const MAX_OF_ADDRESS: usize = 64;
    /// The largest number of all strangers.
    const MAX: usize = 4096;

    /// Gives a place to a connection from `address`; `None` if there is none left.
    pub(crate) fn admit(&self, address: IpAddr) -> Option<Place> {
        // A host has millions of loopback addresses, and an IPv6 network as many others.
        let address = if address.is_loopback() { IpAddr::from([127, 0, 0, 1]) } else { address };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.values().sum::<usize>() >= Self::MAX {
            return None;
        }
        let count = counts.entry(address).or_default();
        if *count >= Self::MAX_OF_ADDRESS {
            return None;
        }
        *count += 1;
        Some(Place { strangers: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.strangers.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_a_limited_number_of_places() {
        let strangers = Strangers::default();
        let address = |last| IpAddr::from([127, 0, 0, last]);
        let places: Vec<_> = (0..=Strangers::MAX_OF_ADDRESS).map(|n| strangers.admit(address(n as u8))).collect();
        assert_eq!(places.iter().filter(|place| place.is_some()).count(), Strangers::MAX_OF_ADDRESS);
        assert!(strangers.admit([10, 0, 0, 1].into()).is_some(), "another address has its own places");
        drop(places);
        assert!(strangers.admit(address(1)).is_some(), "they are free again");
    }
}
