//! What became of direct paths, counted for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::history::{Cause, What};

/// Counts of all pairs of a mesh since the node started. Shared by the pairs' histories.
#[derive(Debug, Default)]
pub struct Tally {
    offered: AtomicU64,
    answered: AtomicU64,
    up: AtomicU64,
    moved: AtomicU64,
    stayed: AtomicU64,
    failed: [AtomicU64; Cause::ALL.len()],
    down: [AtomicU64; Cause::ALL.len()],
    avoidable: AtomicU64,
}

impl Tally {
    fn cell(&self, what: What) -> Option<&AtomicU64> {
        match what {
            What::Offered => Some(&self.offered),
            What::Answered => Some(&self.answered),
            What::Up => Some(&self.up),
            What::Moved => Some(&self.moved),
            What::Stayed => Some(&self.stayed),
            What::Failed(cause) => self.failed.get(cause as usize),
            What::Down(cause) => self.down.get(cause as usize),
        }
    }

    /// Counts what happened.
    pub fn note(&self, what: What) {
        if let Some(cell) = self.cell(what) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Bytes of a message went over the relay to a peer that a direct path could have led to.
    pub fn relayed(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.avoidable.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that [`Self::relayed`] was told of.
    #[must_use]
    pub fn avoidable_bytes(&self) -> u64 {
        self.avoidable.load(Ordering::Relaxed)
    }

    /// How often something happened.
    #[must_use]
    pub fn count(&self, what: What) -> u64 {
        self.cell(what).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_counted_by_itself() {
        let tally = Tally::default();
        for (times, cause) in (1..).zip(Cause::ALL) {
            for _ in 0..times {
                tally.note(What::Failed(cause));
            }
            tally.note(What::Down(cause));
        }
        for (times, cause) in (1..).zip(Cause::ALL) {
            assert_eq!(tally.count(What::Failed(cause)), times);
            assert_eq!(tally.count(What::Down(cause)), 1);
        }
        assert_eq!(tally.count(What::Up), 0);
        tally.relayed(5);
        tally.relayed(2);
        assert_eq!(tally.avoidable_bytes(), 7);
    }
}
