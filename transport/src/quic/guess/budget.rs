//! How much a node guesses: see the limits in [`super`].

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meshwire_signaling::PublicKey;
use tokio::time::Instant;

use super::plan::PROBES;

/// Ends of a node in [`WINDOW`].
const MOST: u32 = 12 * PROBES;
const WINDOW: Duration = Duration::from_secs(3600);
/// Ends of a node in [`MEMORY`]: what its router remembers leaves room for everything else.
const AT_ONCE: u32 = 960;
/// How long routers remember what was sent once (RFC 4787, REQ-5: 5 minutes is recommended).
const MEMORY: Duration = Duration::from_secs(300);
/// A run with fewer probes is not worth the peer's sockets.
const WORTH: u32 = 512;
/// A run counts for no less than this.
const LEAST: u32 = 32;
/// The next run with a peer after one that came to nothing.
pub(super) const AFTER_MISS: Duration = Duration::from_secs(600);
/// The next run with a peer after one that worked.
const AFTER_HIT: Duration = Duration::from_secs(60);
/// How soon to ask again while another run goes on.
const BUSY: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct Budget {
    running: bool,
    /// When runs ended, and what they cost, the oldest first: no more than [`MOST`] / [`LEAST`].
    spent: VecDeque<(Instant, u32)>,
    /// Peers that have to wait, and until when: no more than have been in [`Self::spent`].
    waiting: HashMap<PublicKey, Instant>,
}

impl Budget {
    /// Begins a run of so many probes at most, or says when to ask again.
    fn begin(&mut self, now: Instant, peer: &PublicKey) -> Result<u32, Instant> {
        self.waiting.retain(|_, until| *until > now);
        while self.spent.front().is_some_and(|(at, _)| *at + WINDOW <= now) {
            self.spent.pop_front();
        }
        if let Some(until) = self.waiting.get(peer) {
            return Err(*until);
        }
        if self.running {
            return Err(now + BUSY);
        }
        let mut left = PROBES;
        for (window, most) in [(MEMORY, AT_ONCE), (WINDOW, MOST)] {
            let within = || self.spent.iter().filter(move |(at, _)| *at + window > now);
            let room = most.saturating_sub(within().map(|(_, ends)| ends).sum());
            if room < WORTH {
                return Err(within().next().map_or(now, |(at, _)| *at) + window);
            }
            left = left.min(room);
        }
        self.running = true;
        Ok(left)
    }

    fn end(&mut self, now: Instant, peer: PublicKey, ends: u32, hit: bool) {
        self.running = false;
        self.spent.push_back((now, ends.clamp(LEAST, PROBES)));
        self.waiting.insert(peer, now + if hit { AFTER_HIT } else { AFTER_MISS });
    }
}

/// A node's budget.
#[derive(Debug, Default)]
pub(in crate::quic) struct Guesses(Mutex<Budget>);

impl Guesses {
    /// Begins a run, which lasts until the permit is dropped, or says when to ask again.
    pub(super) fn begin(self: &Arc<Self>, peer: PublicKey) -> Result<Permit, Instant> {
        let mut budget = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let most = budget.begin(Instant::now(), &peer)?;
        let (spent, hit) = (Arc::default(), AtomicBool::new(false));
        Ok(Permit { guesses: Arc::clone(self), peer, most, spent, hit })
    }
}

/// A run that goes on.
#[derive(Debug)]
pub(super) struct Permit {
    guesses: Arc<Guesses>,
    peer: PublicKey,
    /// The easy side's probes at most.
    pub(super) most: u32,
    /// The easy side's probes so far, or the hard side's sockets.
    pub(super) spent: Arc<AtomicU32>,
    hit: AtomicBool,
}

impl Permit {
    /// It came true.
    pub(super) fn hit(&self) {
        self.hit.store(true, Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (spent, hit) = (self.spent.load(Ordering::Relaxed), *self.hit.get_mut());
        let mut budget = self.guesses.0.lock().unwrap_or_else(PoisonError::into_inner);
        budget.end(Instant::now(), self.peer, spent, hit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> PublicKey {
        PublicKey([n; 32])
    }

    #[test]
    fn one_at_a_time_and_not_too_often_with_one_peer() {
        let mut budget = Budget::default();
        let now = Instant::now();
        assert_eq!(budget.begin(now, &peer(1)), Ok(PROBES));
        assert_eq!(budget.begin(now, &peer(2)), Err(now + BUSY));
        budget.end(now, peer(1), 300, false);
        assert_eq!(budget.begin(now, &peer(1)), Err(now + AFTER_MISS));
        assert_eq!(budget.begin(now, &peer(2)), Ok(AT_ONCE - 300), "others need not wait");
        budget.end(now, peer(2), 100, true);
        assert_eq!(budget.begin(now, &peer(2)), Err(now + AFTER_HIT));
        let later = now + AFTER_HIT;
        assert_eq!(budget.begin(later, &peer(2)), Ok(AT_ONCE - 400));
        budget.end(later, peer(2), 100, true);
        assert_eq!(budget.begin(later, &peer(3)), Err(now + MEMORY), "the router has had enough");
        assert_eq!(budget.begin(now + AFTER_MISS, &peer(1)), Ok(PROBES));
    }

    #[test]
    fn so_many_an_hour_and_no_more_whoever_the_peers_are() {
        let mut budget = Budget::default();
        let start = Instant::now();
        let (mut now, mut sent) = (start, VecDeque::new());
        while now < start + 2 * WINDOW {
            for n in 0..=255 {
                if let Ok(most) = budget.begin(now, &peer(n)) {
                    budget.end(now, peer(n), most, false);
                    sent.push_back((now, most));
                }
            }
            for (window, most) in [(MEMORY, AT_ONCE), (WINDOW, MOST)] {
                let within = sent.iter().filter(|(at, _)| *at + window > now);
                let all: u32 = within.map(|(_, ends)| ends).sum();
                assert!(all <= most, "{all} in {window:?}");
            }
            now += Duration::from_secs(10);
        }
        assert!(sent.len() > 20 && budget.waiting.len() <= 30 && budget.spent.len() <= 30);
    }

    #[tokio::test]
    async fn a_permit_that_is_dropped_is_a_run_that_came_to_nothing() {
        let guesses = Arc::<Guesses>::default();
        let first = guesses.begin(peer(1)).unwrap();
        assert!(guesses.begin(peer(2)).is_err());
        drop(first);
        assert!(guesses.begin(peer(1)).is_err());
        let second = guesses.begin(peer(2)).unwrap();
        second.hit();
        drop(second);
        assert!(guesses.begin(peer(3)).is_ok());
    }
}
