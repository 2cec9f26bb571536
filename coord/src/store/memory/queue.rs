//! From accept to receipt.

use std::collections::BTreeMap;

use meshwire_signaling::group::{ALL, reaches};
use meshwire_signaling::limits::{SKEW, ms};
use meshwire_signaling::receipt::Verdict;
use meshwire_signaling::seal::Wrap;
use meshwire_signaling::{MeshId, PublicKey, UnixMillis, codec};

use super::{Delivery, State, Stored};
use crate::core::accept::{Plan, Recipients, TargetKind};
use crate::core::presence::ConnId;
use crate::store::{
    Accepted, Claim, Claimed, DELEGATE_MEMORY, DeliveryRef, MAX_QUEUE, MAX_QUEUE_PER_AUTHOR,
    SWEEP_BATCH, Swept, group, state,
};

impl State {
    pub(super) fn accept(&mut self, plan: &Plan, now: UnixMillis) -> Accepted {
        let seq = self.ids.get(&(plan.mesh, plan.author, plan.id));
        if let Some(stored) = seq.and_then(|seq| self.accepted.get(seq)) {
            if stored.hash != plan.hash {
                return Accepted::Conflict;
            }
            return Accepted::Duplicate(stored.public_state());
        }
        let to: Vec<(PublicKey, Option<&Wrap>)> = match &plan.to {
            Recipients::One { key, kind } => {
                if let Some(refused) = self.target_missing(plan, key, *kind, now) {
                    return refused;
                }
                vec![(*key, None)]
            }
            Recipients::Group { name, wraps } => {
                let required = self.required(plan, name, group::enough(wraps));
                if let Some(refused) = group::changed(&required, wraps) {
                    return refused;
                }
                wraps.iter().map(|w| (w.to, Some(w))).collect()
            }
        };
        let full: Vec<PublicKey> =
            to.iter().map(|(key, _)| *key).filter(|key| self.queue_full(plan, key, now)).collect();
        if full.len() == to.len() {
            return Accepted::QueueFull;
        }
        self.insert(plan, &to, &full, now);
        Accepted::New { full }
    }

    fn target_missing(
        &self,
        plan: &Plan,
        key: &PublicKey,
        kind: TargetKind,
        now: UnixMillis,
    ) -> Option<Accepted> {
        let slot = (plan.mesh, *key);
        match kind {
            TargetKind::Member => {
                (!self.members.contains_key(&slot)).then_some(Accepted::UnknownTarget)
            }
            TargetKind::Delegate => match self.delegates.get(&slot) {
                None => Some(Accepted::UnknownTarget),
                Some(d) if d.expires_at <= now => Some(Accepted::TargetGone(d.member)),
                Some(_) => None,
            },
        }
    }

    /// Who must get a group send, the first `limit` in key order.
    fn required(&self, plan: &Plan, name: &str, limit: usize) -> Vec<PublicKey> {
        let reached = |key: &PublicKey| {
            let words = self.words.get(&(plan.mesh, *key)).into_iter().flatten();
            name == ALL || words.into_iter().any(|(g, w)| w.joined && reaches(name, g))
        };
        let others = self.members.values().filter(|m| m.mesh == plan.mesh && m.key != plan.member);
        let listed = others.filter(|m| !m.hidden).map(|m| m.key);
        listed.filter(reached).take(limit).collect()
    }

    /// Close to a bound, counts exactly: what has expired takes no room.
    fn queue_full(&self, plan: &Plan, recipient: &PublicKey, now: UnixMillis) -> bool {
        let Some(queue) = self.waiting.get(&(plan.mesh, *recipient)) else { return false };
        let share = self.shares.get(&(plan.mesh, *recipient, plan.member)).copied();
        if queue.len() < MAX_QUEUE && share.unwrap_or(0) < MAX_QUEUE_PER_AUTHOR {
            return false;
        }
        let live = queue.keys().filter_map(|(_, seq)| self.accepted.get(seq));
        let live: Vec<_> = live.filter(|e| e.expires_at > now).map(|e| e.member).collect();
        let by_member = live.iter().filter(|m| **m == plan.member).count();
        live.len() >= MAX_QUEUE || by_member >= MAX_QUEUE_PER_AUTHOR
    }

    fn insert(
        &mut self,
        plan: &Plan,
        to: &[(PublicKey, Option<&Wrap>)],
        full: &[PublicKey],
        now: UnixMillis,
    ) {
        self.next += 1;
        let mut deliveries = BTreeMap::new();
        for (recipient, wrap) in to {
            let waits = full.binary_search(recipient).is_err();
            if waits {
                let queue = self.waiting.entry((plan.mesh, *recipient)).or_default();
                queue.insert((plan.priority, self.next), ());
                *self.shares.entry((plan.mesh, *recipient, plan.member)).or_default() += 1;
            }
            let delivery = Delivery {
                state: if waits { state::WAITING } else { state::REFUSED },
                attempt: 0,
                claim: None,
                claim_until: 0,
                wrap: wrap.filter(|_| waits).map(codec::to_msgpack),
                receipt: None,
                confirmed: false,
            };
            deliveries.insert(*recipient, delivery);
        }
        let stored = Stored {
            author: plan.author,
            member: plan.member,
            id: plan.id,
            hash: plan.hash,
            accepted_at: now,
            expires_at: plan.expires_at,
            mesh: plan.mesh,
            priority: plan.priority,
            envelope: Some(plan.envelope.clone()),
            attestation: plan.attestation.clone(),
            deliveries,
        };
        self.ids.insert((plan.mesh, plan.author, plan.id), self.next);
        self.accepted.insert(self.next, stored);
    }

