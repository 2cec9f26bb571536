//! Who is there: which connection speaks for which identity.
//!
//! An identity has one connection. The same member from the same instance replaces its older
//! connection silently; from another instance it is refused while the older one lives, and both are
//! told (a copied home). Every [`Presence::attach`] that returns no refusal is matched by one
//! [`Presence::detach`], whatever happened to the connection in between.

use std::collections::HashMap;

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::{InstanceId, MeshId, PublicKey};

/// Numbers connections within one run of the broker.
pub type ConnId = u64;

/// An identity in a mesh.
pub type Identity = (MeshId, PublicKey);

#[derive(Debug)]
struct Conn {
    mesh: MeshId,
    member: PublicKey,
    instance: InstanceId,
    identities: Vec<(PublicKey, IdentityKind)>,
}

/// What follows from a change; to be carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Close this connection: a newer one of the same instance has taken over.
    Replace {
        /// The older connection.
        conn: ConnId,
    },
    /// Tell this connection that another instance tried to come in with its key.
    Warn {
        /// The connection that lives.
        conn: ConnId,
    },
    /// Tell the others that an identity came.
    Joined {
        /// The identity.
        key: PublicKey,
        /// What it is.
        kind: IdentityKind,
    },
    /// Tell the others that an identity went.
    Left {
        /// The identity.
        key: PublicKey,
        /// What it is.
        kind: IdentityKind,
    },
}

/// Why a connection cannot attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The mesh has as many connections as it may have.
    Capacity,
    /// Another instance of the same key is connected.
    OtherInstance,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Presence {
    max_per_mesh: usize,
    conns: HashMap<ConnId, Conn>,
    holders: HashMap<Identity, ConnId>,
    per_mesh: HashMap<MeshId, usize>,
}

/// Who attaches.
#[derive(Clone, Copy, Debug)]
pub struct Attach {
    /// The connection.
    pub conn: ConnId,
    /// The mesh.
    pub mesh: MeshId,
    /// The member behind it.
    pub member: PublicKey,
    /// The identity that said hello.
    pub key: PublicKey,
    /// What it is.
    pub kind: IdentityKind,
    /// The outbox behind it.
    pub instance: InstanceId,
}

impl Presence {
    /// At most `max_per_mesh` connections per mesh.
    #[must_use]
    pub fn new(max_per_mesh: usize) -> Self {
        Self {
            max_per_mesh,
            conns: HashMap::new(),
            holders: HashMap::new(),
            per_mesh: HashMap::new(),
        }
    }

    /// A connection has said a good hello. The effects come with refusals too.
    ///
    /// # Errors
    /// [`Refused`]; a connection that replaces its own predecessor never counts against capacity.
    pub fn attach(&mut self, a: Attach) -> (Result<(), Refused>, Vec<Effect>) {
        let older = self.holders.get(&(a.mesh, a.key)).copied();
        if let Some(conn) = older
            && self.conns.get(&conn).is_some_and(|c| c.instance != a.instance)
        {
            return (Err(Refused::OtherInstance), vec![Effect::Warn { conn }]);
        }
        let count = self.per_mesh.get(&a.mesh).copied().unwrap_or(0);
        if older.is_none() && count >= self.max_per_mesh {
            return (Err(Refused::Capacity), Vec::new());
        }
        let mut effects = Vec::new();
        if let Some(old) = older {
            // The old connection's other identities end with it; its own passes on silently.
            let gone = self.remove(old);
            effects.extend(gone.into_iter().filter(|(k, _)| *k != a.key).map(left));
            effects.push(Effect::Replace { conn: old });
        } else {
            effects.push(Effect::Joined { key: a.key, kind: a.kind });
        }
        *self.per_mesh.entry(a.mesh).or_default() += 1;
        self.holders.insert((a.mesh, a.key), a.conn);
        let identities = vec![(a.key, a.kind)];
        let conn = Conn { mesh: a.mesh, member: a.member, instance: a.instance, identities };
        self.conns.insert(a.conn, conn);
        (Ok(()), effects)
    }

    /// A further identity has been proven on a connection. Takes the identity over from an older
    /// connection of the same member. Returns nothing if the connection has been replaced.
    pub fn bind(&mut self, conn: ConnId, key: PublicKey, kind: IdentityKind) -> Vec<Effect> {
        let Some(c) = self.conns.get(&conn) else { return Vec::new() };
        let identity = (c.mesh, key);
        match self.holders.insert(identity, conn) {
            Some(old) if old == conn => Vec::new(),
            Some(old) => {
                if let Some(o) = self.conns.get_mut(&old) {
                    o.identities.retain(|(k, _)| *k != key);
                }
                self.own(conn, key, kind);
                Vec::new()
            }
            None => {
                self.own(conn, key, kind);
                vec![Effect::Joined { key, kind }]
            }
        }
    }

