//! Whose rows may leave, and when the next one may.

use std::collections::HashMap;

use meshwire_signaling::{PublicKey, UnixMillis};

use crate::store::Pick;

/// Rows on one direct path after which no more are taken for it: a peer that is slow to take its mail must
/// not keep others waiting for theirs. The relay's have one connection anyway.
pub(super) const SHARE: usize = 64;

/// How many rows each direct path has of us, unanswered.
#[derive(Debug, Default)]
pub(super) struct Load(HashMap<PublicKey, usize>);

impl Load {
    pub(super) fn handed(&mut self, peer: PublicKey) {
        *self.0.entry(peer).or_default() += 1;
    }

    pub(super) fn answered(&mut self, peer: &PublicKey) {
        if let Some(count) = self.0.get_mut(peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.0.remove(peer);
            }
        }
    }

    /// Whose paths have enough to do.
    pub(super) fn busy(&self) -> Vec<PublicKey> {
        let busy = self.0.iter().filter(|(_, count)| **count >= SHARE);
        let mut busy: Vec<PublicKey> = busy.map(|(peer, _)| *peer).collect();
        busy.sort_unstable();
        busy
    }
}

/// Whose rows may leave now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) only: Option<Vec<PublicKey>>,
    pub(super) busy: Vec<PublicKey>,
}

impl Open {
    pub(super) fn pick(&self) -> Pick<'_> {
        Pick { only: self.only.as_deref(), busy: &self.busy }
    }
}

/// When the next row is due, as long as nobody but [`super::run`] puts one off: whoever adds rows or hastens
/// them makes them due now, and wakes us.
#[derive(Debug, Default)]
pub(super) enum Alarm {
    /// To be asked of the store.
    #[default]
    Unknown,
    /// Unix milliseconds; none while nothing waits for its time.
    At(Option<UnixMillis>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_busy_while_it_has_its_share() {
        let (one, two) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let mut load = Load::default();
        for _ in 1..SHARE {
            load.handed(one);
            load.handed(two);
        }
        assert_eq!(load.busy(), []);
        load.handed(two);
        load.handed(one);
        assert_eq!(load.busy(), [one, two]);
        load.answered(&one);
        assert_eq!(load.busy(), [two]);
        for _ in 0..SHARE * 2 {
            load.answered(&two);
        }
        load.answered(&PublicKey([3; 32]));
        assert_eq!(load.busy(), []);
        load.handed(two);
        assert_eq!(load.0.len(), 2, "{load:?}");
    }
}
