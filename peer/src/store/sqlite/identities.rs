//! The SQL of sessions, presence and groups.

use meshwire_signaling::codec::to_msgpack;
use meshwire_signaling::{MeshId, PublicKey, UnixMillis};
use sqlx::{SqliteConnection, query};

use super::super::rows::{GroupRow, PresenceRow, SessionRow};
use super::super::{MAX_LEFT_GROUPS, StoreResult};
use super::convert::{group_row, id, int, presence_row, session_row, uint, word};
use super::{SqliteStore, for_mesh, inbox};
use crate::core::gate::Arrival;

pub(super) async fn session_insert(store: &SqliteStore, session: &SessionRow) -> StoreResult<()> {
    let mut tx = store.begin().await?;
    query(
        "INSERT INTO session (mesh, key, name, capabilities, pid, process_start, token_hash,
                              started_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (mesh, key) DO UPDATE SET name = excluded.name,
             capabilities = excluded.capabilities, pid = excluded.pid,
             process_start = excluded.process_start, token_hash = excluded.token_hash,
             started_at = excluded.started_at",
    )
    .bind(&session.mesh.0[..])
    .bind(&session.key.0[..])
    .bind(&session.name)
    .bind(to_msgpack(&session.capabilities))
    .bind(i64::from(session.pid))
    .bind(int(session.process_start))
    .bind(&session.token_hash.0[..])
    .bind(int(session.started_at))
    .execute(&mut *tx)
    .await
    .map_err(for_mesh(&session.mesh))?;
    store.writer.keep(tx).await
}

pub(super) async fn session_list(
    store: &SqliteStore,
    mesh: Option<&MeshId>,
) -> StoreResult<Vec<SessionRow>> {
    let rows =
        query("SELECT * FROM session WHERE ?1 IS NULL OR mesh = ?1 ORDER BY started_at, key")
            .bind(mesh.map(|m| &m.0[..]))
            .fetch_all(&store.readers)
            .await?;
    rows.iter().map(session_row).collect()
}

pub(super) async fn session_end(
    store: &SqliteStore,
    mesh: &MeshId,
    key: &PublicKey,
    at: UnixMillis,
) -> StoreResult<Vec<Arrival>> {
    let mut tx = store.begin().await?;
    let before = query("SELECT 1 FROM session_ended WHERE mesh = ? AND key = ?")
        .bind(&mesh.0[..])
        .bind(&key.0[..])
        .fetch_optional(&mut *tx)
        .await?;
    query(
        "INSERT INTO session_ended (mesh, key, at) VALUES (?, ?, ?)
         ON CONFLICT (mesh, key) DO UPDATE SET at = excluded.at",
    )
    .bind(&mesh.0[..])
    .bind(&key.0[..])
    .bind(int(at))
    .execute(&mut *tx)
    .await
    .map_err(for_mesh(mesh))?;
    let handed = match before {
        None => inbox::hand_on(&mut tx, mesh, key).await?,
        // What it has read is forgotten.
        Some(_) => Vec::new(),
    };
    forget(&mut tx, mesh, key).await?;
    store.writer.keep(tx).await?;
    Ok(handed)
}

pub(super) async fn session_remove(
    store: &SqliteStore,
    mesh: &MeshId,
    key: &PublicKey,
) -> StoreResult<bool> {
    let mut tx = store.begin().await?;
    forget(&mut tx, mesh, key).await?;
    let done = query("DELETE FROM session WHERE mesh = ? AND key = ?")
        .bind(&mesh.0[..])
        .bind(&key.0[..])
        .execute(&mut *tx)
        .await?;
    store.writer.keep(tx).await?;
    Ok(done.rows_affected() > 0)
}

/// Forgets what a session said of itself and what it has read.
async fn forget(tx: &mut SqliteConnection, mesh: &MeshId, key: &PublicKey) -> StoreResult<()> {
    query("DELETE FROM presence WHERE mesh = ? AND key = ?")
        .bind(&mesh.0[..])
        .bind(&key.0[..])
        .execute(&mut *tx)
        .await?;
    query("DELETE FROM inbox_seen WHERE viewer = ?").bind(&key.0[..]).execute(&mut *tx).await?;
    Ok(())
}

pub(super) async fn ended_list(
    store: &SqliteStore,
    mesh: &MeshId,
) -> StoreResult<Vec<(PublicKey, UnixMillis)>> {
    let rows = query("SELECT key, at FROM session_ended WHERE mesh = ? ORDER BY key")
        .bind(&mesh.0[..])
        .fetch_all(&store.readers)
        .await?;
    rows.iter().map(|row| Ok((id(row, "key")?, uint(row, "at")?))).collect()
}

