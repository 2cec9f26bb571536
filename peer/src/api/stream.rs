//! Streams between two identities.

use meshwire_signaling::{MeshId, Priority, PublicKey, StreamId, UnixMillis};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::{PeerPath, schema};
use crate::core::resolve::nearest;

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
    /// How urgent what this side sends is beside its other streams.
    #[serde(default, deserialize_with = "priority")]
    #[schema(value_type = schema::StreamPriority)]
    pub priority: Priority,
}

/// A priority by its word.
fn priority<'de, D: Deserializer<'de>>(from: D) -> Result<Priority, D::Error> {
    let word = String::deserialize(from)?;
    let words = Priority::ALL.map(Priority::as_str);
    let known = Priority::ALL.into_iter().find(|p| p.as_str() == word);
    known.ok_or_else(|| {
        let hint = nearest(&word, &words)
            .map(|near| format!(" (did you mean {near}?)"))
            .unwrap_or_default();
        D::Error::custom(format!("no priority {word:?}: {}{hint}", words.join(", ")))
    })
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
    /// Longest wait, in milliseconds. Over the local API it is at most, and if absent, ten minutes.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// How urgent what this side sends is beside its other streams.
    #[serde(default, deserialize_with = "priority")]
    #[schema(value_type = schema::StreamPriority)]
    pub priority: Priority,
}

/// Asks for the streams that are open here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListStreams {
    /// The mesh, by name or id; all if absent.
    #[serde(default)]
    pub mesh: Option<String>,
}

/// A stream that is open here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamRow {
    /// Its id: the same on both sides.
    #[schema(value_type = schema::StreamId)]
    pub id: StreamId,
    /// What it is for.
    pub name: String,
    /// The mesh.
    #[schema(value_type = schema::MeshId)]
    pub mesh: MeshId,
    /// The mesh's name.
    pub mesh_name: String,
    /// The other side's name; `member/name` for sessions and services.
    pub peer: String,
    /// The other side's key.
    #[schema(value_type = schema::Key)]
    pub peer_key: PublicKey,
    /// Our identity's key: the member's, or a session's.
    #[schema(value_type = schema::Key)]
    pub own_key: PublicKey,
    /// Whether we have opened it; else the other side has.
    pub opened: bool,
    /// When it was opened or accepted here, Unix milliseconds.
    #[schema(value_type = schema::Time)]
    pub since: UnixMillis,
    /// Whether bytes may still flow.
    pub state: StreamState,
    /// How urgent what this side sends is beside its other streams.
    #[serde(default)]
    #[schema(value_type = schema::StreamPriority)]
    pub priority: Priority,
    /// How far it is.
    #[serde(flatten)]
    pub progress: StreamProgress,
}

/// How a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StreamState {
    /// Bytes may flow, in one direction at least.
    Open,
    /// It has been reset or has failed; the other side is being told.
    Ending,
}

/// How far a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamProgress {
    /// Bytes that were written here; the last of them may still wait.
    pub written: u64,
    /// Bytes that have come, in order.
    pub received: u64,
    /// What new bytes go over now; absent while there is no path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PeerPath>,
}

/// Ends a stream, in both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CloseStream {
    /// Its id, or the unique start of it.
    pub id: String,
    /// Why, for the other side: at most 256 bytes.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What a node says, as text, on the WebSocket of a stream. Binary messages beside it are the stream's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum StreamEvent {
    /// The first: which stream it is.
    Stream(Box<StreamRow>),
    /// How far it is: now and then, and when its path has changed.
    Progress(StreamProgress),
    /// The other side has ended what it writes; everything of it has been passed on.
    End,
    /// The other side has everything that was written, and its end.
    Finished,
    /// The other side reads no more: what is written is dropped from now on.
    Stopped(StreamStopped),
    /// The stream has failed in both directions; nothing follows.
    Reset(StreamReset),
}

/// `stopped`: the other side reads no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamStopped {
    /// Its word for why; 256 or above is the application's own.
    pub code: u32,
}

/// `reset`: how a stream has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamReset {
    /// Who has ended it.
    pub by: ResetBy,
    /// The word that was given; 256 or above is the application's own, else 0.
    pub code: u32,
    /// Why, for people.
    pub reason: String,
}

/// Who has ended a stream before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResetBy {
    /// The other side.
    Peer,
    /// This node: somebody has closed the stream, its session has ended, or the node stops.
    Here,
    /// Nobody: nothing has been heard from the other side for too long.
    Silence,
    /// The other side's program did what none may.
    Fault,
}

/// What a client says, as text, on the WebSocket of a stream. Binary messages beside it are bytes to write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamOrder {
    /// Nothing more will be written.
    End,
    /// Nothing more will be read.
    Stop(StreamStop),
    /// Ends the stream.
    Reset(StreamCancel),
}

/// `stop`: nothing more will be read; the other side's writes fail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamStop {
    /// A word for why; 256 or above is the application's own.
    #[serde(default)]
    pub code: u32,
}

/// `reset`, of a client: ends the stream in both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamCancel {
    /// A word for why; 256 or above is the application's own.
    #[serde(default)]
    pub code: u32,
    /// Why, for people: at most 256 bytes.
    #[serde(default)]
    pub reason: String,
}
