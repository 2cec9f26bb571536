//! Rows of the outbox.

use meshwire_signaling::seal::Wrap;
use meshwire_signaling::{
    Envelope, EnvelopeId, Hash, InstanceId, MeshId, Priority, PublicKey, Target, UnixMillis,
};

use crate::core::group::RecipientState;
use crate::core::order::Counter;
use crate::core::outbox::OutboxState;

/// A message to be sent, without what the store gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOutbox {
    /// The mesh.
    pub mesh: MeshId,
    /// A fresh id.
    pub id: EnvelopeId,
    /// The identity key that signs.
    pub author: PublicKey,
    /// Whom it is for.
    pub target: Target,
    /// The key that will answer with a receipt; for groups the author's own, which has a wrap of
    /// the content key too.
    pub recipient: PublicKey,
    /// The member behind the recipient, where that is a session or service.
    pub member: Option<PublicKey>,
    /// For groups: everybody who is to get it.
    pub recipients: Vec<NewRecipient>,
    /// The recipient's name, for people.
    pub peer_name: String,
    /// Its priority.
    pub priority: Priority,
    /// Now, Unix milliseconds.
    pub created_at: UnixMillis,
    /// When it ends, Unix milliseconds.
    pub expires_at: UnixMillis,
    /// What makes a repeated request harmless.
    pub idempotency: Option<Idempotency>,
    /// Whether it only measures the way.
    pub ping: bool,
}

/// The caller's key and a hash of its whole request (inventory ).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// Unique per mesh for as long as the row exists.
    pub key: String,
    /// What must be equal for two requests to be the same.
    pub fingerprint: Hash,
}

/// What an envelope needs to know before it can be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The outbox's instance.
    pub instance: InstanceId,
    /// The message's number.
    pub seq: u64,
    /// The lowest number of the same counter that may still be delivered.
    pub floor: u64,
}

/// Why sealing failed, as the caller says it.
pub type FreezeError = Box<dyn std::error::Error + Send + Sync>;

/// Seals and signs the envelope for a slot, inside the store's transaction: it must be quick and must
/// not call the store.
pub type Freeze<'a> = Box<dyn FnOnce(Slot) -> Result<Envelope, FreezeError> + Send + 'a>;

/// An outbox row without its envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxMeta {
    /// Local number; later rows have higher ones.
    pub row: i64,
    /// The mesh.
    pub mesh: MeshId,
    /// The message's id.
    pub id: EnvelopeId,
    /// The identity key that signed.
    pub author: PublicKey,
    /// The outbox instance that it was numbered in.
    pub instance: InstanceId,
    /// Whom it is for.
    pub target: Target,
    /// The key that will answer with a receipt; for groups the author's own, which has a wrap of
    /// the content key too.
    pub recipient: PublicKey,
    /// The member behind the recipient, where that is a session or service: the message goes to it
    /// should the recipient end.
    pub member: Option<PublicKey>,
    /// The recipient's name when it was sent.
    pub peer_name: String,
    /// Its priority.
    pub priority: Priority,
    /// Its number.
    pub seq: u64,
    /// The envelope hash.
    pub hash: Hash,
    /// Where it stands.
    pub state: OutboxState,
    /// Why it is there, where that needs a reason.
    pub reason: Option<String>,
    /// The path that took it.
    pub path: Option<String>,
    /// How often it was handed to a path.
    pub attempts: u32,
    /// Not before this time, Unix milliseconds.
    pub next_attempt_at: UnixMillis,
    /// When the caller heard "accepted", Unix milliseconds.
    pub created_at: UnixMillis,
    /// When it ends, Unix milliseconds.
    pub expires_at: UnixMillis,
    /// When a path took it, Unix milliseconds.
    pub accepted_at: Option<UnixMillis>,
    /// When the receipt came, Unix milliseconds.
    pub delivered_at: Option<UnixMillis>,
    /// The caller's key and fingerprint.
    pub idempotency: Option<Idempotency>,
    /// The message that goes on in its place.
    pub superseded_by: Option<EnvelopeId>,
    /// Whether it only measures the way.
    pub ping: bool,
}

