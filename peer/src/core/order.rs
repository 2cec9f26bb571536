//! When an accepted message surfaces (design section 5.6).
//!
//! A sender numbers its messages per [`Counter`] from 1 and says with each the *floor*: the lowest
//! number that it may still deliver. The receiver keeps each counter's last surfaced number and
//! holds a message back only while a number in `[floor, seq)` above the last surfaced is missing,
//! at most [`ORDER_HOLD`], and never on first contact with a counter. A number at or below the last
//! surfaced surfaces at once: only ids suppress, and the store has done that before.
//!
//! Drive contract: offer each accepted row once to [`OrderBook::on_message`]; call
//! [`OrderBook::poll`] at [`OrderBook::next_deadline`]; surface, in order, whatever either returns.
//! `now_ms` is monotonic. After a restart, start with [`OrderBook::restore`]. What is held is
//! bounded; beyond the bounds the longest held surface early, which costs order and nothing else.

use std::collections::{BTreeMap, HashMap};

use meshwire_signaling::limits::{ORDER_HOLD, ms};
use meshwire_signaling::{InstanceId, MeshId, Priority, PublicKey, Target};

/// Most rows held for one counter: [`ORDER_HOLD`] at 800 messages a second. A path that dies under such a
/// load leaves holes until its messages have gone another way.
pub const MAX_HELD_PER_COUNTER: usize = 4_096;
/// Most rows held in total.
pub const MAX_HELD: usize = 16_384;
/// Most counters remembered; a sender makes new ones at will. Forgetting one means that its next
/// message is a first contact and surfaces at once.
pub const MAX_COUNTERS: usize = 65_536;

/// What a sender's sequence numbers count in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Counter {
    /// The mesh.
    pub mesh: MeshId,
    /// The author's identity key.
    pub author: PublicKey,
    /// The outbox it numbers in.
    pub instance: InstanceId,
    /// Whom the messages are for.
    pub target: Target,
    /// Their priority.
    pub priority: Priority,
}

/// A message that was accepted and may have to wait for its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// What it is numbered in.
    pub counter: Counter,
    /// Its number.
    pub seq: u64,
    /// The lowest number that its author may still deliver.
    pub floor: u64,
    /// The inbox row.
    pub row: i64,
}

/// Bounds of an [`OrderBook`].
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Longest hold, in milliseconds.
    pub hold_ms: u64,
    /// Most rows held for one counter.
    pub per_counter: usize,
    /// Most rows held in total.
    pub total: usize,
    /// Most counters remembered.
    pub counters: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            hold_ms: ms(ORDER_HOLD),
            per_counter: MAX_HELD_PER_COUNTER,
            total: MAX_HELD,
            counters: MAX_COUNTERS,
        }
    }
}

#[derive(Debug)]
struct Held {
    row: i64,
    deadline: u64,
}

#[derive(Debug, Default)]
struct Line {
    /// The highest number surfaced.
    last: u64,
    /// The highest floor heard of: what lies below it will not come, whoever waits for it.
    floor: u64,
    /// By number and arrival: two messages of one number are a sender's fault, not a loss.
    held: BTreeMap<(u64, u64), Held>,
    /// Arrival number of the newest message, to find the counters that fell silent.
    touched: u64,
}

/// Which rows wait for which holes; see the module's documentation.
#[derive(Debug, Default)]
pub struct OrderBook {
    bounds: Bounds,
    lines: HashMap<Counter, Line>,
    /// Every held row by (deadline, arrival).
    deadlines: BTreeMap<(u64, u64), (Counter, u64)>,
    arrivals: u64,
}

