//! Rows of the inbox.

use meshwire_signaling::{MeshId, PublicKey, UnixMillis};

use crate::core::inbox::Item;
use crate::core::order::Waiting;

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
    /// When somebody listed it, Unix milliseconds.
    pub seen_at: Option<UnixMillis>,
}

impl InboxRow {
    /// What the order book needs.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        Waiting {
            counter: self.item.counter(),
            seq: self.item.seq,
            floor: self.item.floor,
            row: self.row,
        }
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

/// Which surfaced messages to list; always in the order of surfacing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InboxFilter {
    /// Of this mesh.
    pub mesh: Option<MeshId>,
    /// By this author, or this member.
    pub from: Option<PublicKey>,
    /// Only what nobody has listed yet.
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
