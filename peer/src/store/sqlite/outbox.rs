//! The outbox's SQL.

use meshwire_signaling::codec::to_msgpack;
use meshwire_signaling::{EnvelopeId, MeshId, PublicKey, UnixMillis};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Sqlite, SqliteConnection, query};

use super::super::rows::{
    Enqueued, Freeze, NewOutbox, OutboxFilter, OutboxMeta, OutboxRow, Requeue, Slot, id_prefix,
    target_text,
};
use super::super::{IdempotencyConflict, MAX_CANDIDATES, MAX_OUTBOX_LIST, StoreError, StoreResult};
use super::convert::{
    get as column, id as id_column, int, opt_uint, outbox_meta, outbox_row, parsed, uint, word,
};
use super::{SqliteStore, recipients};
use crate::core::group::RecipientState;
use crate::core::outbox::Repeat;

pub(super) async fn enqueue(
    store: &SqliteStore,
    new: &NewOutbox,
    freeze: Freeze<'_>,
) -> StoreResult<Enqueued> {
    let mut tx = store.begin().await?;
    if let Some(idempotency) = &new.idempotency {
        let found = query("SELECT * FROM outbox WHERE mesh = ? AND idempotency_key = ?")
            .bind(&new.mesh.0[..])
            .bind(&idempotency.key)
            .fetch_optional(&mut *tx)
            .await?;
        if let Some(found) = found {
            drop(tx);
            store.writer.settle().await?;
            let row = outbox_row(&found)?;
            let same = row.meta.idempotency.as_ref() == Some(idempotency);
            return match Repeat::of(row.meta.state, same) {
                Repeat::Duplicate => Ok(Enqueued::Duplicate(Box::new(row))),
                repeat => Err(StoreError::Idempotency(Box::new(IdempotencyConflict {
                    repeat,
                    existing: row.meta,
                }))),
            };
        }
    }
    let row = insert(&mut tx, new, freeze).await?;
    store.writer.keep(tx).await?;
    Ok(Enqueued::New(Box::new(row)))
}

/// Numbers, seals and inserts inside the caller's transaction.
async fn insert(
    tx: &mut SqliteConnection,
    new: &NewOutbox,
    freeze: Freeze<'_>,
) -> StoreResult<OutboxRow> {
    let slot = number(&mut *tx, new).await?;
    let envelope = freeze(slot).map_err(StoreError::Freeze)?;
    let meta = OutboxMeta::fresh(new, slot, envelope.hash(&new.mesh));
    let inserted = query(
        "INSERT INTO outbox (mesh, id, author, instance, target, target_text, recipient, member,
                             peer_name, priority, seq, hash, envelope, state, next_attempt_at,
                             created_at, expires_at, idempotency_key, fingerprint, ping)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING row",
    )
    .bind(&meta.mesh.0[..])
    .bind(meta.id.to_string())
    .bind(&meta.author.0[..])
    .bind(&meta.instance.0[..])
    .bind(to_msgpack(&meta.target))
    .bind(target_text(&meta.target))
    .bind(&meta.recipient.0[..])
    .bind(meta.member.as_ref().map(|m| &m.0[..]))
    .bind(&meta.peer_name)
    .bind(word(&meta.priority))
    .bind(int(meta.seq))
    .bind(&meta.hash.0[..])
    .bind(to_msgpack(&envelope))
    .bind(meta.state.as_str())
    .bind(int(meta.next_attempt_at))
    .bind(int(meta.created_at))
    .bind(int(meta.expires_at))
    .bind(meta.idempotency.as_ref().map(|i| i.key.as_str()))
    .bind(meta.idempotency.as_ref().map(|i| &i.fingerprint.0[..]))
    .bind(meta.ping)
    .fetch_one(&mut *tx)
    .await
    // The idempotency key was looked up in this transaction: only the id can be taken.
    .map_err(|e| match e.as_database_error() {
        Some(d) if d.is_unique_violation() => StoreError::IdTaken(new.id),
        _ => e.into(),
    })?;
    let row = column(&inserted, "row")?;
    recipients::add(tx, row, &new.recipients).await?;
    Ok(OutboxRow { meta: OutboxMeta { row, ..meta }, envelope })
}

