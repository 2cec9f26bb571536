//! The inbox's SQL.

use meshwire_signaling::codec::to_msgpack;
use meshwire_signaling::{EnvelopeId, Hash, MeshId, PublicKey, UnixMillis};
use sqlx::sqlite::SqliteRow;
use sqlx::{SqliteConnection, query};

use super::super::rows::{Arrived, InboxDelete, InboxFilter, InboxRow, NewId, Viewer, id_prefix};
use super::super::{MAX_CANDIDATES, MAX_INBOX_LIST, StoreResult};
use super::convert::{
    arrival, counter, get as column, id as id_column, inbox_row, int, opt_uint, uint, word,
};
use super::outbox::only;
use super::{SqliteStore, for_mesh};
use crate::core::gate::Arrival;
use crate::core::inbox::Item;
use crate::core::order::Counter;

pub(super) async fn accept(
    store: &SqliteStore,
    items: &[(Item, UnixMillis)],
) -> StoreResult<Vec<Arrived>> {
    let mut tx = store.begin().await?;
    let mut out = Vec::with_capacity(items.len());
    for (item, keep_until) in items {
        out.push(accept_one(&mut tx, item, *keep_until).await?);
    }
    if out.iter().any(|arrived| matches!(arrived, Arrived::Inserted(_))) {
        // Synced with what comes of it.
        store.writer.promise(tx).await?;
    } else {
        store.writer.note(tx).await?;
    }
    Ok(out)
}

async fn accept_one(
    tx: &mut SqliteConnection,
    item: &Item,
    keep_until: UnixMillis,
) -> StoreResult<Arrived> {
    // One call for what is new: each is a way to SQLite's thread and back.
    let inserted = query(
        "INSERT INTO inbox (mesh, author, id, hash, member, author_name, recipient, channel,
                            priority, kind, content, reply_to, instance, seq, floor, target,
                            sent_at, received_at, handed_on)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
                EXISTS (SELECT 1 FROM session_ended WHERE mesh = ?1 AND key = ?7)
         WHERE NOT EXISTS (SELECT 1 FROM seen WHERE mesh = ?1 AND author = ?2 AND id = ?3)
         ON CONFLICT (mesh, author, id) DO NOTHING RETURNING row;
         INSERT INTO seen (mesh, author, id, hash, keep_until)
         SELECT ?1, ?2, ?3, ?4, ?19 WHERE changes() > 0",
    )
    .bind(&item.mesh.0[..])
    .bind(&item.author.0[..])
    .bind(item.id.to_string())
    .bind(&item.hash.0[..])
    .bind(&item.member.0[..])
    .bind(&item.author_name)
    .bind(&item.recipient.0[..])
    .bind(word(&item.channel))
    .bind(word(&item.priority))
    .bind(&item.kind)
    .bind(&item.content)
    .bind(item.reply_to.map(|id| id.to_string()))
    .bind(&item.instance.0[..])
    .bind(int(item.seq))
    .bind(int(item.floor))
    .bind(to_msgpack(&item.target))
    .bind(int(item.sent_at))
    .bind(int(item.received_at))
    .bind(int(keep_until))
    .fetch_all(&mut *tx)
    .await
    .map_err(for_mesh(&item.mesh))?;
    if let Some(row) = inserted.first() {
        return Ok(Arrived::Inserted(column(row, "row")?));
    }
    // The inbox may remember longer than the table of ids, whose rows end with the envelope.
    let before = query(
        "SELECT hash FROM seen WHERE mesh = ?1 AND author = ?2 AND id = ?3
         UNION ALL SELECT hash FROM inbox WHERE mesh = ?1 AND author = ?2 AND id = ?3 LIMIT 1",
    )
    .bind(&item.mesh.0[..])
    .bind(&item.author.0[..])
    .bind(item.id.to_string())
    .fetch_one(&mut *tx)
    .await?;
    let same = id_column::<Hash>(&before, "hash")? == item.hash;
    Ok(if same { Arrived::Duplicate } else { Arrived::Conflict })
}

