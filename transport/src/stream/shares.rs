//! How streams of different priorities share a link: the more urgent go first, and what is less urgent keeps a
//! small part.

use meshwire_signaling::Priority;

/// While more urgent ones always have something to send, a priority gets one byte of so many. The urgent lose 6 % by
/// it; and what is least urgent still moves, and says that it lives, on a link that is never idle.
const SHARE: usize = 16;

/// Who is to go next, by what went before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shares {
    /// Bytes of more urgent ones since a priority began to wait, less what it got meanwhile, by its share.
    passed_over: [usize; 3],
}

/// Where a priority has its place in a list of all.
pub(crate) const fn level(priority: Priority) -> usize {
    match priority {
        Priority::Now => 0,
        Priority::Next => 1,
        Priority::Low => 2,
    }
}

/// What the others get until one may take `bytes`.
const fn price(bytes: usize) -> usize {
    bytes.saturating_mul(SHARE - 1)
}

impl Shares {
    /// Which priority goes next. `next` says how many bytes the next of a priority takes; none: nothing of it waits.
    pub(crate) fn pick(
        &self,
        mut next: impl FnMut(Priority) -> Option<usize>,
    ) -> Option<(Priority, usize)> {
        let mut first = None;
        for priority in Priority::ALL.into_iter().rev() {
            let Some(bytes) = next(priority) else { continue };
            first = Some((priority, bytes));
            if self.passed_over[level(priority)] >= price(bytes) {
                break;
            }
        }
        first
    }

    /// `bytes` of `priority` go, while others may wait.
    pub(crate) fn went(
        &mut self,
        priority: Priority,
        bytes: usize,
        waits: impl Fn(Priority) -> bool,
    ) {
        let own = &mut self.passed_over[level(priority)];
        *own = own.saturating_sub(price(bytes));
        for below in Priority::ALL.into_iter().filter(|p| *p > priority) {
            let passed = &mut self.passed_over[level(below)];
            *passed = if waits(below) { passed.saturating_add(bytes) } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sixteenth_is_left_whatever_the_size_of_records() {
        for sizes in [[1_000; 3], [32_768, 1_000, 100], [100, 32_768, 32_768]] {
            let (mut shares, mut sent) = (Shares::default(), [0; 3]);
            for _ in 0..1_000_000 {
                let (p, bytes) = shares.pick(|p| Some(sizes[level(p)])).unwrap();
                shares.went(p, bytes, |_| true);
                sent[level(p)] += bytes;
            }
            let all: usize = sent.iter().sum();
            for (p, share) in [(1, 17), (2, 16)] {
                assert!(sent[p].abs_diff(all / share) < all / 200 + 32_768, "{sizes:?} {sent:?}");
            }
        }
    }

    #[test]
    fn who_did_not_wait_has_no_claim() {
        let mut shares = Shares::default();
        for _ in 0..100 {
            shares.went(Priority::Now, 1_000, |_| false);
        }
        let mut passed = 0;
        while shares.pick(|_| Some(100)).unwrap().0 == Priority::Now {
            shares.went(Priority::Now, 100, |_| true);
            passed += 100;
        }
        assert_eq!(passed, 1_500);
        assert_eq!(shares.pick(|p| (p == Priority::Low).then_some(7)), Some((Priority::Low, 7)));
        assert_eq!(shares.pick(|_| None), None);
    }
}
