//! The broker's decisions, without sockets, clock or database: values in, values out.

pub mod accept;
pub mod batch;
pub mod bulk;
pub mod claim;
pub mod hello;
pub mod p2p;
pub mod presence;
pub mod rate;

/// When to come back, in milliseconds, as refusals that may pass say it. Nodes spread it out.
pub(crate) mod again {
    /// The broker restarts: long enough for its port to be free, short enough to go unnoticed.
    pub(crate) const RESTARTED: u64 = 500;
    /// A write failed: the next one may not.
    pub(crate) const WRITE: u64 = 1_000;
    /// A reader is behind: the next look may find room.
    pub(crate) const BUSY: u64 = 1_000;
    /// The database fails: its operator needs a moment.
    pub(crate) const DATABASE: u64 = 5_000;
    /// Something is full that empties slowly: a mesh's sockets, somebody's mailbox.
    pub(crate) const FULL: u64 = 30_000;
}
