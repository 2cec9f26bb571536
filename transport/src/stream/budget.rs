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
    /// What this is a part of.
    whole: Option<Budget>,
}

impl Account {
    fn take(&self, more: u64, limit: u64) -> bool {
        // One number, no memory is published by it: relaxed is enough.
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more).filter(|sum| *sum <= limit)
        });
        taken.is_ok()
    }
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
        Self(Arc::new(Account { limit, spare, used: AtomicU64::new(0), whole: None }))
    }

    /// An account within this one, for whoever must not take it all: new reservations may take it to two thirds of what
    /// others leave, so that there is always something for the next one; those that grow, to half of what others leave
    /// beside what is spared (dynamic thresholds: A. K. Choudhury and E. L. Hahne, 1998).
    #[must_use]
    pub fn part(&self) -> Self {
        let Account { limit, spare, .. } = *self.0;
        Self(Arc::new(Account { limit, spare, used: AtomicU64::new(0), whole: Some(self.clone()) }))
    }

    /// How many more bytes new reservations may take, alone.
    #[must_use]
    pub fn room(&self) -> u64 {
        let free = |b: &Self| b.0.limit.saturating_sub(b.used());
        match &self.0.whole {
            Some(whole) => (2 * free(whole)).saturating_sub(self.used()) / 3,
            None => free(self),
        }
    }

    /// How many more reservations that grow may take, alone.
    fn room_to_grow(&self) -> u64 {
        let free = |b: &Self| b.0.limit.saturating_sub(b.0.spare).saturating_sub(b.used());
        match &self.0.whole {
            Some(whole) => free(whole).saturating_sub(self.used()) / 2,
            None => free(self),
        }
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
        (bytes <= self.room() && taken.take(bytes, self.0.limit)).then_some(taken)
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
        more <= self.budget.room_to_grow() && self.take(more, limit.saturating_sub(*spare))
    }

    fn take(&mut self, more: u64, limit: u64) -> bool {
        let account = &self.budget.0;
        let taken = match &account.whole {
            // The whole's limit is what holds; a part's own is a rule of thumb, and two may pass it at once.
            Some(whole) => whole.0.take(more, limit) && account.take(more, u64::MAX),
            None => account.take(more, limit),
        };
        if taken {
            self.bytes += more;
        }
        taken
    }

    /// Gives back all but `keep`.
    pub fn shrink_to(&mut self, keep: u64) {
        let back = self.bytes.saturating_sub(keep);
        self.budget.0.used.fetch_sub(back, Ordering::Relaxed);
        if let Some(whole) = &self.budget.0.whole {
            whole.0.used.fetch_sub(back, Ordering::Relaxed);
        }
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
    fn a_part_never_takes_it_all() {
        let whole = Budget::with_spare(1_200, 400);
        let parts = [(); 4].map(|()| whole.part());
        let mut taken = Vec::new();
        let mut got = Vec::new();
        for part in &parts {
            assert!(part.room() > 0 && part.reserve(part.room() + 1).is_none());
            taken.push(part.reserve(part.room()).unwrap());
            assert_eq!(part.room(), 0);
            got.push(part.used());
        }
        assert_eq!(got, [800, 266, 89, 30]);
        assert_eq!(whole.used(), 1_185);
        assert!(!taken[3].grow(1));
        taken.clear();
        assert_eq!((whole.used(), parts[0].used()), (0, 0));
        // One that grows leaves more.
        let mut first = parts[0].reserve(10).unwrap();
        assert!(!first.grow(396) && first.grow(390) && !first.grow(1));
        let mut second = parts[1].reserve(10).unwrap();
        assert!(second.grow(190) && !second.grow(10));
        drop((first, second));
        assert_eq!((whole.used(), parts[0].used(), parts[1].used()), (0, 0, 0));
        assert!(parts[0].reserve(u64::MAX).is_none());
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
