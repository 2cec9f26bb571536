//! What the broker remembers.
//!
//! Reads go to [`Store`]. Writes go through one [`Tx`] at a time, which the writer task opens,
//! fills with as many operations as are waiting, and commits: many answers share one fsync. An
//! operation that is refused (a duplicate, an exhausted invite) has written nothing; an
//! operation that fails with [`StoreError`] fails the whole transaction.
//!
//! Implementations: `sqlite`, `memory`. [`conformance`] holds them to the same behaviour.

#[doc(hidden)]
pub mod conformance;
mod memory;
mod sqlite;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::invite::Role;
use meshwire_signaling::limits::MAX_TTL;
use meshwire_signaling::receipt::Verdict;
use meshwire_signaling::{EnvelopeId, Hash, InstanceId, MeshId, PublicKey, UnixMillis};

pub use memory::MemoryStore;
pub use sqlite::SqliteStore;

use crate::core::accept::Plan;
use crate::core::presence::ConnId;

/// Most deliveries that may wait for one recipient; one more is refused with `queue_full`.
pub const MAX_QUEUE: usize = 10_000;
/// Most of them by one author: nobody can close another's mailbox alone.
pub const MAX_QUEUE_PER_AUTHOR: usize = 2_000;
/// How long an ended session or service is remembered, so that mail to it names its member: as
/// long as an envelope to it can live.
pub const DELEGATE_MEMORY: Duration = MAX_TTL;
/// How long a silent outbox instance is remembered.
pub const INSTANCE_MEMORY: Duration = Duration::from_secs(90 * 86_400);
/// Outbox instances remembered per member; older ones are forgotten first.
pub const MAX_INSTANCES: u32 = 16;
/// Most rows that one sweep handles, so that it never holds the writer for long.
pub const SWEEP_BATCH: u32 = 1_000;

/// The store could not. What was asked may be asked again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database's own error.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The migrations do not fit.
    #[error("migration: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A stored value cannot be what it is.
    #[error("the database holds a broken value in {0}")]
    Corrupt(&'static str),
    /// The broker is shutting down.
    #[error("the broker is shutting down")]
    Closed,
    /// Another operation in the same transaction failed.
    #[error("the transaction failed: {0}")]
    Aborted(String),
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, StoreError>;

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRow {
    /// The mesh.
    pub mesh: MeshId,
    /// Its key.
    pub key: PublicKey,
    /// Its name, unique in the mesh.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// MessagePack of its certificate chain.
    pub chain: Vec<u8>,
    /// The invite it came with.
    pub invite: Option<PublicKey>,
    /// When it was admitted, Unix milliseconds.
    pub joined_at: UnixMillis,
    /// When it last came or went, Unix milliseconds.
    pub seen_at: Option<UnixMillis>,
}

/// An invite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InviteRow {
    /// Its key.
    pub invite: PublicKey,
    /// The mesh.
    pub mesh: MeshId,
    /// Who signed it.
    pub issuer: PublicKey,
    /// MessagePack of the signed capability.
    pub capability: Vec<u8>,
    /// How many it admits.
    pub uses: u32,
    /// How many it has admitted.
    pub used: u32,
    /// When it ends, Unix milliseconds.
    pub expires_at: UnixMillis,
    /// When it was registered, Unix milliseconds.
    pub created_at: UnixMillis,
    /// When it was revoked, Unix milliseconds.
    pub revoked_at: Option<UnixMillis>,
}

/// What became of an accept: phases B0, B2 and B3 (inventory A-106).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Dedupe row, body and delivery row are written.
    New,
    /// The same envelope was there.
    Duplicate(MessageState),
    /// Another envelope with this author and id was there.
    Conflict,
    /// Nobody has that key.
    UnknownTarget,
    /// The session or service has ended; this is its member.
    TargetGone(PublicKey),
    /// Too much waits for the recipient.
    QueueFull,
}

/// A delivery handed to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Who it is for.
    pub recipient: PublicKey,
    /// Who it is from.
    pub author: PublicKey,
    /// Its id.
    pub id: EnvelopeId,
    /// MessagePack of the envelope.
    pub envelope: Vec<u8>,
    /// When it was accepted, Unix milliseconds.
    pub accepted_at: UnixMillis,
    /// 1 for the first time.
    pub attempt: u32,
}

