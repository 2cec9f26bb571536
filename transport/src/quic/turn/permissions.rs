//! For which addresses an allocation has permissions. No I/O, no clock.
//!
//! A server grants so many per allocation, and all attempts share it: each has its own few, which are
//! given back when it is over.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::quic::routes::Id;

/// Addresses of one attempt: twenty candidates, and a few that routers make of them.
const EACH: usize = 24;
/// Addresses of all attempts.
const ALL: usize = 512;
/// Pause before a permission is asked for again: checks come many times a second.
const AGAIN: Duration = Duration::from_secs(10);

/// Whether an attempt may send to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// As before.
    Known,
    /// The first attempt to do so: the server may not know.
    New,
    /// It has too many, all have, or the server does not want it.
    No,
}

/// How many attempts send to an address, and when a permission was asked for.
#[derive(Debug, Default)]
struct Use {
    attempts: usize,
    asked: Option<Instant>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Permissions {
    of: HashMap<Id, BTreeSet<IpAddr>>,
    used: HashMap<IpAddr, Use>,
    refused: HashMap<IpAddr, Instant>,
}

impl Permissions {
    /// An attempt sends to an address.
    pub(super) fn admit(&mut self, id: Id, ip: IpAddr, now: Instant) -> Admission {
        let known = self.used.contains_key(&ip);
        let own = self.of.get(&id);
        if own.is_some_and(|own| own.contains(&ip)) {
            return Admission::Known;
        }
        let room = own.is_none_or(|own| own.len() < EACH) && (known || self.used.len() < ALL);
        let refused = self.refused.get(&ip).is_some_and(|at| now < *at + AGAIN);
        if !room || refused {
            return Admission::No;
        }
        self.of.entry(id).or_default().insert(ip);
        self.used.entry(ip).or_default().attempts += 1;
        if known { Admission::Known } else { Admission::New }
    }

    /// Whether to ask the server for a permission now; it is taken to be asked.
    pub(super) fn ask(&mut self, ip: IpAddr, now: Instant) -> bool {
        let Some(used) = self.used.get_mut(&ip) else { return false };
        let due = used.asked.is_none_or(|at| now >= at + AGAIN);
        if due {
            used.asked = Some(now);
        }
        due
    }

    /// Whether any attempt sends there: only then a permission is kept.
    pub(super) fn is_used(&self, ip: IpAddr) -> bool {
        self.used.contains_key(&ip)
    }

    /// The server does not want it (403, RFC 8656 section 9.3), or not any more: it takes nobody's place.
    pub(super) fn refused(&mut self, ip: IpAddr, now: Instant) {
        if self.used.remove(&ip).is_none() {
            return;
        }
        self.of.retain(|_, own| {
            own.remove(&ip);
            !own.is_empty()
        });
        if self.refused.len() >= ALL {
            self.refused.retain(|_, at| now < *at + AGAIN);
        }
        if self.refused.len() < ALL {
            self.refused.insert(ip, now);
        }
    }

    /// An attempt is over.
    pub(super) fn release(&mut self, id: Id) {
        for ip in self.of.remove(&id).unwrap_or_default() {
            if let Some(used) = self.used.get_mut(&ip) {
                used.attempts = used.attempts.saturating_sub(1);
                if used.attempts == 0 {
                    self.used.remove(&ip);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: usize) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0xc633_0000 + u32::try_from(n).unwrap()).into()
    }

    #[test]
    fn one_attempt_does_not_take_everybodys() {
        let (mut all, now) = (Permissions::default(), Instant::now());
        let admitted = (0..1000).filter(|n| all.admit(Id(1), ip(*n), now) == Admission::New);
        assert_eq!(admitted.count(), EACH);
        assert_eq!(all.admit(Id(1), ip(0), now), Admission::Known);
        assert_eq!(all.admit(Id(2), ip(500), now), Admission::New);
        assert_eq!(all.admit(Id(2), ip(0), now), Admission::Known);
    }

    #[test]
    fn what_an_attempt_had_is_free_when_it_is_over() {
        let (mut all, now) = (Permissions::default(), Instant::now());
        for round in 0..100 {
            for n in 0..EACH {
                assert_eq!(all.admit(Id(round), ip(100 * n), now), Admission::New);
            }
            all.release(Id(round));
        }
        assert!(all.of.is_empty() && all.used.is_empty());
        for id in [1, 2] {
            all.admit(Id(id), ip(0), now);
        }
        all.release(Id(1));
        assert!(all.is_used(ip(0)), "the other one sends there");
        all.release(Id(2));
        assert!(!all.is_used(ip(0)));
    }

    #[test]
    fn a_full_table_is_full_for_new_addresses_alone() {
        let (mut all, now) = (Permissions::default(), Instant::now());
        for n in 0..ALL {
            assert_eq!(all.admit(Id((n / EACH) as u64), ip(n), now), Admission::New);
        }
        assert_eq!(all.admit(Id(100), ip(ALL), now), Admission::No);
        assert_eq!(all.admit(Id(100), ip(3), now), Admission::Known);
    }

    #[test]
    fn who_was_refused_takes_no_place_and_is_asked_for_again_later() {
        let (mut all, now) = (Permissions::default(), Instant::now());
        for n in 0..ALL {
            assert_eq!(all.admit(Id(1), ip(n), now), Admission::New);
            assert!(all.ask(ip(n), now) && !all.ask(ip(n), now));
            all.refused(ip(n), now);
            assert_eq!(all.admit(Id(1), ip(n), now), Admission::No);
        }
        assert!(all.of.is_empty() && all.used.is_empty());
        let later = now + AGAIN;
        assert_eq!(all.admit(Id(1), ip(0), later), Admission::New);
        assert!(all.ask(ip(0), later));
        all.refused(ip(9), later);
        assert_eq!(all.admit(Id(1), ip(9), later), Admission::New, "nobody had asked for it");
    }
}
