//! Who is there: which connection speaks for which identity, and for how long it counts when none
//! does any more.
//!
//! ```text
//! (away) --hello, bind--> online --connection lost--> grace --the lease ends--> (away): left
//!   : joined                 ^                          |
//!                            +---- the same instance ---+   silent
//! online, grace --bye, unbind, kick--> (away): left
//! ```
//!
//! An identity has one connection. A lease is bound to (member, proven key, instance): the same
//! member from the same instance takes its own older connection's place silently; from another
//! instance it is refused while the older one lives, and both are told (a copied home); a lease in
//! grace yields to it. Each real coming is told as one [`Effect::Joined`], each real going as one
//! [`Effect::Left`].
//!
//! Drive contract: nobody calls [`Presence::attach`] or [`Presence::bind`] before `core::hello` has
//! checked key, member and proof. Carry out the effects in order. Every attach that returns no
//! refusal is matched by one [`Presence::detach`], whatever happened to the connection in between.
//! Call [`Presence::poll`] at [`Presence::next_deadline`]. `tick` is any monotonic clock in
//! milliseconds; `unix` is for people.

mod admin;
mod lease;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::{About, Attendance, PresenceInfo, UnboundReason};
use meshwire_signaling::sign::Signed;
use meshwire_signaling::{InstanceId, MeshId, PublicKey, UnixMillis};

pub use admin::{Disconnected, Who};
pub use lease::{Attached, Restored};

/// Identities of one member that may be there at a time, its own included: each comes and goes before
/// everybody in the mesh.
pub const MAX_PER_MEMBER: usize = 64;

/// Numbers connections within one run of the broker.
pub type ConnId = u64;

/// An identity in a mesh.
pub type Identity = (MeshId, PublicKey);

/// An identity that is there.
#[derive(Clone, Debug)]
struct Held {
    member: PublicKey,
    kind: IdentityKind,
    instance: InstanceId,
    lease: InstanceId,
    since: UnixMillis,
    /// Who speaks for it; none in grace.
    holder: Option<ConnId>,
    /// When its grace ends, in ticks; meaningful without a holder.
    until: u64,
    about: About,
    attestation: Option<Signed>,
    /// When that is over, in ticks.
    attested: Option<u64>,
    features: Vec<String>,
}

#[derive(Debug)]
struct Conn {
    mesh: MeshId,
    member: PublicKey,
    /// The identity that said hello.
    key: PublicKey,
    instance: InstanceId,
    features: Vec<String>,
    identities: Vec<PublicKey>,
}

/// What follows from a change; to be carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Close this connection.
    Close {
        /// The connection.
        conn: ConnId,
        /// The close code.
        code: u16,
        /// The reason.
        reason: &'static str,
    },
    /// Tell this connection that it does not speak for an identity any more.
    Unbound {
        /// The connection.
        conn: ConnId,
        /// The identity.
        key: PublicKey,
        /// Why.
        reason: UnboundReason,
    },
    /// Tell this connection that another instance tried to come in with its key.
    Warn {
        /// The connection that lives.
        conn: ConnId,
    },
    /// Tell the others that an identity came.
    Joined(Moved),
    /// Tell the others that an identity went.
    Left(Moved),
}

/// Who came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Where.
    pub mesh: MeshId,
    /// The identity.
    pub key: PublicKey,
    /// Its member.
    pub member: PublicKey,
    /// What it is.
    pub kind: IdentityKind,
}

/// Why a connection cannot attach, or an identity not be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The mesh has as many connections as it may have, or the member as many identities.
    Capacity,
    /// Another instance of the same key is connected.
    OtherInstance,
    /// The key is another member's.
    Foreign,
    /// The connection is no more.
    Gone,
}

/// Who attaches.
#[derive(Clone, Debug)]
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
    /// What it says of itself, if that is kept for it.
    pub about: About,
    /// The member's word for it, for sessions and services.
    pub attestation: Option<Signed>,
    /// When that is over, Unix milliseconds.
    pub attested_until: Option<UnixMillis>,
    /// Feature bits of the program behind it.
    pub features: Vec<String>,
}

/// A further identity of a connection.
#[derive(Clone, Debug)]
pub struct Bind {
    /// The connection.
    pub conn: ConnId,
    /// The identity.
    pub key: PublicKey,
    /// What it is.
    pub kind: IdentityKind,
    /// The member's word for it.
    pub attestation: Signed,
    /// When that is over, Unix milliseconds.
    pub attested_until: UnixMillis,
}

/// The moment of a call, and what a new lease is to be called.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic milliseconds.
    pub tick: u64,
    /// Unix milliseconds.
    pub unix: UnixMillis,
    /// 16 random bytes.
    pub lease: InstanceId,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Presence {
    max_per_mesh: usize,
    /// How long an identity outlives its connection, in milliseconds.
    grace: u64,
    conns: HashMap<ConnId, Conn>,
    held: HashMap<Identity, Held>,
    per_mesh: HashMap<MeshId, HashSet<ConnId>>,
    /// The identities of each member, in key order.
    of_member: HashMap<Identity, BTreeSet<PublicKey>>,
    /// Ends of attestations.
    attested: BTreeSet<(u64, MeshId, PublicKey)>,
    /// Ends of graces.
    deadlines: BTreeSet<(u64, MeshId, PublicKey)>,
}

