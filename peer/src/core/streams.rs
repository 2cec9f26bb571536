//! How many opens of streams are looked at: bounds without I/O.
//!
//! An open costs a row on disk before anybody is asked whether it wants the stream. So each member has a
//! rate of its own, and all together have one; what is too much is put off, not refused: a refusal lives until it
//! was heard, and is said over and over.

use std::collections::HashMap;

use meshwire_signaling::PublicKey;
use tokio::time::{Duration, Instant};

/// Opens by one member in [`PERIOD`], with those of its sessions: more than a thousand streams at once, and again.
pub const PER_MEMBER: u32 = 3_000;
/// Opens by all members in [`PERIOD`].
pub const PER_MESH: u32 = 12_000;
/// What the rates are per.
pub const PERIOD: Duration = Duration::from_secs(60);
/// Members whose rates are remembered.
const MEMBERS: usize = 4_096;
/// How often those who are quiet are looked for, at most.
const SWEEP: Duration = Duration::from_secs(1);

/// A rate with a burst as large.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: u32,
    /// Up to when `left` was reckoned.
    at: Instant,
}

impl Bucket {
    fn full(most: u32, now: Instant) -> Self {
        Self { left: most, at: now }
    }

    fn refill(&mut self, most: u32, now: Instant) {
        let each = PERIOD / most.max(1);
        let gone = now.saturating_duration_since(self.at);
        let more = gone.as_nanos() / each.as_nanos().max(1);
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(more).min(most);
        self.at = if self.left == most { now } else { self.at + each.saturating_mul(more) };
    }

    fn take(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}

/// The rates of one mesh.
#[derive(Debug, Default)]
pub struct Gatekeeper {
    all: Option<Bucket>,
    members: HashMap<PublicKey, Bucket>,
    swept: Option<Instant>,
}

impl Gatekeeper {
    /// Whether an open by `member`, or by what it vouches for, is looked at now.
    pub fn admit(&mut self, member: &PublicKey, now: Instant) -> bool {
        let all = self.all.get_or_insert_with(|| Bucket::full(PER_MESH, now));
        all.refill(PER_MESH, now);
        if all.left == 0 {
            return false;
        }
        if self.members.len() >= MEMBERS && !self.members.contains_key(member) {
            let due = |at| now.saturating_duration_since(at) >= SWEEP;
            if self.swept.is_none_or(due) {
                self.swept = Some(now);
                self.members.retain(|_, bucket| {
                    bucket.refill(PER_MEMBER, now);
                    bucket.left < PER_MEMBER
                });
            }
            if self.members.len() >= MEMBERS {
                return false;
            }
        }
        let own = self.members.entry(*member).or_insert_with(|| Bucket::full(PER_MEMBER, now));
        own.refill(PER_MEMBER, now);
        if own.left == 0 {
            return false;
        }
        own.take();
        all.take();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(n: u64) -> PublicKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        PublicKey(key)
    }

    fn admitted(keeper: &mut Gatekeeper, who: u64, tries: u32, now: Instant) -> u32 {
        (0..tries).map(|_| u32::from(keeper.admit(&member(who), now))).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_has_its_rate_and_harms_nobody_else() {
        let (mut keeper, now) = (Gatekeeper::default(), Instant::now());
        assert_eq!(admitted(&mut keeper, 1, 2 * PER_MEMBER, now), PER_MEMBER);
        assert_eq!(admitted(&mut keeper, 2, 10, now), 10);
        // It comes back bit by bit, and whoever asks all the time gets no more and no less.
        let mut later = 0;
        for ms in 1..=6_000 {
            later += admitted(&mut keeper, 1, 1, now + Duration::from_millis(ms));
        }
        assert_eq!(later, PER_MEMBER / 10);
        let rested = now + 3 * PERIOD;
        assert_eq!(admitted(&mut keeper, 1, 2 * PER_MEMBER, rested), PER_MEMBER);
    }

    #[tokio::test(start_paused = true)]
    async fn all_together_have_theirs_and_memory_is_bounded() {
        let (mut keeper, now) = (Gatekeeper::default(), Instant::now());
        let all: u32 = (0..100_000).map(|n| admitted(&mut keeper, n, 1, now)).sum();
        assert_eq!(usize::try_from(all).unwrap(), MEMBERS);
        assert_eq!(keeper.members.len(), MEMBERS);
        // Those who are quiet are forgotten.
        assert!(keeper.admit(&member(200_000), now + PERIOD));
        assert_eq!(keeper.members.len(), 1);
        let mut keeper = Gatekeeper::default();
        let all: u32 = (0..10).map(|n| admitted(&mut keeper, n, PER_MEMBER, now)).sum();
        assert_eq!(all, PER_MESH);
    }
}
