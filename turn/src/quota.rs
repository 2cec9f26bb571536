//! Rates: one bucket, and a fixed table of them for addresses that prove nothing.

use std::hash::BuildHasher as _;
use std::net::{IpAddr, SocketAddr};

/// A token bucket in bytes or answers. Time is given, in milliseconds of any monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    /// Thousandths of tokens, so that milliseconds divide evenly.
    level: u64,
    at: u64,
}

impl Bucket {
    /// A bucket that holds one second's worth.
    pub(crate) fn full(per_second: u64, now: u64) -> Self {
        Self { level: per_second.saturating_mul(1_000), at: now }
    }

    /// Takes `tokens`, or nothing where there are not so many.
    pub(crate) fn take(&mut self, tokens: u64, per_second: u64, now: u64) -> bool {
        let full = per_second.saturating_mul(1_000);
        let gained = now.saturating_sub(self.at).saturating_mul(per_second);
        self.level = self.level.saturating_add(gained).min(full);
        self.at = self.at.max(now);
        let wanted = tokens.saturating_mul(1_000);
        let enough = self.level >= wanted;
        if enough {
            self.level -= wanted;
        }
        enough
    }
}

/// Buckets in the table. Prefixes that share one by their hash share its rate.
const PLACES: usize = 4_096;

/// How many answers strangers get: whoever forges a victim's address as a source cannot make this
/// server send it more than this, and the table never grows.
#[derive(Debug)]
pub(crate) struct Throttle {
    per_second: u64,
    buckets: Vec<Bucket>,
    hasher: std::collections::hash_map::RandomState,
}

impl Throttle {
    /// `per_second` answers to each /24 (IPv4) or /48 (IPv6).
    pub(crate) fn new(per_second: u64) -> Self {
        Self {
            per_second,
            buckets: vec![Bucket::full(per_second, 0); PLACES],
            hasher: std::collections::hash_map::RandomState::new(),
        }
    }

    /// Whether `client` may have another answer.
    pub(crate) fn take(&mut self, client: SocketAddr, now: u64) -> bool {
        let prefix = match client.ip().to_canonical() {
            IpAddr::V4(ip) => u128::from(u32::from(ip) >> 8),
            IpAddr::V6(ip) => u128::from(ip) >> 80 << 80,
        };
        let places = u64::try_from(PLACES).unwrap_or(1);
        let place = usize::try_from(self.hasher.hash_one(prefix) % places).unwrap_or(0);
        self.buckets.get_mut(place).is_some_and(|b| b.take(1, self.per_second, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_rate_and_a_burst_of_one_second() {
        let mut bucket = Bucket::full(100, 0);
        assert!(bucket.take(100, 100, 0));
        assert!(!bucket.take(1, 100, 9));
        assert!(bucket.take(1, 100, 10));
        assert!(!bucket.take(1, 100, 10));
        assert!(bucket.take(100, 100, 60_000));
        assert!(!bucket.take(101, 100, 120_000), "more than it holds");
        assert!(bucket.take(1, u64::MAX, u64::MAX));
        assert!(!bucket.take(1, 0, u64::MAX));
    }

    #[test]
    fn strangers_share_their_prefixs_rate() {
        let mut throttle = Throttle::new(3);
        let a: SocketAddr = "203.0.113.1:1".parse().unwrap();
        let b: SocketAddr = "203.0.113.2:1".parse().unwrap();
        assert!(throttle.take(a, 0) && throttle.take(b, 0) && throttle.take(a, 0));
        assert!(!throttle.take(b, 0));
        assert!(throttle.take(b, 1_000));
        // The same, however a dual-stack socket writes it.
        let mapped: SocketAddr = "[::ffff:203.0.113.9]:1".parse().unwrap();
        assert!(throttle.take(mapped, 1_000) && throttle.take(a, 1_000));
        assert!(!throttle.take(mapped, 1_000));
    }
}
