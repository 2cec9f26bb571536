//! The store's double: in memory, with the same behaviour, under one lock. For tests and
//! simulations; it has no timers and never waits.

mod identities;
mod inbox;
mod outbox;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use meshwire_signaling::invite::Chain;
use meshwire_signaling::{EnvelopeId, Hash, InstanceId, MeshId, PublicKey, UnixMillis};

use super::rows::{
    Arrived, Enqueued, Freeze, GroupRow, InboxDelete, InboxFilter, InboxRow, MemberRow, MeshRow,
    NewId, NewMember, NewOutbox, OutboxFilter, OutboxMeta, OutboxRow, Pick, PinOutcome,
    PresenceRow, Pruned, RecipientRow, Requeue, Rewrap, SessionRow, Step, Stepped, key_range,
    pin_outcome,
};
use super::{CURSOR_RETENTION_MS, PeerStore, RETENTION_MS, StoreError, StoreResult};
use crate::core::gate::Arrival;
use crate::core::inbox::Item;
use crate::core::order::Counter;

#[derive(Debug)]
struct Mesh {
    row: MeshRow,
    instance: InstanceId,
    hellos: u64,
}

#[derive(Debug)]
struct Cursor {
    last: u64,
    touched_at: UnixMillis,
}

#[derive(Debug, Default)]
struct State {
    meshes: BTreeMap<MeshId, Mesh>,
    seqs: HashMap<Counter, u64>,
    outbox: BTreeMap<i64, OutboxRow>,
    outbox_ids: HashMap<(MeshId, EnvelopeId), i64>,
    /// Rows of the outbox that are open: all that a sender with a long history looks through.
    open: BTreeSet<i64>,
    last_outbox: i64,
    /// Of groups' messages, by name and key.
    recipients: HashMap<i64, Vec<RecipientRow>>,
    seen: HashMap<(MeshId, PublicKey, EnvelopeId), (Hash, UnixMillis)>,
    inbox: BTreeMap<i64, InboxRow>,
    inbox_ids: HashMap<(MeshId, PublicKey, EnvelopeId), i64>,
    last_inbox: i64,
    last_order: u64,
    cursors: HashMap<Counter, Cursor>,
    roster: BTreeMap<(MeshId, PublicKey), (MemberRow, Chain)>,
    pins: HashMap<(MeshId, String), PublicKey>,
    sessions: BTreeMap<(MeshId, PublicKey), SessionRow>,
    ended: BTreeMap<(MeshId, PublicKey), UnixMillis>,
    presence: HashMap<(MeshId, PublicKey), PresenceRow>,
    groups: BTreeMap<(MeshId, String, PublicKey), GroupRow>,
    /// What sessions have read.
    read: HashMap<(i64, PublicKey), UnixMillis>,
}

