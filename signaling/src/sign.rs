//! The one signed layout, and the domains that keep signatures apart.
//!
//! ```text
//! domain || 0x00 || for each field ( u32 BE length || bytes )
//! ```
//!
//! Signed objects are MessagePack, encoded once by their author; what is signed is the exact bytes
//! sent, which are never re-encoded. [`Signed`] carries them with their signature.

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::id::{Blob, Hash, PublicKey, SecretKey, Signature};
use crate::limits::MAX_SIGNED;

/// A signing domain. Two objects of different kinds never share one, so a signature over the first
/// cannot be shown as a signature over the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain(&'static str);

impl Domain {
    /// The domain's text.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        self.0
    }
}

/// Every domain, each with the attack that it stops.
pub mod domains {
    use super::Domain;

    /// A mesh's first event. Stops a signed capability or claim being shown as another mesh's birth.
    pub const GENESIS: Domain = Domain("meshwire/v2/genesis");
    /// An admin's invite. Stops any other admin signature from letting people in.
    pub const CAPABILITY: Domain = Domain("meshwire/v2/invite-capability");
    /// The invite key's statement of who joins. Stops a broker that holds the capability (but not
    /// the invite's secret) from adding a member of its own.
    pub const CLAIM: Domain = Domain("meshwire/v2/member-claim");
    /// The joiner's own signature on the same claim. Stops registering somebody else's key.
    pub const CLAIM_PROOF: Domain = Domain("meshwire/v2/member-claim-proof");
    /// The broker's count of an invite's uses. Stops one invite from admitting more than it allows.
    pub const COUNTERSIGN: Domain = Domain("meshwire/v2/claim-countersign");
    /// A member vouching for a session or service key. Stops a member's other signatures from
    /// being read as delegation.
    pub const ATTESTATION: Domain = Domain("meshwire/v2/attestation");
    /// A node's hello. Stops replay on another connection or another broker: the challenge, the
    /// broker's key and the channel binding are inside.
    pub const HELLO: Domain = Domain("meshwire/v2/hello");
    /// The broker's hello ack. Stops stripped feature bits and a stranger answering for the broker.
    pub const HELLO_ACK: Domain = Domain("meshwire/v2/hello-ack");
    /// A further identity's proof on an open socket. Stops a stolen attestation: the key itself
    /// signs the hello it joins.
    pub const BIND: Domain = Domain("meshwire/v2/bind");
    /// An envelope. Stops a broker or peer from changing header, body or mesh.
    pub const ENVELOPE: Domain = Domain("meshwire/v2/envelope");
    /// The receipt MAC's input. Stops a forged `delivered`.
    pub const RECEIPT: Domain = Domain("meshwire/v2/receipt");
    /// Derivation of the receipt key from a pair's secret. Keeps it apart from the box key.
    pub const RECEIPT_KEY: Domain = Domain("meshwire/v2/receipt-key");
    /// The commitment of a group envelope to its content key. Stops a sender from giving recipients
    /// different keys, hence different texts, under one signature.
    pub const CONTENT_KEY: Domain = Domain("meshwire/v2/content-key");
    /// A member joining or leaving a group. Stops a broker from putting somebody in a group, or
    /// from moving its own enemies out of one.
    pub const GROUP: Domain = Domain("meshwire/v2/group");
    /// The broker's resume token. Stops a made-up lease from being taken for one of the broker's.
    pub const RESUME: Domain = Domain("meshwire/v2/resume");
    /// A step of a negotiation, with the mesh. Stops a broker from placing itself in the middle of a
    /// direct path: the addresses and the TLS key that the path is pinned to are inside, with both
    /// identities, the attempt and the time.
    pub const P2P: Domain = Domain("meshwire/v2/p2p");
    /// Derivation of the connection id that begins a direct path from both sides' ICE credentials. Stops
    /// nothing by itself; it keeps a hash that anybody on the way sees apart from all others.
    pub const P2P_INITIAL: Domain = Domain("meshwire/v2/p2p-initial");
    /// Derivation of a stream's keys from its secret. Stops one stream, direction or purpose from using
    /// the key of another.
    pub const STREAM_KEY: Domain = Domain("meshwire/v2/stream-key");
}

