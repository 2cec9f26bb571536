//! The one write transaction. Its operations cannot fail, and are not undone.

use async_trait::async_trait;
use meshwire_signaling::limits::MAX_GROUPS;
use meshwire_signaling::receipt::Verdict;
use meshwire_signaling::{InstanceId, MeshId, PublicKey, UnixMillis};
use tokio::sync::OwnedMutexGuard;

use super::{State, Word};
use crate::core::accept::Plan;
use crate::core::presence::ConnId;
use crate::store::{
    Accepted, Claim, Claimed, DelegateRow, DeliveryRef, InviteRow, LeaseRow, MAX_DELEGATES,
    MAX_INSTANCES, MAX_LEAVES, MemberRow, Result, SetGroup, Swept, Tx, Vouched,
};

pub(super) struct MemoryTx(pub(super) OwnedMutexGuard<State>);

#[async_trait]
impl Tx for MemoryTx {
    async fn create_mesh(&mut self, name: &str, owner: &MemberRow) -> Result<bool> {
        if self.0.meshes.contains_key(&owner.mesh) {
            return Ok(false);
        }
        self.0.meshes.insert(owner.mesh, name.to_owned());
        self.add_member(owner).await?;
        Ok(true)
    }

    async fn member(&mut self, mesh: &MeshId, key: &PublicKey) -> Result<Option<MemberRow>> {
        Ok(self.0.members.get(&(*mesh, *key)).cloned())
    }

    async fn name_holder(&mut self, mesh: &MeshId, name: &str) -> Result<Option<PublicKey>> {
        let of_mesh = self.0.members.values().filter(|m| m.mesh == *mesh);
        Ok(of_mesh.into_iter().find(|m| m.name == name).map(|m| m.key))
    }

    async fn add_member(&mut self, row: &MemberRow) -> Result<()> {
        self.0.members.insert((row.mesh, row.key), row.clone());
        Ok(())
    }

    async fn seen(&mut self, mesh: &MeshId, key: &PublicKey, at: UnixMillis) -> Result<()> {
        if let Some(m) = self.0.members.get_mut(&(*mesh, *key)) {
            m.seen_at = Some(at);
        }
        Ok(())
    }

    async fn hello(
        &mut self,
        mesh: &MeshId,
        key: &PublicKey,
        instance: &InstanceId,
        counter: u64,
        _: UnixMillis,
    ) -> Result<bool> {
        let list = self.0.instances.entry((*mesh, *key)).or_default();
        if list.iter().any(|(i, last)| i == instance && counter <= *last) {
            return Ok(false);
        }
        // Kept in the order of their last hello, so that the oldest is the first to go.
        list.retain(|(i, _)| i != instance);
        list.push((*instance, counter));
        if list.len() > MAX_INSTANCES as usize {
            list.remove(0);
        }
        Ok(true)
    }

    async fn set_about(
        &mut self,
        mesh: &MeshId,
        member: &PublicKey,
        about: &[u8],
        hidden: bool,
    ) -> Result<()> {
        if let Some(m) = self.0.members.get_mut(&(*mesh, *member)) {
            m.about = Some(about.to_vec());
            m.hidden = hidden;
        }
        Ok(())
    }

    async fn set_group(
        &mut self,
        mesh: &MeshId,
        member: &PublicKey,
        group: &str,
        _: Option<&str>,
        joined: bool,
        at: UnixMillis,
        statement: &[u8],
    ) -> Result<SetGroup> {
        let words = self.0.words.entry((*mesh, *member)).or_default();
        if let Some(known) = words.get(group) {
            if known.at == at && known.statement == statement {
                return Ok(SetGroup::Done);
            }
            if known.at >= at {
                return Ok(SetGroup::Stale);
            }
        }
        let others = words.iter().filter(|(name, w)| w.joined && *name != group).count();
        if joined && others >= MAX_GROUPS {
            return Ok(SetGroup::TooMany);
        }
        words.insert(group.to_owned(), Word { joined, at, statement: statement.to_vec() });
        let mut left: Vec<_> =
            words.iter().filter(|(_, w)| !w.joined).map(|(name, w)| (w.at, name.clone())).collect();
        left.sort_unstable();
        for (_, name) in left.iter().rev().skip(MAX_LEAVES as usize) {
            words.remove(name);
        }
        Ok(SetGroup::Done)
    }

    async fn lease_put(&mut self, row: &LeaseRow) -> Result<()> {
        self.0.leases.insert((row.mesh, row.key), row.clone());
        Ok(())
    }

    async fn lease_end(&mut self, mesh: &MeshId, key: &PublicKey) -> Result<()> {
        self.0.leases.remove(&(*mesh, *key));
        Ok(())
    }

