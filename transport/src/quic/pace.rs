//! How much is sent to addresses that have never answered: a peer may name a victim's. No I/O, no clock.
//!
//! One attempt sends so many checks to one IP address, and the attempts of a node share a pace for all
//! but the first checks of each: members that offer again and again, with all their names, make a node
//! send no more than that.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Checks of one attempt to one IP address that has never answered; so many again when a check comes
/// from there.
const EACH: u32 = 60;
/// Addresses of one attempt that are remembered: twenty candidates, and where checks came from.
const ADDRESSES: usize = 64;
/// Checks whose answers count: those of a second at full pace, and more.
const OPEN: usize = 256;
/// Checks of one attempt that need not wait for others': a member that uses up the pace keeps nobody
/// from a path.
const FIRST: u32 = 40;
/// The time between two checks of a node.
const INTERVAL: Duration = Duration::from_millis(5);
/// Checks of a node at once.
const BURST: u32 = 400;

/// A node's pace.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When all that was sent would have been sent at an even pace.
    even: Option<Instant>,
}

impl Pace {
    /// Whether one more check may be sent now; it is taken to be sent.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let even = self.even.map_or(now, |even| even.max(now));
        let room = even.saturating_duration_since(now) < INTERVAL * BURST;
        if room {
            self.even = Some(even + INTERVAL);
        }
        room
    }
}

/// What one attempt sent to whom without an answer.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    sent: HashMap<IpAddr, u32>,
    heard: HashSet<IpAddr>,
    answered: HashSet<IpAddr>,
    all: u32,
    open: VecDeque<([u8; 12], IpAddr)>,
}

impl Unanswered {
    /// Whether one more check may be sent there; it is taken to be sent.
    pub(super) fn send(&mut self, to: IpAddr, transaction: [u8; 12]) -> bool {
        if self.has_answered(to) {
            return true;
        }
        if !self.sent.contains_key(&to) && self.sent.len() >= ADDRESSES {
            return false;
        }
        let sent = self.sent.entry(to).or_default();
        let most = if self.heard.contains(&to) { 2 * EACH } else { EACH };
        let room = *sent < most;
        if room {
            *sent += 1;
            self.all = self.all.saturating_add(1);
            if self.open.len() >= OPEN {
                self.open.pop_front();
            }
            self.open.push_back((transaction, to));
        }
        room
    }

    /// Whether what was sent there last need not keep the node's pace. Loopback is no stranger's.
    pub(super) fn is_free(&self, to: IpAddr) -> bool {
        self.has_answered(to) || to.is_loopback() || self.all <= FIRST
    }

    fn has_answered(&self, ip: IpAddr) -> bool {
        self.answered.contains(&ip)
    }

    /// A check came from there. Who sends it may have forged that.
    pub(super) fn heard(&mut self, from: IpAddr) {
        if self.heard.len() < ADDRESSES {
            self.heard.insert(from);
        }
    }

    /// A check of ours was answered from there. Only who got the check counts: the peer could answer one
    /// of its own in a victim's name.
    pub(super) fn answered(&mut self, from: IpAddr, transaction: [u8; 12]) {
        let asked = self.open.contains(&(transaction, from));
        if asked && self.answered.len() < ADDRESSES {
            self.answered.insert(from);
            self.open.retain(|(_, to)| *to != from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([198, 51, 100, n])
    }

    #[test]
    fn a_victim_gets_so_many_of_an_attempt_and_who_answers_all() {
        let mut sent = Unanswered::default();
        let many = |sent: &mut Unanswered| (0..100).filter(|n| sent.send(ip(1), [*n; 12])).count();
        assert_eq!(many(&mut sent), 60);
        sent.heard(ip(1));
        assert_eq!(many(&mut sent), 60);
        sent.heard(ip(1));
        assert_eq!(many(&mut sent), 0, "a forged check makes it no more than twice that");
        assert!(sent.send(ip(2), [200; 12]));
        sent.answered(ip(1), [200; 12]);
        sent.answered(ip(1), [201; 12]);
        assert_eq!(many(&mut sent), 0, "another one was asked");
        sent.answered(ip(1), [7; 12]);
        assert_eq!(many(&mut sent), 100);
        let others = (3..=255).filter(|n| sent.send(ip(*n), [*n; 12])).count();
        assert_eq!(others, ADDRESSES - 2);
        assert!(sent.open.len() <= OPEN);
    }

    #[test]
    fn the_first_checks_of_an_attempt_wait_for_nobody() {
        let mut sent = Unanswered::default();
        let free = (0..100).filter(|n| sent.send(ip(n % 20), [*n; 12]) && sent.is_free(ip(n % 20)));
        assert_eq!(free.count(), 40);
        sent.answered(ip(3), [3; 12]);
        assert!(sent.is_free(ip(3)) && !sent.is_free(ip(4)));
        assert!(sent.is_free(IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn a_node_sends_a_burst_and_then_an_even_pace() {
        let (mut pace, start) = (Pace::default(), tokio::time::Instant::now().into_std());
        let mut sent = 0;
        for millis in 0..60_000 {
            let now = start + Duration::from_millis(millis);
            sent += (0..10).filter(|_| pace.take(now)).count();
        }
        assert!((12_390..=12_400).contains(&sent), "{sent} in a minute");
        let later = start + Duration::from_secs(120);
        assert_eq!((0..1000).filter(|_| pace.take(later)).count(), 400);
    }
}
