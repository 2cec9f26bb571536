//! The mappings of a NAT: found from inside and from outside, ended by time.
//!
//! Drive contract: [`Mappings::expire`] with the current time before anything else; after it every
//! mapping and session that is still there is alive.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::config::{Behaviour, Napt, PortRule, Taken};
use crate::hash::Table;
use crate::session::{Dependence, Kind, Remote, Sessions};
use crate::time::Time;

/// An IPv4 address and a port or query identifier.
pub(super) type Endpoint = (Ipv4Addr, u16);

/// One mapping between an inside and an outside endpoint.
#[derive(Clone, Debug)]
pub(super) struct Mapping {
    pub(super) kind: Kind,
    pub(super) inside: Endpoint,
    pub(super) external: Endpoint,
    /// A port forward: always there, open to everybody.
    pub(super) fixed: bool,
    pub(super) sessions: Sessions,
    in_key: u128,
    ext_key: u128,
    /// When `ends` will look at it next.
    check_at: Time,
}

/// What is kept per inside address.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Subscriber {
    /// Its paired outside address.
    pub(super) external: Option<Ipv4Addr>,
    /// Mappings per protocol.
    counts: [u32; 3],
}

#[derive(Clone, Debug)]
pub(super) struct Mappings {
    udp: Behaviour,
    tcp: Behaviour,
    share: bool,
    hold: Duration,
    by_inside: Table<u32>,
    by_external: Table<u32>,
    /// Where ports are shared: the mappings of an inside endpoint, oldest first.
    by_source: Table<Vec<u32>>,
    slots: Vec<Option<Mapping>>,
    free: Vec<u32>,
    ends: BinaryHeap<Reverse<(Time, u32)>>,
    /// Ports at rest, in order of their release.
    resting: VecDeque<(Time, u128)>,
    resting_keys: Table<()>,
    subscribers: Table<Subscriber>,
    live: u32,
}

fn key(kind: Kind, (address, port): Endpoint, remote: Remote) -> u128 {
    let kind: u128 = match kind {
        Kind::Udp => 1,
        Kind::Tcp => 2,
        Kind::Query => 3,
    };
    kind << 96
        | u128::from(address.to_bits()) << 64
        | u128::from(port) << 48
        | (remote.0 & 0xffff_ffff) << 16
        | u128::from(remote.1)
}

fn index(kind: Kind) -> usize {
    match kind {
        Kind::Udp => 0,
        Kind::Tcp => 1,
        Kind::Query => 2,
    }
}

impl Mappings {
    pub(super) fn new(config: &Napt) -> Self {
        Self {
            udp: config.udp,
            tcp: config.tcp,
            share: config.ports.rule == PortRule::Preserving(Taken::Share),
            hold: config.ports.hold,
            by_inside: Table::default(),
            by_external: Table::default(),
            by_source: Table::default(),
            slots: Vec::new(),
            free: Vec::new(),
            ends: BinaryHeap::new(),
            resting: VecDeque::new(),
            resting_keys: Table::default(),
            subscribers: Table::default(),
            live: 0,
        }
    }

    pub(super) fn behaviour(&self, kind: Kind) -> Behaviour {
        match kind {
            Kind::Udp => self.udp,
            Kind::Tcp => self.tcp,
            // Replies come from the address that was asked. RFC 5508, REQ-1a: identifiers are mapped
            // independently of it, except where they are shared as ports are.
            Kind::Query => Behaviour {
                mapping: self.external_mask(kind),
                filtering: Dependence::AddressDependent,
            },
        }
    }

    /// How precisely sessions of a mapping are told apart: enough for filter and mapping, and always
    /// exactly for TCP, whose connections are followed one by one.
    pub(super) fn precision(&self, kind: Kind, fixed: bool) -> Dependence {
        let Behaviour { mapping: by, filtering } = self.behaviour(kind);
        match kind {
            Kind::Query => Dependence::AddressDependent,
            Kind::Udp if !fixed => by.max(filtering),
            Kind::Udp | Kind::Tcp => Dependence::AddressAndPortDependent,
        }
    }