impl Now {
    /// A moment in Unix milliseconds, in ticks.
    fn tick_of(&self, at: UnixMillis) -> u64 {
        self.tick.saturating_add(at.saturating_sub(self.unix))
    }
}

impl Presence {
    /// At most `max_per_mesh` connections per mesh; identities outlive theirs by `grace` ms.
    #[must_use]
    pub fn new(max_per_mesh: usize, grace: u64) -> Self {
        Self {
            max_per_mesh,
            grace,
            conns: HashMap::new(),
            held: HashMap::new(),
            per_mesh: HashMap::new(),
            of_member: HashMap::new(),
            attested: BTreeSet::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// Which connection speaks for an identity.
    #[must_use]
    pub fn holder(&self, mesh: &MeshId, key: &PublicKey) -> Option<ConnId> {
        self.held.get(&(*mesh, *key)).and_then(|h| h.holder)
    }

    /// Whether an identity is there: it has a connection, or had one just now.
    #[must_use]
    pub fn is_there(&self, mesh: &MeshId, key: &PublicKey) -> bool {
        self.held.contains_key(&(*mesh, *key))
    }

    /// Whether a connection speaks for a key.
    #[must_use]
    pub fn speaks_for(&self, conn: ConnId, key: &PublicKey) -> bool {
        self.conns.get(&conn).is_some_and(|c| c.identities.contains(key))
    }

    /// The member's word by which a connection speaks for a session or service.
    #[must_use]
    pub fn attestation(&self, conn: ConnId, key: &PublicKey) -> Option<Signed> {
        let mesh = self.conns.get(&conn)?.mesh;
        self.held.get(&(mesh, *key)).filter(|h| h.holder == Some(conn))?.attestation.clone()
    }

    /// The identities of a connection.
    #[must_use]
    pub fn identities(&self, conn: ConnId) -> Vec<PublicKey> {
        self.conns.get(&conn).map_or_else(Vec::new, |c| c.identities.clone())
    }

    /// What an identity that is there says of itself.
    #[must_use]
    pub fn about(&self, mesh: &MeshId, key: &PublicKey) -> Option<&About> {
        self.held.get(&(*mesh, *key)).map(|h| &h.about)
    }

    /// Changes what an identity says of itself. False if it is not there.
    pub fn set_about(&mut self, mesh: &MeshId, key: &PublicKey, about: About) -> bool {
        let held = self.held.get_mut(&(*mesh, *key));
        held.map(|h| h.about = about).is_some()
    }

    /// The identities of a member that are there, in key order.
    #[must_use]
    pub fn presences(&self, mesh: &MeshId, member: &PublicKey) -> Vec<PresenceInfo> {
        let keys = self.of_member.get(&(*mesh, *member)).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.held.get(&(*mesh, *key))?)))
            .map(|(key, h)| PresenceInfo {
                key: *key,
                kind: h.kind,
                attendance: match h.holder {
                    Some(_) => Attendance::Online,
                    None => Attendance::Grace,
                },
                since: h.since,
                about: match h.kind {
                    IdentityKind::Member => About::default(),
                    _ => h.about.clone(),
                },
                attestation: h.attestation.clone(),
                features: h.features.clone(),
            })
            .collect()
    }

    /// The connections of a mesh that are to hear of `moved`: of a member's own coming and going the
    /// other members, of a session's everybody but the connection that speaks for it.
    #[must_use]
    pub fn audience(&self, moved: &Moved) -> Vec<ConnId> {
        let holder = self.holder(&moved.mesh, &moved.key);
        let hears = |id: &ConnId, c: &Conn| match moved.kind {
            IdentityKind::Member => c.member != moved.member,
            _ => Some(*id) != holder,
        };
        let of_mesh = self.per_mesh.get(&moved.mesh).into_iter().flatten();
        of_mesh.filter(|id| self.conns.get(id).is_some_and(|c| hears(id, c))).copied().collect()
    }

    /// The connections of a mesh but one.
    #[must_use]
    pub fn others(&self, mesh: &MeshId, except: Option<ConnId>) -> Vec<ConnId> {
        let of_mesh = self.per_mesh.get(mesh).into_iter().flatten();
        of_mesh.filter(|id| Some(**id) != except).copied().collect()
    }

    /// The member that a connection belongs to.
    #[must_use]
    pub fn member_of(&self, conn: ConnId) -> Option<PublicKey> {
        self.conns.get(&conn).map(|c| c.member)
    }

    /// How many connections there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// Whether nobody is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// How many identities wait for their connection.
    #[must_use]
    pub fn in_grace(&self) -> usize {
        self.deadlines.len()
    }
}
