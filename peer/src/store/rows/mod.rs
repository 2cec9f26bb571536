//! What a store takes and gives.

mod identities;
mod inbox;
mod outbox;
mod pick;

pub use identities::{GroupRow, PresenceRow, SessionRow};
pub use inbox::{Arrived, InboxDelete, InboxFilter, InboxRow, NewId, Viewer};
use meshwire_signaling::invite::{Chain, Role};
use meshwire_signaling::{Hash, MeshId, PublicKey, Target, UnixMillis};
pub use outbox::{
    Enqueued, Freeze, FreezeError, Idempotency, NewOutbox, NewRecipient, OutboxFilter, OutboxMeta,
    OutboxRow, RecipientRow, Redirect, Requeue, Rewrap, Slot, Step, StepTo, Stepped,
};
pub use pick::Pick;

use super::StoreError;

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

/// How many rows [`crate::store::PeerStore::prune`] deleted.
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
