//! Who belongs to the mesh and who is there.

use serde::{Deserialize, Serialize};

use crate::UnixMillis;
use crate::attest::IdentityKind;
use crate::envelope::StateHead;
use crate::id::PublicKey;
use crate::invite::Chain;

/// Asks for members' chains, offline ones too, in key order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "list_peers")]
pub struct ListPeers {
    /// Request number.
    pub req: u64,
    /// Only keys after this one: the `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<PublicKey>,
    /// Only this member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PublicKey>,
}

/// One page of members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "peers")]
pub struct Peers {
    /// Request number.
    pub req: u64,
    /// The members.
    pub peers: Vec<PeerInfo>,
    /// Where the next page starts, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<PublicKey>,
    /// The mesh log's head; (0, mesh id) before there is a log.
    pub head: StateHead,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Its certificate chain, to be verified by whoever reads this.
    pub chain: Chain,
    /// Whether it has a socket now.
    pub online: bool,
    /// When it last came or went, Unix milliseconds; absent if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixMillis>,
}

/// What happened to an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PresenceEvent {
    /// It came.
    Joined,
    /// It went.
    Left,
    /// It became a member; it may not have connected yet.
    Admitted,
}

/// An identity came or went; sent to everybody else in the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "presence")]
pub struct Presence {
    /// What happened.
    pub event: PresenceEvent,
    /// The identity.
    pub key: PublicKey,
    /// Its member; the same key for members.
    pub member: PublicKey,
    /// What kind of identity it is.
    pub kind: IdentityKind,
    /// When, Unix milliseconds.
    pub at: UnixMillis,
    /// The member's chain, except when it left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<Chain>,
}
