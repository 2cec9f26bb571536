//! Which path a peer's messages take, and why.

use std::net::SocketAddr;

use meshwire_signaling::{PublicKey, UnixMillis};
use meshwire_transport::direct::{PathInfo, Reach};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;
use crate::path::{Cause, Entry, Via, What, Why};

/// Asks which path messages to a peer take.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AskPath {
    /// The mesh, by name or id; needed only if the peer is ambiguous.
    #[serde(default)]
    pub mesh: Option<String>,
    /// The peer; of a session or service, its member's node counts.
    pub peer: String,
}

/// How a direct path is right now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DirectPath {
    /// Between which kinds of addresses: `host`, `nat`, `guessed` (a port of a NAT), `mapped` or `relayed`
    /// (by a TURN server).
    #[schema(value_type = String)]
    pub reach: Reach,
    /// Our end.
    #[schema(value_type = String)]
    pub local: SocketAddr,
    /// The peer's end.
    #[schema(value_type = String)]
    pub remote: SocketAddr,
    /// Round trip in microseconds, as the path measures it.
    pub rtt_us: u64,
    /// Largest datagram that it is known to carry, in bytes.
    pub mtu: u16,
    /// Whether the peer, that had been heard on it, is not any more. Such a path ends within seconds unless the
    /// peer is heard again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub silent: bool,
}

impl From<&PathInfo> for DirectPath {
    fn from(info: &PathInfo) -> Self {
        let rtt_us = u64::try_from(info.rtt.as_micros()).unwrap_or(u64::MAX);
        let PathInfo { reach, local, remote, mtu, silent, .. } = *info;
        Self { reach, local, remote, rtt_us, mtu, silent }
    }
}

/// One thing that happened to a pair's direct path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PathEntry {
    /// When, Unix milliseconds.
    pub at: UnixMillis,
    /// `offered`, `answered`, `up`, `moved` (the path goes another way), `stayed` (no better way was
    /// found), `failed` or `down`.
    pub what: String,
    /// Why, a word; for `failed` and `down`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub cause: Option<Cause>,
    /// More, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl From<&Entry> for PathEntry {
    fn from(entry: &Entry) -> Self {
        let (what, cause) = match entry.what {
            What::Offered => ("offered", None),
            What::Answered => ("answered", None),
            What::Up => ("up", None),
            What::Moved => ("moved", None),
            What::Stayed => ("stayed", None),
            What::Failed(cause) => ("failed", Some(cause)),
            What::Down(cause) => ("down", Some(cause)),
        };
        Self { at: entry.at, what: what.to_owned(), cause, detail: entry.detail.clone() }
    }
}

/// Which path messages to a peer take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PathReport {
    /// The peer's name.
    pub name: String,
    /// The key of the member at the other end.
    #[schema(value_type = schema::Key)]
    pub key: PublicKey,
    /// `direct`, `relay`, or `wait`: none, messages stay in the outbox.
    #[schema(value_type = String)]
    pub via: Via,
    /// Why, a word.
    #[schema(value_type = String)]
    pub why: Why,
    /// The direct path, if one is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<DirectPath>,
    /// When a direct path is tried again, in milliseconds from now; absent if none waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_ms: Option<u64>,
    /// What happened since this node started, oldest first.
    pub history: Vec<PathEntry>,
}
