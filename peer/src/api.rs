//! What a node can be asked for, in types that go over its local socket as JSON and are called
//! directly where there is no node process. Every answer of a verb carries [`SCHEMA_VERSION`].

pub(crate) mod schema;

use std::collections::BTreeMap;

use meshwire_signaling::attest::Capabilities;
use meshwire_signaling::frame::{MessageState, Profile, Status as Doing};
use meshwire_signaling::invite::Role;
use meshwire_signaling::{EnvelopeId, MeshId, Priority, PublicKey, UnixMillis};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Version of the shapes in this module; grows when a field changes meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;

/// What kind of failure it was; the command line maps each to a stable exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request makes no sense.
    Invalid,
    /// No such peer, mesh, message or invite.
    NotFound,
    /// More than one fits.
    Ambiguous,
    /// The broker cannot be reached.
    Unreachable,
    /// The other side refused: membership, signature, role.
    Denied,
    /// A token or invite is missing, wrong or over.
    Auth,
    /// It is there already, or was used for something else.
    Exists,
    /// What was waited for did not happen in time.
    Timeout,
    /// Too much at once: nothing was done, the same request may be made again.
    Busy,
    /// A file or database fails.
    Io,
    /// A fault of meshwire.
    Internal,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Which kind.
    pub kind: ErrorKind,
    /// A word for programs, such as `invite_expired`.
    pub code: String,
    /// What is wrong, what would be valid, and the nearest valid thing.
    pub message: String,
    /// For an idempotency key that was used before: for what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<Box<Conflict>>,
}

impl ApiError {
    /// An error.
    #[must_use]
    pub fn new(kind: ErrorKind, code: &str, message: impl Into<String>) -> Self {
        Self { kind, code: code.to_owned(), message: message.into(), conflict: None }
    }
}

/// What an idempotency key was used for (inventory A-110).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Conflict {
    /// The message that the key belongs to.
    pub existing: Message,
    /// The first 8 bytes, as hex, of the fingerprint of the request that made it.
    pub fingerprint_prefix: String,
}

/// Founds a mesh on a broker.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateMesh {
    /// The mesh's name.
    pub name: String,
    /// The broker's address.
    pub broker_url: String,
    /// The broker's admin token.
    pub admin_token: String,
    /// Our name in the mesh.
    pub member_name: String,
}

/// Joins by an invite link.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct Join {
    /// The whole link.
    pub invite: String,
    /// Our name in the mesh.
    pub member_name: String,
}

/// Shows all but the secrets.
macro_rules! debug_without_secrets {
    ($($ty:ident { $($field:ident),* })*) => {
        $(impl std::fmt::Debug for $ty {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($ty))$(.field(stringify!($field), &self.$field))*
                    .finish_non_exhaustive()
            }
        })*
    };
}

debug_without_secrets! {
    CreateMesh { name, broker_url, member_name }
    Join { member_name }
    Invite { invite, mesh_name, uses, role, expires_at }
    SessionStarted { session }
}

/// A mesh that this node belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MeshInfo {
    /// Its id.
    #[schema(value_type = schema::MeshId)]
    pub mesh: MeshId,
    /// Its name.
    pub name: String,
    /// The broker's address.
    pub broker_url: String,
    /// Our key in it.
    #[schema(value_type = schema::Key)]
    pub key: PublicKey,
    /// Our name in it.
    pub member_name: String,
    /// Our role in it.
    #[schema(value_type = schema::Role)]
    pub role: Role,
    /// Whether we were a member before.
    #[serde(default)]
    pub already_member: bool,
}

/// Makes an invite.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreateInvite {
    /// The mesh, by name or id; needed only if this node is in several.
    #[serde(default)]
    pub mesh: Option<String>,
    /// How many may use it.
    pub uses: u32,
    /// How long it lives, in milliseconds.
    pub ttl_ms: u64,
    /// What the joiner becomes: admin or member.
    #[schema(value_type = schema::Role)]
    pub role: Role,
    /// The broker's address as joiners reach it, if not the one this node uses.
    #[serde(default)]
    pub broker_url: Option<String>,
}

/// A fresh invite.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invite {
    /// The link to hand over; its part behind # is a secret.
    pub link: String,
    /// The invite's key, which names it in lists.
    #[schema(value_type = schema::Key)]
    pub invite: PublicKey,
    /// The mesh's name.
    pub mesh_name: String,
    /// How many may use it.
    pub uses: u32,
    /// What the joiner becomes.
    #[schema(value_type = schema::Role)]
    pub role: Role,
    /// When it ends, Unix milliseconds.
    #[schema(value_type = schema::Time)]
    pub expires_at: UnixMillis,
}

/// Lists invites, or ends one.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Invites {
    /// The mesh, by name or id; needed only if this node is in several.
    #[serde(default)]
    pub mesh: Option<String>,
    /// Key, or its unique start, of the invite to end.
    #[serde(default)]
    pub revoke: Option<String>,
}

