//! `delivered` is said on the recipient's own receipt and on nothing else; mail waits for who is
//! away; claims are bounded and end with their connection.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in their helpers

mod proto;

use std::sync::{Arc, Mutex};

use meshwire::{Event, Misbehaviour, Node, api};
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{
    Accepted, ClientAck, ClientNack, ErrorFrame, Frame, MessageFrame, MessageState, ReceiptAck,
    ReceiptFrame, Send, code,
};
use meshwire_signaling::receipt::{Receipt, Verdict, reason};
use meshwire_signaling::{Hash, Target};
use tokio::sync::broadcast::Receiver;

use proto::{Client, Member, Proxy, Shifted, Side, World, inbox, outbox_is, send, stop, until, up};

const MSGPACK: Encoding = Encoding::MsgPack;

fn forged(e: &Event) -> Option<()> {
    matches!(e, Event::Misbehaviour { what: Misbehaviour::ForgedReceipt, .. }).then_some(())
}

async fn state(node: &Node, message: &api::Message) -> MessageState {
    let ask = api::MessageStatus { id: message.id.to_string() };
    node.message(ask).await.unwrap().state
}

/// Lets whatever the broker has in line for this connection come: a request's answer is behind it.
async fn settle(client: &mut Client) {
    client.peers().await;
}

