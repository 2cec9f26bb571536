//! Streams on the broker's socket.

use meshwire_signaling::frame::feature;
use meshwire_signaling::stream::carry::{Carry, FRONT, Gone, STREAM_WINDOW, Way, front};
use meshwire_signaling::stream::{Ends, Fresh, Header, Kind, Secret, Suite};
use meshwire_signaling::{Priority, StreamId};
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::*;
use crate::stream::{Budget, Live, Stream, Windows, WriteHalf};

const PEER: PublicKey = PublicKey([7; 32]);
const STREAM: StreamId = StreamId([5; 16]);

fn features(names: &[&str]) -> Features {
    names.iter().map(|f| ((*f).to_owned(), Default::default())).collect()
}

/// A link of a node that can do streams, and a broker that can what it names.
async fn up(broker_can: &[&str]) -> (Bench, Broker) {
    up_in(Encoding::MsgPack, broker_can).await
}

async fn up_in(encoding: Encoding, broker_can: &[&str]) -> (Bench, Broker) {
    let mut bench = Bench::with(encoding, |config| {
        config.features = features(&[feature::STREAMS]);
    });
    let mut broker = bench.accept().await;
    broker.challenge(&broker_key()).await;
    let (hello, _) = broker.hello().await;
    broker.ack_with(hello, Limits::default(), features(broker_can)).await;
    assert!(matches!(bench.event().await, LinkEvent::Up(Some(_))));
    (bench, broker)
}

/// An acceptor that may send `limit` bytes of records.
fn acceptor(limit: u64) -> Live {
    acceptor_of(STREAM, limit)
}

fn acceptor_of(stream: StreamId, limit: u64) -> Live {
    let (windows, now) = (Windows::default(), Instant::now());
    let budget = Budget::new(1 << 30);
    let acceptor = member().public();
    let ends = Ends { mesh: MeshId([3; 32]), stream, opener: PEER, acceptor };
    let secret = Secret::new([6; 32]);
    let (_, mut open) = Stream::open(secret, "test", ends, &windows, &budget, now).unwrap();
    open.limit = limit;
    Live::start(Stream::accept(&open, ends, Fresh([8; 32]), &windows, &budget, now).unwrap())
}

fn carry(bench: &Bench, live: &Live) -> Carried {
    bench.link.carry(live.clone(), member().public(), PEER)
}

async fn write_all(mut write: WriteHalf, bytes: usize) {
    // It fails when the test is over.
    let _ = write.write_all(&vec![7; bytes]).await;
}

/// As [`write_all`], and stays.
async fn keep_writing(mut write: WriteHalf, bytes: usize) {
    let _ = write.write_all(&vec![7; bytes]).await;
    std::future::pending().await
}

impl Broker {
    /// The binary messages that come until nothing but pings does for so long that only probes are apart as far.
    async fn binaries(&mut self) -> Vec<Bytes> {
        let mut got = Vec::new();
        let wait = Duration::from_millis(1_500);
        while let Ok(Some(Ok(message))) = timeout(wait, self.ws.next()).await {
            if let Message::Binary(bytes) = message {
                got.push(bytes);
            }
        }
        got
    }

    async fn say(&mut self, bytes: Vec<u8>) {
        self.ws.send(Message::binary(bytes)).await.unwrap();
    }
}

/// Bytes of the records among `messages`, which are all of the one stream.
fn records(messages: &[Bytes]) -> u64 {
    let mut sum = 0;
    for message in messages {
        let carry = Carry::parse(message).unwrap();
        let Carry::Record { way, header } = carry else { panic!("{carry:?}") };
        assert_eq!((way, header.stream), (Way { from: member().public(), to: PEER }, STREAM));
        sum += u64::try_from(message.len() - FRONT).unwrap();
    }
    sum
}

