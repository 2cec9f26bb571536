//! The envelope: what travels from one author to its recipients, the same on every path.
//!
//! ```text
//! envelope = { v: 2, header: bin, body: bin, sig: bin64, proof?, wraps? }
//! signed   = layout("meshwire/v2/envelope", [mesh id, header, SHA-256(body)])
//! hash     = SHA-256( signed || u32 BE 64 || sig )
//! ```
//!
//! `header` is MessagePack, encoded once by the author ([`Header`]). `body` is the sealed
//! [`Content`], also MessagePack. `proof` and `wraps` lie outside the signature: whoever carries the
//! envelope may add the sender's chain, and leaves each recipient only its own wrap.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::UnixMillis;
use crate::codec::{self, CodecError};
use crate::id::{Blob, EnvelopeId, Hash, InstanceId, MeshId, PublicKey, SecretKey, Signature};
use crate::invite::Chain;
use crate::limits::{MAX_BODY, MAX_HEADER, MAX_TTL, MAX_WRAPS, SKEW, ms};
use crate::seal::{ContentKey, Nonce, Pair, SealError, Wrap, x25519_public};
use crate::sign::{SignError, Signed, domains, layout, push_field};

/// What kind of exchange an envelope belongs to (inventory A-074).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// One author, one recipient.
    Dm,
    /// One author, the members of a group; a broadcast is the group `all`.
    Group,
    /// Publication to a topic.
    Topic,
    /// Request or response of a call.
    Rpc,
    /// Opening of a stream.
    Stream,
    /// From the broker.
    System,
}

/// Whom an envelope is for. A tagged enum, never a parsed string.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Target {
    /// A member's node, which surfaces it to its sessions.
    Member {
        /// The member's key.
        key: PublicKey,
    },
    /// One running session.
    Session {
        /// The session's key.
        key: PublicKey,
    },
    /// A service identity.
    Service {
        /// The service's key.
        key: PublicKey,
    },
    /// The members of a group, `all` for everybody.
    Group {
        /// The group's name without `@`.
        name: String,
    },
    /// A topic.
    Topic {
        /// The topic's id.
        id: Hash,
    },
}

impl Target {
    /// The one recipient key, where there is just one.
    #[must_use]
    pub fn key(&self) -> Option<PublicKey> {
        match self {
            Self::Member { key } | Self::Session { key } | Self::Service { key } => Some(*key),
            Self::Group { .. } | Self::Topic { .. } => None,
        }
    }
}

/// When a recipient's node surfaces an envelope (inventory B-047).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Whatever the recipient's status.
    Now,
    /// When the recipient is idle.
    #[default]
    Next,
    /// When the recipient is idle, after everything else.
    Low,
}

impl Priority {
    /// All priorities, most urgent first.
    pub const ALL: [Self; 3] = [Self::Now, Self::Next, Self::Low];

    /// The wire word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::Next => "next",
            Self::Low => "low",
        }
    }
}

/// Whether the broker keeps an envelope for a recipient that is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Kept, encrypted, until delivered or expired.
    #[default]
    Queued,
    /// Only for recipients that are there now.
    Live,
}

/// How the body is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Suite {
    /// `crypto_box` to the target's key; `key_id` is [`box_key_id`] of it.
    Box,
    /// `crypto_secretbox` under a fresh key, wrapped per recipient; `key_id` is its commitment.
    Wrap,
    /// `crypto_secretbox` under a topic's key; `key_id` names that key.
    Topic,
    /// One that this version does not know; it may be carried, not opened.
    #[serde(other)]
    Unknown,
}

/// Who wrote an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Author {
    /// The identity key that signs it.
    pub key: PublicKey,
    /// The outbox it was numbered in.
    pub instance: InstanceId,
}

/// The part of an envelope that the broker reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The kind of exchange.
    pub channel: Channel,
    /// The author.
    pub from: Author,
    /// Whom it is for.
    pub target: Target,
    /// Chosen by the author; one state everywhere belongs to (mesh, author key, id).
    pub id: EnvelopeId,
    /// When it surfaces.
    pub priority: Priority,
    /// Whether it waits for who is away.
    pub durability: Durability,
    /// When the author froze it, Unix milliseconds.
    pub sent_at: UnixMillis,
    /// When it stops being worth delivering, Unix milliseconds; at most 30 days after `sent_at`.
    pub expires_at: UnixMillis,
    /// How the body is sealed.
    pub suite: Suite,
    /// Which key opens the body, as the suite says.
    pub key_id: Blob,
    /// The author's one-time X25519 key, for suites that use one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<Hash>,
}

