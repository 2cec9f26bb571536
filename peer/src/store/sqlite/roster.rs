//! The roster's SQL.

use meshwire_signaling::codec::to_msgpack;
use meshwire_signaling::invite::Chain;
use meshwire_signaling::{MeshId, PublicKey};
use sqlx::query;

use super::super::StoreResult;
use super::super::rows::{MemberRow, NewMember, PinOutcome, key_range, pin_outcome};
use super::convert::{get as column, id, int, member_row, packed, word};
use super::{SqliteStore, for_mesh};

pub(super) async fn upsert(store: &SqliteStore, member: &NewMember) -> StoreResult<PinOutcome> {
    let mut tx = store.begin().await?;
    let old_name: Option<String> = query("SELECT name FROM roster WHERE mesh = ? AND key = ?")
        .bind(&member.mesh.0[..])
        .bind(&member.key.0[..])
        .fetch_optional(&mut *tx)
        .await?
        .map(|row| column(&row, "name"))
        .transpose()?;
    query(
        "INSERT INTO pin_name (mesh, name, key, pinned_at) VALUES (?, ?, ?, ?)
           ON CONFLICT DO NOTHING",
    )
    .bind(&member.mesh.0[..])
    .bind(&member.name)
    .bind(&member.key.0[..])
    .bind(int(member.now))
    .execute(&mut *tx)
    .await
    .map_err(for_mesh(&member.mesh))?;
    let pinned = query("SELECT key FROM pin_name WHERE mesh = ? AND name = ?")
        .bind(&member.mesh.0[..])
        .bind(&member.name)
        .fetch_one(&mut *tx)
        .await?;
    let pinned: PublicKey = id(&pinned, "key")?;
    query(
        "INSERT INTO roster (mesh, key, name, role, chain, fingerprint, first_seen_at)
         VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET name = excluded.name, role = excluded.role,
             chain = excluded.chain, fingerprint = excluded.fingerprint",
    )
    .bind(&member.mesh.0[..])
    .bind(&member.key.0[..])
    .bind(&member.name)
    .bind(word(&member.role))
    .bind(to_msgpack(&member.chain))
    .bind(&member.chain.fingerprint().0[..])
    .bind(int(member.now))
    .execute(&mut *tx)
    .await?;
    store.writer.keep(tx).await?;
    Ok(pin_outcome(member, old_name, pinned))
}

pub(super) async fn get(
    store: &SqliteStore,
    mesh: &MeshId,
    key: &PublicKey,
) -> StoreResult<Option<MemberRow>> {
    let row = query(
        "SELECT mesh, key, name, role, fingerprint, first_seen_at FROM roster
         WHERE mesh = ? AND key = ?",
    )
    .bind(&mesh.0[..])
    .bind(&key.0[..])
    .fetch_optional(&store.readers)
    .await?;
    row.as_ref().map(member_row).transpose()
}

pub(super) async fn chain(
    store: &SqliteStore,
    mesh: &MeshId,
    key: &PublicKey,
) -> StoreResult<Option<Chain>> {
    let row = query("SELECT chain FROM roster WHERE mesh = ? AND key = ?")
        .bind(&mesh.0[..])
        .bind(&key.0[..])
        .fetch_optional(&store.readers)
        .await?;
    row.as_ref().map(|row| packed(row, "chain")).transpose()
}

pub(super) async fn list(
    store: &SqliteStore,
    mesh: Option<&MeshId>,
) -> StoreResult<Vec<MemberRow>> {
    let rows = query(
        "SELECT mesh, key, name, role, fingerprint, first_seen_at FROM roster
         WHERE ?1 IS NULL OR mesh = ?1 ORDER BY name, key, mesh",
    )
    .bind(mesh.map(|m| &m.0[..]))
    .fetch_all(&store.readers)
    .await?;
    rows.iter().map(member_row).collect()
}

pub(super) async fn like(
    store: &SqliteStore,
    mesh: Option<&MeshId>,
    text: &str,
) -> StoreResult<Vec<MemberRow>> {
    let range = key_range(text);
    let rows = query(
        "SELECT mesh, key, name, role, fingerprint, first_seen_at FROM roster
         WHERE (?1 IS NULL OR mesh = ?1) AND (name = ?2 OR key BETWEEN ?3 AND ?4)
         ORDER BY name, key, mesh",
    )
    .bind(mesh.map(|m| &m.0[..]))
    .bind(text)
    // BETWEEN with NULL is never true.
    .bind(range.as_ref().map(|(low, _)| &low.0[..]))
    .bind(range.as_ref().map(|(_, high)| &high.0[..]))
    .fetch_all(&store.readers)
    .await?;
    rows.iter().map(member_row).collect()
}
