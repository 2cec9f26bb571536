//! One side of a stream.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use meshwire_signaling::StreamId;
use meshwire_signaling::stream::{Ends, Fresh, Keys, MAX_REASON, Offer, Open, Role, Secret, Suite};
use tokio::time::Instant;

use super::budget::Budget;
use super::error::StreamError;
use super::links::{LinkId, Links, Pulse};
use super::look::{Changes, Counters};
use super::receive::Receiving;
use super::send::Sending;
use super::timers::{SILENCE, Timers};
use super::window::{Window, Windows};
use crate::link::PathKind;

/// What [`Stream::read`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Bytes, never none.
    Data(Bytes),
    /// Nothing yet.
    Pending,
    /// All has been read, up to the end that the other side gave it.
    End,
}

pub(super) enum Known {
    /// The acceptor has not chosen yet.
    Offered(Offer),
    Agreed(Box<Keys>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// We ended it; until the other side knows.
    Resetting {
        code: u32,
        reason: String,
        first: Option<u64>,
        until: Instant,
    },
    /// The other side ended it; until it knows that we know.
    WasReset {
        code: u32,
        until: Instant,
    },
    Over,
}

#[derive(Clone, Copy)]
pub(super) struct Mark {
    pub(super) number: u64,
    pub(super) link: LinkId,
    pub(super) at: Instant,
    pub(super) answer: bool,
}

/// One side of one stream; see the [module's documentation](super) for how it is driven. It has no `Debug`: its keys
/// are inside.
pub struct Stream {
    pub(super) id: StreamId,
    pub(super) keys: Known,
    pub(super) phase: Phase,
    pub(super) error: Option<StreamError>,
    /// The keys were agreed on before an error: an accept of what was given up is none.
    pub(super) accepted: bool,
    pub(super) sending: Sending,
    pub(super) receiving: Receiving,
    pub(super) links: Links,
    pub(super) timers: Timers,
    /// The other side is known to have this acceptance's keys: until then an acceptor's controls are accepts.
    pub(super) met: bool,
    /// The highest control number of the other side.
    pub(super) heard: u64,
    pub(super) marks: VecDeque<Mark>,
    /// A state or reset is to go over the best link.
    pub(super) due: bool,
    /// One that is to be answered is to go over this link.
    pub(super) probe: Option<LinkId>,
    /// Bytes of records that came since the last state.
    pub(super) unreported: u64,
    /// Over which link the last chunk came.
    pub(super) came_over: Option<LinkId>,
    /// The number of the first control that said stop, and whether one that came after it was heard.
    pub(super) stop_told: Option<u64>,
    pub(super) stop_heard: bool,
    pub(super) done_told: bool,
    pub(super) peer_done: bool,
    pub(super) changes: Changes,
    pub(super) counters: Counters,
}

impl Stream {
    /// The opener's side, and the open to be sealed for the acceptor. `secret` and `ends.stream` are fresh and random.
    ///
    /// # Errors
    /// [`StreamError::Busy`].
    pub fn open(
        secret: Secret,
        name: &str,
        ends: Ends,
        windows: &Windows,
        budget: &Budget,
        now: Instant,
    ) -> Result<(Self, Open), StreamError> {
        let mut receiving = receiving(windows, budget, now)?;
        let sending = Sending::new(budget, windows.send, 0).ok_or_else(|| busy(budget))?;
        let suites = Suite::preferred();
        let limit = receiving.tell();
        let offer = Offer::new(secret.clone(), &suites, ends);
        let open = Open {
            stream: ends.stream,
            secret,
            name: name.to_owned(),
            suites: suites.into(),
            limit,
        };
        let known = Known::Offered(offer);
        Ok((Self::new(ends.stream, known, sending, receiving, now), open))
    }

    /// The acceptor's side of `open`, whose envelope holds and was never taken before. `fresh` is random, and used here
    /// alone: then it does no harm if the open was taken before all the same.
    ///
    /// # Errors
    /// [`StreamError::Busy`]; [`StreamError::Protocol`] if it has no suite, which no open that was read has.
    pub fn accept(
        open: &Open,
        ends: Ends,
        fresh: Fresh,
        windows: &Windows,
        budget: &Budget,
        now: Instant,
    ) -> Result<Self, StreamError> {
        let known = agreed(open, ends, fresh)?;
        let receiving = receiving(windows, budget, now)?;
        let sending = Sending::new(budget, windows.send, open.limit).ok_or_else(|| busy(budget))?;
        Ok(Self::new(ends.stream, known, sending, receiving, now))
    }

