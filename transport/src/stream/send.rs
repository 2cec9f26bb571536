//! The half that goes out: chunks that wait for the limit, chunks that wait to be acknowledged, and those
//! to be sent again.

use std::collections::{BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use meshwire_signaling::stream::{
    MAX_PLAINTEXT, MAX_RECORD, MIN_WINDOW, OVERHEAD, PREFIX, RecordError, SealKeys, TAG,
};

use super::budget::{Budget, Reservation};
use super::links::LinkId;

/// Most chunks that wait for the limit or for a link while little is under way: more would only make what is written late
/// older.
const WAITING: usize = 8;
/// The same at the most: an eighth of what is under way.
const MOST_WAITING: usize = 32;
/// Bytes in front of each record here, for its length, which a carrier with streams of its own puts there: so both
/// are one piece of memory, and one segment of such a stream.
pub(super) const FRONT: usize = 2;
/// What stands in front of a chunk's plaintext.
const HEAD: usize = FRONT + PREFIX;
/// What a chunk as full as it may be has without its tag.
const FULL: usize = HEAD + MAX_PLAINTEXT;
/// Room for a record of the largest size.
const ROOM: usize = FRONT + MAX_RECORD;
/// The reservation grows and shrinks by this much.
const STEP: u64 = 256 << 10;
/// What every stream has: a record after the other gets through.
const LEAST: u64 = MAX_RECORD as u64;

struct Sent {
    /// With its length in front.
    record: Bytes,
    /// The link it went over last; none if that is dead.
    link: Option<LinkId>,
    /// The number of the first control after it.
    mark: u64,
}

pub(super) struct Sending {
    /// Room for length and header, then plaintext; the last one may grow.
    waiting: VecDeque<BytesMut>,
    /// Buffers of the largest size for the next chunks, within what is reserved.
    spare: Vec<BytesMut>,
    /// Chunks leave as full as they may be: the next one will, too.
    bulk: bool,
    unacked: VecDeque<Sent>,
    /// The number of the front of `unacked`: the other side has all chunks below.
    acked: u64,
    /// Numbers in `unacked` to be sent again.
    again: BTreeSet<u64>,
    /// Bytes of all records that were sealed.
    sealed: u64,
    limit: u64,
    finishing: bool,
    last: Option<u64>,
    stopped: Option<u32>,
    /// The writer was told to wait, and nothing has become free since.
    full: bool,
    /// Something has become free for a writer that was told to wait.
    freed: bool,
    /// The stream has failed before this half was done.
    failed: bool,
    /// Bytes of records that wait or are unacknowledged.
    held: u64,
    max: u64,
    reserved: Reservation,
    /// Records that were sent more than once.
    resent: u64,
    /// Bytes that the writer gave.
    written: u64,
}

fn len64(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Puts a record's length in front of it: `record` has [`FRONT`] bytes of room there.
pub(super) fn framed(mut record: BytesMut) -> Bytes {
    if let Some((front, record)) = record.split_first_chunk_mut::<FRONT>() {
        // Records have at most 32,768 bytes.
        *front = u16::try_from(record.len()).unwrap_or(u16::MAX).to_be_bytes();
    }
    record.freeze()
}

/// Bytes of the record alone.
fn record_len(framed: &[u8]) -> u64 {
    len64(framed).saturating_sub(len64(&[0; FRONT]))
}

const OVERHEAD64: u64 = OVERHEAD as u64;

impl Sending {
    /// Takes room for one record from `budget`; none if it is not there.
    pub(super) fn new(budget: &Budget, max: u64, limit: u64) -> Option<Self> {
        Some(Self::with(budget.reserve(LEAST)?, max.max(MIN_WINDOW), limit))
    }

    /// One that sends nothing.
    pub(super) fn closed(budget: &Budget) -> Option<Self> {
        Some(Self::with(budget.reserve(0)?, 0, 0))
    }

    fn with(reserved: Reservation, max: u64, limit: u64) -> Self {
        Self {
            waiting: VecDeque::new(),
            spare: Vec::new(),
            bulk: false,
            unacked: VecDeque::new(),
            acked: 0,
            again: BTreeSet::new(),
            sealed: 0,
            limit,
            finishing: false,
            last: None,
            stopped: None,
            full: false,
            freed: false,
            failed: false,
            held: 0,
            max,
            reserved,
            resent: 0,
            written: 0,
        }
    }

    /// Takes what there is room for; how many bytes that is.
    pub(super) fn write(&mut self, mut data: &[u8]) -> usize {
        let all = data.len();
        while !data.is_empty() {
            let room = match self.waiting.back() {
                Some(chunk) if chunk.len() < FULL => FULL - chunk.len(),
                _ if self.waiting.len() < self.may_wait() => 0,
                _ => break,
            };
            let (fresh, room) = if room == 0 { (OVERHEAD, MAX_PLAINTEXT) } else { (0, room) };
            let Some(room) = self.afford(fresh, room.min(data.len())) else { break };
            let (now, rest) = data.split_at(room);
            if fresh > 0 {
                let bulk = self.bulk || all >= MAX_PLAINTEXT;
                let spare = if bulk { self.spare.pop() } else { None };
                let room = if bulk { ROOM } else { FRONT + OVERHEAD + room };
                let mut chunk = spare.unwrap_or_else(|| BytesMut::with_capacity(room));
                chunk.resize(HEAD, 0);
                self.waiting.push_back(chunk);
            }
            if let Some(chunk) = self.waiting.back_mut() {
                chunk.extend_from_slice(now);
                self.bulk |= chunk.len() == FULL;
            }
            data = rest;
        }
        self.full = !data.is_empty();
        self.freed &= !self.full;
        let taken = all - data.len();
        self.written += u64::try_from(taken).unwrap_or(u64::MAX);
        taken
    }

    /// Accounts for `fresh` bytes and up to `wanted` more; how many more, none if none.
    fn afford(&mut self, fresh: usize, wanted: usize) -> Option<usize> {
        let need = u64::try_from(fresh + wanted).ok()?;
        let left = self.max.saturating_sub(self.held);
        let free = self.reserved.bytes().saturating_sub(self.held);
        if need > free && left > free {
            let step = STEP.min(self.max.saturating_sub(self.reserved.bytes()));
            let _ = self.reserved.grow(step.max(need - free)) || self.reserved.grow(need - free);
        }
        let free = self.reserved.bytes().saturating_sub(self.held).min(left).min(need);
        let some = usize::try_from(free).ok()?.checked_sub(fresh).filter(|n| *n > 0)?;
        self.held += free;
        Some(some)
    }

    /// Most chunks that may wait: enough for a link to take many at once where there is much on its way.
    fn may_wait(&self) -> usize {
        (self.unacked.len() / 8).clamp(WAITING, MOST_WAITING)
    }

    /// How many buffers fit into what is reserved and not used.
    fn spares(&self) -> usize {
        let free = self.reserved.bytes().saturating_sub(self.held);
        usize::try_from(free).map_or(0, |free| (free / MAX_RECORD).min(MOST_WAITING))
    }

    /// Keeps a record's buffer for the next chunk, if no link holds it any more: with a fresh one for each, the
    /// allocator would take longer than the cipher.
    fn recycle(&mut self, record: Bytes) {
        if self.spare.len() >= self.spares() {
            return;
        }
        let whole = record.try_into_mut().ok().filter(|b| b.capacity() >= ROOM);
        if let Some(mut buffer) = whole {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Nothing waits, and yet more is reserved than every stream has.
    pub(super) fn is_slack(&self) -> bool {
        self.held == 0 && self.reserved.bytes() > LEAST
    }

    /// Gives that back.
    pub(super) fn relax(&mut self) {
        self.reserved.shrink_to(LEAST.max(self.held));
        self.spare.truncate(self.spares());
    }

    pub(super) fn finish(&mut self) {
        self.finishing = true;
    }

    pub(super) fn is_finishing(&self) -> bool {
        self.finishing
    }

    /// The length of the record that would be sent next.
    pub(super) fn next_len(&self) -> Option<usize> {
        if let Some(number) = self.again.first() {
            return self.sent(*number).map(|s| s.record.len() - FRONT);
        }
        let len = self.waiting.front().map(|chunk| chunk.len() - FRONT + TAG);
        let end = (self.finishing && self.last.is_none()).then_some(OVERHEAD);
        let len = len.or(end)?;
        let fits = self.sealed + u64::try_from(len).ok()? <= self.limit;
        fits.then_some(len)
    }

    /// Bytes of what would be sent now, with lengths in front, as far as these are less than `most`.
    pub(super) fn ready(&self, most: usize) -> usize {
        let again = self.again.iter().filter_map(|n| self.sent(*n)).map(|s| s.record.len());
        let mut room = self.limit.saturating_sub(self.sealed);
        let fresh = self.waiting.iter().map(|chunk| chunk.len() + TAG).take_while(|len| {
            let record = u64::try_from(len - FRONT).unwrap_or(u64::MAX);
            let fits = record <= room;
            room = room.saturating_sub(record);
            fits
        });
        let mut bytes = 0;
        for len in again.chain(fresh) {
            bytes += len;
            if bytes >= most {
                break;
            }
        }
        bytes
    }

    fn sent(&self, number: u64) -> Option<&Sent> {
        let at = usize::try_from(number.checked_sub(self.acked)?).ok()?;
        self.unacked.get(at)
    }

    fn sent_mut(&mut self, number: u64) -> Option<&mut Sent> {
        let at = usize::try_from(number.checked_sub(self.acked)?).ok()?;
        self.unacked.get_mut(at)
    }

    /// The next record for `link`, with its length in front.
    pub(super) fn poll(
        &mut self,
        keys: &mut SealKeys,
        link: LinkId,
    ) -> Result<Option<Bytes>, RecordError> {
        let mark = keys.next_control();
        if let Some(number) = self.again.pop_first() {
            let Some(sent) = self.sent_mut(number) else { return Ok(None) };
            (sent.link, sent.mark) = (Some(link), mark);
            let record = sent.record.clone();
            self.resent += 1;
            return Ok(Some(record));
        }
        if self.next_len().is_none() {
            return Ok(None);
        }
        let mut chunk = self.waiting.pop_front().unwrap_or_else(|| {
            self.held += OVERHEAD64;
            BytesMut::zeroed(HEAD)
        });
        self.freed = true;
        self.bulk &= chunk.len() == FULL;
        let last = self.finishing && self.waiting.is_empty();
        chunk.resize(chunk.len() + TAG, 0);
        let number = keys.chunk(last, &mut chunk[FRONT..])?;
        let record = framed(chunk);
        self.sealed += record_len(&record);
        if last {
            self.last = Some(number);
        }
        self.unacked.push_back(Sent { record: record.clone(), link: Some(link), mark });
        Ok(Some(record))
    }

    /// The other side has all below `next`. Says whether that is news; none if that cannot be.
    pub(super) fn ack(&mut self, next: u64) -> Option<bool> {
        if next <= self.acked {
            return Some(false);
        }
        let sealed = self.acked + u64::try_from(self.unacked.len()).ok()?;
        if next > sealed {
            return None;
        }
        while self.acked < next {
            if let Some(sent) = self.unacked.pop_front() {
                self.held = self.held.saturating_sub(record_len(&sent.record));
                self.recycle(sent.record);
            }
            self.acked += 1;
        }
        while self.again.first().is_some_and(|first| *first < next) {
            self.again.pop_first();
        }
        self.freed = true;
        if self.reserved.bytes() > self.held + 2 * STEP {
            self.reserved.shrink_to(self.held + STEP);
            self.spare.truncate(self.spares());
        }
        Some(true)
    }

    /// Says whether that is news.
    pub(super) fn raise(&mut self, limit: u64) -> bool {
        let news = limit > self.limit;
        self.limit = self.limit.max(limit);
        news
    }

    /// What was last sent on `link`, before the control `mark`, is to be sent again.
    pub(super) fn lost(&mut self, link: LinkId, mark: u64) {
        for (number, sent) in (self.acked..).zip(&mut self.unacked) {
            if sent.link == Some(link) && sent.mark <= mark {
                sent.link = None;
                self.again.insert(number);
            }
        }
    }

    /// The other side has had all of `link` before the control `mark` and lacks the first chunk that is not
    /// acknowledged. If that went over `link` before, it is lost, and the rest there with it. If it did not, the rest may
    /// have come and wait behind it.
    pub(super) fn lost_if_first(&mut self, link: LinkId, mark: u64) {
        let first = self.unacked.front();
        if first.is_some_and(|s| s.link == Some(link) && s.mark <= mark) {
            self.lost(link, mark);
        }
    }

    pub(super) fn is_on(&self, link: LinkId) -> bool {
        self.unacked.iter().any(|s| s.link == Some(link))
    }

    /// Something waits for the other side.
    pub(super) fn is_waiting(&self) -> bool {
        let more = !self.waiting.is_empty() || self.finishing && self.last.is_none();
        !self.unacked.is_empty() || more && self.next_len().is_none()
    }

    /// The other side reads no more.
    pub(super) fn stop(&mut self, code: u32) {
        if self.stopped.is_none() && !self.is_done() {
            self.stopped = Some(code);
            self.clear();
        }
    }

    pub(super) fn stopped(&self) -> Option<u32> {
        self.stopped
    }

    /// Drops all that waits or is not acknowledged.
    pub(super) fn clear(&mut self) {
        let sealed = self.acked + u64::try_from(self.unacked.len()).unwrap_or(0);
        self.waiting.clear();
        self.unacked.clear();
        self.again.clear();
        self.spare.clear();
        self.acked = sealed;
        self.held = 0;
        self.reserved.shrink_to(0);
    }

    /// The other side has everything, or wants nothing more.
    pub(super) fn is_done(&self) -> bool {
        self.stopped.is_some() || !self.failed && self.last.is_some() && self.unacked.is_empty()
    }

    /// The stream has failed.
    pub(super) fn fail(&mut self) {
        self.failed |= !self.is_done();
        self.clear();
    }

    /// Whether a writer that was told to wait may find room; once. Not for a chunk's worth: to be woken costs more than
    /// what it would bring.
    pub(super) fn has_room_again(&mut self) -> bool {
        let again = self.full && self.freed && self.waiting.len() <= self.may_wait() / 2;
        if again {
            self.full = false;
        }
        again
    }

    pub(super) fn held(&self) -> u64 {
        self.held
    }

    pub(super) fn sealed(&self) -> u64 {
        self.sealed
    }

    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn resent(&self) -> u64 {
        self.resent
    }
}
