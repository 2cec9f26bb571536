//! Everything in memory: for simulations and tests, and the second opinion on what SQLite does.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::limits::{SKEW, ms};
use meshwire_signaling::receipt::Verdict;
use meshwire_signaling::{EnvelopeId, Hash, InstanceId, MeshId, PublicKey, UnixMillis};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{
    Accepted, Claim, Claimed, DELEGATE_MEMORY, DeliveryRef, InviteRow, MAX_INSTANCES, MAX_QUEUE,
    MAX_QUEUE_PER_AUTHOR, MemberRow, ReceiptPlace, ReceiptRow, Result, SWEEP_BATCH, Store, Swept,
    Tx, Waiting, state,
};
use crate::core::accept::{Plan, TargetKind};
use crate::core::presence::ConnId;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct MemoryStore(Arc<Mutex<State>>);

#[derive(Debug)]
struct Delivery {
    state: i64,
    attempt: u32,
    claim: Option<ConnId>,
    claim_until: UnixMillis,
    receipt: Option<Vec<u8>>,
    confirmed: bool,
}

#[derive(Debug)]
struct Stored {
    author: PublicKey,
    id: EnvelopeId,
    hash: Hash,
    accepted_at: UnixMillis,
    expires_at: UnixMillis,
    mesh: MeshId,
    priority: u8,
    envelope: Option<Vec<u8>>,
    deliveries: BTreeMap<PublicKey, Delivery>,
}

impl Stored {
    /// The least advanced recipient's state.
    fn public_state(&self) -> MessageState {
        let least = self.deliveries.values().map(|d| d.state).min();
        state::public(least.unwrap_or(state::WAITING))
    }
}

#[derive(Debug)]
struct Delegate {
    member: PublicKey,
    expires_at: UnixMillis,
}

#[derive(Debug, Default)]
struct State {
    members: BTreeMap<(MeshId, PublicKey), MemberRow>,
    meshes: HashMap<MeshId, String>,
    instances: HashMap<(MeshId, PublicKey), Vec<(InstanceId, u64)>>,
    delegates: HashMap<(MeshId, PublicKey), Delegate>,
    invites: HashMap<PublicKey, InviteRow>,
    next: u64,
    accepted: BTreeMap<u64, Stored>,
    ids: HashMap<(MeshId, PublicKey, EnvelopeId), u64>,
    /// Waiting deliveries by recipient, in the order of claims.
    waiting: HashMap<(MeshId, PublicKey), BTreeMap<(u8, u64), ()>>,
    /// How many of them are by each author: (mesh, recipient, author).
    shares: HashMap<(MeshId, PublicKey, PublicKey), usize>,
    settings: HashMap<String, Vec<u8>>,
}

impl State {
    fn delivery(&mut self, d: &DeliveryRef) -> Option<(u64, &mut Delivery)> {
        let seq = *self.ids.get(&(d.mesh, d.author, d.id))?;
        let delivery = self.accepted.get_mut(&seq)?.deliveries.get_mut(&d.recipient)?;
        Some((seq, delivery))
    }

