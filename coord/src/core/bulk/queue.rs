//! What waits for one socket, and whose turn it is.

use std::collections::{HashMap, VecDeque};

use meshwire_signaling::stream::MAX_RECORD;
use meshwire_signaling::stream::carry::{MAX_STREAMS, PAIR_WINDOW};
use meshwire_signaling::{PublicKey, StreamId};

use crate::core::presence::ConnId;

/// Bytes that a member, and a stream of it, may send per turn: any record fits.
pub(super) const QUANTUM: u64 = MAX_RECORD as u64;

/// One stream of one socket, to one identity. Its records stay in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// The member behind the sender's connection.
    pub member: PublicKey,
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
    /// The window of its socket to this recipient is full, or it has too many streams.
    Full,
    /// The recipient's connection has ended.
    Closed,
}

/// A record that leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Popped<S, T> {
    /// What was pushed.
    pub record: T,
    /// Of which stream.
    pub line: Line,
    /// To whom its bytes are owed.
    pub sender: S,
    /// How many.
    pub len: u64,
}

/// Of each record, what it is and its length.
#[derive(Debug)]
pub(super) struct Waiting<S, T> {
    sender: S,
    pub(super) records: VecDeque<(T, u64)>,
    pub(super) bytes: u64,
    deficit: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pair {
    pub(super) bytes: u64,
    pub(super) lines: usize,
}

/// A sending member's streams, over all its sockets; each once.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) turns: VecDeque<Line>,
    deficit: u64,
}

/// Records that wait for one socket: in order within a stream, and deficit round robin (Shreedhar and Varghese, 1995)
/// between the members that send them, then between the streams of each, so that whoever opens a thousand streams gets
/// no more than who opens one. `S` is where a stream's credit goes, `T` a record.
#[derive(Debug)]
pub struct Queue<S, T> {
    /// None of them is empty.
    pub(super) lines: HashMap<Line, Waiting<S, T>>,
    /// None of them is without streams.
    pub(super) members: HashMap<PublicKey, Member>,
    /// Each member once.
    turns: VecDeque<PublicKey>,
    pub(super) pairs: HashMap<(ConnId, PublicKey), Pair>,
    bytes: u64,
    closed: bool,
}

impl<S, T> Default for Queue<S, T> {
    fn default() -> Self {
        Self {
            lines: HashMap::new(),
            members: HashMap::new(),
            turns: VecDeque::new(),
            pairs: HashMap::new(),
            bytes: 0,
            closed: false,
        }
    }
}

impl<S: Clone, T> Queue<S, T> {
    /// Takes a record of `len` bytes. Its sender has not been told yet that `untold` bytes to the same recipient
    /// left: they count in its window. Says whether it is the first one to wait.
    ///
    /// # Errors
    /// [`Refused`]: it is dropped, and counts as passed on.
    pub fn push(
        &mut self,
        line: Line,
        sender: &S,
        record: T,
        len: u64,
        untold: u64,
    ) -> Result<bool, Refused> {
        if self.closed {
            return Err(Refused::Closed);
        }
        let fresh = !self.lines.contains_key(&line);
        let pair = self.pairs.get(&line.pair()).copied().unwrap_or_default();
        let fits = pair.bytes.saturating_add(len).saturating_add(untold) <= PAIR_WINDOW
            && (!fresh || pair.lines < MAX_STREAMS);
        if !fits {
            return Err(Refused::Full);
        }
        if fresh {
            let member = self.members.entry(line.member).or_insert_with(|| {
                self.turns.push_back(line.member);
                Member { turns: VecDeque::new(), deficit: QUANTUM }
            });
            member.turns.push_back(line);
        }
        let waiting = self.lines.entry(line).or_insert_with(|| Waiting {
            sender: sender.clone(),
            records: VecDeque::new(),
            bytes: 0,
            deficit: QUANTUM,
        });
        waiting.records.push_back((record, len));
        waiting.bytes += len;
        let lines = pair.lines + usize::from(fresh);
        self.pairs.insert(line.pair(), Pair { bytes: pair.bytes + len, lines });
        let first = self.bytes == 0;
        self.bytes += len;
        Ok(first)
    }

    /// The next record.
    pub fn pop(&mut self) -> Option<Popped<S, T>> {
        loop {
            let who = *self.turns.front()?;
            let Some(member) = self.members.get_mut(&who) else {
                self.turns.pop_front();
                continue;
            };
            let Some(line) = member.turns.front().copied() else {
                self.members.remove(&who);
                continue;
            };
            let Some(waiting) = self.lines.get_mut(&line) else {
                member.turns.pop_front();
                continue;
            };
            let len = waiting.records.front().map_or(0, |(_, len)| *len);
            if waiting.deficit < len {
                waiting.deficit += QUANTUM;
                member.turns.rotate_left(1);
                continue;
            }
            if member.deficit < len {
                member.deficit += QUANTUM;
                self.turns.rotate_left(1);
                continue;
            }
            waiting.deficit -= len;
            member.deficit -= len;
            let sender = waiting.sender.clone();
            let record = waiting.records.pop_front();
            waiting.bytes -= len;
            self.bytes -= len;
            let over = waiting.records.is_empty();
            if over {
                self.lines.remove(&line);
                member.turns.pop_front();
                if member.turns.is_empty() {
                    self.members.remove(&who);
                    self.turns.pop_front();
                }
            }
            self.left(&line, len, over);
            if let Some((record, _)) = record {
                return Some(Popped { record, line, sender, len });
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
        self.members.clear();
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
