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
mod group;
mod memory;
mod rows;
mod sqlite;
mod state;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::limits::MAX_TTL;
use meshwire_signaling::receipt::Verdict;
use meshwire_signaling::{EnvelopeId, Hash, InstanceId, MeshId, PublicKey, UnixMillis};

pub use memory::MemoryStore;
pub use rows::{
    Accepted, Claim, Claimed, DelegateRow, DeliveryRef, InviteRow, LeaseRow, MemberRow,
    ReceiptPlace, ReceiptRow, SetGroup, Swept, Vouched, Waiting,
};
pub(crate) use sqlite::MIGRATIONS;
pub use sqlite::SqliteStore;

use crate::core::accept::Plan;
use crate::core::presence::ConnId;

/// Most deliveries that may wait for one recipient; one more is refused with `queue_full`.
pub const MAX_QUEUE: usize = 10_000;
/// Most of them by one member with all its sessions and services: nobody can close another's
/// mailbox alone.
pub const MAX_QUEUE_PER_AUTHOR: usize = 2_000;
/// How long an ended session or service is remembered, so that mail to it names its member: as
/// long as an envelope to it can live.
pub const DELEGATE_MEMORY: Duration = MAX_TTL;
/// How long a silent outbox instance is remembered.
pub const INSTANCE_MEMORY: Duration = Duration::from_secs(90 * 86_400);
/// Sessions and services remembered per member, ended ones included.
pub const MAX_DELEGATES: u32 = 1_000;
/// Outbox instances remembered per member; older ones are forgotten first.
pub const MAX_INSTANCES: u32 = 16;
/// Group leaves remembered per member; older ones are forgotten first.
pub const MAX_LEAVES: u32 = 256;
/// Most keys in one answer of [`Store::ended_with_mail`].
pub const MAX_ENDED: usize = 1_000;
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
    /// What waits for a recipient, as seen from a connection; with `urgent_only`, of priority `now`.
    async fn waiting(
        &self,
        mesh: &MeshId,
        recipient: &PublicKey,
        conn: ConnId,
        urgent_only: bool,
        now: UnixMillis,
    ) -> Result<Waiting>;
    /// The hash and state of an envelope that was accepted.
    async fn accepted(
        &self,
        mesh: &MeshId,
        author: &PublicKey,
        id: &EnvelopeId,
    ) -> Result<Option<(Hash, MessageState)>>;
    /// A session or service, ended ones too.
    async fn delegate(&self, mesh: &MeshId, key: &PublicKey) -> Result<Option<DelegateRow>>;
    /// A member's ended sessions and services that mail still waits for, at most [`MAX_ENDED`].
    async fn ended_with_mail(
        &self,
        mesh: &MeshId,
        member: &PublicKey,
        now: UnixMillis,
    ) -> Result<Vec<PublicKey>>;
    /// All leases: read once, at start-up.
    async fn leases(&self) -> Result<Vec<LeaseRow>>;
    /// The statements by which members are in groups, by member and group.
    async fn groups_of(
        &self,
        mesh: &MeshId,
        members: &[PublicKey],
    ) -> Result<Vec<(PublicKey, Vec<u8>)>>;
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
    /// Notes what a member says of itself, and whether it wants to be listed.
    async fn set_about(
        &mut self,
        mesh: &MeshId,
        member: &PublicKey,
        about: &[u8],
        hidden: bool,
    ) -> Result<()>;
    /// Notes a member's word about a group, verified by the caller; of two the later one counts.
    #[allow(clippy::too_many_arguments)] // the parts of one statement
    async fn set_group(
        &mut self,
        mesh: &MeshId,
        member: &PublicKey,
        group: &str,
        role: Option<&str>,
        joined: bool,
        at: UnixMillis,
        statement: &[u8],
    ) -> Result<SetGroup>;
    /// Notes a lease in place of the identity's last one.
    async fn lease_put(&mut self, row: &LeaseRow) -> Result<()>;
    /// Forgets an identity's lease.
    async fn lease_end(&mut self, mesh: &MeshId, key: &PublicKey) -> Result<()>;
    /// Notes a session or service, so that mail to it can be accepted; one that had ended lives
    /// again. False if the key belongs to another member, or ended after its member's word was given.
    /// At most [`MAX_DELEGATES`] of a member are remembered, those that last longest.
    async fn delegate(&mut self, mesh: &MeshId, key: &PublicKey, word: &Vouched) -> Result<bool>;
    /// Ends a member's session or service: mail to it is refused from now on. False if the member
    /// has none of that key.
    async fn end_delegate(
        &mut self,
        mesh: &MeshId,
        key: &PublicKey,
        member: &PublicKey,
        now: UnixMillis,
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
    /// Gives back what a connection has claimed for a recipient for whom it speaks no more.
    async fn release_for(
        &mut self,
        conn: ConnId,
        mesh: &MeshId,
        recipient: &PublicKey,
    ) -> Result<u64>;
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
