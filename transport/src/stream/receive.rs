//! The half that comes in: order, duplicates, the end.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::window::Window;

/// A chunk that the other side, and nobody else, made.
pub(super) struct Chunk {
    pub(super) number: u64,
    pub(super) last: bool,
    pub(super) bytes: Bytes,
    /// The length of its record.
    pub(super) charge: u64,
}

/// What is wrong with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    BeyondLimit,
    Rule(&'static str),
}

struct Piece {
    bytes: Bytes,
    charge: u64,
}

pub(super) struct Receiving {
    window: Window,
    /// All chunks below this one have come.
    next: u64,
    /// Bytes of records of all chunks that have come, in order or not.
    came: u64,
    /// In order, and not read yet.
    ready: VecDeque<Piece>,
    /// Chunks behind a gap. Each counts against the window, and none is shorter than a header and a tag, so
    /// there are not many either.
    ahead: BTreeMap<u64, Chunk>,
    last: Option<u64>,
    stopped: Option<u32>,
    /// Plaintext bytes in order.
    delivered: u64,
}

impl Receiving {
    pub(super) fn new(window: Window) -> Self {
        Self {
            window,
            next: 0,
            came: 0,
            ready: VecDeque::new(),
            ahead: BTreeMap::new(),
            last: None,
            stopped: None,
            delivered: 0,
        }
    }

    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    pub(super) fn tell(&mut self) -> u64 {
        self.window.tell()
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Bytes of records that are held for the reader.
    pub(super) fn held(&self) -> u64 {
        let ahead: u64 = self.ahead.values().map(|c| c.charge).sum();
        self.ready.iter().map(|p| p.charge).sum::<u64>() + ahead
    }

    pub(super) fn has(&self, number: u64) -> bool {
        number < self.next || self.ahead.contains_key(&number)
    }

    /// Takes a chunk that it [`Self::has`] not. Says whether there is more to read, or the end.
    pub(super) fn take(&mut self, chunk: Chunk) -> Result<bool, Wrong> {
        if chunk.bytes.is_empty() && !chunk.last {
            return Err(Wrong::Rule("an empty chunk that is not the last"));
        }
        if self.last.is_some_and(|last| chunk.number > last) {
            return Err(Wrong::Rule("a chunk after the last one"));
        }
        if chunk.last {
            let beyond = self.ahead.last_key_value().is_some_and(|(n, _)| *n > chunk.number);
            if self.last.is_some() || beyond {
                return Err(Wrong::Rule("a last chunk that is not the last"));
            }
        }
        let came = self.came.saturating_add(chunk.charge);
        if came > self.window.told() {
            return Err(Wrong::BeyondLimit);
        }
        if self.stopped.is_some() {
            return Ok(false);
        }
        self.came = came;
        if chunk.last {
            self.last = Some(chunk.number);
        }
        if chunk.number != self.next {
            self.ahead.insert(chunk.number, chunk);
            return Ok(false);
        }
        self.append(chunk);
        while let Some(chunk) = self.ahead.remove(&self.next) {
            self.append(chunk);
        }
        if self.is_whole() {
            self.window.complete(self.held());
        }
        Ok(true)
    }

    fn append(&mut self, chunk: Chunk) {
        self.next = chunk.number + 1;
        if !chunk.bytes.is_empty() {
            self.delivered += u64::try_from(chunk.bytes.len()).unwrap_or(0);
            self.ready.push_back(Piece { bytes: chunk.bytes, charge: chunk.charge });
        }
    }

    /// Up to `max` bytes, never none.
    pub(super) fn read(&mut self, max: usize, rtt: Duration, now: Instant) -> Option<Bytes> {
        if max == 0 {
            return None;
        }
        let front = self.ready.front_mut()?;
        if front.bytes.len() > max {
            return Some(front.bytes.split_to(max));
        }
        let Piece { bytes, charge } = self.ready.pop_front()?;
        self.window.consume(charge, rtt, now);
        Some(bytes)
    }

    /// Nothing waits to be read.
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    pub(super) fn stop(&mut self, code: u32) {
        if self.stopped.is_none() && !self.is_whole() {
            self.stopped = Some(code);
        }
        self.ready.clear();
        self.ahead.clear();
        self.window.close();
    }

    pub(super) fn stopped(&self) -> Option<u32> {
        self.stopped
    }

    /// All chunks up to the last have come.
    pub(super) fn is_whole(&self) -> bool {
        self.last.is_some_and(|last| self.next > last)
    }

    /// All has been read: nothing more will be granted.
    pub(super) fn release(&mut self) {
        self.window.close();
    }

    /// Nothing more is expected.
    pub(super) fn is_done(&self) -> bool {
        self.is_whole() || self.stopped.is_some()
    }

    /// The stream has failed, or is over: what is behind a gap will never be read.
    pub(super) fn fail(&mut self) {
        self.ahead.clear();
        self.window.complete(self.held());
    }
}