    fn external_mask(&self, kind: Kind) -> Dependence {
        match (self.share, kind) {
            (false, _) => Dependence::EndpointIndependent,
            (true, Kind::Query) => Dependence::AddressDependent,
            (true, Kind::Udp | Kind::Tcp) => Dependence::AddressAndPortDependent,
        }
    }

    pub(super) fn leaving(&self, kind: Kind, inside: Endpoint, remote: Remote) -> Option<u32> {
        let remote = self.behaviour(kind).mapping.mask(remote);
        self.by_inside.get(&key(kind, inside, remote)).copied()
    }

    pub(super) fn entering(&self, kind: Kind, external: Endpoint, remote: Remote) -> Option<u32> {
        let exact = key(kind, external, self.external_mask(kind).mask(remote));
        let found = self.by_external.get(&exact);
        found.or_else(|| self.by_external.get(&key(kind, external, (0, 0)))).copied()
    }

    pub(super) fn get(&mut self, slot: u32) -> Option<&mut Mapping> {
        self.slots.get_mut(usize::try_from(slot).ok()?)?.as_mut()
    }

    /// Whether a new mapping may have this outside endpoint.
    pub(super) fn is_free(&self, kind: Kind, external: Endpoint, remote: Remote) -> bool {
        let exact = key(kind, external, self.external_mask(kind).mask(remote));
        let whole = key(kind, external, (0, 0));
        let taken = |k| self.by_external.contains_key(&k) || self.resting_keys.contains_key(&k);
        !taken(exact) && (exact == whole || !taken(whole))
    }

    /// The outside endpoint that this inside one was given last, where ports are shared.
    pub(super) fn latest(&self, kind: Kind, inside: Endpoint) -> Option<Endpoint> {
        let slot = *self.by_source.get(&key(kind, inside, (0, 0)))?.last()?;
        Some(self.slots.get(usize::try_from(slot).ok()?)?.as_ref()?.external)
    }

    pub(super) fn live(&self) -> u32 {
        self.live
    }

    pub(super) fn subscriber(&self, address: Ipv4Addr) -> Subscriber {
        self.subscribers.get(&address.to_bits().into()).copied().unwrap_or_default()
    }

    pub(super) fn count(&self, address: Ipv4Addr, kind: Kind) -> u32 {
        self.subscriber(address).counts[index(kind)]
    }

    /// Puts a mapping in. The caller has seen that the outside endpoint is free. A mapping without a
    /// session that follows at once ends at the next [`Self::expire`].
    pub(super) fn insert(
        &mut self,
        kind: Kind,
        inside: Endpoint,
        external: Endpoint,
        remote: Remote,
        fixed: bool,
    ) -> u32 {
        let by = self.behaviour(kind).mapping;
        let in_key = key(kind, inside, if fixed { (0, 0) } else { by.mask(remote) });
        let outer = if fixed { (0, 0) } else { self.external_mask(kind).mask(remote) };
        let ext_key = key(kind, external, outer);
        let sessions = Sessions::default();
        let check_at = Time::MAX;
        let mapping =
            Mapping { kind, inside, external, fixed, sessions, in_key, ext_key, check_at };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(place) = usize::try_from(slot).ok().and_then(|s| self.slots.get_mut(s)) {
            *place = Some(mapping);
        }
        self.by_external.insert(ext_key, slot);
        // A forward of a NAT that looks at destinations is found from inside by its sessions alone.
        if !fixed || by == Dependence::EndpointIndependent {
            self.by_inside.entry(in_key).or_insert(slot);
        }
        if !fixed && self.share {
            self.by_source.entry(key(kind, inside, (0, 0))).or_default().push(slot);
        }
        if !fixed {
            self.live += 1;
            let owner = self.subscribers.entry(inside.0.to_bits().into()).or_default();
            owner.external.get_or_insert(external.0);
            owner.counts[index(kind)] += 1;
        }
        slot
    }

