//! Records of streams that wait for one socket, what is owed to their senders for them, and how fast members may
//! send them. No I/O, no clock.
//!
//! ```text
//! sender's socket --push--> Queue of the recipient's socket --pop--> recipient
//!        ^                                                    |
//!        +------ credit, in lumps ------- Owed <---- bytes ---+
//! ```
//!
//! A record is refused where its stream, or all streams of its socket to its recipient, would hold more than their
//! windows: no honest sender comes there, for what it has sent counts until the broker says that it left.

use std::collections::{HashMap, VecDeque};

use meshwire_signaling::stream::MAX_RECORD;
use meshwire_signaling::stream::carry::{MAX_STREAMS, PAIR_WINDOW, STREAM_WINDOW};
use meshwire_signaling::{PublicKey, StreamId};

use super::presence::ConnId;

#[cfg(test)]
mod tests;

/// Bytes that a stream may send per turn: any record fits.
const QUANTUM: u64 = MAX_RECORD as u64;
/// Credit of one stream that is worth a message of its own: often enough that a sender in its window never waits,
/// rarely enough to cost nothing.
const LUMP: u64 = STREAM_WINDOW / 8;
/// As [`LUMP`], for all streams of a socket together.
const HEAP: u64 = PAIR_WINDOW / 8;
/// Streams to which credit is owed before it is told, whatever it amounts to.
const DEBTS: usize = 1_024;
/// As [`DEBTS`], of a socket that does not read what it is told.
const MAX_DEBTS: usize = 16 * DEBTS;
/// Notices that wait for one socket. They are hints; more are dropped.
const NOTICES: usize = 64;
/// What a member may send at once, in seconds of its rate.
const BURST_SECS: u64 = 1;

/// One stream of one socket, to one identity. Its records stay in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// The sender's connection.
    pub sender: ConnId,
    /// The stream.
    pub stream: StreamId,
    /// The recipient.
    pub to: PublicKey,
}

impl Line {
    fn pair(&self) -> (ConnId, PublicKey) {
        (self.sender, self.to)
    }
}

/// Why a record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its stream's window, or that of its sender to this recipient, is full, or it has too many streams.
    Full,
    /// The recipient's connection has ended.
    Closed,
}

/// Of each record, what it is and its length.
#[derive(Debug)]
struct Waiting<S, T> {
    sender: S,
    records: VecDeque<(T, u64)>,
    bytes: u64,
    deficit: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    bytes: u64,
    lines: usize,
}

/// Records that wait for one socket: in order within a stream, deficit round robin between streams (Shreedhar and
/// Varghese, 1995). `S` is where a stream's credit goes, `T` a record.
#[derive(Debug)]
pub struct Queue<S, T> {
    /// None of them is empty.
    lines: HashMap<Line, Waiting<S, T>>,
    /// Each line once.
    turns: VecDeque<Line>,
    pairs: HashMap<(ConnId, PublicKey), Pair>,
    bytes: u64,
    closed: bool,
}

impl<S, T> Default for Queue<S, T> {
    fn default() -> Self {
        Self {
            lines: HashMap::new(),
            turns: VecDeque::new(),
            pairs: HashMap::new(),
            bytes: 0,
            closed: false,
        }
    }
}

impl<S: Clone, T> Queue<S, T> {
    /// Takes a record of `len` bytes, whose sender has not been told yet that `owed` bytes left. Says whether it is
    /// the first one to wait.
    ///
    /// # Errors
    /// [`Refused`]: it is dropped, and counts as passed on.
    pub fn push(
        &mut self,
        line: Line,
        sender: &S,
        record: T,
        len: u64,
        owed: Untold,
    ) -> Result<bool, Refused> {
        if self.closed {
            return Err(Refused::Closed);
        }
        let held = self.lines.get(&line).map(|w| w.bytes);
        let pair = self.pairs.get(&line.pair()).copied().unwrap_or_default();
        let fits = held.unwrap_or(0).saturating_add(len).saturating_add(owed.stream)
            <= STREAM_WINDOW
            && pair.bytes.saturating_add(len).saturating_add(owed.pair) <= PAIR_WINDOW
            && (held.is_some() || pair.lines < MAX_STREAMS);
        if !fits {
            return Err(Refused::Full);
        }
        let waiting = self.lines.entry(line).or_insert_with(|| {
            self.turns.push_back(line);
            Waiting { sender: sender.clone(), records: VecDeque::new(), bytes: 0, deficit: QUANTUM }
        });
        waiting.records.push_back((record, len));
        waiting.bytes += len;
        let lines = pair.lines + usize::from(held.is_none());
        self.pairs.insert(line.pair(), Pair { bytes: pair.bytes + len, lines });
        let first = self.bytes == 0;
        self.bytes += len;
        Ok(first)
    }