/// Where an author's copy of the mesh log ended: lets two peers catch a broker that shows two
/// histories. (0, mesh id) before there is a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateHead {
    /// Number of the last event.
    pub version: u64,
    /// Hash of the last event.
    pub hash: Hash,
}

impl StateHead {
    /// The head before the log exists.
    #[must_use]
    pub fn origin(mesh: &MeshId) -> Self {
        Self { version: 0, hash: Hash(mesh.0) }
    }
}

/// What is sealed in the body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Media type of `content`, for example `text/plain`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The envelope this one answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<EnvelopeId>,
    /// Members it draws the attention of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<PublicKey>,
    /// Ties a call's response to its request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<EnvelopeId>,
    /// Whether this is a call's response.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub response: bool,
    /// Counts from 1 per (author key, instance, target, priority).
    pub seq: u64,
    /// The lowest seq of that counter that the author may still deliver.
    pub floor: u64,
    /// The author's state head.
    pub head: StateHead,
    /// The message itself.
    pub content: Blob,
}

/// Why someone may believe that an author is a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The member's certificate chain.
    pub chain: Chain,
    /// For sessions and services: the member's word for the key, valid at `sent_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Signed>,
}

/// An envelope as it travels; see the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Always 2.
    pub v: u8,
    /// [`Header`], as the author encoded it.
    pub header: Blob,
    /// The sealed [`Content`].
    pub body: Blob,
    /// The author's signature.
    pub sig: Signature,
    /// The author's chain, when the carrier thinks the recipient may lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Box<Proof>>,
    /// Content keys per recipient, for [`Suite::Wrap`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wraps: Vec<Wrap>,
}

