//! Ten nodes write to each other while each one's connection is cut a hundred times within a minute:
//! everything arrives, once and in order.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in their helpers

mod proto;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use meshwire::{DirectPaths, Event, Home, Net, Node, OsNet, api};
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::invite::InviteLink;
use meshwire_signaling::{EnvelopeId, Priority};
use meshwire_transport::net::{BoxStream, Listener};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use tokio::sync::broadcast::Receiver;
use tokio::time::{Instant, sleep, sleep_until};

use proto::http::get;
use proto::{Cutter, World, stop, up};

/// Nodes that write to each other.
const NODES: usize = 10;
/// Cuts of each one's connection, each followed by its return.
const CYCLES: u32 = 100;
/// Time for all of that.
const MINUTE: Duration = Duration::from_secs(60);
/// From one cut of a connection to the next, on average: all fit into the minute with room for a
/// slow return here and there.
const BETWEEN: Duration = Duration::from_millis(560);
/// From one message of a node to its next, on average.
const PAUSE: Duration = Duration::from_millis(200);
/// How long everything may take to arrive once nobody is cut any more.
const SETTLE: Duration = Duration::from_secs(60);

/// The operating system's network for nodes whose first wait is at most half a second: the usual
/// second, drawn evenly, makes a hundred waits of 50 s, which is nearly all the time there is.
#[derive(Debug)]
struct Impatient;

#[async_trait]
impl Net for Impatient {
    fn unix_ms(&self) -> u64 {
        OsNet.unix_ms()
    }
    fn fill(&self, buf: &mut [u8]) {
        OsNet.fill(buf);
        // Draws of 64 bits are for jitter and nothing else; most significant byte first.
        if let [most, _, _, _, _, _, _, _] = buf {
            *most >>= 1;
        }
    }
    async fn tcp_connect(&self, host: &str, port: u16) -> io::Result<BoxStream> {
        OsNet.tcp_connect(host, port).await
    }
    async fn tcp_bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>> {
        OsNet.tcp_bind(addr).await
    }
}

/// One random stream of a run.
struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.0.next_u64() % n as u64).unwrap()
    }

    /// From nothing to twice `mean`.
    fn around(&mut self, mean: Duration) -> Duration {
        let ms = usize::try_from(mean.as_millis()).unwrap();
        Duration::from_millis(self.below(2 * ms) as u64)
    }
}

/// A node behind a cutter of its own.
struct Peer {
    name: String,
    cutter: Cutter,
    node: Node,
}

impl Peer {
    async fn join(world: &World, n: usize) -> Self {
        let name = format!("peer-{n}");
        let cutter = Cutter::start(world.broker.addr()).await;
        let home = Home::open(&world.home(&name)).unwrap();
        let lock = home.try_lock().unwrap().unwrap();
        let node =
            Node::open(Arc::new(Impatient), &home, lock, DirectPaths::default()).await.unwrap();
        let link = InviteLink { base: cutter.base.clone(), ..world.link.clone() };
        let join = api::Join { invite: link.to_string(), member_name: name.clone() };
        node.join(join).await.unwrap();
        Self { name, cutter, node }
    }

    /// Cuts the connection at random moments, each time once it is back; how often it came back, and
    /// when it had for the last time.
    async fn churn(&self, mut dice: Dice, start: Instant) -> (u32, Duration) {
        let mut events = self.node.events();
        let mut cycles = 0;
        while cycles < CYCLES {
            let due = start + BETWEEN * cycles + dice.around(BETWEEN / 2);
            // Where the last return took long, at once: in the middle of what follows a hello.
            sleep_until(due).await;
            self.cutter.cut(true);
            link_is(&mut events, false).await;
            link_is(&mut events, true).await;
            cycles += 1;
        }
        (cycles, start.elapsed())
    }

