//! Coming, going, and coming back in time.

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::{UnboundReason, close};
use meshwire_signaling::{InstanceId, MeshId, PublicKey, UnixMillis};

use super::{
    Attach, Bind, Conn, ConnId, Effect, Held, Identity, MAX_PER_MEMBER, Moved, Now, Presence,
    Refused,
};

/// A connection's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The lease of its presence.
    pub lease: InstanceId,
    /// Since when the identity is there, Unix milliseconds.
    pub since: UnixMillis,
    /// Whether the presence goes on from an earlier connection.
    pub resumed: bool,
    /// Whether it goes on with a program of other features: `joined` is not told, but this has to be.
    pub other_features: bool,
}

impl Presence {
    /// A connection has said a good hello. Effects come with refusals too.
    ///
    /// # Errors
    /// [`Refused`]; whoever is there already never counts against capacity (inventory B-173).
    pub fn attach(&mut self, a: Attach, now: Now) -> (Result<Attached, Refused>, Vec<Effect>) {
        let identity = (a.mesh, a.key);
        let mut effects = Vec::new();
        match self.held.get(&identity) {
            Some(h) if h.member != a.member => return (Err(Refused::Foreign), effects),
            Some(Held { holder: Some(conn), instance, .. }) if *instance != a.instance => {
                return (Err(Refused::OtherInstance), vec![Effect::Warn { conn: *conn }]);
            }
            // The instance in grace yields: another home came with its key.
            Some(h) if h.instance != a.instance => effects.extend(self.end(&identity)),
            Some(Held { holder: Some(old), .. }) => {
                let old = *old;
                if self.conns.get(&old).is_some_and(|c| c.key == a.key) {
                    self.detach(old, now.tick);
                    effects.push(replaced(old));
                } else if self.is_full(&a.mesh) {
                    // Bound to its member's connection until now, it has none of its own to replace.
                    return (Err(Refused::Capacity), effects);
                } else {
                    effects.push(self.take_away(old, &a.key));
                }
            }
            Some(_) => {}
            None if self.is_full(&a.mesh) => return (Err(Refused::Capacity), effects),
            // A member itself always has a place beside its sessions.
            None if a.key != a.member && self.full(&a.mesh, &a.member) => {
                return (Err(Refused::Capacity), effects);
            }
            None => {}
        }
        let conn = Conn {
            mesh: a.mesh,
            member: a.member,
            key: a.key,
            instance: a.instance,
            features: a.features.clone(),
            identities: vec![a.key],
        };
        self.conns.insert(a.conn, conn);
        self.per_mesh.entry(a.mesh).or_default().insert(a.conn);
        let attached = self.take(
            identity,
            Held {
                member: a.member,
                kind: a.kind,
                instance: a.instance,
                lease: now.lease,
                since: now.unix,
                holder: Some(a.conn),
                until: 0,
                about: a.about,
                attestation: a.attestation,
                attested: a.attested_until.map(|at| now.tick_of(at)),
                features: a.features,
            },
        );
        if !attached.resumed {
            effects.push(Effect::Joined(moved(identity, a.member, a.kind)));
        }
        (Ok(attached), effects)
    }

    fn is_full(&self, mesh: &MeshId) -> bool {
        self.per_mesh.get(mesh).map_or(0, |c| c.len()) >= self.max_per_mesh
    }

    /// A further identity has been proven on a connection, whose member vouches for it.
    ///
    /// # Errors
    /// [`Refused::Gone`] if the connection has been replaced, [`Refused::Foreign`] if the identity
    /// belongs to another member.
    pub fn bind(&mut self, b: Bind, now: Now) -> (Result<Attached, Refused>, Vec<Effect>) {
        let Some(c) = self.conns.get(&b.conn) else { return (Err(Refused::Gone), Vec::new()) };
        let (identity, member) = ((c.mesh, b.key), c.member);
        let (instance, features) = (c.instance, c.features.clone());
        let mut effects = Vec::new();
        match self.held.get(&identity) {
            Some(h) if h.member != member => return (Err(Refused::Foreign), effects),
            Some(Held { holder: Some(old), .. }) if *old != b.conn => {
                let old = *old;
                effects.push(self.take_away(old, &b.key));
            }
            None if self.full(&identity.0, &member) => return (Err(Refused::Capacity), effects),
            _ => {}
        }
        if let Some(c) = self.conns.get_mut(&b.conn)
            && !c.identities.contains(&b.key)
        {
            c.identities.push(b.key);
        }
        let bound = self.take(
            identity,
            Held {
                member,
                kind: b.kind,
                instance,
                lease: now.lease,
                since: now.unix,
                holder: Some(b.conn),
                until: 0,
                about: Default::default(),
                attestation: Some(b.attestation),
                attested: Some(now.tick_of(b.attested_until)),
                features,
            },
        );
        if !bound.resumed {
            effects.push(Effect::Joined(moved(identity, member, b.kind)));
        }
        (Ok(bound), effects)
    }

