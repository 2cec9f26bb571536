//! Streams between real nodes through a real broker, over the relay and over direct paths.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests

#[path = "proto/mod.rs"]
mod proto;
#[path = "streams/valve.rs"]
mod valve;

use std::sync::Arc;
use std::time::Duration;

use meshwire::{DirectPaths, Home, Net, Node, OsNet, PeerStream, StreamHandle, api};
use meshwire_peer::api::ErrorKind;
use meshwire_peer::node::MemoryHome;
use meshwire_peer::path::{PathMode, Via};
use meshwire_signaling::Hash;
use meshwire_signaling::stream::code;
use meshwire_transport::link::PathKind;
use meshwire_transport::quic::interfaces::FixedInterfaces;
use meshwire_transport::quic::{Config, QuicAdapter, QuicNode};
use meshwire_transport::stream::{ReadHalf, StreamError, WriteHalf};
use proto::{Cutter, World, stop, up, within};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use valve::Valve;

const MIB: usize = 1 << 20;

fn open(to: &str, name: &str) -> api::OpenStream {
    api::OpenStream { to: to.to_owned(), name: name.to_owned(), ..Default::default() }
}

fn any() -> api::AcceptStream {
    api::AcceptStream::default()
}

fn named(name: &str) -> api::AcceptStream {
    api::AcceptStream { name: Some(name.to_owned()), ..any() }
}

/// A node that is there.
async fn node(world: &World, name: &str) -> Node {
    let node = world.node(name).await;
    up(&node).await;
    node
}

/// A node that stays, as sessions need it.
async fn resident(world: &World, name: &str) -> Node {
    let (net, paths) = (Arc::new(OsNet), DirectPaths::default());
    let node = Node::in_memory(net, &MemoryHome::default(), paths).await.unwrap();
    let join = api::Join { invite: world.link.to_string(), member_name: name.to_owned() };
    node.join(join).await.unwrap();
    up(&node).await;
    node
}

/// A node through `base` that makes direct paths over loopback on `net`; its home has joined.
async fn direct(world: &World, base: &str, name: &str, net: Arc<dyn Net>) -> Node {
    let node = world.node_through(base, name).await;
    node.close().await;
    let interfaces = Arc::new(FixedInterfaces::new([]));
    let quic = QuicNode::start(net.clone(), Config::new(interfaces)).await.unwrap();
    let adapter = QuicAdapter::new(net.clone(), Arc::new(quic));
    let home = Home::open(&world.home(name)).unwrap();
    let lock = home.try_lock().unwrap().unwrap();
    let paths = DirectPaths { adapter: Some(Arc::new(adapter)), mode: PathMode::Auto };
    let node = Node::open(net, &home, lock, paths).await.unwrap();
    up(&node).await;
    node
}

/// Ann and bob, whose direct path is up: a stream has had it sought.
async fn direct_pair(world: &World, base: &str, net: Arc<dyn Net>) -> (Node, Node) {
    let ann = direct(world, base, "ann", net.clone()).await;
    let bob = direct(world, &world.link.base, "bob", net).await;
    // Both ends are held: one that is dropped before its end resets the stream.
    let (first, _end) = pair(&ann, &bob, "first").await;
    is(&first.handle(), Some(PathKind::Quic)).await;
    for (node, peer) in [(&ann, "bob"), (&bob, "ann")] {
        let mut events = node.events();
        within("a direct path", async {
            let ask = || api::AskPath { mesh: None, peer: peer.to_owned() };
            while node.path(ask()).await.unwrap().via != Via::Direct {
                let _ = events.recv().await;
            }
        })
        .await;
    }
    (ann, bob)
}

/// Both ends of a stream that the first opens to the second, who is called bob.
async fn pair(ann: &Node, bob: &Node, name: &str) -> (PeerStream, PeerStream) {
    let both = async {
        tokio::try_join!(ann.open_stream(open("bob", name)), bob.accept_stream(named(name)))
    };
    within("a stream", both).await.unwrap()
}