/// Why a signature was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The public key is no usable ed25519 point.
    #[error("malformed public key")]
    BadKey,
    /// The signature does not hold for these bytes and this key.
    #[error("bad signature")]
    BadSignature,
    /// The signed bytes are not the object they should be.
    #[error("malformed signed object: {0}")]
    Malformed(#[from] CodecError),
}

/// The bytes that are signed: see the module's documentation.
#[must_use]
pub fn layout(domain: Domain, fields: &[&[u8]]) -> Vec<u8> {
    let size = domain.0.len() + 1 + fields.iter().map(|f| f.len() + 4).sum::<usize>();
    let mut out = Vec::with_capacity(size);
    out.extend_from_slice(domain.0.as_bytes());
    out.push(0);
    for field in fields {
        push_field(&mut out, field);
    }
    out
}

/// Appends one length-prefixed field. Fields are bounded far below 4 GiB by every parser.
pub(crate) fn push_field(out: &mut Vec<u8>, field: &[u8]) {
    out.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(field);
}

/// A MessagePack object with the signature over its exact bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signed {
    /// The object, encoded once by its author.
    pub payload: Blob,
    /// The author's signature over `layout(domain, [payload])`.
    pub sig: Signature,
}

impl Signed {
    /// Encodes and signs `object`.
    #[must_use]
    pub fn new<T: Serialize>(key: &SecretKey, domain: Domain, object: &T) -> Self {
        let payload = codec::to_msgpack(object);
        let sig = key.sign(domain, &[&payload]);
        Self { payload: Blob(payload), sig }
    }

    /// Decodes the object without checking the signature: to learn whose key must have signed it.
    ///
    /// # Errors
    /// [`SignError::Malformed`] when it is too long or not this object.
    pub fn peek<T: serde::de::DeserializeOwned>(&self) -> Result<T, SignError> {
        if self.payload.len() > MAX_SIGNED {
            return Err(CodecError::TooLong { len: self.payload.len(), max: MAX_SIGNED }.into());
        }
        Ok(codec::from_msgpack(&self.payload)?)
    }

    /// Checks the signature by `key`.
    ///
    /// # Errors
    /// As [`PublicKey::verify`].
    pub fn verify(&self, key: &PublicKey, domain: Domain) -> Result<(), SignError> {
        key.verify(domain, &[&self.payload], &self.sig)
    }

    /// Checks the signature by `key`, then decodes.
    ///
    /// # Errors
    /// As [`Self::verify`] and [`Self::peek`].
    pub fn open<T: serde::de::DeserializeOwned>(
        &self,
        key: &PublicKey,
        domain: Domain,
    ) -> Result<T, SignError> {
        self.verify(key, domain)?;
        self.peek()
    }

    /// SHA-256 of the signed layout: how other objects refer to this one.
    #[must_use]
    pub fn hash(&self, domain: Domain) -> Hash {
        Hash::of(&layout(domain, &[&self.payload]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_boundaries_are_part_of_what_is_signed() {
        let d = domains::HELLO;
        assert_ne!(layout(d, &[b"ab", b"c"]), layout(d, &[b"a", b"bc"]));
        assert_ne!(layout(d, &[b"abc"]), layout(domains::BIND, &[b"abc"]));
        assert_eq!(layout(d, &[b"x"]), b"meshwire/v2/hello\x00\x00\x00\x00\x01x");
    }

    #[test]
    fn small_order_keys_verify_nothing() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut sig = [0; 64];
        sig[0] = 1;
        let r = PublicKey(identity).verify(domains::HELLO, &[b"x"], &Signature(sig));
        assert_eq!(r, Err(SignError::BadKey));
    }
}