/// The next number of the message's counter, and the counter's floor.
async fn number(tx: &mut SqliteConnection, new: &NewOutbox) -> StoreResult<Slot> {
    let numbered = query(
        "INSERT INTO seq (mesh, author, instance, target, priority, last)
         SELECT mesh, ?2, instance, ?3, ?4, 1 FROM instance WHERE mesh = ?1
         ON CONFLICT DO UPDATE SET last = last + 1
         RETURNING instance, last,
             (SELECT MIN(o.seq) FROM outbox o
              WHERE o.mesh = ?1 AND o.author = ?2 AND o.instance = seq.instance AND o.target = ?3
                AND o.priority = ?4 AND o.state IN ('pending', 'inflight', 'relayed', 'sent')
                AND o.expires_at > ?5) AS lowest",
    )
    .bind(&new.mesh.0[..])
    .bind(&new.author.0[..])
    .bind(to_msgpack(&new.target))
    .bind(word(&new.priority))
    .bind(int(new.created_at))
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(StoreError::UnknownMesh(new.mesh))?;
    let (seq, lowest) = (uint(&numbered, "last")?, opt_uint(&numbered, "lowest")?);
    let floor = lowest.unwrap_or(seq).min(seq);
    Ok(Slot { instance: id_column(&numbered, "instance")?, seq, floor })
}

pub(super) async fn expire(
    store: &SqliteStore,
    now: UnixMillis,
    limit: u32,
) -> StoreResult<Vec<OutboxMeta>> {
    let mut tx = store.begin().await?;
    let rows = query(
        "UPDATE outbox SET state = 'expired', reason = 'expired' WHERE row IN (
             SELECT row FROM outbox
             WHERE state IN ('pending', 'inflight', 'relayed', 'sent') AND expires_at <= ?
             ORDER BY expires_at, row LIMIT ?)
         RETURNING row, mesh, id, author, instance, target, recipient, member, peer_name, priority,
             seq, hash, state, reason, path, attempts, next_attempt_at, created_at, expires_at,
             accepted_at, delivered_at, idempotency_key, fingerprint, superseded_by, ping",
    )
    .bind(int(now))
    .bind(i64::from(limit))
    .fetch_all(&mut *tx)
    .await?;
    let mut rows: Vec<OutboxMeta> = rows.iter().map(outbox_meta).collect::<StoreResult<_>>()?;
    if rows.is_empty() {
        return Ok(rows);
    }
    for meta in &rows {
        recipients::end(&mut tx, meta.row, RecipientState::Expired, "expired").await?;
    }
    store.writer.keep(tx).await?;
    rows.sort_by_key(|meta| (meta.expires_at, meta.row));
    Ok(rows)
}

pub(super) async fn requeue(
    store: &SqliteStore,
    requeue: Requeue,
    freeze: Freeze<'_>,
) -> StoreResult<OutboxRow> {
    let mut tx = store.begin().await?;
    let found = select(&requeue.mesh, &requeue.old).fetch_optional(&mut *tx).await?;
    let old = found.ok_or_else(|| StoreError::NotFound(requeue.old.to_string()))?;
    let old = outbox_meta(&old)?;
    let redirected = requeue.redirect.is_some() && old.state.may_redirect();
    if !redirected && !old.state.may_requeue() {
        return Err(StoreError::NotRequeueable { id: old.id, state: old.state });
    }
    // Aborted first: the new row's floor must not wait for the old row's number.
    query("UPDATE outbox SET state = 'aborted', superseded_by = ? WHERE row = ?")
        .bind(requeue.new.to_string())
        .bind(old.row)
        .execute(&mut *tx)
        .await?;
    let row = insert(&mut tx, &NewOutbox::in_place_of(&old, &requeue), freeze).await?;
    store.writer.keep(tx).await?;
    Ok(row)
}

pub(super) fn select(
    mesh: &MeshId,
    id: &EnvelopeId,
) -> query::Query<'static, Sqlite, SqliteArguments> {
    query("SELECT * FROM outbox WHERE mesh = ? AND id = ?")
        .bind(mesh.0.to_vec())
        .bind(id.to_string())
}

