//! The one write transaction.

use async_trait::async_trait;
use meshwire_signaling::receipt::Verdict;
use meshwire_signaling::{InstanceId, MeshId, PublicKey, UnixMillis};
use sqlx::{Sqlite, Transaction};

use super::rows::{SELECT_INVITE, SELECT_MEMBER, int, invite_row, key, member_row};
use super::{accept, groups, leases, queue, sweep};
use crate::core::accept::Plan;
use crate::core::presence::ConnId;
use crate::store::{
    Accepted, Claim, Claimed, DeliveryRef, InviteRow, LeaseRow, MAX_INSTANCES, MemberRow, Result,
    SetGroup, Swept, Tx, Vouched,
};

pub(super) struct SqliteTx(pub(super) Transaction<'static, Sqlite>);

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
            "INSERT INTO members (mesh, key, name, role, chain, invite, joined_at, about, hidden)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&row.mesh.0[..])
        .bind(&row.key.0[..])
        .bind(&row.name)
        .bind(row.role.as_str())
        .bind(&row.chain)
        .bind(row.invite.map(|k| k.0.to_vec()))
        .bind(int(row.joined_at))
        .bind(row.about.as_deref())
        .bind(row.hidden)
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

    async fn set_about(
        &mut self,
        mesh: &MeshId,
        member: &PublicKey,
        about: &[u8],
        hidden: bool,
    ) -> Result<()> {
        sqlx::query("UPDATE members SET about = ?, hidden = ? WHERE mesh = ? AND key = ?")
            .bind(about)
            .bind(hidden)
            .bind(&mesh.0[..])
            .bind(&member.0[..])
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    async fn set_group(
        &mut self,
        mesh: &MeshId,
        member: &PublicKey,
        group: &str,
        role: Option<&str>,
        joined: bool,
        at: UnixMillis,
        statement: &[u8],
    ) -> Result<SetGroup> {
        let word = groups::Word { group, role, joined, at, statement };
        groups::set(&mut self.0, mesh, member, word).await
    }

    async fn lease_put(&mut self, row: &LeaseRow) -> Result<()> {
        leases::put(&mut self.0, row).await
    }

    async fn lease_end(&mut self, mesh: &MeshId, key: &PublicKey) -> Result<()> {
        leases::end(&mut self.0, mesh, key).await
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

    async fn delegate(&mut self, mesh: &MeshId, key: &PublicKey, word: &Vouched) -> Result<bool> {
        leases::delegate(&mut self.0, mesh, key, word).await
    }

    async fn end_delegate(
        &mut self,
        mesh: &MeshId,
        key: &PublicKey,
        member: &PublicKey,
        now: UnixMillis,
    ) -> Result<bool> {
        leases::end_delegate(&mut self.0, mesh, key, member, now).await
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
        accept::accept(&mut self.0, plan, now).await
    }

    async fn claim(&mut self, claim: Claim) -> Result<Vec<Claimed>> {
        queue::claim(&mut self.0, claim).await
    }

    async fn answer(
        &mut self,
        delivery: &DeliveryRef,
        verdict: Verdict,
        receipt: Option<&[u8]>,
    ) -> Result<bool> {
        queue::answer(&mut self.0, delivery, verdict, receipt).await
    }

    async fn postpone(&mut self, delivery: &DeliveryRef, until: UnixMillis) -> Result<()> {
        queue::postpone(&mut self.0, delivery, until).await
    }

    async fn release(&mut self, conn: ConnId) -> Result<u64> {
        queue::release(&mut self.0, conn).await
    }

    async fn release_for(
        &mut self,
        conn: ConnId,
        mesh: &MeshId,
        recipient: &PublicKey,
    ) -> Result<u64> {
        queue::release_for(&mut self.0, conn, mesh, recipient).await
    }

    async fn release_all(&mut self) -> Result<()> {
        queue::release_all(&mut self.0).await
    }

    async fn confirm(&mut self, delivery: &DeliveryRef) -> Result<()> {
        queue::confirm(&mut self.0, delivery).await
    }

    async fn sweep(&mut self, now: UnixMillis) -> Result<Swept> {
        sweep::sweep(&mut self.0, now).await
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
