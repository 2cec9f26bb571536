//! The SQL of groups' recipients.

use meshwire_signaling::PublicKey;
use meshwire_signaling::codec::to_msgpack;
use sqlx::{SqliteConnection, query};

use super::super::StoreResult;
use super::super::rows::{NewRecipient, OutboxRow, RecipientRow, Rewrap, StepTo, Stepped};
use super::SqliteStore;
use super::convert::{get as column, int, outbox_row, recipient_row, recipient_state, uint};
use super::outbox::select;
use crate::core::group::{RecipientState, Tally, standing};
use crate::core::outbox::OutboxState;

/// Adds recipients; those that are there stay as they are.
pub(super) async fn add(
    tx: &mut SqliteConnection,
    row: i64,
    added: &[NewRecipient],
) -> StoreResult<()> {
    for new in added {
        query(
            "INSERT INTO outbox_recipient (row, recipient, name) VALUES (?, ?, ?)
             ON CONFLICT DO NOTHING",
        )
        .bind(row)
        .bind(&new.key.0[..])
        .bind(&new.name)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// Ends those of a message's recipients who are open.
pub(super) async fn end(
    tx: &mut SqliteConnection,
    row: i64,
    to: RecipientState,
    reason: &str,
) -> StoreResult<()> {
    query("UPDATE outbox_recipient SET state = ?, reason = ? WHERE row = ? AND state = 'open'")
        .bind(to.as_str())
        .bind(reason)
        .bind(row)
        .execute(tx)
        .await?;
    Ok(())
}

/// Moves one recipient on, and the row with it; `whole` is where the row is.
pub(super) async fn step(
    tx: &mut SqliteConnection,
    row: i64,
    whole: OutboxState,
    step: &StepTo,
) -> StoreResult<Stepped> {
    let StepTo::Recipient { key, to, reason, at } = step else { return Ok(Stepped::Unknown) };
    let found = query("SELECT state FROM outbox_recipient WHERE row = ? AND recipient = ?")
        .bind(row)
        .bind(&key.0[..])
        .fetch_optional(&mut *tx)
        .await?;
    let Some(found) = found else { return Ok(Stepped::Unknown) };
    if !recipient_state(&found)?.may_become(*to) {
        return Ok(Stepped::Kept { state: whole });
    }
    query(
        "UPDATE outbox_recipient SET state = ?, reason = ?, at = ?
         WHERE row = ? AND recipient = ?",
    )
    .bind(to.as_str())
    .bind(reason)
    .bind(int(*at))
    .bind(row)
    .bind(&key.0[..])
    .execute(&mut *tx)
    .await?;
    let is_final = matches!(whole, OutboxState::Delivered | OutboxState::Aborted);
    // As long as somebody is open, counting the others is for nothing.
    let open = query("SELECT 1 FROM outbox_recipient WHERE row = ? AND state = 'open' LIMIT 1")
        .bind(row)
        .fetch_optional(&mut *tx)
        .await?;
    if is_final || open.is_some() {
        return Ok(Stepped::Recipient { state: whole });
    }
    let Some((state, reason)) = standing(&tally(&mut *tx, row).await?) else {
        return Ok(Stepped::Recipient { state: whole });
    };
    query(
        "UPDATE outbox SET state = ?, reason = ?, delivered_at = COALESCE(?, delivered_at)
         WHERE row = ?",
    )
    .bind(state.as_str())
    .bind(reason)
    .bind((state == OutboxState::Delivered).then(|| int(*at)))
    .bind(row)
    .execute(&mut *tx)
    .await?;
    Ok(Stepped::Recipient { state })
}

async fn tally(tx: &mut SqliteConnection, row: i64) -> StoreResult<Tally> {
    let rows =
        query("SELECT state, count(*) AS n FROM outbox_recipient WHERE row = ? GROUP BY state")
            .bind(row)
            .fetch_all(tx)
            .await?;
    let mut tally = Tally::default();
    for row in &rows {
        tally.add(recipient_state(row)?, uint(row, "n")?);
    }
    Ok(tally)
}

pub(super) async fn rewrap(store: &SqliteStore, change: &Rewrap) -> StoreResult<bool> {
    let mut tx = store.begin().await?;
    let found = select(&change.mesh, &change.id).fetch_optional(&mut *tx).await?;
    let Some(found) = found else { return Ok(false) };
    let OutboxRow { meta, mut envelope } = outbox_row(&found)?;
    if !matches!(meta.state, OutboxState::Pending | OutboxState::Inflight) {
        return Ok(false);
    }
    let row: i64 = column(&found, "row")?;
    envelope.wraps.clone_from(&change.wraps);
    query("UPDATE outbox SET envelope = ? WHERE row = ?")
        .bind(to_msgpack(&envelope))
        .bind(row)
        .execute(&mut *tx)
        .await?;
    for key in &change.gone {
        forget(&mut tx, row, key).await?;
    }
    add(&mut tx, row, &change.added).await?;
    store.writer.keep(tx).await?;
    Ok(true)
}

async fn forget(tx: &mut SqliteConnection, row: i64, key: &PublicKey) -> StoreResult<()> {
    query("DELETE FROM outbox_recipient WHERE row = ? AND recipient = ? AND state = 'open'")
        .bind(row)
        .bind(&key.0[..])
        .execute(tx)
        .await?;
    Ok(())
}

pub(super) async fn list(store: &SqliteStore, row: i64) -> StoreResult<Vec<RecipientRow>> {
    let rows = query("SELECT * FROM outbox_recipient WHERE row = ? ORDER BY name, recipient")
        .bind(row)
        .fetch_all(&store.readers)
        .await?;
    store.writer.settle().await?;
    rows.iter().map(recipient_row).collect()
}
