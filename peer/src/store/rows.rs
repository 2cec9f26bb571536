//! What a store takes and gives.

use meshwire_signaling::invite::{Chain, Role};
use meshwire_signaling::{
    Envelope, EnvelopeId, Hash, InstanceId, MeshId, Priority, PublicKey, Target, UnixMillis,
};

use super::StoreError;
use crate::core::inbox::Item;
use crate::core::order::{Counter, Waiting};
use crate::core::outbox::OutboxState;

/// A mesh that this node belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshRow {
    /// The mesh.
    pub mesh: MeshId,
    /// Its name.
    pub name: String,
    /// The broker's address.
    pub broker_url: String,
    /// The broker's key, as the invite gave it.
    pub broker_key: PublicKey,
    /// SHA-256 of the broker's TLS public key, where it is self-signed.
    pub pin: Option<Hash>,
    /// Our own chain.
    pub chain: Chain,
    /// Our member key.
    pub self_key: PublicKey,
    /// Our name.
    pub self_name: String,
    /// Our role.
    pub role: Role,
    /// When we joined, Unix milliseconds.
    pub joined_at: UnixMillis,
}

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
    /// The key that will answer with a receipt.
    pub recipient: PublicKey,
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
    /// The key that will answer with a receipt.
    pub recipient: PublicKey,
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
    pub(super) fn fresh(new: &NewOutbox, slot: Slot, hash: Hash) -> Self {
        Self {
            row: 0,
            mesh: new.mesh,
            id: new.id,
            author: new.author,
            instance: slot.instance,
            target: new.target.clone(),
            recipient: new.recipient,
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
        }
    }
}

impl NewOutbox {
    /// The message that a requeue puts in `old`'s place: every routing column is kept (inventory
    /// appendix 7, defect 10). The idempotency key stays with the old row, which answers for it.
    pub(super) fn in_place_of(old: &OutboxMeta, requeue: &Requeue) -> Self {
        Self {
            mesh: old.mesh,
            id: requeue.new,
            author: old.author,
            target: old.target.clone(),
            recipient: old.recipient,
            peer_name: old.peer_name.clone(),
            priority: old.priority,
            created_at: requeue.now,
            expires_at: requeue.expires_at,
            idempotency: None,
        }
    }
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
}

impl StepTo {
    /// The state it leads to.
    #[must_use]
    pub const fn state(&self) -> OutboxState {
        match self {
            Self::Relayed { .. } => OutboxState::Relayed,
            Self::Sent { .. } => OutboxState::Sent,
            Self::Retry { .. } => OutboxState::Pending,
            Self::Delivered { .. } => OutboxState::Delivered,
            Self::Expired { .. } => OutboxState::Expired,
            Self::Failed { .. } => OutboxState::Failed,
        }
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
    /// [`crate::core::outbox::advance`] forbids it, or the row is there already: nothing changed.
    Kept {
        /// Where the row is.
        state: OutboxState,
    },
    /// There is no such row.
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
    /// At most so many.
    pub limit: u32,
}

/// A new message in an old one's place (inventory C-021).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

/// An inbox row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxRow {
    /// Local number, in the order of arrival.
    pub row: i64,
    /// The message.
    pub item: Item,
    /// Its place in the order of surfacing, from 1; none while it is held.
    pub order: Option<u64>,
    /// When it surfaced, Unix milliseconds.
    pub surfaced_at: Option<UnixMillis>,
    /// When somebody listed it, Unix milliseconds.
    pub seen_at: Option<UnixMillis>,
}

impl InboxRow {
    /// What the order book needs.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        Waiting {
            counter: self.item.counter(),
            seq: self.item.seq,
            floor: self.item.floor,
            row: self.row,
        }
    }
}

/// What became of a message that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// New; this is its row.
    Inserted(i64),
    /// The same envelope came before.
    Duplicate,
    /// Another envelope came before under this author and id.
    Conflict,
}

