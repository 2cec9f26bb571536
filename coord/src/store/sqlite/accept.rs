//! Phases B0, B2 and B3 of an accept (inventory A-106): dedupe, recipients, rows.

use meshwire_signaling::group::ALL;
use meshwire_signaling::seal::Wrap;
use meshwire_signaling::{PublicKey, UnixMillis, codec};
use sqlx::{QueryBuilder, Row as _, SqliteConnection};

use super::leases::find;
use super::rows::{SELECT_ACCEPTED, SELECT_MEMBER, accepted_row, int, key};
use crate::core::accept::{Plan, Recipients, TargetKind};
use crate::store::{Accepted, MAX_QUEUE, MAX_QUEUE_PER_AUTHOR, Result, group, state};

/// Delivery rows in one statement: far fewer values than SQLite's bound of 32,766.
const ROWS: usize = 250;

pub(super) async fn accept(
    db: &mut SqliteConnection,
    plan: &Plan,
    now: UnixMillis,
) -> Result<Accepted> {
    let known = sqlx::query(SELECT_ACCEPTED)
        .bind(&plan.mesh.0[..])
        .bind(&plan.author.0[..])
        .bind(plan.id.to_string())
        .fetch_optional(&mut *db)
        .await?;
    if let Some(row) = known {
        let (hash, state) = accepted_row(&row)?;
        return Ok(if hash == plan.hash { Accepted::Duplicate(state) } else { Accepted::Conflict });
    }
    match &plan.to {
        Recipients::One { key, kind } => {
            if let Some(refused) = target_missing(db, plan, key, *kind, now).await? {
                return Ok(refused);
            }
            if queue_full(db, plan, key, now).await? {
                return Ok(Accepted::QueueFull);
            }
            let seq = insert_body(db, plan, now).await?;
            insert_deliveries(db, plan, seq, [(key, None)].into_iter()).await?;
            Ok(Accepted::New { full: Vec::new() })
        }
        Recipients::Group { name, wraps } => {
            let required = required(db, plan, name, group::enough(wraps)).await?;
            if let Some(refused) = group::changed(&required, wraps) {
                return Ok(refused);
            }
            let seq = insert_body(db, plan, now).await?;
            for wraps in wraps.chunks(ROWS) {
                let rows = wraps.iter().map(|w| (&w.to, Some(w)));
                insert_deliveries(db, plan, seq, rows).await?;
            }
            let full = refuse_full(db, plan, seq, now).await?;
            if full.len() == required.len() {
                sqlx::query("DELETE FROM accepted WHERE seq = ?").bind(seq).execute(db).await?;
                return Ok(Accepted::QueueFull);
            }
            Ok(Accepted::New { full })
        }
    }
}

async fn target_missing(
    db: &mut SqliteConnection,
    plan: &Plan,
    key: &PublicKey,
    kind: TargetKind,
    now: UnixMillis,
) -> Result<Option<Accepted>> {
    if kind == TargetKind::Member {
        let row = sqlx::query(SELECT_MEMBER).bind(&plan.mesh.0[..]).bind(&key.0[..]);
        let there = row.fetch_optional(db).await?.is_some();
        return Ok((!there).then_some(Accepted::UnknownTarget));
    }
    Ok(match find(db, &plan.mesh, key).await? {
        None => Some(Accepted::UnknownTarget),
        Some(d) if d.expires_at <= now => Some(Accepted::TargetGone(d.member)),
        Some(_) => None,
    })
}