/// Why an envelope was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Not version 2.
    #[error("envelope version {0} is not 2")]
    Version(u8),
    /// A part is larger than allowed.
    #[error("the {part} has {len} bytes, at most {max} are allowed")]
    TooLarge {
        /// Which part.
        part: &'static str,
        /// How many bytes (wraps: pieces) it has.
        len: usize,
        /// How many it may have.
        max: usize,
    },
    /// The header or content does not decode.
    #[error("malformed {0}: {1}")]
    Malformed(&'static str, CodecError),
    /// Channel and target do not go together.
    #[error("a {0:?} envelope cannot have this target")]
    Target(Channel),
    /// The times make no sense.
    #[error("{0}")]
    Times(&'static str),
    /// Past its expiry.
    #[error("the envelope has expired")]
    Expired,
    /// The signature does not hold.
    #[error(transparent)]
    Signature(#[from] SignError),
    /// The body cannot be opened.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// An envelope whose signature holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The decoded header.
    pub header: Header,
    /// The envelope hash.
    pub hash: Hash,
}

/// The `key_id` of [`Suite::Box`]: the first 8 bytes of SHA-256 of the recipient's X25519 image.
///
/// # Errors
/// [`SealError::BadKey`] for keys without an image.
pub fn box_key_id(recipient: &PublicKey) -> Result<Blob, SealError> {
    Ok(Blob(Hash::of(&x25519_public(recipient)?).0[..8].to_vec()))
}

impl Header {
    /// Checks what the signature cannot: that channel, target and times make sense at `now`.
    ///
    /// # Errors
    /// [`EnvelopeError::Target`], [`EnvelopeError::Times`], [`EnvelopeError::Expired`].
    pub fn check(&self, now: UnixMillis) -> Result<(), EnvelopeError> {
        let fits = match (self.channel, &self.target) {
            (Channel::Group, Target::Group { .. }) | (Channel::Topic, Target::Topic { .. }) => true,
            (Channel::Dm | Channel::Rpc | Channel::Stream, t) => t.key().is_some(),
            _ => false,
        };
        if !fits {
            return Err(EnvelopeError::Target(self.channel));
        }
        if self.sent_at > now.saturating_add(ms(SKEW)) {
            return Err(EnvelopeError::Times("sent_at lies in the future: check the clock"));
        }
        if self.expires_at <= self.sent_at {
            return Err(EnvelopeError::Times("expires_at is not after sent_at"));
        }
        if self.expires_at - self.sent_at > ms(MAX_TTL) {
            return Err(EnvelopeError::Times("expires_at is more than 30 days after sent_at"));
        }
        if self.expires_at <= now {
            return Err(EnvelopeError::Expired);
        }
        Ok(())
    }
}

impl Envelope {
    /// Signs a header and an already sealed body.
    #[must_use]
    pub fn sign(mesh: &MeshId, author: &SecretKey, header: &Header, body: Vec<u8>) -> Self {
        let header = codec::to_msgpack(header);
        let sig = author.sign(domains::ENVELOPE, &[&mesh.0, &header, &Hash::of(&body).0]);
        Self { v: 2, header: header.into(), body: body.into(), sig, proof: None, wraps: Vec::new() }
    }

    /// Seals `content` with [`Suite::Box`] and signs. The caller sets `header.suite` and
    /// `header.key_id` (see [`box_key_id`]).
    #[must_use]
    pub fn seal_box(
        mesh: &MeshId,
        author: &SecretKey,
        header: &Header,
        pair: &Pair,
        nonce: &Nonce,
        content: &Content,
    ) -> Self {
        let plain = Zeroizing::new(codec::to_msgpack(content));
        Self::sign(mesh, author, header, pair.seal(nonce, &plain))
    }

    /// Seals `content` under a content key with [`Suite::Wrap`] and signs. The caller sets
    /// `header.suite`, and `header.key_id` to the key's [`ContentKey::commitment`], and adds a
    /// wrap for each recipient.
    #[must_use]
    pub fn seal_group(
        mesh: &MeshId,
        author: &SecretKey,
        header: &Header,
        key: &ContentKey,
        nonce: &Nonce,
        content: &Content,
    ) -> Self {
        let plain = Zeroizing::new(codec::to_msgpack(content));
        Self::sign(mesh, author, header, key.seal(nonce, &plain))
    }

    /// The envelope hash: the only fingerprint of a message that broker and peers compare.
    #[must_use]
    pub fn hash(&self, mesh: &MeshId) -> Hash {
        self.hash_with(mesh, &Hash::of(&self.body))
    }

    fn hash_with(&self, mesh: &MeshId, body: &Hash) -> Hash {
        let mut bytes = layout(domains::ENVELOPE, &[&mesh.0, &self.header, &body.0]);
        push_field(&mut bytes, &self.sig.0);
        Hash::of(&bytes)
    }

    /// Checks sizes and version and decodes the header, without the signature.
    ///
    /// # Errors
    /// What is wrong with the shape.
    pub fn header(&self) -> Result<Header, EnvelopeError> {
        if self.v != 2 {
            return Err(EnvelopeError::Version(self.v));
        }
        let bound = |part, len, max| {
            if len > max { Err(EnvelopeError::TooLarge { part, len, max }) } else { Ok(()) }
        };
        bound("header", self.header.len(), MAX_HEADER)?;
        bound("body", self.body.len(), MAX_BODY)?;
        bound("list of wraps", self.wraps.len(), MAX_WRAPS)?;
        codec::from_msgpack(&self.header).map_err(|e| EnvelopeError::Malformed("header", e))
    }

    /// Checks the signature by the author that `header`, this envelope's own, names. Returns the
    /// envelope hash. Says nothing of who the author is: see [`Chain::verify`].
    ///
    /// # Errors
    /// [`EnvelopeError::Signature`].
    pub fn verify(&self, mesh: &MeshId, header: &Header) -> Result<Hash, EnvelopeError> {
        let body = Hash::of(&self.body);
        let fields: [&[u8]; 3] = [&mesh.0, &self.header, &body.0];
        header.from.key.verify(domains::ENVELOPE, &fields, &self.sig)?;
        Ok(self.hash_with(mesh, &body))
    }

    /// Checks shape and signature: [`Self::header`], then [`Self::verify`].
    ///
    /// # Errors
    /// What is wrong with shape or signature.
    pub fn check(&self, mesh: &MeshId) -> Result<Checked, EnvelopeError> {
        let header = self.header()?;
        let hash = self.verify(mesh, &header)?;
        Ok(Checked { header, hash })
    }

    /// Opens the body with the recipient's pair with the author.
    ///
    /// # Errors
    /// [`EnvelopeError::Seal`] or [`EnvelopeError::Malformed`].
    pub fn open_box(&self, pair: &Pair) -> Result<Content, EnvelopeError> {
        decode_content(&pair.open(&self.body)?)
    }

    /// Opens the body with a content key.
    ///
    /// # Errors
    /// As [`Self::open_box`].
    pub fn open_with(&self, key: &ContentKey) -> Result<Content, EnvelopeError> {
        decode_content(&key.open(&self.body)?)
    }
}

fn decode_content(plain: &[u8]) -> Result<Content, EnvelopeError> {
    codec::from_msgpack(plain).map_err(|e| EnvelopeError::Malformed("content", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (MeshId, SecretKey, SecretKey, Header, Content) {
        let (a, b) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
        let mesh = MeshId([3; 32]);
        let header = Header {
            channel: Channel::Dm,
            from: Author { key: a.public(), instance: InstanceId([4; 16]) },
            target: Target::Member { key: b.public() },
            id: EnvelopeId::new(1_000_000, 5),
            priority: Priority::Now,
            durability: Durability::Queued,
            sent_at: 1_000_000,
            expires_at: 2_000_000,
            suite: Suite::Box,
            key_id: box_key_id(&b.public()).unwrap(),
            ephemeral: None,
        };
        let content = Content {
            kind: "text/plain".into(),
            reply_to: None,
            mentions: vec![],
            correlation: None,
            response: false,
            seq: 1,
            floor: 1,
            head: StateHead::origin(&mesh),
            content: b"hello".to_vec().into(),
        };
        (mesh, a, b, header, content)
    }

    #[test]
    fn an_envelope_opens_at_its_recipient_with_header_and_content_intact() {
        let (mesh, a, b, header, content) = sample();
        let pair = Pair::new(&a, &b.public()).unwrap();
        let env = Envelope::seal_box(&mesh, &a, &header, &pair, &[7; 24], &content);
        let checked = env.check(&mesh).unwrap();
        assert_eq!(checked.header, header);
        assert_eq!(checked.hash, env.hash(&mesh));
        let theirs = Pair::new(&b, &a.public()).unwrap();
        assert_eq!(env.open_box(&theirs).unwrap(), content);
    }

    #[test]
    fn any_changed_byte_breaks_the_signature() {
        let (mesh, a, b, header, content) = sample();
        let pair = Pair::new(&a, &b.public()).unwrap();
        let env = Envelope::seal_box(&mesh, &a, &header, &pair, &[7; 24], &content);
        assert!(env.check(&MeshId([9; 32])).is_err(), "another mesh");
        for i in 0..env.body.len() {
            let mut bad = env.clone();
            bad.body.0[i] ^= 0x10;
            assert!(bad.check(&mesh).is_err(), "body byte {i}");
        }
        for i in 0..env.header.len() {
            let mut bad = env.clone();
            bad.header.0[i] ^= 0x10;
            assert!(bad.check(&mesh).is_err(), "header byte {i}");
        }
    }

    #[test]
    fn proof_and_wraps_lie_outside_signature_and_hash() {
        let (mesh, a, b, header, content) = sample();
        let pair = Pair::new(&a, &b.public()).unwrap();
        let env = Envelope::seal_box(&mesh, &a, &header, &pair, &[7; 24], &content);
        let mut carried = env.clone();
        carried.wraps.push(ContentKey::new([1; 32]).wrap(&pair, b.public(), &[8; 24]));
        assert_eq!(carried.check(&mesh), env.check(&mesh));
    }

    #[test]
    fn times_and_targets_are_checked() {
        let (_, _, _, h, _) = sample();
        assert_eq!(h.check(1_000_000), Ok(()));
        assert_eq!(h.check(2_000_000), Err(EnvelopeError::Expired));
        assert!(h.check(1_000_000 - 60_001).is_err());
        let long = Header { expires_at: h.sent_at + ms(MAX_TTL) + 1, ..h.clone() };
        assert!(long.check(1_000_000).is_err());
        let backwards = Header { expires_at: h.sent_at, ..h.clone() };
        assert!(backwards.check(1_000_000).is_err());
        let odd = Header { target: Target::Group { name: "all".into() }, ..h };
        assert_eq!(odd.check(1_000_000), Err(EnvelopeError::Target(Channel::Dm)));
    }

    #[test]
    fn a_suite_from_the_future_decodes_as_unknown() {
        let bytes = rmp_serde::to_vec(&"kyber_box").unwrap();
        assert_eq!(codec::from_msgpack::<Suite>(&bytes), Ok(Suite::Unknown));
    }
}
