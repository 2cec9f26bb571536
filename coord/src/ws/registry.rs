//! The live connections, and telling them things.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::{ErrorFrame, Frame, Presence as PresenceFrame, PresenceEvent};
use meshwire_signaling::frame::{close, code};
use meshwire_signaling::invite::Chain;
use meshwire_signaling::{MeshId, PublicKey, codec};
use tokio::sync::mpsc::error::TrySendError;

use super::{Conn, Handle};
use crate::core::again;
use crate::core::hello::Refusal;
use crate::core::presence::{Attach, ConnId, Effect, Presence, Refused};
use crate::serve::Inner;
use crate::store::MemberRow;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Registry(Mutex<State>);

#[derive(Debug)]
struct State {
    presence: Presence,
    handles: HashMap<ConnId, Handle>,
}

impl Registry {
    pub(crate) fn new(max_per_mesh: usize) -> Self {
        Self(Mutex::new(State { presence: Presence::new(max_per_mesh), handles: HashMap::new() }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a connection in, or says why not; carries out what follows.
    pub(crate) fn attach(
        &self,
        attach: Attach,
        handle: Handle,
        member: &MemberRow,
        inner: &Inner,
    ) -> Result<(), Refusal> {
        let mut state = self.state();
        let (result, effects) = state.presence.attach(attach);
        if result.is_ok() {
            state.handles.insert(attach.conn, handle);
        }
        let chain = codec::from_msgpack(&member.chain).ok();
        state.carry_out(effects, &attach.mesh, &attach.member, chain.as_ref(), inner);
        result.map_err(|refused| match refused {
            Refused::Capacity => {
                let text = "this mesh has as many connections as the broker allows";
                let error = ErrorFrame::transient(code::CAPACITY, text, again::FULL);
                Refusal { error, close: close::TRY_LATER }
            }
            Refused::OtherInstance => {
                let text = "this key is connected from another instance: is the home copied?";
                let error = ErrorFrame::permanent(code::ALREADY_CONNECTED, text);
                Refusal { error, close: close::ALREADY_CONNECTED }
            }
        })
    }

    /// Adds an identity to a connection.
    pub(crate) fn bind(&self, conn: &Conn, key: PublicKey, kind: IdentityKind) {
        let mut state = self.state();
        let effects = state.presence.bind(conn.id, key, kind);
        state.carry_out(effects, &conn.mesh, &conn.member, None, &conn.inner);
    }

    /// Takes a connection out; returns the identities that it had.
    pub(crate) fn detach(&self, conn: &Conn, inner: &Inner) -> Vec<PublicKey> {
        let mut state = self.state();
        let identities = state.presence.identities(conn.id);
        let effects = state.presence.detach(conn.id);
        state.handles.remove(&conn.id);
        state.carry_out(effects, &conn.mesh, &conn.member, None, inner);
        if identities.is_empty() { vec![conn.key] } else { identities }
    }

    /// Whether somebody speaks for this identity now.
    pub(crate) fn online(&self, mesh: &MeshId, key: &PublicKey) -> bool {
        self.state().presence.holder(mesh, key).is_some()
    }

    /// Whether a connection speaks for a key.
    pub(crate) fn speaks_for(&self, conn: ConnId, key: &PublicKey) -> bool {
        self.state().presence.speaks_for(conn, key)
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
        };
        self.state().tell_others(mesh, &key, &frame.into(), inner);
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
}

impl State {
    fn carry_out(
        &mut self,
        effects: Vec<Effect>,
        mesh: &MeshId,
        member: &PublicKey,
        chain: Option<&Chain>,
        inner: &Inner,
    ) {
        for effect in effects {
            match effect {
                Effect::Replace { conn } => {
                    if let Some(handle) = self.handles.get(&conn) {
                        handle.close(close::NORMAL, "session_replaced");
                    }
                }
                Effect::Warn { conn } => {
                    let text = "another instance tried to connect with this key: is the home \
                                copied?";
                    let error = ErrorFrame::permanent(code::ALREADY_CONNECTED, text);
                    if let Some(handle) = self.handles.get(&conn) {
                        offer(handle, error.into(), inner);
                    }
                }
                Effect::Joined { key, kind } => {
                    self.presence_event(
                        PresenceEvent::Joined,
                        (key, kind),
                        mesh,
                        member,
                        chain,
                        inner,
                    );
                }
                Effect::Left { key, kind } => {
                    self.presence_event(
                        PresenceEvent::Left,
                        (key, kind),
                        mesh,
                        member,
                        None,
                        inner,
                    );
                }
            }
        }
    }

    fn presence_event(
        &self,
        event: PresenceEvent,
        (key, kind): (PublicKey, IdentityKind),
        mesh: &MeshId,
        member: &PublicKey,
        chain: Option<&Chain>,
        inner: &Inner,
    ) {
        let at = inner.net.unix_ms();
        let chain = chain.cloned();
        let frame = PresenceFrame { event, key, member: *member, kind, at, chain };
        self.tell_others(mesh, member, &frame.into(), inner);
    }

    fn tell_others(&self, mesh: &MeshId, except: &PublicKey, frame: &Frame, inner: &Inner) {
        for conn in self.presence.others(mesh, except) {
            if let Some(handle) = self.handles.get(&conn) {
                offer(handle, frame.clone(), inner);
            }
        }
    }
}

/// Gives news of presence to a connection without waiting. One that is busy misses it: news is
/// advice, and the roster is read anew at each connect. The writer tells who does not read at all.
pub(super) fn offer(handle: &Handle, frame: Frame, inner: &Inner) {
    if let Err(TrySendError::Full(_)) = handle.out.try_send(frame) {
        inner.metrics.news_dropped.inc();
    }
}

/// Gives a receipt to its author's connection, now or, if that is busy, soon.
pub(super) fn offer_receipt(registry: &Registry, mesh: &MeshId, author: &PublicKey, frame: Frame) {
    if let Some(handle) = registry.holder(mesh, author)
        && handle.out.try_send(frame).is_err()
    {
        handle.receipts_waiting();
    }
}

/// Shorthand for tasks.
pub(super) type Shared = Arc<Conn>;
