//! Opens that come in at a node whose broker cannot be reached.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use meshwire_signaling::envelope::{Author, StateHead};
use meshwire_signaling::seal::Pair;
use meshwire_signaling::stream::{ACCEPT_PREFIX, Ends, Fresh, Header, Kind, Open, PREFIX, Secret};
use meshwire_signaling::{Envelope, EnvelopeId, InstanceId, MeshId, PublicKey, StreamId, Target};
use meshwire_transport::link::{Inbound, PathKind};
use meshwire_transport::stream::{Budget, LinkId, Live, Stream, StreamError, Windows};
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, timeout};

use super::handle::{StreamHandle, StreamInfo};
use super::table::Streams;
use super::{ACCEPT_WAIT, Common, windows};
use crate::api::{AcceptStream, EndSession, OpenStream};
use crate::core::inbox::Opening;
use crate::node::Node;
use crate::node::inbound::{self, Source};
use crate::node::testing::{NOW, World, key, lab, member, session};
use crate::store::{MemoryStore, PeerStore, SqliteStore};

/// Bob's open of stream `n` to ana.
fn open(node: &Node, n: u8, name: &str) -> Envelope {
    opened(node, n, name).1
}

/// Bob's side of stream `n`, and its open.
fn opened(node: &Node, n: u8, name: &str) -> (Stream, Envelope) {
    let (mesh, bob, ana) = (lab(node).id(), key(50), member(node));
    let ends = Ends { mesh, stream: StreamId([n; 16]), opener: bob.public(), acceptor: ana };
    let (windows, budget) = (Windows::default(), Budget::new(1 << 20));
    let secret = Secret::new([n; 32]);
    let (stream, open) =
        Stream::open(secret, name, ends, &windows, &budget, Instant::now()).unwrap();
    let from = Author { key: bob.public(), instance: InstanceId([50; 16]) };
    let (target, id) = (Target::Member { key: ana }, EnvelopeId::new(NOW, u128::from(n)));
    let header = Open::header(from, target, id, NOW).unwrap();
    let pair = Pair::new(&bob, &ana).unwrap();
    let head = StateHead::origin(&mesh);
    (stream, open.seal(&mesh, &bob, &header, head, &pair, &[n; 24]).unwrap())
}

/// What a stream says over a new link.
fn says(live: &Live) -> (LinkId, Vec<Bytes>) {
    let link = LinkId::fresh();
    live.link_up(link, PathKind::Memory, None, Arc::new(|| {}));
    (link, std::iter::from_fn(|| live.poll_transmit(link)).collect())
}

/// A store that was set back, or a clock, lets a broker have an open taken again: keys are others then, or other bytes
/// would be sealed under the numbers of those before.
#[tokio::test(start_paused = true)]
async fn each_answer_to_an_open_has_keys_of_its_own() {
    let world = World::on(Arc::new(MemoryStore::default())).await;
    let node = world.node().await;
    world.bob(&node).await;
    comes(&node, &open(&node, 1, "backup")).await;
    let mesh = lab(&node);
    let opening = mesh.streams.dequeue(|_| true).unwrap();
    let mut seen = HashSet::new();
    for _ in 0..3 {
        let stream = super::accept::accept(&mesh, &opening).unwrap();
        let (_, records) = says(stream.handle().live());
        assert_eq!(Header::parse(&records[0]).unwrap().kind, Kind::Accept);
        assert!(seen.insert(records[0][PREFIX..ACCEPT_PREFIX].to_vec()), "drawn anew");
        let handle = stream.handle();
        stream.reset(0, "");
        handle.live().hint_gone();
        while !mesh.streams.list().is_empty() {
            tokio::task::yield_now().await;
        }
    }
    node.close().await;
}

