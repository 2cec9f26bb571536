//! Running programs with an identity of their own.

use meshwire_signaling::attest::Capabilities;
use meshwire_signaling::{PublicKey, UnixMillis};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;

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
