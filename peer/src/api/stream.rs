//! Streams between two identities.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Opens a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenStream {
    /// The mesh, by name or id; needed only if the peer is ambiguous.
    #[serde(default)]
    pub mesh: Option<String>,
    /// The peer: name, key, or unique start of a key; `member/session`.
    pub to: String,
    /// What it is for: 1 to 128 bytes, no control characters. The other side accepts by it.
    pub name: String,
    /// Longest wait for the other side, in milliseconds; at most, and if absent, 60 s.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// Waits for a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AcceptStream {
    /// The mesh, by name or id; any if absent.
    #[serde(default)]
    pub mesh: Option<String>,
    /// By whom: name, key, or unique start of a key; `member/session`. A member's name means that member, not
    /// its sessions. Anybody if absent.
    #[serde(default)]
    pub from: Option<String>,
    /// Of which name; any if absent.
    #[serde(default)]
    pub name: Option<String>,
}
