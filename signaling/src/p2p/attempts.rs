//! Each step of a negotiation counts once.

use std::collections::HashMap;

use crate::UnixMillis;
use crate::id::{AttemptId, PublicKey};
use crate::limits::{SKEW, ms};

/// How far a step may come behind the newest one of its attempt: more than an attempt has steps.
const WINDOW: u64 = 64;
/// Attempts of one sender that are remembered. An honest node makes one, waits 10 s and longer, and is
/// forgotten after a minute: a peer that makes more is refused, and nobody else.
const PER_SENDER: usize = 64;

/// Why a step changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It has come before.
    #[error("this step of the negotiation has come before")]
    Replayed,
    /// It is so far behind that nobody remembers whether it has come.
    #[error("this step of the negotiation is too far behind the newest one")]
    TooOld,
    /// The sender has begun too many attempts just now, or all senders together have.
    #[error("too many negotiations at a time")]
    TooMany,
}

#[derive(Debug)]
struct Entry {
    attempt: AttemptId,
    /// The latest time that a step of it was signed at.
    at: UnixMillis,
    highest: u64,
    /// Which of `highest`, `highest` − 1, … have come, from the lowest bit.
    seen: u64,
}

/// Remembers which steps have come, so that a broker that repeats or reorders them changes nothing.
///
/// Drive: [`Self::accept`] after [`super::open`] has said that a step holds, before acting on it. An
/// attempt is forgotten once `open` would refuse all of it as too old: forgetting opens no gap, so the
/// memory is bounded by refusing new attempts, never by dropping what is still needed.
#[derive(Debug)]
pub struct Attempts {
    capacity: usize,
    len: usize,
    senders: HashMap<PublicKey, Vec<Entry>>,
}

impl Attempts {
    /// Remembers at most `capacity` attempts of all senders together.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), len: 0, senders: HashMap::new() }
    }

    /// Takes a step that holds: signed by `from` at `at`, the `seq`th of its `attempt`. `now` is the wall
    /// clock that `open` was given. Steps may come in any order, each counts once.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed then.
    pub fn accept(
        &mut self,
        from: &PublicKey,
        attempt: AttemptId,
        seq: u64,
        at: UnixMillis,
        now: UnixMillis,
    ) -> Result<(), Refused> {
        self.forget_of(from, now);
        let entries = self.senders.get_mut(from);
        if let Some(entry) =
            entries.and_then(|entries| entries.iter_mut().find(|e| e.attempt == attempt))
        {
            entry.take(seq)?;
            entry.at = entry.at.max(at);
            return Ok(());
        }
        if self.senders.get(from).is_some_and(|entries| entries.len() >= PER_SENDER) {
            return Err(Refused::TooMany);
        }
        if self.len >= self.capacity {
            self.forget(now);
            if self.len >= self.capacity {
                return Err(Refused::TooMany);
            }
        }
        self.len += 1;
        let entry = Entry { attempt, at, highest: seq, seen: 1 };
        self.senders.entry(*from).or_default().push(entry);
        Ok(())
    }

    /// How many attempts are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn forget_of(&mut self, from: &PublicKey, now: UnixMillis) {
        let Some(entries) = self.senders.get_mut(from) else { return };
        let before = entries.len();
        entries.retain(|e| e.is_needed(now));
        self.len -= before - entries.len();
        if entries.is_empty() {
            self.senders.remove(from);
        }
    }

    fn forget(&mut self, now: UnixMillis) {
        self.senders.retain(|_, entries| {
            entries.retain(|e| e.is_needed(now));
            !entries.is_empty()
        });
        self.len = self.senders.values().map(Vec::len).sum();
    }
}

impl Entry {
    /// Whether a step of this attempt that has come could pass `open` again. Twice the skew: the wall
    /// clock may be set back by as much as hellos allow it to be wrong.
    fn is_needed(&self, now: UnixMillis) -> bool {
        self.at.saturating_add(2 * ms(SKEW)) >= now
    }

