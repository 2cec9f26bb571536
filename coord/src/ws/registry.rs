//! The live connections and who is there, and telling them things.

mod news;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::{
    About, ErrorFrame, Frame, PeerChanged, PeerInfo, Presence as PresenceFrame, PresenceEvent,
    PresenceInfo, close, code,
};
use meshwire_signaling::invite::Chain;
use meshwire_signaling::sign::Signed;
use meshwire_signaling::{MeshId, PublicKey, codec};
use tokio::sync::Notify;

use super::epochs::{Epoch, Epochs};
use super::{Conn, Handle};
use crate::core::again;
use crate::core::hello::Refusal;
use crate::core::presence::{
    Attach, Attached, Bind, ConnId, Disconnected, Effect, Identity, Moved, Now, Presence, Refused,
    Restored, Who,
};
use crate::serve::Inner;
use crate::store::{LeaseRow, MemberRow};

/// A change to what is remembered of who is there.
#[derive(Clone, Debug)]
pub(super) enum LeaseOp {
    /// It came, or says something else of itself.
    Put(Box<LeaseRow>),
    /// It went.
    End(MeshId, PublicKey),
}

impl LeaseOp {
    /// Whom it is about.
    pub(super) fn identity(&self) -> Identity {
        match self {
            Self::Put(row) => (row.mesh, row.key),
            Self::End(mesh, key) => (*mesh, *key),
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Registry {
    state: Mutex<State>,
    /// Wakes the task that ends graces and remembers leases.
    pub(super) changed: Notify,
}

#[derive(Debug)]
struct State {
    presence: Presence,
    handles: HashMap<ConnId, Handle>,
    /// Members that do not want to be listed.
    hidden: HashSet<Identity>,
    /// What is yet to be remembered, in order.
    ops: Vec<LeaseOp>,
    /// Change whenever an identity has come to a connection or gone from it, before others see it.
    epochs: Epochs,
}

impl Registry {
    /// At most so many connections per mesh; identities outlive theirs by `grace` ms.
    pub(crate) fn new(max_per_mesh: usize, grace: u64) -> Self {
        let state = State {
            presence: Presence::new(max_per_mesh, grace),
            handles: HashMap::new(),
            hidden: HashSet::new(),
            ops: Vec::new(),
            epochs: Epochs::default(),
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// As long as this is the same, so are all answers of [`Self::speaks_for`], [`Self::attestation`],
    /// [`Self::online`] and [`Self::holder`] about identities of `mesh`.
    pub(super) fn epoch(&self, mesh: &MeshId) -> Epoch {
        self.state().epochs.of(mesh)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up who was there when the broker's last run ended.
    pub(crate) fn restore(&self, rows: Vec<LeaseRow>, tick: u64) {
        let mut state = self.state();
        for row in rows {
            let restored = Restored {
                member: row.member,
                kind: row.kind,
                instance: row.instance,
                lease: row.lease,
                since: row.since,
                about: codec::from_msgpack(&row.about).unwrap_or_default(),
                attestation: row.attestation.and_then(|a| codec::from_msgpack(&a).ok()),
                features: codec::from_msgpack(&row.features).unwrap_or_default(),
            };
            state.presence.restore(row.mesh, row.key, restored, tick);
        }
    }

    /// Brings a connection in, or says why not; carries out what follows.
    pub(crate) fn attach(
        &self,
        attach: Attach,
        handle: Handle,
        member: &MemberRow,
        inner: &Inner,
    ) -> Result<Attached, Refusal> {
        let (conn, mesh, of) = (attach.conn, attach.mesh, attach.member);
        let mut state = self.state();
        if member.hidden {
            // Only hiding is taken from what was read before: showing itself is said once it is so.
            state.hidden.insert((mesh, of));
        }
        let (result, effects) = state.presence.attach(attach, now(inner));
        if result.is_ok() {
            state.handles.insert(conn, handle);
            state.epochs.moved(&mesh);
        }
        let chain = codec::from_msgpack(&member.chain).ok();
        state.carry_out(effects, chain.as_ref(), inner);
        drop(state);
        self.changed.notify_one();
        result.map_err(refusal)
    }

    /// Adds an identity to a connection.
    pub(super) fn bind(&self, bind: Bind, conn: &Conn) -> Result<Attached, Refused> {
        let inner = &conn.inner;
        let mut state = self.state();
        let (result, effects) = state.presence.bind(bind, now(inner));
        if result.is_ok() {
            state.epochs.moved(&conn.mesh);
        }
        state.carry_out(effects, None, inner);
        drop(state);
        self.changed.notify_one();
        result
    }

    /// Ends a bound identity. False if it is none of the connection's.
    pub(super) fn unbind(&self, conn: &Conn, key: &PublicKey) -> bool {
        let mut state = self.state();
        let effect = state.presence.unbind(conn.id, key);
        let was = effect.is_some();
        if was {
            state.epochs.moved(&conn.mesh);
        }
        state.carry_out(effect.into_iter().collect(), None, &conn.inner);
        drop(state);
        self.changed.notify_one();
        was
    }

    /// Ends the presence of a connection that leaves on purpose.
    pub(super) fn bye(&self, conn: &Conn) {
        let mut state = self.state();
        let effects = state.presence.bye(conn.id);
        if !effects.is_empty() {
            state.epochs.moved(&conn.mesh);
        }
        state.carry_out(effects, None, &conn.inner);
        drop(state);
        self.changed.notify_one();
    }

    /// Takes a connection out, last heard at `heard`; returns the identities that it had.
    pub(super) fn detach(&self, conn: &Conn, heard: u64) -> Vec<PublicKey> {
        let mut state = self.state();
        let identities = state.presence.detach(conn.id, heard);
        state.handles.remove(&conn.id);
        if !identities.is_empty() {
            state.epochs.moved(&conn.mesh);
        }
        drop(state);
        self.changed.notify_one();
        if identities.is_empty() { vec![conn.key] } else { identities }
    }

    /// Ends the graces that are over; says when the next one is, and what is to be remembered.
    pub(super) fn poll(&self, inner: &Inner) -> (Option<u64>, Vec<LeaseOp>) {
        let mut state = self.state();
        let effects = state.presence.poll(inner.tick());
        for effect in &effects {
            // Whatever else follows, this is among it.
            if let Effect::Left(moved) = effect {
                state.epochs.moved(&moved.mesh);
            }
        }
        state.carry_out(effects, None, inner);
        (state.presence.next_deadline(), std::mem::take(&mut state.ops))
    }

    /// Disconnects others.
    pub(super) fn disconnect(
        &self,
        mesh: &MeshId,
        who: &Who,
        kick: bool,
        inner: &Inner,
    ) -> Disconnected {
        let mut state = self.state();
        let mut done = state.presence.disconnect(mesh, who, kick, inner.tick());
        if !done.effects.is_empty() {
            state.epochs.moved(mesh);
        }
        state.carry_out(std::mem::take(&mut done.effects), None, inner);
        drop(state);
        self.changed.notify_one();
        done
    }

    /// Changes what an identity says of itself.
    pub(super) fn set_about(&self, mesh: &MeshId, key: &PublicKey, about: About) {
        let mut state = self.state();
        if state.presence.set_about(mesh, key, about) {
            state.remember(mesh, key);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// What an identity that is there says of itself.
    pub(super) fn about(&self, mesh: &MeshId, key: &PublicKey) -> Option<About> {
        self.state().presence.about(mesh, key).cloned()
    }

    /// Hides a member from the others, or shows it again.
    pub(super) fn set_hidden(&self, mesh: &MeshId, member: &PublicKey, hidden: bool) {
        let mut state = self.state();
        if hidden {
            state.hidden.insert((*mesh, *member));
        } else {
            state.hidden.remove(&(*mesh, *member));
        }
    }

    /// Whether an identity is there, connected or in grace.
    pub(crate) fn online(&self, mesh: &MeshId, key: &PublicKey) -> bool {
        self.state().presence.is_there(mesh, key)
    }

    /// Whether somebody speaks for an identity right now.
    pub(super) fn connected(&self, mesh: &MeshId, key: &PublicKey) -> bool {
        self.state().presence.holder(mesh, key).is_some()
    }

    /// The identities of a member that are there.
    pub(super) fn presences(&self, mesh: &MeshId, member: &PublicKey) -> Vec<PresenceInfo> {
        self.state().presence.presences(mesh, member)
    }

    /// Whether a connection speaks for a key.
    pub(crate) fn speaks_for(&self, conn: ConnId, key: &PublicKey) -> bool {
        self.state().presence.speaks_for(conn, key)
    }

    /// The member's word by which a connection speaks for a session or service.
    pub(super) fn attestation(&self, conn: ConnId, key: &PublicKey) -> Option<Signed> {
        self.state().presence.attestation(conn, key)
    }

    /// The identities of a connection.
    pub(crate) fn identities(&self, conn: ConnId) -> Vec<PublicKey> {
        self.state().presence.identities(conn)
    }

    /// The connection that speaks for an identity.
    pub(crate) fn holder(&self, mesh: &MeshId, key: &PublicKey) -> Option<Handle> {
        let state = self.state();
        let conn = state.presence.holder(mesh, key)?;
        state.handles.get(&conn).cloned()
    }

    /// Lets an identity's connection look at what waits for it.
    pub(crate) fn wake(&self, mesh: &MeshId, key: &PublicKey) {
        if let Some(handle) = self.holder(mesh, key) {
            handle.wake();
        }
    }

    /// Tells everybody else in the mesh that somebody was admitted.
    pub(crate) fn admitted(&self, mesh: &MeshId, key: PublicKey, chain: &Chain, inner: &Inner) {
        let frame = PresenceFrame {
            event: PresenceEvent::Admitted,
            key,
            member: key,
            kind: IdentityKind::Member,
            at: inner.net.unix_ms(),
            chain: Some(chain.clone()),
            attestation: None,
            features: Vec::new(),
        };
        let moved = Moved { mesh: *mesh, key, member: key, kind: IdentityKind::Member };
        let state = self.state();
        state.tell(&state.presence.audience(&moved), frame.into(), inner);
    }

    /// Tells everybody but one connection what a member says of itself now.
    pub(super) fn tell_changed(&self, conn: &Conn, peer: PeerInfo) {
        let state = self.state();
        let others = state.presence.others(&conn.mesh, Some(conn.id));
        state.tell(&others, PeerChanged { peer }.into(), &conn.inner);
    }

    /// Closes every connection.
    pub(crate) fn close_all(&self, code: u16, reason: &str) {
        for handle in self.state().handles.values() {
            handle.close(code, reason);
        }
    }

    /// How many connections there are.
    pub(crate) fn len(&self) -> usize {
        self.state().presence.len()
    }

    /// How many identities wait for their connection.
    pub(super) fn in_grace(&self) -> usize {
        self.state().presence.in_grace()
    }
}

fn now(inner: &Inner) -> Now {
    let lease = meshwire_transport::net::random(inner.net.as_ref());
    let lease = meshwire_signaling::InstanceId(lease);
    Now { tick: inner.tick(), unix: inner.net.unix_ms(), lease }
}

fn refusal(refused: Refused) -> Refusal {
    match refused {
        Refused::Capacity => {
            let text = "this mesh has as many connections, or this member as many identities, as \
                        the broker allows";
            let error = ErrorFrame::transient(code::CAPACITY, text, again::FULL);
            Refusal { error, close: close::TRY_LATER }
        }
        Refused::OtherInstance => {
            let text = "this key is connected from another instance: is the home copied?";
            let error = ErrorFrame::permanent(code::ALREADY_CONNECTED, text);
            Refusal { error, close: close::ALREADY_CONNECTED }
        }
        Refused::Foreign | Refused::Gone => {
            Refusal::new(code::FORBIDDEN, "this key belongs to another member")
        }
    }
}

/// Gives a receipt to its author's connection, now or, if that is busy, soon.
pub(super) fn offer_receipt(registry: &Registry, mesh: &MeshId, author: &PublicKey, frame: Frame) {
    if let Some(handle) = registry.holder(mesh, author)
        && handle.out.try_send(Arc::new(frame)).is_err()
    {
        handle.receipts_waiting();
    }
}

/// Shorthand for tasks.
pub(super) type Shared = Arc<Conn>;
