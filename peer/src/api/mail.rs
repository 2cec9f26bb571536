//! Messages, sent and received.

use meshwire_signaling::frame::MessageState;
use meshwire_signaling::{EnvelopeId, Priority, PublicKey, UnixMillis};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;

/// How long a send waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitFor {
    /// Until a path has taken it.
    Accepted,
    /// Until the recipient's receipt.
    Delivered,
}

/// Sends a message.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Send {
    /// The mesh, by name or id; needed only if the peer is ambiguous.
    #[serde(default)]
    pub mesh: Option<String>,
    /// The peer: name, key, or unique start of a key; `member/session`; `@group`, `@all` or `*`.
    pub to: String,
    /// The text.
    pub message: String,
    /// When it surfaces.
    #[serde(default)]
    #[schema(value_type = schema::Priority)]
    pub priority: Priority,
    /// The message that it answers.
    #[serde(default)]
    #[schema(value_type = Option<schema::MessageId>)]
    pub reply_to: Option<EnvelopeId>,
    /// Makes a repeated request harmless.
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// How long it lives, in milliseconds; 7 days if absent.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
    /// What to wait for, if anything.
    #[serde(default)]
    pub wait: Option<WaitFor>,
    /// Longest wait, in milliseconds.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// Where a message stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Message {
    /// Its id.
    #[schema(value_type = schema::MessageId)]
    pub id: EnvelopeId,
    /// The mesh's name.
    pub mesh_name: String,
    /// The recipient's name.
    pub to: String,
    /// The recipient's key.
    #[schema(value_type = schema::Key)]
    pub to_key: PublicKey,
    /// Its priority.
    #[schema(value_type = schema::Priority)]
    pub priority: Priority,
    /// Its state.
    #[schema(value_type = schema::MessageState)]
    pub state: MessageState,
    /// Why, where that needs a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The path that took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How often it was handed to a path.
    pub attempts: u32,
    /// When it was accepted into the outbox, Unix milliseconds.
    #[schema(value_type = schema::Time)]
    pub created_at: UnixMillis,
    /// When a path took it, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Time>)]
    pub accepted_at: Option<UnixMillis>,
    /// When the receipt came, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Time>)]
    pub delivered_at: Option<UnixMillis>,
    /// When it ends, Unix milliseconds.
    #[schema(value_type = schema::Time)]
    pub expires_at: UnixMillis,
    /// Whether the request repeated an earlier one.
    #[serde(default)]
    pub duplicate: bool,
    /// The message that goes on in its place, after a requeue or because a session has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::MessageId>)]
    pub superseded_by: Option<EnvelopeId>,
    /// For groups: where it stands with each recipient. `state` is the least advanced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<Recipient>,
}

/// Where a group's message stands with one recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Recipient {
    /// The recipient's name.
    pub name: String,
    /// The recipient's key.
    #[schema(value_type = schema::Key)]
    pub key: PublicKey,
    /// Its state.
    #[schema(value_type = schema::MessageState)]
    pub state: MessageState,
    /// Why, where that needs a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the receipt came, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Time>)]
    pub at: Option<UnixMillis>,
}

/// Asks where a message stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MessageStatus {
    /// Its id, or the unique start of it.
    pub id: String,
}

/// Asks for messages that were sent.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Outbox {
    /// The mesh, by name or id; all if absent.
    #[serde(default)]
    pub mesh: Option<String>,
    /// Only those in this state.
    #[serde(default)]
    #[schema(value_type = Option<schema::MessageState>)]
    pub state: Option<MessageState>,
    /// With pings, which are left out otherwise.
    #[serde(default)]
    pub all: bool,
    /// At most so many; 100 if absent.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// Sends a message anew.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Requeue {
    /// Its id, or the unique start of it.
    pub id: String,
    /// How long the new one lives, in milliseconds; 7 days if absent.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
}

