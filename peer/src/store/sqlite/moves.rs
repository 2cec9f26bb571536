//! The SQL of rows on their way: which are due, and what becomes of them.

use meshwire_signaling::{MeshId, PublicKey, UnixMillis};
use sqlx::{Row as _, SqliteConnection, SqliteExecutor, query};

use super::super::StoreResult;
use super::super::rows::{OutboxRow, Pick, Step, StepTo, Stepped};
use super::convert::{get as column, int, outbox_row, parsed};
use super::{SqliteStore, recipients};
use crate::core::group::RecipientState;
use crate::core::outbox::{LATE, OutboxState, advance};

pub(super) async fn due(
    store: &SqliteStore,
    mesh: &MeshId,
    now: UnixMillis,
    limit: u32,
    pick: Pick<'_>,
) -> StoreResult<Vec<OutboxRow>> {
    let rows = query(
        "UPDATE outbox SET state = 'inflight', attempts = attempts + 1 WHERE row IN (
             SELECT o.row FROM outbox o
             WHERE o.mesh = ?1 AND o.state = 'pending' AND o.next_attempt_at <= ?2
               AND o.expires_at > ?2
               AND (?4 IS NULL OR hex(COALESCE(o.member, o.recipient)) IN
                    (SELECT value FROM json_each(?4)))
               AND (?5 IS NULL OR o.reason = ?6 OR hex(COALESCE(o.member, o.recipient)) NOT IN
                    (SELECT value FROM json_each(?5)))
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
    .bind(pick.only.map(as_json))
    .bind((!pick.busy.is_empty()).then(|| as_json(pick.busy)))
    .bind(LATE)
    .fetch_all(store.writer.notes())
    .await?;
    let mut rows: Vec<OutboxRow> = match rows.iter().map(outbox_row).collect() {
        Ok(rows) => rows,
        Err(e) => {
            // None of them may be stuck inflight because one cannot be read.
            for row in &rows {
                query("UPDATE outbox SET state = 'pending' WHERE row = ?")
                    .bind(column::<i64>(row, "row")?)
                    .execute(store.writer.notes())
                    .await?;
            }
            return Err(e);
        }
    };
    // RETURNING promises no order.
    rows.sort_by_key(|row| row.meta.row);
    // What a path takes is kept: its author must know of it after a power cut, whoever has it by then.
    if !rows.is_empty() {
        store.writer.settle().await?;
    }
    Ok(rows)
}

pub(super) async fn next_due(
    store: &SqliteStore,
    mesh: &MeshId,
    now: UnixMillis,
    pick: Pick<'_>,
) -> StoreResult<Option<UnixMillis>> {
    // The first of each counter decides: the others wait for it.
    let next: Option<i64> = query(
        "SELECT MIN(o.next_attempt_at) FROM outbox o
         WHERE o.mesh = ?1 AND o.state = 'pending' AND o.expires_at > ?2
           AND (?3 IS NULL OR hex(COALESCE(o.member, o.recipient)) IN
                (SELECT value FROM json_each(?3)))
           AND (?4 IS NULL OR o.reason = ?5 OR hex(COALESCE(o.member, o.recipient)) NOT IN
                (SELECT value FROM json_each(?4)))
           AND NOT EXISTS (
               SELECT 1 FROM outbox e
               WHERE e.mesh = o.mesh AND e.author = o.author AND e.instance = o.instance
                 AND e.target = o.target AND e.priority = o.priority
                 AND e.state = 'pending' AND e.row < o.row AND e.expires_at > ?2)",
    )
    .bind(&mesh.0[..])
    .bind(int(now))
    .bind(pick.only.map(as_json))
    .bind((!pick.busy.is_empty()).then(|| as_json(pick.busy)))
    .bind(LATE)
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
    .execute(store.writer.notes())
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
    .execute(store.writer.notes())
    .await?;
    Ok(done.rows_affected())
}

pub(super) async fn reset_inflight(store: &SqliteStore, mesh: &MeshId) -> StoreResult<u64> {
    let done = query("UPDATE outbox SET state = 'pending' WHERE mesh = ? AND state = 'inflight'")
        .bind(&mesh.0[..])
        .execute(store.writer.notes())
        .await?;
    Ok(done.rows_affected())
}

pub(super) async fn step(store: &SqliteStore, steps: &[Step]) -> StoreResult<Vec<Stepped>> {
    // By far most often one message has moved on, by one statement.
    if let [step] = steps
        && !step.to.is_promise()
    {
        return Ok(vec![step_one(store.writer.notes(), step).await?.0]);
    }
    let mut tx = store.begin().await?;
    let mut out = Vec::with_capacity(steps.len());
    for step in steps {
        out.push(step_within(&mut tx, step).await?);
    }
    if steps.iter().any(|step| step.to.is_promise()) {
        store.writer.keep(tx).await?;
    } else {
        store.writer.note(tx).await?;
    }
    Ok(out)
}

async fn step_within(tx: &mut SqliteConnection, step: &Step) -> StoreResult<Stepped> {
    let end = match &step.to {
        StepTo::Recipient { .. } => {
            let found = query("SELECT row, state FROM outbox WHERE mesh = ? AND id = ?")
                .bind(&step.mesh.0[..])
                .bind(step.id.to_string())
                .fetch_optional(&mut *tx)
                .await?;
            let Some(found) = found else { return Ok(Stepped::Unknown) };
            let (row, state) = (column(&found, "row")?, parsed(&found, "state")?);
            return recipients::step(tx, row, state, &step.to).await;
        }
        StepTo::Expired { reason } => Some((RecipientState::Expired, reason)),
        StepTo::Failed { reason } => Some((RecipientState::Failed, reason)),
        _ => None,
    };
    let (done, row) = step_one(&mut *tx, step).await?;
    if let (Some((to, reason)), Stepped::Done { .. }, Some(row)) = (end, &done, row) {
        recipients::end(tx, row, to, reason).await?;
    }
    Ok(done)
}

/// Moves a row on; says which it is, if it is there. Both statements in one call: each call is a way to
/// SQLite's thread and back.
async fn step_one(
    db: impl SqliteExecutor<'_>,
    Step { mesh, id, to: step }: &Step,
) -> StoreResult<(Stepped, Option<i64>)> {
    let Some(to) = step.state() else { return Ok((Stepped::Unknown, None)) };
    let (mut accepted, mut delivered, mut next) = (None, None, None);
    let (mut path, mut reason) = (None, None);
    match step {
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
        StepTo::Expired { reason: r } | StepTo::Failed { reason: r } => reason = Some(r.as_str()),
        StepTo::Recipient { .. } => {}
    }
    let may_come_from = OutboxState::ALL.into_iter().filter(|from| advance(*from, to));
    let may_come_from: Vec<&str> = may_come_from.map(OutboxState::as_str).collect();
    let found = query(
        "SELECT row, state FROM outbox WHERE mesh = ?1 AND id = ?2;
         UPDATE outbox SET state = ?4, reason = ?5, path = COALESCE(?6, path),
                accepted_at = COALESCE(?7, accepted_at), delivered_at = COALESCE(?8, delivered_at),
                next_attempt_at = COALESCE(?9, next_attempt_at)
         WHERE mesh = ?1 AND id = ?2 AND state IN (SELECT value FROM json_each(?3))",
    )
    .bind(&mesh.0[..])
    .bind(id.to_string())
    .bind(serde_json::json!(may_come_from).to_string())
    .bind(to.as_str())
    .bind(reason)
    .bind(path)
    .bind(accepted)
    .bind(delivered)
    .bind(next)
    .fetch_all(db)
    .await?;
    let Some(found) = found.first() else { return Ok((Stepped::Unknown, None)) };
    let from = parsed(found, "state")?;
    let done =
        if advance(from, to) { Stepped::Done { from } } else { Stepped::Kept { state: from } };
    Ok((done, Some(column(found, "row")?)))
}
