//! What a node must not forget: its meshes, outbox, inbox, counters and roster.
//!
//! [`SqliteStore`] keeps it on disk; [`MemoryStore`] is the double for tests and simulations. Both
//! pass the suite in [`conformance`]. Times are arguments; a store has no clock.
//!
//! Every method that changes something is one transaction, in force when it returns. Which of them a
//! power cut may undo:
//!
//! - **Promises** are on disk when the method returns: somebody relies on them from then on. A message that
//!   was enqueued, the end of one (delivered, expired, failed), a place in the order of surfacing,
//!   sessions, members, meshes. No method shows a message or its end before that.
//! - [`PeerStore::accept_inbound`] is one too, but on disk only after [`PeerStore::sync`] or the next
//!   promise: what comes in surfaces next, and one sync does for both.
//! - **Notes** may be undone, the newest first: that a message is with a path or the relay
//!   ([`PeerStore::due`], [`StepTo::Sent`], [`StepTo::Relayed`]), when it is tried again
//!   ([`StepTo::Retry`], [`PeerStore::hasten`], [`PeerStore::unsend`], [`PeerStore::reset_inflight`]),
//!   that a ping was swallowed ([`PeerStore::swallow`]). Without its note a message goes out once more
//!   after the restart, under the same id: the broker answers as before, the recipient knows the id and
//!   answers with its receipt, and the confirmed receipt is on disk before the broker may forget
//!   it. A ping is swallowed once more. Notes are on disk with the next promise, or when the system
//!   writes its memory to the disk.

#[doc(hidden)]
pub mod conformance;
mod memory;
mod rows;
mod sqlite;

use std::fmt::Debug;
use std::path::PathBuf;

use async_trait::async_trait;
use meshwire_signaling::invite::Chain;
use meshwire_signaling::limits::{MAX_TTL, ms};
use meshwire_signaling::{EnvelopeId, Hash, InstanceId, MeshId, PublicKey, UnixMillis};

pub use memory::MemoryStore;
pub use rows::{
    Arrived, Enqueued, Freeze, FreezeError, GroupRow, Idempotency, InboxDelete, InboxFilter,
    InboxRow, MemberRow, MeshRow, NewId, NewMember, NewOutbox, NewRecipient, OutboxFilter,
    OutboxMeta, OutboxRow, Pick, PinOutcome, PresenceRow, Pruned, RecipientRow, Redirect, Requeue,
    Rewrap, SessionRow, Slot, Step, StepTo, Stepped, Viewer,
};
pub use sqlite::SqliteStore;

use crate::core::gate::Arrival;
use crate::core::inbox::Item;
use crate::core::order::Counter;
use crate::core::outbox::{OutboxState, Repeat, conflict_word};

/// How long surfaced messages stay (inventory C-026), and outbox rows after their end.
pub const RETENTION_MS: u64 = 30 * 86_400_000;
/// How long the cursor of a silent counter stays: longer than any envelope of it can live.
pub const CURSOR_RETENTION_MS: u64 = ms(MAX_TTL) + 86_400_000;
/// Most rows of a list of the outbox (inventory C-023).
pub const MAX_OUTBOX_LIST: u32 = 500;
/// Most rows of a list of the inbox (inventory C-025).
pub const MAX_INBOX_LIST: u32 = 1_000;
/// How many left groups are remembered per member: a member may sign as many statements as it likes.
pub const MAX_LEFT_GROUPS: usize = 64;
/// Most ids that an ambiguous prefix lists.
pub const MAX_CANDIDATES: usize = 10;

/// A key that was used before, for a request that cannot be answered with its row (inventory A-110).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyConflict {
    /// What is wrong; never [`Repeat::Duplicate`].
    pub repeat: Repeat,
    /// The row under that key.
    pub existing: OutboxMeta,
}

impl IdempotencyConflict {
    /// The inventory's word, such as `outbox_dead_fingerprint_match`.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        conflict_word(self.existing.state, !matches!(self.repeat, Repeat::Mismatch))
    }
}

