//! What a node may have at the broker that has not left it yet. No I/O.
//!
//! A stream begins with a window of [`STREAM_WINDOW`]: were it larger, a slow recipient would make the broker hold all
//! of it. It follows the way to the broker, up to [`PAIR_WINDOW`], as credit shows it: what a full window brings per
//! round trip, twice, counted by the quickest round trip that there was. So a long way fills it, and a queue at the
//! broker does not.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use meshwire_signaling::stream::MAX_RECORD;
use meshwire_signaling::stream::carry::{MAX_STREAMS, PAIR_WINDOW, STREAM_WINDOW};
use meshwire_signaling::{PublicKey, StreamId};
use tokio::time::Instant;

#[cfg(test)]
mod tests;

/// The longest record.
const MOST: u64 = MAX_RECORD as u64;
/// Records up to this are states, resets and the like: they may use what is left of a window.
const SMALL: u64 = 512;
/// What is left for them: some hundreds, for a broker that lets bulk wait gives their credit back within 50 ms.
const RESERVE: u64 = MOST;
/// What all else has of a pair's window.
const BULK_WINDOW: u64 = PAIR_WINDOW - RESERVE;

/// How much of the windows is used on one connection, and who waits for more. `K` names who.
#[derive(Debug)]
pub(super) struct Credit<K> {
    /// None of them is 0.
    streams: HashMap<(StreamId, PublicKey), u64>,
    pairs: HashMap<PublicKey, Pair<K>>,
    /// The least that credit has taken to come back: the way to the broker, without a queue there.
    quickest: Option<Duration>,
}

#[derive(Debug)]
struct Pair<K> {
    used: u64,
    streams: usize,
    /// In order, each once.
    waiting: Vec<K>,
    asked: HashSet<K>,
    /// Of each stream.
    window: u64,
    /// Whether that, or the pair's, has kept a stream from sending.
    limited: bool,
    /// Bytes that were sent and came back, altogether.
    sent: u64,
    back: u64,
    round: Option<Round>,
}

/// A round trip: from a record to its credit.
#[derive(Clone, Copy, Debug)]
struct Round {
    began: Instant,
    /// What had come back by then.
    back: u64,
    /// It is over when as much has.
    until: u64,
}

impl<K> Default for Pair<K> {
    fn default() -> Self {
        Self {
            used: 0,
            streams: 0,
            waiting: Vec::new(),
            asked: HashSet::new(),
            window: STREAM_WINDOW,
            limited: false,
            sent: 0,
            back: 0,
            round: None,
        }
    }
}

impl<K> Pair<K> {
    /// Ends a round, and fits the window to it.
    fn end(&mut self, round: Round, quickest: &mut Option<Duration>, now: Instant) {
        let took = now.saturating_duration_since(round.began);
        let least = quickest.map_or(took, |least| least.min(took));
        *quickest = Some(least);
        if std::mem::take(&mut self.limited) && !took.is_zero() {
            let brought = u128::from(self.back - round.back) * least.as_nanos() / took.as_nanos();
            let twice = u64::try_from(brought).unwrap_or(u64::MAX).saturating_mul(2);
            self.window = twice.clamp(STREAM_WINDOW, BULK_WINDOW);
        }
    }
}

impl<K> Default for Credit<K> {
    fn default() -> Self {
        Self { streams: HashMap::new(), pairs: HashMap::new(), quickest: None }
    }
}

impl<K: Copy + Eq + Hash> Credit<K> {
    /// Whether a record of `len` bytes may be sent; if not, `who` waits until [`Self::give`] returns it.
    pub(super) fn room(&mut self, stream: StreamId, to: PublicKey, len: u64, who: K) -> bool {
        let Some(pair) = self.pairs.get_mut(&to) else { return true };
        let used = self.streams.get(&(stream, to)).copied();
        let fits = (used.is_some() || pair.streams < MAX_STREAMS)
            && if len <= SMALL {
                pair.used + len <= PAIR_WINDOW
            } else {
                let fits =
                    used.unwrap_or(0) + MOST <= pair.window && pair.used + MOST <= BULK_WINDOW;
                pair.limited |= !fits;
                fits
            };
        if !fits && pair.asked.insert(who) {
            pair.waiting.push(who);
        }
        fits
    }

    /// A record was sent.
    pub(super) fn spend(&mut self, stream: StreamId, to: PublicKey, bytes: u64, now: Instant) {
        let pair = self.pairs.entry(to).or_default();
        pair.used += bytes;
        pair.sent += bytes;
        let used = self.streams.entry((stream, to)).or_insert_with(|| {
            pair.streams += 1;
            0
        });
        *used += bytes;
        pair.round.get_or_insert(Round { began: now, back: pair.back, until: pair.sent });
    }

    /// The broker says that so many bytes have left it: who is to try again. More than were sent change nothing.
    pub(super) fn give(
        &mut self,
        stream: StreamId,
        to: PublicKey,
        bytes: u64,
        now: Instant,
    ) -> Vec<K> {
        let Some(pair) = self.pairs.get_mut(&to) else { return Vec::new() };
        let Some(used) = self.streams.get_mut(&(stream, to)) else { return Vec::new() };
        let back = bytes.min(*used);
        *used -= back;
        pair.used -= back;
        pair.back += back;
        if let Some(round) = pair.round.take_if(|round| pair.back >= round.until) {
            pair.end(round, &mut self.quickest, now);
        }
        if *used == 0 {
            self.streams.remove(&(stream, to));
            pair.streams -= 1;
        }
        pair.asked.clear();
        let waiting = std::mem::take(&mut pair.waiting);
        if pair.streams == 0 {
            self.pairs.remove(&to);
        }
        waiting
    }
}
