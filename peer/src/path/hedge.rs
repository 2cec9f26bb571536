//! Messages whose ack over the direct path is late go over the relay as well (design section 5.5).
//!
//! Late is max(3 RTT, 200 ms). The receiver's dedupe makes the copy harmless, so the cost is bytes
//! alone; a budget of a tenth of the messages bounds it. Two late ones in a row, with no ack between
//! them, demote the path: whatever is not acked then leaves over the relay at once.
//!
//! A message waits for two things: that the path takes it over, and its ack. On a path that is merely
//! slow many messages wait for the first for long, so the clock of those begins anew with each one
//! that is taken: they are late when the path stands still, not when it is busy.
//!
//! An ack takes a round trip and the other side's write to its disk. RTT is therefore what acks took of late
//! where that is more than the path's own: a machine with much to do would else get a tenth of its messages
//! twice, and lose a path that is sound.

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
/// A late message that the budget had nothing for goes over the relay after this all the same: it is
/// more than late.
pub const OVERDUE: Duration = Duration::from_secs(10);
/// What acks took counts up to this, so that a path on which nothing comes back is given up within
/// three times that.
pub const MAX_ANSWER: Duration = Duration::from_millis(250);
/// Of a new measurement of what an ack took, so much goes into the mean: 1/8, as RFC 6298 has it.
const SMOOTHING: u32 = 8;
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

/// Messages in the order in which they are late.
#[derive(Debug, Default)]
struct Line {
    since: BTreeMap<MessageKey, Instant>,
    order: VecDeque<(Instant, MessageKey)>,
}

impl Line {
    fn push(&mut self, now: Instant, key: MessageKey) {
        if self.order.len() < MAX_WATCHED && self.since.insert(key, now).is_none() {
            self.order.push_back((now, key));
        }
    }

    fn remove(&mut self, key: &MessageKey) {
        self.since.remove(key);
        while self.order.front().is_some_and(|(at, key)| self.since.get(key) != Some(at)) {
            self.order.pop_front();
        }
    }

    fn front(&self) -> Option<(Instant, MessageKey)> {
        // The front is never one that was removed.
        self.order.front().copied()
    }
}

/// Watches the acks of one direct path.
#[derive(Debug)]
pub struct Hedger {
    /// Handed to the path, which has not said that it has them.
    handed: Line,
    /// Taken over by the path, and without an ack.
    taken: Line,
    /// Late, and not hedged.
    overdue: Line,
    /// Late, since they were taken: their acks may come by the path yet, and tell what it takes.
    measured: Line,
    /// What an ack over this path took of late.
    answer: Duration,
    /// When the path last did anything.
    progress: Option<Instant>,
    /// In tenths of a hedge.
    saved: u32,
    late: u32,
}

impl Default for Hedger {
    fn default() -> Self {
        Self {
            handed: Line::default(),
            taken: Line::default(),
            overdue: Line::default(),
            measured: Line::default(),
            answer: Duration::ZERO,
            progress: None,
            saved: MAX_SAVED * MESSAGES_PER_HEDGE,
            late: 0,
        }
    }
}

impl Hedger {
    /// Another path is up, or none: what the old one still owes is no fault of the new one. What was
    /// saved stays, or a path that comes and goes would have a budget each time.
    pub fn begin(&mut self) {
        *self = Self { saved: self.saved, ..Self::default() };
    }

    /// A message was handed to the direct path.
    pub fn handed(&mut self, now: Instant, key: MessageKey) {
        self.saved = self.saved.saturating_add(1).min(MAX_SAVED * MESSAGES_PER_HEDGE);
        self.handed.push(now, key);
    }

    /// The path has taken it over.
    pub fn taken(&mut self, now: Instant, key: MessageKey) {
        // Its ack may have come first.
        if self.handed.since.contains_key(&key) {
            self.handed.remove(&key);
            self.taken.push(now, key);
        }
        self.progress = Some(now);
    }

    /// Its receipt came, over whichever path; `direct` says whether over this one.
    pub fn acked(&mut self, now: Instant, key: &MessageKey, direct: bool) {
        if direct {
            self.late = 0;
            self.progress = Some(now);
            let since = self.taken.since.get(key).or_else(|| self.measured.since.get(key));
            if let Some(since) = since {
                let took = now.saturating_duration_since(*since).min(MAX_ANSWER);
                self.answer = (self.answer * (SMOOTHING - 1) + took) / SMOOTHING;
            }
        }
        for line in [&mut self.handed, &mut self.taken, &mut self.overdue, &mut self.measured] {
            line.remove(key);
        }
    }