/// Waits until a stream goes over such a path.
async fn is(stream: &StreamHandle, path: Option<PathKind>) {
    let mut paths = stream.paths();
    let found = within("a path", paths.wait_for(|now| *now == path)).await;
    assert!(found.is_ok(), "{stream:?} is over: {:?}", stream.error());
}

/// Bytes that look like nothing else.
fn bytes(seed: u8, len: usize) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    })
    .flatten()
    .take(len)
    .collect()
}

async fn write(mut half: WriteHalf, data: Vec<u8>) {
    half.write_all(&data).await.unwrap();
    half.shutdown().await.unwrap();
    half.finished().await.unwrap();
}

async fn read(mut half: ReadHalf) -> Hash {
    let mut all = Vec::new();
    half.read_to_end(&mut all).await.unwrap();
    Hash::of(&all)
}

/// Bytes both ways at once, the same at both ends.
async fn both_ways(a: PeerStream, b: PeerStream, len: usize) {
    let (from_a, from_b) = (bytes(1, len), bytes(2, len));
    let (sent_a, sent_b) = (Hash::of(&from_a), Hash::of(&from_b));
    let (ends, (read_a, write_a), (read_b, write_b)) =
        ((a.handle(), b.handle()), a.split(), b.split());
    let all = async {
        tokio::join!(write(write_a, from_a), write(write_b, from_b), read(read_a), read(read_b))
    };
    let ((), (), at_a, at_b) = within("bytes both ways", all).await;
    assert!(at_a == sent_b && at_b == sent_a);
    within("the end", async { tokio::join!(ends.0.over(), ends.1.over()) }).await;
    let len = u64::try_from(len).unwrap();
    for end in [ends.0, ends.1] {
        let stats = end.stats();
        assert_eq!((stats.written, stats.received, stats.over), (len, len, true));
        assert_eq!(end.error(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_go_both_ways_over_the_relay() {
    let world = World::start().await;
    let (ann, bob) = (node(&world, "ann").await, node(&world, "bob").await);
    let (a, b) = pair(&ann, &bob, "backup").await;
    let (at_a, at_b) = (a.info(), b.info());
    assert_eq!((at_a.name.as_str(), at_b.name.as_str()), ("backup", "backup"));
    assert_eq!((at_a.peer_name.as_str(), at_b.peer_name.as_str()), ("bob", "ann"));
    assert_eq!((at_a.id, at_a.own, at_a.peer), (at_b.id, at_b.peer, at_b.own));
    assert!(at_a.opened && !at_b.opened && at_a.mesh_name == "lab");
    is(&a.handle(), Some(PathKind::Relay)).await;
    let listed = ann.streams().unwrap();
    assert_eq!(listed.iter().map(|s| s.info().id).collect::<Vec<_>>(), [at_a.id]);
    both_ways(a, b, 4 * MIB).await;
    let metrics = ann.metrics();
    let line = |name: &str| metrics.lines().find(|l| l.starts_with(name)).unwrap_or_default();
    let relayed = line("meshwire_stream_bytes_total{mesh=\"lab\",path=\"relay\"}");
    assert!(relayed.ends_with(&format!(" {}", 8 * MIB)), "{relayed}");
    stop(ann).await;
    stop(bob).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_go_both_ways_over_a_direct_path() {
    let world = World::start().await;
    let (ann, bob) = direct_pair(&world, &world.link.base, Arc::new(OsNet)).await;
    for (opener, acceptor, to) in [(&ann, &bob, "bob"), (&bob, &ann, "ann")] {
        let both = async {
            tokio::join!(opener.open_stream(open(to, "x")), acceptor.accept_stream(named("x")))
        };
        let (a, b) = within("a stream", both).await;
        let (a, b) = (a.unwrap(), b.unwrap());
        is(&a.handle(), Some(PathKind::Quic)).await;
        is(&b.handle(), Some(PathKind::Quic)).await;
        both_ways(a, b, 8 * MIB).await;
    }
    stop(ann).await;
    stop(bob).await;
}

/// Writes until told to stop, and says what the whole was; bounded by what the reader takes.
async fn pour(mut half: WriteHalf, mut stop: tokio::sync::watch::Receiver<bool>) -> Hash {
    let (piece, mut all) = (bytes(3, 64 << 10), Vec::new());
    while !*stop.borrow_and_update() {
        half.write_all(&piece).await.unwrap();
        all.extend_from_slice(&piece);
        // A link's worth of time in between: some 30 MB/s.
        tokio::select! {
            _ = stop.changed() => {}
            () = tokio::time::sleep(Duration::from_millis(2)) => {}
        }
    }
    half.shutdown().await.unwrap();
    half.finished().await.unwrap();
    Hash::of(&all)
}

/// A stream from ann to bob that moves bytes all the time, while `story` happens to its paths.
async fn while_it_moves(
    ann: &Node,
    bob: &Node,
    story: impl AsyncFnOnce(&StreamHandle, &StreamHandle),
) {
    let (a, b) = pair(ann, bob, "bulk").await;
    let (at_a, at_b) = (a.handle(), b.handle());
    let (_, to_bob) = a.split();
    let (from_ann, mut back) = b.split();
    back.finish();
    let (end, ended) = tokio::sync::watch::channel(false);
    let pouring = tokio::spawn(pour(to_bob, ended));
    let reading = tokio::spawn(read(from_ann));
    is(&at_a, Some(PathKind::Quic)).await;
    story(&at_a, &at_b).await;
    end.send_replace(true);
    let all = within("the rest", async { tokio::join!(pouring, reading) }).await;
    assert_eq!(all.0.unwrap(), all.1.unwrap());
}

/// How far a gibibyte may go, and how far it is.
struct Course {
    ann: StreamHandle,
    bob: StreamHandle,
    /// Ann writes up to here: so there is something left, however long a path takes to come back.
    allowed: tokio::sync::watch::Sender<usize>,
}

impl Course {
    /// Lets ann write up to so many mebibytes.
    fn allow(&self, mib: usize) {
        self.allowed.send_replace(mib * MIB);
    }

    /// Waits until bob has so many mebibytes.
    async fn has(&self, mib: usize) {
        let have = usize::try_from(self.bob.stats().received).unwrap();
        moves(&self.bob, (mib * MIB).saturating_sub(have)).await;
    }
}

/// Sends a gibibyte from ann to bob while `story` happens to its paths.
async fn gibibyte(ann: &Node, bob: &Node, story: impl AsyncFnOnce(&Course)) {
    const ALL: usize = 1 << 30;
    let (a, b) = pair(ann, bob, "a gibibyte").await;
    let (allowed, mut may) = tokio::sync::watch::channel(0);
    let course = Course { ann: a.handle(), bob: b.handle(), allowed };
    let ((_back, mut to_bob), (mut from_ann, mut back)) = (a.split(), b.split());
    back.finish();
    let writing = tokio::spawn(async move {
        let (mut piece, mut hash) = (bytes(3, 256 << 10), Sha256::new());
        for n in 0..ALL / piece.len() {
            let end = (n + 1) * piece.len();
            may.wait_for(|allowed| end <= *allowed).await.unwrap();
            // No piece is like another.
            piece[..8].copy_from_slice(&n.to_be_bytes());
            hash.update(&piece);
            to_bob.write_all(&piece).await.unwrap();
        }
        to_bob.shutdown().await.unwrap();
        to_bob.finished().await.unwrap();
        hash.finalize()
    });
    let reading = tokio::spawn(async move {
        let (mut some, mut hash, mut len) = (vec![0; 256 << 10], Sha256::new(), 0);
        loop {
            match from_ann.read(&mut some).await.unwrap() {
                0 => return (hash.finalize(), len),
                n => {
                    hash.update(&some[..n]);
                    len += n;
                }
            }
        }
    });
    is(&course.ann, Some(PathKind::Quic)).await;
    story(&course).await;
    course.allow(ALL / MIB);
    let (sent, came) = tokio::join!(writing, reading);
    assert_eq!((sent.unwrap(), ALL), came.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_outlives_each_of_its_paths() {
    let world = World::start().await;
    let valve = Valve::default();
    let to_ann = Cutter::start(world.broker.addr()).await;
    let (ann, bob) = direct_pair(&world, &to_ann.base, Arc::new(valve.clone())).await;
    gibibyte(&ann, &bob, async |course| {
        course.allow(256);
        course.has(128).await;
        valve.close(true);
        is(&course.ann, Some(PathKind::Relay)).await;
        course.has(256).await;
        course.allow(384);
        course.has(384).await;
        valve.close(false);
        is(&course.ann, Some(PathKind::Quic)).await;
        course.allow(640);
        course.has(512).await;
        to_ann.cut(true);
        course.has(640).await;
        // Neither path, for twenty seconds.
        course.allow(768);
        course.has(644).await;
        valve.close(true);
        to_ann.cut(false);
        tokio::time::sleep(Duration::from_secs(20)).await;
        to_ann.cut(true);
        course.has(768).await;
        valve.close(false);
        course.allow(896);
        is(&course.ann, Some(PathKind::Quic)).await;
    })
    .await;
    stop(ann).await;
    stop(bob).await;
}

/// Waits until bob has this many bytes more than now.
async fn moves(stream: &StreamHandle, more: usize) {
    let until = stream.stats().received + u64::try_from(more).unwrap();
    within("bytes", async {
        while stream.stats().received < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlives_its_direct_path_and_comes_back_to_it() {
    let world = World::start().await;
    let valve = Valve::default();
    let (ann, bob) = direct_pair(&world, &world.link.base, Arc::new(valve.clone())).await;
    while_it_moves(&ann, &bob, async |a, b| {
        moves(b, MIB).await;
        valve.close(true);
        is(a, Some(PathKind::Relay)).await;
        is(b, Some(PathKind::Relay)).await;
        moves(b, MIB).await;
        valve.close(false);
        is(a, Some(PathKind::Quic)).await;
        is(b, Some(PathKind::Quic)).await;
        moves(b, MIB).await;
    })
    .await;
    stop(ann).await;
    stop(bob).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlives_the_relay_while_a_direct_path_is_up() {
    let world = World::start().await;
    let to_ann = Cutter::start(world.broker.addr()).await;
    let (ann, bob) = direct_pair(&world, &to_ann.base, Arc::new(OsNet)).await;
    while_it_moves(&ann, &bob, async |_, b| {
        to_ann.cut(false);
        moves(b, 2 * MIB).await;
        // Opened over the direct path, too.
        both_ways_of(&ann, &bob).await;
        to_ann.cut(true);
        moves(b, MIB).await;
    })
    .await;
    stop(ann).await;
    stop(bob).await;
}

async fn both_ways_of(ann: &Node, bob: &Node) {
    let (a, b) = pair(ann, bob, "another").await;
    both_ways(a, b, MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlives_a_connection_to_the_broker() {
    let world = World::start().await;
    let to_ann = Cutter::start(world.broker.addr()).await;
    let ann = world.node_through(&to_ann.base, "ann").await;
    let bob = node(&world, "bob").await;
    let (a, b) = pair(&ann, &bob, "bulk").await;
    let handle = b.handle();
    let (_, mut to_bob) = a.split();
    let (from_ann, mut back) = b.split();
    back.finish();
    let data = bytes(7, 8 * MIB);
    let sent = Hash::of(&data);
    // Slow enough for the cuts to fall into the middle.
    let writing = tokio::spawn(async move {
        for piece in data.chunks(32 << 10) {
            to_bob.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
        to_bob.shutdown().await.unwrap();
        to_bob.finished().await.unwrap();
    });
    let reading = tokio::spawn(read(from_ann));
    for _ in 0..3 {
        moves(&handle, MIB).await;
        to_ann.cut(true);
    }
    assert_eq!(within("the rest", reading).await.unwrap(), sent);
    within("its end", writing).await.unwrap();
    assert_eq!(handle.error(), None);
    stop(ann).await;
    stop(bob).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_stream_gets_what_it_waits_for() {
    let world = World::start().await;
    let (ann, bob) = (node(&world, "ann").await, node(&world, "bob").await);
    let eve = node(&world, "eve").await;
    // All at once, and each of its own name.
    let names = ["one", "two", "three", "four"];
    let opening = names.map(|name| ann.open_stream(open("bob", name)));
    let accepting = names.map(|name| bob.accept_stream(named(name)));
    let (opening, accepting) =
        (futures_util::future::join_all(opening), futures_util::future::join_all(accepting));
    let (a, b) = within("streams", async { tokio::join!(opening, accepting) }).await;
    let pairs = a.into_iter().map(Result::unwrap).zip(b.into_iter().map(Result::unwrap));
    let mut moving = Vec::new();
    for (a, b) in pairs {
        assert_eq!((a.info().id, &a.info().name), (b.info().id, &b.info().name));
        moving.push(both_ways(a, b, MIB));
    }
    futures_util::future::join_all(moving).await;
    // By whom: the first that came is not meant.
    let from = api::AcceptStream { from: Some("ann".into()), ..any() };
    let (a, e, b) = within("streams", async {
        let by_ann = ann.open_stream(open("bob", "x"));
        let by_eve = eve.open_stream(open("bob", "x"));
        let accepting = async { (bob.accept_stream(from).await, bob.accept_stream(any()).await) };
        tokio::join!(by_ann, by_eve, accepting)
    })
    .await;
    let (first, second) = (b.0.unwrap(), b.1.unwrap());
    assert_eq!((first.info().peer_name.as_str(), second.info().peer_name.as_str()), ("ann", "eve"));
    assert_eq!((a.unwrap().info().id, e.unwrap().info().id), (first.info().id, second.info().id));
    for node in [ann, bob, eve] {
        stop(node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_at_once_have_room() {
    let world = World::start().await;
    let (ann, bob) = direct_pair(&world, &world.link.base, Arc::new(OsNet)).await;
    let (data, name) = (bytes(9, 32 << 10), "one of many");
    let sent = Hash::of(&data);
    let writing = (0..1_000).map(|_| async {
        let (read, write) = ann.open_stream(open("bob", name)).await.unwrap().split();
        tokio::join!(self::write(write, data.clone()), self::read(read))
    });
    let reading = (0..1_000).map(|_| async {
        let (read, mut write) = bob.accept_stream(named(name)).await.unwrap().split();
        write.finish();
        self::read(read).await
    });
    let (writing, reading) =
        (futures_util::future::join_all(writing), futures_util::future::join_all(reading));
    let (_, came) = within("all", async { tokio::join!(writing, reading) }).await;
    assert!(came.iter().all(|hash| *hash == sent));
    stop(ann).await;
    stop(bob).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_accepts_is_refused_in_words() {
    let world = World::start().await;
    let (ann, bob) = (node(&world, "ann").await, node(&world, "bob").await);
    // Who has given up does not listen any more.
    let waiting = bob.accept_stream(any());
    assert!(tokio::time::timeout(Duration::from_millis(10), waiting).await.is_err());
    let (other, refused) = within("a refusal", async {
        let other = async {
            tokio::time::timeout(Duration::from_secs(6), bob.accept_stream(named("other"))).await
        };
        tokio::join!(other, ann.open_stream(open("bob", "backup")))
    })
    .await;
    assert!(other.is_err());
    let refused = refused.unwrap_err();
    assert_eq!((refused.kind, refused.code.as_str()), (ErrorKind::Denied, "stream_refused"));
    assert!(refused.message.contains("bob") && refused.message.contains("\"backup\""), "{refused}");
    let refusal = async |ask| ann.open_stream(ask).await.unwrap_err();
    let unknown = refusal(open("bop", "x")).await;
    assert_eq!(unknown.code, "peer_not_found");
    assert!(unknown.message.contains("bob"), "{unknown}");
    assert_eq!(refusal(open("ann", "x")).await.code, "own_key");
    assert_eq!(refusal(open("@all", "x")).await.code, "one_peer");
    assert_eq!(refusal(open("bob", "")).await.code, "bad_stream_name");
    assert_eq!(refusal(open("bob", "a\nb")).await.code, "bad_stream_name");
    stop(bob).await;
    let away = refusal(open("bob", "x")).await;
    assert_eq!((away.kind, away.code.as_str()), (ErrorKind::Unreachable, "peer_offline"), "{away}");
    stop(ann).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_hear_how_it_ends() {
    let world = World::start().await;
    let (ann, bob) = (node(&world, "ann").await, node(&world, "bob").await);
    let (a, mut b) = pair(&ann, &bob, "x").await;
    a.reset(300, "out of paper");
    let error = within("the end", b.read_u8()).await.unwrap_err();
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<StreamError>());
    let reset = StreamError::Reset { code: 300, reason: "out of paper".to_owned() };
    assert_eq!(inner, Some(&reset));
    // Dropped before its end: nobody takes the part for the whole.
    let (mut a, mut b) = pair(&ann, &bob, "y").await;
    a.write_all(b"half a").await.unwrap();
    let mut some = [0; 6];
    within("the part", b.read_exact(&mut some)).await.unwrap();
    drop(a);
    assert!(within("the end", b.read_u8()).await.is_err());
    // The node closes.
    let (_a, mut b) = pair(&ann, &bob, "z").await;
    stop(ann).await;
    assert!(within("the end", b.read_u8()).await.is_err());
    let handle = b.handle();
    assert!(matches!(handle.error(), Some(StreamError::Reset { code: code::NONE, .. })));
    let closing = bob.accept_stream(any());
    let (waited, ()) = within("its end", async { tokio::join!(closing, stop(bob.clone())) }).await;
    assert_eq!(waited.unwrap_err().code, "closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_opens_to_a_session() {
    let world = World::start().await;
    let (ann, bob) = (resident(&world, "ann").await, resident(&world, "bob").await);
    let start = async |node: &Node, may: Option<&[&str]>, name: &str| {
        let ask = api::StartSession {
            mesh: None,
            name: name.to_owned(),
            capabilities: may.map(|words| words.iter().map(|w| (*w).to_owned()).collect()),
            pid: std::process::id(),
        };
        let started = node.start_session(ask).await.unwrap();
        (node.as_session(&started.token).unwrap(), started.session)
    };
    let (writer, own) = start(&ann, None, "writer").await;
    let (reader, theirs) = start(&bob, Some(&["dm"]), "reader").await;
    let (mute, _) = start(&bob, Some(&["inbox"]), "mute").await;
    let missing = "capability_missing";
    assert_eq!(mute.accept_stream(any()).await.unwrap_err().code, missing);
    assert_eq!(mute.open_stream(open("ann", "x")).await.unwrap_err().code, missing);
    // Its presence is heard before its name means anybody.
    let opening = async {
        loop {
            match writer.open_stream(open("bob/reader", "x")).await {
                Err(e) if e.code == "peer_not_found" => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                done => break done.unwrap(),
            }
        }
    };
    let from = api::AcceptStream { from: Some(own.key.to_string()), ..any() };
    let accepting = async {
        loop {
            match reader.accept_stream(from.clone()).await {
                Err(e) if e.code == "peer_not_found" => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                done => break done.unwrap(),
            }
        }
    };
    let (a, b) = Box::pin(within("a stream", async { tokio::join!(opening, accepting) })).await;
    assert_eq!(
        (b.info().peer_name.as_str(), a.info().peer_name.as_str()),
        ("ann/writer", "bob/reader")
    );
    assert_eq!((a.info().own, a.info().peer), (own.key, theirs.key));
    assert_eq!(reader.streams().unwrap().len(), 1);
    assert!(mute.streams().unwrap().is_empty(), "another's");
    both_ways(a, b, MIB).await;
    // What waits ends with its session.
    let waiting = reader.accept_stream(any());
    let ending = bob.end_session(api::EndSession { session: "reader".into() });
    let (waited, ended) = within("its end", async { tokio::join!(waiting, ending) }).await;
    ended.unwrap();
    assert_eq!(waited.unwrap_err().code, "bad_session");
    stop(ann).await;
    stop(bob).await;
}