    fn finish(&mut self, seq: u64, recipient: &PublicKey) {
        if let Some(stored) = self.accepted.get_mut(&seq) {
            if let Some(queue) = self.waiting.get_mut(&(stored.mesh, *recipient)) {
                queue.remove(&(stored.priority, seq));
            }
            let share = (stored.mesh, *recipient, stored.author);
            if let Some(n) = self.shares.get_mut(&share) {
                *n = n.saturating_sub(1);
                if *n == 0 {
                    self.shares.remove(&share);
                }
            }
            if stored.deliveries.values().all(|d| d.state != state::WAITING) {
                stored.envelope = None;
            }
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn begin(&self) -> Result<Box<dyn Tx>> {
        Ok(Box::new(MemoryTx(self.0.clone().lock_owned().await)))
    }

    async fn has_mesh(&self, mesh: &MeshId) -> Result<bool> {
        Ok(self.0.lock().await.meshes.contains_key(mesh))
    }

    async fn member(&self, mesh: &MeshId, key: &PublicKey) -> Result<Option<MemberRow>> {
        Ok(self.0.lock().await.members.get(&(*mesh, *key)).cloned())
    }

    async fn members(
        &self,
        mesh: &MeshId,
        after: Option<&PublicKey>,
        limit: usize,
    ) -> Result<Vec<MemberRow>> {
        let state = self.0.lock().await;
        let of_mesh = state.members.values().filter(|m| m.mesh == *mesh);
        let rest = of_mesh.filter(|m| after.is_none_or(|a| m.key > *a));
        Ok(rest.take(limit).cloned().collect())
    }

    async fn counter(
        &self,
        mesh: &MeshId,
        key: &PublicKey,
        instance: &InstanceId,
    ) -> Result<Option<u64>> {
        let state = self.0.lock().await;
        let of_key = state.instances.get(&(*mesh, *key));
        Ok(of_key.and_then(|v| v.iter().find(|i| i.0 == *instance)).map(|i| i.1))
    }

    async fn invite(&self, invite: &PublicKey) -> Result<Option<InviteRow>> {
        Ok(self.0.lock().await.invites.get(invite).cloned())
    }

    async fn invites(&self, mesh: &MeshId, limit: usize) -> Result<Vec<InviteRow>> {
        let state = self.0.lock().await;
        let mut rows: Vec<_> =
            state.invites.values().filter(|i| i.mesh == *mesh).cloned().collect();
        rows.sort_by_key(|i| std::cmp::Reverse(i.created_at));
        rows.truncate(limit);
        Ok(rows)
    }

    async fn joined(&self, invite: &PublicKey, limit: usize) -> Result<Vec<MemberRow>> {
        let state = self.0.lock().await;
        let came = state.members.values().filter(|m| m.invite == Some(*invite));
        let mut rows: Vec<_> = came.cloned().collect();
        rows.sort_by_key(|m| m.joined_at);
        rows.truncate(limit);
        Ok(rows)
    }

    async fn receipts(
        &self,
        mesh: &MeshId,
        author: &PublicKey,
        after: Option<ReceiptPlace>,
        limit: usize,
    ) -> Result<Vec<ReceiptRow>> {
        let state = self.0.lock().await;
        let later = state.accepted.range(after.map_or(0, |(seq, _)| seq)..);
        let of_author = later.filter(|(_, s)| s.mesh == *mesh && s.author == *author);
        let open = of_author.flat_map(|(seq, s)| {
            let unconfirmed = s.deliveries.iter().filter(|(_, d)| !d.confirmed);
            let places = unconfirmed.map(|(recipient, d)| ((*seq, *recipient), d));
            let waiting = places.filter(|(place, _)| after.is_none_or(|a| *place > a));
            waiting.filter_map(|(place, d)| {
                Some(ReceiptRow { place, id: s.id, receipt: d.receipt.clone()? })
            })
        });
        Ok(open.take(limit).collect())
    }

    async fn setting(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.0.lock().await.settings.get(name).cloned())
    }

    async fn waiting(
        &self,
        mesh: &MeshId,
        recipient: &PublicKey,
        conn: ConnId,
        now: UnixMillis,
    ) -> Result<Waiting> {
        let state = self.0.lock().await;
        let queue = state.waiting.get(&(*mesh, *recipient));
        let stored = queue.into_iter().flat_map(BTreeMap::keys);
        let live = stored.filter_map(|(_, seq)| state.accepted.get(seq));
        let mut waiting = Waiting::default();
        for d in live.filter(|s| s.expires_at > now).filter_map(|s| s.deliveries.get(recipient)) {
            let next = waiting.next.map_or(d.claim_until, |n| n.min(d.claim_until));
            waiting.next = Some(next);
            waiting.elsewhere |= d.claim.is_some_and(|c| c != conn) && d.claim_until > now;
        }
        Ok(waiting)
    }

    async fn accepted(
        &self,
        mesh: &MeshId,
        author: &PublicKey,
        id: &EnvelopeId,
    ) -> Result<Option<(Hash, MessageState)>> {
        let state = self.0.lock().await;
        let seq = state.ids.get(&(*mesh, *author, *id));
        Ok(seq.and_then(|seq| state.accepted.get(seq)).map(|s| (s.hash, s.public_state())))
    }

    async fn queue_depth(&self) -> Result<u64> {
        Ok(self.0.lock().await.waiting.values().map(|q| q.len() as u64).sum())
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }
}

struct MemoryTx(OwnedMutexGuard<State>);

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