    fn own(&mut self, conn: ConnId, key: PublicKey, kind: IdentityKind) {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.identities.push((key, kind));
        }
    }

    /// A connection has ended. Nothing follows if it had been replaced before.
    pub fn detach(&mut self, conn: ConnId) -> Vec<Effect> {
        self.remove(conn).into_iter().map(left).collect()
    }

    fn remove(&mut self, conn: ConnId) -> Vec<(PublicKey, IdentityKind)> {
        let Some(c) = self.conns.remove(&conn) else { return Vec::new() };
        for (key, _) in &c.identities {
            self.holders.remove(&(c.mesh, *key));
        }
        if let Some(n) = self.per_mesh.get_mut(&c.mesh) {
            *n -= 1;
            if *n == 0 {
                self.per_mesh.remove(&c.mesh);
            }
        }
        c.identities
    }

    /// Which connection speaks for an identity.
    #[must_use]
    pub fn holder(&self, mesh: &MeshId, key: &PublicKey) -> Option<ConnId> {
        self.holders.get(&(*mesh, *key)).copied()
    }

    /// Whether a connection speaks for a key.
    #[must_use]
    pub fn speaks_for(&self, conn: ConnId, key: &PublicKey) -> bool {
        self.conns.get(&conn).is_some_and(|c| c.identities.iter().any(|(k, _)| k == key))
    }

    /// The identities of a connection.
    #[must_use]
    pub fn identities(&self, conn: ConnId) -> Vec<PublicKey> {
        self.conns.get(&conn).map_or_else(Vec::new, |c| c.identities.iter().map(|i| i.0).collect())
    }

    /// The connections of a mesh, except those of one member.
    #[must_use]
    pub fn others(&self, mesh: &MeshId, except: &PublicKey) -> Vec<ConnId> {
        let other = |c: &Conn| c.mesh == *mesh && c.member != *except;
        self.conns.iter().filter(|(_, c)| other(c)).map(|(id, _)| *id).collect()
    }

    /// How many connections there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// Whether nobody is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }
}

fn left((key, kind): (PublicKey, IdentityKind)) -> Effect {
    Effect::Left { key, kind }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const MESH: MeshId = MeshId([1; 32]);

    fn at(conn: ConnId, key: u8, instance: u8) -> Attach {
        let key = PublicKey([key; 32]);
        Attach {
            conn,
            mesh: MESH,
            member: key,
            key,
            kind: IdentityKind::Member,
            instance: InstanceId([instance; 16]),
        }
    }

    fn joined(key: u8) -> Effect {
        Effect::Joined { key: PublicKey([key; 32]), kind: IdentityKind::Member }
    }

    #[test]
    fn coming_and_going_is_told_once() {
        let mut p = Presence::new(10);
        assert_eq!(p.attach(at(1, 1, 1)), (Ok(()), vec![joined(1)]));
        assert_eq!(p.detach(1), vec![left((PublicKey([1; 32]), IdentityKind::Member))]);
        assert_eq!(p.detach(1), vec![]);
        assert!(p.is_empty());
    }

    #[test]
    fn the_same_instance_replaces_silently() {
        let mut p = Presence::new(10);
        p.attach(at(1, 1, 1)).0.unwrap();
        assert_eq!(p.attach(at(2, 1, 1)), (Ok(()), vec![Effect::Replace { conn: 1 }]));
        assert_eq!(p.detach(1), vec![], "the old socket's end says nothing");
        assert_eq!(p.holder(&MESH, &PublicKey([1; 32])), Some(2));
        assert_eq!(p.detach(2).len(), 1);
    }

    #[test]
    fn another_instance_is_refused_and_both_are_told() {
        let mut p = Presence::new(10);
        p.attach(at(1, 1, 1)).0.unwrap();
        let refused = (Err(Refused::OtherInstance), vec![Effect::Warn { conn: 1 }]);
        assert_eq!(p.attach(at(2, 1, 9)), refused);
        p.detach(1);
        assert!(p.attach(at(2, 1, 9)).0.is_ok());
    }

    #[test]
    fn defect_7_a_full_mesh_takes_its_own_members_back() {
        let mut p = Presence::new(2);
        p.attach(at(1, 1, 1)).0.unwrap();
        p.attach(at(2, 2, 1)).0.unwrap();
        assert_eq!(p.attach(at(3, 3, 1)).0, Err(Refused::Capacity));
        assert!(p.attach(at(4, 1, 1)).0.is_ok(), "a reconnect is no newcomer");
        p.detach(2);
        assert!(p.attach(at(5, 3, 1)).0.is_ok());
    }

    proptest! {
        /// Against a set of live connections: counts never leak, an identity has one holder, and
        /// joined and left alternate.
        #[test]
        fn counts_and_holders_never_leak(
            ops in prop::collection::vec((any::<bool>(), 0..12u64, 0..4u8, 0..2u8), 0..200)
        ) {
            let mut p = Presence::new(3);
            let mut online: HashSet<PublicKey> = HashSet::new();
            let mut next = 100;
            let mut live: Vec<ConnId> = Vec::new();
            for (attach, pick, key, instance) in ops {
                let effects = if attach {
                    next += 1;
                    let (r, effects) = p.attach(at(next, key, instance));
                    if r.is_ok() { live.push(next); }
                    effects
                } else if live.is_empty() {
                    Vec::new()
                } else {
                    let conn = live.remove(usize::try_from(pick).unwrap() % live.len());
                    p.detach(conn)
                };
                for e in effects {
                    match e {
                        Effect::Joined { key, .. } => prop_assert!(online.insert(key)),
                        Effect::Left { key, .. } => prop_assert!(online.remove(&key)),
                        _ => {}
                    }
                }
                prop_assert_eq!(p.len(), online.len());
                prop_assert_eq!(p.holders.len(), online.len());
                prop_assert_eq!(p.per_mesh.get(&MESH).copied().unwrap_or(0), online.len());
                prop_assert!(p.len() <= 3);
            }
        }
    }
}
