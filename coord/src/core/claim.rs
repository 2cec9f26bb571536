//! The delivery window of one connection.
//!
//! At most so many envelopes are pushed and not yet answered; each is claimed in the store
//! for [`CLAIM_LEASE`]. Drive it so: ask [`Window::room`], claim that many, tell [`Window::pushed`];
//! tell [`Window::answered`] for each ack or nack; at [`Window::next_deadline`] ask again, because a
//! lease that ran out makes room (the store hands the envelope out again).

use std::collections::HashMap;

use meshwire_signaling::limits::{CLAIM_LEASE, ms};
use meshwire_signaling::{EnvelopeId, PublicKey};

/// What identifies a delivery: author, id, recipient.
pub type DeliveryKey = (PublicKey, EnvelopeId, PublicKey);

/// See the module's documentation. Times are milliseconds of any one monotonic clock.
#[derive(Debug)]
pub struct Window {
    max: usize,
    inflight: HashMap<DeliveryKey, u64>,
}

impl Window {
    /// A window of `max` deliveries.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max: max.max(1), inflight: HashMap::new() }
    }

    /// How many more may be pushed at `now`; leases that have run out no longer count.
    pub fn room(&mut self, now: u64) -> usize {
        self.inflight.retain(|_, until| *until > now);
        self.max - self.inflight.len().min(self.max)
    }

    /// A delivery was claimed and is being pushed at `now`.
    pub fn pushed(&mut self, key: DeliveryKey, now: u64) {
        self.inflight.insert(key, now.saturating_add(ms(CLAIM_LEASE)));
    }

    /// An answer came. False if nothing of that name is in flight: late, or made up.
    pub fn answered(&mut self, key: &DeliveryKey) -> bool {
        self.inflight.remove(key).is_some()
    }

    /// When the earliest lease runs out.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.inflight.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> DeliveryKey {
        (PublicKey([1; 32]), EnvelopeId::new(u64::from(n), 0), PublicKey([2; 32]))
    }

    #[test]
    fn room_shrinks_with_pushes_and_grows_with_answers_and_expired_leases() {
        let mut w = Window::new(2);
        assert_eq!((w.room(0), w.next_deadline()), (2, None));
        w.pushed(key(1), 0);
        w.pushed(key(2), 10_000);
        assert_eq!((w.room(10_000), w.next_deadline()), (0, Some(30_000)));
        assert_eq!(w.room(29_999), 0);
        assert_eq!(w.room(30_000), 1, "the first lease ran out");
        assert!(w.answered(&key(2)));
        assert!(!w.answered(&key(2)) && !w.answered(&key(1)));
        assert_eq!(w.room(30_000), 2);
    }
}