    /// Whether a member has as many identities as it may have.
    fn full(&self, mesh: &MeshId, member: &PublicKey) -> bool {
        let theirs = self.of_member.get(&(*mesh, *member));
        theirs.is_some_and(|keys| keys.len() >= MAX_PER_MEMBER)
    }

    /// Puts an identity in its connection's hands. What is there keeps its lease, age and words.
    fn take(&mut self, identity: Identity, fresh: Held) -> Attached {
        let attested = fresh.attested.map(|at| (at, identity.0, identity.1));
        let mut other_features = false;
        let resumed = match self.held.get_mut(&identity) {
            Some(h) => {
                self.deadlines.remove(&(h.until, identity.0, identity.1));
                if let Some(at) = h.attested {
                    self.attested.remove(&(at, identity.0, identity.1));
                }
                let (lease, since) = (h.lease, h.since);
                let about = std::mem::take(&mut h.about);
                other_features = h.features != fresh.features;
                *h = Held { lease, since, about, ..fresh };
                true
            }
            None => {
                let of_member = self.of_member.entry((identity.0, fresh.member)).or_default();
                of_member.insert(identity.1);
                self.held.insert(identity, fresh);
                false
            }
        };
        self.attested.extend(attested);
        let h = self.held.get(&identity);
        let (lease, since) = h.map_or((InstanceId([0; 16]), 0), |h| (h.lease, h.since));
        Attached { lease, since, resumed, other_features }
    }

    /// Takes an identity away from a connection that another one of its member replaces there.
    fn take_away(&mut self, old: ConnId, key: &PublicKey) -> Effect {
        let Some(c) = self.conns.get_mut(&old) else { return replaced(old) };
        c.identities.retain(|k| k != key);
        if c.key == *key {
            // It was all that the connection was for.
            return replaced(old);
        }
        Effect::Unbound { conn: old, key: *key, reason: UnboundReason::Replaced }
    }

    /// A connection has ended. Its identities are waited for, counted from `heard`, when it was last
    /// heard. Returns the identities that it spoke for.
    pub fn detach(&mut self, conn: ConnId, heard: u64) -> Vec<PublicKey> {
        let Some(c) = self.conns.remove(&conn) else { return Vec::new() };
        if let Some(all) = self.per_mesh.get_mut(&c.mesh) {
            all.remove(&conn);
            if all.is_empty() {
                self.per_mesh.remove(&c.mesh);
            }
        }
        for key in &c.identities {
            self.wait_for(&(c.mesh, *key), heard);
        }
        c.identities
    }

    /// An identity has lost its connection.
    pub(super) fn wait_for(&mut self, identity: &Identity, heard: u64) {
        if let Some(h) = self.held.get_mut(identity) {
            h.holder = None;
            h.until = heard.saturating_add(self.grace);
            self.deadlines.insert((h.until, identity.0, identity.1));
        }
    }

    /// A connection leaves on purpose: nobody is waited for.
    pub fn bye(&mut self, conn: ConnId) -> Vec<Effect> {
        let Some(c) = self.conns.get_mut(&conn) else { return Vec::new() };
        let mesh = c.mesh;
        let identities = std::mem::take(&mut c.identities);
        identities.into_iter().filter_map(|key| self.end(&(mesh, key))).collect()
    }

    /// A session or service of the connection's member has ended: one bound to it, or one in grace.
    /// None if it is another connection's, or nobody's.
    pub fn unbind(&mut self, conn: ConnId, key: &PublicKey) -> Option<Effect> {
        let c = self.conns.get(&conn)?;
        let identity = (c.mesh, *key);
        let h = self.held.get(&identity)?;
        let ours = h.member == c.member && h.holder.is_none_or(|holder| holder == conn);
        if c.key == *key || h.kind == IdentityKind::Member || !ours {
            return None;
        }
        self.end(&identity)
    }

