//! Memory that streams share: pure accounting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many bytes all streams of a node may hold. Clones share one account.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Account>);

#[derive(Debug)]
struct Account {
    limit: u64,
    /// What no reservation may grow into.
    spare: u64,
    used: AtomicU64,
}

impl Budget {
    /// An account of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self::with_spare(limit, 0)
    }

    /// An account of `limit` bytes, of which `spare` are for those who come anew: a few fast streams that grow do not
    /// take it all.
    #[must_use]
    pub fn with_spare(limit: u64, spare: u64) -> Self {
        Self(Arc::new(Account { limit, spare, used: AtomicU64::new(0) }))
    }

    /// How many bytes there are.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// How many bytes are taken.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Takes `bytes`; none if there are not as many.
    #[must_use]
    pub fn reserve(&self, bytes: u64) -> Option<Reservation> {
        let mut taken = Reservation { budget: self.clone(), bytes: 0 };
        taken.take(bytes, self.0.limit).then_some(taken)
    }
}

/// Bytes taken from a [`Budget`]; given back on drop.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    bytes: u64,
}

impl Reservation {
    /// How many bytes it has.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes `more`; changes nothing and says false if there are not as many, beside what is spared for others.
    pub fn grow(&mut self, more: u64) -> bool {
        let Account { limit, spare, .. } = &*self.budget.0;
        self.take(more, limit.saturating_sub(*spare))
    }

    fn take(&mut self, more: u64, limit: u64) -> bool {
        let used = &self.budget.0.used;
        // One number, no memory is published by it: relaxed is enough.
        let taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more).filter(|sum| *sum <= limit)
        });
        if taken.is_ok() {
            self.bytes += more;
        }
        taken.is_ok()
    }

    /// Gives back all but `keep`.
    pub fn shrink_to(&mut self, keep: u64) {
        let back = self.bytes.saturating_sub(keep);
        self.budget.0.used.fetch_sub(back, Ordering::Relaxed);
        self.bytes -= back;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_leaves_room_for_those_who_come() {
        let budget = Budget::with_spare(100, 25);
        let mut a = budget.reserve(60).unwrap();
        assert!(!a.grow(16) && a.grow(15));
        let _b = budget.reserve(25).unwrap();
        assert!(budget.reserve(1).is_none() && !a.grow(1));
        a.shrink_to(10);
        assert!(a.grow(40) && !a.grow(1));
    }

    #[test]
    fn what_is_taken_comes_back() {
        let budget = Budget::new(100);
        let mut a = budget.reserve(60).unwrap();
        assert!(budget.reserve(41).is_none());
        let b = budget.reserve(40).unwrap();
        assert!(!a.grow(1) && !a.grow(u64::MAX));
        assert_eq!((a.bytes(), budget.used()), (60, 100));
        drop(b);
        assert!(a.grow(40));
        a.shrink_to(200);
        a.shrink_to(10);
        assert_eq!(budget.used(), 10);
        drop(a);
        assert_eq!(budget.used(), 0);
    }
}
