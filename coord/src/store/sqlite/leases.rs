//! Leases, and the sessions and services that were bound.

use meshwire_signaling::{MeshId, PublicKey, UnixMillis};
use sqlx::{Row as _, Sqlite, SqliteConnection, SqliteExecutor, SqlitePool};

use super::rows::{delegate_row, int, key, kind_word};
use crate::store::{DelegateRow, LeaseRow, MAX_DELEGATES, MAX_ENDED, Result, Vouched};

pub(super) async fn put(db: &mut SqliteConnection, row: &LeaseRow) -> Result<()> {
    sqlx::query(
        "INSERT OR REPLACE INTO leases
         (mesh, key, member, kind, instance, lease, since, about, attestation, features)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&row.mesh.0[..])
    .bind(&row.key.0[..])
    .bind(&row.member.0[..])
    .bind(kind_word(row.kind))
    .bind(&row.instance.0[..])
    .bind(&row.lease.0[..])
    .bind(int(row.since))
    .bind(&row.about)
    .bind(row.attestation.as_deref())
    .bind(&row.features)
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn end(db: &mut SqliteConnection, mesh: &MeshId, key: &PublicKey) -> Result<()> {
    sqlx::query("DELETE FROM leases WHERE mesh = ? AND key = ?")
        .bind(&mesh.0[..])
        .bind(&key.0[..])
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn delegate(
    db: &mut SqliteConnection,
    mesh: &MeshId,
    key: &PublicKey,
    word: &Vouched,
) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO delegates (mesh, key, member, kind, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (mesh, key) DO UPDATE SET kind = ?4, expires_at = ?5
         WHERE member = ?3 AND ended_at < ?6",
    )
    .bind(&mesh.0[..])
    .bind(&key.0[..])
    .bind(&word.member.0[..])
    .bind(kind_word(word.kind))
    .bind(int(word.expires_at))
    .bind(int(word.issued_at))
    .execute(&mut *db)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    // The rest of a member's, counted in the index alone.
    let surplus = sqlx::query(
        "DELETE FROM delegates WHERE mesh = ?1 AND key IN
         (SELECT key FROM delegates WHERE mesh = ?1 AND member = ?2
          ORDER BY expires_at DESC, key = ?3 DESC LIMIT -1 OFFSET ?4) RETURNING key",
    )
    .bind(&mesh.0[..])
    .bind(&word.member.0[..])
    .bind(&key.0[..])
    .bind(i64::from(MAX_DELEGATES))
    .fetch_all(&mut *db)
    .await?;
    for row in surplus {
        sqlx::query("DELETE FROM instances WHERE mesh = ? AND key = ?")
            .bind(&mesh.0[..])
            .bind(row.try_get::<&[u8], _>("key")?)
            .execute(&mut *db)
            .await?;
    }
    Ok(true)
}

pub(super) async fn end_delegate(
    db: &mut SqliteConnection,
    mesh: &MeshId,
    key: &PublicKey,
    member: &PublicKey,
    now: UnixMillis,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE delegates SET expires_at = MIN(expires_at, ?1), ended_at = ?1
         WHERE mesh = ?2 AND key = ?3 AND member = ?4",
    )
    .bind(int(now))
    .bind(&mesh.0[..])
    .bind(&key.0[..])
    .bind(&member.0[..])
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// A delegate, as the transaction or a reader sees it.
pub(super) async fn find(
    db: impl SqliteExecutor<'_>,
    mesh: &MeshId,
    key: &PublicKey,
) -> Result<Option<DelegateRow>> {
    let row = sqlx::query::<Sqlite>(
        "SELECT member, kind, expires_at FROM delegates WHERE mesh = ? AND key = ?",
    )
    .bind(&mesh.0[..])
    .bind(&key.0[..])
    .fetch_optional(db)
    .await?;
    row.as_ref().map(delegate_row).transpose()
}

pub(super) async fn ended_with_mail(
    db: &SqlitePool,
    mesh: &MeshId,
    member: &PublicKey,
    now: UnixMillis,
) -> Result<Vec<PublicKey>> {
    let rows = sqlx::query(
        "SELECT g.key AS key FROM delegates g INDEXED BY delegates_of_member
         WHERE g.mesh = ?1 AND g.member = ?2 AND g.expires_at <= ?3 AND EXISTS
           (SELECT 1 FROM deliveries d WHERE d.mesh = ?1 AND d.recipient = g.key AND d.state = 0
              AND d.expires_at > ?3)
         ORDER BY g.key LIMIT ?4",
    )
    .bind(&mesh.0[..])
    .bind(&member.0[..])
    .bind(int(now))
    .bind(int(MAX_ENDED as u64))
    .fetch_all(db)
    .await?;
    rows.iter().map(|r| key(r, "key")).collect()
}
