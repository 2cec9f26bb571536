//! What two identities say to each other to move bytes in order (design section 7).
//!
//! ```text
//! envelope (channel stream, box, live, 60 s) > [`Open`] { stream, secret, name, suites, limit }
//!                                                   |
//!  secret, and 32 bytes of the acceptor -> HKDF-SHA256 -> data and control key per direction, [`Keys`]
//!                                                   |
//! record = kind u8 || suite u8 || flags u8 || 0 || stream 16 || number u64 || ciphertext || tag 16
//!                          AAD: these 28 bytes                      nonce: 0u32 || number
//! accept = a control, with the acceptor's 32 bytes behind the number, in clear and in the AAD
//! ```
//!
//! A chunk record carries bytes; a control record carries a [`Control`], which says all there is to say, so
//! that none before it is missed. `docs/protocol.md` section 25 says when each is sent.
//!
//! | a carrier | is stopped by |
//! |---|---|
//! | that reads or rewrites a record | the record's AEAD, with its header as associated data |
//! | that hands a record back to its author | the direction in the key |
//! | that shows a record in another stream, or a chunk as control | the stream and purpose in the key |
//! | that repeats an open | the envelope's expiry and id; and if these are lost, other keys |
//! | that repeats records | their numbers, which the reader remembers |

pub mod carry;
mod control;
mod keys;
mod open;
mod record;
mod suite;
#[cfg(test)]
mod tests;

pub use control::{BadControl, Control, MAX_REASON, State, code};
pub use keys::{Ends, Fresh, Keys, Offer, OpenKeys, Role, SealKeys, Secret};
pub use open::{MAX_SUITES, Open, OpenError, TTL, TYPE, VERSION};
pub use record::{
    ACCEPT_PREFIX, FRESH, Header, Kind, MAX_NUMBER, MAX_PLAINTEXT, MAX_RECORD, OVERHEAD, PREFIX,
    RecordError, TAG,
};
pub use suite::Suite;

/// Longest name of a stream, in bytes.
pub const MAX_NAME: usize = 128;
/// Least room that a receiver gives beyond what was read, in bytes of records: two records of the largest
/// size, so that a sender is never stuck with one that does not fit.
pub const MIN_WINDOW: u64 = 2 * MAX_RECORD as u64;

/// For fuzzers: every decoder of this module on any bytes.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(open) = Open::decode(bytes) {
        debug_assert!(Open::decode(&open.encode()).is_ok());
    }
    if let Ok(Some(control)) = Control::decode(bytes) {
        debug_assert_eq!(Control::decode(&control.encode()), Ok(Some(control)));
    }
    let _ = Header::parse(bytes);
    carry::fuzz(bytes);
}
