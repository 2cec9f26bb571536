//! Channel data, and where one message ends on a byte stream (RFC 8656 sections 12.4 and 12.5).

use std::ops::RangeInclusive;

use super::HEADER;

/// A channel header's length, bytes.
pub const CHANNEL_HEADER: usize = 4;
/// Channel numbers that may be bound: RFC 5766's, whose clients (coturn's tools among them) still
/// choose above 0x4fff, where RFC 8656's range ends to keep clear of DTLS on one and the same port.
pub const CHANNELS: RangeInclusive<u16> = 0x4000..=0x7ffe;

/// A channel header.
#[must_use]
pub fn channel_header(number: u16, length: u16) -> [u8; CHANNEL_HEADER] {
    let (n, l) = (number.to_be_bytes(), length.to_be_bytes());
    [n[0], n[1], l[0], l[1]]
}

/// Bytes of padding that follow `length` bytes of channel data on a byte stream.
#[must_use]
pub fn padding(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

/// Number and data of a channel message, or nothing where `bytes` are none. Over UDP it may be
/// followed by padding.
#[must_use]
pub fn channel_data(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<CHANNEL_HEADER>()?;
    let number = u16::from_be_bytes([head[0], head[1]]);
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    CHANNELS.contains(&number).then(|| rest.get(..length).map(|data| (number, data)))?
}

/// The next thing on a byte stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// So many bytes are needed before anything can be said.
    Need(usize),
    /// A message of `length` bytes; the next one starts after `total`.
    Whole {
        /// The message, padding left out.
        length: usize,
        /// The message with padding.
        total: usize,
    },
    /// Neither STUN nor channel data: the stream is lost.
    Invalid,
}

/// Finds the end of the first message in `bytes`.
#[must_use]
pub fn next_frame(bytes: &[u8]) -> Frame {
    let Some(head) = bytes.first_chunk::<4>() else {
        return Frame::Need(4);
    };
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let (length, total) = match head[0] {
        0x00..=0x3f if length % 4 == 0 => (HEADER + length, HEADER + length),
        0x40..=0x7f => {
            let length = CHANNEL_HEADER + length;
            (length, length + padding(length))
        }
        _ => return Frame::Invalid,
    };
    if bytes.len() < total { Frame::Need(total) } else { Frame::Whole { length, total } }
}
