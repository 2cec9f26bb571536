//! One message has one name, (mesh, author, id): whatever comes again under it, from whatever side,
//! is taken once, and only that name suppresses.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in their helpers

mod proto;

use std::sync::{Arc, Mutex};

use meshwire::{Event, Home, Misbehaviour, Node, api};
use meshwire_peer::store::{InboxDelete, PeerStore as _, SqliteStore};
use meshwire_signaling::EnvelopeId;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{ClientAck, ClientNack, Frame, MessageFrame, MessageState, code};
use meshwire_signaling::receipt::{Verdict, reason};

use proto::{BOTH, Proxy, Side, World, inbox, now, outbox_is, send, stop, until, up};

const MSGPACK: Encoding = Encoding::MsgPack;

#[tokio::test]
async fn the_same_envelope_again_is_a_duplicate_and_arrives_once() {
    let world = World::start().await;
    let (ann, bob) = (world.member("ann").await, world.member("bob").await);
    for encoding in BOTH {
        let mut a = world.connect(&ann, encoding).await;
        let (id, envelope) = ann.letter(&world.mesh, bob.public(), 1, "once", |_| {});
        let first = a.hand(envelope.clone()).await.unwrap();
        assert_eq!((first.id, first.duplicate, first.state), (id, false, MessageState::Relayed));
        for _ in 0..3 {
            let again = a.hand(envelope.clone()).await.unwrap();
            assert_eq!((again.id, again.duplicate), (id, true));
            assert_eq!(again.state, MessageState::Relayed);
        }
        // Also on another connection.
        a.close().await;
        let mut a = world.connect(&ann, encoding).await;
        assert!(a.hand(envelope.clone()).await.unwrap().duplicate);

        let mut b = world.connect(&bob, encoding).await;
        let m = b.message().await;
        assert_eq!((bob.open(&m.envelope).as_str(), m.attempt), ("once", 1));
        b.ack(&world.mesh, &bob, &m).await;
        b.drained().await;
        a.receipt().await;
        // And after it was delivered.
        let late = a.hand(envelope).await.unwrap();
        assert_eq!((late.duplicate, late.state), (true, MessageState::Delivered));
        b.peers().await;
        assert!(!b.waiting().iter().any(|f| matches!(f, Frame::Message(_))), "once");
        a.close().await;
        b.close().await;
    }
}

#[tokio::test]
async fn the_same_id_with_other_content_is_a_conflict() {
    let world = World::start().await;
    let (ann, bob) = (world.member("ann").await, world.member("bob").await);
    let mut a = world.connect(&ann, MSGPACK).await;
    let (id, first) = ann.letter(&world.mesh, bob.public(), 1, "first", |_| {});
    a.hand(first.clone()).await.unwrap();
    let same = |to, text| ann.letter(&world.mesh, to, 1, text, |h| h.id = id).1;
    // Other text; the same text sealed anew; another recipient.
    for other in [
        same(bob.public(), "second"),
        same(bob.public(), "first"),
        same(world.owner.public(), "first"),
    ] {
        let e = a.hand(other).await.unwrap_err();
        assert_eq!((e.code.as_str(), e.permanent, e.id), (code::CONFLICT, true, Some(id)));
    }
    assert!(a.hand(first).await.unwrap().duplicate, "the first stands");
    let mut b = world.connect(&bob, MSGPACK).await;
    let m = b.message().await;
    assert_eq!(bob.open(&m.envelope), "first");
    b.ack(&world.mesh, &bob, &m).await;
    b.drained().await;
    assert!(!b.waiting().iter().any(|f| matches!(f, Frame::Message(_))));
    let mut o = world.connect(&world.owner, MSGPACK).await;
    o.drained().await;
    assert!(!o.waiting().iter().any(|f| matches!(f, Frame::Message(_))));
}

#[tokio::test]
async fn the_same_id_from_another_sender_suppresses_nothing() {
    let world = World::start().await;
    let bob = world.node("bob").await;
    let key = bob.status(api::Done {}).await.unwrap().meshes[0].mesh.key;
    let eve = world.member("eve").await;
    let ann = world.member("ann").await;
    let mut e = world.connect(&eve, MSGPACK).await;
    let mut a = world.connect(&ann, Encoding::Json).await;
    // Eve has heard of ann's id and is first.
    let (id, squat) = eve.letter(&world.mesh, key, 1, "eve", |_| {});
    e.hand(squat).await.unwrap();
    e.receipt().await;
    let (_, genuine) = ann.letter(&world.mesh, key, 1, "ann", |h| h.id = id);
    assert!(!a.hand(genuine).await.unwrap().duplicate);
    assert_eq!(a.receipt().await.receipt.verdict, Verdict::Delivered);
    let rows = inbox(&bob, 2).await;
    let found: Vec<_> = rows.iter().map(|r| (r.from.as_str(), r.message.as_str())).collect();
    assert_eq!(found, [("eve", "eve"), ("ann", "ann")]);
    assert!(rows.iter().all(|r| r.id == id));
    stop(bob).await;
}

/// What a node answered.
#[derive(Clone, Debug, PartialEq)]
enum Answered {
    Ack(ClientAck),
    Nack(ClientNack),
}

/// A broker that pushes what the test says and keeps the node's answers.
async fn pusher(world: &World) -> (Proxy, Arc<Mutex<Vec<Answered>>>) {
    let answers = Arc::new(Mutex::new(Vec::new()));
    let heard = answers.clone();
    let proxy = Proxy::start(world.broker.addr(), move |to, frame| {
        match &frame {
            Frame::ClientAck(f) => heard.lock().unwrap().push(Answered::Ack(f.clone())),
            Frame::ClientNack(f) => heard.lock().unwrap().push(Answered::Nack(f.clone())),
            _ => return vec![(to, frame)],
        }
        Vec::new()
    })
    .await;
    (proxy, answers)
}