/// A write's answer: all that was submitted before it is committed.
async fn committed(client: &mut Client, world: &World, me: &Member, to: &Member) {
    let (_, marker) = me.letter(&world.mesh, to.public(), 99, "marker", |_| {});
    client.hand(marker).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivered_comes_with_the_recipients_receipt_after_its_inbox_row() {
    let world = World::start().await;
    let ann = world.node("ann").await;
    let bob = world.node("bob").await;
    let sent = send(&ann, "bob", "hello", Some(api::WaitFor::Delivered), None).await;
    assert_eq!(sent.state, MessageState::Delivered);
    assert_eq!(sent.path.as_deref(), Some("relay"));
    // No wait: when the author knows of it, the row is there.
    let rows = bob.inbox(api::Inbox::default()).await.unwrap();
    assert_eq!((rows[0].message.as_str(), rows[0].id), ("hello", sent.id));
    stop(ann).await;
    stop(bob).await;
}

#[tokio::test]
async fn a_push_without_an_answer_delivers_nothing() {
    let world = World::start().await;
    let ann = world.node("ann").await;
    let bob = world.member("bob").await;
    let mut b = world.connect(&bob, MSGPACK).await;
    let sent = send(&ann, "bob", "hello", Some(api::WaitFor::Accepted), None).await;
    assert_eq!(sent.state, MessageState::Relayed);
    let m = b.message().await;
    assert_eq!(bob.open(&m.envelope), "hello");
    settle(&mut b).await;
    up(&ann).await;
    assert_eq!(state(&ann, &sent).await, MessageState::Relayed, "it was pushed, not delivered");
    b.ack(&world.mesh, &bob, &m).await;
    outbox_is(&ann, sent.id, MessageState::Delivered).await;
    stop(ann).await;
}

/// A node whose broker is hostile, and its events.
struct Victim {
    node: Node,
    proxy: Proxy,
    events: Receiver<Event>,
}

/// Swallows genuine receipts, handing them to the test.
async fn victim(world: &World, caught: Arc<Mutex<Vec<ReceiptFrame>>>) -> Victim {
    let proxy = Proxy::start(world.broker.addr(), move |to, frame| match frame {
        Frame::Receipt(r) => {
            caught.lock().unwrap().push(r);
            Vec::new()
        }
        frame => vec![(to, frame)],
    })
    .await;
    let node = world.node_through(&proxy.base, "ann").await;
    let events = node.events();
    Victim { node, proxy, events }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_forges_acks_is_caught() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let caught = Arc::new(Mutex::new(Vec::new()));
    let mut v = victim(&world, caught.clone()).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    let accepted = Some(api::WaitFor::Accepted);
    let ann = v.node.status(api::Done {}).await.unwrap().meshes[0].mesh.key;

    // A MAC out of thin air, made by the broker's key, of another recipient's name.
    let first = send(&v.node, "bob", "one", accepted, None).await;
    let invent = |by, mac| {
        let receipt = Receipt { verdict: Verdict::Delivered, reason: None, by, mac };
        ReceiptFrame { from: ann, id: first.id, receipt }
    };
    v.proxy.inject(Side::Node, invent(bob.public(), Hash([7; 32])));
    until(&mut v.events, forged).await;
    let m = b.message().await;
    let broker = world.broker_secret();
    let pair = meshwire_signaling::seal::Pair::new(&broker, &ann).unwrap();
    let by = broker.public();
    let ends =
        meshwire_signaling::receipt::Ends { mesh: &world.mesh, sender: &ann, recipient: &by };
    let own = Receipt::new(&pair, ends, &m.envelope.hash(&world.mesh), Verdict::Delivered, None);
    v.proxy.inject(Side::Node, ReceiptFrame { from: ann, id: first.id, receipt: own.clone() });
    until(&mut v.events, forged).await;
    v.proxy.inject(Side::Node, invent(bob.public(), own.mac));
    until(&mut v.events, forged).await;
    assert_eq!(state(&v.node, &first).await, MessageState::Relayed);

    // A genuine refusal with another verdict.
    let author = m.envelope.header().unwrap().from.key;
    let receipt =
        bob.receipt(&world.mesh, author, &m.envelope, Verdict::Refused, Some(reason::BLOCKED));
    let nack = ClientNack {
        from: author,
        id: first.id,
        by: bob.public(),
        reason: reason::BLOCKED.into(),
        permanent: true,
        receipt: Some(receipt.clone()),
    };
    b.send(nack).await;
    committed(&mut b, &world, &bob, &world.owner).await;
    let turned = Receipt { verdict: Verdict::Delivered, reason: None, ..receipt.clone() };
    v.proxy.inject(Side::Node, ReceiptFrame { from: ann, id: first.id, receipt: turned });
    until(&mut v.events, forged).await;
    let kept = Receipt { verdict: Verdict::Delivered, ..receipt.clone() };
    v.proxy.inject(Side::Node, ReceiptFrame { from: ann, id: first.id, receipt: kept });
    until(&mut v.events, forged).await;
    assert_eq!(state(&v.node, &first).await, MessageState::Relayed);

    // A genuine `delivered` of another message.
    let second = send(&v.node, "bob", "two", accepted, None).await;
    let m = b.message().await;
    let genuine = bob.receipt(&world.mesh, author, &m.envelope, Verdict::Delivered, None);
    v.proxy.inject(Side::Node, ReceiptFrame { from: ann, id: first.id, receipt: genuine.clone() });
    until(&mut v.events, forged).await;
    assert_eq!(state(&v.node, &first).await, MessageState::Relayed);
    assert_eq!(state(&v.node, &second).await, MessageState::Relayed);

    // The same words where they belong are believed, the refusal too.
    v.proxy.inject(Side::Node, ReceiptFrame { from: ann, id: second.id, receipt: genuine });
    outbox_is(&v.node, second.id, MessageState::Delivered).await;
    v.proxy.inject(Side::Node, ReceiptFrame { from: ann, id: first.id, receipt });
    let failed = outbox_is(&v.node, first.id, MessageState::Failed).await;
    assert_eq!(failed.reason.as_deref(), Some(reason::BLOCKED));
    assert_eq!(caught.lock().unwrap().len(), 1, "bob's nack, which the proxy kept");
    stop(v.node).await;
}

#[tokio::test]
async fn the_brokers_own_word_that_something_is_delivered_counts_for_nothing() {
    let world = World::start().await;
    let _bob = world.member("bob").await;
    let proxy = Proxy::start(world.broker.addr(), |to, frame| match frame {
        Frame::Accepted(a) => {
            vec![(to, Accepted { state: MessageState::Delivered, duplicate: true, ..a }.into())]
        }
        frame => vec![(to, frame)],
    })
    .await;
    let ann = world.node_through(&proxy.base, "ann").await;
    let sent = send(&ann, "bob", "hello", Some(api::WaitFor::Accepted), None).await;
    assert_eq!(sent.state, MessageState::Relayed);
    stop(ann).await;
}

#[tokio::test]
async fn defect_12_a_body_that_does_not_open_is_refused_and_never_shown() {
    let world = World::start().await;
    let bob = world.node("bob").await;
    let mut events = bob.events();
    let key = bob.status(api::Done {}).await.unwrap().meshes[0].mesh.key;
    let ann = world.member("ann").await;
    let mut a = world.connect(&ann, MSGPACK).await;
    // Signed over the flipped body: the broker has nothing to object to.
    let (id, good) = ann.letter(&world.mesh, key, 1, "secret", |_| {});
    let mut body = good.body.0.clone();
    *body.last_mut().unwrap() ^= 1;
    let header = good.header().unwrap();
    let flipped = meshwire_signaling::Envelope::sign(&world.mesh, &ann.key, &header, body);
    a.hand(flipped.clone()).await.unwrap();
    let receipt = a.receipt().await;
    assert_eq!((receipt.from, receipt.id), (ann.public(), id));
    assert_eq!(receipt.receipt.verdict, Verdict::Refused);
    assert_eq!(receipt.receipt.reason.as_deref(), Some(reason::UNDECRYPTABLE));
    assert!(ann.believes(&world.mesh, &flipped, &receipt.receipt), "and it is bob's own word");
    until(&mut events, |e| {
        matches!(e, Event::Misbehaviour { what: Misbehaviour::TamperedEnvelope, .. }).then_some(())
    })
    .await;
    assert_eq!(bob.inbox(api::Inbox::default()).await.unwrap(), []);
    stop(bob).await;
}

#[tokio::test]
async fn an_author_whose_message_could_not_be_opened_sees_it_failed() {
    let world = World::start().await;
    let ann = world.node("ann").await;
    let bob = world.member("bob").await;
    let mut b = world.connect(&bob, Encoding::Json).await;
    let sent = send(&ann, "bob", "hello", None, None).await;
    let m = b.message().await;
    let from = m.envelope.header().unwrap().from.key;
    let why = reason::UNDECRYPTABLE;
    let receipt = bob.receipt(&world.mesh, from, &m.envelope, Verdict::Refused, Some(why));
    let (id, by, receipt) = (sent.id, bob.public(), Some(receipt));
    b.send(ClientNack { from, id, by, reason: why.into(), permanent: true, receipt }).await;
    let failed = outbox_is(&ann, id, MessageState::Failed).await;
    assert_eq!(failed.reason.as_deref(), Some(why));
    stop(ann).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_author_that_was_away_learns_all_of_it_at_its_next_connect() {
    // More than the broker reads at a time.
    const N: usize = 300;
    let world = World::start().await;
    let bob = world.member("bob").await;
    let ann = world.node("ann").await;
    up(&ann).await;
    let mut ids = Vec::new();
    for n in 0..N {
        ids.push(send(&ann, "bob", &n.to_string(), None, None).await.id);
    }
    up(&ann).await;
    stop(ann).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    for n in 0..N {
        let m = b.message().await;
        assert_eq!(bob.open(&m.envelope), n.to_string());
        b.ack(&world.mesh, &bob, &m).await;
    }
    committed(&mut b, &world, &bob, &world.owner).await;
    let ann = Node::at(&world.home("ann")).await.unwrap();
    for id in ids {
        outbox_is(&ann, id, MessageState::Delivered).await;
    }
    stop(ann).await;
}

#[tokio::test]
async fn a_receipt_is_kept_until_it_is_confirmed() {
    let world = World::start().await;
    let (ann, bob) = (world.member("ann").await, world.member("bob").await);
    let mut b = world.connect(&bob, MSGPACK).await;
    let mut a = world.connect(&ann, MSGPACK).await;
    let (id, envelope) = ann.letter(&world.mesh, bob.public(), 1, "hello", |_| {});
    a.hand(envelope.clone()).await.unwrap();
    let m = b.message().await;
    b.ack(&world.mesh, &bob, &m).await;
    for _ in 0..3 {
        let r = a.receipt().await;
        assert_eq!((r.id, r.receipt.by, r.receipt.verdict), (id, bob.public(), Verdict::Delivered));
        assert!(ann.believes(&world.mesh, &envelope, &r.receipt));
        a.close().await;
        a = world.connect(&ann, MSGPACK).await;
    }
    // Somebody else's confirmation is none.
    b.send(ReceiptAck { from: ann.public(), id, by: bob.public() }).await;
    committed(&mut b, &world, &bob, &world.owner).await;
    a.close().await;
    a = world.connect(&ann, MSGPACK).await;
    assert_eq!(a.receipt().await.id, id);
    a.send(ReceiptAck { from: ann.public(), id, by: bob.public() }).await;
    committed(&mut a, &world, &ann, &world.owner).await;
    a.close().await;
    a = world.connect(&ann, MSGPACK).await;
    a.drained().await;
    assert!(!a.waiting().iter().any(|f| matches!(f, Frame::Receipt(_))), "it is forgotten now");
}

#[tokio::test]
async fn a_genuine_receipt_turns_expired_into_delivered() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let mut b = world.connect(&bob, MSGPACK).await;
    let ann = world.node("ann").await;
    let sent = send(&ann, "bob", "hello", Some(api::WaitFor::Accepted), Some(20_000)).await;
    let m = b.message().await;
    stop(ann).await;
    // The author's clock says that its time is over; the broker's does not yet.
    let ann = Shifted(25_000).node(&world.home("ann")).await;
    outbox_is(&ann, sent.id, MessageState::Expired).await;
    b.ack(&world.mesh, &bob, &m).await;
    outbox_is(&ann, sent.id, MessageState::Delivered).await;
    stop(ann).await;
}

#[tokio::test]
async fn defect_5_mail_to_an_offline_member_is_queued() {
    let world = World::start().await;
    let ann = world.node("ann").await;
    let bob = world.node("bob").await;
    stop(bob).await;
    let sent = send(&ann, "bob", "for later", Some(api::WaitFor::Accepted), None).await;
    assert_eq!(sent.state, MessageState::Relayed);
    let bob = Node::at(&world.home("bob")).await.unwrap();
    assert_eq!(inbox(&bob, 1).await[0].message, "for later");
    outbox_is(&ann, sent.id, MessageState::Delivered).await;
    stop(ann).await;
    stop(bob).await;
}

fn not_yours(e: &ErrorFrame) -> bool {
    e.code == code::NOT_YOURS && e.permanent
}

#[tokio::test]
async fn defect_8_a_presence_is_bound_to_its_proven_key() {
    let world = World::start().await;
    let (ann, bob, eve) =
        (world.member("ann").await, world.member("bob").await, world.member("eve").await);
    let mut a = world.connect(&ann, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    let mut e = world.connect(&eve, Encoding::Json).await;

    // Send as ann: her envelope, eve's connection.
    let (id, hers) = ann.letter(&world.mesh, bob.public(), 1, "hers", |_| {});
    let refused = e.hand(hers.clone()).await.unwrap_err();
    assert!(not_yours(&refused) && refused.id == Some(id), "{refused:?}");
    // Send with ann's key in the header, signed by eve.
    let (_, posed) = eve.letter(&world.mesh, bob.public(), 1, "x", |h| h.from.key = ann.public());
    assert!(not_yours(&e.hand(posed).await.unwrap_err()));

    // Ack and nack for bob.
    a.hand(hers.clone()).await.unwrap();
    let m = b.message().await;
    let receipt = bob.receipt(&world.mesh, ann.public(), &hers, Verdict::Delivered, None);
    e.send(ClientAck { from: ann.public(), id, receipt }).await;
    let refused = e.error().await;
    assert!(not_yours(&refused) && refused.id == Some(id), "{refused:?}");
    let (from, by, reason) = (ann.public(), bob.public(), reason::BLOCKED.to_owned());
    e.send(ClientNack { from, id, by, reason, permanent: true, receipt: None }).await;
    assert!(not_yours(&e.error().await));
    // As herself she may, but nothing of hers waits under that name: it stays bob's.
    let receipt = eve.receipt(&world.mesh, ann.public(), &hers, Verdict::Delivered, None);
    e.send(ClientAck { from: ann.public(), id, receipt }).await;
    committed(&mut e, &world, &eve, &world.owner).await;
    assert!(!a.waiting().iter().any(|f| matches!(f, Frame::Receipt(_))));
    b.ack(&world.mesh, &bob, &m).await;
    assert_eq!(a.receipt().await.receipt.by, bob.public());

    // Take over bob's session: her own attestation for his session's key, his attestation.
    let session = proto::new_key();
    let his = bob.attest(&world.mesh, session.public());
    assert!(matches!(b.bind(&session, &his).await, Ok(Frame::Bound(_))));
    let taken = eve.attest(&world.mesh, session.public());
    assert_eq!(e.bind(&session, &taken).await.unwrap_err().code, code::FORBIDDEN);
    assert_eq!(e.bind(&session, &his).await.unwrap_err().code, code::ATTESTATION_MISMATCH);
    // Nor bob's own key, even if she had it.
    let taken = eve.attest(&world.mesh, bob.public());
    assert_eq!(e.bind(&bob.key, &taken).await.unwrap_err().code, code::FORBIDDEN);
    let (_, mail) = ann.letter(&world.mesh, session.public(), 1, "to the session", |h| {
        h.target = Target::Session { key: session.public() };
    });
    a.hand(mail).await.unwrap();
    assert_eq!(b.message().await.to, session.public());
    settle(&mut e).await;
    assert!(!e.waiting().iter().any(|f| matches!(f, Frame::Message(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_17_a_lost_connection_frees_its_claims_at_once_and_drains_are_limited() {
    const N: u64 = 150;
    let world = World::start().await;
    let (ann, bob) = (world.member("ann").await, world.member("bob").await);
    let mut a = world.connect(&ann, MSGPACK).await;
    for seq in 1..=N {
        let (_, envelope) = ann.letter(&world.mesh, bob.public(), seq, &seq.to_string(), |_| {});
        a.hand(envelope).await.unwrap();
    }
    let mut b = world.connect(&bob, MSGPACK).await;
    assert_eq!(b.ack.limits.window, 64);
    let mut pushed: Vec<MessageFrame> = Vec::new();
    for _ in 0..64 {
        pushed.push(b.message().await);
    }
    committed(&mut b, &world, &bob, &world.owner).await;
    assert!(
        !b.waiting().iter().any(|f| matches!(f, Frame::Message(_) | Frame::Drained(_))),
        "no more than the window is pushed"
    );
    assert!(pushed.iter().all(|m| m.attempt == 1));
    // An answer makes room for one more.
    b.ack(&world.mesh, &bob, &pushed[0]).await;
    assert_eq!(bob.open(&b.message().await.envelope), "65");
    drop(b);

    let start = tokio::time::Instant::now();
    let mut b = world.connect(&bob, MSGPACK).await;
    for seq in 2..=N {
        let m = b.message().await;
        assert_eq!(bob.open(&m.envelope), seq.to_string(), "in order");
        assert_eq!(m.attempt, if seq <= 65 { 2 } else { 1 }, "{seq}");
        b.ack(&world.mesh, &bob, &m).await;
    }
    b.drained().await;
    assert!(start.elapsed().as_secs() < 15, "the lease of 30 s was not waited for");
}

#[tokio::test]
async fn an_envelope_is_only_taken_from_a_send() {
    // `message` goes from broker to node: a node that says it reaches nobody.
    let world = World::start().await;
    let (ann, bob) = (world.member("ann").await, world.member("bob").await);
    let mut a = world.connect(&ann, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    let (_, envelope) = ann.letter(&world.mesh, bob.public(), 1, "x", |_| {});
    let to = bob.public();
    a.send(MessageFrame { to, envelope: envelope.clone(), accepted_at: 1, attempt: 1 }).await;
    assert_eq!(a.error().await.code, code::UNSUPPORTED);
    let got = a.ask(|req| Send { req, envelope, batch: None }.into()).await.unwrap();
    assert!(matches!(got, Frame::Accepted(_)));
    assert_eq!(b.message().await.attempt, 1);
}
