//! The outbox in memory.

use std::collections::HashSet;

use meshwire_signaling::{MeshId, PublicKey, UnixMillis};

use super::super::rows::{
    Enqueued, Freeze, NewOutbox, NewRecipient, OutboxFilter, OutboxMeta, OutboxRow, Pick,
    RecipientRow, Requeue, Rewrap, Slot, Step, StepTo, Stepped, id_prefix,
};
use super::super::{IdempotencyConflict, MAX_OUTBOX_LIST, StoreError, StoreResult};
use super::{State, only};
use crate::core::group::{RecipientState, Tally, standing};
use crate::core::order::Counter;
use crate::core::outbox::{OutboxState, Repeat, advance};

impl State {
    pub(super) fn enqueue(&mut self, new: &NewOutbox, freeze: Freeze<'_>) -> StoreResult<Enqueued> {
        if let Some(idempotency) = &new.idempotency {
            let found = self.outbox.values().find(|row| {
                let key = row.meta.idempotency.as_ref().map(|i| &i.key);
                row.meta.mesh == new.mesh && key == Some(&idempotency.key)
            });
            if let Some(row) = found {
                let same = row.meta.idempotency.as_ref() == Some(idempotency);
                return match Repeat::of(row.meta.state, same) {
                    Repeat::Duplicate => Ok(Enqueued::Duplicate(Box::new(row.clone()))),
                    repeat => Err(StoreError::Idempotency(Box::new(IdempotencyConflict {
                        repeat,
                        existing: row.meta.clone(),
                    }))),
                };
            }
        }
        self.insert(new, freeze, None).map(|row| Enqueued::New(Box::new(row)))
    }

    /// Numbers, seals and inserts; changes nothing on error. `without` is a row that the floor does
    /// not count.
    fn insert(
        &mut self,
        new: &NewOutbox,
        freeze: Freeze<'_>,
        without: Option<i64>,
    ) -> StoreResult<OutboxRow> {
        let instance = self.mesh(&new.mesh)?.instance;
        let counter = Counter {
            mesh: new.mesh,
            author: new.author,
            instance,
            target: new.target.clone(),
            priority: new.priority,
        };
        let seq = self.seqs.get(&counter).map_or(1, |last| last + 1);
        let open = self.open().filter(|meta| {
            let open = meta.state.is_open() && meta.expires_at > new.created_at;
            open && Some(meta.row) != without && meta.counter() == counter
        });
        let floor = open.map(|meta| meta.seq).min().unwrap_or(seq);
        let slot = Slot { instance, seq, floor };
        let envelope = freeze(slot).map_err(StoreError::Freeze)?;
        if self.outbox_ids.contains_key(&(new.mesh, new.id)) {
            return Err(StoreError::IdTaken(new.id));
        }
        self.last_outbox += 1;
        let meta = OutboxMeta::fresh(new, slot, envelope.hash(&new.mesh));
        let row = OutboxRow { meta: OutboxMeta { row: self.last_outbox, ..meta }, envelope };
        self.seqs.insert(counter, seq);
        self.outbox_ids.insert((new.mesh, new.id), self.last_outbox);
        self.outbox.insert(self.last_outbox, row.clone());
        self.open.insert(self.last_outbox);
        self.add_recipients(self.last_outbox, &new.recipients);
        Ok(row)
    }

    fn add_recipients(&mut self, row: i64, added: &[NewRecipient]) {
        if added.is_empty() {
            return;
        }
        let all = self.recipients.entry(row).or_default();
        for new in added {
            if !all.iter().any(|r| r.key == new.key) {
                all.push(RecipientRow {
                    key: new.key,
                    name: new.name.clone(),
                    state: RecipientState::Open,
                    reason: None,
                    at: None,
                });
            }
        }
        all.sort_by(|a, b| (&a.name, a.key).cmp(&(&b.name, b.key)));
    }

    /// Ends those of a message's recipients who are open.
    fn end_recipients(&mut self, row: i64, to: RecipientState, reason: &str) {
        for r in self.recipients.get_mut(&row).into_iter().flatten() {
            if r.state == RecipientState::Open {
                (r.state, r.reason) = (to, Some(reason.to_owned()));
            }
        }
    }

    /// Forgets the recipients of messages that are deleted.
    pub(super) fn forget_recipients(&mut self) {
        let Self { recipients, outbox, .. } = self;
        recipients.retain(|row, _| outbox.contains_key(row));
    }

    pub(super) fn rewrap(&mut self, change: &Rewrap) -> bool {
        let Some(&number) = self.outbox_ids.get(&(change.mesh, change.id)) else { return false };
        let Some(row) = self.outbox.get_mut(&number) else { return false };
        if !matches!(row.meta.state, OutboxState::Pending | OutboxState::Inflight) {
            return false;
        }
        row.envelope.wraps.clone_from(&change.wraps);
        if let Some(all) = self.recipients.get_mut(&number) {
            all.retain(|r| r.state != RecipientState::Open || !change.gone.contains(&r.key));
        }
        self.add_recipients(number, &change.added);
        true
    }

