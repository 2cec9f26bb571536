//! One try at a direct path: carries the adapter's words to the peer, sealed, and brings its outcome.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use meshwire_signaling::envelope::StateHead;
use meshwire_signaling::frame::{P2pKind, code};
use meshwire_signaling::id::Blob;
use meshwire_signaling::p2p::quic::{Bye, Content, reason};
use meshwire_signaling::p2p::{Negotiation, VERSION};
use meshwire_signaling::{AttemptId, Hash, PublicKey};
use meshwire_transport::direct::{Attempt, Begin, DirectPath, Signal, Stage};
use meshwire_transport::link::LinkError;
use meshwire_transport::net::random;
use meshwire_transport::queue;
use tokio::task::{AbortHandle, JoinSet};

use super::super::mesh::Mesh;
use crate::path::machine::AttemptId as Id;
use crate::path::{Cause, Event, PathMode};

/// A try that runs. Dropping it ends it.
pub(super) struct Running {
    pub(super) id: Id,
    hear: queue::Sender<(P2pKind, Blob)>,
    words: Arc<Words>,
    task: Option<AbortHandle>,
    /// A connection that came up and has not been promoted yet.
    path: Option<DirectPath>,
}

/// What every step of ours needs.
struct Words {
    id: Id,
    peer: PublicKey,
    adapter: &'static str,
    /// The offer that all other steps name.
    offer: OnceLock<Hash>,
    seq: AtomicU64,
    /// Steps leave one after the other.
    last: Mutex<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// How a try begins.
pub(super) enum Way {
    /// We offer.
    Offer {
        /// A path through a TURN server is no use: one is up.
        better: bool,
    },
    /// We answer the peer's offer.
    Answer(Hash, Blob),
}

/// Starts a try. None if this node makes no direct paths.
pub(super) fn start(
    mesh: &Arc<Mesh>,
    tasks: &mut JoinSet<()>,
    peer: &PublicKey,
    id: Id,
    way: Way,
) -> Option<Running> {
    let adapter = mesh.paths.adapter.as_ref()?;
    let begin = Begin {
        mesh: mesh.id(),
        me: mesh.row.self_key,
        peer: *peer,
        offers: matches!(way, Way::Offer { .. }),
        hide: mesh.paths.mode() == PathMode::HideAddresses,
        better: matches!(way, Way::Offer { better: true }),
        loopback: mesh.over_loopback(),
    };
    let Attempt { hear, signals } = adapter.begin(begin);
    let words = Words {
        id,
        peer: *peer,
        adapter: adapter.name(),
        offer: OnceLock::new(),
        seq: AtomicU64::new(0),
        last: Mutex::default(),
    };
    if let Way::Answer(hash, content) = way {
        let _ = words.offer.set(hash);
        // A fresh attempt has room for one.
        let _ = hear.try_send((P2pKind::Offer, content));
    }
    let words = Arc::new(words);
    let task = tasks.spawn(run(mesh.clone(), words.clone(), signals));
    Some(Running { id, hear, words, task: Some(task), path: None })
}

impl Running {
    /// The hash of the offer that it is about, once there is one.
    pub(super) fn offer(&self) -> Option<Hash> {
        self.words.offer.get().copied()
    }

    /// The peer said something that holds. A flood of it is dropped: ICE repeats what matters.
    pub(super) fn hears(&self, kind: P2pKind, content: Blob) {
        if self.hear.try_send((kind, content)).is_err() {
            tracing::debug!(peer = %self.words.peer.short(), "a step of a negotiation was dropped");
        }
    }

    pub(super) fn connected(&mut self, path: DirectPath) {
        self.path = Some(path);
    }

    /// Its connection, and itself: what it still has to say is said, and what the peer says is heard.
    pub(super) fn into_path(mut self) -> Option<(DirectPath, Self)> {
        self.task = None;
        self.path.take().map(|path| (path, self))
    }

