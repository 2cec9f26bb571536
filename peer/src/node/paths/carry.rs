//! What comes over a direct path.

use std::sync::Arc;

use meshwire_signaling::PublicKey;
use meshwire_transport::link::{CLOSED, LinkEvent, MessageLink};
use tokio::sync::mpsc;

use super::super::mesh::Mesh;
use crate::node::inbound::{self, Source};
use crate::path::machine::AttemptId;
use crate::path::{Cause, Event};

/// Envelopes stored together, as from the broker.
const BATCH: usize = 64;

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
