//! What one socket is to be told.

use std::collections::HashMap;

use meshwire_signaling::stream::carry::{PAIR_WINDOW, STREAM_WINDOW};
use meshwire_signaling::{PublicKey, StreamId};

/// Credit of one stream that is worth a message of its own: often enough that a sender in its window never waits,
/// rarely enough to cost nothing.
pub(super) const LUMP: u64 = STREAM_WINDOW / 8;
/// As [`LUMP`], for all streams of a socket together.
pub(super) const HEAP: u64 = PAIR_WINDOW / 8;
/// As [`HEAP`], of what no quota holds back.
pub(super) const SMALL_HEAP: u64 = 8 << 10;
/// Streams to which credit is owed before it is told, whatever it amounts to.
pub(super) const DEBTS: usize = 1_024;
/// As [`DEBTS`], of a socket that does not read what it is told.
pub(super) const MAX_DEBTS: usize = 16 * DEBTS;
/// Notices that wait for one socket. They are hints; more are dropped.
pub(super) const NOTICES: usize = 64;

type Debts = HashMap<(StreamId, PublicKey), u64>;

/// What is to be told to one socket: credit for the records that it sent, and notices. Credit for what its member's
/// quota has not been charged for is *free*: it does not wait for the quota.
#[derive(Debug)]
pub struct Owed<N> {
    credit: Debts,
    free: Debts,
    /// All of these, by recipient.
    pairs: HashMap<PublicKey, u64>,
    total: u64,
    free_total: u64,
    lump: bool,
    notices: Vec<N>,
}

impl<N> Default for Owed<N> {
    fn default() -> Self {
        Self {
            credit: HashMap::new(),
            free: HashMap::new(),
            pairs: HashMap::new(),
            total: 0,
            free_total: 0,
            lump: false,
            notices: Vec::new(),
        }
    }
}

impl<N: PartialEq> Owed<N> {
    /// So many bytes of a stream have left. Says whether it is to be looked at anew: something is due now, or there
    /// was nothing of this sort before.
    pub fn give(&mut self, stream: StreamId, to: PublicKey, bytes: u64, free: bool) -> bool {
        let before = (self.is_any(!free), self.is_due(true), self.is_due(false));
        let debts = if free { &mut self.free } else { &mut self.credit };
        let owed = debts.entry((stream, to)).or_default();
        *owed = owed.saturating_add(bytes);
        self.lump |= !free && *owed >= LUMP;
        let pair = self.pairs.entry(to).or_default();
        *pair = pair.saturating_add(bytes);
        let total = if free { &mut self.free_total } else { &mut self.total };
        *total = total.saturating_add(bytes);
        before != (true, self.is_due(true), self.is_due(false))
    }

    /// What of all streams to a recipient is not told yet.
    #[must_use]
    pub fn untold(&self, to: &PublicKey) -> u64 {
        self.pairs.get(to).copied().unwrap_or(0)
    }

    /// Whether there is something to be told now rather than some time; `all`, or only what is free.
    #[must_use]
    pub fn is_due(&self, all: bool) -> bool {
        self.free_total >= SMALL_HEAP
            || all
                && (self.lump || self.total >= HEAP || self.credit.len() + self.free.len() >= DEBTS)
    }

    /// Whether there is any credit to be told of; `all`, or only what is free.
    #[must_use]
    pub fn is_any(&self, all: bool) -> bool {
        !self.free.is_empty() || all && !self.credit.is_empty()
    }

    /// Whether it has grown to more than anybody leaves it who reads.
    #[must_use]
    pub fn is_overfull(&self) -> bool {
        self.credit.len() + self.free.len() > MAX_DEBTS
    }

    /// Credit per stream and recipient; `all`, or only what is free. A stream may come twice.
    pub fn take(&mut self, all: bool) -> impl Iterator<Item = (StreamId, PublicKey, u64)> + use<N> {
        let free = std::mem::take(&mut self.free);
        self.free_total = 0;
        let mut credit = Debts::new();
        if all {
            (self.total, self.lump) = (0, false);
            credit = std::mem::take(&mut self.credit);
            self.pairs.clear();
        } else {
            for ((_, to), bytes) in &free {
                if let Some(pair) = self.pairs.get_mut(to) {
                    *pair = pair.saturating_sub(*bytes);
                    if *pair == 0 {
                        self.pairs.remove(to);
                    }
                }
            }
        }
        free.into_iter().chain(credit).map(|((stream, to), n)| (stream, to, n))
    }

    /// Adds a notice, unless it waits already or too many do. Says whether it is the first.
    pub fn notice(&mut self, notice: N) -> bool {
        if self.notices.len() >= NOTICES || self.notices.contains(&notice) {
            return false;
        }
        self.notices.push(notice);
        self.notices.len() == 1
    }

    /// Whether notices wait.
    #[must_use]
    pub fn has_notices(&self) -> bool {
        !self.notices.is_empty()
    }

    /// All notices, in order.
    pub fn notices(&mut self) -> Vec<N> {
        std::mem::take(&mut self.notices)
    }
}