    /// Writes to the others until it is over; what was sent, in order.
    async fn write(&self, mut dice: Dice, me: usize, over: &AtomicBool) -> Vec<Sent> {
        let mut all: Vec<Sent> = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let to = (me + 1 + dice.below(NODES - 1)) % NODES;
            let priority = Priority::ALL[dice.below(3)];
            let number = all.iter().filter(|s| s.to == to && s.priority == priority).count();
            let ask = api::Send {
                mesh: None,
                to: format!("peer-{to}"),
                message: number.to_string(),
                priority,
                reply_to: None,
                idempotency_key: None,
                ttl_ms: None,
                wait: None,
                timeout_ms: None,
            };
            let id = self.node.send(ask).await.unwrap().id;
            all.push(Sent { to, priority, id });
            sleep(dice.around(PAUSE)).await;
        }
        all
    }

    /// Waits until each of these is delivered, by its recipient's receipt.
    async fn delivered(&self, sent: &[Sent], until: Instant) {
        for Sent { id, .. } in sent {
            loop {
                let ask = api::MessageStatus { id: id.to_string() };
                let message = self.node.message(ask).await.unwrap();
                match message.state {
                    MessageState::Delivered => break,
                    MessageState::Queued | MessageState::Relayed | MessageState::Sent => {}
                    _ => panic!("{}: {message:?}", self.name),
                }
                assert!(Instant::now() < until, "{}: lost? {message:?}", self.name);
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Everything in the inbox in the order of surfacing: per sender and priority, the texts.
    async fn received(&self) -> BTreeMap<(String, Priority), Vec<String>> {
        let mut got: BTreeMap<_, Vec<String>> = BTreeMap::new();
        let mut after = 0;
        loop {
            let ask = api::Inbox { after: Some(after), limit: Some(500), ..Default::default() };
            let rows = self.node.inbox(ask).await.unwrap();
            let Some(last) = rows.last() else { return got };
            after = last.order;
            for row in rows {
                got.entry((row.from, row.priority)).or_default().push(row.message);
            }
        }
    }
}

/// A message on its way; its text is its number among those of its sender, recipient and priority.
struct Sent {
    to: usize,
    priority: Priority,
    id: EnvelopeId,
}

/// The value of one of the broker's series.
async fn metric(world: &World, name: &str) -> usize {
    let body = get(world.broker.addr(), "/metrics").await.body;
    let value = body.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {body}")).parse().unwrap()
}

/// Waits until the link has come up or gone down.
async fn link_is(events: &mut Receiver<Event>, now: bool) {
    proto::until(events, |e| matches!(e, Event::Link { up, .. } if *up == now).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reconnects_of_each_of_ten_peers_lose_double_and_reorder_nothing() {
    let seed = std::env::var("MESHWIRE_TEST_SEED").ok();
    let seed: u64 = seed.map_or(0x0063_6875_726e, |seed| seed.parse().unwrap());
    // Shown when the test fails.
    println!("replay with MESHWIRE_TEST_SEED={seed}");
    let mut streams = ChaCha8Rng::seed_from_u64(seed);
    let mut dice = || Dice(ChaCha8Rng::seed_from_u64(streams.next_u64()));

    let world = World::start().await;
    let peers: Vec<Peer> = join_all((0..NODES).map(|n| Peer::join(&world, n))).await;
    for peer in &peers {
        up(&peer.node).await;
    }

    let over = AtomicBool::new(false);
    let start = Instant::now();
    let writing = join_all(peers.iter().enumerate().map(|(n, p)| p.write(dice(), n, &over)));
    let cutting = async {
        let cycles = join_all(peers.iter().map(|p| p.churn(dice(), start))).await;
        over.store(true, Ordering::Relaxed);
        cycles
    };
    let (sent, cycles) = tokio::join!(writing, cutting);
    let last = cycles.iter().map(|(_, took)| *took).max().unwrap();
    let total: usize = sent.iter().map(Vec::len).sum();
    println!("{total} messages; the last of {NODES} times {CYCLES} returns came after {last:?}");
    for (cycles, took) in &cycles {
        assert!(*cycles >= CYCLES && *took <= MINUTE, "{cycles} cycles in {took:?}");
    }

    let settling = Instant::now();
    let all = peers.iter().zip(&sent).map(|(p, sent)| p.delivered(sent, settling + SETTLE));
    join_all(all).await;
    println!("all delivered {:?} later", settling.elapsed());

    // The cuts did hurt: envelopes were under way on connections that ended.
    let hellos = metric(&world, "broker_connections_total").await;
    let again = metric(&world, "broker_messages_redelivered_total").await;
    let doubled = metric(&world, "broker_messages_duplicate_total").await;
    println!("{hellos} hellos, {again} pushed again, {doubled} handed in again");
    assert!(hellos >= NODES * CYCLES as usize && again + doubled > 0);

    let mut expected: HashMap<usize, BTreeMap<_, Vec<String>>> = HashMap::new();
    for (peer, sent) in peers.iter().zip(&sent) {
        for Sent { to, priority, .. } in sent {
            let to = expected.entry(*to).or_default();
            let texts = to.entry((peer.name.clone(), *priority)).or_default();
            texts.push(texts.len().to_string());
        }
    }
    for (n, peer) in peers.iter().enumerate() {
        let mut got = peer.received().await;
        for (from, texts) in expected.remove(&n).unwrap_or_default() {
            let got = got.remove(&from).unwrap_or_default();
            assert_eq!(got, texts, "{} from {from:?}: all, once and in order", peer.name);
        }
        assert!(got.is_empty(), "{}: from nobody: {got:?}", peer.name);
    }
    for peer in peers {
        stop(peer.node).await;
    }
}
