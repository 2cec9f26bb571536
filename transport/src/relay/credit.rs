//! What a node may have at the broker that has not left it yet. No I/O.

use std::collections::HashMap;

use meshwire_signaling::stream::MAX_RECORD;
use meshwire_signaling::stream::carry::{MAX_STREAMS, PAIR_WINDOW, STREAM_WINDOW};
use meshwire_signaling::{PublicKey, StreamId};

/// How much of the windows is used on one connection, and who waits for more. `K` names who.
#[derive(Debug)]
pub(super) struct Credit<K> {
    /// None of them is 0.
    streams: HashMap<(StreamId, PublicKey), u64>,
    pairs: HashMap<PublicKey, Pair<K>>,
}

#[derive(Debug)]
struct Pair<K> {
    used: u64,
    streams: usize,
    waiting: Vec<K>,
}

impl<K> Default for Pair<K> {
    fn default() -> Self {
        Self { used: 0, streams: 0, waiting: Vec::new() }
    }
}

impl<K> Default for Credit<K> {
    fn default() -> Self {
        Self { streams: HashMap::new(), pairs: HashMap::new() }
    }
}

impl<K> Credit<K> {
    /// Whether a record of any length may be sent; if not, `who` waits until [`Self::give`] returns it.
    pub(super) fn room(&mut self, stream: StreamId, to: PublicKey, who: K) -> bool {
        let Some(pair) = self.pairs.get_mut(&to) else { return true };
        let most = MAX_RECORD as u64;
        let used = self.streams.get(&(stream, to)).copied();
        let fits = used.unwrap_or(0) + most <= STREAM_WINDOW
            && pair.used + most <= PAIR_WINDOW
            && (used.is_some() || pair.streams < MAX_STREAMS);
        if !fits {
            pair.waiting.push(who);
        }
        fits
    }

    /// A record was sent.
    pub(super) fn spend(&mut self, stream: StreamId, to: PublicKey, bytes: u64) {
        let pair = self.pairs.entry(to).or_default();
        pair.used += bytes;
        let used = self.streams.entry((stream, to)).or_insert_with(|| {
            pair.streams += 1;
            0
        });
        *used += bytes;
    }

    /// The broker says that so many bytes have left it: who is to try again. More than were sent change nothing.
    pub(super) fn give(&mut self, stream: StreamId, to: PublicKey, bytes: u64) -> Vec<K> {
        let Some(pair) = self.pairs.get_mut(&to) else { return Vec::new() };
        let Some(used) = self.streams.get_mut(&(stream, to)) else { return Vec::new() };
        let back = bytes.min(*used);
        *used -= back;
        pair.used -= back;
        if *used == 0 {
            self.streams.remove(&(stream, to));
            pair.streams -= 1;
        }
        let waiting = std::mem::take(&mut pair.waiting);
        if pair.streams == 0 {
            self.pairs.remove(&to);
        }
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: PublicKey = PublicKey([1; 32]);
    const MOST: u64 = MAX_RECORD as u64;

    fn stream(n: usize) -> StreamId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        StreamId(id)
    }

    /// How many of the largest records fit.
    fn fill(credit: &mut Credit<usize>, n: usize) -> u64 {
        let mut sent = 0;
        while credit.room(stream(n), TO, n) {
            credit.spend(stream(n), TO, MOST);
            sent += MOST;
        }
        sent
    }

    #[test]
    fn windows_are_kept_and_who_waits_is_told() {
        let mut credit = Credit::default();
        for n in 0..4 {
            assert_eq!(fill(&mut credit, n), STREAM_WINDOW);
        }
        assert_eq!(fill(&mut credit, 4), 0, "all streams to one recipient have a window, too");
        assert!(credit.room(stream(4), PublicKey([2; 32]), 9), "others have their own");
        assert_eq!(credit.give(stream(1), TO, MOST), [0, 1, 2, 3, 4]);
        assert_eq!(fill(&mut credit, 0), 0);
        assert_eq!(fill(&mut credit, 4), MOST);
    }

    #[test]
    fn what_comes_back_is_forgotten_and_no_more_than_was_sent() {
        let mut credit = Credit::<usize>::default();
        assert!(credit.give(stream(0), TO, u64::MAX).is_empty());
        credit.spend(stream(0), TO, 100);
        credit.spend(stream(1), TO, 50);
        assert!(credit.give(stream(0), TO, u64::MAX).is_empty());
        assert_eq!((credit.streams.len(), credit.pairs[&TO].used), (1, 50));
        let _ = credit.give(stream(1), TO, 50);
        assert!(credit.streams.is_empty() && credit.pairs.is_empty());
    }

    #[test]
    fn the_number_of_streams_is_bounded() {
        let mut credit = Credit::default();
        for n in 0..MAX_STREAMS {
            assert!(credit.room(stream(n), TO, n));
            credit.spend(stream(n), TO, 44);
        }
        assert!(!credit.room(stream(MAX_STREAMS), TO, MAX_STREAMS));
        assert!(credit.room(stream(7), TO, 7), "it has begun");
        assert_eq!(credit.give(stream(3), TO, 44), [MAX_STREAMS]);
        assert!(credit.room(stream(MAX_STREAMS), TO, MAX_STREAMS));
    }
}
