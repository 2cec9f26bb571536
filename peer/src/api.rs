//! What a node can be asked for, in types that go over its local socket as JSON and are called
//! directly where there is no node process. Every answer of a verb carries [`SCHEMA_VERSION`].

use meshwire_signaling::frame::MessageState;
use meshwire_signaling::invite::Role;
use meshwire_signaling::{EnvelopeId, MeshId, Priority, PublicKey, UnixMillis};
use serde::{Deserialize, Serialize};

/// Version of the shapes in this module; grows when a field changes meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;

/// What kind of failure it was; the command line maps each to a stable exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// A file or database fails.
    Io,
    /// A fault of meshwire.
    Internal,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Which kind.
    pub kind: ErrorKind,
    /// A word for programs, such as `invite_expired`.
    pub code: String,
    /// What is wrong, what would be valid, and the nearest valid thing.
    pub message: String,
}

impl ApiError {
    /// An error.
    #[must_use]
    pub fn new(kind: ErrorKind, code: &str, message: impl Into<String>) -> Self {
        Self { kind, code: code.to_owned(), message: message.into() }
    }
}

/// Founds a mesh on a broker.
#[derive(Clone, Serialize, Deserialize)]
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
#[derive(Clone, Serialize, Deserialize)]
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
}

/// A mesh that this node belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshInfo {
    /// Its id.
    pub mesh: MeshId,
    /// Its name.
    pub name: String,
    /// The broker's address.
    pub broker_url: String,
    /// Our key in it.
    pub key: PublicKey,
    /// Our name in it.
    pub member_name: String,
    /// Our role in it.
    pub role: Role,
    /// Whether we were a member before.
    #[serde(default)]
    pub already_member: bool,
}

/// Makes an invite.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateInvite {
    /// The mesh, by name or id; needed only if this node is in several.
    #[serde(default)]
    pub mesh: Option<String>,
    /// How many may use it.
    pub uses: u32,
    /// How long it lives, in milliseconds.
    pub ttl_ms: u64,
    /// What the joiner becomes: admin or member.
    pub role: Role,
    /// The broker's address as joiners reach it, if not the one this node uses.
    #[serde(default)]
    pub broker_url: Option<String>,
}

/// A fresh invite.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// The link to hand over; its part behind # is a secret.
    pub link: String,
    /// The invite's key, which names it in lists.
    pub invite: PublicKey,
    /// The mesh's name.
    pub mesh_name: String,
    /// How many may use it.
    pub uses: u32,
    /// What the joiner becomes.
    pub role: Role,
    /// When it ends, Unix milliseconds.
    pub expires_at: UnixMillis,
}

/// Lists invites, or ends one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Invites {
    /// The mesh, by name or id; needed only if this node is in several.
    #[serde(default)]
    pub mesh: Option<String>,
    /// Key, or its unique start, of the invite to end.
    #[serde(default)]
    pub revoke: Option<String>,
}

/// An invite as the broker has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRow {
    /// Its key.
    pub invite: PublicKey,
    /// `open`, `used`, `expired` or `revoked`.
    pub state: String,
    /// What joiners become.
    pub role: Role,
    /// How many may use it.
    pub uses: u32,
    /// How many have.
    pub used: u32,
    /// When it ends, Unix milliseconds.
    pub expires_at: UnixMillis,
    /// Names of who came with it.
    pub joined: Vec<String>,
}

/// Asks for members.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ListPeers {
    /// The mesh, by name or id; all if absent.
    #[serde(default)]
    pub mesh: Option<String>,
}

/// A member of a mesh, ourselves included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its mesh's name.
    pub mesh_name: String,
    /// Its mesh.
    pub mesh: MeshId,
    /// Its key.
    pub key: PublicKey,
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Whether it is connected to the broker; unknown while we are not.
    pub online: Option<bool>,
    /// When it last came or went, Unix milliseconds.
    pub since: Option<UnixMillis>,
    /// Whether it is this node.
    pub this_node: bool,
    /// Another key that this name belonged to before: take care.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_pinned_to: Option<PublicKey>,
}

/// How long a send waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitFor {
    /// Until a path has taken it.
    Accepted,
    /// Until the recipient's receipt.
    Delivered,
}

/// Sends a message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Send {
    /// The mesh, by name or id; needed only if the peer is ambiguous.
    #[serde(default)]
    pub mesh: Option<String>,
    /// The peer: name, key, or unique start of a key.
    pub to: String,
    /// The text.
    pub message: String,
    /// When it surfaces.
    #[serde(default)]
    pub priority: Priority,
    /// The message that it answers.
    #[serde(default)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its id.
    pub id: EnvelopeId,
    /// The mesh's name.
    pub mesh_name: String,
    /// The recipient's name.
    pub to: String,
    /// The recipient's key.
    pub to_key: PublicKey,
    /// Its priority.
    pub priority: Priority,
    /// Its state.
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
    pub created_at: UnixMillis,
    /// When a path took it, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<UnixMillis>,
    /// When the receipt came, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<UnixMillis>,
    /// When it ends, Unix milliseconds.
    pub expires_at: UnixMillis,
    /// Whether the request repeated an earlier one.
    #[serde(default)]
    pub duplicate: bool,
}

/// Asks where a message stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MessageStatus {
    /// Its id, or the unique start of it.
    pub id: String,
}

/// Asks for messages that were sent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outbox {
    /// The mesh, by name or id; all if absent.
    #[serde(default)]
    pub mesh: Option<String>,
    /// Only those in this state.
    #[serde(default)]
    pub state: Option<MessageState>,
    /// At most so many; 100 if absent.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// Sends a message anew.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Requeue {
    /// Its id, or the unique start of it.
    pub id: String,
    /// How long the new one lives, in milliseconds; 7 days if absent.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
}

/// Asks for messages that came in.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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
    /// At most so many; 100 if absent.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// A message that came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxMessage {
    /// Its place in the order of surfacing.
    pub order: u64,
    /// Its id.
    pub id: EnvelopeId,
    /// The mesh's name.
    pub mesh_name: String,
    /// The author's name.
    pub from: String,
    /// The author's key.
    pub from_key: PublicKey,
    /// Its priority.
    pub priority: Priority,
    /// Media type of the message.
    pub content_type: String,
    /// The message; what is not UTF-8 is shown with replacement characters.
    pub message: String,
    /// The message that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<EnvelopeId>,
    /// When it was sent, by the author's clock, Unix milliseconds.
    pub sent_at: UnixMillis,
    /// When it came, Unix milliseconds.
    pub received_at: UnixMillis,
    /// Whether nobody had listed it before.
    pub unread: bool,
}

/// Whom to compare safety numbers with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verify {
    /// The mesh, by name or id; needed only if the peer is ambiguous.
    #[serde(default)]
    pub mesh: Option<String>,
    /// The peer.
    pub peer: String,
}

/// The safety number with a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SafetyNumber {
    /// The peer's name.
    pub name: String,
    /// The peer's key.
    pub key: PublicKey,
    /// Our key.
    pub our_key: PublicKey,
    /// Thirty digits in six groups; the same on both machines.
    pub number: String,
}

/// How this node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
