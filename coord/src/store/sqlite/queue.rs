//! Deliveries, from the claim to the receipt's confirmation.

use meshwire_signaling::receipt::Verdict;
use meshwire_signaling::{MeshId, PublicKey, UnixMillis};
use sqlx::{Row as _, SqliteConnection};

use super::rows::{id, int, key, small, time};
use crate::core::presence::ConnId;
use crate::store::{Claim, Claimed, DeliveryRef, Result, state};

pub(super) async fn claim(db: &mut SqliteConnection, c: Claim) -> Result<Vec<Claimed>> {
    let mut rows = sqlx::query(
        "UPDATE deliveries SET claim = ?1, claim_until = ?2, attempt = attempt + 1
         WHERE recipient = ?4 AND seq IN
           (SELECT seq FROM deliveries
            WHERE mesh = ?3 AND recipient = ?4 AND state = 0 AND claim_until <= ?5
              AND expires_at > ?5 AND priority <= ?7
            ORDER BY priority, seq LIMIT ?6)
         RETURNING priority, seq, attempt, wrap",
    )
    .bind(int(c.conn))
    .bind(int(c.until))
    .bind(&c.mesh.0[..])
    .bind(&c.recipient.0[..])
    .bind(int(c.now))
    .bind(int(c.limit as u64))
    .bind(lowest(c.urgent_only))
    .bind(lowest(c.urgent_only))
    .fetch_all(&mut *db)
    .await?;
    // RETURNING promises no order.
    rows.sort_by_cached_key(|r| (r.get::<i64, _>("priority"), r.get::<i64, _>("seq")));
    let mut claimed = Vec::with_capacity(rows.len());
    for delivery in rows {
        let row = sqlx::query(
            "SELECT a.author, a.id, a.accepted_at, b.envelope, b.attestation
             FROM accepted a JOIN bodies b USING (seq) WHERE a.seq = ?",
        )
        .bind(delivery.try_get::<i64, _>("seq")?)
        .fetch_one(&mut *db)
        .await?;
        claimed.push(Claimed {
            recipient: c.recipient,
            author: key(&row, "author")?,
            id: id(&row)?,
            envelope: row.try_get("envelope")?,
            wrap: delivery.try_get("wrap")?,
            attestation: row.try_get("attestation")?,
            accepted_at: time(&row, "accepted_at")?,
            attempt: small(&delivery, "attempt")?,
        });
    }
    Ok(claimed)
}

/// The rank of the last priority that counts; 0 is `now`.
pub(super) fn lowest(urgent_only: bool) -> i64 {
    if urgent_only { 0 } else { i64::MAX }
}

/// Ends one recipient's delivery and no other's (inventory appendix 7, defects 1 and 16).
pub(super) async fn answer(
    db: &mut SqliteConnection,
    d: &DeliveryRef,
    verdict: Verdict,
    receipt: Option<&[u8]>,
) -> Result<bool> {
    let row = sqlx::query(
        "UPDATE deliveries SET state = ?1, receipt = ?2, claim = NULL, claim_until = 0, wrap = NULL
         WHERE recipient = ?3 AND state = 0 AND seq =
           (SELECT seq FROM accepted WHERE mesh = ?4 AND author = ?5 AND id = ?6)
         RETURNING seq",
    )
    .bind(state::of(verdict))
    .bind(receipt)
    .bind(&d.recipient.0[..])
    .bind(&d.mesh.0[..])
    .bind(&d.author.0[..])
    .bind(d.id.to_string())
    .fetch_optional(&mut *db)
    .await?;
    let Some(row) = row else { return Ok(false) };
    let seq: i64 = row.try_get("seq")?;
    sqlx::query(
        "DELETE FROM bodies WHERE seq = ?1 AND NOT EXISTS
         (SELECT 1 FROM deliveries INDEXED BY deliveries_open WHERE seq = ?1 AND state = 0)",
    )
    .bind(seq)
    .execute(db)
    .await?;
    Ok(true)
}

pub(super) async fn postpone(
    db: &mut SqliteConnection,
    d: &DeliveryRef,
    until: UnixMillis,
) -> Result<()> {
    sqlx::query(
        "UPDATE deliveries SET claim = NULL, claim_until = ?1
         WHERE recipient = ?2 AND state = 0 AND seq =
           (SELECT seq FROM accepted WHERE mesh = ?3 AND author = ?4 AND id = ?5)",
    )
    .bind(int(until))
    .bind(&d.recipient.0[..])
    .bind(&d.mesh.0[..])
    .bind(&d.author.0[..])
    .bind(d.id.to_string())
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn release(db: &mut SqliteConnection, conn: ConnId) -> Result<u64> {
    let done = sqlx::query("UPDATE deliveries SET claim = NULL, claim_until = 0 WHERE claim = ?")
        .bind(int(conn))
        .execute(db)
        .await?;
    Ok(done.rows_affected())
}

pub(super) async fn release_for(
    db: &mut SqliteConnection,
    conn: ConnId,
    mesh: &MeshId,
    recipient: &PublicKey,
) -> Result<u64> {
    let done = sqlx::query(
        "UPDATE deliveries SET claim = NULL, claim_until = 0
         WHERE claim = ?1 AND mesh = ?2 AND recipient = ?3",
    )
    .bind(int(conn))
    .bind(&mesh.0[..])
    .bind(&recipient.0[..])
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

pub(super) async fn release_all(db: &mut SqliteConnection) -> Result<()> {
    sqlx::query("UPDATE deliveries SET claim = NULL, claim_until = 0 WHERE claim IS NOT NULL")
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn confirm(db: &mut SqliteConnection, d: &DeliveryRef) -> Result<()> {
    sqlx::query(
        // A session's end is attested by its member, whose key is not the recipient's.
        "UPDATE deliveries SET confirmed = 1
         WHERE (recipient = ?1 OR (state = 3 AND EXISTS
                (SELECT 1 FROM delegates g WHERE g.mesh = ?2 AND g.key = recipient
                   AND g.member = ?1)))
           AND seq = (SELECT seq FROM accepted WHERE mesh = ?2 AND author = ?3 AND id = ?4)",
    )
    .bind(&d.recipient.0[..])
    .bind(&d.mesh.0[..])
    .bind(&d.author.0[..])
    .bind(d.id.to_string())
    .execute(db)
    .await?;
    Ok(())
}
