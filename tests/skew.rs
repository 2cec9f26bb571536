//! Programs of different minor versions talk to each other, or say precisely why not.
//!
//! A broker from before a feature is a real one that does not offer it: `MESHWIRE_TEST_WITHOUT`
//! (debug builds only), or a proxy that speaks as it did.

#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // helpers panic, which is what they are for

mod common;
mod proto;

#[path = "skew/older_broker.rs"]
mod older_broker;
#[path = "skew/processes.rs"]
mod processes;

use meshwire::{Node, api};
use meshwire_signaling::frame::MessageState;

use proto::{BOTH, World, inbox, outbox_is, send, stop, up};

#[tokio::test]
async fn a_node_and_a_client_without_any_features_write_to_each_other() {
    let world = World::start().await;
    let ann = world.node("ann").await;
    up(&ann).await;
    let key = ann.status(api::Done {}).await.unwrap().meshes[0].mesh.key;
    for (n, encoding) in BOTH.into_iter().enumerate() {
        let name = format!("old-{n}");
        let old = world.member(&name).await;
        let opening = world.dial(encoding).await;
        let mut hello = opening.body(&world.mesh, &old);
        assert!(hello.features.is_empty() && hello.resume.is_none());
        hello.requires.clear();
        let mut client = opening.say(hello.sign(&old.key), None).await.unwrap();

        let sent = send(&ann, &name, "hello", None, None).await;
        let m = client.message().await;
        assert_eq!(old.open(&m.envelope), "hello");
        client.ack(&world.mesh, &old, &m).await;
        outbox_is(&ann, sent.id, MessageState::Delivered).await;

        let (id, answer) = old.letter(&world.mesh, key, 1, "hello yourself", |_| {});
        client.hand(answer.clone()).await.unwrap();
        let rows = inbox(&ann, n + 1).await;
        let row = &rows[n];
        assert_eq!(
            (row.id, row.from.as_str(), row.message.as_str()),
            (id, &*name, "hello yourself")
        );
        let receipt = client.receipt().await;
        assert!(old.believes(&world.mesh, &answer, &receipt.receipt));
        client.close().await;
    }
    stop(ann).await;
}
