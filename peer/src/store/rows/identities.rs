//! Rows of sessions, of what identities say of themselves, and of groups.

use meshwire_signaling::attest::Capabilities;
use meshwire_signaling::frame::{Profile, Status};
use meshwire_signaling::sign::Signed;
use meshwire_signaling::{Hash, MeshId, PublicKey, UnixMillis};

/// A running session of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// The mesh.
    pub mesh: MeshId,
    /// The session's key.
    pub key: PublicKey,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub capabilities: Capabilities,
    /// Its process.
    pub pid: u32,
    /// When that process was started, as the system counts: tells it from a later one of its number.
    pub process_start: u64,
    /// SHA-256 of the token by which the process is known; unique.
    pub token_hash: Hash,
    /// When the session was started, Unix milliseconds.
    pub started_at: UnixMillis,
}

/// What one of our identities says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceRow {
    /// The mesh.
    pub mesh: MeshId,
    /// The identity.
    pub key: PublicKey,
    /// What it is doing.
    pub status: Status,
    /// When the status goes back to idle, Unix milliseconds.
    pub status_until: Option<UnixMillis>,
    /// What it works on.
    pub summary: Option<String>,
    /// Who it is.
    pub profile: Option<Profile>,
    /// Whether it wants to be listed.
    pub visible: bool,
}

/// A member's newest statement about one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// The mesh.
    pub mesh: MeshId,
    /// The member.
    pub member: PublicKey,
    /// The group's name without `@`.
    pub name: String,
    /// Its role there.
    pub role: Option<String>,
    /// Whether it is in the group.
    pub joined: bool,
    /// The statement's time, Unix milliseconds.
    pub at: UnixMillis,
    /// The statement, verified.
    pub statement: Signed,
}
