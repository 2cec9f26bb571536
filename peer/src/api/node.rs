//! How the node is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::MeshInfo;

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
    /// Members to whom a direct path is up.
    pub direct: u64,
    /// Members to whom a path through a TURN server is up.
    pub turn: u64,
    /// The median round trip of those paths, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_rtt_us: Option<u64>,
}

/// An answer without content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {}
