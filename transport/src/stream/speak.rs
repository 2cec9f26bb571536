//! What a stream says: which record goes over which link next.

use bytes::{Bytes, BytesMut};
use meshwire_signaling::stream::{Control, Kind, PREFIX, RecordError, State, TAG};
use tokio::time::Instant;

use super::error::StreamError;
use super::links::LinkId;
use super::machine::{Known, Mark, Phase, Stream};
use super::send::{FRONT, framed};

/// Controls that are remembered with the link that they went over.
const MARKS: usize = 32;
/// Bytes of a sealed state.
const STATE_RECORD: usize = PREFIX + 30 + TAG;
/// Bytes of a sealed reset without its reason.
const RESET_RECORD: usize = PREFIX + 14 + TAG;

impl Stream {
    /// How long the next record for `link` is; none if there is none.
    #[must_use]
    pub fn transmit_len(&self, link: LinkId) -> Option<usize> {
        if !matches!(self.keys, Known::Agreed(_)) || self.phase == Phase::Over {
            return None;
        }
        if self.control_is_due(link) {
            let front = self.control_kind().prefix() - PREFIX;
            return Some(match &self.phase {
                Phase::Resetting { reason, .. } => front + RESET_RECORD + reason.len(),
                Phase::WasReset { .. } => front + RESET_RECORD,
                Phase::Open | Phase::Over => front + STATE_RECORD,
            });
        }
        let data = self.phase == Phase::Open && self.links.is_best(link);
        data.then(|| self.sending.next_len()).flatten()
    }

    /// How many bytes of records wait for `link`, with their lengths in front, if these are less than `most`; else `most`.
    #[must_use]
    pub fn ready(&self, link: LinkId, most: usize) -> usize {
        let Some(first) = self.transmit_len(link) else { return 0 };
        let data = if self.links.is_best(link) { self.sending.ready(most) } else { 0 };
        data.max(FRONT + first).min(most)
    }

    /// The next record for `link`, which keeps their order.
    pub fn poll_transmit(&mut self, link: LinkId, now: Instant) -> Option<Bytes> {
        self.poll_framed(link, now).map(|framed| framed.slice(FRONT..))
    }

    /// As [`Self::poll_transmit`], with the record's length in front: two bytes, big-endian.
    pub fn poll_framed(&mut self, link: LinkId, now: Instant) -> Option<Bytes> {
        if self.phase == Phase::Over {
            return None;
        }
        let record = if self.control_is_due(link) {
            self.control(link, now)
        } else if self.phase == Phase::Open && self.links.is_best(link) {
            let Known::Agreed(keys) = &mut self.keys else { return None };
            self.sending.poll(&mut keys.seal, link)
        } else {
            return None;
        };
        if record.is_err() {
            self.fail(StreamError::Exhausted);
            self.over();
        }
        self.changes.writable |= self.sending.has_room_again();
        self.rearm(now);
        record.ok().flatten()
    }

    /// Whether the next record for `link` is none of the application's: it says how far this side is, or that it lives.
    pub(super) fn is_pressing(&self, link: LinkId) -> bool {
        let speaks = matches!(self.keys, Known::Agreed(_)) && self.phase != Phase::Over;
        speaks && self.control_is_due(link)
    }

    fn control_is_due(&self, link: LinkId) -> bool {
        let Some(known) = self.links.get(link) else { return false };
        known.greet
            || known.reply
            || self.probe == Some(link)
            || self.due && self.links.is_best(link)
    }

    /// An acceptor's controls are accepts until the other side is known to have had one, over whatever link.
    fn control_kind(&self) -> Kind {
        if self.met { Kind::Control } else { Kind::Accept }
    }

    fn control(&mut self, link: LinkId, now: Instant) -> Result<Option<Bytes>, RecordError> {
        let kind = self.control_kind();
        let Known::Agreed(keys) = &mut self.keys else { return Ok(None) };
        let best = self.links.is_best(link);
        let number = keys.seal.next_control();
        let mut answer = self.probe == Some(link);
        if let Some(known) = self.links.get_mut(link) {
            known.reply = false;
            answer |= std::mem::take(&mut known.greet);
        }
        let heard = self.heard;
        let control = match &mut self.phase {
            Phase::Over => return Ok(None),
            Phase::Resetting { code, reason, first, .. } => {
                first.get_or_insert(number);
                Control::Reset { heard, code: *code, reason: reason.clone() }
            }
            Phase::WasReset { code, .. } => {
                Control::Reset { heard, code: *code, reason: String::new() }
            }
            Phase::Open => {
                let done = self.sending.is_done() && self.receiving.is_done();
                self.done_told |= done;
                let stop = self.receiving.stopped();
                if stop.is_some() {
                    self.stop_told.get_or_insert(number);
                }
                let (next, limit) = (self.receiving.next(), self.receiving.tell());
                Control::State(State { answer, stop, done, heard, next, limit })
            }
        };
        if best {
            (self.due, self.unreported) = (false, 0);
            self.timers.ack_at = None;
        }
        if self.probe == Some(link) {
            self.probe = None;
        }
        if answer {
            self.links.asked(link, now);
        }
        let plain = control.encode();
        let front = FRONT + kind.prefix();
        let mut record = BytesMut::zeroed(front + plain.len() + TAG);
        record[front..front + plain.len()].copy_from_slice(&plain);
        match kind {
            Kind::Accept => keys.seal.accept(&mut record[FRONT..])?,
            Kind::Control | Kind::Chunk { .. } => keys.seal.control(&mut record[FRONT..])?,
        };
        if self.marks.len() == MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back(Mark { number, link, at: now, answer });
        self.settle();
        Ok(Some(framed(record)))
    }
}