    pub(super) fn claim(&mut self, c: &Claim) -> Vec<Claimed> {
        let mut claimed = Vec::new();
        let queue = self.waiting.get(&(c.mesh, c.recipient));
        for (priority, seq) in queue.into_iter().flat_map(BTreeMap::keys) {
            if claimed.len() >= c.limit || (c.urgent_only && *priority > 0) {
                break;
            }
            let Some(stored) = self.accepted.get_mut(seq) else { continue };
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
                wrap: d.wrap.clone(),
                attestation: stored.attestation.clone(),
                accepted_at: stored.accepted_at,
                attempt: d.attempt,
            });
        }
        claimed
    }

    pub(super) fn answer(
        &mut self,
        d: &DeliveryRef,
        verdict: Verdict,
        receipt: Option<&[u8]>,
    ) -> bool {
        let Some((seq, delivery)) = self.delivery(d) else { return false };
        if delivery.state != state::WAITING {
            return false;
        }
        delivery.receipt = receipt.map(<[u8]>::to_vec);
        self.finish(seq, &d.recipient, state::of(verdict));
        true
    }

    /// Ends a waiting delivery, and the body once nobody waits for it.
    fn finish(&mut self, seq: u64, recipient: &PublicKey, state: i64) {
        let Some(stored) = self.accepted.get_mut(&seq) else { return };
        if let Some(d) = stored.deliveries.get_mut(recipient) {
            d.state = state;
            d.claim = None;
            d.wrap = None;
        }
        if let Some(queue) = self.waiting.get_mut(&(stored.mesh, *recipient)) {
            queue.remove(&(stored.priority, seq));
        }
        let share = (stored.mesh, *recipient, stored.member);
        if let Some(n) = self.shares.get_mut(&share) {
            *n = n.saturating_sub(1);
            if *n == 0 {
                self.shares.remove(&share);
            }
        }
        if stored.deliveries.values().all(|d| d.state != state::WAITING) {
            stored.envelope = None;
            stored.attestation = None;
        }
    }

    pub(super) fn release(&mut self, of: impl Fn(ConnId) -> bool) -> u64 {
        let all = self.accepted.values_mut().flat_map(|s| s.deliveries.values_mut());
        give_back(all, of)
    }

    pub(super) fn release_for(
        &mut self,
        conn: ConnId,
        mesh: &MeshId,
        recipient: &PublicKey,
    ) -> u64 {
        let here = self.accepted.values_mut().filter(|s| s.mesh == *mesh);
        give_back(here.filter_map(|s| s.deliveries.get_mut(recipient)), |claim| claim == conn)
    }

    pub(super) fn confirm(&mut self, d: &DeliveryRef) {
        let Some(seq) = self.ids.get(&(d.mesh, d.author, d.id)) else { return };
        let Some(stored) = self.accepted.get_mut(seq) else { return };
        for (recipient, delivery) in &mut stored.deliveries {
            // A session's end is attested by its member, whose key is not the recipient's.
            let delegate = self.delegates.get(&(d.mesh, *recipient));
            let ended =
                delivery.state == state::GONE && delegate.is_some_and(|g| g.member == d.recipient);
            if *recipient == d.recipient || ended {
                delivery.confirmed = true;
            }
        }
    }

    pub(super) fn sweep(&mut self, now: UnixMillis) -> Swept {
        let mut swept = Swept::default();
        let settled = |e: &Stored| e.deliveries.values().all(|d| d.state != state::WAITING);
        let kept = |e: &Stored| settled(e) && e.expires_at > now.saturating_sub(ms(SKEW));
        let over = self.accepted.iter().filter(|(_, e)| e.expires_at <= now && !kept(e));
        let over: Vec<u64> = over.map(|(seq, _)| *seq).take(SWEEP_BATCH as usize).collect();
        swept.more = over.len() == SWEEP_BATCH as usize;
        for seq in over {
            let Some(stored) = self.accepted.get(&seq) else { continue };
            let waiting = stored.deliveries.iter().filter(|(_, d)| d.state == state::WAITING);
            let waiting: Vec<PublicKey> = waiting.map(|(recipient, _)| *recipient).collect();
            let forget = stored.expires_at <= now.saturating_sub(ms(SKEW));
            let name = (stored.mesh, stored.author, stored.id);
            swept.expired += waiting.len() as u64;
            for recipient in waiting {
                self.finish(seq, &recipient, state::EXPIRED);
            }
            if forget {
                self.accepted.remove(&seq);
                self.ids.remove(&name);
                swept.forgotten += 1;
            }
        }
        self.delegates.retain(|_, d| d.expires_at > now.saturating_sub(ms(DELEGATE_MEMORY)));
        let delegates = &self.delegates;
        self.ended_at.retain(|slot, _| delegates.contains_key(slot));
        swept
    }
}

fn give_back<'a>(
    deliveries: impl Iterator<Item = &'a mut Delivery>,
    of: impl Fn(ConnId) -> bool,
) -> u64 {
    let mut n = 0;
    for d in deliveries.filter(|d| d.claim.is_some_and(&of)) {
        d.claim = None;
        d.claim_until = 0;
        n += 1;
    }
    n
}
