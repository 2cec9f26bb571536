//! One stream through a broker: three processes, real sockets on loopback, without TLS. Prints MB/s, the broker's
//! memory, and how long small messages take meanwhile.
//!
//! ```text
//! cargo run --release -p meshwire-coord --example stream_relay [-- MEGABYTES STREAMS]
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints and may fail")]

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use meshwire_coord::{Broker, BrokerConfig, Database, Policy, Tls};
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::envelope::{
    Author, Channel, Content, Durability, Header, StateHead, Suite, Target, box_key_id,
};
use meshwire_signaling::frame::feature;
use meshwire_signaling::frame::http::{ClaimRequest, CreateMesh};
use meshwire_signaling::invite::{Capability, Claim, Genesis, Role, mesh_id};
use meshwire_signaling::receipt::{self, Receipt, Verdict};
use meshwire_signaling::seal::Pair;
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::stream::{Ends, Fresh, Secret};
use meshwire_signaling::{
    Envelope, EnvelopeId, Hash, InstanceId, MeshId, Priority, PublicKey, SecretKey, StreamId,
};
use meshwire_transport::http;
use meshwire_transport::link::{Answer, LinkEvent, MessageLink as _};
use meshwire_transport::net::{Net as _, OsNet};
use meshwire_transport::relay::{CounterError, HelloCounter, RelayConfig, RelayLink};
use meshwire_transport::stream::{Budget, Live, ReadHalf, Stream, Windows, WriteHalf};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;

const WRITE: usize = 64 << 10;
const INSTANCE: InstanceId = InstanceId([1; 16]);

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

struct Counter(AtomicU64);

#[async_trait]
impl HelloCounter for Counter {
    async fn next(&self) -> Result<(InstanceId, u64), CounterError> {
        Ok((INSTANCE, self.0.fetch_add(1, Ordering::Relaxed)))
    }
    async fn renew(&self) -> Result<(), CounterError> {
        Err(CounterError("counters only grow here".into()))
    }
}

/// What a process needs to know, as words.
#[derive(Clone)]
struct Place {
    url: String,
    broker: PublicKey,
    mesh: MeshId,
    megabytes: usize,
    streams: u16,
}

impl Place {
    fn words(&self) -> [String; 5] {
        let (broker, mesh) = (self.broker.to_string(), self.mesh.to_string());
        [self.url.clone(), broker, mesh, self.megabytes.to_string(), self.streams.to_string()]
    }

    fn read(words: &[String]) -> Self {
        Self {
            url: words[0].clone(),
            broker: words[1].parse().unwrap(),
            mesh: words[2].parse().unwrap(),
            megabytes: words[3].parse().unwrap(),
            streams: words[4].parse().unwrap(),
        }
    }

    async fn link(&self, n: u8, counter: u64) -> (Arc<RelayLink>, Receiver<LinkEvent>) {
        let config = RelayConfig {
            base: self.url.parse().unwrap(),
            pin: None,
            mesh: self.mesh,
            broker: self.broker,
            identity: key(n),
            encoding: Encoding::MsgPack,
            features: [(feature::STREAMS.to_owned(), Default::default())].into(),
            requires: vec![],
            agent: "bench".into(),
            counter: Arc::new(Counter(AtomicU64::new(counter))),
        };
        let (link, mut events) = RelayLink::open(Arc::new(OsNet), config);
        while !matches!(events.recv().await.unwrap(), LinkEvent::Up(_)) {}
        (link, events)
    }

    /// Both sides of stream `n` know its secret here: opening is not what is measured.
    fn stream(&self, n: u16, opener: bool) -> Live {
        let (windows, now) = (Windows::default(), Instant::now());
        let budget = Budget::new(1 << 30);
        let [a, b] = [1, 2].map(|n| key(n).public());
        let id: [u8; 16] = std::array::from_fn(|at| n.to_be_bytes()[at % 2]);
        let ends = Ends { mesh: self.mesh, stream: StreamId(id), opener: a, acceptor: b };
        let secret = Secret::new([id, id].concat().try_into().unwrap());
        let (one, open) = Stream::open(secret, "bench", ends, &windows, &budget, now).unwrap();
        let accept =
            || Stream::accept(&open, ends, Fresh([8; 32]), &windows, &budget, now).unwrap();
        Live::start(if opener { one } else { accept() })
    }