/// An invite as the broker has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InviteRow {
    /// Its key.
    #[schema(value_type = schema::Key)]
    pub invite: PublicKey,
    /// `open`, `used`, `expired` or `revoked`.
    pub state: String,
    /// What joiners become.
    #[schema(value_type = schema::Role)]
    pub role: Role,
    /// How many may use it.
    pub uses: u32,
    /// How many have.
    pub used: u32,
    /// When it ends, Unix milliseconds.
    #[schema(value_type = schema::Time)]
    pub expires_at: UnixMillis,
    /// Names of who came with it.
    pub joined: Vec<String>,
}

/// Asks for members.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ListPeers {
    /// The mesh, by name or id; all if absent.
    #[serde(default)]
    pub mesh: Option<String>,
    /// Control planes and hidden members too.
    #[serde(default)]
    pub all: bool,
}

/// What a row of peers stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PeerKind {
    /// A member, whether it is there or not.
    Member,
    /// A member's own connection.
    ControlPlane,
    /// A running session of a member.
    Session,
    /// A service of a member.
    Service,
}

/// A group that a member is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupRole {
    /// The group's name without `@`.
    pub name: String,
    /// Its role there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// A member of a mesh, ourselves included, or one of its identities that are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// Its mesh's name.
    pub mesh_name: String,
    /// Its mesh.
    #[schema(value_type = schema::MeshId)]
    pub mesh: MeshId,
    /// Its key.
    #[schema(value_type = schema::Key)]
    pub key: PublicKey,
    /// Its name; sessions and services are addressed as `member/name`.
    pub name: String,
    /// What it is.
    pub kind: PeerKind,
    /// The member's key; the same one for members.
    #[schema(value_type = schema::Key)]
    pub member: PublicKey,
    /// The member's name.
    pub member_name: String,
    /// The member's role in the mesh.
    #[schema(value_type = schema::Role)]
    pub role: Role,
    /// What it is doing.
    #[schema(value_type = schema::Doing)]
    pub status: Doing,
    /// What it works on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Profile>)]
    pub profile: Option<Profile>,
    /// Whether it does not want to be listed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// Whether its connection is lost and it is waited for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reconnecting: bool,
    /// Groups that the member is in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupRole>,
    /// What a session or service may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Capabilities>)]
    pub capabilities: Option<Capabilities>,
    /// Whether it is connected to the broker; unknown while we are not.
    pub online: Option<bool>,
    /// When it last came or went, Unix milliseconds.
    #[schema(value_type = Option<schema::Time>)]
    pub since: Option<UnixMillis>,
    /// Whether it is this node.
    pub this_node: bool,
    /// Another key that this name belonged to before: take care.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Key>)]
    pub name_pinned_to: Option<PublicKey>,
}

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
    /// The author's name.
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

/// Joins or leaves a group.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SetGroup {
    /// The mesh, by name or id; needed only if this node is in several.
    #[serde(default)]
    pub mesh: Option<String>,
    /// The group's name, with or without `@`.
    pub group: String,
    /// Our role there, for joining.
    #[serde(default)]
    pub role: Option<String>,
    /// Leaves rather than joins.
    #[serde(default)]
    pub leave: bool,
}

/// Asks for groups.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ListGroups {
    /// The mesh, by name or id; all if absent.
    #[serde(default)]
    pub mesh: Option<String>,
    /// Only this group and those below it.
    #[serde(default)]
    pub group: Option<String>,
}

/// A group and who is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Group {
    /// The mesh's name.
    pub mesh_name: String,
    /// The group's name without `@`.
    pub name: String,
    /// Who is in it by its own word; who is in a group below it is reached too, but listed there.
    pub members: Vec<GroupMember>,
}

/// Somebody in a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupMember {
    /// Its name.
    pub name: String,
    /// Its key.
    #[schema(value_type = schema::Key)]
    pub key: PublicKey,
    /// Its role in the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Whether it is this node.
    pub this_node: bool,
}

/// Starts a session for a process.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StartSession {
    /// The mesh, by name or id; needed only if this node is in several.
    #[serde(default)]
    pub mesh: Option<String>,
    /// Its name, for people.
    pub name: String,
    /// What it may do, words of [`meshwire_signaling::attest::capability`]; everything if absent.
    #[serde(default)]
    pub capabilities: Option<Vec<String>>,
    /// The process; the session ends with it.
    pub pid: u32,
}

/// A started session.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionStarted {
    /// The secret by which the process is known to this node, for the header `Meshwire-Session`.
    pub token: String,
    /// The session.
    #[serde(flatten)]
    pub session: Session,
}

/// A running session of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Its key.
    #[schema(value_type = schema::Key)]
    pub key: PublicKey,
    /// Its name.
    pub name: String,
    /// The mesh's name.
    pub mesh_name: String,
    /// What it may do.
    #[schema(value_type = schema::Capabilities)]
    pub capabilities: Capabilities,
    /// Its process.
    pub pid: u32,
    /// When it was started, Unix milliseconds.
    #[schema(value_type = schema::Time)]
    pub started_at: UnixMillis,
    /// Whether the broker knows it on the current connection.
    pub bound: bool,
    /// Whether it is the session that asks.
    #[serde(default)]
    pub this_session: bool,
}

