//! SQLite: WAL, `synchronous=FULL`, one writing connection, a few reading ones.

mod accept;
mod groups;
mod leases;
mod queue;
mod rows;
mod sweep;
mod tx;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::{EnvelopeId, Hash, InstanceId, MeshId, PublicKey, UnixMillis};
use sqlx::Row as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::{
    DelegateRow, InviteRow, LeaseRow, MemberRow, ReceiptPlace, ReceiptRow, Result, Store, Tx,
    Waiting,
};
use crate::core::presence::ConnId;
use rows::{
    SELECT_ACCEPTED, SELECT_INVITE, SELECT_MEMBER, accepted_row, id, int, invite_row, key,
    lease_row, maybe_time, member_row, uint,
};
use tx::SqliteTx;

/// What brings a database up to date.
pub(crate) static MIGRATIONS: sqlx::migrate::Migrator =
    sqlx::migrate!("../migrations/coord/sqlite");

/// Readers beside the writer: enough for two cores.
const READERS: u32 = 4;

/// See the module's documentation.
#[derive(Debug)]
pub struct SqliteStore {
    write: SqlitePool,
    read: SqlitePool,
}

impl SqliteStore {
    /// Opens or creates the database and applies the migrations.
    ///
    /// # Errors
    /// The file's or the migrations'.
    pub async fn open(path: &Path, durable: bool) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // FULL: a commit returns after the WAL is on disk. The other setting exists for the
            // check that proves it.
            .synchronous(if durable { SqliteSynchronous::Full } else { SqliteSynchronous::Off })
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let write =
            SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        MIGRATIONS.run(&write).await?;
        let read = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await?;
        Ok(Self { write, read })
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn begin(&self) -> Result<Box<dyn Tx>> {
        Ok(Box::new(SqliteTx(self.write.begin_with("BEGIN IMMEDIATE").await?)))
    }

    async fn has_mesh(&self, mesh: &MeshId) -> Result<bool> {
        let row = sqlx::query("SELECT 1 FROM meshes WHERE mesh = ?").bind(&mesh.0[..]);
        Ok(row.fetch_optional(&self.read).await?.is_some())
    }

    async fn member(&self, mesh: &MeshId, key: &PublicKey) -> Result<Option<MemberRow>> {
        let row = sqlx::query(SELECT_MEMBER).bind(&mesh.0[..]).bind(&key.0[..]);
        row.fetch_optional(&self.read).await?.as_ref().map(member_row).transpose()
    }

    async fn members(
        &self,
        mesh: &MeshId,
        after: Option<&PublicKey>,
        limit: usize,
    ) -> Result<Vec<MemberRow>> {
        // The empty blob sorts before every key.
        let after: &[u8] = after.map_or(&[], |k| &k.0);
        let rows =
            sqlx::query("SELECT * FROM members WHERE mesh = ? AND key > ? ORDER BY key LIMIT ?")
                .bind(&mesh.0[..])
                .bind(after)
                .bind(int(limit as u64))
                .fetch_all(&self.read)
                .await?;
        rows.iter().map(member_row).collect()
    }

    async fn counter(
        &self,
        mesh: &MeshId,
        key: &PublicKey,
        instance: &InstanceId,
    ) -> Result<Option<u64>> {
        let row = sqlx::query(
            "SELECT counter FROM instances WHERE mesh = ? AND key = ? AND instance = ?",
        )
        .bind(&mesh.0[..])
        .bind(&key.0[..])
        .bind(&instance.0[..])
        .fetch_optional(&self.read)
        .await?;
        row.map(|r| Ok(uint(r.try_get("counter")?))).transpose()
    }

    async fn invite(&self, invite: &PublicKey) -> Result<Option<InviteRow>> {
        let row = sqlx::query(SELECT_INVITE).bind(&invite.0[..]);
        row.fetch_optional(&self.read).await?.as_ref().map(invite_row).transpose()
    }

    async fn invites(&self, mesh: &MeshId, limit: usize) -> Result<Vec<InviteRow>> {
        let rows =
            sqlx::query("SELECT * FROM invites WHERE mesh = ? ORDER BY created_at DESC LIMIT ?")
                .bind(&mesh.0[..])
                .bind(int(limit as u64))
                .fetch_all(&self.read)
                .await?;
        rows.iter().map(invite_row).collect()
    }

    async fn joined(&self, invite: &PublicKey, limit: usize) -> Result<Vec<MemberRow>> {
        let rows = sqlx::query("SELECT * FROM members WHERE invite = ? ORDER BY joined_at LIMIT ?")
            .bind(&invite.0[..])
            .bind(int(limit as u64))
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(member_row).collect()
    }

