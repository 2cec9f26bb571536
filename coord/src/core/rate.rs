//! Token buckets: so many per second, with a burst of one second's worth or another. Time is given.

use std::collections::HashMap;
use std::hash::Hash;

/// One bucket. Counts in thousandths of a token, so that milliseconds divide evenly.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    millitokens: u64,
    at_ms: u64,
}

/// Buckets by key. Bounded: full buckets say nothing and are forgotten first.
#[derive(Debug)]
pub struct RateLimiter<K> {
    per_second: u64,
    burst: u64,
    capacity: usize,
    buckets: HashMap<K, Bucket>,
}

impl<K: Hash + Eq + Clone> RateLimiter<K> {
    /// `per_second` tokens per key; at most `capacity` keys are remembered.
    #[must_use]
    pub fn new(per_second: u64, capacity: usize) -> Self {
        Self::with_burst(per_second, per_second, capacity)
    }

    /// As [`Self::new`], with buckets that hold `burst` tokens.
    #[must_use]
    pub fn with_burst(per_second: u64, burst: u64, capacity: usize) -> Self {
        Self {
            per_second: per_second.max(1),
            burst: burst.max(1),
            capacity: capacity.max(1),
            buckets: HashMap::new(),
        }
    }

    /// Takes one token at `now_ms` (any monotonic clock), or says in how many milliseconds there
    /// will be one.
    ///
    /// # Errors
    /// The wait in milliseconds.
    pub fn take(&mut self, key: &K, now_ms: u64) -> Result<(), u64> {
        self.take_many(key, 1, now_ms)
    }

    /// Takes `tokens` at once, or none. More than the bucket holds count as all that it holds.
    ///
    /// # Errors
    /// The wait in milliseconds.
    pub fn take_many(&mut self, key: &K, tokens: u64, now_ms: u64) -> Result<(), u64> {
        let full = self.burst.saturating_mul(1_000);
        if self.buckets.len() >= self.capacity && !self.buckets.contains_key(key) {
            let per_second = self.per_second;
            self.buckets.retain(|_, b| refill(b, now_ms, per_second, full) < full);
            if self.buckets.len() >= self.capacity {
                return Err(1_000);
            }
        }
        let bucket =
            self.buckets.entry(key.clone()).or_insert(Bucket { millitokens: full, at_ms: now_ms });
        let have = refill(bucket, now_ms, self.per_second, full);
        bucket.at_ms = now_ms.max(bucket.at_ms);
        let cost = tokens.saturating_mul(1_000).min(full);
        if have < cost {
            bucket.millitokens = have;
            return Err((cost - have).div_ceil(self.per_second).max(1));
        }
        bucket.millitokens = have - cost;
        Ok(())
    }
}

fn refill(b: &Bucket, now_ms: u64, per_second: u64, full: u64) -> u64 {
    // One token per second is one millitoken per millisecond.
    let gained = now_ms.saturating_sub(b.at_ms).saturating_mul(per_second);
    b.millitokens.saturating_add(gained).min(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_sustained_rate() {
        let mut r = RateLimiter::new(10, 8);
        assert!((0..10).all(|_| r.take(&"a", 0).is_ok()));
        assert_eq!(r.take(&"a", 0), Err(100));
        assert_eq!(r.take(&"a", 99), Err(1));
        assert_eq!(r.take(&"a", 100), Ok(()));
        assert!(r.take(&"b", 100).is_ok(), "keys are apart");
        assert_eq!((0..50).filter(|_| r.take(&"a", 10_000).is_ok()).count(), 10);
    }

    #[test]
    fn many_at_once_wait_for_all_of_them_and_never_for_more_than_there_can_be() {
        let mut r = RateLimiter::new(10, 8);
        assert_eq!(r.take_many(&"a", 8, 0), Ok(()));
        assert_eq!(r.take_many(&"a", 4, 0), Err(200));
        assert_eq!(r.take_many(&"a", 4, 200), Ok(()));
        assert_eq!(r.take_many(&"a", u64::MAX, 200), Err(1_000));
        assert_eq!(r.take_many(&"a", u64::MAX, 1_200), Ok(()));
    }

    #[test]
    fn a_burst_of_its_own() {
        let mut r = RateLimiter::with_burst(2, 5, 8);
        assert!((0..5).all(|_| r.take(&"a", 0).is_ok()));
        assert_eq!(r.take(&"a", 0), Err(500));
        assert_eq!((0..9).filter(|_| r.take(&"a", 1_000_000).is_ok()).count(), 5);
    }

    #[test]
    fn memory_is_bounded_and_idle_keys_make_room() {
        let mut r = RateLimiter::new(1, 3);
        for k in 0..3 {
            assert!(r.take(&k, 0).is_ok());
        }
        assert!(r.take(&9, 0).is_err());
        assert!(r.take(&9, 1_000).is_ok());
        assert!(r.buckets.len() <= 3);
    }

    #[test]
    fn a_clock_that_goes_backwards_gives_nothing() {
        let mut r = RateLimiter::new(1, 3);
        assert!(r.take(&0, 5_000).is_ok());
        assert!(r.take(&0, 10).is_err());
        assert!(r.take(&0, 5_999).is_err());
        assert!(r.take(&0, 6_000).is_ok());
    }
}
