//! How a mesh begins and how people get into it.
//!
//! A mesh is born by a [`Genesis`] that its owner signs. An admin invites with a [`Capability`] over
//! an ephemeral key, whose secret travels in the invite link's fragment ([`InviteLink`]). The joiner
//! signs a [`Claim`] with that secret and with its own new key; the broker adds a [`Countersign`]
//! that counts uses. Together they are one [`Link`] of a [`Chain`] that every peer verifies by
//! itself: the broker, which never sees the secret, cannot add a member, swap a key or claim.

mod chain;
mod link;
mod token;

use serde::{Deserialize, Serialize};

pub use chain::{Chain, ChainError, Link, Member};
pub use link::{InviteLink, LinkError};
pub use token::{AdminToken, TokenError};

use crate::UnixMillis;
use crate::id::{Hash, MeshId, PublicKey};
use crate::sign::{Signed, domains};

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sends and receives.
    Member,
    /// Also invites, and manages members.
    Admin,
    /// Signed the genesis.
    Owner,
}

impl Role {
    /// The wire word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
    /// Whether this role may sign invites.
    #[must_use]
    pub const fn may_invite(self) -> bool {
        matches!(self, Self::Admin | Self::Owner)
    }
}

/// The first event of a mesh, signed by the owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// The mesh's name.
    pub name: String,
    /// The owner's member key, which signs.
    pub owner: PublicKey,
    /// The owner's name in the mesh.
    pub owner_name: String,
    /// The key of the broker that countersigns claims for this mesh.
    pub broker: PublicKey,
    /// When, Unix milliseconds.
    pub created_at: UnixMillis,
    /// 32 random bytes: two meshes never share an id.
    pub nonce: Hash,
}

/// The id of the mesh that a signed genesis starts: SHA-256 of its signed layout.
#[must_use]
pub fn mesh_id(genesis: &Signed) -> MeshId {
    MeshId(genesis.hash(domains::GENESIS).0)
}

/// An invite's public half with its terms, signed by an admin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// The mesh.
    pub mesh: MeshId,
    /// The admin who signs.
    pub issuer: PublicKey,
    /// The invite's public key; its secret is in the link.
    pub invite: PublicKey,
    /// What the joiner becomes; never owner.
    pub role: Role,
    /// How many members it admits.
    pub uses: u32,
    /// When it was signed, Unix milliseconds.
    pub issued_at: UnixMillis,
    /// When it ends, Unix milliseconds.
    pub expires_at: UnixMillis,
    /// The broker's key: the joiner's hello is for this broker alone.
    pub broker: PublicKey,
}

/// The joiner's key and name, signed by the invite's secret (and, as proof, by the key itself).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The mesh.
    pub mesh: MeshId,
    /// The invite that is used.
    pub invite: PublicKey,
    /// The new member's key.
    pub member: PublicKey,
    /// The new member's name.
    pub name: String,
    /// When, by the joiner's clock, Unix milliseconds.
    pub claimed_at: UnixMillis,
}

/// The broker's count of a use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Countersign {
    /// Hash of the claim's signed layout.
    pub claim: Hash,
    /// Which use of the invite this is, from 1.
    pub use_number: u32,
    /// When, by the broker's clock, Unix milliseconds.
    pub at: UnixMillis,
}
