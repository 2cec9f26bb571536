//! Meshes, instances and what ages.

use meshwire_signaling::codec::to_msgpack;
use meshwire_signaling::{InstanceId, MeshId, UnixMillis};
use sqlx::query;

use super::super::rows::{MeshRow, Pruned};
use super::super::{CURSOR_RETENTION_MS, RETENTION_MS, StoreError, StoreResult};
use super::SqliteStore;
use super::convert::{id, int, mesh_row, uint, word};

pub(super) async fn insert(
    store: &SqliteStore,
    row: &MeshRow,
    instance: InstanceId,
) -> StoreResult<()> {
    let mut tx = store.begin().await?;
    query(
        "INSERT INTO mesh (mesh, name, broker_url, broker_key, pin, chain, self_key, self_name,
                           role, joined_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&row.mesh.0[..])
    .bind(&row.name)
    .bind(&row.broker_url)
    .bind(&row.broker_key.0[..])
    .bind(row.pin.as_ref().map(|pin| &pin.0[..]))
    .bind(to_msgpack(&row.chain))
    .bind(&row.self_key.0[..])
    .bind(&row.self_name)
    .bind(word(&row.role))
    .bind(int(row.joined_at))
    .execute(&mut *tx)
    .await
    .map_err(|e| match e.as_database_error() {
        Some(d) if d.is_unique_violation() => StoreError::MeshExists(row.mesh),
        _ => e.into(),
    })?;
    query("INSERT INTO instance (mesh, instance) VALUES (?, ?)")
        .bind(&row.mesh.0[..])
        .bind(&instance.0[..])
        .execute(&mut *tx)
        .await?;
    store.writer.keep(tx).await
}

pub(super) async fn list(store: &SqliteStore) -> StoreResult<Vec<MeshRow>> {
    let rows = query("SELECT * FROM mesh ORDER BY joined_at, mesh");
    rows.fetch_all(&store.readers).await?.iter().map(mesh_row).collect()
}

pub(super) async fn get(store: &SqliteStore, mesh: &MeshId) -> StoreResult<Option<MeshRow>> {
    let row = query("SELECT * FROM mesh WHERE mesh = ?").bind(&mesh.0[..]);
    row.fetch_optional(&store.readers).await?.as_ref().map(mesh_row).transpose()
}

pub(super) async fn remove(store: &SqliteStore, mesh: &MeshId) -> StoreResult<bool> {
    let mut tx = store.begin().await?;
    let done = query("DELETE FROM mesh WHERE mesh = ?").bind(&mesh.0[..]).execute(&mut *tx).await?;
    store.writer.keep(tx).await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn instance(store: &SqliteStore, mesh: &MeshId) -> StoreResult<InstanceId> {
    let row = query("SELECT instance FROM instance WHERE mesh = ?")
        .bind(&mesh.0[..])
        .fetch_optional(&store.readers)
        .await?;
    id(&row.ok_or(StoreError::UnknownMesh(*mesh))?, "instance")
}

pub(super) async fn next_hello(
    store: &SqliteStore,
    mesh: &MeshId,
) -> StoreResult<(InstanceId, u64)> {
    let mut tx = store.begin().await?;
    let row = query(
        "UPDATE instance SET hello_counter = hello_counter + 1 WHERE mesh = ?
         RETURNING instance, hello_counter",
    )
    .bind(&mesh.0[..])
    .fetch_optional(&mut *tx)
    .await?;
    store.writer.keep(tx).await?;
    let row = row.ok_or(StoreError::UnknownMesh(*mesh))?;
    Ok((id(&row, "instance")?, uint(&row, "hello_counter")?))
}

pub(super) async fn renew_instance(
    store: &SqliteStore,
    mesh: &MeshId,
    new: InstanceId,
) -> StoreResult<()> {
    let mut tx = store.begin().await?;
    let done = query("UPDATE instance SET instance = ?, hello_counter = 0 WHERE mesh = ?")
        .bind(&new.0[..])
        .bind(&mesh.0[..])
        .execute(&mut *tx)
        .await?;
    if done.rows_affected() == 0 {
        return Err(StoreError::UnknownMesh(*mesh));
    }
    // Nothing will be numbered in the old instances again.
    query("DELETE FROM seq WHERE mesh = ?").bind(&mesh.0[..]).execute(&mut *tx).await?;
    store.writer.keep(tx).await
}

pub(super) async fn prune(store: &SqliteStore, now: UnixMillis) -> StoreResult<Pruned> {
    let old = int(now.saturating_sub(RETENTION_MS));
    let mut tx = store.begin().await?;
    let seen = query("DELETE FROM seen WHERE keep_until < ?")
        .bind(int(now))
        .execute(&mut *tx)
        .await?
        .rows_affected();
    let inbox = query("DELETE FROM inbox WHERE surfaced_at < ?")
        .bind(old)
        .execute(&mut *tx)
        .await?
        .rows_affected();
    let outbox = query(
        "DELETE FROM outbox WHERE expires_at < ?
         AND state IN ('delivered', 'expired', 'failed', 'aborted')",
    )
    .bind(old)
    .execute(&mut *tx)
    .await?
    .rows_affected();
    let cursors = query("DELETE FROM order_cursor WHERE touched_at < ?")
        .bind(int(now.saturating_sub(CURSOR_RETENTION_MS)))
        .execute(&mut *tx)
        .await?
        .rows_affected();
    query(
        "DELETE FROM session_ended WHERE at < ? AND NOT EXISTS (
             SELECT 1 FROM session s WHERE s.mesh = session_ended.mesh AND s.key = session_ended.key)",
    )
    .bind(old)
    .execute(&mut *tx)
    .await?;
    store.writer.keep(tx).await?;
    Ok(Pruned { seen, inbox, outbox, cursors })
}