    fn take(&mut self, seq: u64) -> Result<(), Refused> {
        if seq > self.highest {
            let by = seq - self.highest;
            self.seen = if by < WINDOW { self.seen << by | 1 } else { 1 };
            self.highest = seq;
            return Ok(());
        }
        let behind = self.highest - seq;
        if behind >= WINDOW {
            return Err(Refused::TooOld);
        }
        if self.seen & 1 << behind != 0 {
            return Err(Refused::Replayed);
        }
        self.seen |= 1 << behind;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixMillis = 1_750_000_000_000;
    const ATTEMPT: AttemptId = AttemptId([5; 16]);
    const ANA: PublicKey = PublicKey([1; 32]);
    const BOB: PublicKey = PublicKey([2; 32]);
    const EVE: PublicKey = PublicKey([3; 32]);

    #[test]
    fn each_step_counts_once_in_any_order() {
        let mut attempts = Attempts::new(100);
        let (a, b) = (ANA, BOB);
        let mut take = |from: &PublicKey, seq| attempts.accept(from, ATTEMPT, seq, NOW, NOW);
        for seq in [0, 2, 1, 5, 3] {
            assert_eq!(take(&a, seq), Ok(()), "{seq}");
        }
        for seq in [0, 2, 1, 5, 3] {
            assert_eq!(take(&a, seq), Err(Refused::Replayed), "{seq}");
        }
        assert_eq!(take(&b, 0), Ok(()), "the other direction counts by itself");
        assert_eq!(take(&a, 68), Ok(()));
        assert_eq!(take(&a, 4), Err(Refused::TooOld));
        assert_eq!(take(&a, 5), Err(Refused::Replayed));
        assert_eq!(take(&a, 6), Ok(()));
        assert_eq!(take(&a, u64::MAX), Ok(()));
        assert_eq!(take(&a, u64::MAX), Err(Refused::Replayed));
        assert_eq!(take(&a, 68), Err(Refused::TooOld));
    }

    #[test]
    fn forgetting_opens_no_gap() {
        let mut attempts = Attempts::new(2);
        let (a, b, c) = (ANA, BOB, EVE);
        let take = |attempts: &mut Attempts, from, attempt, now| {
            attempts.accept(from, AttemptId([attempt; 16]), 0, now, now)
        };
        assert_eq!(take(&mut attempts, &a, 1, NOW), Ok(()));
        assert_eq!(take(&mut attempts, &b, 2, NOW), Ok(()));
        assert_eq!(take(&mut attempts, &b, 3, NOW), Err(Refused::TooMany));
        assert_eq!(take(&mut attempts, &a, 1, NOW), Err(Refused::Replayed), "it is not forgotten");
        // As long as `open` would let it pass, it is known.
        for now in [NOW + 60_000, NOW + 120_000] {
            let again = attempts.accept(&a, AttemptId([1; 16]), 0, NOW, now);
            assert_eq!(again, Err(Refused::Replayed));
        }
        assert_eq!(take(&mut attempts, &b, 3, NOW + 120_001), Ok(()));
        assert_eq!(take(&mut attempts, &c, 4, NOW + 120_001), Ok(()));
        assert_eq!(attempts.len(), 2);
    }

    #[test]
    fn one_sender_cannot_use_up_the_memory_of_others() {
        let mut attempts = Attempts::new(1_000);
        let many = PER_SENDER * 2;
        let refused = (0..u8::try_from(many).unwrap())
            .filter(|n| attempts.accept(&ANA, AttemptId([*n; 16]), 0, NOW, NOW).is_err());
        assert_eq!(refused.count(), many - PER_SENDER);
        assert_eq!(attempts.accept(&BOB, ATTEMPT, 0, NOW, NOW), Ok(()));
        assert_eq!(attempts.len(), PER_SENDER + 1);
    }

    proptest! {
        /// Whatever comes in whatever order, each pair of sender, attempt and seq passes at most once.
        #[test]
        fn nothing_passes_twice(
            steps in prop::collection::vec((0..3u8, 0..4u8, 0..80u64, 0..400_000u64), 0..300),
        ) {
            let mut attempts = Attempts::new(6);
            let mut passed = HashMap::new();
            let mut now = NOW;
            for (from, attempt, seq, later) in steps {
                // A step is signed once: its time is the same whenever it is shown.
                let (at, shown) = (NOW + seq * 1_000, NOW + later);
                now = now.max(shown);
                if at.abs_diff(now) > 60_000 {
                    continue; // `open` refuses it
                }
                let key = PublicKey([from; 32]);
                if attempts.accept(&key, AttemptId([attempt; 16]), seq, at, now).is_ok() {
                    prop_assert!(passed.insert((from, attempt, seq), ()).is_none());
                }
                prop_assert!(attempts.len() <= 6);
            }
        }
    }
}
