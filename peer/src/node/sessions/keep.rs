//! Keeps the broker's picture of our sessions, and of what our identities say of themselves, true.
//!
//! One loop per mesh compares what is with what the broker was told on the current connection, and
//! tells it the difference; it is woken by whatever changes either.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use meshwire_signaling::frame::feature;
use tokio::time::Duration;

use super::{SessionHandle, close};
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
        let closed = close::advance_all(&mesh).await;
        let wait = match mesh.is_up() {
            true if !tell(&mesh).await || !closed => RETRY,
            true => next_look(&mesh),
            false if !closed => RETRY,
            // A connection wakes us.
            false => LOOK_AGAIN,
        };
        tokio::select! {
            biased;
            () = mesh.announce.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// How long until the next attestation is half over, or an ended session waits no longer.
fn next_look(mesh: &Mesh) -> Duration {
    let (now, generation) = (mesh.now(), mesh.generation());
    let bound = mesh.sessions.speaking().into_iter().filter(|s| s.is_bound(generation));
    let next = bound.map(|s| s.renew_at()).chain(close::next_end(mesh)).min();
    let wait = next.map(|at| Duration::from_millis(at.saturating_sub(now).max(1)));
    wait.map_or(LOOK_AGAIN, |wait| wait.min(LOOK_AGAIN))
}

/// Tells the broker what it does not know; false if something is left.
async fn tell(mesh: &Arc<Mesh>) -> bool {
    if mesh.broker_has(feature::DELEGATES) == Some(false) {
        // It would not know the requests.
        return presence::announce(mesh).await;
    }
    let mut all = close::unbind_all(mesh).await;
    let (generation, now) = (mesh.generation(), mesh.now());
    let due = mesh.sessions.speaking().into_iter().filter(|s| s.wants_bind(generation, now));
    all &= stream::iter(due)
        .map(|session| bind(mesh, session, generation))
        .buffer_unordered(AT_ONCE)
        .fold(true, async |all, one| all && one)
        .await;
    presence::announce(mesh).await && all
}

/// Binds a session with a fresh attestation (inventory A-006).
async fn bind(mesh: &Arc<Mesh>, session: Arc<SessionHandle>, generation: u64) -> bool {
    let key = session.key();
    let attestation = session.attest_afresh(mesh.now());
    let renewed = session.is_bound(generation);
    // Should it end meanwhile, the broker may have heard of it.
    session.set_known();
    match mesh.link.bind(session.secret(), attestation).await {
        Ok(resumed) => {
            if !resumed && !renewed {
                mesh.own.forgotten(&key);
            }
            session.set_bound(generation);
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
