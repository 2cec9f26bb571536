//! Records on the broker's WebSocket: binary messages that are not frames.
//!
//! ```text
//! record  = 1 || from key 32 || to key 32 || record        node -> broker -> node, the same bytes
//! credit  = 2 || stream 16 || to key 32 || bytes u64       broker -> the records' sender
//! gone    = 3 || stream 16 || to key 32 || reason u8       broker -> the records' sender
//! unknown = 4 || from key 32 || to key 32 || stream 16     node -> broker -> node, the same bytes
//! ```
//!
//! A frame in MessagePack begins with the marker of a map, and one in JSON is text, so the first byte tells. What
//! the broker says here is as little proven as what it carries: a stream believes its records alone.

use super::record::{Header, MAX_RECORD, RecordError};
use crate::id::{PublicKey, StreamId};

/// Bytes of one stream's records, from one socket to one identity, that a node begins with at the broker: enough for
/// 250 MB/s while the broker takes 4 ms to say that they left. Where its way to the broker is longer, a node uses more.
pub const STREAM_WINDOW: u64 = 1 << 20;
/// Most bytes of records of all streams from one socket to one identity that the broker has not passed on yet: what one
/// reader that does not read can make a broker hold, whatever the number of streams.
pub const PAIR_WINDOW: u64 = 4 << 20;
/// Most streams from one socket to one identity whose records the broker has not passed on yet.
pub const MAX_STREAMS: usize = 4_096;
/// Bytes in front of a record.
pub const FRONT: usize = 65;
/// Most bytes of a message with a record.
pub const MAX_CARRIED: usize = FRONT + MAX_RECORD;

const RECORD: u8 = 1;
const CREDIT: u8 = 2;
const GONE: u8 = 3;
const UNKNOWN: u8 = 4;
/// First bytes from here on are those of frames.
const FRAMES: u8 = 0x10;

/// Whether a binary message is one of these, rather than a frame.
#[must_use]
pub fn is_carry(message: &[u8]) -> bool {
    message.first().is_some_and(|first| *first < FRAMES)
}

/// Why the broker did not pass a record on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Gone {
    /// The recipient is not there.
    Offline,
    /// Nobody speaks for the recipient right now, but its presence goes on: it is expected back.
    Away,
    /// The program behind the recipient cannot do streams.
    Unable,
    /// The sender does not speak for `from`, or may not write to others.
    Forbidden,
    /// A reason from the future.
    Other(u8),
}

impl Gone {
    const fn byte(self) -> u8 {
        match self {
            Self::Offline => 1,
            Self::Away => 2,
            Self::Unable => 3,
            Self::Forbidden => 4,
            Self::Other(byte) => byte,
        }
    }

    const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Offline,
            2 => Self::Away,
            3 => Self::Unable,
            4 => Self::Forbidden,
            other => Self::Other(other),
        }
    }
}

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    /// An identity of the socket that the message came on.
    pub from: PublicKey,
    /// The recipient.
    pub to: PublicKey,
}

/// A message that is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Carry {
    /// A record; the message's bytes from [`FRONT`] on.
    Record {
        /// Between whom.
        way: Way,
        /// Its header, as little authentic as the rest.
        header: Header,
    },
    /// So many bytes more of records have left the broker, or were dropped by it.
    Credit {
        /// Of which stream.
        stream: StreamId,
        /// To whom.
        to: PublicKey,
        /// Bytes of records, without what stands in front of them.
        bytes: u64,
    },
    /// A record was not passed on.
    Gone {
        /// Of which stream.
        stream: StreamId,
        /// To whom.
        to: PublicKey,
        /// Why.
        reason: Gone,
    },
    /// `from` knows no such stream with `to`, who has sent a record of it.
    Unknown {
        /// Between whom.
        way: Way,
        /// Which stream.
        stream: StreamId,
    },
}

/// Why a message does not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadCarry {
    /// A kind from the future, or none at all.
    #[error("a binary message that is neither a frame nor a record: it begins with {0}")]
    Kind(u8),
    /// Its length is not its kind's.
    #[error("a message of kind {0} with a wrong length")]
    Length(u8),
    /// What it carries is no record.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Carry {
    /// Reads a message for which [`is_carry`] holds.
    ///
    /// # Errors
    /// [`BadCarry`].
    pub fn parse(message: &[u8]) -> Result<Self, BadCarry> {
        let (kind, rest) = message.split_first().ok_or(BadCarry::Kind(0))?;
        let short = || BadCarry::Length(*kind);
        match *kind {
            RECORD => {
                let (way, record) = way(rest).ok_or_else(short)?;
                Ok(Self::Record { way, header: Header::parse(record)? })
            }
            CREDIT => {
                let (stream, to, bytes) = told(rest).ok_or_else(short)?;
                Ok(Self::Credit { stream, to, bytes: u64::from_be_bytes(bytes) })
            }
            GONE => {
                let (stream, to, [reason]) = told(rest).ok_or_else(short)?;
                Ok(Self::Gone { stream, to, reason: Gone::from_byte(reason) })
            }
            UNKNOWN => {
                let (way, stream) = way(rest).ok_or_else(short)?;
                let stream = stream.try_into().map_err(|_| short())?;
                Ok(Self::Unknown { way, stream: StreamId(stream) })
            }
            other => Err(BadCarry::Kind(other)),
        }
    }

    /// The bytes of a message; of a record, what stands in front of it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Record { way, .. } => front(way).to_vec(),
            Self::Credit { stream, to, bytes } => {
                [&[CREDIT], &stream.0[..], &to.0, &bytes.to_be_bytes()].concat()
            }
            Self::Gone { stream, to, reason } => {
                [&[GONE], &stream.0[..], &to.0, &[reason.byte()]].concat()
            }
            Self::Unknown { way, stream } => {
                [&[UNKNOWN], &way.from.0[..], &way.to.0, &stream.0].concat()
            }
        }
    }
}

