//! The outside of a record: 28 bytes in clear, of an accept 32 more, ciphertext, tag. Integers are big-endian.

use super::suite::Suite;
use crate::id::StreamId;

/// Most bytes of a record: messages interleave with them on the broker's connection.
pub const MAX_RECORD: usize = 32_768;
/// Bytes in front of the ciphertext, all of them associated data; of an accept [`ACCEPT_PREFIX`].
pub const PREFIX: usize = 28;
/// Bytes of a [`super::Fresh`].
pub const FRESH: usize = 32;
/// Bytes in front of an accept's ciphertext; all of them are associated data.
pub const ACCEPT_PREFIX: usize = PREFIX + FRESH;
/// Bytes of the tag behind it.
pub const TAG: usize = 16;
/// Bytes that a record has beside its plaintext.
pub const OVERHEAD: usize = PREFIX + TAG;
/// Most bytes of plaintext in one record.
pub const MAX_PLAINTEXT: usize = MAX_RECORD - OVERHEAD;
/// Numbers stay below this, so that no arithmetic on them overflows.
pub const MAX_NUMBER: u64 = 1 << 62;
/// The flag of a last chunk.
const LAST: u8 = 1;

/// Why a record was refused or could not be made. Whoever carries records can cause all but
/// [`Self::Exhausted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Too short, too long, or with a field that no record has.
    #[error("not a record of a stream: {0}")]
    Malformed(&'static str),
    /// Its suite is not the stream's.
    #[error("a record of another suite")]
    Suite,
    /// It is of another stream.
    #[error("a record of another stream")]
    Stream,
    /// It was not made by the other side for this direction, or was changed on its way.
    #[error("a record that does not open")]
    Forged,
    /// It came before the stream was accepted, and is no accept: nothing tells its key yet.
    #[error("a record before the stream was accepted")]
    Early,
    /// All numbers of this direction have been used.
    #[error("the stream has used all its numbers")]
    Exhausted,
}

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Bytes of the stream.
    Chunk {
        /// Whether the stream ends with them.
        last: bool,
    },
    /// A [`super::Control`].
    Control,
    /// A [`super::Control`] of the acceptor, with what it has added to the keys in front.
    Accept,
}

impl Kind {
    /// Where the ciphertext begins.
    #[must_use]
    pub const fn prefix(self) -> usize {
        match self {
            Self::Chunk { .. } | Self::Control => PREFIX,
            Self::Accept => ACCEPT_PREFIX,
        }
    }

    /// Whether it carries a [`super::Control`].
    #[must_use]
    pub const fn is_control(self) -> bool {
        matches!(self, Self::Control | Self::Accept)
    }
}

/// The part of a record that whoever carries it can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it carries.
    pub kind: Kind,
    /// Under which suite it is sealed.
    pub suite: Suite,
    /// Of which stream it is.
    pub stream: StreamId,
    /// Which record of its kind and direction it is: chunks from 0, controls and accepts together from 1.
    pub number: u64,
}

impl Header {
    /// Reads the header of a record and checks the record's length. Nothing of it is authentic before the record is
    /// opened.
    ///
    /// # Errors
    /// [`RecordError::Malformed`].
    pub fn parse(record: &[u8]) -> Result<Self, RecordError> {
        let bad = |why| Err(RecordError::Malformed(why));
        if record.len() > MAX_RECORD {
            return bad("longer than 32,768 bytes");
        }
        let Some((prefix, rest)) = record.split_first_chunk::<PREFIX>() else {
            return bad("shorter than its header");
        };
        let sealed = rest.len();
        let [kind, suite, flags, zero, rest @ ..] = prefix;
        let kind = match (kind, flags) {
            (1, 0) => Kind::Chunk { last: false },
            (1, &LAST) => Kind::Chunk { last: true },
            (2, 0) => Kind::Control,
            (3, 0) => Kind::Accept,
            (1..=3, _) => return bad("unknown flags"),
            _ => return bad("unknown kind"),
        };
        if sealed < kind.prefix() - PREFIX + TAG {
            return bad("shorter than its tag");
        }
        let Some(suite) = Suite::from_byte(*suite) else { return bad("unknown suite") };
        if *zero != 0 {
            return bad("a byte that must be zero is not");
        }
        let (mut stream, mut number) = ([0; 16], [0; 8]);
        stream.copy_from_slice(&rest[..16]);
        number.copy_from_slice(&rest[16..]);
        let number = u64::from_be_bytes(number);
        if number >= MAX_NUMBER {
            return bad("a number of 2^62 or more");
        }
        if kind.is_control() && number == 0 {
            return bad("controls are numbered from 1");
        }
        Ok(Self { kind, suite, stream: StreamId(stream), number })
    }

    /// The bytes of this header.
    #[must_use]
    pub fn encode(&self) -> [u8; PREFIX] {
        let mut out = [0; PREFIX];
        (out[0], out[2]) = match self.kind {
            Kind::Chunk { last } => (1, if last { LAST } else { 0 }),
            Kind::Control => (2, 0),
            Kind::Accept => (3, 0),
        };
        out[1] = self.suite.byte();
        out[4..20].copy_from_slice(&self.stream.0);
        out[20..].copy_from_slice(&self.number.to_be_bytes());
        out
    }
}
