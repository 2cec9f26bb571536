//! Groups and broadcast through the broker, by raw clients: who is in a group by its own signed word,
//! who gets a send, and what becomes of each recipient's copy. The parts: statements, sends, batches,
//! many recipients.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in their helpers

#[path = "groups/batches.rs"]
mod batches;
#[path = "groups/many.rs"]
mod many;
mod proto;
#[path = "groups/sends.rs"]
mod sends;
#[path = "groups/statements.rs"]
mod statements;

use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{Accepted, ErrorFrame, Frame, RecipientsChanged};
use meshwire_signaling::{Envelope, PublicKey};

use proto::{Client, Member, World};

const MSGPACK: Encoding = Encoding::MsgPack;

/// Posts to a group whose recipients are these.
async fn posted(client: &mut Client, envelope: Envelope) -> Accepted {
    match client.post(envelope, None).await {
        Ok(Frame::Accepted(accepted)) => accepted,
        other => panic!("not accepted: {other:?}"),
    }
}

/// Posts with the wrong wraps; both lists in key order.
async fn changed(client: &mut Client, envelope: Envelope) -> RecipientsChanged {
    match client.post(envelope, None).await {
        Ok(Frame::RecipientsChanged(changed)) => changed,
        other => panic!("not for others: {other:?}"),
    }
}

/// Why a post is refused.
async fn refused(client: &mut Client, envelope: Envelope) -> ErrorFrame {
    match client.post(envelope, None).await {
        Err(error) => error,
        other => panic!("not refused: {other:?}"),
    }
}

/// Joins a group on a connection that ends here.
async fn joins(world: &World, member: &Member, groups: &[&str]) {
    let mut client = world.connect(member, MSGPACK).await;
    for group in groups {
        client.state(member.joins(&world.mesh, group)).await.unwrap();
    }
    client.close().await;
}

fn sorted(mut keys: Vec<PublicKey>) -> Vec<PublicKey> {
    keys.sort_unstable();
    keys
}