impl OutboxMeta {
    /// What it is numbered in.
    #[must_use]
    pub fn counter(&self) -> Counter {
        Counter {
            mesh: self.mesh,
            author: self.author,
            instance: self.instance,
            target: self.target.clone(),
            priority: self.priority,
        }
    }

    /// A row as it is first stored; its number is yet to come.
    pub(in crate::store) fn fresh(new: &NewOutbox, slot: Slot, hash: Hash) -> Self {
        Self {
            row: 0,
            mesh: new.mesh,
            id: new.id,
            author: new.author,
            instance: slot.instance,
            target: new.target.clone(),
            recipient: new.recipient,
            member: new.member,
            peer_name: new.peer_name.clone(),
            priority: new.priority,
            seq: slot.seq,
            hash,
            state: OutboxState::Pending,
            reason: None,
            path: None,
            attempts: 0,
            next_attempt_at: new.created_at,
            created_at: new.created_at,
            expires_at: new.expires_at,
            accepted_at: None,
            delivered_at: None,
            idempotency: new.idempotency.clone(),
            superseded_by: None,
            ping: new.ping,
        }
    }
}

impl NewOutbox {
    /// The message that a requeue puts in `old`'s place: every routing column is kept (inventory
    /// appendix 7, defect 10), unless it is redirected. The idempotency key stays with the old row,
    /// which answers for it.
    pub(in crate::store) fn in_place_of(old: &OutboxMeta, requeue: &Requeue) -> Self {
        let to = requeue.redirect.clone().unwrap_or_else(|| Redirect {
            target: old.target.clone(),
            recipient: old.recipient,
            member: old.member,
            peer_name: old.peer_name.clone(),
        });
        Self {
            mesh: old.mesh,
            id: requeue.new,
            author: old.author,
            target: to.target,
            recipient: to.recipient,
            member: to.member,
            recipients: requeue.recipients.clone(),
            peer_name: to.peer_name,
            priority: old.priority,
            created_at: requeue.now,
            expires_at: requeue.expires_at,
            idempotency: None,
            ping: old.ping,
        }
    }
}

/// One of a group's recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecipient {
    /// The member.
    pub key: PublicKey,
    /// Its name.
    pub name: String,
}

/// Where a group's message stands with one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientRow {
    /// The member.
    pub key: PublicKey,
    /// Its name when it was sent.
    pub name: String,
    /// Where it stands.
    pub state: RecipientState,
    /// Why, where that needs a reason.
    pub reason: Option<String>,
    /// When it got there, Unix milliseconds; none while open.
    pub at: Option<UnixMillis>,
}

/// The recipients of a group's message as they are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrap {
    /// The mesh.
    pub mesh: MeshId,
    /// The message.
    pub id: EnvelopeId,
    /// All wraps, the author's own included: they take the place of the stored ones.
    pub wraps: Vec<Wrap>,
    /// Who is to get it too.
    pub added: Vec<NewRecipient>,
    /// Who is not to get it; ignored for those who have answered.
    pub gone: Vec<PublicKey>,
}

/// An outbox row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// All but the envelope.
    pub meta: OutboxMeta,
    /// The envelope, frozen.
    pub envelope: Envelope,
}

/// What became of an enqueue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// The row is durable.
    New(Box<OutboxRow>),
    /// The same request was made before; this is its row.
    Duplicate(Box<OutboxRow>),
}

impl Enqueued {
    /// The row, and whether it was there before.
    #[must_use]
    pub fn into_row(self) -> (OutboxRow, bool) {
        match self {
            Self::New(row) => (*row, false),
            Self::Duplicate(row) => (*row, true),
        }
    }
}

/// A row's step to its next state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The mesh.
    pub mesh: MeshId,
    /// The message.
    pub id: EnvelopeId,
    /// Where to.
    pub to: StepTo,
}

