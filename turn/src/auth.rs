//! Who may allocate: time-limited credentials in the style of TURN REST, which every ordinary client
//! can use, bound to a member and deleted on demand; nonces that need no memory.
//!
//! ```text
//! username   expiry:issued.kind.member     expiry in Unix seconds, issued in Unix milliseconds
//! password   base64(HMAC-SHA1(secret, username))
//! nonce      obMatJos2 | features, 4 | time, 8 hex | HMAC-SHA256 over time and client, 32 hex
//! ```
//!
//! Usernames of other issuers with the same secret (`expiry:anything`) are members of kind
//! [`Kind::Other`].

mod member;
mod nonce;
mod secret;
mod void;

pub use member::{Credentials, Kind, Member, MemberError};
pub(crate) use nonce::{Nonces, PASSWORD_ALGORITHMS_BIT};
pub use secret::Secret;
#[cfg(test)]
pub(crate) use secret::key_in_realm;
pub(crate) use secret::{Algorithm, long_term_key};
pub(crate) use void::{Denied, Void};

/// Longest time that a credential is valid for, seconds: what was deleted is remembered so long.
pub const MAX_TTL: u64 = 7 * 24 * 3_600;
/// The realm of all credentials. It separates nothing here, but long-term keys hash it.
pub const REALM: &str = "meshwire";