    async fn receipts(
        &self,
        mesh: &MeshId,
        author: &PublicKey,
        after: Option<ReceiptPlace>,
        limit: usize,
    ) -> Result<Vec<ReceiptRow>> {
        // Numbers start at 1.
        let (seq, recipient) = after.unwrap_or((0, PublicKey([0; 32])));
        let rows = sqlx::query(
            "SELECT a.id AS id, d.seq AS seq, d.recipient AS recipient, d.receipt AS receipt
             FROM deliveries d JOIN accepted a USING (seq)
             WHERE d.mesh = ? AND d.author = ? AND d.receipt IS NOT NULL AND d.confirmed = 0
               AND (d.seq, d.recipient) > (?, ?)
             ORDER BY d.seq, d.recipient LIMIT ?",
        )
        .bind(&mesh.0[..])
        .bind(&author.0[..])
        .bind(int(seq))
        .bind(&recipient.0[..])
        .bind(int(limit as u64))
        .fetch_all(&self.read)
        .await?;
        rows.iter()
            .map(|r| {
                let place = (uint(r.try_get("seq")?), key(r, "recipient")?);
                Ok(ReceiptRow { place, id: id(r)?, receipt: r.try_get("receipt")? })
            })
            .collect()
    }

    async fn setting(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let row = sqlx::query("SELECT value FROM settings WHERE name = ?").bind(name);
        Ok(row.fetch_optional(&self.read).await?.map(|r| r.try_get("value")).transpose()?)
    }

    async fn waiting(
        &self,
        mesh: &MeshId,
        recipient: &PublicKey,
        conn: ConnId,
        urgent_only: bool,
        now: UnixMillis,
    ) -> Result<Waiting> {
        let row = sqlx::query(
            "SELECT MIN(claim_until) AS next,
                    MAX(claim IS NOT NULL AND claim <> ?1 AND claim_until > ?4) AS elsewhere
             FROM deliveries
             WHERE mesh = ?2 AND recipient = ?3 AND state = 0 AND expires_at > ?4
               AND priority <= ?5",
        )
        .bind(int(conn))
        .bind(&mesh.0[..])
        .bind(&recipient.0[..])
        .bind(int(now))
        .bind(queue::lowest(urgent_only))
        .fetch_one(&self.read)
        .await?;
        let elsewhere: Option<i64> = row.try_get("elsewhere")?;
        Ok(Waiting { next: maybe_time(&row, "next")?, elsewhere: elsewhere == Some(1) })
    }

    async fn accepted(
        &self,
        mesh: &MeshId,
        author: &PublicKey,
        id: &EnvelopeId,
    ) -> Result<Option<(Hash, MessageState)>> {
        let row = sqlx::query(SELECT_ACCEPTED)
            .bind(&mesh.0[..])
            .bind(&author.0[..])
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(accepted_row).transpose()
    }

    async fn delegate(&self, mesh: &MeshId, key: &PublicKey) -> Result<Option<DelegateRow>> {
        leases::find(&self.read, mesh, key).await
    }

    async fn ended_with_mail(
        &self,
        mesh: &MeshId,
        member: &PublicKey,
        now: UnixMillis,
    ) -> Result<Vec<PublicKey>> {
        leases::ended_with_mail(&self.read, mesh, member, now).await
    }

    async fn leases(&self) -> Result<Vec<LeaseRow>> {
        let rows = sqlx::query("SELECT * FROM leases ORDER BY mesh, key");
        rows.fetch_all(&self.read).await?.iter().map(lease_row).collect()
    }

    async fn groups_of(
        &self,
        mesh: &MeshId,
        members: &[PublicKey],
    ) -> Result<Vec<(PublicKey, Vec<u8>)>> {
        groups::of(&self.read, mesh, members).await
    }

    async fn queue_depth(&self) -> Result<u64> {
        let row = sqlx::query("SELECT COUNT(*) AS n FROM deliveries WHERE state = 0");
        Ok(uint(row.fetch_one(&self.read).await?.try_get("n")?))
    }

    async fn ready(&self) -> Result<()> {
        // The runner's own table, with this binary's own list (inventory appendix 7, defect 18).
        let rows = sqlx::query("SELECT version, checksum FROM _sqlx_migrations WHERE success")
            .fetch_all(&self.read)
            .await?;
        for m in MIGRATIONS.iter() {
            let applied = rows.iter().any(|r| {
                r.try_get::<i64, _>("version").is_ok_and(|v| v == m.version)
                    && r.try_get::<&[u8], _>("checksum").is_ok_and(|c| c == &*m.checksum)
            });
            if !applied {
                return Err(sqlx::migrate::MigrateError::VersionNotPresent(m.version).into());
            }
        }
        Ok(())
    }
}