    /// The rows that may still be delivered, in order.
    fn open(&self) -> impl Iterator<Item = &OutboxMeta> {
        self.open.iter().filter_map(|row| self.outbox.get(row)).map(|row| &row.meta)
    }

    /// To be called for whatever row may have ended.
    fn note_end(&mut self, row: i64) {
        match self.outbox.get(&row).is_some_and(|row| row.meta.state.is_open()) {
            true => self.open.insert(row),
            false => self.open.remove(&row),
        };
    }

    /// Forgets what was deleted.
    pub(super) fn forget_open(&mut self) {
        let Self { open, outbox, .. } = self;
        open.retain(|row| outbox.contains_key(row));
    }

    /// Sets the open rows back that `which` is true for; says how many.
    fn set_back(&mut self, which: impl Fn(&OutboxMeta) -> bool) -> u64 {
        let mut reset = 0;
        for row in &self.open {
            if let Some(row) = self.outbox.get_mut(row).filter(|row| which(&row.meta)) {
                row.meta.state = OutboxState::Pending;
                reset += 1;
            }
        }
        reset
    }

    /// The rows of a mesh that wait for an attempt, in order.
    fn pending(&self, mesh: &MeshId, now: UnixMillis) -> impl Iterator<Item = &OutboxMeta> {
        self.open().filter(move |meta| {
            meta.mesh == *mesh && meta.state == OutboxState::Pending && meta.expires_at > now
        })
    }

    pub(super) fn due(
        &mut self,
        mesh: &MeshId,
        now: UnixMillis,
        limit: u32,
        pick: Pick<'_>,
    ) -> Vec<OutboxRow> {
        let mut waiting = HashSet::new();
        let mut rows = Vec::new();
        for meta in self.pending(mesh, now) {
            if rows.len() as u64 >= u64::from(limit) {
                break;
            }
            if meta.next_attempt_at > now {
                waiting.insert(meta.counter());
            } else if !waiting.contains(&meta.counter()) && pick.takes(meta) {
                rows.push(meta.row);
            }
        }
        let mut out = Vec::new();
        for row in rows {
            if let Some(row) = self.outbox.get_mut(&row) {
                row.meta.state = OutboxState::Inflight;
                row.meta.attempts = row.meta.attempts.saturating_add(1);
                out.push(row.clone());
            }
        }
        out
    }

    pub(super) fn next_due(
        &self,
        mesh: &MeshId,
        now: UnixMillis,
        pick: Pick<'_>,
    ) -> Option<UnixMillis> {
        let mut heads = HashSet::new();
        let heads = self.pending(mesh, now).filter(|meta| heads.insert(meta.counter()));
        heads.filter(|meta| pick.takes(meta)).map(|meta| meta.next_attempt_at).min()
    }

    pub(super) fn unsend(&mut self, mesh: &MeshId, peer: Option<&PublicKey>) -> u64 {
        self.set_back(|meta| {
            let theirs = peer.is_none_or(|peer| is_for(meta, peer));
            meta.mesh == *mesh && meta.state == OutboxState::Sent && theirs
        })
    }

    pub(super) fn hasten(&mut self, mesh: &MeshId, peer: &PublicKey, now: UnixMillis) -> u64 {
        let mut count = 0;
        for row in &self.open {
            let Some(row) = self.outbox.get_mut(row) else { continue };
            let meta = &mut row.meta;
            let waits = meta.state == OutboxState::Pending && meta.next_attempt_at > now;
            if meta.mesh == *mesh && waits && is_for(meta, peer) {
                meta.next_attempt_at = now;
                count += 1;
            }
        }
        count
    }

    pub(super) fn reset_inflight(&mut self, mesh: &MeshId) -> u64 {
        self.set_back(|meta| meta.mesh == *mesh && meta.state == OutboxState::Inflight)
    }

    pub(super) fn step(&mut self, step: &Step) -> Stepped {
        let Some(&number) = self.outbox_ids.get(&(step.mesh, step.id)) else {
            return Stepped::Unknown;
        };
        let Some(row) = self.outbox.get_mut(&number) else { return Stepped::Unknown };
        let meta = &mut row.meta;
        let from = meta.state;
        let Some(to) = step.to.state() else { return self.step_recipient(number, &step.to) };
        if !advance(from, to) {
            return Stepped::Kept { state: from };
        }
        meta.state = to;
        meta.reason = None;
        match &step.to {
            StepTo::Relayed { at, path } | StepTo::Sent { at, path } => {
                meta.accepted_at = Some(*at);
                meta.path = Some(path.clone());
            }
            StepTo::Delivered { at, path } => {
                meta.delivered_at = Some(*at);
                meta.path = Some(path.clone());
            }
            StepTo::Retry { next_attempt_at, reason } => {
                meta.next_attempt_at = *next_attempt_at;
                meta.reason = Some(reason.clone());
            }
            StepTo::Expired { reason } | StepTo::Failed { reason } => {
                meta.reason = Some(reason.clone());
            }
            StepTo::Recipient { .. } => {}
        }
        match &step.to {
            StepTo::Expired { reason } => {
                self.end_recipients(number, RecipientState::Expired, reason);
            }
            StepTo::Failed { reason } => {
                self.end_recipients(number, RecipientState::Failed, reason);
            }
            _ => {}
        }
        self.note_end(number);
        Stepped::Done { from }
    }