/// A [`PeerStore`] that forgets everything when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<State>);

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn mesh(&mut self, mesh: &MeshId) -> StoreResult<&mut Mesh> {
        self.meshes.get_mut(mesh).ok_or(StoreError::UnknownMesh(*mesh))
    }

    fn remove_mesh(&mut self, mesh: &MeshId) -> bool {
        self.seqs.retain(|c, _| c.mesh != *mesh);
        self.outbox.retain(|_, r| r.meta.mesh != *mesh);
        self.outbox_ids.retain(|(m, _), _| m != mesh);
        self.forget_recipients();
        self.forget_open();
        self.seen.retain(|(m, ..), _| m != mesh);
        self.inbox.retain(|_, r| r.item.mesh != *mesh);
        self.inbox_ids.retain(|(m, ..), _| m != mesh);
        self.cursors.retain(|c, _| c.mesh != *mesh);
        self.roster.retain(|(m, _), _| m != mesh);
        self.pins.retain(|(m, _), _| m != mesh);
        self.sessions.retain(|(m, _), _| m != mesh);
        self.ended.retain(|(m, _), _| m != mesh);
        self.presence.retain(|(m, _), _| m != mesh);
        self.groups.retain(|(m, ..), _| m != mesh);
        self.forget_read();
        self.meshes.remove(mesh).is_some()
    }

    fn upsert(&mut self, new: &NewMember) -> StoreResult<PinOutcome> {
        self.mesh(&new.mesh)?;
        let pinned = *self.pins.entry((new.mesh, new.name.clone())).or_insert(new.key);
        let row = MemberRow {
            mesh: new.mesh,
            key: new.key,
            name: new.name.clone(),
            role: new.role,
            fingerprint: new.chain.fingerprint(),
            first_seen_at: new.now,
        };
        let old_name = match self.roster.entry((new.mesh, new.key)) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert((row, new.chain.clone()));
                None
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let first_seen_at = entry.get().0.first_seen_at;
                let old = entry.insert((MemberRow { first_seen_at, ..row }, new.chain.clone()));
                Some(old.0.name)
            }
        };
        Ok(pin_outcome(new, old_name, pinned))
    }

    fn members(&self, fits: impl Fn(&MemberRow) -> bool) -> Vec<MemberRow> {
        let all = self.roster.values().map(|(row, _)| row);
        let mut out: Vec<MemberRow> = all.filter(|row| fits(row)).cloned().collect();
        out.sort_by(|a, b| (&a.name, a.key, a.mesh).cmp(&(&b.name, b.key, b.mesh)));
        out
    }

    fn prune(&mut self, now: UnixMillis) -> Pruned {
        let old = now.saturating_sub(RETENTION_MS);
        let silent = now.saturating_sub(CURSOR_RETENTION_MS);
        let before = (self.seen.len(), self.inbox.len(), self.outbox.len(), self.cursors.len());
        self.seen.retain(|_, (_, keep_until)| *keep_until >= now);
        self.inbox.retain(|_, r| r.surfaced_at.is_none_or(|at| at >= old));
        self.outbox.retain(|_, r| r.meta.state.is_open() || r.meta.expires_at >= old);
        let State { outbox, outbox_ids, inbox, inbox_ids, .. } = self;
        outbox_ids.retain(|_, row| outbox.contains_key(row));
        inbox_ids.retain(|_, row| inbox.contains_key(row));
        self.forget_recipients();
        self.forget_open();
        self.cursors.retain(|_, c| c.touched_at >= silent);
        self.forget_read();
        let State { ended, sessions, .. } = self;
        ended.retain(|key, at| *at >= old || sessions.contains_key(key));
        Pruned {
            seen: (before.0 - self.seen.len()) as u64,
            inbox: (before.1 - self.inbox.len()) as u64,
            outbox: (before.2 - self.outbox.len()) as u64,
            cursors: (before.3 - self.cursors.len()) as u64,
        }
    }
}

/// The only row, or why there is none.
fn only<T>(prefix: &str, mut found: Vec<(EnvelopeId, T)>) -> StoreResult<T> {
    if found.len() > 1 {
        let candidates = found.iter().map(|(id, _)| *id).take(super::MAX_CANDIDATES).collect();
        return Err(StoreError::Ambiguous { prefix: prefix.to_owned(), candidates });
    }
    found.pop().map(|(_, row)| row).ok_or_else(|| StoreError::NotFound(prefix.to_owned()))
}