#[tokio::test(start_paused = true)]
async fn an_older_broker_hears_nothing_of_streams() {
    let (bench, mut broker) = up(&[feature::P2P]).await;
    let live = acceptor(1 << 20);
    let _carried = carry(&bench, &live);
    assert_eq!(live.best_link(), None);
    assert_eq!(broker.binaries().await, Vec::<Bytes>::new());
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_cannot_do_streams_and_sends_one_is_given_up() {
    let (mut bench, mut broker) = up(&[]).await;
    broker.say(Carry::Gone { stream: STREAM, to: PEER, reason: Gone::Offline }.encode()).await;
    let (reason, ..) = bench.down().await;
    assert!(reason.contains("no frame"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn records_are_binary_beside_frames_in_json() {
    let (bench, mut broker) = up_in(Encoding::Json, &[feature::STREAMS]).await;
    let live = acceptor(0);
    let _carried = carry(&bench, &live);
    let first = timeout(Duration::from_secs(1), broker.ws.next()).await.unwrap().unwrap();
    let Ok(Message::Binary(bytes)) = first else { panic!("{first:?}") };
    assert!(records(&[bytes]) > 0);
    broker.say(Carry::Gone { stream: STREAM, to: PEER, reason: Gone::Away }.encode()).await;
    bench.link.tell(Bye {}.into()).await.unwrap();
    assert!(matches!(broker.next().await, Frame::Bye(_)));
    assert!(bench.link.is_up());
}

#[tokio::test(start_paused = true)]
async fn a_node_keeps_to_its_window_and_frames_pass_it() {
    let (bench, mut broker) = up(&[feature::STREAMS]).await;
    let live = acceptor(u64::MAX);
    let carried = carry(&bench, &live);
    let (_read, write) = live.halves().unwrap();
    let writing = tokio::spawn(write_all(write, 8 << 20));
    let mut sent = records(&broker.binaries().await);
    // A state goes though the window is full.
    let most = STREAM_WINDOW + 1_000;
    assert!((STREAM_WINDOW - 32_768..=most).contains(&sent), "{sent}");
    // Another link's frames go on meanwhile.
    let sending = bench.link.send(envelope(1)).await.unwrap();
    let (req, _) = broker.sent().await;
    broker.send(accepted(req)).await;
    assert!(sending.await.is_ok());
    // What comes back is sent again, whatever a broker makes of numbers.
    let give = |stream, bytes| Carry::Credit { stream, to: PEER, bytes }.encode();
    broker.say(give(StreamId([1; 16]), u64::MAX)).await;
    assert!(records(&broker.binaries().await) < 1_000, "a probe");
    broker.say(give(STREAM, 500_000)).await;
    let more = records(&broker.binaries().await);
    assert!((400_000..=550_000).contains(&more), "{more}");
    broker.say(give(STREAM, u64::MAX)).await;
    sent = records(&broker.binaries().await);
    assert!((STREAM_WINDOW - 40_000..=most).contains(&sent), "{sent}");
    // Off the link, it says no more.
    drop(carried);
    broker.say(give(STREAM, u64::MAX)).await;
    assert_eq!(broker.binaries().await.len(), 0);
    writing.abort();
}

/// An urgent stream comes when another one has everything to itself. By what came, not by when it did.
#[tokio::test(start_paused = true)]
async fn the_urgent_pass_what_is_of_low_priority() {
    const BULK: usize = 16 << 20;
    const URGENT: usize = 2 << 20;
    // Which of both the late one is, and whether it passes the other.
    for (early, late, passes) in [
        (Priority::Low, Priority::Now, true),
        (Priority::Low, Priority::Next, true),
        (Priority::Next, Priority::Next, false),
    ] {
        let (bench, mut broker) = up(&[feature::STREAMS]).await;
        let lives = [STREAM, StreamId([9; 16])].map(|id| acceptor_of(id, u64::MAX));
        let [bulk, urgent] = &lives;
        let _carried = lives.each_ref().map(|live| carry(&bench, live));
        bulk.set_priority(early);
        let (_read, write) = bulk.halves().unwrap();
        let writing = tokio::spawn(keep_writing(write, BULK));
        let (_read, write) = urgent.halves().unwrap();
        let (mut write, mut got, mut before) = (Some(write), [0; 2], 0);
        while got[1] < URGENT {
            let Some(Ok(message)) = broker.ws.next().await else { panic!("lost: {got:?}") };
            let Message::Binary(bytes) = message else { continue };
            let Carry::Record { header, .. } = Carry::parse(&bytes).unwrap() else { continue };
            let len = bytes.len() - FRONT;
            got[usize::from(header.stream != STREAM)] += len;
            let bytes = u64::try_from(len).unwrap();
            broker.say(Carry::Credit { stream: header.stream, to: PEER, bytes }.encode()).await;
            if got[0] >= 2 << 20
                && let Some(write) = write.take()
            {
                before = got[0];
                // Not known to the link before: the bytes that come next are for the new priority.
                urgent.set_priority(late);
                tokio::spawn(keep_writing(write, URGENT));
            }
            assert!(got[0] < BULK / 2, "{early:?} {late:?}: {got:?}, {before}");
        }
        let meanwhile = got[0] - before;
        assert_eq!(meanwhile < URGENT / 4, passes, "{early:?} {late:?}: {got:?}, {before}");
        assert!(meanwhile > 0, "{early:?} {late:?}: {got:?}, {before}");
        writing.abort();
    }
}

/// Its connection is dead, and no packet says so: streams must not wait for 75 s.
#[tokio::test(start_paused = true)]
async fn a_broker_that_is_silent_about_records_is_pinged_soon_and_given_up() {
    let (mut bench, mut broker) = up(&[feature::STREAMS]).await;
    let live = acceptor(u64::MAX);
    let _carried = carry(&bench, &live);
    let start = Instant::now();
    // What answers the ping is enough, though nothing answers the record.
    while !matches!(broker.ws.next().await, Some(Ok(Message::Ping(_)))) {}
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    broker.ws.flush().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(bench.link.is_up());
    // From here on nothing is read, so that nothing is answered.
    let (reason, ..) = bench.down().await;
    assert!(reason.contains("records"), "{reason}");
    assert!(start.elapsed() <= Duration::from_secs(45), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_record_of_an_unknown_stream_is_answered_now_and_then() {
    let (bench, mut broker) = up(&[feature::STREAMS]).await;
    let record = |n: u8, from, to| {
        let kind = Kind::Chunk { last: false };
        let header = Header { kind, suite: Suite::Aes256Gcm, stream: StreamId([n; 16]), number: 0 };
        [&front(&Way { from, to })[..], &header.encode(), &[0; 16]].concat()
    };
    let own = member().public();
    for n in 0..200 {
        broker.say(record(n, PEER, own)).await;
        // Garbage changes nothing.
        broker.say(vec![n % 16, n, 3]).await;
    }
    let got = broker.binaries().await;
    assert!((1..=16).contains(&got.len()), "{}", got.len());
    for message in got {
        let Ok(Carry::Unknown { way, .. }) = Carry::parse(&message) else { panic!("{message:?}") };
        assert_eq!(way, Way { from: own, to: PEER });
    }
    // Of a stream that is known, but with another.
    let live = acceptor(0);
    let _carried = carry(&bench, &live);
    broker.binaries().await;
    let answers = async |broker: &mut Broker| {
        let mut got = broker.binaries().await;
        // The stream that was accepted goes on saying so.
        got.retain(|m| matches!(Carry::parse(m), Ok(Carry::Unknown { .. })));
        got.len()
    };
    broker.say(record(5, PublicKey([8; 32]), own)).await;
    assert_eq!(answers(&mut broker).await, 1);
    broker.say(record(5, PEER, own)).await;
    assert_eq!(answers(&mut broker).await, 0);
    assert_eq!(live.counters().forged, 1);
    assert!(bench.link.is_up());
}

#[tokio::test(start_paused = true)]
async fn who_is_gone_has_ten_seconds_and_who_is_away_has_sixty() {
    let gone = |reason| Carry::Gone { stream: STREAM, to: PEER, reason };
    let unknown = Carry::Unknown { way: Way { from: PEER, to: member().public() }, stream: STREAM };
    let words = [
        (gone(Gone::Offline), 10),
        (gone(Gone::Unable), 10),
        (unknown, 10),
        (gone(Gone::Away), 60),
        (gone(Gone::Forbidden), 60),
        (gone(Gone::Other(77)), 60),
    ];
    for (word, secs) in words {
        let (bench, mut broker) = up(&[feature::STREAMS]).await;
        let start = Instant::now();
        let live = acceptor(0);
        let _carried = carry(&bench, &live);
        broker.say(word.encode()).await;
        let reading = tokio::spawn(async move { while broker.ws.next().await.is_some() {} });
        let (mut read, _write) = live.halves().unwrap();
        assert!(read.chunk(1).await.is_err());
        let took = start.elapsed().as_secs();
        assert!((secs - 1..=secs + 1).contains(&took), "{word:?}: {took}");
        reading.abort();
    }
}
