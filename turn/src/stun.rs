//! STUN's wire format (RFC 8489) and what TURN adds to it (RFC 8656): messages, their integrity,
//! addresses, channel data and the framing on byte streams.
//!
//! ```text
//! message       0 0 M M M M M C M M M C M M M M | length (of what follows the header)
//!               magic cookie 2112a442 | transaction id, 12 bytes
//!               attributes: type 2, length 2, value, padded to 4
//! channel data  number 4000-7ffe | length | data (padded to 4 on byte streams alone)
//! ```
//!
//! Parsing borrows, allocates nothing, logs nothing and refuses what is not exactly one message.

mod address;
pub(crate) mod attr;
mod builder;
mod channel;
mod message;
#[cfg(test)]
mod tests;

pub(crate) use address::{decode_xor, encode_plain, encode_xor};
pub use builder::Builder;
pub use channel::{
    CHANNEL_HEADER, CHANNELS, Frame, channel_data, channel_header, next_frame, padding,
};
pub use message::{Attribute, Class, HEADER, Integrity, Message, Method, ParseError};

/// The header's fixed second word.
pub const MAGIC: u32 = 0x2112_a442;
/// What FINGERPRINT's checksum is xored with.
pub(crate) const FINGERPRINT_XOR: u32 = 0x5354_554e;
/// FINGERPRINT's checksum.
pub(crate) const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
