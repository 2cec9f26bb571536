//! Managing invites over the WebSocket; owner and admins only.

use serde::{Deserialize, Serialize};

use crate::UnixMillis;
use crate::id::PublicKey;
use crate::sign::Signed;

/// Registers an invite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "invite_create")]
pub struct InviteCreate {
    /// Request number.
    pub req: u64,
    /// [`crate::invite::Capability`], signed by the caller.
    pub capability: Signed,
}

/// Asks for the mesh's invites, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "invite_list")]
pub struct InviteList {
    /// Request number.
    pub req: u64,
}

/// The newest invites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "invites")]
pub struct Invites {
    /// Request number.
    pub req: u64,
    /// At most 100.
    pub invites: Vec<InviteInfo>,
}

/// One invite as the broker has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteInfo {
    /// Its signed terms.
    pub capability: Signed,
    /// When it was revoked, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<UnixMillis>,
    /// Who used it; at most 20 are listed.
    pub joined: Vec<Joined>,
    /// How many used it.
    pub used: u32,
}

/// Who used an invite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The member's key.
    pub key: PublicKey,
    /// Its name.
    pub name: String,
    /// When, Unix milliseconds.
    pub at: UnixMillis,
}

/// Ends an invite; those who used it stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "invite_revoke")]
pub struct InviteRevoke {
    /// Request number.
    pub req: u64,
    /// The invite's key.
    pub invite: PublicKey,
}

/// Done, with nothing to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "ok")]
pub struct Ok {
    /// Request number.
    pub req: u64,
}