/// Why a store could not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file cannot be made or opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is no database, or a damaged one.
    #[error(
        "{} is damaged: {what}; restore it from a backup, or move it away and join again",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        what: String,
    },
    /// A newer meshwire has written the file (inventory C-030).
    #[error(
        "{} was written by a newer meshwire (schema {found}, this one knows {known}): \
         update meshwire; there is no way back to an older schema",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The schema could not be brought up to date.
    #[error("cannot update the schema of {}: {source}", path.display())]
    Migrate {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: Box<sqlx::migrate::MigrateError>,
    },
    /// The database failed.
    #[error("the store failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The disk has not taken what was written: nothing can be promised until the store is opened again.
    #[error(
        "{} could not be brought to the disk: {what}; see to the disk, then restart meshwire",
        path.display()
    )]
    Unsynced {
        /// The file.
        path: PathBuf,
        /// What the system says.
        what: String,
    },
    /// A stored value is not what it should be.
    #[error("the store holds a bad {column}: {what}")]
    BadValue {
        /// Which column.
        column: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// The mesh is not in the store.
    #[error("this node is not in mesh {0}")]
    UnknownMesh(MeshId),
    /// The mesh is in the store already.
    #[error("this node is in mesh {0} already")]
    MeshExists(MeshId),
    /// No message has, or starts with, this id.
    #[error("no message {0}")]
    NotFound(String),
    /// Several messages' ids start like this.
    #[error("{prefix:?} is ambiguous: {}", list(candidates))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// The first of the ids that fit.
        candidates: Vec<EnvelopeId>,
    },
    /// The id was used before; ids must be fresh.
    #[error("message id {0} was used before")]
    IdTaken(EnvelopeId),
    /// The idempotency key was used before.
    #[error("the idempotency key was used before: {}", .0.word())]
    Idempotency(Box<IdempotencyConflict>),
    /// A message in this state cannot be requeued.
    #[error("message {id} is {state}: only what is pending, expired or failed can be requeued")]
    NotRequeueable {
        /// The message.
        id: EnvelopeId,
        /// Its state.
        state: OutboxState,
    },
    /// The caller could not seal the envelope; nothing was stored.
    #[error("the message could not be sealed: {0}")]
    Freeze(FreezeError),
}