/// Asks for this node's sessions.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ListSessions {
    /// The mesh, by name or id; all if absent.
    #[serde(default)]
    pub mesh: Option<String>,
}

/// Ends a session; its process is left alone.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EndSession {
    /// Its name, key, or the unique start of its key.
    pub session: String,
}

/// Changes what we say of ourselves; absent fields stay.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct SetPresence {
    /// The mesh, by name or id; all if absent.
    #[serde(default)]
    pub mesh: Option<String>,
    /// What we are doing: decides what surfaces.
    #[serde(default)]
    #[schema(value_type = Option<schema::Doing>)]
    pub status: Option<Doing>,
    /// When the status goes back to idle, in milliseconds from now; never if absent.
    #[serde(default)]
    pub status_for_ms: Option<u64>,
    /// What we work on; empty to say nothing.
    #[serde(default)]
    pub summary: Option<String>,
    /// Who we are.
    #[serde(default)]
    #[schema(value_type = Option<schema::Profile>)]
    pub profile: Option<Profile>,
    /// Whether we want to be listed.
    #[serde(default)]
    pub visible: Option<bool>,
}

/// What we say of ourselves in a mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Presence {
    /// The mesh's name.
    pub mesh_name: String,
    /// Our key: the session's if it was a session that asked.
    #[schema(value_type = schema::Key)]
    pub key: PublicKey,
    /// What we are doing.
    #[schema(value_type = schema::Doing)]
    pub status: Doing,
    /// When the status goes back to idle, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Time>)]
    pub status_until: Option<UnixMillis>,
    /// What we work on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Who we are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Profile>)]
    pub profile: Option<Profile>,
    /// Whether we want to be listed.
    pub visible: bool,
    /// Whether the broker has heard of it; else it does at the next connect.
    pub announced: bool,
}

/// Closes connections of others; for owner and admins.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Disconnect {
    /// The mesh, by name or id; needed only if this node is in several.
    #[serde(default)]
    pub mesh: Option<String>,
    /// Members or sessions.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Everybody else.
    #[serde(default)]
    pub all: bool,
    /// Sessions and services, for good.
    #[serde(default)]
    pub kick: bool,
}

/// Who was disconnected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Disconnected {
    /// Those who were, by name and key.
    pub affected: Vec<Named>,
    /// Control planes, which a kick leaves alone.
    pub skipped: Vec<Named>,
}

/// Somebody, by name and key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Named {
    /// The name, as it can be typed.
    pub name: String,
    /// The key.
    #[schema(value_type = schema::Key)]
    pub key: PublicKey,
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

/// Whom to compare safety numbers with.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Verify {
    /// The mesh, by name or id; needed only if the peer is ambiguous.
    #[serde(default)]
    pub mesh: Option<String>,
    /// The peer.
    pub peer: String,
}

/// The safety number with a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SafetyNumber {
    /// The peer's name.
    pub name: String,
    /// The peer's key.
    #[schema(value_type = schema::Key)]
    pub key: PublicKey,
    /// Our key.
    #[schema(value_type = schema::Key)]
    pub our_key: PublicKey,
    /// Thirty digits in six groups; the same on both machines.
    pub number: String,
}

/// Which programs run, and which shapes they speak.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// Of meshwire.
    pub version: String,
    /// Of the local API, as in `/v1`.
    pub api: u32,
    /// Of the shapes of answers.
    pub schema_version: u32,
    /// The node's process.
    pub pid: u32,
}

/// Whether the node works (inventory C-007).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// It answers, and its database does.
    pub ok: bool,
    /// The node's process.
    pub pid: u32,
    /// For each mesh, by name, its broker's connection: `up`, `connecting` or `down`.
    pub brokers: BTreeMap<String, String>,
}

/// How this node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Whether it runs in the background, as `meshwire up` starts it.
    pub background: bool,
    /// Its meshes.
    pub meshes: Vec<MeshStatus>,
}

/// How one mesh is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MeshStatus {
    /// The mesh.
    #[serde(flatten)]
    pub mesh: MeshInfo,
    /// `up`, `connecting` or `down`.
    pub link: String,
    /// Why it is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Messages in the outbox that no path has taken.
    pub queued: u64,
    /// Messages that were taken and have no receipt yet.
    pub unconfirmed: u64,
    /// Messages in the inbox that nobody has listed.
    pub unread: u64,
    /// Members known.
    pub members: u64,
    /// Members connected; absent while we are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<u64>,
}

/// An answer without content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secrets() {
        let join = Join { invite: "the-secret-link".into(), member_name: "bob".into() };
        assert!(format!("{join:?}").contains("bob") && !format!("{join:?}").contains("secret"));
    }
}
