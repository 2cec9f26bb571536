//! Founding, joining, inviting.

use meshwire_signaling::invite::Role;
use meshwire_signaling::{MeshId, PublicKey, UnixMillis};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;

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
