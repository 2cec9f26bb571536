//! What the store takes and gives.

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::invite::Role;
use meshwire_signaling::{EnvelopeId, InstanceId, MeshId, PublicKey, UnixMillis};

use crate::core::presence::ConnId;

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRow {
    /// The mesh.
    pub mesh: MeshId,
    /// Its key.
    pub key: PublicKey,
    /// Its name, unique in the mesh.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// MessagePack of its certificate chain.
    pub chain: Vec<u8>,
    /// The invite it came with.
    pub invite: Option<PublicKey>,
    /// When it was admitted, Unix milliseconds.
    pub joined_at: UnixMillis,
    /// When it last came or went, Unix milliseconds.
    pub seen_at: Option<UnixMillis>,
    /// MessagePack of what it last said of itself ([`meshwire_signaling::frame::About`]).
    pub about: Option<Vec<u8>>,
    /// Whether it does not want to be listed: group sends leave it out.
    pub hidden: bool,
}

/// An invite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InviteRow {
    /// Its key.
    pub invite: PublicKey,
    /// The mesh.
    pub mesh: MeshId,
    /// Who signed it.
    pub issuer: PublicKey,
    /// MessagePack of the signed capability.
    pub capability: Vec<u8>,
    /// How many it admits.
    pub uses: u32,
    /// How many it has admitted.
    pub used: u32,
    /// When it ends, Unix milliseconds.
    pub expires_at: UnixMillis,
    /// When it was registered, Unix milliseconds.
    pub created_at: UnixMillis,
    /// When it was revoked, Unix milliseconds.
    pub revoked_at: Option<UnixMillis>,
}

/// What became of an accept: phases B0, B2 and B3 (inventory A-106).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Dedupe row, body and delivery rows are written.
    New {
        /// Recipients of a group send who get nothing, because too much waits for them already; in
        /// key order. Never all of them: that is [`Accepted::QueueFull`].
        full: Vec<PublicKey>,
    },
    /// The same envelope was there; where its least advanced recipient stands.
    Duplicate(MessageState),
    /// Another envelope with this author and id was there.
    Conflict,
    /// Nobody has that key, or nobody else is in the group.
    UnknownTarget,
    /// The session or service has ended; this is its member.
    TargetGone(PublicKey),
    /// Too much waits for the recipient, or for each of a group's.
    QueueFull,
    /// The wraps of a group send are not for those who are in the group now. Each list is the first
    /// [`meshwire_signaling::limits::MAX_CHANGED`] in key order; there may be more.
    RecipientsChanged {
        /// Who lacks a wrap.
        missing: Vec<PublicKey>,
        /// Who has one and is not to have one.
        gone: Vec<PublicKey>,
    },
}

/// A delivery handed to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Who it is for.
    pub recipient: PublicKey,
    /// Who it is from.
    pub author: PublicKey,
    /// Its id.
    pub id: EnvelopeId,
    /// MessagePack of the envelope, without proof and wraps.
    pub envelope: Vec<u8>,
    /// MessagePack of the recipient's own [`meshwire_signaling::seal::Wrap`], for group sends.
    pub wrap: Option<Vec<u8>>,
    /// MessagePack of the author's attestation, for mail by sessions and services.
    pub attestation: Option<Vec<u8>>,
    /// When it was accepted, Unix milliseconds.
    pub accepted_at: UnixMillis,
    /// 1 for the first time.
    pub attempt: u32,
}

/// Names one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryRef {
    /// The mesh.
    pub mesh: MeshId,
    /// The envelope's author.
    pub author: PublicKey,
    /// The envelope.
    pub id: EnvelopeId,
    /// The recipient.
    pub recipient: PublicKey,
}

/// A receipt that its author has not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptRow {
    /// Its place in the order of [`super::Store::receipts`].
    pub place: ReceiptPlace,
    /// The envelope.
    pub id: EnvelopeId,
    /// MessagePack of the receipt.
    pub receipt: Vec<u8>,
}

/// Where a receipt stands among its author's: the envelope's number, then the recipient.
pub type ReceiptPlace = (u64, PublicKey);

/// What waits for a recipient and could not be claimed now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// When the next of it can be claimed, Unix milliseconds.
    pub next: Option<UnixMillis>,
    /// Whether another connection has claims on some of it.
    pub elsewhere: bool,
}

/// How a sweep went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Deliveries whose time ran out.
    pub expired: u64,
    /// Envelopes forgotten altogether.
    pub forgotten: u64,
    /// Whether there may be more to do at once.
    pub more: bool,
}

/// What [`super::Tx::claim`] claims.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The mesh.
    pub mesh: MeshId,
    /// Whose deliveries.
    pub recipient: PublicKey,
    /// For which connection.
    pub conn: ConnId,
    /// Now, Unix milliseconds.
    pub now: UnixMillis,
    /// Until when, Unix milliseconds.
    pub until: UnixMillis,
    /// How many at most.
    pub limit: usize,
    /// Only what has priority `now`: the recipient is not to be disturbed.
    pub urgent_only: bool,
}

/// Presence that outlives connections and restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRow {
    /// The mesh.
    pub mesh: MeshId,
    /// The identity.
    pub key: PublicKey,
    /// Its member.
    pub member: PublicKey,
    /// What it is.
    pub kind: IdentityKind,
    /// The instance that it is bound to.
    pub instance: InstanceId,
    /// The lease.
    pub lease: InstanceId,
    /// Since when it is there, Unix milliseconds.
    pub since: UnixMillis,
    /// What it says of itself, as the registry encodes it.
    pub about: Vec<u8>,
    /// MessagePack of its attestation, for sessions and services.
    pub attestation: Option<Vec<u8>>,
    /// Its feature bits, as the registry encodes them.
    pub features: Vec<u8>,
}

/// A session or service that was bound once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelegateRow {
    /// Its member.
    pub member: PublicKey,
    /// What it is.
    pub kind: IdentityKind,
    /// When it ends or ended, Unix milliseconds.
    pub expires_at: UnixMillis,
}

/// A member's word for a session or service, as [`Tx::delegate`](super::Tx::delegate) notes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// The member.
    pub member: PublicKey,
    /// What it vouches for.
    pub kind: IdentityKind,
    /// When it was signed, Unix milliseconds, by the member's clock.
    pub issued_at: UnixMillis,
    /// When it ends, Unix milliseconds.
    pub expires_at: UnixMillis,
}

/// What became of a group statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetGroup {
    /// It counts, or did already.
    Done,
    /// A later one, or another of the same time, is known.
    Stale,
    /// The member is in [`meshwire_signaling::limits::MAX_GROUPS`] groups.
    TooMany,
}
