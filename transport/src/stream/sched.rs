//! Which of many streams sends next on one link: deficit round robin (Shreedhar and Varghese, 1995) within
//! a priority, the more urgent priority first, and a small part for those that are less so.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use meshwire_signaling::Priority;
use meshwire_signaling::stream::MAX_RECORD;

use super::shares::{Shares, level};

/// Bytes that a stream may send at its turn: the largest record, so that each turn sends something.
const QUANTUM: usize = MAX_RECORD;
/// States and resets have no more.
const SMALL: usize = 512;

struct Entry {
    priority: Priority,
    deficit: usize,
    queued: bool,
    pressing: bool,
}

/// Says which stream sends next on a link; one for each link.
///
/// Drive: [`Self::wake`] when a stream may have something to send, [`Self::press`] too if that is a word of the
/// protocol; [`Self::next`] when the link has room, and send that stream's next record.
pub struct Scheduler<K> {
    streams: HashMap<K, Entry>,
    turns: [VecDeque<K>; 3],
    shares: Shares,
    /// Streams whose next record goes before its turn.
    pressing: VecDeque<K>,
    /// Bytes of such, less those that went in turn: no more than these, so that whoever provokes them holds up nobody.
    pressed: usize,
}

impl<K> std::fmt::Debug for Scheduler<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}

impl<K: Copy + Eq + Hash> Default for Scheduler<K> {
    fn default() -> Self {
        Self {
            streams: HashMap::new(),
            turns: Default::default(),
            shares: Shares::default(),
            pressing: VecDeque::new(),
            pressed: 0,
        }
    }
}

impl<K: Copy + Eq + Hash> Scheduler<K> {
    /// One without streams.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `stream` may have something to send. With another priority than before it takes its place behind all of that.
    pub fn wake(&mut self, stream: K, priority: Priority) {
        let fresh = Entry { priority, deficit: QUANTUM, queued: false, pressing: false };
        let entry = self.streams.entry(stream).or_insert(fresh);
        if entry.queued && entry.priority != priority {
            self.turns[level(entry.priority)].retain(|k| *k != stream);
            entry.queued = false;
        }
        if !entry.queued {
            (entry.priority, entry.queued) = (priority, true);
            self.turns[level(priority)].push_back(stream);
        }
    }

    /// The next record of `stream`, which is awake, tells the other side how far it is, or that it lives: it does not
    /// wait for its turn, if it is small.
    pub fn press(&mut self, stream: K) {
        if let Some(entry) = self.streams.get_mut(&stream).filter(|e| !e.pressing) {
            entry.pressing = true;
            self.pressing.push_back(stream);
        }
    }

    /// Forgets `stream`.
    pub fn remove(&mut self, stream: &K) {
        let Some(entry) = self.streams.remove(stream) else { return };
        if entry.queued {
            self.turns[level(entry.priority)].retain(|k| k != stream);
        }
        if entry.pressing {
            self.pressing.retain(|k| k != stream);
        }
    }

    /// The stream whose turn it is. `len` says how long a stream's next record is, none if it has none: it is then
    /// asleep until it is woken.
    pub fn next(&mut self, mut len: impl FnMut(&K) -> Option<usize>) -> Option<K> {
        if let Some(stream) = self.next_pressing(&mut len) {
            return Some(stream);
        }
        let Self { streams, turns, shares, .. } = self;
        let first = |priority| first(streams, &mut turns[level(priority)], &mut len);
        let (priority, bytes) = shares.pick(first)?;
        let stream = turns[level(priority)].front().copied()?;
        shares.went(priority, bytes, |below| !turns[level(below)].is_empty());
        if let Some(entry) = streams.get_mut(&stream) {
            entry.deficit = entry.deficit.saturating_sub(bytes);
        }
        self.pressed = self.pressed.saturating_sub(bytes);
        Some(stream)
    }

    fn next_pressing(&mut self, len: &mut impl FnMut(&K) -> Option<usize>) -> Option<K> {
        while self.pressed < QUANTUM {
            let stream = self.pressing.pop_front()?;
            if let Some(entry) = self.streams.get_mut(&stream) {
                entry.pressing = false;
            }
            // What is larger has its place in turn.
            if let Some(bytes) = len(&stream).filter(|bytes| *bytes <= SMALL) {
                self.pressed += bytes;
                return Some(stream);
            }
        }
        None
    }
}