    /// To be called after a session was added or its end moved: sees that it is ended in time, and
    /// that what goes back to its remote end finds this mapping.
    pub(super) fn scheduled(&mut self, slot: u32, remote: Remote, deadline: Time, from_out: bool) {
        let Some(mapping) = self.get(slot) else { return };
        if deadline < mapping.check_at {
            mapping.check_at = deadline;
            self.ends.push(Reverse((deadline, slot)));
        }
        if from_out && let Some(mapping) = self.get(slot) {
            let (kind, inside) = (mapping.kind, mapping.inside);
            let by = self.behaviour(kind).mapping;
            if by != Dependence::EndpointIndependent {
                self.by_inside.entry(key(kind, inside, by.mask(remote))).or_insert(slot);
            }
        }
    }

    /// Ends what has come to its end.
    pub(super) fn expire(&mut self, now: Time) {
        while let Some(Reverse((at, slot))) = self.ends.peek().copied()
            && at <= now
        {
            self.ends.pop();
            self.review(now, at, slot);
        }
        while let Some((at, resting)) = self.resting.front().copied()
            && at <= now
        {
            self.resting.pop_front();
            self.resting_keys.remove(&resting);
        }
    }

    fn review(&mut self, now: Time, at: Time, slot: u32) {
        let Some(mapping) = self.get(slot) else { return };
        if mapping.check_at != at {
            return;
        }
        let mut over = Vec::new();
        mapping.sessions.0.retain(|remote, session| {
            let alive = session.deadline > now;
            if !alive {
                over.push(*remote);
            }
            alive
        });
        let next = mapping.sessions.next_end();
        mapping.check_at = next.unwrap_or(Time::MAX);
        let dead = !mapping.fixed && next.is_none();
        self.ends.extend(next.map(|at| Reverse((at, slot))));
        self.forget(slot, &over);
        if dead {
            self.remove(now, slot);
        }
    }

    /// Takes away the ways back that sessions which are over had opened.
    fn forget(&mut self, slot: u32, over: &[Remote]) {
        let Some(mapping) = self.get(slot) else { return };
        let (kind, inside, primary) = (mapping.kind, mapping.inside, mapping.in_key);
        let by = self.behaviour(kind).mapping;
        if by == Dependence::EndpointIndependent {
            return;
        }
        for remote in over {
            let masked = by.mask(*remote);
            let way_back = key(kind, inside, masked);
            let last = (masked.0, if masked.1 == 0 { u16::MAX } else { masked.1 });
            let needed =
                self.get(slot).is_some_and(|m| m.sessions.0.range(masked..=last).next().is_some());
            if way_back != primary && !needed && self.by_inside.get(&way_back) == Some(&slot) {
                self.by_inside.remove(&way_back);
            }
        }
    }

    fn remove(&mut self, now: Time, slot: u32) {
        let place = usize::try_from(slot).ok().and_then(|s| self.slots.get_mut(s));
        let Some(mapping) = place.and_then(Option::take) else { return };
        self.free.push(slot);
        for (table, key) in
            [(&mut self.by_inside, mapping.in_key), (&mut self.by_external, mapping.ext_key)]
        {
            if table.get(&key) == Some(&slot) {
                table.remove(&key);
            }
        }
        let source = key(mapping.kind, mapping.inside, (0, 0));
        if let Some(siblings) = self.by_source.get_mut(&source) {
            siblings.retain(|s| *s != slot);
            if siblings.is_empty() {
                self.by_source.remove(&source);
            }
        }
        self.live -= 1;
        let owner = mapping.inside.0.to_bits().into();
        if let Some(subscriber) = self.subscribers.get_mut(&owner) {
            subscriber.counts[index(mapping.kind)] -= 1;
            if subscriber.counts == [0; 3] {
                self.subscribers.remove(&owner);
            }
        }
        if !self.hold.is_zero() && mapping.kind != Kind::Tcp {
            self.resting.push_back((now + self.hold, mapping.ext_key));
            self.resting_keys.insert(mapping.ext_key, ());
        }
    }

    /// All mappings, in no order that means anything but always the same.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.slots.iter().flatten()
    }
}