    /// What is late at `now`. `rtt` is the path's.
    pub fn due(&mut self, now: Instant, rtt: Duration) -> Due {
        let mut due = Due::default();
        while let Some((_, key)) = self.next(rtt).filter(|(at, _)| *at <= now) {
            self.handed.remove(&key);
            if let Some(since) = self.taken.since.get(&key).copied() {
                self.taken.remove(&key);
                self.measured.push(since, key);
            }
            self.late += 1;
            due.demote |= self.late >= LATE_IN_A_ROW;
            match self.saved.checked_sub(MESSAGES_PER_HEDGE) {
                Some(left) => {
                    self.saved = left;
                    due.hedge.push(key);
                }
                None => self.overdue.push(now, key),
            }
        }
        while let Some((_, key)) = self.overdue.front().filter(|(at, _)| *at + OVERDUE <= now) {
            self.overdue.remove(&key);
            due.hedge.push(key);
        }
        due
    }

    /// When [`Self::due`] next has something to say.
    #[must_use]
    pub fn deadline(&self, rtt: Duration) -> Option<Instant> {
        let overdue = self.overdue.front().map(|(at, _)| at + OVERDUE);
        self.next(rtt).map(|(at, _)| at).into_iter().chain(overdue).min()
    }

    /// The message that is late next, and when.
    fn next(&self, rtt: Duration) -> Option<(Instant, MessageKey)> {
        let patience = patience(rtt.max(self.answer));
        let handed = self.handed.front().map(|(at, key)| {
            let since = self.progress.map_or(at, |progress| progress.max(at));
            (since + patience, key)
        });
        let taken = self.taken.front().map(|(at, key)| (at + patience, key));
        handed.into_iter().chain(taken).min_by_key(|(at, _)| *at)
    }
}