pub(super) async fn remember(store: &SqliteStore, ids: &[NewId]) -> StoreResult<Vec<bool>> {
    let mut tx = store.begin().await?;
    let mut out = Vec::with_capacity(ids.len());
    for new in ids {
        let done = query(
            "INSERT INTO seen (mesh, author, id, hash, keep_until) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT (mesh, author, id) DO NOTHING",
        )
        .bind(&new.mesh.0[..])
        .bind(&new.author.0[..])
        .bind(new.id.to_string())
        .bind(&new.hash.0[..])
        .bind(int(new.keep_until))
        .execute(&mut *tx)
        .await
        .map_err(for_mesh(&new.mesh))?;
        out.push(done.rows_affected() > 0);
    }
    if out.contains(&true) {
        store.writer.promise(tx).await?;
    } else {
        store.writer.note(tx).await?;
    }
    Ok(out)
}

pub(super) async fn seen(
    store: &SqliteStore,
    mesh: &MeshId,
    author: &PublicKey,
    id: &EnvelopeId,
) -> StoreResult<Option<Hash>> {
    let found = query("SELECT hash FROM seen WHERE mesh = ? AND author = ? AND id = ?")
        .bind(&mesh.0[..])
        .bind(&author.0[..])
        .bind(id.to_string())
        .fetch_optional(&store.readers)
        .await?;
    store.writer.settle().await?;
    found.as_ref().map(|row| id_column(row, "hash")).transpose()
}

pub(super) async fn surface(
    store: &SqliteStore,
    rows: &[i64],
    now: UnixMillis,
) -> StoreResult<Vec<InboxRow>> {
    let mut tx = store.begin().await?;
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        // One call: each is a way to SQLite's thread and back.
        let surfaced = query(
            "UPDATE surface_order SET last = last + 1 WHERE only = 1
               AND EXISTS (SELECT 1 FROM inbox WHERE row = ?1 AND surfaced_order IS NULL);
             UPDATE inbox SET surfaced_at = ?2,
                    surfaced_order = (SELECT last FROM surface_order WHERE only = 1)
             WHERE row = ?1 AND surfaced_order IS NULL RETURNING *;
             INSERT INTO order_cursor (mesh, author, instance, target, priority, last, touched_at)
             SELECT mesh, author, instance, target, priority, seq, ?2 FROM inbox
             WHERE row = ?1 AND changes() > 0
             ON CONFLICT DO UPDATE SET last = MAX(last, excluded.last),
                                       touched_at = MAX(touched_at, excluded.touched_at)",
        )
        .bind(row)
        .bind(int(now))
        .fetch_all(&mut *tx)
        .await?;
        if let Some(surfaced) = surfaced.first() {
            out.push(inbox_row(surfaced)?);
        }
    }
    store.writer.keep(tx).await?;
    Ok(out)
}

