//! The one write transaction.

use async_trait::async_trait;
use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::limits::{SKEW, ms};
use meshwire_signaling::receipt::Verdict;
use meshwire_signaling::{InstanceId, MeshId, PublicKey, UnixMillis};
use sqlx::{Row as _, Sqlite, Transaction};

use super::rows::{
    SELECT_ACCEPTED, SELECT_INVITE, SELECT_MEMBER, id, int, invite_row, key, member_row, small,
    time,
};
use crate::core::accept::{Plan, TargetKind};
use crate::core::presence::ConnId;
use crate::store::{
    Accepted, Claim, Claimed, DELEGATE_MEMORY, DeliveryRef, INSTANCE_MEMORY, InviteRow,
    MAX_INSTANCES, MAX_QUEUE, MAX_QUEUE_PER_AUTHOR, MemberRow, Result, SWEEP_BATCH, Swept, Tx,
    same, state,
};

pub(super) struct SqliteTx(pub(super) Transaction<'static, Sqlite>);

impl SqliteTx {
    async fn target_missing(&mut self, plan: &Plan, now: UnixMillis) -> Result<Option<Accepted>> {
        if plan.target == TargetKind::Member {
            let there = self.member(&plan.mesh, &plan.recipient).await?.is_some();
            return Ok((!there).then_some(Accepted::UnknownTarget));
        }
        let row =
            sqlx::query("SELECT member, expires_at FROM delegates WHERE mesh = ? AND key = ?")
                .bind(&plan.mesh.0[..])
                .bind(&plan.recipient.0[..])
                .fetch_optional(&mut *self.0)
                .await?;
        Ok(match row {
            None => Some(Accepted::UnknownTarget),
            Some(r) if time(&r, "expires_at")? <= now => {
                Some(Accepted::TargetGone(key(&r, "member")?))
            }
            Some(_) => None,
        })
    }

    /// Whether a recipient's queue, or an author's share of it, is full. Indexes alone answer that;
    /// only close to a bound it is counted what has expired and takes no room.
    async fn queue_full(&mut self, plan: &Plan, now: UnixMillis) -> Result<bool> {
        const NEAR: &str = "SELECT
             EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_by_author
                     WHERE mesh = ?1 AND recipient = ?2 AND state = 0 LIMIT 1 OFFSET ?5)
             OR EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_by_author
                        WHERE mesh = ?1 AND recipient = ?2 AND author = ?3 AND state = 0
                        LIMIT 1 OFFSET ?6) AS full, ?4";
        const EXACT: &str = "SELECT COUNT(*) > ?5 OR SUM(author = ?3) > ?6 AS full FROM deliveries
             WHERE mesh = ?1 AND recipient = ?2 AND state = 0 AND expires_at > ?4";
        for query in [NEAR, EXACT] {
            let row = sqlx::query(query)
                .bind(&plan.mesh.0[..])
                .bind(&plan.recipient.0[..])
                .bind(&plan.author.0[..])
                .bind(int(now))
                .bind(int(MAX_QUEUE as u64 - 1))
                .bind(int(MAX_QUEUE_PER_AUTHOR as u64 - 1))
                .fetch_one(&mut *self.0)
                .await?;
            if row.try_get::<Option<i64>, _>("full")? != Some(1) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[async_trait]
impl Tx for SqliteTx {
    async fn create_mesh(&mut self, name: &str, owner: &MemberRow) -> Result<bool> {
        let done = sqlx::query(
            "INSERT INTO meshes (mesh, name, owner, created_at) VALUES (?, ?, ?, ?)
             ON CONFLICT DO NOTHING",
        )
        .bind(&owner.mesh.0[..])
        .bind(name)
        .bind(&owner.key.0[..])
        .bind(int(owner.joined_at))
        .execute(&mut *self.0)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        self.add_member(owner).await?;
        Ok(true)
    }

    async fn member(&mut self, mesh: &MeshId, key: &PublicKey) -> Result<Option<MemberRow>> {
        let row = sqlx::query(SELECT_MEMBER).bind(&mesh.0[..]).bind(&key.0[..]);
        row.fetch_optional(&mut *self.0).await?.as_ref().map(member_row).transpose()
    }

    async fn name_holder(&mut self, mesh: &MeshId, name: &str) -> Result<Option<PublicKey>> {
        let row = sqlx::query("SELECT key FROM members WHERE mesh = ? AND name = ?")
            .bind(&mesh.0[..])
            .bind(name)
            .fetch_optional(&mut *self.0)
            .await?;
        row.map(|r| key(&r, "key")).transpose()
    }

    async fn add_member(&mut self, row: &MemberRow) -> Result<()> {
        sqlx::query(
            "INSERT INTO members (mesh, key, name, role, chain, invite, joined_at)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&row.mesh.0[..])
        .bind(&row.key.0[..])
        .bind(&row.name)
        .bind(row.role.as_str())
        .bind(&row.chain)
        .bind(row.invite.map(|k| k.0.to_vec()))
        .bind(int(row.joined_at))
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }

    async fn seen(&mut self, mesh: &MeshId, key: &PublicKey, at: UnixMillis) -> Result<()> {
        sqlx::query("UPDATE members SET seen_at = ? WHERE mesh = ? AND key = ?")
            .bind(int(at))
            .bind(&mesh.0[..])
            .bind(&key.0[..])
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    async fn hello(
        &mut self,
        mesh: &MeshId,
        key: &PublicKey,
        instance: &InstanceId,
        counter: u64,
        at: UnixMillis,
    ) -> Result<bool> {
        let done = sqlx::query(
            "INSERT INTO instances (mesh, key, instance, counter, at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (mesh, key, instance) DO UPDATE SET counter = ?4, at = ?5
             WHERE counter < ?4",
        )
        .bind(&mesh.0[..])
        .bind(&key.0[..])
        .bind(&instance.0[..])
        .bind(int(counter))
        .bind(int(at))
        .execute(&mut *self.0)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query(
            "DELETE FROM instances WHERE mesh = ?1 AND key = ?2 AND instance NOT IN
             (SELECT instance FROM instances WHERE mesh = ?1 AND key = ?2
              ORDER BY at DESC, instance = ?4 DESC LIMIT ?3)",
        )
        .bind(&mesh.0[..])
        .bind(&key.0[..])
        .bind(i64::from(MAX_INSTANCES))
        .bind(&instance.0[..])
        .execute(&mut *self.0)
        .await?;
        Ok(true)
    }

    async fn delegate(
        &mut self,
        mesh: &MeshId,
        key: &PublicKey,
        member: &PublicKey,
        kind: IdentityKind,
        expires_at: UnixMillis,
    ) -> Result<bool> {
        let kind = if kind == IdentityKind::Service { "service" } else { "session" };
        let done = sqlx::query(
            "INSERT INTO delegates (mesh, key, member, kind, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (mesh, key) DO UPDATE SET kind = ?4, expires_at = ?5 WHERE member = ?3",
        )
        .bind(&mesh.0[..])
        .bind(&key.0[..])
        .bind(&member.0[..])
        .bind(kind)
        .bind(int(expires_at))
        .execute(&mut *self.0)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    async fn create_invite(&mut self, row: &InviteRow) -> Result<bool> {
        let done = sqlx::query(
            "INSERT INTO invites (invite, mesh, issuer, capability, uses, expires_at, created_at)
             VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(&row.invite.0[..])
        .bind(&row.mesh.0[..])
        .bind(&row.issuer.0[..])
        .bind(&row.capability)
        .bind(i64::from(row.uses))
        .bind(int(row.expires_at))
        .bind(int(row.created_at))
        .execute(&mut *self.0)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    async fn invite(&mut self, invite: &PublicKey) -> Result<Option<InviteRow>> {
        let row = sqlx::query(SELECT_INVITE).bind(&invite.0[..]);
        row.fetch_optional(&mut *self.0).await?.as_ref().map(invite_row).transpose()
    }

    async fn revoke_invite(
        &mut self,
        mesh: &MeshId,
        invite: &PublicKey,
        at: UnixMillis,
    ) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE invites SET revoked_at = COALESCE(revoked_at, ?) WHERE invite = ? AND mesh = ?",
        )
        .bind(int(at))
        .bind(&invite.0[..])
        .bind(&mesh.0[..])
        .execute(&mut *self.0)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    async fn use_invite(&mut self, invite: &PublicKey) -> Result<()> {
        sqlx::query("UPDATE invites SET used = used + 1 WHERE invite = ?")
            .bind(&invite.0[..])
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    async fn accept(&mut self, plan: &Plan, now: UnixMillis) -> Result<Accepted> {
        let id = plan.id.to_string();
        let known = sqlx::query(SELECT_ACCEPTED)
            .bind(&plan.mesh.0[..])
            .bind(&plan.author.0[..])
            .bind(&id)
            .fetch_optional(&mut *self.0)
            .await?;
        if let Some(row) = known {
            if !same(row.try_get("hash")?, &plan.hash) {
                return Ok(Accepted::Conflict);
            }
            return Ok(Accepted::Duplicate(state::public(row.try_get("state")?)));
        }
        if let Some(refused) = self.target_missing(plan, now).await? {
            return Ok(refused);
        }
        if self.queue_full(plan, now).await? {
            return Ok(Accepted::QueueFull);
        }
        let seq = sqlx::query(
            "INSERT INTO accepted (mesh, author, id, hash, accepted_at, expires_at)
             VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(&plan.mesh.0[..])
        .bind(&plan.author.0[..])
        .bind(&id)
        .bind(&plan.hash.0[..])
        .bind(int(now))
        .bind(int(plan.expires_at))
        .execute(&mut *self.0)
        .await?
        .last_insert_rowid();
        sqlx::query("INSERT INTO bodies (seq, envelope) VALUES (?, ?)")
            .bind(seq)
            .bind(&plan.envelope)
            .execute(&mut *self.0)
            .await?;
        sqlx::query(
            "INSERT INTO deliveries (seq, recipient, mesh, author, priority, expires_at)
             VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(seq)
        .bind(&plan.recipient.0[..])
        .bind(&plan.mesh.0[..])
        .bind(&plan.author.0[..])
        .bind(i64::from(plan.priority))
        .bind(int(plan.expires_at))
        .execute(&mut *self.0)
        .await?;
        Ok(Accepted::New)
    }

    async fn claim(&mut self, c: Claim) -> Result<Vec<Claimed>> {
        let rows = sqlx::query(
            "UPDATE deliveries SET claim = ?1, claim_until = ?2, attempt = attempt + 1
             WHERE recipient = ?4 AND seq IN
               (SELECT seq FROM deliveries
                WHERE mesh = ?3 AND recipient = ?4 AND state = 0 AND claim_until <= ?5
                  AND expires_at > ?5
                ORDER BY priority, seq LIMIT ?6)
             RETURNING seq, priority, attempt",
        )
        .bind(int(c.conn))
        .bind(int(c.until))
        .bind(&c.mesh.0[..])
        .bind(&c.recipient.0[..])
        .bind(int(c.now))
        .bind(int(c.limit as u64))
        .fetch_all(&mut *self.0)
        .await?;
        let mut order = Vec::with_capacity(rows.len());
        for row in &rows {
            let sort: (i64, i64) = (row.try_get("priority")?, row.try_get("seq")?);
            order.push((sort, small(row, "attempt")?));
        }
        // RETURNING promises no order.
        order.sort_unstable();
        let mut claimed = Vec::with_capacity(order.len());
        for ((_, seq), attempt) in order {
            let row = sqlx::query(
                "SELECT a.author, a.id, a.accepted_at, b.envelope
                 FROM accepted a JOIN bodies b USING (seq) WHERE a.seq = ?",
            )
            .bind(seq)
            .fetch_one(&mut *self.0)
            .await?;
            claimed.push(Claimed {
                recipient: c.recipient,
                author: key(&row, "author")?,
                id: id(&row)?,
                envelope: row.try_get("envelope")?,
                accepted_at: time(&row, "accepted_at")?,
                attempt,
            });
        }
        Ok(claimed)
    }

    async fn answer(
        &mut self,
        d: &DeliveryRef,
        verdict: Verdict,
        receipt: Option<&[u8]>,
    ) -> Result<bool> {
        let row = sqlx::query(
            "UPDATE deliveries SET state = ?1, receipt = ?2, claim = NULL, claim_until = 0
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
        .fetch_optional(&mut *self.0)
        .await?;
        let Some(row) = row else { return Ok(false) };
        let seq: i64 = row.try_get("seq")?;
        sqlx::query(
            "DELETE FROM bodies WHERE seq = ?1 AND NOT EXISTS
             (SELECT 1 FROM deliveries WHERE seq = ?1 AND state = 0)",
        )
        .bind(seq)
        .execute(&mut *self.0)
        .await?;
        Ok(true)
    }

    async fn postpone(&mut self, d: &DeliveryRef, until: UnixMillis) -> Result<()> {
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
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }

    async fn release(&mut self, conn: ConnId) -> Result<u64> {
        let done =
            sqlx::query("UPDATE deliveries SET claim = NULL, claim_until = 0 WHERE claim = ?")
                .bind(int(conn))
                .execute(&mut *self.0)
                .await?;
        Ok(done.rows_affected())
    }

    async fn release_all(&mut self) -> Result<()> {
        sqlx::query("UPDATE deliveries SET claim = NULL, claim_until = 0 WHERE claim IS NOT NULL")
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    async fn confirm(&mut self, d: &DeliveryRef) -> Result<()> {
        sqlx::query(
            // A session's end is attested by its member, whose key is not the recipient's.
            "UPDATE deliveries SET confirmed = 1 WHERE (recipient = ? OR state = 3) AND seq =
               (SELECT seq FROM accepted WHERE mesh = ? AND author = ? AND id = ?)",
        )
        .bind(&d.recipient.0[..])
        .bind(&d.mesh.0[..])
        .bind(&d.author.0[..])
        .bind(d.id.to_string())
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }

    async fn sweep(&mut self, now: UnixMillis) -> Result<Swept> {
        let expired = sqlx::query(
            "UPDATE deliveries SET state = ?1, claim = NULL WHERE (seq, recipient) IN
             (SELECT seq, recipient FROM deliveries WHERE state = 0 AND expires_at <= ?2 LIMIT ?3)",
        )
        .bind(state::EXPIRED)
        .bind(int(now))
        .bind(SWEEP_BATCH)
        .execute(&mut *self.0)
        .await?;
        let bodies = sqlx::query(
            "DELETE FROM bodies WHERE seq IN
             (SELECT seq FROM accepted JOIN bodies USING (seq) WHERE expires_at <= ? LIMIT ?)",
        )
        .bind(int(now))
        .bind(SWEEP_BATCH)
        .execute(&mut *self.0)
        .await?;
        let forgotten = sqlx::query(
            "DELETE FROM accepted WHERE seq IN
             (SELECT seq FROM accepted WHERE expires_at <= ? LIMIT ?)",
        )
        .bind(int(now.saturating_sub(ms(SKEW))))
        .bind(SWEEP_BATCH)
        .execute(&mut *self.0)
        .await?;
        for (forget, memory) in [
            ("DELETE FROM delegates WHERE expires_at <= ?", DELEGATE_MEMORY),
            ("DELETE FROM instances WHERE at <= ?", INSTANCE_MEMORY),
        ] {
            sqlx::query(forget)
                .bind(int(now.saturating_sub(ms(memory))))
                .execute(&mut *self.0)
                .await?;
        }
        let (expired, forgotten) = (expired.rows_affected(), forgotten.rows_affected());
        let batch = u64::from(SWEEP_BATCH);
        let more = expired == batch || bodies.rows_affected() == batch || forgotten == batch;
        Ok(Swept { expired, forgotten, more })
    }

    async fn set(&mut self, name: &str, value: &[u8]) -> Result<()> {
        sqlx::query(
            "INSERT INTO settings (name, value) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET value = ?2",
        )
        .bind(name)
        .bind(value)
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        Ok(self.0.commit().await?)
    }
}
