//! Challenge, hello, ack, and further identities on the same socket.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::UnixMillis;
use crate::attest::IdentityKind;
use crate::id::{Hash, InstanceId, MeshId, PublicKey, SecretKey, Signature};
use crate::invite::Role;
use crate::limits;
use crate::sign::{Signed, domains};

/// Named feature bits, each with parameters (inventory A-039).
pub type Features = BTreeMap<String, BTreeMap<String, Param>>;

/// A feature's parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Param {
    /// Yes or no.
    Bool(bool),
    /// A number.
    Int(u64),
    /// A word.
    Text(String),
}

/// Feature bits of this version.
pub mod feature {
    /// The broker deduplicates by (mesh, author key, id) for as long as the envelope lives.
    pub const DEDUPE: &str = "dedupe";
    /// Receipts are kept until the author confirms them or the envelope expires.
    pub const RECEIPTS: &str = "receipts";
    /// The node gates surfacing by its own status; the broker need not.
    pub const GATE: &str = "gate";
    /// The broker carries group sends, and keeps who is in which group.
    pub const GROUPS: &str = "groups";
    /// The broker carries mail by sessions and services, with their attestation.
    pub const DELEGATES: &str = "delegates";
    /// Presence is a lease, which a lost connection does not end at once.
    pub const LEASE: &str = "lease";
    /// Negotiation frames for direct paths are understood, and carried by the broker.
    pub const P2P: &str = "p2p";
    /// Records of streams are understood, and carried by the broker ([`crate::stream::carry`]).
    pub const STREAMS: &str = "streams";
}

/// The broker's first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "challenge")]
pub struct Challenge {
    /// 32 random bytes that the hello must repeat.
    pub nonce: Hash,
    /// The broker's time, Unix milliseconds.
    pub at: UnixMillis,
    /// The broker's key; a node compares it with its invite's.
    pub broker: PublicKey,
    /// Whether the hello must carry this connection's TLS exporter (RFC 9266).
    #[serde(default)]
    pub binding: bool,
}

/// A node's first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "hello")]
pub struct Hello {
    /// [`HelloBody`], signed by its key.
    pub hello: Signed,
    /// For sessions and services: the member's [`crate::attest::Attestation`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Signed>,
}

/// Who is there. Signed under [`domains::HELLO`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloBody {
    /// The mesh.
    pub mesh: MeshId,
    /// The identity key that signs.
    pub key: PublicKey,
    /// What kind of identity it is.
    pub kind: IdentityKind,
    /// The member it belongs to; its own key for members.
    pub member: PublicKey,
    /// The outbox behind this socket.
    pub instance: InstanceId,
    /// Grows with each hello of this instance; kept on disk.
    pub counter: u64,
    /// What this node can.
    #[serde(default)]
    pub features: Features,
    /// Features without which it does not want to go on.
    #[serde(default)]
    pub requires: Vec<String>,
    /// 32 random bytes: the ack, which signs this hello's hash, is thereby fresh.
    pub client_nonce: Hash,
    /// The challenge's nonce.
    pub challenge: Hash,
    /// This node's time, Unix milliseconds; at most 60 s off the broker's.
    pub at: UnixMillis,
    /// The broker's key as the invite gave it.
    pub broker: PublicKey,
    /// The TLS exporter of this connection; absent where the broker sees no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Hash>,
    /// The token of the last ack's [`Lease`], if it is still in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Signed>,
    /// Name and version of the program, for logs.
    pub agent: String,
}

/// What a resume token says. A hint for the broker where the lease is, never authentication: the
/// hello that carries it proves key, member and instance by itself. Signed under
/// [`domains::RESUME`] by the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeToken {
    /// The mesh.
    pub mesh: MeshId,
    /// The identity whose lease it is.
    pub key: PublicKey,
    /// The instance it is bound to.
    pub instance: InstanceId,
    /// The lease.
    pub lease: InstanceId,
    /// When it ends unless the identity is heard again, Unix milliseconds.
    pub expires_at: UnixMillis,
}

/// The presence that a connection holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// How long it outlives the connection, in milliseconds.
    pub ttl_ms: u64,
    /// Whether it goes on from an earlier connection: nobody was told that we had left.
    #[serde(default)]
    pub resumed: bool,
    /// [`ResumeToken`]: to be kept in memory and shown in the next hello.
    pub token: Signed,
}

impl HelloBody {
    /// Signs with the identity key.
    #[must_use]
    pub fn sign(&self, key: &SecretKey) -> Signed {
        Signed::new(key, domains::HELLO, self)
    }
}

