//! Who belongs to the mesh and who is there.

use serde::{Deserialize, Serialize};

use crate::UnixMillis;
use crate::attest::IdentityKind;
use crate::envelope::{Priority, StateHead};
use crate::id::PublicKey;
use crate::invite::Chain;
use crate::limits::{MAX_PROFILE_PART, MAX_SUMMARY};
use crate::sign::Signed;

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

/// What an identity is doing; its node surfaces mail accordingly (inventory B-047).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Everything surfaces.
    #[default]
    Idle,
    /// Only what is urgent surfaces.
    Working,
    /// Do not disturb: only what is urgent surfaces.
    Dnd,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Idle, Self::Working, Self::Dnd];

    /// The wire word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Working => "working",
            Self::Dnd => "dnd",
        }
    }

    /// Whether mail of a priority surfaces (inventory B-047).
    #[must_use]
    pub const fn lets(self, priority: Priority) -> bool {
        matches!((self, priority), (Self::Idle, _) | (_, Priority::Now))
    }
}

/// What an identity says of itself, for people (inventory B-043).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// A picture's address, or an emoji.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar: Option<String>,
    /// A few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// A few sentences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bio: Option<String>,
}

/// What an identity is doing and what it says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// What it is doing.
    #[serde(default)]
    pub status: Status,
    /// What it works on, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
}

impl About {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong with its lengths, if anything.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let long = |text: &Option<String>, max: usize| {
            text.as_ref().is_some_and(|t| t.chars().count() > max)
        };
        if long(&self.summary, MAX_SUMMARY) {
            return Some(format!("a summary has at most {MAX_SUMMARY} characters"));
        }
        let profile = self.profile.as_ref()?;
        [&profile.avatar, &profile.title, &profile.bio]
            .into_iter()
            .any(|part| long(part, MAX_PROFILE_PART))
            .then(|| format!("each part of a profile has at most {MAX_PROFILE_PART} characters"))
    }
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Its certificate chain, to be verified by whoever reads this.
    pub chain: Chain,
    /// Whether it is there: connected, or lost for less than the lease's time.
    pub online: bool,
    /// When it last came or went, Unix milliseconds; absent if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixMillis>,
    /// Whether it does not want to be listed. Then `online`, `about` and `presences` say nothing,
    /// and group sends leave it out; direct mail reaches it as ever.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// What it last said of itself.
    #[serde(default, skip_serializing_if = "About::is_default")]
    pub about: About,
    /// Its identities that are there: the member's own connection, sessions, services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub presences: Vec<PresenceInfo>,
    /// [`crate::group::GroupStatement`]s by which it is in groups, each signed by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Signed>,
}

impl PeerInfo {
    /// A member of whom only the chain is known.
    #[must_use]
    pub fn new(chain: Chain) -> Self {
        Self {
            chain,
            online: false,
            since: None,
            hidden: false,
            about: About::default(),
            presences: Vec::new(),
            groups: Vec::new(),
        }
    }
}

/// Whether an identity that is there can be heard right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attendance {
    /// It has a connection.
    #[default]
    Online,
    /// Its connection is lost; its lease is not over yet.
    Grace,
}

/// One identity that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceInfo {
    /// Its key.
    pub key: PublicKey,
    /// What kind it is; `member` is the control plane: the member's own connection.
    pub kind: IdentityKind,
    /// Whether it can be heard.
    pub attendance: Attendance,
    /// Since when it is there, Unix milliseconds.
    pub since: UnixMillis,
    /// What it says of itself; for members it stands in [`PeerInfo::about`].
    #[serde(default, skip_serializing_if = "About::is_default")]
    pub about: About,
    /// For sessions and services: the member's word for the key, its name and capabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Signed>,
    /// Feature bits of the program behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
}

/// What changed about a member: the whole of it, as in `peers`. Sent to everybody else in the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "peer_changed")]
pub struct PeerChanged {
    /// The member.
    pub peer: PeerInfo,
}

/// News of presence were lost because this connection was busy: ask for the peers again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "resync")]
pub struct Resync {}

/// Changes what an identity of this connection says of itself. Absent fields stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "set_presence")]
pub struct SetPresence {
    /// Request number.
    pub req: u64,
    /// The identity.
    pub key: PublicKey,
    /// What it is doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// What it works on; empty to say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Whether it wants to be listed; members only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visible: Option<bool>,
}

/// Joins or leaves a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "group")]
pub struct SetGroup {
    /// Request number.
    pub req: u64,
    /// [`crate::group::GroupStatement`], signed by the member.
    pub statement: Signed,
}

/// Closes connections of others; owner and admins only (inventory B-116, B-117).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "disconnect")]
pub struct Disconnect {
    /// Request number.
    pub req: u64,
    /// Members (all that they have), sessions or services; at most
    /// [`crate::limits::MAX_DISCONNECT`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<PublicKey>,
    /// Everybody but the caller's own member.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// For good: they do not come back by themselves. Leaves control planes out, without which
    /// their members could not come back at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kick: bool,
}

/// Who was disconnected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "disconnected")]
pub struct Disconnected {
    /// Request number.
    pub req: u64,
    /// Identities that were.
    pub affected: Vec<PublicKey>,
    /// Control planes that a kick leaves alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<PublicKey>,
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
    /// For sessions and services that came: the member's word for the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Signed>,
    /// Feature bits of the program behind an identity that came; none from brokers before this field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
}