/// Asks for messages that came in.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Inbox {
    /// The mesh, by name or id; all if absent.
    #[serde(default)]
    pub mesh: Option<String>,
    /// Only what nobody has listed yet.
    #[serde(default)]
    pub unread: bool,
    /// Only what surfaced after this place.
    #[serde(default)]
    pub after: Option<u64>,
    /// Waits this long, in milliseconds, for something to list.
    #[serde(default)]
    pub wait_ms: Option<u64>,
    /// Leaves what is listed unread.
    #[serde(default)]
    pub peek: bool,
    /// Only by this peer: name, key, or unique start of a key.
    #[serde(default)]
    pub from: Option<String>,
    /// Only what came at this time or later, Unix milliseconds.
    #[serde(default)]
    #[schema(value_type = Option<schema::Time>)]
    pub since: Option<UnixMillis>,
    /// Only what came before this time, Unix milliseconds.
    #[serde(default)]
    #[schema(value_type = Option<schema::Time>)]
    pub before: Option<UnixMillis>,
    /// What is for our sessions too; without it, only what is for the member (for a session that
    /// asks: for it and its member, always).
    #[serde(default)]
    pub all: bool,
    /// At most so many; 100 if absent.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// A message that came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InboxMessage {
    /// Its place in the order of surfacing.
    pub order: u64,
    /// Its id.
    #[schema(value_type = schema::MessageId)]
    pub id: EnvelopeId,
    /// The mesh's name.
    pub mesh_name: String,
    /// The author's name; `member/name` for a session or service.
    pub from: String,
    /// The author's member key.
    #[schema(value_type = schema::Key)]
    pub from_key: PublicKey,
    /// The session or service that wrote it, where it was not the member itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Key>)]
    pub from_session: Option<PublicKey>,
    /// Our session that it is for, where it is not for the member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Key>)]
    pub to_session: Option<PublicKey>,
    /// Whether that session ended before anybody had listed it, so that the member gets it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub session_ended: bool,
    /// The group that it was sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Its priority.
    #[schema(value_type = schema::Priority)]
    pub priority: Priority,
    /// Media type of the message.
    pub content_type: String,
    /// The message; what is not UTF-8 is shown with replacement characters.
    pub message: String,
    /// The message that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::MessageId>)]
    pub reply_to: Option<EnvelopeId>,
    /// When it was sent, by the author's clock, Unix milliseconds.
    #[schema(value_type = schema::Time)]
    pub sent_at: UnixMillis,
    /// When it came, Unix milliseconds.
    #[schema(value_type = schema::Time)]
    pub received_at: UnixMillis,
    /// Whether nobody had listed it before.
    pub unread: bool,
}

/// Deletes messages that came in; their ids stay remembered.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct InboxDelete {
    /// The mesh, by name or id; all if absent.
    #[serde(default)]
    pub mesh: Option<String>,
    /// Just this one: its id, or the unique start of it.
    #[serde(default)]
    pub id: Option<String>,
    /// All that came before this time, Unix milliseconds.
    #[serde(default)]
    #[schema(value_type = Option<schema::Time>)]
    pub before: Option<UnixMillis>,
}

/// How many were deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    /// So many.
    pub deleted: u64,
}

/// Measures the way to a peer and back.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Ping {
    /// The mesh, by name or id; needed only if the peer is ambiguous.
    #[serde(default)]
    pub mesh: Option<String>,
    /// The peer.
    pub peer: String,
    /// Longest wait for each, in milliseconds.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// How long each leg took, per priority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pong {
    /// The peer's name.
    pub name: String,
    /// The peer's key.
    #[schema(value_type = schema::Key)]
    pub key: PublicKey,
    /// The path.
    pub path: String,
    /// One for each priority.
    pub legs: Vec<PingLegs>,
}

/// The legs of one ping, in microseconds from the start; absent if it did not get so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PingLegs {
    /// The priority.
    #[schema(value_type = schema::Priority)]
    pub priority: Priority,
    /// It is in our outbox, on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable_us: Option<u64>,
    /// The broker has it on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_us: Option<u64>,
    /// The peer's receipt is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_us: Option<u64>,
}