/// What stands in front of a record.
#[must_use]
pub fn front(way: &Way) -> [u8; FRONT] {
    let mut out = [RECORD; FRONT];
    out[1..33].copy_from_slice(&way.from.0);
    out[33..].copy_from_slice(&way.to.0);
    out
}

fn way(rest: &[u8]) -> Option<(Way, &[u8])> {
    let (from, rest) = rest.split_first_chunk()?;
    let (to, rest) = rest.split_first_chunk()?;
    Some((Way { from: PublicKey(*from), to: PublicKey(*to) }, rest))
}

fn told<const N: usize>(rest: &[u8]) -> Option<(StreamId, PublicKey, [u8; N])> {
    let (stream, rest) = rest.split_first_chunk()?;
    let (to, rest) = rest.split_first_chunk()?;
    Some((StreamId(*stream), PublicKey(*to), rest.try_into().ok()?))
}

/// For fuzzers: this module's decoder on any bytes.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(carry) = Carry::parse(bytes) {
        let again = carry.encode();
        debug_assert!(bytes.starts_with(&again));
        debug_assert!(matches!(carry, Carry::Record { .. }) || again.len() == bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Kind, Suite};
    use super::*;

    const WAY: Way = Way { from: PublicKey([1; 32]), to: PublicKey([2; 32]) };
    const STREAM: StreamId = StreamId([7; 16]);

    fn record(len: usize) -> Vec<u8> {
        let kind = Kind::Chunk { last: false };
        let header = Header { kind, suite: Suite::Aes256Gcm, stream: STREAM, number: 9 };
        let mut out = [&front(&WAY)[..], &header.encode()].concat();
        out.resize(FRONT + len, 0xee);
        out
    }

    fn others() -> [Carry; 3] {
        let to = WAY.to;
        [
            Carry::Credit { stream: STREAM, to, bytes: u64::MAX },
            Carry::Gone { stream: STREAM, to, reason: Gone::Unable },
            Carry::Unknown { way: WAY, stream: STREAM },
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        for len in [44, 45, MAX_RECORD] {
            let bytes = record(len);
            let carry = Carry::parse(&bytes).unwrap();
            let Carry::Record { way, header } = carry else { panic!("{carry:?}") };
            assert_eq!((way, header.stream, header.number), (WAY, STREAM, 9));
            assert_eq!(carry.encode(), bytes[..FRONT]);
        }
        for carry in others() {
            let bytes = carry.encode();
            assert!(is_carry(&bytes));
            assert_eq!(Carry::parse(&bytes), Ok(carry));
        }
        for byte in 0..=u8::MAX {
            assert_eq!(Gone::from_byte(byte).byte(), byte);
        }
    }

    #[test]
    fn other_lengths_are_refused() {
        assert_eq!(Carry::parse(&[]), Err(BadCarry::Kind(0)));
        assert!(Carry::parse(&record(43)).is_err());
        assert!(Carry::parse(&record(MAX_RECORD + 1)).is_err());
        for carry in others() {
            let mut bytes = carry.encode();
            let kind = bytes[0];
            bytes.push(0);
            assert_eq!(Carry::parse(&bytes), Err(BadCarry::Length(kind)));
            for cut in 1..bytes.len() - 1 {
                assert_eq!(Carry::parse(&bytes[..cut]), Err(BadCarry::Length(kind)));
            }
        }
    }

    #[test]
    fn frames_and_these_never_look_alike() {
        use crate::codec::Encoding;
        use crate::frame::{Bye, Frame};
        let frame: Frame = Bye {}.into();
        assert!(!is_carry(&frame.encode(Encoding::MsgPack)));
        assert!(!is_carry(&[]));
        for kind in (0..FRAMES).filter(|k| !(RECORD..=UNKNOWN).contains(k)) {
            let mut bytes = record(44);
            bytes[0] = kind;
            assert!(is_carry(&bytes));
            assert_eq!(Carry::parse(&bytes), Err(BadCarry::Kind(kind)));
        }
    }

    #[test]
    fn records_have_a_records_form() {
        for at in [0, 1, 2, 3] {
            let mut bytes = record(100);
            bytes[FRONT + at] = 0x55;
            assert!(matches!(Carry::parse(&bytes), Err(BadCarry::Record(_))), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..8u8) {
            fuzz(&bytes);
            fuzz(&[&[kind], &bytes[..]].concat());
        }
    }
}