/// Both have everything; only bob knows that both know it.
#[tokio::test(start_paused = true)]
async fn a_stream_that_is_done_is_not_reset_when_its_node_closes() {
    for done in [true, false] {
        let world = World::on(Arc::new(MemoryStore::default())).await;
        let node = world.node().await;
        world.bob(&node).await;
        let (mut bob, envelope) = opened(&node, 1, "backup");
        comes(&node, &envelope).await;
        let mut ana = node.accept_stream(AcceptStream::default()).await.unwrap();
        let (live, now) = (ana.handle().live().clone(), Instant::now());
        bob.finish(now);
        if done {
            ana.finish();
        }
        let (link, mut records) = says(&live);
        bob.link_up(link, PathKind::Memory, None, now);
        while !records.is_empty() {
            for record in &records {
                bob.receive(link, BytesMut::from(&record[..]), now).unwrap();
            }
            while let Some(record) = bob.poll_transmit(link, now).filter(|_| !live.is_done()) {
                live.receive(link, BytesMut::from(&record[..])).unwrap();
            }
            records = std::iter::from_fn(|| live.poll_transmit(link)).collect();
        }
        assert_eq!((live.is_done(), live.is_over()), (done, false));
        assert!(bob.is_over() || !done);
        node.close().await;
        assert_eq!(live.error().is_some(), !done, "{:?}", live.error());
    }
}

/// A refusal of an open by member `n`.
fn refusal(n: u8, count: u16) -> StreamHandle {
    let (mut id, budget, now) = ([n; 16], Budget::new(1 << 20), Instant::now());
    id[..2].copy_from_slice(&count.to_be_bytes());
    let [own, peer] = [1, n].map(|n| PublicKey([n; 32]));
    let (mesh, stream) = (MeshId([1; 32]), StreamId(id));
    let ends = Ends { mesh, stream, opener: peer, acceptor: own };
    let secret = Secret::new([n; 32]);
    let (_, open) = Stream::open(secret, "x", ends, &Windows::default(), &budget, now).unwrap();
    let refused = Stream::refuse(&open, ends, Fresh([n; 32]), 2, "no", &budget, now).unwrap();
    let info = StreamInfo {
        id: stream,
        name: "x".into(),
        mesh,
        mesh_name: "lab".into(),
        own,
        peer,
        peer_name: "bob".into(),
        member: peer,
        opened: false,
        since: NOW,
    };
    StreamHandle::new(Arc::new(info), Live::start(refused), watch::channel(None).1)
}

#[tokio::test(start_paused = true)]
async fn one_members_refusals_end_its_own_oldest() {
    let streams = Streams::default();
    let insert = |n, count| {
        let handle = refusal(n, count);
        streams.insert(handle.clone(), true).unwrap();
        handle
    };
    let other = insert(2, 0);
    let own: Vec<_> = (0..260).map(|count| insert(3, count)).collect();
    let over = |all: &[StreamHandle]| all.iter().filter(|h| h.live().is_over()).count();
    assert_eq!((over(&own), over(&own[..4])), (4, 4), "256 of one member");
    for n in 4..7 {
        (0..256).for_each(|count| drop(insert(n, count)));
    }
    // All there may be: whoever comes is heard all the same, and who has most makes room.
    (0..50).for_each(|count| drop(insert(7, count)));
    assert!(!other.live().is_over());
}

#[tokio::test(start_paused = true)]
async fn a_member_has_room_for_a_thousand_streams_and_leaves_some_to_others() {
    let common = Common::default();
    let (greedy, decent) = (PublicKey([1; 32]), PublicKey([2; 32]));
    let mut kept = Vec::new();
    let mut take = |member: &PublicKey, n: u32| {
        let part = common.part(member);
        let [opener, acceptor] = [1, 2].map(|n| PublicKey([n; 32]));
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        let ends = Ends { mesh: MeshId([1; 32]), stream: StreamId(id), opener, acceptor };
        let (windows, now, secret) = (windows(&part), Instant::now(), Secret::new([1; 32]));
        Stream::open(secret, "x", ends, &windows, &part, now).map(|(mut stream, _)| {
            // What a program writes that nobody reads.
            stream.write(&[7; 1 << 20], now).unwrap();
            kept.push(stream);
        })
    };
    let got = (0..3_000).take_while(|n| take(&greedy, *n).is_ok()).count();
    assert!((1_000..2_500).contains(&got), "{got} streams of one member");
    for n in 0..300 {
        assert!(take(&decent, n).is_ok(), "stream {n} of another");
    }
    drop(kept);
    assert_eq!(common.budget.used(), 0);
    common.part(&decent);
    assert_eq!(common.parts.lock().unwrap().len(), 1, "who has nothing is forgotten");
}

