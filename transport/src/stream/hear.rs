//! What a stream makes of what comes in.

use bytes::BytesMut;
use meshwire_signaling::stream::{Control, Header, Kind, RecordError, State, code};
use tokio::time::Instant;

use super::error::{Rejected, StreamError};
use super::links::LinkId;
use super::machine::{Known, Phase, Stream};
use super::receive::{Chunk, Wrong};
use super::timers::HINTED;

impl Stream {
    /// Takes a record that came over `link`; its buffer is read in place.
    ///
    /// # Errors
    /// [`Rejected`]: it was dropped and has changed nothing.
    pub fn receive(
        &mut self,
        link: LinkId,
        record: BytesMut,
        now: Instant,
    ) -> Result<(), Rejected> {
        let taken = self.take(link, record, now);
        match taken {
            Err(Rejected::Record(RecordError::Early)) => {}
            Err(Rejected::Record(_)) => self.counters.forged += 1,
            Err(Rejected::BeyondLimit) => self.counters.beyond_limit += 1,
            Ok(()) => {}
        }
        self.settle();
        self.rearm(now);
        taken
    }

    fn take(&mut self, link: LinkId, mut record: BytesMut, now: Instant) -> Result<(), Rejected> {
        let header = Header::parse(&record)?;
        if self.phase == Phase::Over {
            return Ok(());
        }
        let old = match header.kind {
            Kind::Control | Kind::Accept => header.number <= self.heard,
            Kind::Chunk { .. } => self.receiving.has(header.number),
        };
        if old {
            self.counters.duplicates += 1;
            if !header.kind.is_control() {
                // The other side may lack our word that it has come.
                self.timers.ack_soon(now);
            }
            return Ok(());
        }
        let first = !matches!(self.keys, Known::Agreed(_));
        let length = self.unlock(&header, &mut record)?;
        let quiet = self.timers.is_quiet(now);
        self.timers.heard(now);
        self.links.heard(link, now);
        self.met = true;
        let front = header.kind.prefix();
        match header.kind {
            Kind::Control | Kind::Accept => {
                self.heard = header.number;
                match Control::decode(&record[front..front + length]) {
                    Ok(Some(Control::State(state))) => self.on_state(link, &state, quiet, now),
                    Ok(Some(Control::Reset { code, reason, .. })) => {
                        self.on_reset(first, code, reason, now);
                    }
                    Ok(_) => {}
                    Err(_) => self.broken("a control that does not decode", now),
                }
            }
            Kind::Chunk { last } if self.phase == Phase::Open => {
                self.came_over = Some(link);
                let charge = u64::try_from(record.len()).unwrap_or(u64::MAX);
                let bytes = record.freeze().slice(front..front + length);
                let chunk = Chunk { number: header.number, last, bytes, charge };
                match self.receiving.take(chunk) {
                    Ok(more) => {
                        self.changes.readable |= more;
                        self.changes.ended |= self.receiving.is_whole();
                        self.report(charge, now);
                        if let Known::Agreed(keys) = &mut self.keys {
                            keys.open.passed(self.receiving.next());
                        }
                    }
                    Err(Wrong::BeyondLimit) => return Err(Rejected::BeyondLimit),
                    Err(Wrong::Rule(rule)) => self.broken(rule, now),
                }
            }
            Kind::Chunk { .. } => {}
        }
        Ok(())
    }

    /// Opens a record in place; how long its plaintext is. The first accept that opens accepts the stream.
    fn unlock(&mut self, header: &Header, record: &mut [u8]) -> Result<usize, RecordError> {
        match &mut self.keys {
            Known::Agreed(keys) => Ok(keys.open.open(header, record)?.len()),
            Known::Offered(offer) => {
                let (keys, text) = offer.open(header, record)?;
                let length = text.len();
                self.keys = Known::Agreed(Box::new(keys));
                self.accepted = self.error.is_none();
                self.changes.accepted = true;
                self.changes.writable = true;
                Ok(length)
            }
        }
    }

    /// `charge` bytes of records have come: says so soon, or at once.
    fn report(&mut self, charge: u64, now: Instant) {
        self.unreported = self.unreported.saturating_add(charge);
        let quarter = self.receiving.window().size() / 4;
        if self.unreported >= quarter || self.receiving.is_done() {
            self.say_state();
        } else {
            self.timers.ack_soon(now);
        }
    }

    /// Says soon how far we are: over the best link, and over the one by which the last chunk came, for what is best
    /// for us may be dead, and the other side knows it before us.
    pub(super) fn say_state(&mut self) {
        self.due = true;
        let other = self.came_over.filter(|link| !self.links.is_best(*link));
        if let Some(link) = other.and_then(|link| self.links.get_mut(link)) {
            link.reply = true;
        }
    }

    /// `quiet`: it came after a long silence.
    fn on_state(&mut self, link: LinkId, state: &State, quiet: bool, now: Instant) {
        if state.answer {
            // What is best for us may be dead for the other side, and we do not know it yet.
            let asked = self.links.get_mut(link);
            // And may rest, where nothing is at stake.
            self.due |= !quiet || asked.is_none();
            if let Some(link) = asked {
                link.reply = true;
            }
        }
        match &self.phase {
            Phase::Resetting { first, .. } => {
                if first.is_some_and(|first| state.heard >= first) {
                    self.over();
                }
                return;
            }
            // After a reset only resets come.
            Phase::WasReset { .. } | Phase::Over => return,
            Phase::Open => {}
        }
        let Some(mut moved) = self.sending.ack(state.next) else {
            return self.broken("an acknowledgement of what was never sent", now);
        };
        moved |= self.sending.raise(state.limit);
        if let Some(code) = state.stop {
            self.sending.stop(code);
            self.changes.writable = true;
            self.changes.ended |= self.sending.stopped().is_some();
        }
        self.changes.ended |= self.sending.is_done();
        self.changes.writable |= self.sending.has_room_again();
        self.peer_done |= state.done;
        self.stop_heard |= self.stop_told.is_some_and(|told| state.heard >= told);
        if moved {
            self.timers.progress(now);
        }
        self.marks.retain(|m| m.number >= state.heard);
        if let Some(mark) = self.marks.front().copied().filter(|m| m.number == state.heard) {
            self.marks.pop_front();
            if mark.answer {
                self.links.measured(mark.link, now.saturating_duration_since(mark.at), now);
            }
            self.sending.lost_if_first(mark.link, mark.number);
        }
    }

    /// `first`: it is the acceptor's answer to the open.
    fn on_reset(&mut self, first: bool, code: u32, reason: String, now: Instant) {
        match &self.phase {
            Phase::Over => {}
            // Both have ended it, or ours has arrived.
            Phase::Resetting { .. } => self.over(),
            Phase::WasReset { .. } => self.due = true,
            Phase::Open => {
                self.fail(if first {
                    StreamError::Refused { code, reason }
                } else {
                    StreamError::Reset { code, reason }
                });
                self.phase = Phase::WasReset { code, until: now + HINTED };
                self.due = true;
            }
        }
    }

    /// The other side itself, nobody else, did what it must not.
    fn broken(&mut self, rule: &'static str, now: Instant) {
        if self.phase == Phase::Open {
            self.reset(code::PROTOCOL, rule, now);
            self.error = Some(StreamError::Protocol(rule));
        }
    }
}
