//! How long to wait before a direct path is tried again.
//!
//! A try that failed on a cold pair waits 10 s, doubling to 5 min, for ever (design section 6). A pair
//! that had a path and lost it is another matter: the networks were able to, and mostly will be again
//! in a moment. It is sought again after [`RECOVER`] steps for [`RECOVER_FOR`], so that traffic is
//! direct again within 10 s of healing, and only then as if it were cold.

use tokio::time::{Duration, Instant};

/// First wait after a failed try.
pub const FIRST: Duration = Duration::from_secs(10);
/// Longest wait.
pub const MAX: Duration = Duration::from_secs(300);
/// Waits after the loss of a path that had worked; the last one repeats.
pub const RECOVER: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(3)];
/// A path that was lost, came back, and is lost within this time once more has not come back.
pub const STEADY: Duration = Duration::from_secs(10);
/// How long a lost path is sought with these.
pub const RECOVER_FOR: Duration = Duration::from_secs(300);

/// Counts the tries of one pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    /// When the path was lost that is being recovered.
    lost: Option<Instant>,
}

impl Backoff {
    /// A path that had worked for so long is gone. One that comes and goes is sought less and less
    /// often, as if it had not come.
    pub fn lost(&mut self, now: Instant, lasted: Duration) {
        let again = self.lost.is_some() && lasted < STEADY;
        let failures = if again { self.failures.saturating_add(1) } else { 0 };
        *self = Self { failures, lost: Some(now) };
    }

    /// The networks have changed: what was is no guide any more.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// A try failed.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// How long to wait from now on. `jitter` is any random number: the upper half of a cold wait is
    /// random, so that two sides do not meet for ever.
    pub fn wait(&mut self, now: Instant, jitter: u64) -> Duration {
        if let Some(lost) = self.lost {
            if now.saturating_duration_since(lost) < RECOVER_FOR {
                let step = usize::try_from(self.failures).unwrap_or(usize::MAX);
                return RECOVER.get(step).copied().unwrap_or(RECOVER[RECOVER.len() - 1]);
            }
            *self = Self { failures: 1, lost: None };
        }
        let Some(doublings) = self.failures.checked_sub(1) else { return Duration::ZERO };
        let whole = FIRST.saturating_mul(1 << doublings.min(10)).min(MAX);
        let half = u64::try_from((whole / 2).as_millis()).unwrap_or(u64::MAX);
        whole / 2 + Duration::from_millis(jitter % (half + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn cold_tries_wait_ten_seconds_doubling_to_five_minutes() {
        let now = Instant::now();
        let mut b = Backoff::default();
        assert_eq!(b.wait(now, 0), Duration::ZERO, "the first try waits for nothing");
        for whole in [10, 20, 40, 80, 160, 300, 300, 300] {
            b.failed();
            assert_eq!(b.wait(now, 0), Duration::from_secs(whole) / 2);
            let longest = b.wait(now, whole * 500);
            assert_eq!(longest, Duration::from_secs(whole), "the upper half is random");
        }
        b.reset();
        assert_eq!(b.wait(now, 7), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_path_is_sought_often_and_then_as_if_cold() {
        let start = Instant::now();
        let mut b = Backoff::default();
        b.lost(start, STEADY);
        let mut waits = Vec::new();
        for _ in 0..6 {
            waits.push(b.wait(start, 0).as_secs());
            b.failed();
        }
        assert_eq!(waits, [0, 1, 2, 3, 3, 3]);
        b.lost(start, STEADY);
        assert_eq!(b.wait(start, 0), Duration::ZERO);
        for wait in [1, 2, 3, 3] {
            b.lost(start, STEADY / 2);
            assert_eq!(b.wait(start, 0), Duration::from_secs(wait), "it comes and goes");
        }
        let late = start + RECOVER_FOR;
        assert_eq!(b.wait(late, 0), FIRST / 2);
        b.failed();
        assert_eq!(b.wait(late, 0), FIRST);
    }
}
