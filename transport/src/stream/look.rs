//! What a driver can see of a stream.

use meshwire_signaling::StreamId;

use super::error::StreamError;
use super::machine::{Phase, Stream};

/// What has become different since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The other side has accepted the stream.
    pub accepted: bool,
    /// [`Stream::read`] has something else to say.
    pub readable: bool,
    /// [`Stream::write`] may take more than it did, or has something else to say.
    pub writable: bool,
    /// The stream, or a half of it, has ended or failed.
    pub ended: bool,
}

/// What a stream has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes of the application that came in order.
    pub received: u64,
    /// Bytes of the application that were written.
    pub written: u64,
    /// Bytes of records of chunks that were sent, each counted once.
    pub sent: u64,
    /// Chunks of ours that the other side has.
    pub acked: u64,
    /// Records of chunks that were sent once more.
    pub resent: u64,
    /// Chunks that came once more, or controls that were old or replayed.
    pub duplicates: u64,
    /// Records that were none of this stream, or did not open.
    pub forged: u64,
    /// Chunks beyond what was granted.
    pub beyond_limit: u64,
    /// Bytes of records that are held for sending, and for the reader.
    pub held: [u64; 2],
    /// How much the other side may send beyond what was read, in bytes of records.
    pub window: u64,
}

impl Stream {
    /// Which stream it is: records carry it.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// What is different since the last call.
    pub fn changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Whether the other side has accepted the stream while it was wanted, or this side is it.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.accepted && !matches!(self.error, Some(StreamError::Refused { .. }))
    }

    /// The other side has all that was written and finished, or wants no more; and this side has all of its.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.sending.is_done() && self.receiving.is_done()
    }

    /// Whether the other side has all that was written, and its end.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.sending.is_done() && self.sending.stopped().is_none()
    }

    /// Whether nothing more is to be sent or expected: it can be dropped once the application has read the rest.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// What ended the stream early, if something did.
    #[must_use]
    pub fn error(&self) -> Option<&StreamError> {
        self.error.as_ref()
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            received: self.receiving.delivered(),
            written: self.sending.written(),
            sent: self.sending.sealed(),
            acked: self.sending.acked(),
            resent: self.sending.resent(),
            held: [self.sending.held(), self.receiving.held()],
            window: self.receiving.window().size(),
            ..self.counters
        }
    }
}
