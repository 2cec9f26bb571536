//! Streams through the broker.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{SinkExt as _, StreamExt as _};
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{Frame, close, code, feature};
use meshwire_signaling::stream::carry::{
    Carry, FRONT, Gone, PAIR_WINDOW, STREAM_WINDOW, Way, front, is_carry,
};
use meshwire_signaling::stream::{Ends, Fresh, Header, Kind, Secret, Suite};
use meshwire_signaling::{Hash, PublicKey, StreamId};
use meshwire_transport::link::MessageLink as _;
use meshwire_transport::net::BoxStream;
use meshwire_transport::relay::{Carried, RelayLink};
use meshwire_transport::stream::{Budget, Live, ReadHalf, Stream, Windows, WriteHalf};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Duration, Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::world::{Link, World, key, next_envelope};

pub(super) const MIB: usize = 1 << 20;
pub(super) const STREAMS: &[&str] = &[feature::STREAMS];

pub(super) async fn connect(world: &World, n: u8) -> Link {
    world.connect_as(n, world.net.clone(), STREAMS).await
}

/// One side of a stream.
pub(super) struct Side {
    pub(super) live: Live,
    pub(super) way: Way,
    pub(super) read: ReadHalf,
    pub(super) write: WriteHalf,
}

impl Side {
    pub(super) fn carry(&self, link: &RelayLink) -> Carried {
        link.carry(self.live.clone(), self.way.from, self.way.to)
    }
}

/// Both sides of a stream, as an open makes them.
pub(super) fn stream(world: &World, id: u8, opener: u8, acceptor: u8) -> (Side, Side) {
    stream_with(world, Windows::default(), id, opener, acceptor)
}

/// As [`stream`], with other windows.
pub(super) fn stream_with(
    world: &World,
    windows: Windows,
    id: u8,
    opener: u8,
    acceptor: u8,
) -> (Side, Side) {
    let (budget, now) = (Budget::new(256 << 20), Instant::now());
    let [a, b] = [opener, acceptor].map(|n| key(n).public());
    let ends = Ends { mesh: world.mesh, stream: StreamId([id; 16]), opener: a, acceptor: b };
    let (one, open) =
        Stream::open(Secret::new([id; 32]), "test", ends, &windows, &budget, now).unwrap();
    let two = Stream::accept(&open, ends, Fresh([8; 32]), &windows, &budget, now).unwrap();
    let side = |stream, from, to| {
        let live = Live::start(stream);
        let (read, write) = live.halves().unwrap();
        Side { live, way: Way { from, to }, read, write }
    };
    (side(one, a, b), side(two, b, a))
}

fn bytes(len: usize, seed: u8) -> Vec<u8> {
    let mut x = u32::from(seed) + 1;
    let step = |_| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        x.to_be_bytes()[0]
    };
    (0..len).map(step).collect()
}

/// Sends `len` bytes and the end; what they were.
pub(super) fn send(mut write: WriteHalf, len: usize, seed: u8) -> JoinHandle<Hash> {
    tokio::spawn(async move {
        let all = bytes(len, seed);
        for part in all.chunks(64 << 10) {
            write.write_all(part).await.unwrap();
        }
        write.shutdown().await.unwrap();
        Hash::of(&all)
    })
}

/// Reads up to the end.
pub(super) fn receive(mut read: ReadHalf) -> JoinHandle<Hash> {
    tokio::spawn(async move {
        let mut all = Vec::new();
        read.read_to_end(&mut all).await.unwrap();
        Hash::of(&all)
    })
}

