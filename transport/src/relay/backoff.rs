//! When to connect again. Pure: randomness is an argument, time is a result.
//!
//! The cap grows 1, 2, 4, 8, 16, 30 s (inventory A-072); the wait is drawn evenly from zero to the
//! cap, the very first one too, so that a broker's restart does not bring all its nodes back at the
//! same moment (inventory A-073). A time that the server names is a minimum, spread in the same way.

use std::time::Duration;

use meshwire_signaling::frame::{close, code};

/// Caps of the first, second, … wait; the last one stays.
pub const CAPS: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    SLOWEST,
];
const SLOWEST: Duration = Duration::from_secs(30);
/// The longest wait that a server can ask for: an operator's mistake must not cost a day.
pub const MAX_HINT: Duration = Duration::from_secs(600);

/// How a node goes on after a connection has failed or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Reconnecting by itself cannot help.
    GiveUp,
    /// With a new instance, at once; the second time in a row as [`Next::Retry`].
    Renew,
    /// Only an operator can help, and may do so at any time: near the highest cap.
    Slow,
    /// After the back-off.
    Retry,
    /// At once, if it was up before: it is our network that has changed, and nobody else's.
    Now,
}

/// What a close code (none: the connection just broke) means for the next attempt.
#[must_use]
pub fn after_close(close: Option<u16>) -> Next {
    match close {
        Some(c) if close::is_terminal(c) => Next::GiveUp,
        _ => Next::Retry,
    }
}

/// What a hello's refusal means; the close code that followed it has the last word.
#[must_use]
pub fn after_refusal(word: &str, close: Option<u16>) -> Next {
    match (after_close(close), word) {
        (Next::GiveUp, _) => Next::GiveUp,
        (_, code::STALE_INSTANCE) => Next::Renew,
        (
            _,
            code::UNAUTHORIZED | code::UNKNOWN_MESH | code::FEATURE_MISSING | code::WRONG_BROKER,
        ) => Next::Slow,
        _ => Next::Retry,
    }
}

/// Counts failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: usize,
    renewed: bool,
}

impl Backoff {
    /// After a hello ack: the next failure is the first one again.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// How long to wait; none means for ever. `hint` is the server's time, `random` any 64 bits.
    #[must_use]
    pub fn wait(&mut self, next: Next, hint: Option<Duration>, random: u64) -> Option<Duration> {
        let cap = CAPS.get(self.failures).copied().unwrap_or(SLOWEST);
        if next == Next::GiveUp {
            return None;
        }
        if next == Next::Renew && !self.renewed {
            self.renewed = true;
            return Some(Duration::ZERO);
        }
        self.failures = self.failures.saturating_add(1);
        if next == Next::Now && self.failures == 1 {
            return Some(Duration::ZERO);
        }
        let (at_least, spread) = match (next, hint) {
            // Half of it is spread enough, and an even draw would often be no wait at all.
            (Next::Slow, None) => (SLOWEST / 2, SLOWEST / 2),
            (_, None) => (Duration::ZERO, cap),
            (_, Some(hint)) => {
                let hint = hint.min(MAX_HINT);
                (hint, hint.clamp(CAPS[0], SLOWEST))
            }
        };
        Some(at_least.saturating_add(scaled(spread, random)))
    }
}

