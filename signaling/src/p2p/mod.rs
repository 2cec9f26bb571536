//! What two nodes seal for each other to negotiate a direct path (design section 6).
//!
//! ```text
//! frame p2p_offer { to, from, adapter, attempt, payload }          the broker reads this much
//!                                                   |
//! payload = nonce || box( from -> to, [`SignedStep`] )             at most 16 KiB
//! SignedStep { payload, sig, attestation? }                        sig by `from`, with the mesh
//!                 |
//! [`Negotiation`] { v, kind, adapter, attempt, seq, from, instance, to, at, head, answers?, content }
//!                                                                                            |
//!                                                                      [`quic`]: addresses, TLS key
//! ```
//!
//! A broker that swaps, replays, delays, reorders or rewrites frames gains nothing by it:
//!
//! | it | is stopped by |
//! |---|---|
//! | reads or rewrites what is inside | the box |
//! | shows one mesh's step in another, or another signed object as one | the signature's mesh and domain |
//! | changes `from`, `to`, the type, `adapter` or `attempt` outside | the same fields inside |
//! | pairs an answer or candidates with another offer | `answers` |
//! | holds a step back | `at`, 60 s |
//! | shows a step twice | [`Attempts`] |
//!
//! What it can still do is to refuse service: then there is no direct path, and mail stays on the relay.

mod attempts;
pub mod quic;
mod sealed;
#[cfg(test)]
mod tests;

pub use attempts::{Attempts, Refused};
pub use sealed::{
    Expected, Negotiation, Opened, P2pError, Part, Sealed, SignedStep, VERSION, open,
};

use crate::codec;
use crate::limits::MAX_ADAPTER;

/// Whether `name` can be an adapter's: 1 to [`MAX_ADAPTER`] characters of `a`–`z`, `0`–`9`, `_`, `-`.
#[must_use]
pub fn is_adapter(name: &str) -> bool {
    let fits = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    (1..=MAX_ADAPTER).contains(&name.len()) && name.bytes().all(fits)
}

/// For fuzzers: every decoder of this module on any bytes.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let _ = codec::from_msgpack::<SignedStep>(bytes);
    let _ = codec::from_msgpack::<Negotiation>(bytes);
    for kind in crate::frame::P2pKind::ALL {
        if let Ok(content) = quic::Content::decode(kind, bytes) {
            // What was read can be written, and reads the same.
            debug_assert_eq!(quic::Content::decode(kind, &content.encode()), Ok(content));
        }
    }
}
