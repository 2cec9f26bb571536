//! Time, and what the network and the broker do, for all pairs of a mesh.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use meshwire_signaling::frame::feature;
use meshwire_signaling::id::Blob;
use meshwire_signaling::{Hash, PublicKey};
use meshwire_transport::direct::{DirectPath, PathInfo, Reach};
use meshwire_transport::link::{LinkError, MessageLink};
use tokio::time::{Duration, Instant, sleep_until};

use super::super::drain::{Authored, apply};
use super::super::mesh::Mesh;
use super::Live;
use crate::core::outbox::LATE;
use crate::path::hedge::MessageKey;
use crate::path::machine::AttemptId;
use crate::path::{Cause, Event, PathMode};
use crate::store::{Step, StepTo};

/// How long before their end credentials are fetched anew.
const EARLY: Duration = Duration::from_secs(60);
/// How long to wait after the broker could not say which servers there are.
const AGAIN: Duration = Duration::from_secs(30);

/// Runs until it is dropped.
pub(in crate::node) async fn run(mesh: Arc<Mesh>) {
    let Some(adapter) = mesh.paths.adapter.clone() else { return };
    let mut network = adapter.network();
    let mut up = mesh.watch_link();
    let mut was_up = mesh.is_up();
    let mut relay = mesh.relay_up();
    let mut servers_at = was_up.then(Instant::now);
    // Asked beside everything else: a broker that takes its time holds nobody up.
    let mut asking: Option<BoxFuture<'static, Option<Duration>>> = None;
    loop {
        if asking.is_none() && servers_at.is_some_and(|at| at <= Instant::now()) {
            servers_at = None;
            asking = Some(servers(mesh.clone()).boxed());
        }
        if relay != mesh.relay_up() {
            relay = !relay;
            mesh.paths.replan(relay);
        }
        let deadline = mesh.paths.deadline();
        // Who is asking already asks again when the answer has come.
        let servers_due = servers_at.filter(|_| asking.is_none());
        let due = async {
            match [deadline, servers_due].into_iter().flatten().min() {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let answer = async {
            match &mut asking {
                Some(asking) => asking.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = up.changed() => {
                if changed.is_err() {
                    return;
                }
                let is_up = { up.borrow_and_update(); mesh.is_up() };
                if is_up && !was_up {
                    servers_at = Some(Instant::now());
                    mesh.path_relay_up();
                }
                was_up = is_up;
            }
            again = answer => {
                asking = None;
                // What has changed meanwhile may be another network.
                servers_at = servers_at.or_else(|| again.map(|wait| Instant::now() + wait));
            }
            Ok(()) = network.changed() => {
                network.borrow_and_update();
                servers_at = mesh.is_up().then(Instant::now);
                mesh.link.doubt();
                mesh.path_event_all(&Event::NetworkChanged);
            }
            () = mesh.paths.changed.notified() => {}
            () = due => {}
        }
        tick(&mesh).await;
    }
}

/// Asks the broker for its STUN and TURN servers; says when to ask again.
async fn servers(mesh: Arc<Mesh>) -> Option<Duration> {
    let adapter = mesh.paths.adapter.as_ref()?;
    if mesh.broker_has(feature::P2P) != Some(true) {
        return None;
    }
    match mesh.link.turn_credentials().await {
        Ok(servers) => {
            let ends = servers.servers.iter().map(|s| s.expires_at).min();
            adapter.set_servers(mesh.id(), servers);
            let left = Duration::from_millis(ends?.saturating_sub(mesh.now()));
            Some(left.saturating_sub(EARLY).max(AGAIN))
        }
        Err(e) => {
            tracing::debug!(mesh = %mesh.id().short(), error = %e, "no STUN and TURN servers");
            Some(AGAIN)
        }
    }
}

/// Does what is due.
async fn tick(mesh: &Arc<Mesh>) {
    let now = Instant::now();
    let mut steps: Vec<Authored> = Vec::new();
    let relay = mesh.relay_up();
    {
        let mut state = mesh.paths.lock();
        for peer in state.agenda.due(now) {
            let Some(pair) = state.pairs.get_mut(&peer) else { continue };
            let mut todo = Vec::new();
            if pair.machine.deadline().is_some_and(|at| at <= now) {
                todo = pair.machine.handle(mesh.moment(), Event::Tick);
            }
            // Without a relay there is nowhere else to go, and a slow path is better than none.
            if let Some(live) = pair.live.as_ref().filter(|_| relay) {
                let due = pair.hedger.due(now, live.rtt());
                for (author, id) in due.hedge {
                    pair.relay.insert((author, id));
                    let to = StepTo::Retry { next_attempt_at: mesh.now(), reason: LATE.to_owned() };
                    steps.push((author, Step { mesh: mesh.id(), id, to }));
                }
                if due.demote {
                    todo.extend(pair.machine.handle(mesh.moment(), Event::Demote));
                }
            }
            match todo.is_empty() {
                true => state.plan(&peer, relay),
                // Acting wakes this task again: with nothing to do it would never sleep.
                false => mesh.act(&mut state, &peer, todo),
            }
        }
    }
    if !steps.is_empty() {
        if let Err(e) = apply(mesh, &steps).await {
            tracing::error!(error = %e, "late messages could not be sent over the relay");
        }
        mesh.wake.notify_one();
    }
}

/// What kind of path it is, for people.
fn in_words(info: &PathInfo) -> String {
    let PathInfo { reach, local, remote, .. } = info;
    let how = if *reach == Reach::Guessed { ", a port of a router was guessed" } else { "" };
    format!("{reach} {local} to {remote}{how}")
}

impl Mesh {
    /// Whether a better path might be found: this one goes through a TURN server, and not because that is
    /// what this node's owner wants.
    fn is_detour(&self, info: &PathInfo) -> bool {
        info.reach == Reach::Relayed && self.paths.mode() != PathMode::HideAddresses
    }

    /// The peer offered.
    pub(super) fn path_offered(
        self: &Arc<Self>,
        peer: &PublicKey,
        attempt: AttemptId,
        hash: Hash,
        content: Blob,
    ) {
        let mut state = self.paths.lock();
        let Some(pair) = state.pair(&self.row.self_key, peer) else { return };
        pair.offered = Some((hash, content));
        let todo = pair.machine.handle(self.moment(), Event::Offer(attempt));
        self.act(&mut state, peer, todo);
        if let Some(pair) = state.pairs.get_mut(peer) {
            pair.offered = None;
        }
    }

    /// A try has brought a connection.
    pub(super) fn path_connected(
        self: &Arc<Self>,
        peer: &PublicKey,
        attempt: AttemptId,
        path: DirectPath,
    ) {
        let mut state = self.paths.lock();
        let Some(pair) = state.pairs.get_mut(peer) else { return };
        let Some(running) = pair.running.as_mut().filter(|r| r.id == attempt) else { return };
        let (relayed, detail) =
            (self.is_detour(&path.info.borrow()), in_words(&path.info.borrow()));
        running.connected(path);
        let connected = Event::Connected { attempt, relayed, detail };
        let todo = pair.machine.handle(self.moment(), connected);
        self.act(&mut state, peer, todo);
    }

    /// A path that is up goes another way now.
    pub(super) fn path_moved(self: &Arc<Self>, peer: &PublicKey, id: AttemptId, info: &PathInfo) {
        let mut state = self.paths.lock();
        let Some(pair) = state.pairs.get_mut(peer) else { return };
        if pair.live.as_ref().is_none_or(|live| live.talk.id != id) {
            return;
        }
        let moved = Event::Moved { relayed: self.is_detour(info), detail: in_words(info) };
        let todo = pair.machine.handle(self.moment(), moved);
        self.tell_path(peer, Some(info), None);
        self.act(&mut state, peer, todo);
    }

    /// A message could not be handed over to a direct path: it goes over the relay, and a path that is
    /// down ends here and now, so that nothing is handed to it again.
    pub(in crate::node) fn path_refused(
        self: &Arc<Self>,
        peer: &PublicKey,
        link: &Arc<dyn MessageLink>,
        message: MessageKey,
        error: &LinkError,
    ) {
        let mut state = self.paths.lock();
        let Some(pair) = state.pairs.get_mut(peer) else { return };
        let down = matches!(error, LinkError::Down | LinkError::Closed | LinkError::TimedOut);
        if !down {
            pair.relay.insert(message);
        }
        let same = |live: &mut Live| Arc::ptr_eq(&live.link, link);
        let Some(live) = (if down { pair.live.take_if(same) } else { None }) else { return };
        pair.hedger.begin();
        let todo = pair.machine.handle(self.moment(), Event::Lost(Cause::Silent));
        self.tell_path(peer, None, Some(Cause::Silent));
        self.act(&mut state, peer, todo);
        let (mesh, peer) = (self.clone(), *peer);
        state.spawn(async move { live.end(&mesh, &peer).await });
    }

    /// A path's link has ended.
    pub(super) fn path_ended(self: &Arc<Self>, peer: &PublicKey, id: AttemptId, cause: Cause) {
        let mut state = self.paths.lock();
        let Some(pair) = state.pairs.get_mut(peer) else { return };
        if pair.live.take_if(|l| l.talk.id == id).is_none() {
            // Another one had taken its place.
            return;
        }
        pair.hedger.begin();
        let todo = pair.machine.handle(self.moment(), Event::Lost(cause));
        self.tell_path(peer, None, Some(cause));
        self.act(&mut state, peer, todo);
    }
}
