//! The outbox's SQL.

use meshwire_signaling::codec::to_msgpack;
use meshwire_signaling::{EnvelopeId, InstanceId, MeshId, PublicKey, UnixMillis};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row as _, Sqlite, SqliteConnection, query};

use super::super::rows::{
    Enqueued, Freeze, NewOutbox, OutboxFilter, OutboxMeta, OutboxRow, Requeue, Slot, Step, StepTo,
    Stepped, id_prefix, target_text,
};
use super::super::{IdempotencyConflict, MAX_CANDIDATES, MAX_OUTBOX_LIST, StoreError, StoreResult};
use super::convert::{get as column, id as id_column, int, outbox_meta, outbox_row, parsed, word};
use super::{SqliteStore, recipients};
use crate::core::group::RecipientState;
use crate::core::outbox::{OutboxState, Repeat, advance};

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
    tx.commit().await?;
    Ok(Enqueued::New(Box::new(row)))
}

/// Numbers, seals and inserts inside the caller's transaction.
async fn insert(
    tx: &mut SqliteConnection,
    new: &NewOutbox,
    freeze: Freeze<'_>,
) -> StoreResult<OutboxRow> {
    let instance = query("SELECT instance FROM instance WHERE mesh = ?")
        .bind(&new.mesh.0[..])
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::UnknownMesh(new.mesh))?;
    let instance = id_column(&instance, "instance")?;
    let slot = number(&mut *tx, new, instance).await?;
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
async fn number(
    tx: &mut SqliteConnection,
    new: &NewOutbox,
    instance: InstanceId,
) -> StoreResult<Slot> {
    let target = to_msgpack(&new.target);
    let seq: i64 = query(
        "INSERT INTO seq (mesh, author, instance, target, priority, last)
         VALUES (?, ?, ?, ?, ?, 1)
         ON CONFLICT DO UPDATE SET last = last + 1 RETURNING last",
    )
    .bind(&new.mesh.0[..])
    .bind(&new.author.0[..])
    .bind(&instance.0[..])
    .bind(&target)
    .bind(word(&new.priority))
    .fetch_one(&mut *tx)
    .await?
    .try_get(0)?;
    let lowest: Option<i64> = query(
        "SELECT MIN(seq) FROM outbox
         WHERE mesh = ? AND author = ? AND instance = ? AND target = ? AND priority = ?
           AND state IN ('pending', 'inflight', 'relayed', 'sent') AND expires_at > ?",
    )
    .bind(&new.mesh.0[..])
    .bind(&new.author.0[..])
    .bind(&instance.0[..])
    .bind(&target)
    .bind(word(&new.priority))
    .bind(int(new.created_at))
    .fetch_one(&mut *tx)
    .await?
    .try_get(0)?;
    let number = |n: i64| {
        let bad = |e| StoreError::BadValue { column: "seq", what: format!("{n}: {e}") };
        u64::try_from(n).map_err(bad)
    };
    let (seq, floor) = (number(seq)?, number(lowest.unwrap_or(seq))?);
    Ok(Slot { instance, seq, floor: floor.min(seq) })
}

pub(super) async fn due(
    store: &SqliteStore,
    mesh: &MeshId,
    now: UnixMillis,
    limit: u32,
    only: Option<&[PublicKey]>,
) -> StoreResult<Vec<OutboxRow>> {
    let mut tx = store.begin().await?;
    let rows = query(
        "UPDATE outbox SET state = 'inflight', attempts = attempts + 1 WHERE row IN (
             SELECT o.row FROM outbox o
             WHERE o.mesh = ?1 AND o.state = 'pending' AND o.next_attempt_at <= ?2
               AND o.expires_at > ?2
               AND (?4 IS NULL OR hex(COALESCE(o.member, o.recipient)) IN
                    (SELECT value FROM json_each(?4)))
               AND NOT EXISTS (
                   SELECT 1 FROM outbox e
                   WHERE e.mesh = o.mesh AND e.author = o.author AND e.instance = o.instance
                     AND e.target = o.target AND e.priority = o.priority
                     AND e.state = 'pending' AND e.row < o.row
                     AND e.next_attempt_at > ?2 AND e.expires_at > ?2)
             ORDER BY o.row LIMIT ?3)
         RETURNING *",
    )
    .bind(&mesh.0[..])
    .bind(int(now))
    .bind(i64::from(limit))
    .bind(only.map(as_json))
    .fetch_all(&mut *tx)
    .await?;
    // A row that cannot be read must not be stuck inflight: decode before the commit.
    let mut rows: Vec<OutboxRow> = rows.iter().map(outbox_row).collect::<StoreResult<_>>()?;
    tx.commit().await?;
    // RETURNING promises no order.
    rows.sort_by_key(|row| row.meta.row);
    Ok(rows)
}