/// Names one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryRef {
    /// The mesh.
    pub mesh: MeshId,
    /// The envelope's author.
    pub author: PublicKey,
    /// The envelope.
    pub id: EnvelopeId,
    /// The recipient.
    pub recipient: PublicKey,
}

/// A receipt that its author has not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptRow {
    /// Its place in the order of [`Store::receipts`].
    pub place: ReceiptPlace,
    /// The envelope.
    pub id: EnvelopeId,
    /// MessagePack of the receipt.
    pub receipt: Vec<u8>,
}

/// Where a receipt stands among its author's: the envelope's number, then the recipient.
pub type ReceiptPlace = (u64, PublicKey);

/// What waits for a recipient and could not be claimed now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// When the next of it can be claimed, Unix milliseconds.
    pub next: Option<UnixMillis>,
    /// Whether another connection has claims on some of it.
    pub elsewhere: bool,
}

/// How a sweep went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Deliveries whose time ran out.
    pub expired: u64,
    /// Envelopes forgotten altogether.
    pub forgotten: u64,
    /// Whether there may be more to do at once.
    pub more: bool,
}

/// Reads, and the way to a transaction.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Opens the one write transaction; waits while another is open.
    async fn begin(&self) -> Result<Box<dyn Tx>>;
    /// Whether the mesh is here.
    async fn has_mesh(&self, mesh: &MeshId) -> Result<bool>;
    /// A member.
    async fn member(&self, mesh: &MeshId, key: &PublicKey) -> Result<Option<MemberRow>>;
    /// Members in key order after `after`.
    async fn members(
        &self,
        mesh: &MeshId,
        after: Option<&PublicKey>,
        limit: usize,
    ) -> Result<Vec<MemberRow>>;
    /// The last hello counter of an instance.
    async fn counter(
        &self,
        mesh: &MeshId,
        key: &PublicKey,
        instance: &InstanceId,
    ) -> Result<Option<u64>>;
    /// An invite.
    async fn invite(&self, invite: &PublicKey) -> Result<Option<InviteRow>>;
    /// A mesh's invites, newest first.
    async fn invites(&self, mesh: &MeshId, limit: usize) -> Result<Vec<InviteRow>>;
    /// Who came with an invite, oldest first.
    async fn joined(&self, invite: &PublicKey, limit: usize) -> Result<Vec<MemberRow>>;
    /// Receipts that wait for an author, in the order of acceptance, those after `after`.
    async fn receipts(
        &self,
        mesh: &MeshId,
        author: &PublicKey,
        after: Option<ReceiptPlace>,
        limit: usize,
    ) -> Result<Vec<ReceiptRow>>;
    /// A broker-wide value.
    async fn setting(&self, name: &str) -> Result<Option<Vec<u8>>>;
    /// What waits for a recipient, as seen from a connection.
    async fn waiting(
        &self,
        mesh: &MeshId,
        recipient: &PublicKey,
        conn: ConnId,
        now: UnixMillis,
    ) -> Result<Waiting>;
    /// The hash and state of an envelope that was accepted.
    async fn accepted(
        &self,
        mesh: &MeshId,
        author: &PublicKey,
        id: &EnvelopeId,
    ) -> Result<Option<(Hash, MessageState)>>;
    /// How many deliveries wait.
    async fn queue_depth(&self) -> Result<u64>;
    /// Whether the database answers and has this version's migrations.
    async fn ready(&self) -> Result<()>;
}

