//! Expiry, and forgetting what can no longer be repeated: never more than a batch at a time, however
//! many recipients an envelope has.

use meshwire_signaling::UnixMillis;
use meshwire_signaling::limits::{SKEW, ms};
use sqlx::SqliteConnection;

use super::rows::int;
use crate::store::{DELEGATE_MEMORY, INSTANCE_MEMORY, Result, SWEEP_BATCH, Swept, state};

pub(super) async fn sweep(db: &mut SqliteConnection, now: UnixMillis) -> Result<Swept> {
    let expired = sqlx::query(
        "UPDATE deliveries SET state = ?1, claim = NULL, wrap = NULL WHERE (seq, recipient) IN
         (SELECT seq, recipient FROM deliveries WHERE state = 0 AND expires_at <= ?2 LIMIT ?3)",
    )
    .bind(state::EXPIRED)
    .bind(int(now))
    .bind(SWEEP_BATCH)
    .execute(&mut *db)
    .await?
    .rows_affected();
    let over = int(now.saturating_sub(ms(SKEW)));
    let mut more = expired == u64::from(SWEEP_BATCH);
    let mut forgotten = 0;
    for (forget, until) in [
        (
            "DELETE FROM bodies WHERE seq IN
             (SELECT seq FROM accepted JOIN bodies USING (seq) WHERE expires_at <= ? LIMIT ?)",
            int(now),
        ),
        (
            "DELETE FROM deliveries WHERE (seq, recipient) IN
             (SELECT d.seq, d.recipient FROM accepted a CROSS JOIN deliveries d USING (seq)
              WHERE a.expires_at <= ? ORDER BY a.expires_at, a.seq LIMIT ?)",
            over,
        ),
        // Last, so that nothing is left for the foreign keys to delete.
        (
            "DELETE FROM accepted WHERE seq IN
             (SELECT seq FROM
               (SELECT seq FROM accepted WHERE expires_at <= ? ORDER BY expires_at, seq LIMIT ?) a
              WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = a.seq))",
            over,
        ),
    ] {
        let done = sqlx::query(forget).bind(until).bind(SWEEP_BATCH).execute(&mut *db).await?;
        forgotten = done.rows_affected();
        more |= forgotten == u64::from(SWEEP_BATCH);
    }
    for (forget, memory) in [
        (
            "DELETE FROM delegates WHERE (mesh, key) IN
             (SELECT mesh, key FROM delegates WHERE expires_at <= ? LIMIT ?)",
            DELEGATE_MEMORY,
        ),
        (
            "DELETE FROM instances WHERE (mesh, key, instance) IN
             (SELECT mesh, key, instance FROM instances WHERE at <= ? LIMIT ?)",
            INSTANCE_MEMORY,
        ),
    ] {
        let until = int(now.saturating_sub(ms(memory)));
        let done = sqlx::query(forget).bind(until).bind(SWEEP_BATCH).execute(&mut *db).await?;
        more |= done.rows_affected() == u64::from(SWEEP_BATCH);
    }
    Ok(Swept { expired, forgotten, more })
}
