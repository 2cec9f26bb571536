//! Which of many streams sends next on one link: deficit round robin (Shreedhar and Varghese, 1995) within
//! a class, the more urgent class first, and now and then a less urgent one.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use meshwire_signaling::stream::MAX_RECORD;

/// Bytes that a stream may send at its turn: the largest record, so that each turn sends something.
const QUANTUM: usize = MAX_RECORD;
/// A class that waits gets a turn after this many bytes of more urgent ones.
const PATIENCE: usize = 8 * QUANTUM;

/// How urgent a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Somebody waits for each byte.
    Interactive,
    /// As most.
    #[default]
    Normal,
    /// Whenever there is room.
    Background,
}

impl Class {
    const ALL: [Self; 3] = [Self::Interactive, Self::Normal, Self::Background];

    const fn at(self) -> usize {
        match self {
            Self::Interactive => 0,
            Self::Normal => 1,
            Self::Background => 2,
        }
    }
}

struct Entry {
    class: Class,
    deficit: usize,
    queued: bool,
}

/// Says which stream sends next on a link; one for each link.
///
/// Drive: [`Self::wake`] when a stream may have something to send; [`Self::next`] when the link has room, and send
/// that stream's next record.
pub struct Scheduler<K> {
    streams: HashMap<K, Entry>,
    turns: [VecDeque<K>; 3],
    /// Bytes of more urgent classes since this one had a turn.
    passed_over: [usize; 3],
}

impl<K> std::fmt::Debug for Scheduler<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}

impl<K: Copy + Eq + Hash> Default for Scheduler<K> {
    fn default() -> Self {
        Self { streams: HashMap::new(), turns: Default::default(), passed_over: [0; 3] }
    }
}

impl<K: Copy + Eq + Hash> Scheduler<K> {
    /// One without streams.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `stream` may have something to send. Its class counts from its next turn on.
    pub fn wake(&mut self, stream: K, class: Class) {
        let fresh = Entry { class, deficit: QUANTUM, queued: false };
        let entry = self.streams.entry(stream).or_insert(fresh);
        if !entry.queued {
            (entry.class, entry.queued) = (class, true);
            self.turns[class.at()].push_back(stream);
        }
    }

    /// Forgets `stream`.
    pub fn remove(&mut self, stream: &K) {
        if let Some(entry) = self.streams.remove(stream).filter(|e| e.queued) {
            self.turns[entry.class.at()].retain(|k| k != stream);
        }
    }

    /// The stream whose turn it is. `len` says how long a stream's next record is, none if it has none: it is then
    /// asleep until it is woken.
    pub fn next(&mut self, mut len: impl FnMut(&K) -> Option<usize>) -> Option<K> {
        let starved =
            |c: &Class| self.passed_over[c.at()] >= PATIENCE && !self.turns[c.at()].is_empty();
        let mut order = Class::ALL;
        if let Some(first) = Class::ALL.into_iter().rev().find(starved) {
            order[..=first.at()].rotate_right(1);
        }
        for class in order {
            if let Some((stream, bytes)) = self.next_of(class, &mut len) {
                self.passed_over[class.at()] = 0;
                for below in Class::ALL.into_iter().filter(|c| *c > class) {
                    let waits = !self.turns[below.at()].is_empty();
                    let passed = &mut self.passed_over[below.at()];
                    *passed = if waits { passed.saturating_add(bytes) } else { 0 };
                }
                return Some(stream);
            }
        }
        None
    }

    fn next_of(
        &mut self,
        class: Class,
        len: &mut impl FnMut(&K) -> Option<usize>,
    ) -> Option<(K, usize)> {
        let turns = &mut self.turns[class.at()];
        while let Some(stream) = turns.front().copied() {
            let Some(entry) = self.streams.get_mut(&stream) else {
                turns.pop_front();
                continue;
            };
            let Some(bytes) = len(&stream) else {
                (entry.queued, entry.deficit) = (false, QUANTUM);
                turns.pop_front();
                continue;
            };
            if entry.deficit < bytes {
                entry.deficit += QUANTUM.max(bytes);
                turns.rotate_left(1);
                continue;
            }
            entry.deficit -= bytes;
            return Some((stream, bytes));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that each of `streams` (class, record length) sends in `rounds` turns.
    fn share(streams: &[(Class, usize)], rounds: usize) -> Vec<usize> {
        let mut s = Scheduler::new();
        let mut sent = vec![0; streams.len()];
        for _ in 0..rounds {
            for (k, (class, _)) in streams.iter().enumerate() {
                s.wake(k, *class);
            }
            let k = s.next(|k| Some(streams[*k].1)).unwrap();
            sent[k] += streams[k].1;
        }
        sent
    }

    #[test]
    fn bytes_are_fair_whatever_the_size_of_records() {
        let n = Class::Normal;
        let sent = share(&[(n, MAX_RECORD), (n, 1_000), (n, 20_000), (n, 44)], 20_000);
        let (most, least) = (sent.iter().max().unwrap(), sent.iter().min().unwrap());
        assert!(most - least <= 3 * QUANTUM, "{sent:?}");
    }

    #[test]
    fn the_urgent_go_first_and_nobody_starves() {
        let streams =
            [(Class::Background, 10_000), (Class::Interactive, 10_000), (Class::Normal, 10_000)];
        let sent = share(&streams, 10_000);
        assert!(sent[1] > 8 * sent[2] && sent[1] > 8 * sent[0], "{sent:?}");
        assert!(sent[0] > 1_000_000 && sent[2] > 1_000_000, "{sent:?}");
    }

    #[test]
    fn who_has_nothing_sleeps_until_woken() {
        let mut s = Scheduler::new();
        for k in 0..3 {
            s.wake(k, Class::Normal);
            s.wake(k, Class::Normal);
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
        s.wake(0, Class::Interactive);
        assert_eq!(s.next(|_| Some(1)), Some(0));
    }
}
