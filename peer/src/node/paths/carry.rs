//! What comes over a direct path.

use std::sync::Arc;

use meshwire_signaling::PublicKey;
use meshwire_transport::direct::PathInfo;
use meshwire_transport::link::{CLOSED, LinkEvent, MessageLink};
use tokio::sync::{mpsc, watch};

use super::super::mesh::Mesh;
use crate::node::inbound::{self, Source};
use crate::path::machine::AttemptId;
use crate::path::{Cause, Event};

/// Envelopes stored together, as from the broker.
const BATCH: usize = 64;

/// Looks after the relay whenever the path falls silent, for ever: what has befallen the one may have
/// befallen the other, and then nobody would hear of us for a minute.
pub(super) async fn watch(mesh: Arc<Mesh>, mut info: watch::Receiver<PathInfo>) {
    while info.wait_for(|info| info.silent).await.is_ok() {
        mesh.link.doubt();
        if info.wait_for(|info| !info.silent).await.is_err() {
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
    mut events: mpsc::Receiver<LinkEvent>,
) {
    let source = Source::Direct { peer, link: link.as_ref() };
    let mut batch = Vec::with_capacity(BATCH);
    let mut cause = Cause::Silent;
    while events.recv_many(&mut batch, BATCH).await > 0 {
        let mut envelopes = Vec::new();
        let mut receipts = Vec::new();
        for event in batch.drain(..) {
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
        inbound::accept(&mesh, &source, envelopes).await;
        inbound::confirm(&mesh, &source, receipts).await;
    }
    mesh.path_ended(&peer, id, cause);
    mesh.resend(&peer).await;
}