    async fn delegate(
        &mut self,
        mesh: &MeshId,
        key: &PublicKey,
        member: &PublicKey,
        _: IdentityKind,
        expires_at: UnixMillis,
    ) -> Result<bool> {
        let slot = (*mesh, *key);
        if self.0.delegates.get(&slot).is_some_and(|d| d.member != *member) {
            return Ok(false);
        }
        self.0.delegates.insert(slot, Delegate { member: *member, expires_at });
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
        let s = &mut *self.0;
        let name = (plan.mesh, plan.author, plan.id);
        if let Some(stored) = s.ids.get(&name).and_then(|seq| s.accepted.get(seq)) {
            if stored.hash != plan.hash {
                return Ok(Accepted::Conflict);
            }
            return Ok(Accepted::Duplicate(stored.public_state()));
        }
        let slot = (plan.mesh, plan.recipient);
        match plan.target {
            TargetKind::Member if !s.members.contains_key(&slot) => {
                return Ok(Accepted::UnknownTarget);
            }
            TargetKind::Member => {}
            TargetKind::Delegate => match s.delegates.get(&slot) {
                None => return Ok(Accepted::UnknownTarget),
                Some(d) if d.expires_at <= now => return Ok(Accepted::TargetGone(d.member)),
                Some(_) => {}
            },
        }
        let queue = s.waiting.entry(slot).or_default();
        let share = s.shares.entry((plan.mesh, plan.recipient, plan.author)).or_default();
        if queue.len() >= MAX_QUEUE || *share >= MAX_QUEUE_PER_AUTHOR {
            // Close to a bound, count exactly: what has expired takes no room.
            let live = queue.keys().filter_map(|(_, seq)| s.accepted.get(seq));
            let live: Vec<_> = live.filter(|e| e.expires_at > now).map(|e| e.author).collect();
            let by_author = live.iter().filter(|a| **a == plan.author).count();
            if live.len() >= MAX_QUEUE || by_author >= MAX_QUEUE_PER_AUTHOR {
                return Ok(Accepted::QueueFull);
            }
        }
        *share += 1;
        s.next += 1;
        queue.insert((plan.priority, s.next), ());
        s.ids.insert(name, s.next);
        let delivery = Delivery {
            state: state::WAITING,
            attempt: 0,
            claim: None,
            claim_until: 0,
            receipt: None,
            confirmed: false,
        };
        let stored = Stored {
            author: plan.author,
            id: plan.id,
            hash: plan.hash,
            accepted_at: now,
            expires_at: plan.expires_at,
            mesh: plan.mesh,
            priority: plan.priority,
            envelope: Some(plan.envelope.clone()),
            deliveries: BTreeMap::from([(plan.recipient, delivery)]),
        };
        s.accepted.insert(s.next, stored);
        Ok(Accepted::New)
    }