/// Which surfaced messages to list; always in the order of surfacing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InboxFilter {
    /// Of this mesh.
    pub mesh: Option<MeshId>,
    /// By this author, or this member.
    pub from: Option<PublicKey>,
    /// Only what nobody has listed yet.
    pub unread: bool,
    /// Only what surfaced after this place.
    pub after_order: Option<u64>,
    /// If more fit than `limit`: the last ones rather than the first ones.
    pub newest: bool,
    /// At most so many.
    pub limit: u32,
}

/// Which messages to delete. Held ones stay until they have surfaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboxDelete {
    /// This row.
    Row(i64),
    /// All surfaced ones of these.
    Surfaced {
        /// Of this mesh only.
        mesh: Option<MeshId>,
        /// Received before this time only, Unix milliseconds.
        before: Option<UnixMillis>,
    },
}

/// A member as its verified chain shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// The mesh.
    pub mesh: MeshId,
    /// The member's key.
    pub key: PublicKey,
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Its chain, verified.
    pub chain: Chain,
    /// Now, Unix milliseconds.
    pub now: UnixMillis,
}

/// A member in the roster, without its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRow {
    /// The mesh.
    pub mesh: MeshId,
    /// The member's key.
    pub key: PublicKey,
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// [`Chain::fingerprint`] of its chain.
    pub fingerprint: Hash,
    /// When this node first heard of it, Unix milliseconds.
    pub first_seen_at: UnixMillis,
}

/// What a member's coming means for names: "names are pinned to keys at first contact; a change is
/// loud" (design section 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinOutcome {
    /// First contact; the name is pinned to the key.
    New,
    /// As before.
    Same,
    /// The key had another name.
    NameChanged {
        /// That name, which stays pinned to the key.
        old_name: String,
    },
    /// The name is pinned to another key. It stays so; both members are in the roster.
    KeyChanged {
        /// The name.
        name: String,
        /// The key it belongs to since first contact.
        pinned_key: PublicKey,
    },
}

/// How many rows [`super::PeerStore::prune`] deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Ids whose envelopes cannot come again.
    pub seen: u64,
    /// Surfaced messages past their retention.
    pub inbox: u64,
    /// Outbox rows in a final state, past their retention.
    pub outbox: u64,
    /// Cursors of counters that fell silent.
    pub cursors: u64,
}

/// What `member`'s coming means, given the name it had and the key its name is pinned to by now.
pub(super) fn pin_outcome(
    member: &NewMember,
    old_name: Option<String>,
    pinned_key: PublicKey,
) -> PinOutcome {
    match old_name {
        // Said when it came, and by every attempt to send to the name since.
        Some(old) if old == member.name => PinOutcome::Same,
        _ if pinned_key != member.key => {
            PinOutcome::KeyChanged { name: member.name.clone(), pinned_key }
        }
        Some(old_name) => PinOutcome::NameChanged { old_name },
        None => PinOutcome::New,
    }
}

/// The lowest and the highest key that start with the hex digits `text`, if it is such a start.
pub(super) fn key_range(text: &str) -> Option<(PublicKey, PublicKey)> {
    let fill = |digit: char| {
        let padding = 64usize.checked_sub(text.len())?;
        format!("{text}{}", digit.to_string().repeat(padding)).parse().ok()
    };
    if text.is_empty() { None } else { Some((fill('0')?, fill('f')?)) }
}

/// The readable form of a target.
pub(super) fn target_text(target: &Target) -> String {
    match target {
        Target::Group { name } => format!("@{name}"),
        Target::Topic { id } => format!("#{id}"),
        other => other.key().map(|key| key.to_string()).unwrap_or_default(),
    }
}

/// The text that ids with this start begin with, or an error for what no id starts with.
pub(super) fn id_prefix(prefix: &str) -> Result<String, StoreError> {
    let upper = prefix.to_ascii_uppercase();
    let fits = !upper.is_empty()
        && upper.len() <= 26
        && upper.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
    if fits { Ok(upper) } else { Err(StoreError::NotFound(prefix.chars().take(40).collect())) }
}