    /// The acceptor's side of `open` that says no, with a code of the application's own or one of
    /// [`meshwire_signaling::stream::code`]. It takes no memory from
    /// the budget.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn refuse(
        open: &Open,
        ends: Ends,
        fresh: Fresh,
        code: u32,
        reason: &str,
        budget: &Budget,
        now: Instant,
    ) -> Result<Self, StreamError> {
        let known = agreed(open, ends, fresh)?;
        let window = Window::closed(budget, now).ok_or_else(|| busy(budget))?;
        let sending = Sending::closed(budget).ok_or_else(|| busy(budget))?;
        let mut stream = Self::new(ends.stream, known, sending, Receiving::new(window), now);
        stream.reset(code, reason, now);
        Ok(stream)
    }

    fn new(
        id: StreamId,
        keys: Known,
        sending: Sending,
        receiving: Receiving,
        now: Instant,
    ) -> Self {
        Self {
            id,
            met: matches!(keys, Known::Offered(_)),
            accepted: matches!(keys, Known::Agreed(_)),
            keys,
            phase: Phase::Open,
            error: None,
            sending,
            receiving,
            links: Links::default(),
            timers: Timers::new(now),
            heard: 0,
            marks: VecDeque::new(),
            due: true,
            probe: None,
            unreported: 0,
            came_over: None,
            stop_told: None,
            stop_heard: false,
            done_told: false,
            peer_done: false,
            changes: Changes::default(),
            counters: Counters::default(),
        }
    }

    // ---- the application ----

    /// Takes what there is room for, and says how many bytes that is; with less than all,
    /// [`Changes::writable`] follows.
    ///
    /// # Errors
    /// What ended this half: [`StreamError::Stopped`], [`StreamError::Finished`], or what ended the stream.
    pub fn write(&mut self, data: &[u8], now: Instant) -> Result<usize, StreamError> {
        if self.sending.is_finishing() {
            return Err(match self.sending.stopped() {
                Some(code) => StreamError::Stopped { code },
                None => StreamError::Finished,
            });
        }
        if let Some(error) = self.write_error() {
            return Err(error);
        }
        let taken = self.sending.write(data);
        self.rearm(now);
        Ok(taken)
    }

    /// Why nothing more that is written arrives, if so.
    #[must_use]
    pub fn write_error(&self) -> Option<StreamError> {
        let stopped = self.sending.stopped().map(|code| StreamError::Stopped { code });
        stopped.or_else(|| self.error.clone())
    }

    /// Ends this side's half: what was written still arrives.
    pub fn finish(&mut self, now: Instant) {
        self.sending.finish();
        self.rearm(now);
    }

    /// Up to `max` bytes; with none asked for, nothing is found while there is something.
    ///
    /// # Errors
    /// What ended the stream before its end, after all that came in order has been read; [`StreamError::Stopped`].
    pub fn read(&mut self, max: usize, now: Instant) -> Result<Read, StreamError> {
        if let Some(bytes) = self.receiving.read(max, self.links.least_rtt(), now) {
            self.due |= self.receiving.window().is_due();
            return Ok(Read::Data(bytes));
        }
        if let Some(code) = self.receiving.stopped() {
            return Err(StreamError::Stopped { code });
        }
        if !self.receiving.is_empty() {
            return Ok(Read::Pending);
        }
        if self.receiving.is_whole() {
            self.receiving.release();
            return Ok(Read::End);
        }
        self.error.clone().map_or(Ok(Read::Pending), Err)
    }

    /// Says that nothing more will be read: the other side need not send it.
    pub fn stop(&mut self, code: u32, now: Instant) {
        self.receiving.stop(code);
        self.due |= self.receiving.stopped().is_some();
        self.rearm(now);
    }