async fn answered(answers: &Mutex<Vec<Answered>>, n: usize) -> Vec<Answered> {
    proto::within("the node's answers", async {
        loop {
            let now = answers.lock().unwrap().clone();
            if now.len() >= n {
                return now;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_message_that_comes_again_is_acked_again_and_kept_once() {
    let world = World::start().await;
    let ann = world.member("ann").await;
    let (proxy, answers) = pusher(&world).await;
    let bob = world.node_through(&proxy.base, "bob").await;
    let mut events = bob.events();
    up(&bob).await;
    let to = bob.status(api::Done {}).await.unwrap().meshes[0].mesh.key;
    let push = |envelope: &meshwire_signaling::Envelope, attempt| {
        let envelope = envelope.clone();
        proxy.inject(Side::Node, MessageFrame { to, envelope, accepted_at: now(), attempt });
    };
    let (id, envelope) = ann.letter(&world.mesh, to, 1, "once", |_| {});
    for attempt in 1..=3 {
        push(&envelope, attempt);
    }
    let acks = answered(&answers, 3).await;
    assert!(matches!(&acks[0], Answered::Ack(a) if a.id == id && a.from == ann.public()));
    assert!(acks.iter().all(|a| *a == acks[0]), "the same receipt each time");
    assert_eq!(inbox(&bob, 1).await.len(), 1);

    // Other content under the same name: refused for good, loudly, and the first stays.
    let (_, other) = ann.letter(&world.mesh, to, 2, "other", |h| h.id = id);
    push(&other, 1);
    until(&mut events, |e| {
        matches!(e, Event::Misbehaviour { what: Misbehaviour::ReusedId, .. }).then_some(())
    })
    .await;
    let Answered::Nack(nack) = answered(&answers, 4).await[3].clone() else {
        panic!("a conflict is no delivery");
    };
    assert!(nack.permanent);
    let receipt = nack.receipt.unwrap();
    assert_eq!(
        (receipt.verdict, receipt.reason.as_deref()),
        (Verdict::Refused, Some(reason::CONFLICT))
    );
    assert!(ann.believes(&world.mesh, &other, &receipt));
    let rows = inbox(&bob, 1).await;
    assert_eq!((rows.len(), rows[0].message.as_str()), (1, "once"));
    stop(bob).await;
}

#[tokio::test]
async fn a_deleted_message_does_not_come_back() {
    let world = World::start().await;
    let ann = world.member("ann").await;
    let (proxy, answers) = pusher(&world).await;
    let bob = world.node_through(&proxy.base, "bob").await;
    up(&bob).await;
    let to = bob.status(api::Done {}).await.unwrap().meshes[0].mesh.key;
    let (_, envelope) = ann.letter(&world.mesh, to, 1, "read and burnt", |_| {});
    let push = |attempt| {
        let envelope = envelope.clone();
        proxy.inject(Side::Node, MessageFrame { to, envelope, accepted_at: now(), attempt });
    };
    push(1);
    answered(&answers, 1).await;
    inbox(&bob, 1).await;
    stop(bob).await;
    let home = Home::open(&world.home("bob")).unwrap();
    let store = SqliteStore::open(&home.database()).await.unwrap();
    let all = InboxDelete::Surfaced { mesh: None, before: None };
    assert_eq!(store.inbox_delete(&all).await.unwrap(), 1);
    store.close().await;

    let bob = Node::at(&world.home("bob")).await.unwrap();
    up(&bob).await;
    push(2);
    let acks = answered(&answers, 2).await;
    assert_eq!(acks[0], acks[1], "it was delivered");
    // Something new is behind it.
    let (_, next) = ann.letter(&world.mesh, to, 2, "new", |_| {});
    world.connect(&ann, MSGPACK).await.hand(next).await.unwrap();
    let rows = inbox(&bob, 1).await;
    assert_eq!(rows.iter().map(|r| r.message.as_str()).collect::<Vec<_>>(), ["new"]);
    stop(bob).await;
}

#[tokio::test]
async fn a_node_whose_answer_was_lost_sends_again_and_it_arrives_once() {
    let world = World::start().await;
    let bob = world.node("bob").await;
    // Swallows the first answer to each envelope, after the broker has committed it.
    let mut seen: Vec<EnvelopeId> = Vec::new();
    let lost = Arc::new(tokio::sync::Notify::new());
    let tell = lost.clone();
    let proxy = Proxy::start(world.broker.addr(), move |to, frame| match frame {
        Frame::Accepted(a) if !seen.contains(&a.id) => {
            seen.push(a.id);
            tell.notify_one();
            Vec::new()
        }
        frame => vec![(to, frame)],
    })
    .await;
    let ann = world.node_through(&proxy.base, "ann").await;
    let sent = send(&ann, "bob", "once", None, None).await;
    proto::within("the answer that is lost", lost.notified()).await;
    // The node stops without having heard of it.
    stop(ann).await;
    let ann = Node::at(&world.home("ann")).await.unwrap();
    let done = outbox_is(&ann, sent.id, MessageState::Delivered).await;
    assert_eq!(done.attempts, 2);
    up(&bob).await;
    assert_eq!(inbox(&bob, 1).await.len(), 1);
    stop(ann).await;
    stop(bob).await;
}