/// Whether a recipient's queue, or a member's share of it, is full. Indexes alone answer that; only
/// close to a bound it is counted what has expired and takes no room.
async fn queue_full(
    db: &mut SqliteConnection,
    plan: &Plan,
    recipient: &PublicKey,
    now: UnixMillis,
) -> Result<bool> {
    const NEAR: &str = "SELECT
         EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_by_member
                 WHERE mesh = ?1 AND recipient = ?2 AND state = 0 LIMIT 1 OFFSET ?5)
         OR EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_by_member
                    WHERE mesh = ?1 AND recipient = ?2 AND member = ?3 AND state = 0
                    LIMIT 1 OFFSET ?6) AS full, ?4";
    const EXACT: &str = "SELECT COUNT(*) > ?5 OR SUM(member = ?3) > ?6 AS full FROM deliveries
         WHERE mesh = ?1 AND recipient = ?2 AND state = 0 AND expires_at > ?4";
    for query in [NEAR, EXACT] {
        let row = sqlx::query(query)
            .bind(&plan.mesh.0[..])
            .bind(&recipient.0[..])
            .bind(&plan.member.0[..])
            .bind(int(now))
            .bind(int(MAX_QUEUE as u64 - 1))
            .bind(int(MAX_QUEUE_PER_AUTHOR as u64 - 1))
            .fetch_one(&mut *db)
            .await?;
        if row.try_get::<Option<i64>, _>("full")? != Some(1) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The same for all recipients of a group send at once, whose rows are there already: those whose
/// queue has one too many are refused, and returned in key order.
async fn refuse_full(
    db: &mut SqliteConnection,
    plan: &Plan,
    seq: i64,
    now: UnixMillis,
) -> Result<Vec<PublicKey>> {
    let rows = sqlx::query(
        "UPDATE deliveries AS d SET state = ?1, wrap = NULL
         WHERE d.seq = ?2
           AND (EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_by_member
                        WHERE mesh = d.mesh AND recipient = d.recipient AND state = 0
                        LIMIT 1 OFFSET ?5)
                OR EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_by_member
                           WHERE mesh = d.mesh AND recipient = d.recipient AND member = ?3
                             AND state = 0
                           LIMIT 1 OFFSET ?6))
           AND (SELECT COUNT(*) > ?5 OR SUM(member = ?3) > ?6 FROM deliveries
                WHERE mesh = d.mesh AND recipient = d.recipient AND state = 0 AND expires_at > ?4)
         RETURNING recipient",
    )
    .bind(state::REFUSED)
    .bind(seq)
    .bind(&plan.member.0[..])
    .bind(int(now))
    .bind(int(MAX_QUEUE as u64))
    .bind(int(MAX_QUEUE_PER_AUTHOR as u64))
    .fetch_all(db)
    .await?;
    let mut full = rows.iter().map(|r| key(r, "recipient")).collect::<Result<Vec<_>>>()?;
    // RETURNING promises no order.
    full.sort_unstable();
    Ok(full)
}

/// Who must get a group send, the first `limit` in key order.
async fn required(
    db: &mut SqliteConnection,
    plan: &Plan,
    name: &str,
    limit: usize,
) -> Result<Vec<PublicKey>> {
    const EVERYBODY: &str = "SELECT key FROM members INDEXED BY members_listed
         WHERE mesh = ?1 AND hidden = 0 AND key <> ?2 ORDER BY key LIMIT ?3";
    // The group and those below it: `ops`, and from `ops/` on what sorts before `ops0`.
    const GROUP: &str = "SELECT key FROM members
         WHERE mesh = ?1 AND hidden = 0 AND key <> ?2 AND key IN
           (SELECT member FROM group_statements INDEXED BY groups_joined
            WHERE mesh = ?1 AND joined = 1 AND name = ?4
            UNION ALL
            SELECT member FROM group_statements INDEXED BY groups_joined
            WHERE mesh = ?1 AND joined = 1 AND name > ?4 || '/' AND name < ?4 || '0')
         ORDER BY key LIMIT ?3";
    let query = sqlx::query(if name == ALL { EVERYBODY } else { GROUP })
        .bind(&plan.mesh.0[..])
        .bind(&plan.member.0[..])
        .bind(int(limit as u64));
    let query = if name == ALL { query } else { query.bind(name) };
    query.fetch_all(db).await?.iter().map(|r| key(r, "key")).collect()
}

async fn insert_body(db: &mut SqliteConnection, plan: &Plan, now: UnixMillis) -> Result<i64> {
    let seq = sqlx::query(
        "INSERT INTO accepted (mesh, author, id, hash, accepted_at, expires_at)
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(&plan.mesh.0[..])
    .bind(&plan.author.0[..])
    .bind(plan.id.to_string())
    .bind(&plan.hash.0[..])
    .bind(int(now))
    .bind(int(plan.expires_at))
    .execute(&mut *db)
    .await?
    .last_insert_rowid();
    sqlx::query("INSERT INTO bodies (seq, envelope, attestation) VALUES (?, ?, ?)")
        .bind(seq)
        .bind(&plan.envelope)
        .bind(plan.attestation.as_deref())
        .execute(db)
        .await?;
    Ok(seq)
}

async fn insert_deliveries<'a>(
    db: &mut SqliteConnection,
    plan: &Plan,
    seq: i64,
    to: impl Iterator<Item = (&'a PublicKey, Option<&'a Wrap>)>,
) -> Result<()> {
    let mut query = QueryBuilder::new(
        "INSERT INTO deliveries (seq, recipient, mesh, author, member, priority, expires_at, wrap) ",
    );
    query.push_values(to, |mut row, (recipient, wrap)| {
        row.push_bind(seq)
            .push_bind(recipient.0.to_vec())
            .push_bind(plan.mesh.0.to_vec())
            .push_bind(plan.author.0.to_vec())
            .push_bind(plan.member.0.to_vec())
            .push_bind(i64::from(plan.priority))
            .push_bind(int(plan.expires_at))
            .push_bind(wrap.map(codec::to_msgpack));
    });
    query.build().execute(db).await?;
    Ok(())
}