    fn step_recipient(&mut self, number: i64, step: &StepTo) -> Stepped {
        let Some(row) = self.outbox.get_mut(&number) else { return Stepped::Unknown };
        let StepTo::Recipient { key, to, reason, at } = step else { return Stepped::Unknown };
        let all = self.recipients.entry(number).or_default();
        let Some(one) = all.iter_mut().find(|r| r.key == *key) else { return Stepped::Unknown };
        if !one.state.may_become(*to) {
            return Stepped::Kept { state: row.meta.state };
        }
        (one.state, one.reason, one.at) = (*to, reason.clone(), Some(*at));
        let mut tally = Tally::default();
        for r in all.iter() {
            tally.add(r.state, 1);
        }
        let meta = &mut row.meta;
        let is_final = matches!(meta.state, OutboxState::Delivered | OutboxState::Aborted);
        if let Some((state, reason)) = standing(&tally).filter(|_| !is_final) {
            (meta.state, meta.reason) = (state, reason);
            if state == OutboxState::Delivered {
                meta.delivered_at = Some(*at);
            }
        }
        let state = meta.state;
        self.note_end(number);
        Stepped::Recipient { state }
    }

    pub(super) fn expire(&mut self, now: UnixMillis, limit: u32) -> Vec<OutboxMeta> {
        let over = |meta: &OutboxMeta| meta.state.is_open() && meta.expires_at <= now;
        let ended = self.open().filter(|meta| over(meta));
        let mut rows: Vec<_> = ended.map(|meta| (meta.expires_at, meta.row)).collect();
        rows.sort_unstable();
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let mut out = Vec::new();
        for (_, row) in rows {
            if let Some(row) = self.outbox.get_mut(&row) {
                row.meta.state = OutboxState::Expired;
                row.meta.reason = Some("expired".to_owned());
                let number = row.meta.row;
                out.push(row.meta.clone());
                self.end_recipients(number, RecipientState::Expired, "expired");
                self.note_end(number);
            }
        }
        out
    }

    pub(super) fn requeue(
        &mut self,
        requeue: &Requeue,
        freeze: Freeze<'_>,
    ) -> StoreResult<OutboxRow> {
        let found = self.outbox_ids.get(&(requeue.mesh, requeue.old));
        let old = found.and_then(|row| self.outbox.get(row));
        let old = old.ok_or_else(|| StoreError::NotFound(requeue.old.to_string()))?.meta.clone();
        let redirected = requeue.redirect.is_some() && old.state.may_redirect();
        if !redirected && !old.state.may_requeue() {
            return Err(StoreError::NotRequeueable { id: old.id, state: old.state });
        }
        let new = self.insert(&NewOutbox::in_place_of(&old, requeue), freeze, Some(old.row))?;
        if let Some(old) = self.outbox.get_mut(&old.row) {
            old.meta.state = OutboxState::Aborted;
            old.meta.superseded_by = Some(requeue.new);
        }
        self.note_end(old.row);
        Ok(new)
    }

    pub(super) fn outbox_find(
        &self,
        mesh: Option<&MeshId>,
        author: Option<&PublicKey>,
        prefix: &str,
    ) -> StoreResult<OutboxRow> {
        let start = id_prefix(prefix)?;
        let rows = self.outbox.values().filter(|row| {
            mesh.is_none_or(|m| *m == row.meta.mesh)
                && author.is_none_or(|a| *a == row.meta.author)
                && row.meta.id.to_string().starts_with(&start)
        });
        let mut found: Vec<_> = rows.map(|row| (row.meta.id, row.clone())).collect();
        found.sort_by_key(|(id, _)| *id);
        only(prefix, found)
    }

    pub(super) fn outbox_list(&self, filter: &OutboxFilter) -> Vec<OutboxMeta> {
        let limit = filter.limit.min(MAX_OUTBOX_LIST);
        self.outbox
            .values()
            .rev()
            .map(|row| &row.meta)
            .filter(|meta| {
                filter.mesh.is_none_or(|m| m == meta.mesh)
                    && filter.recipient.is_none_or(|r| r == meta.recipient)
                    && filter.author.is_none_or(|a| a == meta.author)
                    && (filter.states.is_empty() || filter.states.contains(&meta.state))
                    && !(filter.without_pings && meta.ping)
            })
            .take(usize::try_from(limit).unwrap_or(usize::MAX))
            .cloned()
            .collect()
    }
}

/// Whether a row is for one of these members, or what they vouch for.
fn is_for(meta: &OutboxMeta, peer: &PublicKey) -> bool {
    meta.member.unwrap_or(meta.recipient) == *peer
}