/// How long an ack may take where a round trip takes `rtt`.
#[must_use]
pub fn patience(rtt: Duration) -> Duration {
    rtt.saturating_mul(3).max(MIN_LATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(10);

    /// Handed over, and taken at once.
    fn sent(h: &mut Hedger, now: Instant, key: MessageKey) {
        h.handed(now, key);
        h.taken(now, key);
    }

    fn key(n: u128) -> MessageKey {
        (PublicKey([7; 32]), EnvelopeId::new(1, n))
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_ack_is_hedged_and_a_second_one_demotes() {
        let start = Instant::now();
        let mut h = Hedger::default();
        sent(&mut h, start, key(1));
        assert_eq!(h.deadline(RTT), Some(start + MIN_LATE));
        assert_eq!(h.due(start + MIN_LATE - Duration::from_millis(1), RTT), Due::default());
        let due = h.due(start + MIN_LATE, RTT);
        assert_eq!(due, Due { hedge: vec![key(1)], demote: false });
        assert_eq!(h.due(start + MIN_LATE * 9, RTT), Due::default(), "once");
        let later = start + MIN_LATE * 2;
        sent(&mut h, later, key(2));
        let due = h.due(later + MIN_LATE, RTT);
        assert_eq!(due, Due { hedge: vec![key(2)], demote: true });
    }

    #[tokio::test(start_paused = true)]
    async fn an_ack_between_is_no_row() {
        let start = Instant::now();
        let mut h = Hedger::default();
        for n in 0..10 {
            let at = start + MIN_LATE * n;
            sent(&mut h, at, key(n.into()));
            assert!(!h.due(at + MIN_LATE, RTT).demote);
            // The ack of the late one comes after all, by this path.
            h.acked(at, &key(n.into()), true);
        }
        let at = start + MIN_LATE * 11;
        sent(&mut h, at, key(100));
        sent(&mut h, at, key(101));
        h.acked(at, &key(99), false);
        assert!(h.due(at + MIN_LATE, RTT).demote, "an ack over the relay proves nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn long_round_trips_are_not_late() {
        let start = Instant::now();
        let mut h = Hedger::default();
        sent(&mut h, start, key(1));
        let rtt = Duration::from_millis(600);
        assert_eq!(h.due(start + rtt * 2, rtt), Due::default());
        assert_eq!(h.deadline(rtt), Some(start + rtt * 3));
        h.acked(start, &key(1), true);
        assert_eq!(h.deadline(rtt), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_slow_to_answer_is_not_late_for_long() {
        let took = Duration::from_millis(230);
        let mut h = Hedger::default();
        let mut hedged = 0;
        for n in 0..100 {
            let at = Instant::now();
            sent(&mut h, at, key(n));
            if let Some(late) = h.deadline(RTT).filter(|late| *late <= at + took) {
                let due = h.due(late, RTT);
                assert!(!due.demote);
                hedged += due.hedge.len();
            }
            tokio::time::advance(took).await;
            // Each ack comes by the path, those of the late ones, too.
            h.acked(Instant::now(), &key(n), true);
        }
        assert!((1..=5).contains(&hedged), "{hedged}");
        // However slow it was, silence ends it.
        let at = Instant::now();
        sent(&mut h, at, key(100));
        sent(&mut h, at, key(101));
        assert!(h.due(at + MAX_ANSWER * 3, RTT).demote);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenth_is_hedged_at_most() {
        let start = Instant::now();
        let mut h = Hedger::default();
        let mut hedged = 0;
        for n in 0..2_000_u32 {
            let at = start + MIN_LATE * n;
            sent(&mut h, at, key(n.into()));
            // Every one is late, and its receipt comes over the relay then.
            hedged += h.due(at + MIN_LATE, RTT).hedge.len();
            h.acked(at + MIN_LATE, &key(n.into()), false);
        }
        assert_eq!(hedged, 200 + 3, "a tenth, and what had been saved");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_budget_had_nothing_for_is_not_forgotten() {
        let start = Instant::now();
        let mut h = Hedger::default();
        for n in 0..MAX_SAVED + 2 {
            sent(&mut h, start, key(n.into()));
        }
        let late = start + MIN_LATE;
        // What was sent has earned nothing beyond what can be saved.
        assert_eq!(h.due(late, RTT).hedge.len(), MAX_SAVED as usize);
        assert_eq!(h.deadline(RTT), Some(late + OVERDUE));
        h.acked(late, &key(4), false);
        assert_eq!(h.due(late + OVERDUE, RTT).hedge, [key(5)]);
        assert_eq!(h.deadline(RTT), None);
    }

    #[tokio::test(start_paused = true)]
    async fn it_watches_so_many_and_no_more() {
        let start = Instant::now();
        let mut h = Hedger::default();
        for n in 0..10_000_u32 {
            sent(&mut h, start, key(n.into()));
        }
        assert_eq!((h.taken.since.len(), h.taken.order.len()), (MAX_WATCHED, MAX_WATCHED));
        let due = h.due(start + MIN_LATE, RTT);
        assert!(due.demote && due.hedge.len() <= MAX_SAVED as usize);
        assert!(h.taken.order.is_empty() && h.taken.since.is_empty());
        assert!(h.measured.order.len() <= MAX_WATCHED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_path_that_stands_still_is_given_up_and_one_that_is_slow_is_not() {
        let start = Instant::now();
        let mut h = Hedger::default();
        for n in 0..100_u32 {
            h.handed(start, key(n.into()));
        }
        // One is taken each 150 ms: the last ones wait for 15 s.
        let mut at = start;
        for n in 0..90_u32 {
            at += MIN_LATE * 3 / 4;
            assert_eq!(h.due(at, RTT), Due::default(), "{n}");
            h.taken(at, key(n.into()));
            h.acked(at, &key(n.into()), true);
        }
        assert_eq!(h.deadline(RTT), Some(at + MIN_LATE));
        let due = h.due(at + MIN_LATE, RTT);
        assert!(due.demote && !due.hedge.is_empty(), "{due:?}");
        h.begin();
        assert_eq!(h.deadline(RTT), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_path_owes_nothing_for_the_old_one() {
        let start = Instant::now();
        let mut h = Hedger::default();
        h.handed(start, key(1));
        h.handed(start, key(2));
        h.begin();
        assert_eq!(h.deadline(RTT), None);
        // What the old one says now is no word of the new one.
        h.taken(start, key(1));
        h.acked(start, &key(2), false);
        assert_eq!(h.due(start + MIN_LATE * 9, RTT), Due::default());
    }
}
