//! What peers say of direct paths, as the broker brings it.

use std::sync::Arc;

use meshwire_signaling::frame::{P2pFrame, P2pKind};
use meshwire_signaling::id::Blob;
use meshwire_signaling::p2p::quic::Content;
use meshwire_signaling::p2p::{Expected, Opened, P2pError, open};
use meshwire_signaling::{Hash, PublicKey};

use super::super::mesh::Mesh;
use crate::node::events::Misbehaviour;
use crate::path::{Cause, Event, PathMode};

/// Takes a step of a negotiation, if it holds, is by a member, and has not come before.
pub(in crate::node) async fn hear(mesh: &Arc<Mesh>, frame: P2pFrame) {
    let paths = &mesh.paths;
    let Some(adapter) = paths.adapter.as_ref() else { return };
    let (peer, me) = (frame.from, mesh.row.self_key);
    if frame.to != me || peer == me || frame.adapter != adapter.name() {
        return;
    }
    // Who is no member of ours yet is fetched by the roster, and offers again.
    let Some(known) = mesh.known(&peer).await.filter(|k| k.key == peer) else {
        mesh.refresh.notify_one();
        return;
    };
    let offer = offer_of(mesh, &peer, &frame.attempt.0);
    if frame.kind != P2pKind::Offer && offer.is_none() {
        // Of a try that is over.
        return;
    }
    let now = mesh.now();
    let Ok(pair) = mesh.pairs.pair(&peer) else { return };
    let expected = Expected::of(&frame, &mesh.row.mesh, &me, offer.as_ref(), now);
    let opened = match open(&frame.payload, &pair, &expected) {
        Ok(opened) => opened,
        Err(e) => {
            let text = format!("a {} by {} does not hold: {e}", frame.kind.as_str(), known.name);
            let what = match e {
                P2pError::Skew { .. } => Misbehaviour::UntimelyNegotiation,
                _ => Misbehaviour::TamperedNegotiation,
            };
            mesh.misbehaved(what, &text);
            return;
        }
    };
    let Opened { step, hash, .. } = opened;
    let accepted = paths.lock().heard.accept(&peer, step.attempt, step.seq, step.at, now);
    if let Err(e) = accepted {
        tracing::debug!(peer = %peer.short(), error = %e, "a step of a negotiation changes nothing");
        return;
    }
    let attempt = step.attempt.0;
    let content = if frame.loopback { step.content } else { elsewhere(step.kind, step.content) };
    match step.kind {
        P2pKind::Offer if paths.mode() == PathMode::RelayOnly => {}
        P2pKind::Offer => {
            // Its node may have begun anew, within its lease, of which nobody is told.
            mesh.views().change(peer, |view| view.indirect = false);
            mesh.path_offered(&peer, attempt, hash, content);
        }
        P2pKind::Answer | P2pKind::Candidate => {
            if step.kind == P2pKind::Answer {
                mesh.path_event(&peer, Event::Answer(attempt));
            }
            let state = paths.lock();
            let talk = state.pairs.get(&peer).and_then(|pair| pair.talk(&attempt));
            if let Some(talk) = talk {
                talk.hears(step.kind, content);
            }
        }
        P2pKind::Bye => {
            let detail = match Content::decode(P2pKind::Bye, &content) {
                Ok(Content::Bye(bye)) => bye.reason,
                _ => String::new(),
            };
            let cause = Cause::PeerRefused;
            mesh.path_event(&peer, Event::Failed { attempt, cause, detail });
        }
    }
}

/// What somebody said who does not reach the broker over loopback.
fn elsewhere(kind: P2pKind, content: Blob) -> Blob {
    match Content::decode(kind, &content) {
        Ok(decoded) => Blob(decoded.without_loopback().encode()),
        // Whoever takes it says what is wrong.
        Err(_) => content,
    }
}

/// The offer that a try with this name is about, which runs or has made the path.
fn offer_of(mesh: &Mesh, peer: &PublicKey, attempt: &[u8; 16]) -> Option<Hash> {
    let state = mesh.paths.lock();
    state.pairs.get(peer)?.talk(attempt)?.offer()
}