pub(super) async fn presence_get(
    store: &SqliteStore,
    mesh: &MeshId,
    key: &PublicKey,
) -> StoreResult<Option<PresenceRow>> {
    let row = query("SELECT * FROM presence WHERE mesh = ? AND key = ?")
        .bind(&mesh.0[..])
        .bind(&key.0[..])
        .fetch_optional(&store.readers)
        .await?;
    row.as_ref().map(presence_row).transpose()
}

pub(super) async fn presence_put(store: &SqliteStore, presence: &PresenceRow) -> StoreResult<()> {
    let mut tx = store.begin().await?;
    query(
        "INSERT INTO presence (mesh, key, status, status_until, summary, profile, visible)
         VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET status = excluded.status, status_until = excluded.status_until,
             summary = excluded.summary, profile = excluded.profile, visible = excluded.visible",
    )
    .bind(&presence.mesh.0[..])
    .bind(&presence.key.0[..])
    .bind(word(&presence.status))
    .bind(presence.status_until.map(int))
    .bind(&presence.summary)
    .bind(presence.profile.as_ref().map(to_msgpack))
    .bind(presence.visible)
    .execute(&mut *tx)
    .await
    .map_err(for_mesh(&presence.mesh))?;
    store.writer.keep(tx).await
}

pub(super) async fn group_put(store: &SqliteStore, group: &GroupRow) -> StoreResult<bool> {
    let mut tx = store.begin().await?;
    let newer = put(&mut tx, group, false).await?;
    store.writer.keep(tx).await?;
    Ok(newer)
}

/// Keeps a statement that is newer than the one we have; with `listed` also the very one that we
/// have, which may have been taken for left.
async fn put(tx: &mut SqliteConnection, group: &GroupRow, listed: bool) -> StoreResult<bool> {
    let done = query(
        "INSERT INTO group_member (mesh, member, name, role, joined, at, statement)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT DO UPDATE SET role = excluded.role, joined = excluded.joined,
             at = excluded.at, statement = excluded.statement
         WHERE at < excluded.at OR (?8 AND at = excluded.at AND joined <> excluded.joined)",
    )
    .bind(&group.mesh.0[..])
    .bind(&group.member.0[..])
    .bind(&group.name)
    .bind(&group.role)
    .bind(group.joined)
    .bind(int(group.at))
    .bind(to_msgpack(&group.statement))
    .bind(listed)
    .execute(tx)
    .await
    .map_err(for_mesh(&group.mesh))?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn group_sync(
    store: &SqliteStore,
    mesh: &MeshId,
    member: &PublicKey,
    listed: &[GroupRow],
) -> StoreResult<bool> {
    let mut tx = store.begin().await?;
    let mut changed = false;
    for group in listed {
        changed |= put(&mut tx, group, true).await?;
    }
    let names: Vec<&str> = listed.iter().map(|g| g.name.as_str()).collect();
    let left = query(
        "UPDATE group_member SET joined = 0 WHERE mesh = ? AND member = ? AND joined = 1
           AND name NOT IN (SELECT value FROM json_each(?))",
    )
    .bind(&mesh.0[..])
    .bind(&member.0[..])
    .bind(serde_json::json!(names).to_string())
    .execute(&mut *tx)
    .await?;
    changed |= left.rows_affected() > 0;
    query(
        "DELETE FROM group_member WHERE mesh = ?1 AND member = ?2 AND joined = 0 AND name NOT IN (
             SELECT name FROM group_member WHERE mesh = ?1 AND member = ?2 AND joined = 0
             ORDER BY at DESC, name DESC LIMIT ?3)",
    )
    .bind(&mesh.0[..])
    .bind(&member.0[..])
    .bind(i64::try_from(MAX_LEFT_GROUPS).unwrap_or(i64::MAX))
    .execute(&mut *tx)
    .await?;
    store.writer.keep(tx).await?;
    Ok(changed)
}

pub(super) async fn groups(store: &SqliteStore, mesh: &MeshId) -> StoreResult<Vec<GroupRow>> {
    let rows = query("SELECT * FROM group_member WHERE mesh = ? ORDER BY name, member")
        .bind(&mesh.0[..])
        .fetch_all(&store.readers)
        .await?;
    rows.iter().map(group_row).collect()
}