fn list(ids: &[EnvelopeId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(", ")
}

/// Result of a store.
pub type StoreResult<T> = Result<T, StoreError>;

/// A node's store; see the module's documentation.
///
/// Methods without an `Errors` section fail with [`StoreError::Database`], [`StoreError::Unsynced`] and
/// [`StoreError::BadValue`] only; those that write for a mesh also with [`StoreError::UnknownMesh`].
#[async_trait]
#[allow(clippy::missing_errors_doc)] // said once, above
pub trait PeerStore: Debug + Send + Sync {
    /// Adds a mesh and its first outbox instance (16 random bytes).
    ///
    /// # Errors
    /// [`StoreError::MeshExists`].
    async fn mesh_insert(&self, row: &MeshRow, instance: InstanceId) -> StoreResult<()>;
    /// All meshes, oldest membership first.
    async fn mesh_list(&self) -> StoreResult<Vec<MeshRow>>;
    /// One mesh.
    async fn mesh_get(&self, mesh: &MeshId) -> StoreResult<Option<MeshRow>>;
    /// Removes a mesh with everything kept for it; false if it was not there.
    async fn mesh_remove(&self, mesh: &MeshId) -> StoreResult<bool>;

    /// The instance.
    ///
    /// # Errors
    /// [`StoreError::UnknownMesh`].
    async fn instance(&self, mesh: &MeshId) -> StoreResult<InstanceId>;
    /// The instance and the next hello counter, from 1; durable before it returns.
    async fn next_hello(&self, mesh: &MeshId) -> StoreResult<(InstanceId, u64)>;
    /// Starts a new instance: hello counter and sequence numbers begin anew; rows frozen before keep
    /// theirs.
    async fn renew_instance(&self, mesh: &MeshId, new: InstanceId) -> StoreResult<()>;

    /// Numbers, seals (by `freeze`) and stores a message: durable before the caller hears "accepted".
    ///
    /// # Errors
    /// [`StoreError::Idempotency`], [`StoreError::IdTaken`], [`StoreError::Freeze`]; nothing is
    /// stored then, and no number used.
    async fn enqueue(&self, new: &NewOutbox, freeze: Freeze<'_>) -> StoreResult<Enqueued>;
    /// Takes up to `limit` rows that are due, in order, and marks them inflight: concurrent calls
    /// get disjoint rows, each of them on disk. A row whose predecessor in the same counter waits for its back-off waits
    /// too.
    async fn due(
        &self,
        mesh: &MeshId,
        now: UnixMillis,
        limit: u32,
        pick: Pick<'_>,
    ) -> StoreResult<Vec<OutboxRow>>;
    /// When [`Self::due`] will next have something, Unix milliseconds (the past, if it has now);
    /// none while nothing is pending.
    async fn next_due(
        &self,
        mesh: &MeshId,
        now: UnixMillis,
        pick: Pick<'_>,
    ) -> StoreResult<Option<UnixMillis>>;
    /// Puts rows back to pending that a direct path took and nobody acked, due now: those for `peer` and
    /// what it vouches for when its path is lost, all at start. Returns how many.
    async fn unsend(&self, mesh: &MeshId, peer: Option<&PublicKey>) -> StoreResult<u64>;
    /// Makes rows due now that wait for another try, those for `peer` and what it vouches for: another path
    /// is up, which has refused none of them. Returns how many.
    async fn hasten(&self, mesh: &MeshId, peer: &PublicKey, now: UnixMillis) -> StoreResult<u64>;
    /// Puts inflight rows back to pending, due as before: at start and when a path is lost. Returns
    /// how many.
    async fn reset_inflight(&self, mesh: &MeshId) -> StoreResult<u64>;
    /// Moves rows to their next states, in one transaction; the answers are in the order of `steps`.
    async fn step(&self, steps: &[Step]) -> StoreResult<Vec<Stepped>>;
    /// Marks up to `limit` open rows whose time is over as expired, with their open recipients, and
    /// returns them.
    async fn expire(&self, now: UnixMillis, limit: u32) -> StoreResult<Vec<OutboxMeta>>;
    /// Sends a message anew under a fresh id: the old row becomes aborted and names the new one,
    /// which has the old one's mesh, author and priority, and, unless it is redirected, its target,
    /// recipient and name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::NotRequeueable`], [`StoreError::IdTaken`],
    /// [`StoreError::Freeze`]; nothing changes then.
    async fn requeue(&self, requeue: Requeue, freeze: Freeze<'_>) -> StoreResult<OutboxRow>;
    /// Changes who gets a group's message that no path has taken. False if the row is not pending or
    /// inflight any more; nothing changes then.
    async fn rewrap(&self, change: &Rewrap) -> StoreResult<bool>;
    /// Where a group's message stands with its recipients, by name and key; none for other rows.
    async fn recipients(&self, row: i64) -> StoreResult<Vec<RecipientRow>>;
    /// One row.
    async fn outbox_get(&self, mesh: &MeshId, id: &EnvelopeId) -> StoreResult<Option<OutboxRow>>;
    /// One row, without its envelope. For rows that [`Self::due`] has handed out: others may not be on disk.
    async fn outbox_meta(&self, mesh: &MeshId, id: &EnvelopeId) -> StoreResult<Option<OutboxMeta>>;
    /// The one row whose id starts with `prefix`, of one mesh or all, by one author or all.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`].
    async fn outbox_find(
        &self,
        mesh: Option<&MeshId>,
        author: Option<&PublicKey>,
        prefix: &str,
    ) -> StoreResult<OutboxRow>;
    /// Rows, newest first, at most [`MAX_OUTBOX_LIST`].
    async fn outbox_list(&self, filter: &OutboxFilter) -> StoreResult<Vec<OutboxMeta>>;

    /// Stores messages that came in, each with the time until which its id is remembered; the
    /// answers are in the same order. Durable only after [`Self::sync`], hence no ack before that.
    async fn accept_inbound(&self, items: &[(Item, UnixMillis)]) -> StoreResult<Vec<Arrived>>;
    /// Remembers ids of what came in and is not for the inbox, so that copies are known. Says which of them
    /// are new; the answers are in the same order. Durable only after [`Self::sync`].
    async fn remember(&self, ids: &[NewId]) -> StoreResult<Vec<bool>>;
    /// Returns when every promise made before is on disk.
    async fn sync(&self) -> StoreResult<()>;
    /// The hash of the envelope that came under this author and id, if it is still remembered.
    async fn seen(
        &self,
        mesh: &MeshId,
        author: &PublicKey,
        id: &EnvelopeId,
    ) -> StoreResult<Option<Hash>>;
    /// Gives rows their places in the order of surfacing and moves their cursors. Rows that have
    /// surfaced, or are gone, are left out of the answer.
    async fn surface(&self, rows: &[i64], now: UnixMillis) -> StoreResult<Vec<InboxRow>>;
    /// Deletes rows that never surface, such as pings, and moves their cursors. Rows that have
    /// surfaced, or are gone, stay as they are.
    async fn swallow(&self, rows: &[i64], now: UnixMillis) -> StoreResult<()>;
    /// Rows that have not surfaced, in the order of arrival: for [`crate::core::order::OrderBook`]
    /// and [`crate::core::gate::Gate`] after a restart.
    async fn held(&self) -> StoreResult<Vec<Arrival>>;
    /// The highest surfaced number per counter, longest silent first.
    async fn cursors(&self) -> StoreResult<Vec<(Counter, u64)>>;
    /// Surfaced messages, at most [`MAX_INBOX_LIST`]. With `mark_seen` those that were unread are
    /// marked as seen then; the answer shows them as they were before.
    async fn inbox_list(
        &self,
        filter: &InboxFilter,
        mark_seen: Option<UnixMillis>,
    ) -> StoreResult<Vec<InboxRow>>;
    /// The one surfaced message whose id starts with `prefix`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`].
    async fn inbox_find(&self, mesh: Option<&MeshId>, prefix: &str) -> StoreResult<InboxRow>;
    /// Deletes messages, not the memory of their ids; returns how many.
    async fn inbox_delete(&self, what: &InboxDelete) -> StoreResult<u64>;

    /// Adds or updates a member whose chain was verified.
    async fn upsert_member(&self, member: &NewMember) -> StoreResult<PinOutcome>;
    /// One member.
    async fn member(&self, mesh: &MeshId, key: &PublicKey) -> StoreResult<Option<MemberRow>>;
    /// One member's chain.
    async fn member_chain(&self, mesh: &MeshId, key: &PublicKey) -> StoreResult<Option<Chain>>;
    /// Members of one mesh or of all, by name and key.
    async fn members(&self, mesh: Option<&MeshId>) -> StoreResult<Vec<MemberRow>>;
    /// Members that `text` may mean: of exactly this name, or with a key that starts with it. For
    /// [`crate::core::resolve`].
    async fn members_like(&self, mesh: Option<&MeshId>, text: &str) -> StoreResult<Vec<MemberRow>>;

    /// Adds a session, or updates it.
    async fn session_insert(&self, session: &SessionRow) -> StoreResult<()>;
    /// Sessions of one mesh or of all, oldest first; with those that ended and were not removed.
    async fn session_list(&self, mesh: Option<&MeshId>) -> StoreResult<Vec<SessionRow>>;
    /// Remembers that a session has ended, for [`RETENTION_MS`] and as long as its row is there, and
    /// forgets what it said of itself and what it has read. The first time, what came for it and
    /// nobody has listed is handed on to its member; of that, what had surfaced surfaces once more:
    /// it is returned, in the order in which it had, and is held until then.
    async fn session_end(
        &self,
        mesh: &MeshId,
        key: &PublicKey,
        at: UnixMillis,
    ) -> StoreResult<Vec<Arrival>>;
    /// Removes a session with what it said of itself and what it has read; false if it was not
    /// there.
    async fn session_remove(&self, mesh: &MeshId, key: &PublicKey) -> StoreResult<bool>;
    /// Sessions that ended, and when, by key.
    async fn ended_list(&self, mesh: &MeshId) -> StoreResult<Vec<(PublicKey, UnixMillis)>>;
    /// What an identity of ours says of itself.
    async fn presence_get(
        &self,
        mesh: &MeshId,
        key: &PublicKey,
    ) -> StoreResult<Option<PresenceRow>>;
    /// Keeps what an identity of ours says of itself.
    async fn presence_put(&self, presence: &PresenceRow) -> StoreResult<()>;

    /// Keeps a verified statement, unless one of the same member and group is as new. Says whether
    /// it was kept.
    async fn group_put(&self, group: &GroupRow) -> StoreResult<bool>;
    /// Keeps verified statements as the carrier lists them for a member: newer ones count, and what
    /// it does not list any more is left, as far as it says. Says whether anything changed. Of
    /// groups that were left, the newest [`MAX_LEFT_GROUPS`] are remembered.
    async fn group_sync(
        &self,
        mesh: &MeshId,
        member: &PublicKey,
        listed: &[GroupRow],
    ) -> StoreResult<bool>;
    /// Statements of the members of one mesh, by group and member; those of left groups, too.
    async fn groups(&self, mesh: &MeshId) -> StoreResult<Vec<GroupRow>>;

    /// Deletes what is past its time.
    async fn prune(&self, now: UnixMillis) -> StoreResult<Pruned>;
    /// Closes the store after what runs has ended. Nothing may be called after it.
    async fn close(&self);
}