    /// Ends the stream in both directions, with a code of the application's own or one of
    /// [`meshwire_signaling::stream::code`]. What is complete stays so.
    pub fn reset(&mut self, code: u32, reason: &str, now: Instant) {
        if self.phase == Phase::Open {
            self.fail(StreamError::Cancelled { code });
            let until = now + SILENCE;
            let reason = reason.get(..reason.floor_char_boundary(MAX_REASON)).unwrap_or_default();
            self.phase = Phase::Resetting { code, reason: reason.to_owned(), first: None, until };
            self.due = true;
            self.rearm(now);
        }
    }

    // ---- links ----

    /// A link has come up. `rtt` is its round-trip time, where its carrier knows it.
    pub fn link_up(&mut self, link: LinkId, kind: PathKind, rtt: Option<Duration>, now: Instant) {
        if self.links.up(link, kind, rtt, now) {
            self.rearm(now);
        }
    }

    /// A link shares its connection with others, whose records show that it lives: see [`Pulse`].
    pub fn link_pulse(&mut self, link: LinkId, pulse: Pulse) {
        self.links.pulse(link, pulse);
    }

    /// A link has died: what was sent on it and is not acknowledged goes over another.
    pub fn link_down(&mut self, link: LinkId, now: Instant) {
        if self.links.down(link, now) {
            self.sending.lost(link, u64::MAX);
            self.marks.retain(|m| m.link != link);
            self.probe = self.probe.filter(|l| *l != link);
            self.due = true;
            self.rearm(now);
        }
    }

    /// Which link to use while it lives; none for the best: within the process, then QUIC, then the
    /// relay, the shorter round trip first.
    pub fn prefer(&mut self, link: Option<LinkId>, now: Instant) {
        self.links.prefer(link, now);
        self.rearm(now);
    }

    /// The carrier's word on a link's round-trip time.
    pub fn link_rtt(&mut self, link: LinkId, rtt: Duration, now: Instant) {
        self.links.hint(link, rtt, now);
    }

    /// The link that new chunks go over.
    #[must_use]
    pub fn best_link(&self) -> Option<LinkId> {
        self.links.best()
    }

    /// What kind of link new chunks go over.
    #[must_use]
    pub fn path(&self) -> Option<PathKind> {
        self.links.best_kind()
    }

    pub(super) fn over(&mut self) {
        self.phase = Phase::Over;
        // Whoever keeps it to look at what it did, or to read the rest, keeps no memory but that.
        self.sending.clear();
        self.receiving.fail();
        self.changes.ended = true;
    }

    pub(super) fn fail(&mut self, error: StreamError) {
        self.error.get_or_insert(error);
        self.sending.fail();
        self.receiving.fail();
        self.marks.clear();
        self.changes.readable = true;
        self.changes.writable = true;
        self.changes.ended = true;
    }

    /// Both sides are done, and both know it: then it is over.
    pub(super) fn settle(&mut self) {
        if self.phase != Phase::Open || !self.is_done() {
            return;
        }
        if !self.done_told {
            self.due = true;
        } else if self.peer_done {
            self.over();
        }
    }

    /// Whether something waits for the other side to say something.
    pub(super) fn is_waiting(&self) -> bool {
        if !matches!(self.keys, Known::Agreed(_)) {
            return false;
        }
        match self.phase {
            Phase::Open => {
                let stop = self.stop_told.is_some() && !self.stop_heard;
                !self.met || self.sending.is_waiting() || stop || self.is_done()
            }
            Phase::Resetting { .. } => true,
            Phase::WasReset { .. } | Phase::Over => false,
        }
    }
}

fn busy(budget: &Budget) -> StreamError {
    StreamError::Busy { limit: budget.limit() }
}

fn receiving(windows: &Windows, budget: &Budget, now: Instant) -> Result<Receiving, StreamError> {
    let window = Window::new(windows, budget, now).ok_or_else(|| busy(budget))?;
    Ok(Receiving::new(window))
}

fn agreed(open: &Open, ends: Ends, fresh: Fresh) -> Result<Known, StreamError> {
    let suite = open.suite().ok_or(StreamError::Protocol("an open without a suite"))?;
    let keys = Keys::derive(open.secret.clone(), suite, ends, fresh, Role::Acceptor);
    Ok(Known::Agreed(Box::new(keys)))
}