impl OrderBook {
    /// An empty book with other bounds than the default ones.
    #[must_use]
    pub fn with_bounds(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// Builds the book from what the store kept: the last surfaced number per counter, oldest
    /// counter first, and the rows not surfaced yet, in row order. Returns the book and the rows to
    /// surface now; what still has a hole waits its full time again.
    #[must_use]
    pub fn restore(
        bounds: Bounds,
        cursors: impl IntoIterator<Item = (Counter, u64)>,
        held: impl IntoIterator<Item = Waiting>,
        now_ms: u64,
    ) -> (Self, Vec<i64>) {
        let mut book = Self::with_bounds(bounds);
        for (counter, last) in cursors {
            book.arrivals += 1;
            let line = Line { last, touched: book.arrivals, ..Line::default() };
            book.lines.insert(counter, line);
            book.forget_silent();
        }
        let surfaced = held.into_iter().flat_map(|w| book.on_message(now_ms, w)).collect();
        (book, surfaced)
    }

    /// Takes an accepted row; returns the rows that surface now, in order.
    #[must_use = "these rows surface now"]
    pub fn on_message(&mut self, now_ms: u64, message: Waiting) -> Vec<i64> {
        let Waiting { counter, seq, floor, row } = message;
        self.arrivals += 1;
        let arrival = self.arrivals;
        let Some(line) = self.lines.get_mut(&counter) else {
            let line = Line { last: seq, floor, touched: arrival, ..Line::default() };
            self.lines.insert(counter, line);
            self.forget_silent();
            return vec![row];
        };
        line.touched = arrival;
        line.floor = line.floor.max(floor);
        if seq <= line.last {
            // It may have brought a floor that frees others, which come after it.
            let mut out = vec![row];
            self.release(&counter, &mut out);
            return out;
        }
        let deadline = now_ms.saturating_add(self.bounds.hold_ms);
        line.held.insert((seq, arrival), Held { row, deadline });
        self.deadlines.insert((deadline, arrival), (counter.clone(), seq));
        let mut out = Vec::new();
        self.release(&counter, &mut out);
        self.shed(&counter, &mut out);
        out
    }

    /// The rows whose hold is over, and those that they were in front of, in order.
    #[must_use = "these rows surface now"]
    pub fn poll(&mut self, now_ms: u64) -> Vec<i64> {
        let mut out = Vec::new();
        while let Some((&(deadline, _), _)) = self.deadlines.first_key_value() {
            if deadline > now_ms {
                break;
            }
            self.force_oldest(&mut out);
        }
        out
    }

    /// When [`Self::poll`] is due, in the clock of `now_ms`.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// How many rows wait.
    #[must_use]
    pub fn held(&self) -> usize {
        self.deadlines.len()
    }

    /// Surfaces what has no hole in front of it any more.
    fn release(&mut self, counter: &Counter, out: &mut Vec<i64>) {
        let Some(line) = self.lines.get_mut(counter) else { return };
        while let Some(entry) = line.held.first_entry() {
            let &(seq, arrival) = entry.key();
            if seq > line.last.saturating_add(1).max(line.floor) {
                break;
            }
            let held = entry.remove();
            line.last = line.last.max(seq);
            self.deadlines.remove(&(held.deadline, arrival));
            out.push(held.row);
        }
    }

    /// Surfaces the longest held row of all, after those of its counter with lower numbers.
    fn force_oldest(&mut self, out: &mut Vec<i64>) {
        // Taken out here, so that whoever loops over this ends whatever is in the lines.
        if let Some((_, (counter, seq))) = self.deadlines.pop_first() {
            self.force(&counter, seq, out);
        }
    }

    /// Gives up all holes below `seq`.
    fn force(&mut self, counter: &Counter, seq: u64, out: &mut Vec<i64>) {
        if let Some(line) = self.lines.get_mut(counter) {
            // As if the sender had said so: held numbers below surface first, in order.
            line.floor = line.floor.max(seq);
        }
        self.release(counter, out);
    }

    /// Keeps the bounds after `counter` grew.
    fn shed(&mut self, counter: &Counter, out: &mut Vec<i64>) {
        while let Some(line) = self.lines.get(counter) {
            if line.held.len() <= self.bounds.per_counter {
                break;
            }
            let oldest = line.held.iter().min_by_key(|((_, arrival), _)| *arrival);
            let Some((&(seq, _), _)) = oldest else { break };
            self.force(counter, seq, out);
        }
        while self.deadlines.len() > self.bounds.total {
            self.force_oldest(out);
        }
    }

    /// Forgets the longer silent half of the counters without held rows, when there are too many.
    fn forget_silent(&mut self) {
        if self.lines.len() <= self.bounds.counters {
            return;
        }
        let mut idle: Vec<u64> =
            self.lines.values().filter(|l| l.held.is_empty()).map(|l| l.touched).collect();
        idle.sort_unstable();
        let Some(&limit) = idle.get(idle.len() / 2) else { return };
        self.lines.retain(|_, line| !line.held.is_empty() || line.touched >= limit);
    }
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