/// TLS exporter label of the channel binding (RFC 9266 names the mechanism; the label is ours).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-meshwire-v2";

/// The broker's answer to a hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "hello_ack")]
pub struct HelloAck {
    /// [`HelloAckBody`], signed by the broker.
    pub ack: Signed,
}

/// Signed under [`domains::HELLO_ACK`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloAckBody {
    /// Hash of the hello's signed layout.
    pub hello: Hash,
    /// The broker's key.
    pub broker: PublicKey,
    /// The broker's time, Unix milliseconds.
    pub at: UnixMillis,
    /// The member's name as the broker has it.
    pub name: String,
    /// The member's role.
    pub role: Role,
    /// What the broker allows.
    pub limits: Limits,
    /// What the broker can.
    #[serde(default)]
    pub features: Features,
    /// Features without which the broker does not want to go on.
    #[serde(default)]
    pub requires: Vec<String>,
    /// The presence that this connection holds; absent where the broker has no leases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// Program and version, for logs.
    pub agent: String,
}

/// What the broker allows; sizes in bytes, times in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)] // what an older broker does not say
pub struct Limits {
    /// Body ciphertext of one envelope.
    pub body: u64,
    /// One WebSocket frame.
    pub frame: u64,
    /// Wraps in one batch.
    pub wraps: u64,
    /// Recipients of one group send.
    pub recipients: u64,
    /// Envelopes pushed and not yet acked.
    pub window: u64,
    /// Sends and other requests per second and member, sustained.
    pub rate: u64,
    /// Longest life of an envelope.
    pub ttl_ms: u64,
    /// A claim's lease.
    pub lease_ms: u64,
    /// Interval of the broker's pings.
    pub ping_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: limits::MAX_BODY as u64,
            frame: limits::MAX_FRAME as u64,
            wraps: limits::MAX_WRAPS as u64,
            recipients: limits::MAX_RECIPIENTS as u64,
            window: limits::DELIVERY_WINDOW as u64,
            rate: 1_000,
            ttl_ms: limits::ms(limits::MAX_TTL),
            lease_ms: limits::ms(limits::CLAIM_LEASE),
            ping_ms: limits::ms(limits::PING_INTERVAL),
        }
    }
}

/// A further identity of the hello's member on the same socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "bind")]
pub struct Bind {
    /// Request number.
    pub req: u64,
    /// The session's or service's key.
    pub key: PublicKey,
    /// The member's word for it.
    pub attestation: Signed,
    /// The key's own signature: see [`Bind::prove`].
    pub proof: Signature,
}

impl Bind {
    /// Signs (hello hash, key, attestation hash) with the key that is bound.
    #[must_use]
    pub fn prove(hello: &Hash, key: &SecretKey, attestation: &Signed) -> Signature {
        let hash = attestation.hash(domains::ATTESTATION);
        key.sign(domains::BIND, &[&hello.0, &key.public().0, &hash.0])
    }

    /// Whether the proof holds for the hello with this hash.
    #[must_use]
    pub fn proven(&self, hello: &Hash) -> bool {
        let hash = self.attestation.hash(domains::ATTESTATION);
        self.key.verify(domains::BIND, &[&hello.0, &self.key.0, &hash.0], &self.proof).is_ok()
    }
}

/// The identity is bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "bound")]
pub struct Bound {
    /// Request number.
    pub req: u64,
    /// The key.
    pub key: PublicKey,
    /// Whether its presence goes on from an earlier connection.
    #[serde(default)]
    pub resumed: bool,
}

/// A bound identity has ended: its presence ends at once, and mail to it is answered with
/// `target_gone` from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "unbind")]
pub struct Unbind {
    /// Request number.
    pub req: u64,
    /// The session's or service's key.
    pub key: PublicKey,
}

/// Why a connection does not speak for an identity any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnboundReason {
    /// An admin disconnected it; bind it again.
    Disconnected,
    /// An admin removed it; do not bind it again.
    Kicked,
    /// Another connection of the same member speaks for it.
    Replaced,
    /// Its attestation is over; bind it again with a fresh one.
    Expired,
}

/// This connection does not speak for an identity any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "unbound")]
pub struct Unbound {
    /// The identity.
    pub key: PublicKey,
    /// Why.
    pub reason: UnboundReason,
}

/// The node leaves on purpose: the presence of all its identities ends at once, without grace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "bye")]
pub struct Bye {}

/// The broker will close; come back after the given time, spread out by the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "goaway")]
pub struct Goaway {
    /// Why, for people.
    pub reason: String,
    /// When to come back, in milliseconds from now.
    pub retry_after_ms: u64,
}
