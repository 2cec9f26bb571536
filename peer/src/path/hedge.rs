//! Messages whose ack over the direct path is late go over the relay as well (design section 5.5).
//!
//! Late is max(3 RTT, 200 ms). The receiver's dedupe makes the copy harmless, so the cost is bytes
//! alone; a budget of a tenth of the messages bounds it. Two late ones in a row, with no ack between
//! them, demote the path: whatever is not acked then leaves over the relay at once.

use std::collections::{BTreeMap, VecDeque};

use meshwire_signaling::{EnvelopeId, PublicKey};
use tokio::time::{Duration, Instant};

/// An ack is not late before this.
pub const MIN_LATE: Duration = Duration::from_millis(200);
/// One hedge is earned by so many messages.
pub const MESSAGES_PER_HEDGE: u32 = 10;
/// Hedges that a quiet pair can save up; it begins with them.
pub const MAX_SAVED: u32 = 4;
/// Late messages in a row that demote the path.
pub const LATE_IN_A_ROW: u32 = 2;
/// Most messages watched at once: further ones are not hedged, only resent when the path is lost.
pub const MAX_WATCHED: usize = 4_096;

/// A message of ours: ids are unique per author.
pub type MessageKey = (PublicKey, EnvelopeId);

/// What is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// To be sent over the relay as well.
    pub hedge: Vec<MessageKey>,
    /// The path is to be given up.
    pub demote: bool,
}

/// Watches the acks of one direct path.
#[derive(Debug)]
pub struct Hedger {
    watched: BTreeMap<MessageKey, Instant>,
    order: VecDeque<(Instant, MessageKey)>,
    /// In tenths of a hedge.
    saved: u32,
    late: u32,
}

impl Default for Hedger {
    fn default() -> Self {
        Self {
            watched: BTreeMap::new(),
            order: VecDeque::new(),
            saved: MAX_SAVED * MESSAGES_PER_HEDGE,
            late: 0,
        }
    }
}

impl Hedger {
    /// A message left over the direct path.
    pub fn sent(&mut self, now: Instant, key: MessageKey) {
        self.saved = self.saved.saturating_add(1).min(MAX_SAVED * MESSAGES_PER_HEDGE);
        if self.order.len() < MAX_WATCHED && self.watched.insert(key, now).is_none() {
            self.order.push_back((now, key));
        }
    }

    /// Its receipt came, over whichever path; `direct` says whether over this one.
    pub fn acked(&mut self, key: &MessageKey, direct: bool) {
        self.watched.remove(key);
        while self.order.front().is_some_and(|(sent, key)| self.watched.get(key) != Some(sent)) {
            self.order.pop_front();
        }
        if direct {
            self.late = 0;
        }
    }

    /// What is late at `now`. `rtt` is the path's; an ack costs the other side a write to disk, too.
    pub fn due(&mut self, now: Instant, rtt: Duration) -> Due {
        let mut due = Due::default();
        let patience = patience(rtt);
        while let Some((sent, key)) = self.order.front().copied() {
            let waits = self.watched.get(&key) == Some(&sent);
            if waits && now.saturating_duration_since(sent) < patience {
                break;
            }
            self.order.pop_front();
            if !waits {
                continue;
            }
            self.watched.remove(&key);
            self.late += 1;
            due.demote |= self.late >= LATE_IN_A_ROW;
            if let Some(left) = self.saved.checked_sub(MESSAGES_PER_HEDGE) {
                self.saved = left;
                due.hedge.push(key);
            }
        }
        due
    }

    /// When [`Self::due`] next has something to say.
    #[must_use]
    pub fn deadline(&self, rtt: Duration) -> Option<Instant> {
        // The front is never one whose ack has come.
        self.order.front().map(|(sent, _)| *sent + patience(rtt))
    }
}

fn patience(rtt: Duration) -> Duration {
    rtt.saturating_mul(3).max(MIN_LATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(10);

    fn key(n: u128) -> MessageKey {
        (PublicKey([7; 32]), EnvelopeId::new(1, n))
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_ack_is_hedged_and_a_second_one_demotes() {
        let start = Instant::now();
        let mut h = Hedger::default();
        h.sent(start, key(1));
        assert_eq!(h.deadline(RTT), Some(start + MIN_LATE));
        assert_eq!(h.due(start + MIN_LATE - Duration::from_millis(1), RTT), Due::default());
        let due = h.due(start + MIN_LATE, RTT);
        assert_eq!(due, Due { hedge: vec![key(1)], demote: false });
        assert_eq!(h.due(start + MIN_LATE * 9, RTT), Due::default(), "once");
        let later = start + MIN_LATE * 2;
        h.sent(later, key(2));
        let due = h.due(later + MIN_LATE, RTT);
        assert_eq!(due, Due { hedge: vec![key(2)], demote: true });
    }

    #[tokio::test(start_paused = true)]
    async fn an_ack_between_is_no_row() {
        let start = Instant::now();
        let mut h = Hedger::default();
        for n in 0..10 {
            let at = start + MIN_LATE * n;
            h.sent(at, key(n.into()));
            assert!(!h.due(at + MIN_LATE, RTT).demote);
            // The ack of the late one comes after all, by this path.
            h.acked(&key(n.into()), true);
        }
        let at = start + MIN_LATE * 11;
        h.sent(at, key(100));
        h.sent(at, key(101));
        h.acked(&key(99), false);
        assert!(h.due(at + MIN_LATE, RTT).demote, "an ack over the relay proves nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn long_round_trips_are_not_late() {
        let start = Instant::now();
        let mut h = Hedger::default();
        h.sent(start, key(1));
        let rtt = Duration::from_millis(600);
        assert_eq!(h.due(start + rtt * 2, rtt), Due::default());
        assert_eq!(h.deadline(rtt), Some(start + rtt * 3));
        h.acked(&key(1), true);
        assert_eq!(h.deadline(rtt), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenth_is_hedged_at_most() {
        let start = Instant::now();
        let mut h = Hedger::default();
        let mut hedged = 0;
        for n in 0..2_000_u32 {
            let at = start + MIN_LATE * n;
            h.sent(at, key(n.into()));
            // Every one is late.
            hedged += h.due(at + MIN_LATE, RTT).hedge.len();
        }
        assert_eq!(hedged, 200 + 3, "a tenth, and what had been saved");
    }

    #[tokio::test(start_paused = true)]
    async fn it_watches_so_many_and_no_more() {
        let start = Instant::now();
        let mut h = Hedger::default();
        for n in 0..10_000_u32 {
            h.sent(start, key(n.into()));
        }
        assert_eq!((h.watched.len(), h.order.len()), (MAX_WATCHED, MAX_WATCHED));
        let due = h.due(start + MIN_LATE, RTT);
        assert!(due.demote && due.hedge.len() <= MAX_SAVED as usize);
        assert!(h.order.is_empty() && h.watched.is_empty());
    }
}