pub(super) async fn get(
    store: &SqliteStore,
    mesh: &MeshId,
    id: &EnvelopeId,
) -> StoreResult<Option<OutboxRow>> {
    let found = select(mesh, id).fetch_optional(&store.readers).await?;
    store.writer.settle().await?;
    found.as_ref().map(outbox_row).transpose()
}

pub(super) async fn meta(
    store: &SqliteStore,
    mesh: &MeshId,
    id: &EnvelopeId,
) -> StoreResult<Option<OutboxMeta>> {
    let found = query(
        "SELECT row, mesh, id, author, instance, target, recipient, member, peer_name, priority,
             seq, hash, state, reason, path, attempts, next_attempt_at, created_at, expires_at,
             accepted_at, delivered_at, idempotency_key, fingerprint, superseded_by, ping
         FROM outbox WHERE mesh = ? AND id = ?",
    )
    .bind(&mesh.0[..])
    .bind(id.to_string())
    .fetch_optional(&store.readers)
    .await?;
    found.as_ref().map(outbox_meta).transpose()
}

pub(super) async fn find(
    store: &SqliteStore,
    mesh: Option<&MeshId>,
    author: Option<&PublicKey>,
    prefix: &str,
) -> StoreResult<OutboxRow> {
    let start = id_prefix(prefix)?;
    let rows = query(
        "SELECT * FROM outbox
         WHERE (?1 IS NULL OR mesh = ?1) AND (?2 IS NULL OR author = ?2) AND id >= ?3 AND id < ?4
         ORDER BY id LIMIT ?5",
    )
    .bind(mesh.map(|m| &m.0[..]))
    .bind(author.map(|a| &a.0[..]))
    .bind(&start)
    .bind(format!("{start}~")) // above every letter that an id has
    .bind(i64::try_from(MAX_CANDIDATES).unwrap_or(i64::MAX))
    .fetch_all(&store.readers)
    .await?;
    store.writer.settle().await?;
    outbox_row(only(prefix, &rows)?)
}

/// The only row, or why there is none.
pub(super) fn only<'r>(prefix: &str, rows: &'r [SqliteRow]) -> StoreResult<&'r SqliteRow> {
    match rows {
        [one] => Ok(one),
        [] => Err(StoreError::NotFound(prefix.to_owned())),
        several => Err(StoreError::Ambiguous {
            prefix: prefix.to_owned(),
            candidates: several.iter().map(|r| parsed(r, "id")).collect::<StoreResult<_>>()?,
        }),
    }
}

pub(super) async fn list(
    store: &SqliteStore,
    filter: &OutboxFilter,
) -> StoreResult<Vec<OutboxMeta>> {
    let words: Vec<&str> = filter.states.iter().map(|s| s.as_str()).collect();
    let states = (!words.is_empty()).then(|| serde_json::json!(words).to_string());
    let rows = query(
        "SELECT row, mesh, id, author, instance, target, recipient, member, peer_name, priority,
             seq, hash, state, reason, path, attempts, next_attempt_at, created_at, expires_at,
             accepted_at, delivered_at, idempotency_key, fingerprint, superseded_by, ping
         FROM outbox
         WHERE (?1 IS NULL OR mesh = ?1) AND (?2 IS NULL OR recipient = ?2)
           AND (?3 IS NULL OR state IN (SELECT value FROM json_each(?3)))
           AND (?5 IS NULL OR author = ?5) AND (ping = 0 OR NOT ?6)
         ORDER BY row DESC LIMIT ?4",
    )
    .bind(filter.mesh.as_ref().map(|m| &m.0[..]))
    .bind(filter.recipient.as_ref().map(|r| &r.0[..]))
    .bind(states)
    .bind(i64::from(filter.limit.min(MAX_OUTBOX_LIST)))
    .bind(filter.author.as_ref().map(|a| &a.0[..]))
    .bind(filter.without_pings)
    .fetch_all(&store.readers)
    .await?;
    store.writer.settle().await?;
    rows.iter().map(outbox_meta).collect()
}