async fn move_cursor(tx: &mut SqliteConnection, item: &Item, now: UnixMillis) -> StoreResult<()> {
    query(
        "INSERT INTO order_cursor (mesh, author, instance, target, priority, last, touched_at)
         VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET last = MAX(last, excluded.last),
                                   touched_at = MAX(touched_at, excluded.touched_at)",
    )
    .bind(&item.mesh.0[..])
    .bind(&item.author.0[..])
    .bind(&item.instance.0[..])
    .bind(to_msgpack(&item.target))
    .bind(word(&item.priority))
    .bind(int(item.seq))
    .bind(int(now))
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn swallow(store: &SqliteStore, rows: &[i64], now: UnixMillis) -> StoreResult<()> {
    let mut tx = store.begin().await?;
    for row in rows {
        let gone = query("DELETE FROM inbox WHERE row = ? AND surfaced_order IS NULL RETURNING *")
            .bind(row)
            .fetch_optional(&mut *tx)
            .await?;
        if let Some(gone) = gone {
            move_cursor(&mut tx, &inbox_row(&gone)?.item, now).await?;
        }
    }
    store.writer.note(tx).await
}

pub(super) async fn held(store: &SqliteStore) -> StoreResult<Vec<Arrival>> {
    let rows = query(
        "SELECT row, mesh, author, instance, target, priority, seq, floor, recipient, kind, handed_on,
                (SELECT self_key FROM mesh WHERE mesh.mesh = inbox.mesh) AS member_key
         FROM inbox WHERE surfaced_order IS NULL ORDER BY row",
    );
    rows.fetch_all(&store.readers).await?.iter().map(arrival).collect()
}

/// Gives the member what a session leaves that nobody has listed; what of it had surfaced.
pub(super) async fn hand_on(
    tx: &mut SqliteConnection,
    mesh: &MeshId,
    session: &PublicKey,
) -> StoreResult<Vec<Arrival>> {
    let shown = query(
        "SELECT row, mesh, author, instance, target, priority, seq, floor, recipient, kind,
                1 AS handed_on,
                (SELECT self_key FROM mesh WHERE mesh.mesh = inbox.mesh) AS member_key
         FROM inbox
         WHERE mesh = ?1 AND recipient = ?2 AND seen_at IS NULL AND surfaced_order IS NOT NULL
           AND NOT EXISTS (SELECT 1 FROM inbox_seen s WHERE s.row = inbox.row AND s.viewer = ?2)
         ORDER BY surfaced_order",
    )
    .bind(&mesh.0[..])
    .bind(&session.0[..])
    .fetch_all(&mut *tx)
    .await?;
    let shown = shown.iter().map(arrival).collect::<StoreResult<_>>()?;
    query(
        "UPDATE inbox SET handed_on = 1, surfaced_order = NULL, surfaced_at = NULL
         WHERE mesh = ?1 AND recipient = ?2 AND seen_at IS NULL
           AND NOT EXISTS (SELECT 1 FROM inbox_seen s WHERE s.row = inbox.row AND s.viewer = ?2)",
    )
    .bind(&mesh.0[..])
    .bind(&session.0[..])
    .execute(&mut *tx)
    .await?;
    Ok(shown)
}

pub(super) async fn cursors(store: &SqliteStore) -> StoreResult<Vec<(Counter, u64)>> {
    let rows = query("SELECT * FROM order_cursor ORDER BY touched_at").fetch_all(&store.readers);
    rows.await?.iter().map(|row| Ok((counter(row)?, uint(row, "last")?))).collect()
}

pub(super) async fn list(
    store: &SqliteStore,
    filter: &InboxFilter,
    mark_seen: Option<UnixMillis>,
) -> StoreResult<Vec<InboxRow>> {
    let Some(now) = mark_seen else {
        let mut conn = store.readers.acquire().await?;
        let rows = select(&mut conn, filter).await?;
        drop(conn);
        store.writer.settle().await?;
        return Ok(rows);
    };
    let mut tx = store.begin().await?;
    let rows = select(&mut tx, filter).await?;
    if rows.iter().all(|row| row.seen_at.is_some()) {
        drop(tx);
        store.writer.settle().await?;
        return Ok(rows);
    }
    for row in rows.iter().filter(|row| row.seen_at.is_none()) {
        let mark = match filter.viewer.session() {
            None => query("UPDATE inbox SET seen_at = ?1 WHERE row = ?2"),
            Some(_) => query("INSERT INTO inbox_seen (row, viewer, seen_at) VALUES (?2, ?3, ?1)"),
        };
        let mark = mark.bind(int(now)).bind(row.row);
        let mark = match filter.viewer.session() {
            None => mark,
            Some(session) => mark.bind(session.0.to_vec()),
        };
        mark.execute(&mut *tx).await?;
    }
    store.writer.keep(tx).await?;
    Ok(rows)
}

/// The text of a list. Six of them, for neither ORDER BY nor a condition that has an index of its
/// own can be a parameter without losing that index.
macro_rules! listing {
    ($condition:literal, $order:literal) => {
        concat!(
            "SELECT *, (SELECT s.seen_at FROM inbox_seen s
                        WHERE s.row = inbox.row AND s.viewer = ?8) AS session_seen_at
             FROM inbox
             WHERE surfaced_order > ?1 AND (?2 IS NULL OR mesh = ?2)
               AND (?3 IS NULL OR author = ?3 OR member = ?3)
               AND (?5 IS NULL OR received_at >= ?5) AND (?6 IS NULL OR received_at < ?6)
               AND (?7 = 'everything' OR (?8 IS NOT NULL AND recipient = ?8)
                    OR (?7 = 'member' AND (handed_on OR recipient =
                        (SELECT self_key FROM mesh WHERE mesh.mesh = inbox.mesh)))) ",
            $condition,
            " ORDER BY surfaced_order ",
            $order,
            " LIMIT ?4"
        )
    };
    (unread by session, $order:literal) => {
        listing!(
            "AND NOT EXISTS (SELECT 1 FROM inbox_seen s
                             WHERE s.row = inbox.row AND s.viewer = ?8)",
            $order
        )
    };
}

