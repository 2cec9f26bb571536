//! Everything in memory: for simulations and tests, and the second opinion on what SQLite does.

mod queue;
mod tx;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::{EnvelopeId, Hash, InstanceId, MeshId, PublicKey, UnixMillis};
use tokio::sync::Mutex;

use super::{
    DelegateRow, DeliveryRef, InviteRow, LeaseRow, MAX_ENDED, MemberRow, ReceiptPlace, ReceiptRow,
    Result, Store, Tx, Waiting, state,
};
use crate::core::presence::ConnId;
use tx::MemoryTx;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct MemoryStore(Arc<Mutex<State>>);

#[derive(Debug)]
struct Delivery {
    state: i64,
    attempt: u32,
    claim: Option<ConnId>,
    claim_until: UnixMillis,
    wrap: Option<Vec<u8>>,
    receipt: Option<Vec<u8>>,
    confirmed: bool,
}

#[derive(Debug)]
struct Stored {
    author: PublicKey,
    member: PublicKey,
    id: EnvelopeId,
    hash: Hash,
    accepted_at: UnixMillis,
    expires_at: UnixMillis,
    mesh: MeshId,
    priority: u8,
    envelope: Option<Vec<u8>>,
    attestation: Option<Vec<u8>>,
    deliveries: BTreeMap<PublicKey, Delivery>,
}

impl Stored {
    fn public_state(&self) -> MessageState {
        state::public(state::least_advanced(self.deliveries.values().map(|d| d.state)))
    }
}

/// A member's last word about one group.
#[derive(Debug)]
struct Word {
    joined: bool,
    at: UnixMillis,
    statement: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    members: BTreeMap<(MeshId, PublicKey), MemberRow>,
    meshes: HashMap<MeshId, String>,
    instances: HashMap<(MeshId, PublicKey), Vec<(InstanceId, u64)>>,
    delegates: BTreeMap<(MeshId, PublicKey), DelegateRow>,
    /// When delegates were last ended.
    ended_at: BTreeMap<(MeshId, PublicKey), UnixMillis>,
    leases: BTreeMap<(MeshId, PublicKey), LeaseRow>,
    /// By member, then by group.
    words: BTreeMap<(MeshId, PublicKey), BTreeMap<String, Word>>,
    invites: HashMap<PublicKey, InviteRow>,
    next: u64,
    accepted: BTreeMap<u64, Stored>,
    ids: HashMap<(MeshId, PublicKey, EnvelopeId), u64>,
    /// Waiting deliveries by recipient, in the order of claims.
    waiting: HashMap<(MeshId, PublicKey), BTreeMap<(u8, u64), ()>>,
    /// How many of them are by each member: (mesh, recipient, member).
    shares: HashMap<(MeshId, PublicKey, PublicKey), usize>,
    settings: HashMap<String, Vec<u8>>,
}

impl State {
    fn delivery(&mut self, d: &DeliveryRef) -> Option<(u64, &mut Delivery)> {
        let seq = *self.ids.get(&(d.mesh, d.author, d.id))?;
        let delivery = self.accepted.get_mut(&seq)?.deliveries.get_mut(&d.recipient)?;
        Some((seq, delivery))
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
        urgent_only: bool,
        now: UnixMillis,
    ) -> Result<Waiting> {
        let state = self.0.lock().await;
        let queue = state.waiting.get(&(*mesh, *recipient));
        let stored = queue.into_iter().flat_map(BTreeMap::keys);
        let stored = stored.filter(|(priority, _)| !urgent_only || *priority == 0);
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

    async fn delegate(&self, mesh: &MeshId, key: &PublicKey) -> Result<Option<DelegateRow>> {
        Ok(self.0.lock().await.delegates.get(&(*mesh, *key)).copied())
    }

    async fn ended_with_mail(
        &self,
        mesh: &MeshId,
        member: &PublicKey,
        now: UnixMillis,
    ) -> Result<Vec<PublicKey>> {
        let state = self.0.lock().await;
        let theirs = |d: &DelegateRow| d.member == *member && d.expires_at <= now;
        let ended = state.delegates.iter().filter(|((m, _), d)| m == mesh && theirs(d));
        let has_mail = |slot: &&(MeshId, PublicKey)| {
            let mut waiting = state.waiting.get(*slot).into_iter().flat_map(BTreeMap::keys);
            waiting.any(|(_, seq)| state.accepted.get(seq).is_some_and(|s| s.expires_at > now))
        };
        let with_mail = ended.map(|(slot, _)| slot).filter(has_mail);
        Ok(with_mail.map(|(_, key)| *key).take(MAX_ENDED).collect())
    }

    async fn leases(&self) -> Result<Vec<LeaseRow>> {
        Ok(self.0.lock().await.leases.values().cloned().collect())
    }

    async fn groups_of(
        &self,
        mesh: &MeshId,
        members: &[PublicKey],
    ) -> Result<Vec<(PublicKey, Vec<u8>)>> {
        let state = self.0.lock().await;
        let mut members = members.to_vec();
        members.sort_unstable();
        members.dedup();
        let mut found = Vec::new();
        for member in members {
            let words = state.words.get(&(*mesh, member)).into_iter().flat_map(BTreeMap::values);
            found.extend(words.filter(|w| w.joined).map(|w| (member, w.statement.clone())));
        }
        Ok(found)
    }

    async fn queue_depth(&self) -> Result<u64> {
        Ok(self.0.lock().await.waiting.values().map(|q| q.len() as u64).sum())
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }
}
