//! Measures the way to a peer and back: a real message per priority, through outbox, broker and the
//! peer's inbox, timed at each step. The peer's node acks it like any other and never shows it.

use std::sync::Arc;

use futures_util::future::try_join_all;
use meshwire_signaling::attest::capability;
use meshwire_signaling::{EnvelopeId, Priority};
use meshwire_transport::net::random;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Duration, Instant, timeout_at};

use super::events::Event;
use super::mesh::Mesh;
use super::seal::Letter;
use super::send::target_of;
use super::{Node, invalid, store_error, within};
use crate::api::{ApiError, Ping, PingLegs, Pong};
use crate::core::gate::PING_KIND;
use crate::core::outbox::OutboxState;
use crate::core::resolve::Candidate;
use crate::store::NewOutbox;

/// Default wait for each priority.
const PATIENCE: Duration = Duration::from_secs(10);

impl Node {
    /// Measures how long a message of each priority takes to be durable here, to be at the broker,
    /// and to be confirmed by the peer.
    ///
    /// # Errors
    /// [`ApiError`]. A leg that does not end in time is no error: it is absent.
    pub async fn ping(&self, ask: Ping) -> Result<Pong, ApiError> {
        self.may(capability::DM)?;
        let (mesh, peer) = self.find(ask.mesh.as_deref(), &ask.peer).await?;
        if self.author(&mesh)?.key() == peer.key {
            return Err(invalid("own_key", format!("{} is who asks", peer.full_name())));
        }
        let patience = within(ask.timeout_ms, PATIENCE).max(Duration::from_millis(1));
        // At once, so that all of it takes no longer than was asked for.
        let legs = Priority::ALL.map(|priority| self.leg(&mesh, &peer, priority, patience));
        let measured = try_join_all(legs).await?;
        let (mut path, mut legs) = (None, Vec::new());
        for (leg, id) in measured {
            legs.push(leg);
            let row = mesh.store().outbox_get(&mesh.id(), &id).await.map_err(store_error)?;
            path = row.and_then(|row| row.meta.path).or(path);
        }
        let path = path.unwrap_or_else(|| "none".to_owned());
        Ok(Pong { name: peer.full_name(), key: peer.key, path, legs })
    }

    async fn leg(
        &self,
        mesh: &Arc<Mesh>,
        peer: &Candidate,
        priority: Priority,
        patience: Duration,
    ) -> Result<(PingLegs, EnvelopeId), ApiError> {
        let net = self.services().net.clone();
        let author = self.author(mesh)?;
        let sent_at = mesh.now();
        let life = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let letter = Letter {
            id: EnvelopeId::new(sent_at, u128::from_be_bytes(random(net.as_ref()))),
            target: target_of(peer),
            priority,
            sent_at,
            expires_at: sent_at.saturating_add(life),
            kind: PING_KIND.to_owned(),
            reply_to: None,
            content: Vec::new(),
        };
        let new = NewOutbox {
            mesh: mesh.id(),
            id: letter.id,
            author: author.key(),
            target: letter.target.clone(),
            recipient: peer.key,
            // Nobody stands in for whom we measure.
            member: None,
            recipients: Vec::new(),
            peer_name: peer.full_name(),
            priority,
            created_at: sent_at,
            expires_at: letter.expires_at,
            idempotency: None,
            ping: true,
        };
        let id = letter.id;
        let mut events = self.events();
        let ready = letter.prepare(mesh, &author, &[]).await.map_err(|e| {
            invalid("bad_key", format!("nothing can be sealed for {}: {e}", new.peer_name))
        })?;
        let start = net.now();
        let seal = Box::new(|slot| Ok(ready.seal(slot)));
        mesh.store().enqueue(&new, seal).await.map_err(store_error)?;
        mesh.wake.notify_one();
        let since = |at: Instant| {
            Some(u64::try_from(at.saturating_duration_since(start).as_micros()).unwrap_or(u64::MAX))
        };
        let mut leg = PingLegs {
            priority,
            durable_us: since(net.now()),
            accepted_us: None,
            delivered_us: None,
        };
        while let Some(state) = next(&mut events, &id, start + patience).await {
            let now = since(net.now());
            match state {
                OutboxState::Relayed | OutboxState::Sent => leg.accepted_us = now,
                OutboxState::Delivered => {
                    leg.delivered_us = now;
                    // The receipt may be faster than the broker's word that it has the message.
                    leg.accepted_us = leg.accepted_us.or(now);
                    break;
                }
                OutboxState::Expired | OutboxState::Failed | OutboxState::Aborted => break,
                _ => {}
            }
        }
        Ok((leg, id))
    }
}

/// Where the message is next; none when the time is over.
async fn next(
    events: &mut Receiver<Event>,
    id: &EnvelopeId,
    until: Instant,
) -> Option<OutboxState> {
    loop {
        match timeout_at(until, events.recv()).await.ok()? {
            Ok(Event::Outbox { id: of, state, .. }) if of == *id => return Some(state),
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::World;
    use super::*;

    /// Clients wait for what they asked for and a minute more.
    #[tokio::test(start_paused = true)]
    async fn a_ping_takes_as_long_as_it_was_asked_to_wait_once() {
        let world = World::new().await;
        let node = world.node().await;
        world.bob(&node).await;
        let ask = Ping { mesh: Some("lab".into()), peer: "bob".into(), timeout_ms: Some(120_000) };
        let start = Instant::now();
        let pong = node.ping(ask).await.unwrap();
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(120) && took < Duration::from_secs(125), "{took:?}");
        assert_eq!(pong.legs.len(), Priority::ALL.len());
        assert!(pong.legs.iter().all(|l| l.durable_us.is_some() && l.delivered_us.is_none()));
        node.close().await;
    }
}