    /// Ends a presence, whoever holds it.
    pub(super) fn end(&mut self, identity: &Identity) -> Option<Effect> {
        let h = self.held.remove(identity)?;
        self.deadlines.remove(&(h.until, identity.0, identity.1));
        if let Some(at) = h.attested {
            self.attested.remove(&(at, identity.0, identity.1));
        }
        if let Some(c) = h.holder.and_then(|conn| self.conns.get_mut(&conn)) {
            c.identities.retain(|k| *k != identity.1);
        }
        let member = (identity.0, h.member);
        if let Some(keys) = self.of_member.get_mut(&member) {
            keys.remove(&identity.1);
            if keys.is_empty() {
                self.of_member.remove(&member);
            }
        }
        Some(Effect::Left(moved(*identity, h.member, h.kind)))
    }

    /// Ends the graces and the attestations that are over.
    pub fn poll(&mut self, tick: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some(&(until, mesh, key)) = self.attested.first()
            && until <= tick
        {
            self.attested.pop_first();
            let held = self.held.get(&(mesh, key));
            if let Some(conn) = held.and_then(|h| h.holder) {
                let own = self.conns.get(&conn).is_some_and(|c| c.key == key);
                effects.push(match own {
                    true => {
                        let (code, reason) = (close::REFUSED, "attestation_expired");
                        Effect::Close { conn, code, reason }
                    }
                    false => Effect::Unbound { conn, key, reason: UnboundReason::Expired },
                });
            }
            effects.extend(self.end(&(mesh, key)));
        }
        while let Some(&(until, mesh, key)) = self.deadlines.first()
            && until <= tick
        {
            self.deadlines.pop_first();
            effects.extend(self.end(&(mesh, key)));
        }
        effects
    }

    /// When [`Self::poll`] has something to do, in ticks.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let ends = self.deadlines.first().into_iter().chain(self.attested.first());
        ends.map(|d| d.0).min()
    }

    /// Takes up a presence of the broker's last run: it is waited for as if it had just been heard.
    pub fn restore(&mut self, mesh: MeshId, key: PublicKey, mut lease: Restored, tick: u64) {
        let held = Held {
            member: lease.member,
            kind: lease.kind,
            instance: lease.instance,
            lease: lease.lease,
            since: lease.since,
            holder: None,
            until: 0,
            about: std::mem::take(&mut lease.about),
            attestation: lease.attestation.take(),
            // Whoever comes back shows a fresh one; nobody waits longer than the grace.
            attested: None,
            features: std::mem::take(&mut lease.features),
        };
        self.take((mesh, key), held);
        self.wait_for(&(mesh, key), tick);
    }

    /// What is to be remembered of an identity that is there, for [`Self::restore`].
    #[must_use]
    pub fn lease(&self, mesh: &MeshId, key: &PublicKey) -> Option<Restored> {
        self.held.get(&(*mesh, *key)).map(|h| Restored {
            member: h.member,
            kind: h.kind,
            instance: h.instance,
            lease: h.lease,
            since: h.since,
            about: h.about.clone(),
            attestation: h.attestation.clone(),
            features: h.features.clone(),
        })
    }
}

/// A presence without its connection.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Its member.
    pub member: PublicKey,
    /// What it is.
    pub kind: IdentityKind,
    /// The instance that it is bound to.
    pub instance: InstanceId,
    /// The lease's name.
    pub lease: InstanceId,
    /// Since when it is there, Unix milliseconds.
    pub since: UnixMillis,
    /// What it says of itself.
    pub about: meshwire_signaling::frame::About,
    /// The member's word for it.
    pub attestation: Option<meshwire_signaling::sign::Signed>,
    /// Feature bits of the program behind it.
    pub features: Vec<String>,
}

pub(super) fn moved((mesh, key): Identity, member: PublicKey, kind: IdentityKind) -> Moved {
    Moved { mesh, key, member, kind }
}

fn replaced(conn: ConnId) -> Effect {
    Effect::Close { conn, code: close::NORMAL, reason: "session_replaced" }
}