pub(super) async fn gauge(world: &World, name: &str) -> u64 {
    let text = world.metrics().await;
    let line =
        text.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn bytes_go_both_ways_and_messages_beside_them() {
    let world = World::new().await;
    let (ana, _ana_events) = connect(&world, 1).await;
    world.admit(&ana, 2).await;
    let (bob, mut bob_events) = connect(&world, 2).await;
    let (a, b) = stream(&world, 1, 1, 2);
    let _carried = (a.carry(&ana), b.carry(&bob));
    let sent = [send(a.write, 5 * MIB, 1), send(b.write, 3 * MIB, 2)];
    let got = [receive(b.read), receive(a.read)];
    for id in 1..=3 {
        ana.send(world.letter(1, 2, id)).await.unwrap().await.unwrap();
        next_envelope(&mut bob_events).await;
    }
    for (sent, got) in sent.into_iter().zip(got) {
        assert_eq!(sent.await.unwrap(), got.await.unwrap());
    }
    a.live.over().await;
    b.live.over().await;
    assert_eq!(gauge(&world, "broker_stream_bytes_queued ").await, 0);
    assert_eq!(gauge(&world, "broker_streams_waiting ").await, 0);
    let relayed = gauge(&world, "broker_relayed_bytes_total{cause=\"stream\"}").await;
    assert!((8 * MIB as u64..9 * MIB as u64).contains(&relayed), "{relayed}");
    assert!(gauge(&world, "broker_relayed_bytes_total{cause=\"message\"}").await > 0);
    for cause in ["window", "memory", "ended", "offline", "away", "unable", "forbidden"] {
        let name = format!("broker_stream_records_dropped_total{{cause=\"{cause}\"}}");
        assert_eq!(gauge(&world, &name).await, 0, "{cause}");
    }
}

#[tokio::test(start_paused = true)]
async fn many_streams_of_one_pair_all_arrive_and_do_not_mix() {
    let world = World::new().await;
    let (ana, _ana_events) = connect(&world, 1).await;
    world.admit(&ana, 2).await;
    let (bob, _bob_events) = connect(&world, 2).await;
    let mut streams = Vec::new();
    for id in 1..=60 {
        let (a, b) = stream(&world, id, 1, 2);
        let carried = (a.carry(&ana), b.carry(&bob));
        streams.push((send(a.write, MIB / 2, id), receive(b.read), carried, a.read, b.write));
    }
    for (sent, got, ..) in &mut streams {
        assert_eq!(sent.await.unwrap(), got.await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn streams_of_one_pair_share_it_by_bytes() {
    const STREAMS: u8 = 200;
    let world = World::new().await;
    let (ana, _ana_events) = connect(&world, 1).await;
    world.admit(&ana, 2).await;
    let (bob, _bob_events) = connect(&world, 2).await;
    let mut sides = Vec::new();
    for id in 0..STREAMS {
        let (a, b) = stream(&world, id, 1, 2);
        let carried = (a.carry(&ana), b.carry(&bob));
        a.live.accepted().await.unwrap();
        sides.push((a, b, carried));
    }
    let got: Arc<Vec<AtomicUsize>> = Arc::new((0..STREAMS).map(|_| AtomicUsize::new(0)).collect());
    let (mut reading, mut kept) = (JoinSet::new(), Vec::new());
    for (n, (a, b, carried)) in sides.into_iter().enumerate() {
        let (mut read, got) = (b.read, got.clone());
        reading.spawn(async move {
            while let Some(bytes) = read.chunk(1 << 20).await.unwrap() {
                got[n].fetch_add(bytes.len(), Ordering::Relaxed);
            }
        });
        kept.push((send(a.write, MIB, 1), a.read, b.write, carried));
    }
    reading.join_next().await.unwrap().unwrap();
    let least = got.iter().map(|n| n.load(Ordering::Relaxed)).min().unwrap();
    assert!(least >= MIB / 2, "one has {least} bytes when the first has all");
    while let Some(done) = reading.join_next().await {
        done.unwrap();
    }
}

/// A connection of key `n` that says only what it is told to.
pub(super) async fn raw(world: &World, n: u8) -> WebSocketStream<BoxStream> {
    world.raw_with(n, STREAMS).await
}

pub(super) fn record(way: Way, stream: u8, number: u64, len: usize) -> Message {
    let (kind, suite) = (Kind::Chunk { last: false }, Suite::Aes256Gcm);
    let header = Header { kind, suite, stream: StreamId([stream; 16]), number };
    let mut out = [&front(&way)[..], &header.encode()].concat();
    out.resize(FRONT + len, 0xee);
    Message::binary(out)
}

pub(super) fn way(from: u8, to: u8) -> Way {
    Way { from: key(from).public(), to: key(to).public() }
}

/// What a raw connection is told of its streams until nothing comes for a second; errors' codes; the close code.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) credit: HashMap<(StreamId, PublicKey), u64>,
    pub(super) gone: Vec<(StreamId, Gone)>,
    pub(super) records: Vec<Vec<u8>>,
    pub(super) unknown: usize,
    pub(super) errors: Vec<String>,
    pub(super) closed: Option<u16>,
}

pub(super) async fn listen(ws: &mut WebSocketStream<BoxStream>) -> Told {
    let mut told = Told::default();
    while let Ok(Some(Ok(message))) = timeout(Duration::from_secs(1), ws.next()).await {
        match message {
            Message::Binary(bytes) if is_carry(&bytes) => match Carry::parse(&bytes).unwrap() {
                Carry::Credit { stream, to, bytes } => {
                    *told.credit.entry((stream, to)).or_default() += bytes;
                }
                Carry::Gone { stream, reason, .. } => told.gone.push((stream, reason)),
                Carry::Record { .. } => told.records.push(bytes.to_vec()),
                _ => told.unknown += 1,
            },
            Message::Binary(bytes) => {
                if let Frame::Error(e) = Frame::decode(Encoding::MsgPack, &bytes).unwrap() {
                    told.errors.push(e.code);
                }
            }
            Message::Close(frame) => told.closed = frame.map(|f| f.code.into()),
            _ => {}
        }
    }
    told
}

#[tokio::test(start_paused = true)]
async fn records_go_only_from_whom_they_say_to_whom_can_read_them() {
    let world = World::new().await;
    let (ana, _ana_events) = connect(&world, 1).await;
    for n in [2, 3, 4] {
        world.admit(&ana, n).await;
    }
    let mut mallory = raw(&world, 2).await;
    let mut bob = raw(&world, 3).await;
    let (_old, _old_events) = world.connect(4).await;
    listen(&mut bob).await;
    let id = |n| StreamId([n; 16]);
    let tries = [
        (record(way(1, 3), 1, 0, 100), id(1), Gone::Forbidden),
        (record(way(9, 3), 2, 0, 101), id(2), Gone::Forbidden),
        (record(way(2, 4), 3, 0, 102), id(3), Gone::Unable),
        (record(way(2, 99), 4, 0, 103), id(4), Gone::Offline),
    ];
    for (message, stream, reason) in tries {
        let len = u64::try_from(message.len() - FRONT).unwrap();
        mallory.send(message).await.unwrap();
        let told = listen(&mut mallory).await;
        assert_eq!(told.gone, [(stream, reason)]);
        assert_eq!(told.credit.values().sum::<u64>(), len, "what is dropped comes back");
    }
    let good = record(way(2, 3), 5, 0, 200);
    mallory.send(good.clone()).await.unwrap();
    assert_eq!(listen(&mut mallory).await.credit[&(id(5), key(3).public())], 200);
    let told = listen(&mut bob).await;
    assert_eq!(told.records, [good.into_data().to_vec()], "the very bytes, and no others");
    // Bob does not know the stream, and says so; in another's name he cannot.
    for from in [1, 3] {
        let unknown = Carry::Unknown { way: way(from, 2), stream: id(5) };
        bob.send(Message::binary(unknown.encode())).await.unwrap();
    }
    assert_eq!(listen(&mut mallory).await.unknown, 1);
    // She goes: her presence goes on for a while.
    drop(mallory);
    sleep(Duration::from_secs(1)).await;
    bob.send(record(way(3, 2), 6, 0, 44)).await.unwrap();
    assert_eq!(listen(&mut bob).await.gone, [(id(6), Gone::Away)]);
}

#[tokio::test(start_paused = true)]
async fn garbage_is_answered_and_then_closes_the_connection() {
    let world = World::new().await;
    let (_ana, _ana_events) = connect(&world, 1).await;
    let mut garbage: Vec<Vec<u8>> = (0..16_u8).map(|kind| vec![kind; 70]).collect();
    garbage
        .push(Carry::Credit { stream: StreamId([1; 16]), to: key(1).public(), bytes: 9 }.encode());
    let long = record(way(1, 1), 1, 0, 32_769).into_data().to_vec();
    garbage.push(long);
    garbage.push(record(way(1, 1), 1, 0, 43).into_data().to_vec());
    let mut ws = raw(&world, 1).await;
    let count = garbage.len();
    for message in garbage.iter().cloned() {
        ws.send(Message::binary(message)).await.unwrap();
    }
    let told = listen(&mut ws).await;
    assert_eq!(told.errors, vec![code::MALFORMED; count]);
    assert_eq!((told.closed, told.gone.len(), told.records.len()), (None, 0, 0));
    for message in garbage {
        let _ = ws.send(Message::binary(message)).await;
    }
    assert_eq!(listen(&mut ws).await.closed, Some(close::REFUSED));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_stops_its_own_stream_and_the_broker_holds_a_window() {
    let world = World::new().await;
    let (ana, _ana_events) = connect(&world, 1).await;
    world.admit(&ana, 2).await;
    world.admit(&ana, 3).await;
    let wire = world.wire();
    let (bob, _bob_events) = world.connect_as(2, wire.clone(), STREAMS).await;
    let (cleo, mut cleo_events) = connect(&world, 3).await;
    let (a1, b) = stream(&world, 1, 1, 2);
    let (a2, c) = stream(&world, 2, 1, 3);
    let carried = [a1.carry(&ana), b.carry(&bob), a2.carry(&ana), c.carry(&cleo)];
    // The first state of each side, so that chunks may go.
    a1.live.accepted().await.unwrap();
    wire.freeze();
    let slow = send(a1.write, 6 * MIB, 1);
    let fast = send(a2.write, 20 * MIB, 2);
    let all = receive(c.read).await.unwrap();
    assert_eq!(fast.await.unwrap(), all, "cleo's goes on");
    ana.send(world.letter(1, 3, 1)).await.unwrap().await.unwrap();
    next_envelope(&mut cleo_events).await;
    let queued = gauge(&world, "broker_stream_bytes_queued ").await;
    assert!((1..=STREAM_WINDOW).contains(&queued), "{queued}");
    assert_eq!(gauge(&world, "broker_streams_waiting ").await, 1);
    assert!(!slow.is_finished());
    sleep(Duration::from_secs(20)).await;
    assert!(gauge(&world, "broker_stream_bytes_queued ").await <= STREAM_WINDOW);
    wire.thaw();
    assert_eq!(receive(b.read).await.unwrap(), slow.await.unwrap());
    let dropped = "broker_stream_records_dropped_total{cause=\"window\"}";
    assert_eq!(gauge(&world, dropped).await, 0, "a node keeps to its windows");
    drop(carried);
}

#[tokio::test(start_paused = true)]
async fn who_sends_more_than_the_window_loses_it_and_is_told() {
    let world = World::new().await;
    let (ana, _ana_events) = connect(&world, 1).await;
    world.admit(&ana, 2).await;
    world.admit(&ana, 3).await;
    let mut mallory = raw(&world, 2).await;
    // Reads nothing of all this.
    let mut bob = raw(&world, 3).await;
    let (len, count) = (32_768, 300_u64);
    for number in 0..count {
        mallory.send(record(way(2, 3), 1, number, len)).await.unwrap();
    }
    let told = listen(&mut mallory).await;
    let queued = gauge(&world, "broker_stream_bytes_queued ").await;
    assert!((1..=PAIR_WINDOW).contains(&queued), "{queued}");
    let sent = count * u64::try_from(len).unwrap();
    let back = |told: &Told| told.credit.values().sum::<u64>();
    assert_eq!(back(&told) + queued, sent);
    assert!(gauge(&world, "broker_stream_records_dropped_total{cause=\"window\"}").await > 100);
    // What was taken comes, in order, and its credit with it.
    let got = listen(&mut bob).await;
    let number = |m: &Vec<u8>| match Carry::parse(m).unwrap() {
        Carry::Record { header, .. } => header.number,
        other => panic!("{other:?}"),
    };
    let numbers: Vec<u64> = got.records.iter().map(number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    assert_eq!(back(&told) + back(&listen(&mut mallory).await), sent);
    // What waits for a socket that ends comes back, too.
    for number in 0..count {
        mallory.send(record(way(2, 3), 1, count + number, len)).await.unwrap();
    }
    drop(bob);
    assert_eq!(back(&listen(&mut mallory).await), sent);
    assert_eq!(gauge(&world, "broker_stream_bytes_queued ").await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_when_its_reader_comes_back() {
    let world = World::new().await;
    let (ana, _ana_events) = connect(&world, 1).await;
    world.admit(&ana, 2).await;
    let wire = world.wire();
    let (bob, mut bob_events) = world.connect_as(2, wire.clone(), STREAMS).await;
    let (a, b) = stream(&world, 1, 1, 2);
    let _carried = (a.carry(&ana), b.carry(&bob));
    let sent = send(a.write, 8 * MIB, 1);
    let mut read = b.read;
    let mut first = vec![0; 2 * MIB];
    read.read_exact(&mut first).await.unwrap();
    // What is on its way to him is lost with the connection.
    wire.freeze();
    sleep(Duration::from_secs(2)).await;
    bob.doubt();
    sleep(Duration::from_secs(5)).await;
    wire.thaw();
    let mut rest = Vec::new();
    read.read_to_end(&mut rest).await.unwrap();
    assert_eq!(Hash::of(&[first, rest].concat()), sent.await.unwrap());
    let mut downs = 0;
    while let Ok(event) = bob_events.try_recv() {
        downs += u32::from(matches!(event, meshwire_transport::link::LinkEvent::Down { .. }));
    }
    assert_eq!(downs, 1);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_for_its_credit_gets_no_more_through() {
    let world = World::with(|policy| policy.stream_rate = MIB as u64).await;
    let (ana, _ana_events) = connect(&world, 1).await;
    world.admit(&ana, 2).await;
    world.admit(&ana, 3).await;
    let mut mallory = raw(&world, 2).await;
    let mut bob = raw(&world, 3).await;
    let reading = tokio::spawn(async move { while let Some(Ok(_)) = bob.next().await {} });
    let start = Instant::now();
    for number in 0..640 {
        mallory.send(record(way(2, 3), 1, number, 32_768)).await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    let took = start.elapsed().as_secs_f64();
    assert!(took < 5.0, "{took}");
    let through = gauge(&world, "broker_relayed_bytes_total{cause=\"stream\"}").await;
    // What she was told of in the first second, and a window.
    assert!((MIB as u64..PAIR_WINDOW + 2 * MIB as u64).contains(&through), "{through} of 20 MiB");
    reading.abort();
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_when_the_broker_comes_back() {
    let mut world = World::new().await;
    let (ana, _ana_events) = connect(&world, 1).await;
    world.admit(&ana, 2).await;
    let (bob, _bob_events) = connect(&world, 2).await;
    let (a, b) = stream(&world, 1, 1, 2);
    let _carried = (a.carry(&ana), b.carry(&bob));
    let sent = [send(a.write, 8 * MIB, 1), send(b.write, 8 * MIB, 2)];
    let (mut read, back) = (b.read, receive(a.read));
    let mut first = vec![0; 2 * MIB];
    read.read_exact(&mut first).await.unwrap();
    world.restart().await;
    let mut rest = Vec::new();
    read.read_to_end(&mut rest).await.unwrap();
    let [there, here] = sent;
    assert_eq!(Hash::of(&[first, rest].concat()), there.await.unwrap());
    assert_eq!(back.await.unwrap(), here.await.unwrap());
    let relayed = gauge(&world, "broker_relayed_bytes_total{cause=\"stream\"}").await;
    assert!(relayed > 8 * MIB as u64, "the second broker carried {relayed}");
}

#[tokio::test(start_paused = true)]
async fn the_memory_for_records_is_bounded_over_all_streams_and_shared() {
    const MEMORY: u64 = 1 << 20;
    let world = World::with(|policy| policy.stream_memory = MEMORY).await;
    let (ana, _ana_events) = connect(&world, 1).await;
    for n in [2, 3, 4] {
        world.admit(&ana, n).await;
    }
    let mut mallory = raw(&world, 2).await;
    let _deaf = (raw(&world, 3).await, raw(&world, 4).await);
    for number in 0..100 {
        for (stream, to) in [(1, 3), (2, 3), (3, 4)] {
            mallory.send(record(way(2, to), stream, number, 32_768)).await.unwrap();
            mallory.send(record(way(2, to), stream, 1_000 + number, 44)).await.unwrap();
        }
    }
    let told = listen(&mut mallory).await;
    let queued = gauge(&world, "broker_stream_bytes_queued ").await;
    assert!((1..=MEMORY / 8).contains(&queued), "{queued}");
    assert!(gauge(&world, "broker_stream_records_dropped_total{cause=\"memory\"}").await > 100);
    assert_eq!(told.credit.values().sum::<u64>() + queued, 300 * (32_768 + 44));
    // Another member still has room.
    let (cleo, _cleo_events) = connect(&world, 1).await;
    world.admit(&cleo, 5).await;
    let (dan, _dan_events) = connect(&world, 5).await;
    let (a, b) = stream(&world, 1, 1, 5);
    let _carried = (a.carry(&cleo), b.carry(&dan));
    let sent = send(a.write, MIB, 1);
    assert_eq!(receive(b.read).await.unwrap(), sent.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_a_socket_that_ended_has_sent_still_goes_on() {
    let world = World::new().await;
    let (ana, _ana_events) = connect(&world, 1).await;
    world.admit(&ana, 2).await;
    world.admit(&ana, 3).await;
    let mut bob = raw(&world, 3).await;
    let mut cleo = raw(&world, 2).await;
    for number in 0..20 {
        cleo.send(record(way(2, 3), 1, number, 30_000)).await.unwrap();
    }
    listen(&mut cleo).await;
    drop(cleo);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(listen(&mut bob).await.records.len(), 20);
    assert_eq!(gauge(&world, "broker_stream_bytes_queued ").await, 0);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_there_or_cannot_do_streams_ends_them_soon() {
    let world = World::new().await;
    let (ana, _ana_events) = connect(&world, 1).await;
    world.admit(&ana, 2).await;
    world.admit(&ana, 3).await;
    let (_old, _old_events) = world.connect(3).await;
    for to in [2, 3] {
        // The acceptor may speak at once: nothing has come back from whoever opened.
        let (_, b) = stream(&world, to, to, 1);
        let _carried = b.carry(&ana);
        let start = Instant::now();
        assert!(receive_error(b.read).await, "an error, not an end");
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    }
}

async fn receive_error(mut read: ReadHalf) -> bool {
    read.read_to_end(&mut Vec::new()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_the_other_side_does_not_know_ends_soon() {
    let world = World::new().await;
    let (ana, _ana_events) = connect(&world, 1).await;
    world.admit(&ana, 2).await;
    let (_bob, _bob_events) = connect(&world, 2).await;
    let (_, b) = stream(&world, 1, 2, 1);
    let _carried = b.carry(&ana);
    let start = Instant::now();
    assert!(receive_error(b.read).await);
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_too_fast_waits_for_its_credit() {
    let world = World::with(|policy| policy.stream_rate = MIB as u64).await;
    let (ana, _ana_events) = connect(&world, 1).await;
    world.admit(&ana, 2).await;
    let (bob, _bob_events) = connect(&world, 2).await;
    let (a, b) = stream(&world, 1, 1, 2);
    let _carried = (a.carry(&ana), b.carry(&bob));
    let start = Instant::now();
    let sent = send(a.write, 12 * MIB, 1);
    assert_eq!(receive(b.read).await.unwrap(), sent.await.unwrap());
    // A second's worth at once, and what the window lets ahead.
    let took = start.elapsed().as_secs_f64();
    assert!((9.0..13.0).contains(&took), "{took}");
}
