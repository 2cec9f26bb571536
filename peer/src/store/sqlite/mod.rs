//! The store on disk: one SQLite file in WAL mode (<https://sqlite.org/wal.html>).
//!
//! One connection writes, so transactions never wait for each other's locks; a few read beside it.
//! Which commits wait for the disk, and how they share one sync of the log, is [`writer`]'s. The file is
//! readable by its owner alone. Its timers are the pool's; under a paused clock use
//! [`super::MemoryStore`].

mod convert;
mod identities;
mod inbox;
mod inspect;
mod meshes;
mod moves;
mod outbox;
mod recipients;
mod roster;
mod writer;

#[cfg(test)]
mod power_tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use meshwire_signaling::invite::Chain;
use meshwire_signaling::{EnvelopeId, Hash, InstanceId, MeshId, PublicKey, UnixMillis};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Sqlite, Transaction, query_scalar};
use writer::Writer;

use super::rows::{
    Arrived, Enqueued, Freeze, GroupRow, InboxDelete, InboxFilter, InboxRow, MemberRow, MeshRow,
    NewId, NewMember, NewOutbox, OutboxFilter, OutboxMeta, OutboxRow, Pick, PinOutcome,
    PresenceRow, Pruned, RecipientRow, Requeue, Rewrap, SessionRow, Step, Stepped,
};
use super::{PeerStore, StoreError, StoreResult};
use crate::core::gate::Arrival;
use crate::core::inbox::Item;
use crate::core::order::Counter;

/// Connections that read; each is a thread. Lists are rare beside the writer's work.
const READERS: u32 = 2;
/// How long another process (a backup, say) may lock the file before we give up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call may wait for its turn. Transactions take milliseconds.
const TURN_TIMEOUT: Duration = Duration::from_secs(60);

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/peer/sqlite");

/// SQLite's primary result codes for a file that is damaged, or no database
/// (<https://sqlite.org/rescode.html>).
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_NOTADB: u32 = 26;

/// A [`PeerStore`] in one file.
#[derive(Debug)]
pub struct SqliteStore {
    writer: Writer,
    readers: SqlitePool,
}

impl SqliteStore {
    /// Opens the store at `path`, making it if it is not there and bringing its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Open`], [`StoreError::Corrupt`], [`StoreError::Newer`],
    /// [`StoreError::Migrate`]; each names the file.
    pub async fn open(path: &Path) -> StoreResult<Self> {
        let open = |source| StoreError::Open { path: path.to_owned(), source };
        make_private(path).await.map_err(open)?;
        // Of a link SQLite follows, and has the log beside what that leads to.
        let path = &tokio::fs::canonicalize(path).await.map_err(open)?;
        Self::open_with(path, writer::log_of(path)).await
    }

    /// The same, with another way to bring the log to the disk.
    async fn open_with(path: &Path, sync: Arc<writer::Sync>) -> StoreResult<Self> {
        let open = |source| StoreError::Open { path: path.to_owned(), source };
        make_private(path).await.map_err(open)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            // Synced by the writer.
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let writing = pool(1).connect_with(options.clone()).await.map_err(|e| damaged(path, e))?;
        if let Err(e) = prepare(&writing, path).await {
            writing.close().await;
            return Err(e);
        }
        Ok(Self {
            writer: Writer::new(writing, path, sync),
            readers: pool(READERS).connect_lazy_with(options.pragma("query_only", "ON")),
        })
    }

    /// A transaction that holds the write lock from its start: what it reads stays true.
    async fn begin(&self) -> StoreResult<Transaction<'static, Sqlite>> {
        self.writer.begin().await
    }
}

/// Checks the file and brings its schema up to date.
async fn prepare(writing: &SqlitePool, path: &Path) -> StoreResult<()> {
    // quick_check skips the comparison of indexes with tables, which takes time n log n.
    let verdict: String = query_scalar("PRAGMA quick_check(1)")
        .fetch_one(writing)
        .await
        .map_err(|e| damaged(path, e))?;
    if verdict != "ok" {
        return Err(StoreError::Corrupt { path: path.to_owned(), what: verdict });
    }
    let mode: String = query_scalar("PRAGMA journal_mode").fetch_one(writing).await?;
    if mode != "wal" {
        let what = format!("its file system takes no write-ahead log (journal mode {mode})");
        return Err(StoreError::Open {
            path: path.to_owned(),
            source: std::io::Error::other(what),
        });
    }
    let known = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or_default();
    MIGRATIONS.run(writing).await.map_err(|e| match e {
        MigrateError::VersionMissing(found) if found > known => {
            StoreError::Newer { path: path.to_owned(), found, known }
        }
        e => StoreError::Migrate { path: path.to_owned(), source: Box::new(e) },
    })?;
    // Into the database, and to the disk: after a sync that failed, the system may hold for written what
    // is not, and promises would follow a hole in the log.
    let busy: bool = query_scalar("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(writing).await?;
    if busy {
        let what = "another program is reading it all the time";
        return Err(StoreError::Open {
            path: path.to_owned(),
            source: std::io::Error::other(what),
        });
    }
    Ok(())
}

fn pool(size: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(size)
        .acquire_timeout(TURN_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        // A local file does not go away between two calls.
        .test_before_acquire(false)
}

/// Makes the file for its owner alone before SQLite opens it: WAL and shared memory file take its
/// permissions over.
async fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = tokio::fs::OpenOptions::new();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    options.mode(0o600);
    let file = options.open(path).await?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mut permissions = file.metadata().await?.permissions();
        if permissions.mode() & 0o077 != 0 {
            permissions.set_mode(0o600);
            file.set_permissions(permissions).await?;
        }
    }
    drop(file);
    Ok(())
}

