//! What comes over a direct path.

use std::sync::Arc;

use meshwire_signaling::PublicKey;
use meshwire_transport::direct::{PathInfo, Reach};
use meshwire_transport::link::{CLOSED, LinkEvent, MessageLink};
use meshwire_transport::queue;
use tokio::sync::watch;

use super::super::mesh::Mesh;
use crate::node::inbound::{self, Source};
use crate::path::machine::AttemptId;
use crate::path::{Cause, Event};

/// Envelopes stored together, as from the broker.
const BATCH: usize = 64;

/// Looks after the relay whenever the path falls silent, for ever: what has befallen the one may have
/// befallen the other, and then nobody would hear of us for a minute. Tells when the path goes through a
/// TURN server or no longer.
pub(super) async fn watch(
    mesh: Arc<Mesh>,
    peer: PublicKey,
    id: AttemptId,
    mut info: watch::Receiver<PathInfo>,
) {
    let mut relayed = info.borrow().reach == Reach::Relayed;
    let mut silent = false;
    loop {
        let now = info.borrow_and_update().clone();
        if now.silent && !silent {
            mesh.link.doubt();
        }
        silent = now.silent;
        if !silent && relayed != (now.reach == Reach::Relayed) {
            relayed = !relayed;
            mesh.path_moved(&peer, id, &now);
        }
        if info.changed().await.is_err() {
            break;
        }
    }
    std::future::pending().await
}

/// Runs until the path's link has ended.
pub(super) async fn run(
    mesh: Arc<Mesh>,
    peer: PublicKey,
    id: AttemptId,
    link: Arc<dyn MessageLink>,
    mut events: queue::Receiver<LinkEvent>,
) {
    let source = Source::Direct { peer, link: link.as_ref() };
    let mut cause = Cause::Silent;
    while let Some(first) = events.recv().await {
        let mut envelopes = Vec::new();
        let mut receipts = Vec::new();
        let more = std::iter::from_fn(|| events.try_recv());
        for event in std::iter::once(first).chain(more).take(BATCH) {
            match event {
                LinkEvent::Envelope(inbound) => envelopes.push(*inbound),
                LinkEvent::Receipt { from, id, receipt } => receipts.push((from, id, receipt)),
                LinkEvent::Down { code, .. } if code.as_deref() == Some(CLOSED) => {
                    cause = Cause::PeerEnded;
                }
                _ => {}
            }
        }
        if !envelopes.is_empty() || !receipts.is_empty() {
            mesh.path_event(&peer, Event::Traffic);
        }
        // Boxed: this task waits most of the time, and there are thousands of its kind.
        if !envelopes.is_empty() {
            Box::pin(inbound::accept(&mesh, &source, envelopes)).await;
        }
        if !receipts.is_empty() {
            Box::pin(inbound::confirm(&mesh, &source, receipts)).await;
        }
    }
    mesh.path_ended(&peer, id, cause);
    Box::pin(mesh.resend(&peer)).await;
}