    async fn claim(&mut self, c: Claim) -> Result<Vec<Claimed>> {
        let s = &mut *self.0;
        let mut claimed = Vec::new();
        let queue = s.waiting.get(&(c.mesh, c.recipient));
        for (_, seq) in queue.into_iter().flat_map(BTreeMap::keys) {
            if claimed.len() >= c.limit {
                break;
            }
            let Some(stored) = s.accepted.get_mut(seq) else { continue };
            let live = stored.expires_at > c.now;
            let Some(d) = stored.deliveries.get_mut(&c.recipient) else { continue };
            let (true, true, Some(envelope)) = (live, d.claim_until <= c.now, &stored.envelope)
            else {
                continue;
            };
            d.claim = Some(c.conn);
            d.claim_until = c.until;
            d.attempt = d.attempt.saturating_add(1);
            claimed.push(Claimed {
                recipient: c.recipient,
                author: stored.author,
                id: stored.id,
                envelope: envelope.clone(),
                accepted_at: stored.accepted_at,
                attempt: d.attempt,
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
        let Some((seq, delivery)) = self.0.delivery(d) else { return Ok(false) };
        if delivery.state != state::WAITING {
            return Ok(false);
        }
        delivery.state = state::of(verdict);
        delivery.receipt = receipt.map(<[u8]>::to_vec);
        delivery.claim = None;
        self.0.finish(seq, &d.recipient);
        Ok(true)
    }

    async fn postpone(&mut self, d: &DeliveryRef, until: UnixMillis) -> Result<()> {
        if let Some((_, delivery)) = self.0.delivery(d) {
            delivery.claim = None;
            delivery.claim_until = until;
        }
        Ok(())
    }

    async fn release(&mut self, conn: ConnId) -> Result<u64> {
        let mut n = 0;
        for d in self.0.accepted.values_mut().flat_map(|s| s.deliveries.values_mut()) {
            if d.claim == Some(conn) {
                d.claim = None;
                d.claim_until = 0;
                n += 1;
            }
        }
        Ok(n)
    }

    async fn release_all(&mut self) -> Result<()> {
        for d in self.0.accepted.values_mut().flat_map(|s| s.deliveries.values_mut()) {
            if d.claim.take().is_some() {
                d.claim_until = 0;
            }
        }
        Ok(())
    }

    async fn confirm(&mut self, d: &DeliveryRef) -> Result<()> {
        let seq = self.0.ids.get(&(d.mesh, d.author, d.id)).copied();
        let stored = seq.and_then(|seq| self.0.accepted.get_mut(&seq));
        for (recipient, delivery) in stored.into_iter().flat_map(|s| &mut s.deliveries) {
            // A session's end is attested by its member, whose key is not the recipient's.
            if *recipient == d.recipient || delivery.state == state::GONE {
                delivery.confirmed = true;
            }
        }
        Ok(())
    }

    async fn sweep(&mut self, now: UnixMillis) -> Result<Swept> {
        let s = &mut *self.0;
        let mut swept = Swept::default();
        let settled = |e: &Stored| e.deliveries.values().all(|d| d.state != state::WAITING);
        let kept = |e: &Stored| settled(e) && e.expires_at > now.saturating_sub(ms(SKEW));
        let over = s.accepted.iter().filter(|(_, e)| e.expires_at <= now && !kept(e));
        let over: Vec<u64> = over.map(|(seq, _)| *seq).take(SWEEP_BATCH as usize).collect();
        for seq in over {
            let Some(stored) = s.accepted.get_mut(&seq) else { continue };
            let mut ended = Vec::new();
            for (recipient, d) in &mut stored.deliveries {
                if d.state == state::WAITING {
                    d.state = state::EXPIRED;
                    d.claim = None;
                    ended.push(*recipient);
                    swept.expired += 1;
                }
            }
            let forget = stored.expires_at <= now.saturating_sub(ms(SKEW));
            let name = (stored.mesh, stored.author, stored.id);
            for recipient in ended {
                s.finish(seq, &recipient);
            }
            if forget {
                s.accepted.remove(&seq);
                s.ids.remove(&name);
                swept.forgotten += 1;
            }
        }
        let batch = u64::from(SWEEP_BATCH);
        swept.more = swept.expired == batch || swept.forgotten == batch;
        s.delegates.retain(|_, d| d.expires_at > now.saturating_sub(ms(DELEGATE_MEMORY)));
        Ok(swept)
    }

    async fn set(&mut self, name: &str, value: &[u8]) -> Result<()> {
        self.0.settings.insert(name.to_owned(), value.to_vec());
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