/// Says of errors that mean a bad file which file it is.
fn damaged(path: &Path, e: sqlx::Error) -> StoreError {
    let code = e.as_database_error().and_then(|d| d.code()).and_then(|c| c.parse::<u32>().ok());
    let path: PathBuf = path.to_owned();
    match code.map(|c| c & 0xff) {
        Some(SQLITE_CORRUPT | SQLITE_NOTADB) => StoreError::Corrupt { path, what: e.to_string() },
        _ => StoreError::Open { path, source: std::io::Error::other(e) },
    }
}

/// What a failed insert for `mesh` means.
fn for_mesh(mesh: &MeshId) -> impl Fn(sqlx::Error) -> StoreError {
    let mesh = *mesh;
    move |e| match e.as_database_error() {
        Some(d) if d.is_foreign_key_violation() => StoreError::UnknownMesh(mesh),
        _ => e.into(),
    }
}

#[async_trait]
impl PeerStore for SqliteStore {
    async fn mesh_insert(&self, row: &MeshRow, instance: InstanceId) -> StoreResult<()> {
        meshes::insert(self, row, instance).await
    }
    async fn mesh_list(&self) -> StoreResult<Vec<MeshRow>> {
        meshes::list(self).await
    }
    async fn mesh_get(&self, mesh: &MeshId) -> StoreResult<Option<MeshRow>> {
        meshes::get(self, mesh).await
    }
    async fn mesh_remove(&self, mesh: &MeshId) -> StoreResult<bool> {
        meshes::remove(self, mesh).await
    }
    async fn instance(&self, mesh: &MeshId) -> StoreResult<InstanceId> {
        meshes::instance(self, mesh).await
    }
    async fn next_hello(&self, mesh: &MeshId) -> StoreResult<(InstanceId, u64)> {
        meshes::next_hello(self, mesh).await
    }
    async fn renew_instance(&self, mesh: &MeshId, new: InstanceId) -> StoreResult<()> {
        meshes::renew_instance(self, mesh, new).await
    }
    async fn enqueue(&self, new: &NewOutbox, freeze: Freeze<'_>) -> StoreResult<Enqueued> {
        outbox::enqueue(self, new, freeze).await
    }
    async fn due(
        &self,
        mesh: &MeshId,
        now: UnixMillis,
        limit: u32,
        pick: Pick<'_>,
    ) -> StoreResult<Vec<OutboxRow>> {
        moves::due(self, mesh, now, limit, pick).await
    }
    async fn next_due(
        &self,
        mesh: &MeshId,
        now: UnixMillis,
        pick: Pick<'_>,
    ) -> StoreResult<Option<UnixMillis>> {
        moves::next_due(self, mesh, now, pick).await
    }
    async fn unsend(&self, mesh: &MeshId, peer: Option<&PublicKey>) -> StoreResult<u64> {
        moves::unsend(self, mesh, peer).await
    }
    async fn hasten(&self, mesh: &MeshId, peer: &PublicKey, now: UnixMillis) -> StoreResult<u64> {
        moves::hasten(self, mesh, peer, now).await
    }
    async fn reset_inflight(&self, mesh: &MeshId) -> StoreResult<u64> {
        moves::reset_inflight(self, mesh).await
    }
    async fn step(&self, steps: &[Step]) -> StoreResult<Vec<Stepped>> {
        moves::step(self, steps).await
    }
    async fn expire(&self, now: UnixMillis, limit: u32) -> StoreResult<Vec<OutboxMeta>> {
        outbox::expire(self, now, limit).await
    }
    async fn requeue(&self, requeue: Requeue, freeze: Freeze<'_>) -> StoreResult<OutboxRow> {
        outbox::requeue(self, requeue, freeze).await
    }
    async fn rewrap(&self, change: &Rewrap) -> StoreResult<bool> {
        recipients::rewrap(self, change).await
    }
    async fn recipients(&self, row: i64) -> StoreResult<Vec<RecipientRow>> {
        recipients::list(self, row).await
    }
    async fn outbox_get(&self, mesh: &MeshId, id: &EnvelopeId) -> StoreResult<Option<OutboxRow>> {
        outbox::get(self, mesh, id).await
    }
    async fn outbox_meta(&self, mesh: &MeshId, id: &EnvelopeId) -> StoreResult<Option<OutboxMeta>> {
        outbox::meta(self, mesh, id).await
    }
    async fn outbox_find(
        &self,
        mesh: Option<&MeshId>,
        author: Option<&PublicKey>,
        prefix: &str,
    ) -> StoreResult<OutboxRow> {
        outbox::find(self, mesh, author, prefix).await
    }
    async fn outbox_list(&self, filter: &OutboxFilter) -> StoreResult<Vec<OutboxMeta>> {
        outbox::list(self, filter).await
    }
    async fn accept_inbound(&self, items: &[(Item, UnixMillis)]) -> StoreResult<Vec<Arrived>> {
        inbox::accept(self, items).await
    }
    async fn remember(&self, ids: &[NewId]) -> StoreResult<Vec<bool>> {
        inbox::remember(self, ids).await
    }
    async fn sync(&self) -> StoreResult<()> {
        self.writer.settle().await
    }
    async fn seen(
        &self,
        mesh: &MeshId,
        author: &PublicKey,
        id: &EnvelopeId,
    ) -> StoreResult<Option<Hash>> {
        inbox::seen(self, mesh, author, id).await
    }
    async fn surface(&self, rows: &[i64], now: UnixMillis) -> StoreResult<Vec<InboxRow>> {
        inbox::surface(self, rows, now).await
    }
    async fn swallow(&self, rows: &[i64], now: UnixMillis) -> StoreResult<()> {
        inbox::swallow(self, rows, now).await
    }
    async fn held(&self) -> StoreResult<Vec<Arrival>> {
        inbox::held(self).await
    }
    async fn cursors(&self) -> StoreResult<Vec<(Counter, u64)>> {
        inbox::cursors(self).await
    }
    async fn inbox_list(
        &self,
        filter: &InboxFilter,
        mark_seen: Option<UnixMillis>,
    ) -> StoreResult<Vec<InboxRow>> {
        inbox::list(self, filter, mark_seen).await
    }
    async fn inbox_find(&self, mesh: Option<&MeshId>, prefix: &str) -> StoreResult<InboxRow> {
        inbox::find(self, mesh, prefix).await
    }
    async fn inbox_delete(&self, what: &InboxDelete) -> StoreResult<u64> {
        inbox::delete(self, what).await
    }
    async fn upsert_member(&self, member: &NewMember) -> StoreResult<PinOutcome> {
        roster::upsert(self, member).await
    }
    async fn member(&self, mesh: &MeshId, key: &PublicKey) -> StoreResult<Option<MemberRow>> {
        roster::get(self, mesh, key).await
    }
    async fn member_chain(&self, mesh: &MeshId, key: &PublicKey) -> StoreResult<Option<Chain>> {
        roster::chain(self, mesh, key).await
    }
    async fn members(&self, mesh: Option<&MeshId>) -> StoreResult<Vec<MemberRow>> {
        roster::list(self, mesh).await
    }
    async fn members_like(&self, mesh: Option<&MeshId>, text: &str) -> StoreResult<Vec<MemberRow>> {
        roster::like(self, mesh, text).await
    }
    async fn session_insert(&self, session: &SessionRow) -> StoreResult<()> {
        identities::session_insert(self, session).await
    }
    async fn session_list(&self, mesh: Option<&MeshId>) -> StoreResult<Vec<SessionRow>> {
        identities::session_list(self, mesh).await
    }
    async fn session_remove(&self, mesh: &MeshId, key: &PublicKey) -> StoreResult<bool> {
        identities::session_remove(self, mesh, key).await
    }
    async fn session_end(
        &self,
        mesh: &MeshId,
        key: &PublicKey,
        at: UnixMillis,
    ) -> StoreResult<Vec<Arrival>> {
        identities::session_end(self, mesh, key, at).await
    }
    async fn ended_list(&self, mesh: &MeshId) -> StoreResult<Vec<(PublicKey, UnixMillis)>> {
        identities::ended_list(self, mesh).await
    }
    async fn presence_get(
        &self,
        mesh: &MeshId,
        key: &PublicKey,
    ) -> StoreResult<Option<PresenceRow>> {
        identities::presence_get(self, mesh, key).await
    }
    async fn presence_put(&self, presence: &PresenceRow) -> StoreResult<()> {
        identities::presence_put(self, presence).await
    }
    async fn group_put(&self, group: &GroupRow) -> StoreResult<bool> {
        identities::group_put(self, group).await
    }
    async fn group_sync(
        &self,
        mesh: &MeshId,
        member: &PublicKey,
        listed: &[GroupRow],
    ) -> StoreResult<bool> {
        identities::group_sync(self, mesh, member, listed).await
    }
    async fn groups(&self, mesh: &MeshId) -> StoreResult<Vec<GroupRow>> {
        identities::groups(self, mesh).await
    }
    async fn prune(&self, now: UnixMillis) -> StoreResult<Pruned> {
        meshes::prune(self, now).await
    }
    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
