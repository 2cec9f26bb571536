//! What comes of somebody's coming or going: who is told, what is remembered, whose connection is closed.

use std::sync::Arc;

use meshwire_signaling::frame::{
    ErrorFrame, Frame, Presence as PresenceFrame, PresenceEvent, Unbound, close, code,
};
use meshwire_signaling::invite::Chain;
use meshwire_signaling::{MeshId, PublicKey, codec};
use tokio::sync::mpsc::error::TrySendError;

use super::{LeaseOp, State};
use crate::core::presence::{ConnId, Effect, Moved};
use crate::serve::Inner;
use crate::store::LeaseRow;
use crate::ws::Handle;

impl State {
    /// Does what has come of somebody's coming or going.
    pub(super) fn carry_out(&mut self, effects: Vec<Effect>, chain: Option<&Chain>, inner: &Inner) {
        for effect in effects {
            match effect {
                Effect::Close { conn, code, reason } => {
                    if let Some(handle) = self.handles.get(&conn) {
                        handle.close(code, reason);
                    }
                }
                Effect::Unbound { conn, key, reason } => {
                    let Some(handle) = self.handles.get(&conn) else { continue };
                    // What it has claimed for that identity is to be given back.
                    handle.wake();
                    if handle.out.try_send(Arc::new(Unbound { key, reason }.into())).is_err() {
                        // It must not miss that. It reads nothing now; when it comes back it binds
                        // anew, and learns what became of the identity.
                        handle.close(close::SLOW_CONSUMER, "slow_consumer");
                    }
                }
                Effect::Warn { conn } => {
                    let text = "another instance tried to connect with this key: is the home \
                                copied?";
                    let error = ErrorFrame::permanent(code::ALREADY_CONNECTED, text);
                    if let Some(handle) = self.handles.get(&conn) {
                        offer(handle, Arc::new(error.into()), inner);
                    }
                }
                Effect::Joined(moved) => {
                    inner.metrics.joined.inc();
                    self.remember(&moved.mesh, &moved.key);
                    self.news(PresenceEvent::Joined, &moved, chain, inner);
                }
                Effect::Left(moved) => {
                    inner.metrics.left.inc();
                    self.ops.push(LeaseOp::End(moved.mesh, moved.key));
                    self.news(PresenceEvent::Left, &moved, None, inner);
                }
            }
        }
    }

    /// Lets the store know of an identity that is there.
    pub(super) fn remember(&mut self, mesh: &MeshId, key: &PublicKey) {
        let Some(lease) = self.presence.lease(mesh, key) else { return };
        self.ops.push(LeaseOp::Put(Box::new(LeaseRow {
            mesh: *mesh,
            key: *key,
            member: lease.member,
            kind: lease.kind,
            instance: lease.instance,
            lease: lease.lease,
            since: lease.since,
            about: codec::to_msgpack(&lease.about),
            attestation: lease.attestation.as_ref().map(codec::to_msgpack),
            features: codec::to_msgpack(&lease.features),
        })));
    }

    fn news(&self, event: PresenceEvent, moved: &Moved, chain: Option<&Chain>, inner: &Inner) {
        let mut audience = self.presence.audience(moved);
        if self.hidden.contains(&(moved.mesh, moved.member)) {
            audience.retain(|c| self.presence.member_of(*c) == Some(moved.member));
        }
        if audience.is_empty() {
            return;
        }
        let joined = event == PresenceEvent::Joined;
        let lease = joined.then(|| self.presence.lease(&moved.mesh, &moved.key)).flatten();
        let (attestation, features) =
            lease.map_or_else(Default::default, |l| (l.attestation, l.features));
        let frame = PresenceFrame {
            event,
            key: moved.key,
            member: moved.member,
            kind: moved.kind,
            at: inner.net.unix_ms(),
            chain: chain.cloned(),
            attestation,
            features,
        };
        self.tell(&audience, frame.into(), inner);
    }

    pub(super) fn tell(&self, audience: &[ConnId], frame: Frame, inner: &Inner) {
        // One for all: however many there are to hear it, it is kept once.
        let frame = Arc::new(frame);
        for conn in audience {
            if let Some(handle) = self.handles.get(conn) {
                offer(handle, frame.clone(), inner);
            }
        }
    }
}

/// Gives news of presence to a connection without waiting. One that is busy misses it, and is told so
/// when it has time again. The writer tells who does not read at all.
fn offer(handle: &Handle, frame: Arc<Frame>, inner: &Inner) {
    if let Err(TrySendError::Full(_)) = handle.out.try_send(frame) {
        inner.metrics.news_dropped.inc();
        handle.news_lost();
    }
}