    fn letter(&self, id: u64) -> Envelope {
        let (author, to, now) = (key(1), key(2).public(), OsNet.unix_ms());
        let header = Header {
            channel: Channel::Dm,
            from: Author { key: author.public(), instance: INSTANCE },
            target: Target::Member { key: to },
            id: EnvelopeId::new(now, u128::from(id)),
            priority: Priority::Next,
            durability: Durability::Queued,
            sent_at: now,
            expires_at: now + 3_600_000,
            suite: Suite::Box,
            key_id: box_key_id(&to).unwrap(),
            ephemeral: None,
        };
        let content = Content {
            kind: "text/plain".into(),
            reply_to: None,
            mentions: vec![],
            correlation: None,
            response: false,
            seq: id,
            floor: 1,
            head: StateHead::origin(&self.mesh),
            content: vec![7; 256].into(),
        };
        let pair = Pair::new(&author, &to).unwrap();
        Envelope::seal_box(&self.mesh, &author, &header, &pair, &[7; 24], &content)
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match words.first().map(String::as_str) {
            Some("send") => send(&Place::read(&words[1..])).await,
            Some("receive") => receive(&Place::read(&words[1..])).await,
            _ => run(&words).await,
        }
    });
}

async fn run(words: &[String]) {
    let number = |at: usize, other| words.get(at).map_or(other, |w| w.parse().unwrap());
    let data = tempfile::tempdir().unwrap();
    let config = BrokerConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        public_url: None,
        data: data.path().to_owned(),
        database: Database::Memory,
        tls: Tls::Auto,
        policy: Policy { stream_rate: u64::MAX, ..Policy::default() },
        new_admin_token: false,
        turn: None,
    };
    let broker = Broker::start(Arc::new(OsNet), config).await.unwrap();
    let place = Place {
        url: broker.url().to_owned(),
        broker: broker.key(),
        mesh: found(&broker).await,
        megabytes: number(0, 4_096),
        streams: u16::try_from(number(1, 1)).unwrap(),
    };
    admit(&place).await;
    println!("broker's memory before: {}", memory());
    let child = |role: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(role).args(place.words()).stdout(Stdio::piped()).kill_on_drop(true);
        command.spawn().unwrap()
    };
    let mut receiver = child("receive");
    let mut lines = BufReader::new(receiver.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("ready"));
    let mut sender = child("send");
    let mut said = BufReader::new(sender.stdout.take().unwrap()).lines();
    while let Some(line) = said.next_line().await.unwrap() {
        println!("{line}");
    }
    println!("broker's memory after:  {}", memory());
    let _ = (sender.wait().await, receiver.wait().await);
    broker.shutdown().await;
}

fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lines = status.lines().filter(|l| l.starts_with("VmRSS") || l.starts_with("VmHWM"));
    lines.map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
}

/// A mesh whose owner is key 1.
async fn found(broker: &Broker) -> MeshId {
    let genesis = Genesis {
        name: "bench".into(),
        owner: key(1).public(),
        owner_name: "ana".into(),
        broker: broker.key(),
        created_at: OsNet.unix_ms(),
        nonce: Hash([0; 32]),
    };
    let genesis = Signed::new(&key(1), domains::GENESIS, &genesis);
    let (mesh, base) = (mesh_id(&genesis), broker.url().parse().unwrap());
    let token = broker.admin_token().unwrap();
    http::create_mesh(&OsNet, &base, token, &CreateMesh { genesis }).await.unwrap();
    mesh
}

/// Admits key 2.
async fn admit(place: &Place) {
    let (owner, _events) = place.link(1, 1).await;
    let (invite, now) = (key(102), OsNet.unix_ms());
    let terms = Capability {
        mesh: place.mesh,
        issuer: key(1).public(),
        invite: invite.public(),
        role: Role::Member,
        uses: 1,
        issued_at: now,
        expires_at: now + 60_000,
        broker: place.broker,
    };
    owner.invite_create(Signed::new(&key(1), domains::CAPABILITY, &terms)).await.unwrap();
    let claim = Claim {
        mesh: place.mesh,
        invite: invite.public(),
        member: key(2).public(),
        name: "bob".into(),
        claimed_at: now,
    };
    let (claim, proof) = claim.sign(&invite, &key(2));
    let ask = ClaimRequest { claim, proof };
    let base = place.url.parse().unwrap();
    http::claim(&OsNet, &base, None, &invite.public(), &ask).await.unwrap();
    owner.close().await;
}

