//! Keeps the broker's picture of our sessions, and of what our identities say of themselves, true.
//!
//! One loop per mesh compares what is with what the broker was told on the current connection, and
//! tells it the difference; it is woken by whatever changes either.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use meshwire_signaling::frame::feature;
use meshwire_transport::link::LinkError;
use tokio::time::Duration;

use super::SessionHandle;
use crate::node::mesh::Mesh;
use crate::node::presence;

/// Requests to the broker at once.
const AT_ONCE: usize = 8;
/// How long to wait before asking again what the broker refused or did not answer.
const RETRY: Duration = Duration::from_secs(5);
/// Longest sleep: the wall clock, by which attestations end, may jump.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Runs until it is dropped.
pub(in crate::node) async fn run(mesh: Arc<Mesh>) {
    loop {
        let wait = match mesh.is_up() {
            true if !tell(&mesh).await => RETRY,
            true => next_renewal(&mesh),
            // A connection wakes us.
            false => LOOK_AGAIN,
        };
        tokio::select! {
            () = mesh.announce.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// How long until the next attestation is half over.
fn next_renewal(mesh: &Mesh) -> Duration {
    let (now, generation) = (mesh.now(), mesh.generation());
    let bound = mesh.sessions.live().into_iter().filter(|s| s.is_bound(generation));
    let next = bound.map(|s| s.renew_at().saturating_sub(now)).min();
    next.map_or(LOOK_AGAIN, |ms| Duration::from_millis(ms.max(1)).min(LOOK_AGAIN))
}

/// Tells the broker what it does not know; false if something is left.
async fn tell(mesh: &Arc<Mesh>) -> bool {
    if mesh.broker_has(feature::DELEGATES) == Some(false) {
        // It would not know the requests.
        return presence::announce(mesh).await;
    }
    let mut all = true;
    for session in mesh.sessions.take_unbind() {
        all &= unbind(mesh, session).await;
    }
    let (generation, now) = (mesh.generation(), mesh.now());
    let due = mesh.sessions.live().into_iter().filter(|s| s.wants_bind(generation, now));
    all &= stream::iter(due)
        .map(|session| bind(mesh, session, generation))
        .buffer_unordered(AT_ONCE)
        .fold(true, async |all, one| all && one)
        .await;
    presence::announce(mesh).await && all
}

/// Tells the broker that a session has ended. One that this connection does not speak for is bound
/// first: the broker may still wait for it, from an earlier connection, and takes its end from
/// nobody else.
async fn unbind(mesh: &Arc<Mesh>, session: Arc<SessionHandle>) -> bool {
    let (key, generation) = (session.key(), mesh.generation());
    let asked = async {
        if !session.is_bound(generation) {
            let attestation = session.attest_afresh(mesh.now());
            mesh.link.bind(session.secret(), attestation).await?;
            session.set_bound(generation);
        }
        mesh.link.unbind(key).await
    };
    match asked.await {
        Ok(()) => true,
        Err(LinkError::Down | LinkError::TimedOut) => {
            mesh.sessions.queue_unbind(session);
            // After a lost connection the next one wakes us.
            !mesh.is_up()
        }
        Err(e) => {
            // It did not know it, or has ended it itself.
            tracing::debug!(key = %key.short(), error = %e, "a session was not unbound");
            true
        }
    }
}

/// Binds a session with a fresh attestation (inventory A-006).
async fn bind(mesh: &Arc<Mesh>, session: Arc<SessionHandle>, generation: u64) -> bool {
    let key = session.key();
    let attestation = session.attest_afresh(mesh.now());
    let renewed = session.is_bound(generation);
    match mesh.link.bind(session.secret(), attestation).await {
        Ok(resumed) => {
            if !resumed && !renewed {
                mesh.own.forgotten(&key);
            }
            session.set_bound(generation);
            if mesh.sessions.get(&key).is_none() {
                // It ended meanwhile, perhaps before the broker was known to know it.
                mesh.sessions.queue_unbind(session);
                mesh.announce.notify_one();
            }
            true
        }
        Err(e) => {
            tracing::warn!(
                target: "meshwire::events::session::not_bound",
                mesh = %mesh.id().short(), key = %key.short(), error = %e
            );
            // After a lost connection the next one wakes us.
            !mesh.is_up()
        }
    }
}