/// The broker brings it.
async fn comes(node: &Node, envelope: &Envelope) {
    let inbound =
        Inbound { to: member(node), envelope: envelope.clone(), accepted_at: NOW, attempt: 1 };
    inbound::accept(&lab(node), &Source::Relay, vec![inbound]).await;
}

/// An open that waits; it does so no more.
fn waiting(node: &Node) -> Option<String> {
    let found: Option<Box<Opening>> = lab(node).streams.dequeue(|_| true);
    found.map(|o| o.open.name)
}

async fn never_taken_twice(store: Arc<dyn PeerStore>) {
    let world = World::on(store).await;
    let node = world.node().await;
    world.bob(&node).await;
    let envelope = open(&node, 1, "backup");
    comes(&node, &envelope).await;
    let stream = node.accept_stream(AcceptStream::default()).await.unwrap();
    assert_eq!((stream.info().name.as_str(), stream.info().peer_name.as_str()), ("backup", "bob"));
    comes(&node, &envelope).await;
    assert_eq!(waiting(&node), None, "a copy");
    // Another envelope for the stream that lives, and one for another.
    let mut again = open(&node, 1, "again");
    let header = {
        let mut header = again.header().unwrap();
        header.id = EnvelopeId::new(NOW, 77);
        header
    };
    let pair = Pair::new(&key(50), &member(&node)).unwrap();
    let content = again.open_box(&pair).unwrap();
    again = Envelope::seal_box(&lab(&node).id(), &key(50), &header, &pair, &[9; 24], &content);
    comes(&node, &again).await;
    assert_eq!(waiting(&node), None, "its id lives");
    comes(&node, &open(&node, 2, "another")).await;
    assert_eq!(waiting(&node).as_deref(), Some("another"));
    assert!(stream.handle().error().is_none());
    node.close().await;
    // A node that starts anew has no streams, and takes none of them again.
    let node = world.node().await;
    for copy in [&envelope, &again, &open(&node, 2, "another")] {
        comes(&node, copy).await;
        assert_eq!(waiting(&node), None, "replayed after a restart");
    }
    comes(&node, &open(&node, 3, "fresh")).await;
    assert_eq!(waiting(&node).as_deref(), Some("fresh"));
    node.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_open_is_taken_once_whatever_restarts() {
    never_taken_twice(Arc::new(MemoryStore::new())).await;
}

#[tokio::test]
async fn an_open_is_taken_once_with_a_store_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.db");
    // One store for both nodes would be closed by the first.
    let store = SqliteStore::open(&path).await.unwrap();
    let world = World::on(Arc::new(store)).await;
    let node = world.node().await;
    world.bob(&node).await;
    let envelope = open(&node, 1, "backup");
    comes(&node, &envelope).await;
    assert_eq!(waiting(&node).as_deref(), Some("backup"));
    let header = envelope.header().unwrap();
    let mesh = lab(&node).id();
    node.close().await;
    let store = SqliteStore::open(&path).await.unwrap();
    let seen = store.seen(&mesh, &header.from.key, &header.id).await.unwrap();
    assert_eq!(seen, Some(envelope.hash(&mesh)));
    store.close().await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_takes_nothing_and_an_open_waits_for_a_moment() {
    let world = World::new().await;
    let node = world.node().await;
    world.bob(&node).await;
    let accept = |name: Option<&str>| {
        let ask = AcceptStream { name: name.map(str::to_owned), ..AcceptStream::default() };
        let node = node.clone();
        async move { node.accept_stream(ask).await }
    };
    // Given up before it came.
    assert!(timeout(Duration::from_secs(1), accept(None)).await.is_err());
    comes(&node, &open(&node, 1, "one")).await;
    let other = timeout(ACCEPT_WAIT / 2, accept(Some("two"))).await;
    assert!(other.is_err(), "of another name");
    let taken = timeout(ACCEPT_WAIT / 4, accept(Some("one"))).await.unwrap().unwrap();
    assert_eq!(taken.info().id, StreamId([1; 16]));
    comes(&node, &open(&node, 2, "two")).await;
    tokio::time::sleep(ACCEPT_WAIT + Duration::from_millis(1)).await;
    assert!(timeout(ACCEPT_WAIT, accept(None)).await.is_err(), "refused meanwhile");
    let listed: Vec<_> = node.streams().unwrap().iter().map(|s| s.info().id).collect();
    assert_eq!(listed, [StreamId([1; 16])], "a refusal is no stream");
    // The oldest first.
    comes(&node, &open(&node, 3, "three")).await;
    comes(&node, &open(&node, 4, "four")).await;
    assert_eq!(accept(None).await.unwrap().info().name, "three");
    assert_eq!(accept(None).await.unwrap().info().name, "four");
    node.close().await;
}

#[tokio::test(start_paused = true)]
async fn silence_is_an_error_and_no_hang() {
    let world = World::new().await;
    let node = world.node().await;
    world.bob(&node).await;
    comes(&node, &open(&node, 1, "x")).await;
    let mut stream = node.accept_stream(AcceptStream::default()).await.unwrap();
    let error = timeout(Duration::from_secs(61), stream.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let handle = stream.handle();
    assert_eq!(handle.error(), Some(StreamError::Silent));
    assert!(handle.paths().has_changed().is_err() || handle.stats().path.is_none());
    timeout(Duration::from_secs(61), handle.over()).await.unwrap();
    tokio::task::yield_now().await;
    assert!(node.streams().unwrap().is_empty());
    // Who opens without a broker hears so at once.
    let ask = OpenStream { to: "bob".into(), name: "x".into(), ..OpenStream::default() };
    let refused = node.open_stream(ask).await.unwrap_err();
    assert_eq!(refused.code, "broker_unreachable");
    node.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_has_its_own_streams_and_waits_no_longer_than_it_lives() {
    let world = World::new().await;
    let node = world.node().await;
    world.bob(&node).await;
    let started = session(&node, "agent", Some(&["dm"])).await;
    let agent = node.as_session(&started.token).unwrap();
    comes(&node, &open(&node, 1, "x")).await;
    let any = AcceptStream::default;
    assert!(timeout(Duration::from_secs(1), agent.accept_stream(any())).await.is_err());
    let taken = node.accept_stream(any()).await.unwrap();
    assert!(agent.streams().unwrap().is_empty() && node.streams().unwrap().len() == 1);
    let end = async {
        tokio::task::yield_now().await;
        node.end_session(EndSession { session: "agent".into() }).await
    };
    let (waited, ended) = tokio::join!(agent.accept_stream(any()), end);
    ended.unwrap();
    assert_eq!(waited.unwrap_err().code, "bad_session");
    let mute = session(&node, "mute", Some(&["inbox"])).await;
    let mute = node.as_session(&mute.token).unwrap();
    assert_eq!(mute.accept_stream(any()).await.unwrap_err().code, "capability_missing");
    // What waits ends with its node.
    let closing = async {
        tokio::task::yield_now().await;
        node.close().await;
    };
    let (waited, ()) = tokio::join!(node.accept_stream(any()), closing);
    assert_eq!(waited.unwrap_err().code, "closed");
    drop(taken);
}
