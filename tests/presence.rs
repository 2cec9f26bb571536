//! Who is there, by what raw clients see of each other: leases and the ways they end, what identities
//! say of themselves, and disconnecting others. The parts: leases over connections and restarts,
//! what is said, disconnecting.
//!
//! That nobody was told something is asked with a request: news go out in the order in which they
//! happen, before the answers to later requests.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in their helpers

#[path = "presence/about.rs"]
mod about;
#[path = "presence/kick.rs"]
mod kick;
#[path = "presence/lease.rs"]
mod lease;
mod proto;
#[path = "presence/tokens.rs"]
mod tokens;

use std::time::Duration;

use meshwire_signaling::PublicKey;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{Attendance, PeerInfo, PresenceInfo};

use proto::{Client, World, within};

const MSGPACK: Encoding = Encoding::MsgPack;

/// A broker whose leases are short.
async fn brief(lease: Duration) -> World {
    World::with(|c| c.policy.lease = lease).await
}

/// An identity as others see it, if it is there.
fn presence(peer: &PeerInfo, key: PublicKey) -> Option<&PresenceInfo> {
    peer.presences.iter().find(|p| p.key == key)
}

/// Asks until the broker has noticed that nobody speaks for an identity of `member` any more.
async fn noticed_lost(client: &mut Client, world: &World, member: PublicKey, key: PublicKey) {
    within("a lost connection's grace", async {
        loop {
            let peer = client.peer(&world.mesh, member).await;
            if presence(&peer, key).is_none_or(|p| p.attendance == Attendance::Grace) {
                return;
            }
        }
    })
    .await;
}
