//! JSON bodies of the broker's HTTP endpoints, which need no member key.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v2/broker` | | [`BrokerInfo`] |
//! | `POST /v2/meshes` with the admin token as bearer | [`CreateMesh`] | [`MeshCreated`] |
//! | `GET /v2/invites/KEY` | | [`InvitePreview`] |
//! | `POST /v2/invites/KEY/claim` | [`ClaimRequest`] | [`ClaimAnswer`] |
//!
//! Errors are [`HttpError`] with a status of 400, 401, 403, 404, 405, 409, 410, 413, 429 or 503.

use serde::{Deserialize, Serialize};

use crate::UnixMillis;
use crate::id::{MeshId, PublicKey, Signature};
use crate::invite::Chain;
use crate::sign::Signed;

/// What the broker says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerInfo {
    /// Its key.
    pub broker: PublicKey,
    /// Program and version.
    pub agent: String,
    /// Its time, Unix milliseconds.
    pub at: UnixMillis,
    /// The STUN servers that its members are told, as `HOST:PORT`: answering anybody is what they are
    /// for. None where it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stun: Option<Vec<String>>,
}

/// Founds a mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateMesh {
    /// [`crate::invite::Genesis`], signed by the owner; names this broker's key.
    pub genesis: Signed,
}

/// The mesh is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshCreated {
    /// Its id.
    pub mesh: MeshId,
}

/// What an invite offers, for a joiner to verify before it claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitePreview {
    /// The issuer's chain: mesh, its name, who invites.
    pub issuer: Chain,
    /// [`crate::invite::Capability`], signed by the issuer.
    pub capability: Signed,
    /// How often it has been used.
    pub used: u32,
}

/// Uses an invite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRequest {
    /// [`crate::invite::Claim`], signed by the invite's secret.
    pub claim: Signed,
    /// The new member key's signature over the claim's payload.
    pub proof: Signature,
}

/// The joiner is a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimAnswer {
    /// Its certificate chain.
    pub chain: Chain,
    /// Whether it was a member before; then no use was burnt.
    #[serde(default)]
    pub already_member: bool,
}

/// Why an HTTP request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpError {
    /// One of [`super::code`], `not_found` or `bad_method`.
    pub code: String,
    /// For people.
    pub message: String,
}