pub(super) async fn next_due(
    store: &SqliteStore,
    mesh: &MeshId,
    now: UnixMillis,
    only: Option<&[PublicKey]>,
) -> StoreResult<Option<UnixMillis>> {
    // The first of each counter decides: the others wait for it.
    let next: Option<i64> = query(
        "SELECT MIN(o.next_attempt_at) FROM outbox o
         WHERE o.mesh = ?1 AND o.state = 'pending' AND o.expires_at > ?2
           AND (?3 IS NULL OR hex(COALESCE(o.member, o.recipient)) IN
                (SELECT value FROM json_each(?3)))
           AND NOT EXISTS (
               SELECT 1 FROM outbox e
               WHERE e.mesh = o.mesh AND e.author = o.author AND e.instance = o.instance
                 AND e.target = o.target AND e.priority = o.priority
                 AND e.state = 'pending' AND e.row < o.row AND e.expires_at > ?2)",
    )
    .bind(&mesh.0[..])
    .bind(int(now))
    .bind(only.map(as_json))
    .fetch_one(&store.readers)
    .await?
    .try_get(0)?;
    Ok(next.and_then(|n| u64::try_from(n).ok()))
}

/// Keys as a JSON list of the words that SQL's `hex` makes of them.
fn as_json(keys: &[PublicKey]) -> String {
    let words: Vec<_> = keys.iter().map(|key| key.to_string().to_uppercase()).collect();
    serde_json::json!(words).to_string()
}

pub(super) async fn unsend(
    store: &SqliteStore,
    mesh: &MeshId,
    peer: Option<&PublicKey>,
) -> StoreResult<u64> {
    let done = query(
        "UPDATE outbox SET state = 'pending'
         WHERE mesh = ?1 AND state = 'sent' AND (?2 IS NULL OR COALESCE(member, recipient) = ?2)",
    )
    .bind(&mesh.0[..])
    .bind(peer.map(|key| &key.0[..]))
    .execute(&store.writer)
    .await?;
    Ok(done.rows_affected())
}

pub(super) async fn hasten(
    store: &SqliteStore,
    mesh: &MeshId,
    peer: &PublicKey,
    now: UnixMillis,
) -> StoreResult<u64> {
    let done = query(
        "UPDATE outbox SET next_attempt_at = ?3
         WHERE mesh = ?1 AND state = 'pending' AND next_attempt_at > ?3
         AND COALESCE(member, recipient) = ?2",
    )
    .bind(&mesh.0[..])
    .bind(&peer.0[..])
    .bind(int(now))
    .execute(&store.writer)
    .await?;
    Ok(done.rows_affected())
}

pub(super) async fn reset_inflight(store: &SqliteStore, mesh: &MeshId) -> StoreResult<u64> {
    let done = query("UPDATE outbox SET state = 'pending' WHERE mesh = ? AND state = 'inflight'")
        .bind(&mesh.0[..])
        .execute(&store.writer)
        .await?;
    Ok(done.rows_affected())
}

pub(super) async fn step(store: &SqliteStore, steps: &[Step]) -> StoreResult<Vec<Stepped>> {
    let mut tx = store.begin().await?;
    let mut out = Vec::with_capacity(steps.len());
    for step in steps {
        out.push(step_one(&mut tx, step).await?);
    }
    tx.commit().await?;
    Ok(out)
}

async fn step_one(tx: &mut SqliteConnection, step: &Step) -> StoreResult<Stepped> {
    let found = query("SELECT row, state FROM outbox WHERE mesh = ? AND id = ?")
        .bind(&step.mesh.0[..])
        .bind(step.id.to_string())
        .fetch_optional(&mut *tx)
        .await?;
    let Some(found) = found else { return Ok(Stepped::Unknown) };
    let from: OutboxState = parsed(&found, "state")?;
    let row: i64 = column(&found, "row")?;
    let Some(to) = step.to.state() else { return recipients::step(tx, row, from, &step.to).await };
    if !advance(from, to) {
        return Ok(Stepped::Kept { state: from });
    }
    let (mut accepted, mut delivered, mut next) = (None, None, None);
    let (mut path, mut reason) = (None, None);
    match &step.to {
        StepTo::Relayed { at, path: p } | StepTo::Sent { at, path: p } => {
            (accepted, path) = (Some(int(*at)), Some(p.as_str()));
        }
        StepTo::Delivered { at, path: p } => {
            delivered = Some(int(*at));
            path = Some(p.as_str());
        }
        StepTo::Retry { next_attempt_at, reason: r } => {
            (next, reason) = (Some(int(*next_attempt_at)), Some(r.as_str()));
        }
        StepTo::Expired { reason: r } => {
            reason = Some(r.as_str());
            recipients::end(tx, row, RecipientState::Expired, r).await?;
        }
        StepTo::Failed { reason: r } => {
            reason = Some(r.as_str());
            recipients::end(tx, row, RecipientState::Failed, r).await?;
        }
        StepTo::Recipient { .. } => {}
    }
    query(
        "UPDATE outbox SET state = ?, reason = ?, path = COALESCE(?, path),
                accepted_at = COALESCE(?, accepted_at), delivered_at = COALESCE(?, delivered_at),
                next_attempt_at = COALESCE(?, next_attempt_at)
         WHERE row = ?",
    )
    .bind(to.as_str())
    .bind(reason)
    .bind(path)
    .bind(accepted)
    .bind(delivered)
    .bind(next)
    .bind(row)
    .execute(&mut *tx)
    .await?;
    Ok(Stepped::Done { from })
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
    for meta in &rows {
        recipients::end(&mut tx, meta.row, RecipientState::Expired, "expired").await?;
    }
    tx.commit().await?;
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
    tx.commit().await?;
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
    rows.iter().map(outbox_meta).collect()
}