async fn receive(place: &Place) {
    let (link, mut events) = place.link(2, 1).await;
    let mut reading = Vec::new();
    for n in 0..place.streams {
        let live = place.stream(n, false);
        let carried = link.carry(live.clone(), key(2).public(), key(1).public());
        reading.push(tokio::spawn(async move {
            let (read, mut write) = live.halves().unwrap();
            write.shutdown().await.unwrap();
            drain(read).await;
            live.over().await;
            drop(carried);
        }));
    }
    println!("ready");
    let answering = tokio::spawn({
        let (link, mesh) = (link.clone(), place.mesh);
        async move {
            while let Some(event) = events.recv().await {
                let LinkEvent::Envelope(inbound) = event else { continue };
                let from = inbound.envelope.header().unwrap().from.key;
                let id = inbound.envelope.header().unwrap().id;
                let to = key(2).public();
                let ends = receipt::Ends { mesh: &mesh, sender: &from, recipient: &to };
                let pair = Pair::new(&key(2), &from).unwrap();
                let hash = inbound.envelope.hash(&mesh);
                let receipt = Receipt::new(&pair, ends, &hash, Verdict::Delivered, None);
                if link.answer(Answer::Final { from, id, receipt }).await.is_err() {
                    return;
                }
            }
        }
    });
    for task in reading {
        task.await.unwrap();
    }
    // The sender's last words to us.
    tokio::time::sleep(Duration::from_millis(500)).await;
    answering.abort();
    link.close().await;
}

async fn drain(mut read: ReadHalf) {
    while read.chunk(1 << 20).await.unwrap().is_some() {}
}

async fn fill(mut write: WriteHalf, bytes: usize) {
    let data = vec![7; WRITE];
    for _ in 0..bytes / WRITE {
        write.write_all(&data).await.unwrap();
    }
    write.shutdown().await.unwrap();
}

async fn send(place: &Place) {
    let (link, mut events) = place.link(1, 1_000).await;
    let bytes = place.megabytes * 1_000_000 / usize::from(place.streams);
    let mut streams = Vec::new();
    for n in 0..place.streams {
        let live = place.stream(n, true);
        let carried = link.carry(live.clone(), key(1).public(), key(2).public());
        streams.push((live, carried));
    }
    for (live, _) in &streams {
        live.accepted().await.unwrap();
    }
    let began = Instant::now();
    let mut writing = Vec::new();
    for (live, carried) in streams {
        writing.push(tokio::spawn(async move {
            let (read, write) = live.halves().unwrap();
            tokio::join!(fill(write, bytes), drain(read));
            live.over().await;
            drop(carried);
            began.elapsed()
        }));
    }
    let took = Arc::new(Mutex::new(Vec::new()));
    let letters = tokio::spawn({
        let (link, place, took) = (link.clone(), place.clone(), took.clone());
        async move {
            for id in 1.. {
                let start = Instant::now();
                if link.send(place.letter(id)).await.is_err() {
                    break;
                }
                while !matches!(events.recv().await, Some(LinkEvent::Receipt { .. })) {}
                took.lock().await.push(start.elapsed());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let mut ends = Vec::new();
    for task in writing {
        ends.push(task.await.unwrap());
    }
    letters.abort();
    ends.sort_unstable();
    let (first, last) = (ends[0].as_secs_f64(), ends[ends.len() - 1].as_secs_f64());
    let rate = f64::from(u32::try_from(place.megabytes).unwrap()) / last;
    println!(
        "{} streams: {rate:.0} MB/s (the first ended after {first:.2} s, the last after {last:.2} s)",
        place.streams
    );
    let mut took = took.lock().await;
    took.sort_unstable();
    if let Some(most) = took.len().checked_sub(1) {
        let at = |percent: usize| took[(most * percent).div_ceil(100)];
        let (half, most) = (at(50), at(99));
        println!("{} messages of 256 B, to the receipt: p50 {half:?}, p99 {most:?}", took.len());
    }
    link.close().await;
}
