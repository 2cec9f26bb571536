//! When which pair wants something: who is due is found without looking at all pairs.

use std::collections::{BTreeSet, HashMap};

use meshwire_signaling::PublicKey;
use tokio::time::Instant;

/// At most one time for each pair. It may be too early, when what was due has been put off since: whoever
/// is looked at in vain is entered anew.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    order: BTreeSet<(Instant, PublicKey)>,
    entries: HashMap<PublicKey, Instant>,
}

impl Agenda {
    /// The first time that is entered.
    pub(super) fn first(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Replaces a pair's time.
    pub(super) fn enter(&mut self, peer: PublicKey, at: Option<Instant>) {
        let old = match at {
            Some(at) => self.entries.insert(peer, at),
            None => self.entries.remove(&peer),
        };
        if let Some(old) = old {
            self.order.remove(&(old, peer));
        }
        self.order.extend(at.map(|at| (at, peer)));
    }

    /// A pair wants something at that time, too. Says whether nobody does before that.
    pub(super) fn also(&mut self, peer: PublicKey, at: Instant) -> bool {
        if self.entries.get(&peer).is_some_and(|old| *old <= at) {
            return false;
        }
        self.enter(peer, Some(at));
        self.first() == Some(at)
    }

    /// Takes out all pairs that are due.
    pub(super) fn due(&mut self, now: Instant) -> Vec<PublicKey> {
        let mut due = Vec::new();
        while let Some((at, peer)) = self.order.first().copied().filter(|(at, _)| *at <= now) {
            self.order.remove(&(at, peer));
            self.entries.remove(&peer);
            due.push(peer);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Duration;

    use super::*;

    #[test]
    fn who_is_due_is_found_and_each_pair_has_one_time() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let [a, b, c] = [1, 2, 3].map(|n| PublicKey([n; 32]));
        let mut agenda = Agenda::default();
        agenda.enter(a, Some(at(5)));
        agenda.enter(b, Some(at(3)));
        agenda.enter(c, Some(at(9)));
        assert_eq!(agenda.first(), Some(at(3)));
        agenda.enter(b, Some(at(7)));
        assert_eq!(agenda.first(), Some(at(5)));
        assert!(!agenda.also(a, at(6)), "it has an earlier one");
        assert!(!agenda.also(c, at(8)), "others have earlier ones");
        assert!(agenda.also(c, at(4)));
        agenda.enter(a, None);
        assert_eq!(agenda.due(at(3)), []);
        assert_eq!(agenda.due(at(7)), [c, b]);
        assert_eq!((agenda.first(), agenda.due(at(99))), (None, vec![]));
    }
}