    async fn delegate(&mut self, mesh: &MeshId, key: &PublicKey, word: &Vouched) -> Result<bool> {
        let (slot, member) = ((*mesh, *key), word.member);
        let ended = self.0.ended_at.get(&slot).copied().unwrap_or(0);
        let other = self.0.delegates.get(&slot).is_some_and(|d| d.member != member);
        if other || ended >= word.issued_at {
            return Ok(false);
        }
        let row = DelegateRow { member, kind: word.kind, expires_at: word.expires_at };
        self.0.delegates.insert(slot, row);
        self.0.forget_delegates(mesh, &member, key);
        Ok(true)
    }

    async fn end_delegate(
        &mut self,
        mesh: &MeshId,
        key: &PublicKey,
        member: &PublicKey,
        now: UnixMillis,
    ) -> Result<bool> {
        let theirs = self.0.delegates.get_mut(&(*mesh, *key)).filter(|d| d.member == *member);
        let Some(delegate) = theirs else { return Ok(false) };
        delegate.expires_at = delegate.expires_at.min(now);
        self.0.ended_at.insert((*mesh, *key), now);
        Ok(true)
    }

    async fn create_invite(&mut self, row: &InviteRow) -> Result<bool> {
        if self.0.invites.contains_key(&row.invite) {
            return Ok(false);
        }
        self.0.invites.insert(row.invite, row.clone());
        Ok(true)
    }

    async fn invite(&mut self, invite: &PublicKey) -> Result<Option<InviteRow>> {
        Ok(self.0.invites.get(invite).cloned())
    }

    async fn revoke_invite(
        &mut self,
        mesh: &MeshId,
        invite: &PublicKey,
        at: UnixMillis,
    ) -> Result<bool> {
        match self.0.invites.get_mut(invite) {
            Some(i) if i.mesh == *mesh => {
                i.revoked_at.get_or_insert(at);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn use_invite(&mut self, invite: &PublicKey) -> Result<()> {
        if let Some(i) = self.0.invites.get_mut(invite) {
            i.used = i.used.saturating_add(1);
        }
        Ok(())
    }

    async fn accept(&mut self, plan: &Plan, now: UnixMillis) -> Result<Accepted> {
        Ok(self.0.accept(plan, now))
    }

    async fn claim(&mut self, claim: Claim) -> Result<Vec<Claimed>> {
        Ok(self.0.claim(&claim))
    }

    async fn answer(
        &mut self,
        delivery: &DeliveryRef,
        verdict: Verdict,
        receipt: Option<&[u8]>,
    ) -> Result<bool> {
        Ok(self.0.answer(delivery, verdict, receipt))
    }

    async fn postpone(&mut self, d: &DeliveryRef, until: UnixMillis) -> Result<()> {
        if let Some((_, delivery)) = self.0.delivery(d) {
            delivery.claim = None;
            delivery.claim_until = until;
        }
        Ok(())
    }

    async fn release(&mut self, conn: ConnId) -> Result<u64> {
        Ok(self.0.release(|claim| claim == conn))
    }

    async fn release_for(
        &mut self,
        conn: ConnId,
        mesh: &MeshId,
        recipient: &PublicKey,
    ) -> Result<u64> {
        Ok(self.0.release_for(conn, mesh, recipient))
    }

    async fn release_all(&mut self) -> Result<()> {
        self.0.release(|_| true);
        Ok(())
    }

    async fn confirm(&mut self, delivery: &DeliveryRef) -> Result<()> {
        self.0.confirm(delivery);
        Ok(())
    }

    async fn sweep(&mut self, now: UnixMillis) -> Result<Swept> {
        Ok(self.0.sweep(now))
    }

    async fn set(&mut self, name: &str, value: &[u8]) -> Result<()> {
        self.0.settings.insert(name.to_owned(), value.to_vec());
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl State {
    /// Keeps those of a member's sessions and services that last longest, `fresh` among equals.
    fn forget_delegates(&mut self, mesh: &MeshId, member: &PublicKey, fresh: &PublicKey) {
        let theirs = self.delegates.iter().filter(|((m, _), d)| m == mesh && d.member == *member);
        let mut keys: Vec<_> = theirs.map(|((_, k), d)| (d.expires_at, k == fresh, *k)).collect();
        keys.sort_unstable_by(|a, b| b.cmp(a));
        for (_, _, key) in keys.into_iter().skip(MAX_DELEGATES as usize) {
            self.delegates.remove(&(*mesh, key));
            self.ended_at.remove(&(*mesh, key));
            self.instances.remove(&(*mesh, key));
        }
    }
}