/// `spread` × `random` / 2^64, in whole milliseconds.
fn scaled(spread: Duration, random: u64) -> Duration {
    let ms = (spread.as_millis() * u128::from(random)) >> 64;
    Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HALF: u64 = 1 << 63;

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn the_first_retry_is_jittered_and_caps_grow_to_thirty_seconds() {
        let mut b = Backoff::default();
        let halves: Vec<_> =
            (0..8).map(|_| b.wait(Next::Retry, None, HALF).unwrap().as_millis()).collect();
        assert_eq!(halves, [500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000]);
        assert_eq!(Backoff::default().wait(Next::Retry, None, 0), Some(Duration::ZERO));
        let most = Backoff::default().wait(Next::Retry, None, u64::MAX).unwrap();
        assert!(most < secs(1) && most > Duration::from_millis(990));
    }

    #[test]
    fn who_has_moved_comes_back_at_once() {
        let mut b = Backoff::default();
        assert_eq!(b.wait(Next::Now, None, HALF), Some(Duration::ZERO));
        assert_eq!(b.wait(Next::Now, None, HALF), Some(secs(1)), "and then as all others");
    }

    #[test]
    fn a_hello_ack_starts_over() {
        let mut b = Backoff::default();
        for _ in 0..4 {
            let _ = b.wait(Next::Retry, None, HALF);
        }
        b.reset();
        assert_eq!(b.wait(Next::Retry, None, HALF), Some(Duration::from_millis(500)));
    }

    #[test]
    fn the_servers_time_is_a_minimum_spread_and_bounded() {
        let wait = |hint, random| Backoff::default().wait(Next::Retry, Some(hint), random).unwrap();
        assert_eq!(wait(secs(5), 0), secs(5));
        assert_eq!(wait(secs(5), HALF), Duration::from_millis(7_500));
        assert_eq!(wait(Duration::ZERO, HALF), Duration::from_millis(500));
        assert_eq!(wait(secs(120), HALF), secs(135));
        assert_eq!(wait(Duration::MAX, 0), MAX_HINT);
    }

    #[test]
    fn a_new_instance_goes_at_once_but_only_once_in_a_row() {
        let mut b = Backoff::default();
        assert_eq!(b.wait(Next::Renew, None, HALF), Some(Duration::ZERO));
        assert_eq!(b.wait(Next::Renew, None, HALF), Some(Duration::from_millis(500)));
        b.reset();
        assert_eq!(b.wait(Next::Renew, None, HALF), Some(Duration::ZERO));
    }

    #[test]
    fn what_only_an_operator_can_mend_is_tried_slowly_and_what_nobody_can_never() {
        assert_eq!(Backoff::default().wait(Next::Slow, None, 0), Some(secs(15)));
        assert_eq!(Backoff::default().wait(Next::GiveUp, Some(secs(1)), 0), None);
    }

    #[test]
    fn each_word_and_close_code_has_its_consequence() {
        for (word, close, next) in [
            (code::STALE_INSTANCE, Some(close::REFUSED), Next::Renew),
            (code::UNAUTHORIZED, Some(close::REFUSED), Next::Slow),
            (code::UNKNOWN_MESH, None, Next::Slow),
            (code::FEATURE_MISSING, None, Next::Slow),
            (code::FEATURE_MISSING, Some(close::FEATURE), Next::GiveUp),
            (code::WRONG_BROKER, Some(close::REFUSED), Next::Slow),
            (code::UNAUTHORIZED, Some(close::REVOKED), Next::GiveUp),
            (code::CAPACITY, Some(close::TRY_LATER), Next::Retry),
            (code::TIMESTAMP_SKEW, None, Next::Retry),
            ("a_newer_word", None, Next::Retry),
        ] {
            assert_eq!(after_refusal(word, close), next, "{word} {close:?}");
        }
        for c in [close::KICKED, close::REVOKED, close::ALREADY_CONNECTED, close::FEATURE] {
            assert_eq!(after_close(Some(c)), Next::GiveUp);
        }
        for c in [None, Some(close::NORMAL), Some(close::GOING_AWAY), Some(close::SLOW_CONSUMER)] {
            assert_eq!(after_close(c), Next::Retry);
        }
    }

    proptest! {
        #[test]
        fn waits_stay_bounded(n in 0usize..100, hint in prop::option::of(any::<u64>()), random: u64) {
            let mut b = Backoff { failures: n, renewed: false };
            let hint = hint.map(Duration::from_millis);
            let wait = b.wait(Next::Retry, hint, random).unwrap();
            prop_assert!(wait <= MAX_HINT + SLOWEST);
            prop_assert!(wait >= hint.unwrap_or_default().min(MAX_HINT));
        }
    }
}
