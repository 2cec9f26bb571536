//! Rows of the inbox.

use meshwire_signaling::{EnvelopeId, Hash, MeshId, PublicKey, UnixMillis};

use crate::core::gate::Arrival;
use crate::core::inbox::Item;

/// An inbox row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxRow {
    /// Local number, in the order of arrival.
    pub row: i64,
    /// The message.
    pub item: Item,
    /// Its place in the order of surfacing, from 1; none while it is held.
    pub order: Option<u64>,
    /// When it surfaced, Unix milliseconds.
    pub surfaced_at: Option<UnixMillis>,
    /// When it was listed, Unix milliseconds: by the session that lists, else by the member.
    pub seen_at: Option<UnixMillis>,
    /// Whether the session that it was for ended before anybody had listed it: its member reads it.
    pub handed_on: bool,
}

impl InboxRow {
    /// What order book and gate need.
    #[must_use]
    pub fn arrival(&self) -> Arrival {
        Arrival::new(&self.item, self.row)
    }
}

/// What became of a message that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// New; this is its row.
    Inserted(i64),
    /// The same envelope came before.
    Duplicate,
    /// Another envelope came before under this author and id.
    Conflict,
}

/// An id that came in without a message for the inbox, such as a stream's open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewId {
    /// The mesh.
    pub mesh: MeshId,
    /// Who signed it.
    pub author: PublicKey,
    /// Its id; unique together with mesh and author.
    pub id: EnvelopeId,
    /// The envelope hash.
    pub hash: Hash,
    /// Until when it must suppress copies, Unix milliseconds.
    pub keep_until: UnixMillis,
}

/// Who lists the inbox: decides what there is and what is unread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Viewer {
    /// The home's owner, who sees what is for its sessions, too.
    #[default]
    Everything,
    /// The home's owner, who wants only what is for the member.
    Member,
    /// This session: what is for it and what is for its member.
    Session(PublicKey),
    /// This session, which may not see what is for its member.
    SessionAlone(PublicKey),
}

impl Viewer {
    /// The session that has its own record of what it has seen.
    #[must_use]
    pub const fn session(&self) -> Option<PublicKey> {
        match self {
            Self::Session(key) | Self::SessionAlone(key) => Some(*key),
            Self::Everything | Self::Member => None,
        }
    }
}

/// Which surfaced messages to list; always in the order of surfacing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InboxFilter {
    /// Of this mesh.
    pub mesh: Option<MeshId>,
    /// Who asks.
    pub viewer: Viewer,
    /// By this author, or this member.
    pub from: Option<PublicKey>,
    /// Only what came at this time or later, Unix milliseconds.
    pub since: Option<UnixMillis>,
    /// Only what came before this time, Unix milliseconds.
    pub before: Option<UnixMillis>,
    /// Only what the viewer has not listed yet.
    pub unread: bool,
    /// Only what surfaced after this place.
    pub after_order: Option<u64>,
    /// If more fit than `limit`: the last ones rather than the first ones.
    pub newest: bool,
    /// At most so many.
    pub limit: u32,
}

/// Which messages to delete. Held ones stay until they have surfaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboxDelete {
    /// This row.
    Row(i64),
    /// All surfaced ones of these.
    Surfaced {
        /// Of this mesh only.
        mesh: Option<MeshId>,
        /// Received before this time only, Unix milliseconds.
        before: Option<UnixMillis>,
    },
}