#[async_trait]
impl PeerStore for MemoryStore {
    async fn mesh_insert(&self, row: &MeshRow, instance: InstanceId) -> StoreResult<()> {
        let mut state = self.state();
        if state.meshes.contains_key(&row.mesh) {
            return Err(StoreError::MeshExists(row.mesh));
        }
        state.meshes.insert(row.mesh, Mesh { row: row.clone(), instance, hellos: 0 });
        Ok(())
    }
    async fn mesh_list(&self) -> StoreResult<Vec<MeshRow>> {
        let mut out: Vec<_> = self.state().meshes.values().map(|m| m.row.clone()).collect();
        out.sort_by_key(|row| (row.joined_at, row.mesh));
        Ok(out)
    }
    async fn mesh_get(&self, mesh: &MeshId) -> StoreResult<Option<MeshRow>> {
        Ok(self.state().meshes.get(mesh).map(|m| m.row.clone()))
    }
    async fn mesh_remove(&self, mesh: &MeshId) -> StoreResult<bool> {
        Ok(self.state().remove_mesh(mesh))
    }
    async fn instance(&self, mesh: &MeshId) -> StoreResult<InstanceId> {
        Ok(self.state().mesh(mesh)?.instance)
    }
    async fn next_hello(&self, mesh: &MeshId) -> StoreResult<(InstanceId, u64)> {
        let mut state = self.state();
        let mesh = state.mesh(mesh)?;
        mesh.hellos += 1;
        Ok((mesh.instance, mesh.hellos))
    }
    async fn renew_instance(&self, mesh: &MeshId, new: InstanceId) -> StoreResult<()> {
        let mut state = self.state();
        let found = state.mesh(mesh)?;
        (found.instance, found.hellos) = (new, 0);
        state.seqs.retain(|c, _| c.mesh != *mesh);
        Ok(())
    }
    async fn enqueue(&self, new: &NewOutbox, freeze: Freeze<'_>) -> StoreResult<Enqueued> {
        self.state().enqueue(new, freeze)
    }
    async fn due(
        &self,
        mesh: &MeshId,
        now: UnixMillis,
        limit: u32,
        pick: Pick<'_>,
    ) -> StoreResult<Vec<OutboxRow>> {
        Ok(self.state().due(mesh, now, limit, pick))
    }
    async fn next_due(
        &self,
        mesh: &MeshId,
        now: UnixMillis,
        pick: Pick<'_>,
    ) -> StoreResult<Option<UnixMillis>> {
        Ok(self.state().next_due(mesh, now, pick))
    }
    async fn unsend(&self, mesh: &MeshId, peer: Option<&PublicKey>) -> StoreResult<u64> {
        Ok(self.state().unsend(mesh, peer))
    }
    async fn hasten(&self, mesh: &MeshId, peer: &PublicKey, now: UnixMillis) -> StoreResult<u64> {
        Ok(self.state().hasten(mesh, peer, now))
    }
    async fn reset_inflight(&self, mesh: &MeshId) -> StoreResult<u64> {
        Ok(self.state().reset_inflight(mesh))
    }
    async fn step(&self, steps: &[Step]) -> StoreResult<Vec<Stepped>> {
        let mut state = self.state();
        Ok(steps.iter().map(|step| state.step(step)).collect())
    }
    async fn expire(&self, now: UnixMillis, limit: u32) -> StoreResult<Vec<OutboxMeta>> {
        Ok(self.state().expire(now, limit))
    }
    async fn requeue(&self, requeue: Requeue, freeze: Freeze<'_>) -> StoreResult<OutboxRow> {
        self.state().requeue(&requeue, freeze)
    }
    async fn rewrap(&self, change: &Rewrap) -> StoreResult<bool> {
        Ok(self.state().rewrap(change))
    }
    async fn recipients(&self, row: i64) -> StoreResult<Vec<RecipientRow>> {
        Ok(self.state().recipients.get(&row).cloned().unwrap_or_default())
    }
    async fn outbox_get(&self, mesh: &MeshId, id: &EnvelopeId) -> StoreResult<Option<OutboxRow>> {
        let state = self.state();
        let row = state.outbox_ids.get(&(*mesh, *id));
        Ok(row.and_then(|row| state.outbox.get(row)).cloned())
    }
    async fn outbox_meta(&self, mesh: &MeshId, id: &EnvelopeId) -> StoreResult<Option<OutboxMeta>> {
        let state = self.state();
        let row = state.outbox_ids.get(&(*mesh, *id)).and_then(|row| state.outbox.get(row));
        Ok(row.map(|row| row.meta.clone()))
    }
    async fn outbox_find(
        &self,
        mesh: Option<&MeshId>,
        author: Option<&PublicKey>,
        prefix: &str,
    ) -> StoreResult<OutboxRow> {
        self.state().outbox_find(mesh, author, prefix)
    }
    async fn outbox_list(&self, filter: &OutboxFilter) -> StoreResult<Vec<OutboxMeta>> {
        Ok(self.state().outbox_list(filter))
    }
    async fn accept_inbound(&self, items: &[(Item, UnixMillis)]) -> StoreResult<Vec<Arrived>> {
        self.state().accept(items)
    }
    async fn remember(&self, ids: &[NewId]) -> StoreResult<Vec<bool>> {
        self.state().remember(ids)
    }
    async fn sync(&self) -> StoreResult<()> {
        Ok(())
    }
    async fn seen(
        &self,
        mesh: &MeshId,
        author: &PublicKey,
        id: &EnvelopeId,
    ) -> StoreResult<Option<Hash>> {
        Ok(self.state().seen.get(&(*mesh, *author, *id)).map(|(hash, _)| *hash))
    }
    async fn surface(&self, rows: &[i64], now: UnixMillis) -> StoreResult<Vec<InboxRow>> {
        Ok(self.state().surface(rows, now))
    }
    async fn swallow(&self, rows: &[i64], now: UnixMillis) -> StoreResult<()> {
        self.state().swallow(rows, now);
        Ok(())
    }
    async fn held(&self) -> StoreResult<Vec<Arrival>> {
        let state = self.state();
        let held = state.inbox.values().filter(|row| row.order.is_none());
        Ok(held.map(|row| state.arrival(row)).collect())
    }
    async fn cursors(&self) -> StoreResult<Vec<(Counter, u64)>> {
        let state = self.state();
        let mut out: Vec<_> = state.cursors.iter().collect();
        out.sort_by_key(|(_, cursor)| cursor.touched_at);
        Ok(out.into_iter().map(|(counter, cursor)| (counter.clone(), cursor.last)).collect())
    }
    async fn inbox_list(
        &self,
        filter: &InboxFilter,
        mark_seen: Option<UnixMillis>,
    ) -> StoreResult<Vec<InboxRow>> {
        Ok(self.state().inbox_list(filter, mark_seen))
    }
    async fn inbox_find(&self, mesh: Option<&MeshId>, prefix: &str) -> StoreResult<InboxRow> {
        self.state().inbox_find(mesh, prefix)
    }
    async fn inbox_delete(&self, what: &InboxDelete) -> StoreResult<u64> {
        Ok(self.state().inbox_delete(what))
    }
    async fn upsert_member(&self, member: &NewMember) -> StoreResult<PinOutcome> {
        self.state().upsert(member)
    }
    async fn member(&self, mesh: &MeshId, key: &PublicKey) -> StoreResult<Option<MemberRow>> {
        Ok(self.state().roster.get(&(*mesh, *key)).map(|(row, _)| row.clone()))
    }
    async fn member_chain(&self, mesh: &MeshId, key: &PublicKey) -> StoreResult<Option<Chain>> {
        Ok(self.state().roster.get(&(*mesh, *key)).map(|(_, chain)| chain.clone()))
    }
    async fn members(&self, mesh: Option<&MeshId>) -> StoreResult<Vec<MemberRow>> {
        Ok(self.state().members(|row| mesh.is_none_or(|m| *m == row.mesh)))
    }
    async fn members_like(&self, mesh: Option<&MeshId>, text: &str) -> StoreResult<Vec<MemberRow>> {
        let range = key_range(text);
        let fits = |row: &MemberRow| {
            let key = range.as_ref().is_some_and(|(low, high)| (low..=high).contains(&&row.key));
            mesh.is_none_or(|m| *m == row.mesh) && (row.name == text || key)
        };
        Ok(self.state().members(fits))
    }
    async fn session_insert(&self, session: &SessionRow) -> StoreResult<()> {
        self.state().session_insert(session)
    }
    async fn session_list(&self, mesh: Option<&MeshId>) -> StoreResult<Vec<SessionRow>> {
        Ok(self.state().session_list(mesh))
    }
    async fn session_remove(&self, mesh: &MeshId, key: &PublicKey) -> StoreResult<bool> {
        Ok(self.state().session_remove(mesh, key))
    }
    async fn session_end(
        &self,
        mesh: &MeshId,
        key: &PublicKey,
        at: UnixMillis,
    ) -> StoreResult<Vec<Arrival>> {
        self.state().session_end(mesh, key, at)
    }
    async fn ended_list(&self, mesh: &MeshId) -> StoreResult<Vec<(PublicKey, UnixMillis)>> {
        let state = self.state();
        let of_mesh = state.ended.iter().filter(|((m, _), _)| m == mesh);
        Ok(of_mesh.map(|((_, key), at)| (*key, *at)).collect())
    }
    async fn presence_get(
        &self,
        mesh: &MeshId,
        key: &PublicKey,
    ) -> StoreResult<Option<PresenceRow>> {
        Ok(self.state().presence.get(&(*mesh, *key)).cloned())
    }
    async fn presence_put(&self, presence: &PresenceRow) -> StoreResult<()> {
        self.state().presence_put(presence)
    }
    async fn group_put(&self, group: &GroupRow) -> StoreResult<bool> {
        self.state().group_put(group)
    }
    async fn group_sync(
        &self,
        mesh: &MeshId,
        member: &PublicKey,
        listed: &[GroupRow],
    ) -> StoreResult<bool> {
        self.state().group_sync(mesh, member, listed)
    }
    async fn groups(&self, mesh: &MeshId) -> StoreResult<Vec<GroupRow>> {
        Ok(self.state().groups_of(mesh))
    }
    async fn prune(&self, now: UnixMillis) -> StoreResult<Pruned> {
        Ok(self.state().prune(now))
    }
    async fn close(&self) {}
}