    /// The next record, and to whom so many bytes are owed for which stream.
    pub fn pop(&mut self) -> Option<(T, Line, S, u64)> {
        loop {
            let line = *self.turns.front()?;
            let Some(waiting) = self.lines.get_mut(&line) else {
                self.turns.pop_front();
                continue;
            };
            let len = waiting.records.front().map_or(0, |(_, len)| *len);
            if waiting.deficit < len {
                waiting.deficit += QUANTUM;
                self.turns.rotate_left(1);
                continue;
            }
            waiting.deficit -= len;
            let sender = waiting.sender.clone();
            let record = waiting.records.pop_front();
            waiting.bytes -= len;
            self.bytes -= len;
            let over = waiting.records.is_empty();
            if over {
                self.lines.remove(&line);
                self.turns.pop_front();
            }
            self.left(&line, len, over);
            if let Some((record, _)) = record {
                return Some((record, line, sender, len));
            }
        }
    }

    fn left(&mut self, line: &Line, len: u64, over: bool) {
        if let Some(pair) = self.pairs.get_mut(&line.pair()) {
            pair.bytes -= len;
            pair.lines -= usize::from(over);
            if pair.lines == 0 {
                self.pairs.remove(&line.pair());
            }
        }
    }

    /// Drops all, and takes no more: what is owed to whom for which stream.
    pub fn close(&mut self) -> Vec<(Line, S, u64)> {
        self.closed = true;
        self.bytes = 0;
        self.turns.clear();
        self.pairs.clear();
        self.lines.drain().map(|(line, w)| (line, w.sender, w.bytes)).collect()
    }

    /// Bytes of the records that wait.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Streams that have records waiting.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.lines.len()
    }
}

/// Bytes that have left, and count in a sender's windows until it is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Untold {
    /// Of the stream.
    pub stream: u64,
    /// Of all streams to that recipient.
    pub pair: u64,
}

/// What is to be told to one socket: credit for the records that it sent, and notices.
#[derive(Debug)]
pub struct Owed<N> {
    credit: HashMap<(StreamId, PublicKey), u64>,
    pairs: HashMap<PublicKey, u64>,
    total: u64,
    lump: bool,
    notices: Vec<N>,
}

impl<N> Default for Owed<N> {
    fn default() -> Self {
        Self {
            credit: HashMap::new(),
            pairs: HashMap::new(),
            total: 0,
            lump: false,
            notices: Vec::new(),
        }
    }
}

impl<N: PartialEq> Owed<N> {
    /// So many bytes of a stream have left. Says whether that made it due.
    pub fn give(&mut self, stream: StreamId, to: PublicKey, bytes: u64) -> bool {
        let before = self.is_due();
        let owed = self.credit.entry((stream, to)).or_default();
        *owed = owed.saturating_add(bytes);
        self.lump |= *owed >= LUMP;
        let pair = self.pairs.entry(to).or_default();
        *pair = pair.saturating_add(bytes);
        self.total = self.total.saturating_add(bytes);
        !before && self.is_due()
    }

    /// What of a stream, and of all to its recipient, is not told yet.
    #[must_use]
    pub fn untold(&self, stream: StreamId, to: PublicKey) -> Untold {
        let of = |n: Option<&u64>| n.copied().unwrap_or(0);
        Untold { stream: of(self.credit.get(&(stream, to))), pair: of(self.pairs.get(&to)) }
    }

    /// Whether it is to be told now rather than some time.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.lump || self.total >= HEAP || self.credit.len() >= DEBTS
    }

    /// Whether there is any credit at all to be told of.
    #[must_use]
    pub fn is_any(&self) -> bool {
        !self.credit.is_empty()
    }

    /// Whether it has grown to more than anybody leaves it who reads.
    #[must_use]
    pub fn is_overfull(&self) -> bool {
        self.credit.len() > MAX_DEBTS
    }

    /// All credit, per stream and recipient.
    pub fn take(&mut self) -> impl Iterator<Item = (StreamId, PublicKey, u64)> + use<N> {
        (self.total, self.lump) = (0, false);
        self.pairs.clear();
        std::mem::take(&mut self.credit).into_iter().map(|((stream, to), n)| (stream, to, n))
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

/// A member's bytes per second: credit is told later, so that it runs out of it.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    per_second: u64,
    /// When all that was sent is paid for, in microseconds.
    paid_at: u64,
}

impl Quota {
    /// So many bytes per second, sustained.
    #[must_use]
    pub fn new(per_second: u64) -> Self {
        Self { per_second: per_second.max(1), paid_at: 0 }
    }

    /// Counts `bytes` at `now`, in milliseconds of a monotonic clock.
    pub fn charge(&mut self, bytes: u64, now: u64) {
        let cost = bytes.saturating_mul(1_000_000) / self.per_second;
        self.paid_at = self.paid_at.max(now.saturating_mul(1_000)).saturating_add(cost);
    }

    /// How many milliseconds credit is to wait at `now`; 0 for none.
    #[must_use]
    pub fn wait(&self, now: u64) -> u64 {
        let free = now.saturating_add(BURST_SECS * 1_000).saturating_mul(1_000);
        self.paid_at.saturating_sub(free).div_ceil(1_000)
    }
}
