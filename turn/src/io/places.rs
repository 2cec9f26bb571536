//! Places for streams: so many in all, and a part of them for one network, so that none takes all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

/// One network gets one place in so many, rounded up.
const SHARE: usize = 8;

/// Places that are free or taken.
#[derive(Debug)]
pub(super) struct Places {
    all: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// A place, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    network: IpAddr,
}

impl Places {
    pub(super) fn new(all: usize) -> Arc<Self> {
        Arc::new(Self { all, taken: Mutex::default() })
    }

    /// A place for a stream from `client`, if there is one.
    pub(super) fn take(self: &Arc<Self>, client: SocketAddr) -> Option<Place> {
        let network = network(client.ip());
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // At most one entry for each place, so that the sum is quickly made.
        if taken.values().sum::<usize>() >= self.all {
            return None;
        }
        let mine = taken.entry(network).or_default();
        if *mine >= self.all.div_ceil(SHARE) {
            return None;
        }
        *mine += 1;
        Some(Place { places: self.clone(), network })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = taken.get_mut(&self.network) {
            *mine = mine.saturating_sub(1);
            if *mine == 0 {
                taken.remove(&self.network);
            }
        }
    }
}

/// An IPv4 address, or the /64 in which a host has all addresses.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_takes_a_part_and_all_together_the_whole() {
        let places = Places::new(16);
        let from = |text: &str| text.parse::<SocketAddr>().unwrap();
        let mut held = vec![places.take(from("[2001:db8::1]:1")).unwrap()];
        held.push(places.take(from("[2001:db8::ffff:2]:1")).unwrap());
        assert!(places.take(from("[2001:db8::3]:9")).is_none(), "the same /64");
        held.push(places.take(from("[2001:db8:0:1::1]:1")).unwrap());
        for host in 0..13 {
            held.push(places.take(from(&format!("192.0.2.{host}:1"))).unwrap());
        }
        assert!(places.take(from("192.0.2.99:1")).is_none(), "all are taken");
        held.remove(0);
        let last = places.take(from("[::ffff:192.0.2.0]:2"));
        assert!(last.is_some());
        held.clear();
        drop(last);
        assert!(places.taken.lock().unwrap().is_empty());
    }
}