/// One transaction. Dropped without [`Tx::commit`], it has not happened (the memory store, whose
/// operations cannot fail, makes an exception).
#[async_trait]
pub trait Tx: Send {
    /// Adds a mesh with its owner. False if it was there.
    async fn create_mesh(&mut self, name: &str, owner: &MemberRow) -> Result<bool>;
    /// A member, as this transaction sees it.
    async fn member(&mut self, mesh: &MeshId, key: &PublicKey) -> Result<Option<MemberRow>>;
    /// The key that has a name in a mesh.
    async fn name_holder(&mut self, mesh: &MeshId, name: &str) -> Result<Option<PublicKey>>;
    /// Adds a member; key and name are free.
    async fn add_member(&mut self, row: &MemberRow) -> Result<()>;
    /// Notes that a member came or went.
    async fn seen(&mut self, mesh: &MeshId, key: &PublicKey, at: UnixMillis) -> Result<()>;
    /// Notes a hello. False if the counter did not grow.
    async fn hello(
        &mut self,
        mesh: &MeshId,
        key: &PublicKey,
        instance: &InstanceId,
        counter: u64,
        at: UnixMillis,
    ) -> Result<bool>;
    /// Notes a session or service, so that mail to it can be accepted. False if the key belongs
    /// to another member.
    async fn delegate(
        &mut self,
        mesh: &MeshId,
        key: &PublicKey,
        member: &PublicKey,
        kind: IdentityKind,
        expires_at: UnixMillis,
    ) -> Result<bool>;
    /// Registers an invite. False if it was there.
    async fn create_invite(&mut self, row: &InviteRow) -> Result<bool>;
    /// An invite, as this transaction sees it.
    async fn invite(&mut self, invite: &PublicKey) -> Result<Option<InviteRow>>;
    /// Ends an invite. False if the mesh has none of that key.
    async fn revoke_invite(
        &mut self,
        mesh: &MeshId,
        invite: &PublicKey,
        at: UnixMillis,
    ) -> Result<bool>;
    /// Counts one more use.
    async fn use_invite(&mut self, invite: &PublicKey) -> Result<()>;
    /// Queues an envelope.
    async fn accept(&mut self, plan: &Plan, now: UnixMillis) -> Result<Accepted>;
    /// Claims up to `limit` waiting deliveries of a recipient until `until`, most urgent first,
    /// then in the order of their acceptance.
    async fn claim(&mut self, claim: Claim) -> Result<Vec<Claimed>>;
    /// Ends a waiting delivery with a verdict. False if it was not waiting.
    async fn answer(
        &mut self,
        delivery: &DeliveryRef,
        verdict: Verdict,
        receipt: Option<&[u8]>,
    ) -> Result<bool>;
    /// Gives a claimed delivery back, not to be claimed before `until`.
    async fn postpone(&mut self, delivery: &DeliveryRef, until: UnixMillis) -> Result<()>;
    /// Gives back all that a connection has claimed.
    async fn release(&mut self, conn: ConnId) -> Result<u64>;
    /// Gives back all claims: a new run of the broker.
    async fn release_all(&mut self) -> Result<()>;
    /// The author has noted a receipt.
    async fn confirm(&mut self, delivery: &DeliveryRef) -> Result<()>;
    /// Expires deliveries and forgets what can no longer be repeated.
    async fn sweep(&mut self, now: UnixMillis) -> Result<Swept>;
    /// Sets a broker-wide value.
    async fn set(&mut self, name: &str, value: &[u8]) -> Result<()>;
    /// Makes it all durable.
    async fn commit(self: Box<Self>) -> Result<()>;
}

/// What [`Tx::claim`] claims.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The mesh.
    pub mesh: MeshId,
    /// Whose deliveries.
    pub recipient: PublicKey,
    /// For which connection.
    pub conn: ConnId,
    /// Now, Unix milliseconds.
    pub now: UnixMillis,
    /// Until when, Unix milliseconds.
    pub until: UnixMillis,
    /// How many at most.
    pub limit: usize,
}

/// Stored numbers of a delivery's state.
mod state {
    use super::{MessageState, Verdict};

    pub(super) const WAITING: i64 = 0;
    pub(super) const DELIVERED: i64 = 1;
    pub(super) const REFUSED: i64 = 2;
    pub(super) const GONE: i64 = 3;
    pub(super) const EXPIRED: i64 = 4;

    pub(super) fn of(verdict: Verdict) -> i64 {
        match verdict {
            Verdict::Delivered => DELIVERED,
            Verdict::Refused => REFUSED,
            Verdict::Gone => GONE,
        }
    }

    pub(super) fn public(state: i64) -> MessageState {
        match state {
            WAITING => MessageState::Relayed,
            DELIVERED => MessageState::Delivered,
            EXPIRED => MessageState::Expired,
            _ => MessageState::Failed,
        }
    }
}

/// The hash of an envelope, as rows compare it.
fn same(stored: &[u8], hash: &Hash) -> bool {
    stored == hash.0
}