async fn select(conn: &mut SqliteConnection, filter: &InboxFilter) -> StoreResult<Vec<InboxRow>> {
    let session = filter.viewer.session();
    let text = match (filter.unread, session.is_some(), filter.newest) {
        (false, _, false) => listing!("", "ASC"),
        (false, _, true) => listing!("", "DESC"),
        (true, false, false) => listing!("AND seen_at IS NULL", "ASC"),
        (true, false, true) => listing!("AND seen_at IS NULL", "DESC"),
        (true, true, false) => listing!(unread by session, "ASC"),
        (true, true, true) => listing!(unread by session, "DESC"),
    };
    let rows = query(text)
        .bind(int(filter.after_order.unwrap_or(0)))
        .bind(filter.mesh.as_ref().map(|m| &m.0[..]))
        .bind(filter.from.as_ref().map(|f| &f.0[..]))
        .bind(i64::from(filter.limit.min(MAX_INBOX_LIST)))
        .bind(filter.since.map(int))
        .bind(filter.before.map(int))
        .bind(match filter.viewer {
            Viewer::Everything => "everything",
            Viewer::Member | Viewer::Session(_) => "member",
            Viewer::SessionAlone(_) => "session",
        })
        .bind(session.as_ref().map(|s| &s.0[..]))
        .fetch_all(conn)
        .await?;
    let shown = |row: &SqliteRow| {
        let mut shown = inbox_row(row)?;
        if session.is_some() {
            shown.seen_at = opt_uint(row, "session_seen_at")?;
        }
        Ok(shown)
    };
    let mut rows: Vec<InboxRow> = rows.iter().map(shown).collect::<StoreResult<_>>()?;
    if filter.newest {
        rows.reverse();
    }
    Ok(rows)
}

pub(super) async fn find(
    store: &SqliteStore,
    mesh: Option<&MeshId>,
    prefix: &str,
) -> StoreResult<InboxRow> {
    let start = id_prefix(prefix)?;
    let rows: Vec<SqliteRow> = query(
        "SELECT * FROM inbox
         WHERE (?1 IS NULL OR mesh = ?1) AND id >= ?2 AND id < ?3 AND surfaced_order IS NOT NULL
         ORDER BY id, row LIMIT ?4",
    )
    .bind(mesh.map(|m| &m.0[..]))
    .bind(&start)
    .bind(format!("{start}~")) // above every letter that an id has
    .bind(i64::try_from(MAX_CANDIDATES).unwrap_or(i64::MAX))
    .fetch_all(&store.readers)
    .await?;
    store.writer.settle().await?;
    inbox_row(only(prefix, &rows)?)
}

pub(super) async fn delete(store: &SqliteStore, what: &InboxDelete) -> StoreResult<u64> {
    let (row, mesh, before) = match what {
        InboxDelete::Row(row) => (Some(*row), None, None),
        InboxDelete::Surfaced { mesh, before } => (None, *mesh, *before),
    };
    let mut tx = store.begin().await?;
    let done = query(
        "DELETE FROM inbox WHERE surfaced_order IS NOT NULL
           AND (?1 IS NULL OR row = ?1) AND (?2 IS NULL OR mesh = ?2)
           AND (?3 IS NULL OR received_at < ?3)",
    )
    .bind(row)
    .bind(mesh.as_ref().map(|m| &m.0[..]))
    .bind(before.map(int))
    .execute(&mut *tx)
    .await?;
    store.writer.keep(tx).await?;
    Ok(done.rows_affected())
}