/// See [`Step`]. Times are Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepTo {
    /// The broker has it, on `path`.
    Relayed {
        /// When.
        at: UnixMillis,
        /// Which path.
        path: String,
    },
    /// A direct path has it.
    Sent {
        /// When.
        at: UnixMillis,
        /// Which path.
        path: String,
    },
    /// Not taken; to be tried again.
    Retry {
        /// Not before.
        next_attempt_at: UnixMillis,
        /// Why it was not taken.
        reason: String,
    },
    /// The recipient's receipt, verified, says delivered.
    Delivered {
        /// When.
        at: UnixMillis,
        /// Which path brought the receipt: the message's own, or the one that hedged it.
        path: String,
    },
    /// Over before a receipt came.
    Expired {
        /// Who says so.
        reason: String,
    },
    /// Refused for good.
    Failed {
        /// Why.
        reason: String,
    },
    /// For groups: one recipient has answered, or never will. The row moves to what
    /// [`crate::core::group::standing`] says once nobody is open.
    Recipient {
        /// The recipient.
        key: PublicKey,
        /// Where it is now.
        to: RecipientState,
        /// Why, where that needs a reason.
        reason: Option<String>,
        /// When.
        at: UnixMillis,
    },
}

impl StepTo {
    /// Whether it is the end of a message, or of one recipient's: such steps are told only when they
    /// are on disk. The others may be lost (see [`crate::store`]).
    #[must_use]
    pub const fn is_promise(&self) -> bool {
        match self {
            Self::Relayed { .. } | Self::Sent { .. } | Self::Retry { .. } => false,
            Self::Delivered { .. }
            | Self::Expired { .. }
            | Self::Failed { .. }
            | Self::Recipient { .. } => true,
        }
    }

    /// The state it leads to; none where only the store knows.
    #[must_use]
    pub const fn state(&self) -> Option<OutboxState> {
        Some(match self {
            Self::Relayed { .. } => OutboxState::Relayed,
            Self::Sent { .. } => OutboxState::Sent,
            Self::Retry { .. } => OutboxState::Pending,
            Self::Delivered { .. } => OutboxState::Delivered,
            Self::Expired { .. } => OutboxState::Expired,
            Self::Failed { .. } => OutboxState::Failed,
            Self::Recipient { .. } => return None,
        })
    }
}

/// What became of a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// Done.
    Done {
        /// Where the row was before.
        from: OutboxState,
    },
    /// One recipient of a group's message has moved on.
    Recipient {
        /// Where the row is now.
        state: OutboxState,
    },
    /// [`crate::core::outbox::advance`] forbids it, or the row is there already: nothing changed.
    Kept {
        /// Where the row is.
        state: OutboxState,
    },
    /// There is no such row, or no such recipient.
    Unknown,
}

/// Which outbox rows to list, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboxFilter {
    /// Of this mesh.
    pub mesh: Option<MeshId>,
    /// In one of these states; empty for all.
    pub states: Vec<OutboxState>,
    /// To this recipient.
    pub recipient: Option<PublicKey>,
    /// By this identity of ours.
    pub author: Option<PublicKey>,
    /// Only what people wrote: no pings.
    pub without_pings: bool,
    /// At most so many.
    pub limit: u32,
}

/// A new message in an old one's place (inventory C-021).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requeue {
    /// The mesh.
    pub mesh: MeshId,
    /// The old message.
    pub old: EnvelopeId,
    /// A fresh id.
    pub new: EnvelopeId,
    /// Now, Unix milliseconds.
    pub now: UnixMillis,
    /// When the new message ends, Unix milliseconds.
    pub expires_at: UnixMillis,
    /// For groups: who is to get the new one.
    pub recipients: Vec<NewRecipient>,
    /// Whom the new one is for, where that is not whom the old one was for: a session has ended and
    /// its member gets the mail. Then the old row may be one that a path has.
    pub redirect: Option<Redirect>,
}

/// Another recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Whom it is for.
    pub target: Target,
    /// The key that will answer with a receipt.
    pub recipient: PublicKey,
    /// The member behind it, where it is a session or service.
    pub member: Option<PublicKey>,
    /// Its name.
    pub peer_name: String,
}