/// Brings to the front of `turns` the stream that sends next; how many bytes.
fn first<K: Copy + Eq + Hash>(
    streams: &mut HashMap<K, Entry>,
    turns: &mut VecDeque<K>,
    len: &mut impl FnMut(&K) -> Option<usize>,
) -> Option<usize> {
    while let Some(stream) = turns.front().copied() {
        let Some(entry) = streams.get_mut(&stream) else {
            turns.pop_front();
            continue;
        };
        let Some(bytes) = len(&stream) else {
            (entry.queued, entry.deficit) = (false, QUANTUM);
            turns.pop_front();
            continue;
        };
        if entry.deficit >= bytes {
            return Some(bytes);
        }
        entry.deficit += QUANTUM.max(bytes);
        turns.rotate_left(1);
    }
    None
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

    use super::*;

    const NOW: Priority = Priority::Now;
    const NEXT: Priority = Priority::Next;
    const LOW: Priority = Priority::Low;

    /// Bytes that each of `streams` (priority, record length) sends in `rounds` turns.
    fn share(streams: &[(Priority, usize)], rounds: usize) -> Vec<usize> {
        let mut s = Scheduler::new();
        let mut sent = vec![0; streams.len()];
        for _ in 0..rounds {
            for (k, (priority, _)) in streams.iter().enumerate() {
                s.wake(k, *priority);
            }
            let k = s.next(|k| Some(streams[*k].1)).unwrap();
            sent[k] += streams[k].1;
        }
        sent
    }

    #[test]
    fn bytes_are_fair_whatever_the_size_of_records() {
        for priority in Priority::ALL {
            let sizes = [MAX_RECORD, 1_000, 20_000, 44];
            let sent = share(&sizes.map(|size| (priority, size)), 20_000);
            let (most, least) = (sent.iter().max().unwrap(), sent.iter().min().unwrap());
            assert!(most - least <= 3 * QUANTUM, "{sent:?}");
        }
    }

    /// Streams of any priorities and sizes, of which some sleep now and then.
    #[test]
    fn the_urgent_go_first_equals_are_fair_and_nobody_starves() {
        for seed in 0..60 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut below = |n: usize| usize::try_from(rng.next_u32()).unwrap() % n;
            let streams: Vec<(Priority, usize)> = (0..2 + below(12))
                .map(|_| (Priority::ALL[below(3)], [900, 3_000, 9_000, MAX_RECORD][below(4)]))
                .collect();
            let late = if below(2) == 0 { 20 * QUANTUM } else { 0 };
            let (mut s, mut sent, mut all) = (Scheduler::new(), vec![0; streams.len()], 0);
            let mut awake = false;
            while all < 800 * QUANTUM {
                // Every other one has nothing at first.
                let has = |k: usize| k.is_multiple_of(2) || all >= late;
                if all == 0 || !awake && all >= late {
                    awake = all >= late;
                    for k in (0..streams.len()).filter(|k| has(*k)) {
                        s.wake(k, streams[k].0);
                    }
                }
                let k = s.next(|k| has(*k).then_some(streams[*k].1)).unwrap();
                sent[k] += streams[k].1;
                all += streams[k].1;
            }
            let of = |p: Priority| -> Vec<usize> {
                (0..streams.len()).filter(|k| streams[*k].0 == p).map(|k| sent[k]).collect()
            };
            let sums = Priority::ALL.map(|p| of(p).iter().sum::<usize>());
            let present: Vec<usize> = sums.into_iter().filter(|sum| *sum > 0).collect();
            for (n, sum) in present.iter().enumerate().skip(1) {
                let part = all / if n == 2 || present.len() == 2 { 16 } else { 17 };
                let slack = late + 4 * QUANTUM;
                assert!(sum.abs_diff(part) <= slack, "seed {seed}: {sums:?} of {streams:?}");
            }
            for sent in Priority::ALL.map(of) {
                let (most, least) = (sent.iter().max(), sent.iter().min());
                let apart = most.unwrap_or(&0) - least.unwrap_or(&0);
                assert!(apart <= late + 3 * QUANTUM, "seed {seed}: {sent:?} of {streams:?}");
            }
        }
    }

    #[test]
    fn who_comes_later_and_is_more_urgent_goes_at_once() {
        let mut s = Scheduler::new();
        let len = |_: &usize| Some(MAX_RECORD);
        for k in 0..100 {
            s.wake(k, LOW);
        }
        for _ in 0..1_000 {
            assert!(s.next(len).unwrap() < 100);
        }
        s.wake(100, NEXT);
        let turns: Vec<usize> = (0..16).map(|_| s.next(len).unwrap()).collect();
        assert_eq!(turns.iter().filter(|k| **k == 100).count(), 15);
        assert_eq!(turns[0], 100);
        s.wake(101, NOW);
        assert_eq!(s.next(len), Some(101));
        // With another priority than before.
        s.wake(50, NOW);
        assert_eq!([s.next(len), s.next(len)], [Some(50), Some(101)]);
        s.wake(101, LOW);
        s.wake(50, LOW);
        assert_eq!(s.next(len), Some(100));
    }

    #[test]
    fn states_do_not_wait_and_hold_up_nobody() {
        let mut s = Scheduler::new();
        let state = |k: &usize| Some(if *k == 1 { 110 } else { MAX_RECORD });
        for (k, priority) in [(0, NOW), (1, LOW), (2, LOW)] {
            s.wake(k, priority);
        }
        s.press(1);
        s.press(1);
        // A chunk has its turn.
        s.press(2);
        assert_eq!([s.next(state), s.next(state)], [Some(1), Some(0)]);
        // Whoever is asked for a state all the time.
        let mut others = 0;
        for _ in 0..100_000 {
            s.press(1);
            let k = s.next(state).unwrap();
            others += if k == 1 { 0 } else { MAX_RECORD };
        }
        assert!(others > 5_000_000, "{others}");
        s.press(1);
        s.remove(&1);
        assert_ne!(s.next(state), Some(1));
    }

    #[test]
    fn who_has_nothing_sleeps_until_woken() {
        let mut s = Scheduler::new();
        for k in 0..3 {
            s.wake(k, NEXT);
            s.wake(k, NEXT);
        }
        let mut asked = 0;
        let next = s.next(|k| {
            asked += 1;
            (*k == 2).then_some(100)
        });
        assert_eq!((next, asked), (Some(2), 3));
        assert_eq!(s.next(|k| Some(*k)), Some(2));
        s.remove(&2);
        assert_eq!(s.next(|_| Some(1)), None);
        s.wake(0, NOW);
        assert_eq!(s.next(|_| Some(1)), Some(0));
    }
}
