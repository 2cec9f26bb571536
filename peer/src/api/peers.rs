//! Who is there, what they say of themselves, and groups.

use meshwire_signaling::attest::Capabilities;
use meshwire_signaling::frame::{Profile, Status as Doing};
use meshwire_signaling::invite::Role;
use meshwire_signaling::{MeshId, PublicKey, UnixMillis};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;

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
    /// What messages to it take now; absent while it is away, and for this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PeerPath>,
    /// Whether it is this node.
    pub this_node: bool,
    /// Whether it is the session that asks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub this_session: bool,
    /// Whether it is another session or service of the member of the session that asks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sibling: bool,
    /// Another key that this name belonged to before: take care.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Key>)]
    pub name_pinned_to: Option<PublicKey>,
}

/// What messages to a peer take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerPath {
    /// From node to node, through a TURN server, or over the broker's relay.
    pub kind: PeerPathKind,
    /// Round trip in microseconds, as the path measures it; absent for the relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
}

/// See [`PeerPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PeerPathKind {
    /// From node to node.
    Direct,
    /// Through a TURN server.
    Turn,
    /// Over the broker's relay.
    Relay,
}

impl PeerPathKind {
    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Turn => "turn",
            Self::Relay => "relay",
        }
    }
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