    /// Tells the peer that it is over.
    pub(super) fn bye(
        self,
        mesh: Arc<Mesh>,
        peer: PublicKey,
        cause: Cause,
    ) -> impl Future<Output = ()> + Send + 'static {
        let words = self.words.clone();
        drop(self);
        async move {
            let said = match cause {
                Cause::Glare => reason::GLARE,
                Cause::Forbidden | Cause::Revoked => reason::REFUSED,
                Cause::NetworkChanged | Cause::Replaced => reason::CLOSED,
                _ => reason::FAILED,
            };
            let content = Content::Bye(Bye { reason: said.to_owned() }).encode();
            // It ends without a word as well, a little later.
            if let Err(e) = words.say(&mesh, P2pKind::Bye, Blob(content)).await {
                tracing::debug!(peer = %peer.short(), error = %e, "a try ended without a word");
            }
        }
    }
}

impl Words {
    async fn say(&self, mesh: &Mesh, kind: P2pKind, content: Blob) -> Result<(), LinkError> {
        let answers = match (kind, self.offer.get()) {
            (P2pKind::Offer, _) => None,
            (_, Some(offer)) => Some(*offer),
            // Nothing can be about an offer that was never made.
            (_, None) => return Ok(()),
        };
        let unfit = |e: &dyn std::fmt::Display| LinkError::Unexpected(e.to_string());
        let instance = mesh.store().instance(&mesh.id()).await.map_err(|e| unfit(&e))?;
        let frame = {
            let _in_order = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let step = Negotiation {
                v: VERSION,
                kind,
                adapter: self.adapter.to_owned(),
                attempt: AttemptId(self.id),
                seq: self.seq.fetch_add(1, Ordering::Relaxed),
                from: mesh.row.self_key,
                instance,
                to: self.peer,
                at: mesh.now(),
                head: StateHead::origin(&mesh.id()),
                answers,
                content,
            };
            let pair = mesh.pairs.pair(&self.peer).map_err(|e| unfit(&e))?;
            let nonce = random(mesh.services.net.as_ref());
            let sealed = step.seal(&mesh.id(), mesh.pairs.key(), None, &pair, &nonce);
            let sealed = sealed.map_err(|e| unfit(&e))?;
            if kind == P2pKind::Offer {
                let _ = self.offer.set(sealed.hash);
            }
            step.frame(sealed)
        };
        mesh.link.p2p(frame).await
    }
}

/// Why an offer did not reach the peer.
fn unsaid(error: &LinkError) -> Cause {
    match error {
        LinkError::Refused(frame) if frame.code == code::FEATURE_MISSING => Cause::PeerCannot,
        LinkError::Refused(frame) if frame.code == code::OFFLINE => Cause::PeerAway,
        _ => Cause::Signaling,
    }
}

async fn run(mesh: Arc<Mesh>, words: Arc<Words>, mut signals: queue::Receiver<Signal>) {
    let attempt = words.id;
    let over = |cause, detail| Event::Failed { attempt, cause, detail };
    while let Some(signal) = signals.recv().await {
        match signal {
            Signal::Say { kind, content } => match words.say(&mesh, kind, content).await {
                Ok(()) => {}
                Err(e) if matches!(kind, P2pKind::Offer | P2pKind::Answer) => {
                    mesh.path_event(&words.peer, over(unsaid(&e), e.to_string()));
                    return;
                }
                // The others may do.
                Err(e) => tracing::debug!(error = %e, "a candidate did not leave"),
            },
            Signal::Connected(path) => mesh.path_connected(&words.peer, attempt, path),
            Signal::Stayed { detail } => mesh.path_event(&words.peer, Event::Stayed { detail }),
            Signal::Failed { stage, detail } => {
                let cause = match stage {
                    Stage::Pairs => Cause::NoPair,
                    Stage::Handshake => Cause::Handshake,
                    Stage::Peer => Cause::PeerRefused,
                };
                mesh.path_event(&words.peer, over(cause, detail));
                return;
            }
        }
    }
}
