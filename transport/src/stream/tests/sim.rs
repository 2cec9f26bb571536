//! Two nodes with any number of streams between them, over links that come and go, in virtual time.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meshwire_signaling::Priority;
use meshwire_signaling::stream::{Fresh, Header, RecordError};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tokio::time::Instant;

use super::super::{Budget, LinkId, Read, Rejected, Scheduler, Stream, Windows};
use super::{FRESH, ends, secret};
use crate::link::PathKind;

/// How far ahead of now a link's sender may fill it: a socket's buffer.
const BUFFER: Duration = Duration::from_millis(50);
/// Records that a hostile carrier remembers.
const MEMORY: usize = 64;

/// What a hostile carrier does, in chances of one in a thousand per record.
#[derive(Clone, Copy, Default)]
pub(super) struct Hostile {
    pub(super) repeat: u32,
    pub(super) replay: u32,
    pub(super) tamper: u32,
    pub(super) swap: u32,
    pub(super) drop: u32,
}

pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) kind: PathKind,
    pub(super) latency: Duration,
    /// Bytes per second.
    pub(super) rate: u64,
    /// By the side that sends: what is on its way, and when the last byte has left.
    wires: [VecDeque<(Instant, Bytes)>; 2],
    free_at: [Instant; 2],
    /// Who still believes in it.
    pub(super) up: [bool; 2],
    /// It swallows everything, and nobody knows.
    pub(super) black: bool,
    /// Records that were sent over it.
    pub(super) carried: u64,
}

/// What one side's application does with one stream.
pub(super) struct App {
    pub(super) send: Vec<u8>,
    pub(super) written: usize,
    pub(super) finish: bool,
    pub(super) got: Vec<u8>,
    pub(super) ended: bool,
    /// Bytes per second; none as fast as they come.
    pub(super) read_rate: Option<u64>,
    began: Instant,
    /// Reads that failed, with their error.
    pub(super) failed: Option<super::super::StreamError>,
    pub(super) most_held: [u64; 2],
}

pub(super) struct Sim {
    pub(super) now: Instant,
    pub(super) rng: ChaCha8Rng,
    pub(super) streams: [Vec<Stream>; 2],
    pub(super) apps: [Vec<App>; 2],
    pub(super) links: Vec<Link>,
    turns: HashMap<(usize, LinkId), Scheduler<usize>>,
    next_link: u64,
    pub(super) hostile: Hostile,
    memory: VecDeque<Bytes>,
    /// Every number of every key with its record.
    pub(super) nonces: HashMap<(usize, [u8; 28]), Bytes>,
    numbers: HashMap<(usize, u8, u8, u64), [u8; 28]>,
    pub(super) budgets: [Budget; 2],
    pub(super) rejected: u64,
    pub(super) carried: u64,
}

pub(super) fn data(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

impl Sim {
    pub(super) fn new(seed: u64, windows: &[Windows]) -> Self {
        Self::accepting(seed, windows, FRESH)
    }

    /// As [`Self::new`], with what the acceptors add to the keys.
    pub(super) fn accepting(seed: u64, windows: &[Windows], fresh: Fresh) -> Self {
        let now = Instant::now();
        let budgets = [Budget::new(1 << 30), Budget::new(1 << 30)];
        let mut sim = Self {
            now,
            rng: ChaCha8Rng::seed_from_u64(seed),
            streams: [Vec::new(), Vec::new()],
            apps: [Vec::new(), Vec::new()],
            links: Vec::new(),
            turns: HashMap::new(),
            next_link: 0,
            hostile: Hostile::default(),
            memory: VecDeque::new(),
            nonces: HashMap::new(),
            numbers: HashMap::new(),
            budgets,
            rejected: 0,
            carried: 0,
        };
        for (n, windows) in windows.iter().enumerate() {
            sim.add(u8::try_from(n).unwrap(), windows, fresh);
        }
        sim
    }

    fn add(&mut self, n: u8, windows: &Windows, fresh: Fresh) {
        let [here, there] = &self.budgets;
        let (opener, open) =
            Stream::open(secret(n), "test", ends(n), windows, here, self.now).unwrap();
        let acceptor = Stream::accept(&open, ends(n), fresh, windows, there, self.now).unwrap();
        self.push(opener, acceptor);
    }

    pub(super) fn push(&mut self, opener: Stream, acceptor: Stream) {
        for (side, stream) in [opener, acceptor].into_iter().enumerate() {
            self.streams[side].push(stream);
            self.apps[side].push(App {
                send: Vec::new(),
                written: 0,
                finish: true,
                got: Vec::new(),
                ended: false,
                read_rate: None,
                began: self.now,
                failed: None,
                most_held: [0; 2],
            });
        }
    }

    /// Both sides have a new link.
    pub(super) fn up(&mut self, kind: PathKind, latency_ms: u64, rate: u64) -> LinkId {
        let id = self.silent_up(kind, latency_ms, rate);
        for side in 0..2 {
            self.side_up(side, id);
        }
        id
    }

    /// There is a new link, of which nobody knows yet.
    pub(super) fn silent_up(&mut self, kind: PathKind, latency_ms: u64, rate: u64) -> LinkId {
        let id = LinkId(self.next_link);
        self.next_link += 1;
        self.links.push(Link {
            id,
            kind,
            latency: Duration::from_millis(latency_ms),
            rate,
            wires: Default::default(),
            free_at: [self.now; 2],
            up: [false; 2],
            black: false,
            carried: 0,
        });
        id
    }

    fn link(&mut self, id: LinkId) -> &mut Link {
        self.links.iter_mut().find(|l| l.id == id).unwrap()
    }

    pub(super) fn side_up(&mut self, side: usize, id: LinkId) {
        let link = self.link(id);
        link.up[side] = true;
        let (kind, rtt) = (link.kind, link.latency * 2);
        let hint = id.0.is_multiple_of(2).then_some(rtt);
        for stream in &mut self.streams[side] {
            stream.link_up(id, kind, hint, self.now);
        }
    }

    /// One side notices that a link is dead; what is on its way is lost.
    pub(super) fn side_down(&mut self, side: usize, id: LinkId) {
        let link = self.link(id);
        link.wires = Default::default();
        link.black = true;
        link.up[side] = false;
        for stream in &mut self.streams[side] {
            stream.link_down(id, self.now);
        }
    }

    pub(super) fn down(&mut self, id: LinkId) {
        for side in 0..2 {
            self.side_down(side, id);
        }
    }

    /// What is on its way is lost, and the link goes on.
    pub(super) fn lose_what_is_on_its_way(&mut self, id: LinkId) {
        self.link(id).wires = Default::default();
    }

    pub(super) fn blacken(&mut self, id: LinkId) {
        self.link(id).black = true;
    }

    pub(super) fn lighten(&mut self, id: LinkId) {
        self.link(id).black = false;
    }

    pub(super) fn prefer(&mut self, side: usize, id: Option<LinkId>) {
        for stream in &mut self.streams[side] {
            stream.prefer(id, self.now);
        }
    }

    fn chance(&mut self, per_mille: u32) -> bool {
        self.rng.next_u32() % 1_000 < per_mille
    }

    pub(super) fn pick(&mut self, below: u64) -> u64 {
        self.rng.next_u64() % below.max(1)
    }

    /// Reads, writes and sends all that can be at this moment. Whether anything happened.
    fn step(&mut self) -> bool {
        let mut moved = false;
        for side in 0..2 {
            for n in 0..self.streams[side].len() {
                moved |= self.app(side, n);
            }
        }
        for at in 0..self.links.len() {
            for side in 0..2 {
                moved |= self.transmit(at, side);
            }
        }
        moved | self.deliver()
    }

    fn app(&mut self, side: usize, n: usize) -> bool {
        let now = self.now;
        let (stream, app) = (&mut self.streams[side][n], &mut self.apps[side][n]);
        let mut moved = false;
        stream.handle_timeout(now);
        while app.written < app.send.len() {
            // Pieces of odd sizes.
            let end = (app.written + 1 + app.written % 70_001).min(app.send.len());
            match stream.write(&app.send[app.written..end], now) {
                Ok(0) | Err(_) => break,
                Ok(taken) => app.written += taken,
            }
            moved = true;
        }
        if app.written == app.send.len() && app.finish {
            app.finish = false;
            stream.finish(now);
            moved = true;
        }
        loop {
            let most = app.read_rate.map_or(usize::MAX, |rate| {
                let ms = now.duration_since(app.began).as_millis();
                let may = u128::from(rate) * ms / 1_000;
                usize::try_from(may).unwrap().saturating_sub(app.got.len())
            });
            match stream.read(most.min(50_000), now) {
                Ok(Read::Data(bytes)) => {
                    app.got.extend_from_slice(&bytes);
                    moved = true;
                }
                Ok(Read::Pending) => break,
                Ok(Read::End) => {
                    app.ended = true;
                    break;
                }
                Err(error) => {
                    app.failed = Some(error);
                    break;
                }
            }
        }
        let held = stream.counters().held;
        for (most, held) in app.most_held.iter_mut().zip(held) {
            *most = (*most).max(held);
        }
        assert!(held[1] <= 16 << 20);
        stream.changes();
        moved
    }

    fn transmit(&mut self, at: usize, side: usize) -> bool {
        let mut moved = false;
        loop {
            let link = &self.links[at];
            if !link.up[side] || link.free_at[side] > self.now + BUFFER {
                return moved;
            }
            let (id, streams) = (link.id, &mut self.streams[side]);
            let turns = self.turns.entry((side, id)).or_default();
            for n in 0..streams.len() {
                turns.wake(n, Priority::default());
            }
            let Some(n) = turns.next(|n| streams[*n].transmit_len(id)) else { return moved };
            let expected = streams[n].transmit_len(id);
            let record = streams[n].poll_transmit(id, self.now).expect("it had one");
            assert_eq!(Some(record.len()), expected);
            self.check_number(side, &record);
            self.carry(at, side, record);
            moved = true;
        }
    }

    /// A number is used for one record alone, whatever is sent again.
    fn check_number(&mut self, side: usize, record: &Bytes) {
        let header = Header::parse(record).unwrap();
        let prefix: [u8; 28] = record[..28].try_into().unwrap();
        let key = (side, record[0], record[4], header.number);
        assert_eq!(*self.numbers.entry(key).or_insert(prefix), prefix, "one header per number");
        let first = self.nonces.entry((side, prefix)).or_insert_with(|| record.clone());
        assert_eq!(first, record, "one ciphertext per number");
    }

    fn carry(&mut self, at: usize, side: usize, record: Bytes) {
        self.carried += 1;
        self.links[at].carried += 1;
        if self.memory.len() == MEMORY {
            self.memory.pop_front();
        }
        self.memory.push_back(record.clone());
        let Hostile { repeat, replay, tamper, swap, drop } = self.hostile;
        let mut records = vec![record];
        if self.chance(drop) {
            records.clear();
        }
        if self.chance(tamper) {
            let flip = usize::try_from(self.rng.next_u32()).unwrap();
            let cut = self.chance(300);
            for record in &mut records {
                let mut bytes = record.to_vec();
                let at = flip % bytes.len();
                if cut {
                    bytes.truncate(at);
                } else {
                    bytes[at] ^= 1 << (flip % 8);
                }
                *record = bytes.into();
            }
        }
        if self.chance(repeat) {
            records.extend(records.clone());
        }
        if self.chance(replay) {
            let old = self.pick(MEMORY as u64);
            let old = usize::try_from(old).unwrap() % self.memory.len();
            records.push(self.memory[old].clone());
        }
        let swap = self.chance(swap);
        let now = self.now;
        let link = &mut self.links[at];
        for record in records {
            let len = u64::try_from(record.len()).unwrap();
            let takes = Duration::from_nanos(len * 1_000_000_000 / link.rate);
            link.free_at[side] = link.free_at[side].max(now) + takes;
            if !link.black {
                let arrives = link.free_at[side] + link.latency;
                link.wires[side].push_back((arrives, record));
            }
        }
        let wire = &mut link.wires[side];
        if swap && wire.len() > 1 {
            let (a, b) = (wire.len() - 2, wire.len() - 1);
            let (first, second) = (wire[a].1.clone(), wire[b].1.clone());
            (wire[a].1, wire[b].1) = (second, first);
        }
    }

    fn deliver(&mut self) -> bool {
        let mut moved = false;
        for link in &mut self.links {
            for (side, wire) in link.wires.iter_mut().enumerate() {
                let there = 1 - side;
                while wire.front().is_some_and(|(at, _)| *at <= self.now) {
                    let (_, record) = wire.pop_front().unwrap();
                    moved = true;
                    if !link.up[there] {
                        continue;
                    }
                    // Its stream's id is where a driver looks for the stream.
                    let n = record.get(4).map_or(0, |n| usize::from(*n));
                    let Some(stream) = self.streams[there].get_mut(n) else { continue };
                    match stream.receive(link.id, BytesMut::from(&record[..]), self.now) {
                        Ok(()) | Err(Rejected::Record(RecordError::Early)) => {}
                        Err(Rejected::BeyondLimit) => panic!("a chunk beyond what was granted"),
                        Err(_) => self.rejected += 1,
                    }
                }
            }
        }
        moved
    }

    /// Goes on until `until`, or until nothing more happens before.
    pub(super) fn run_to(&mut self, until: Instant) {
        let mut idle = 0;
        loop {
            if self.step() {
                idle += 1;
                assert!(idle < 100_000, "no end of things to do at one moment");
                continue;
            }
            idle = 0;
            let next = self.next_event().filter(|at| *at < until);
            let Some(next) = next else {
                self.now = self.now.max(until);
                return;
            };
            assert!(next > self.now, "time stands still");
            self.now = next;
        }
    }

    pub(super) fn run(&mut self, more: Duration) {
        self.run_to(self.now + more);
    }

    fn next_event(&self) -> Option<Instant> {
        let arrivals = self.links.iter().flat_map(|l| &l.wires).filter_map(|w| w.front());
        let arrivals = arrivals.map(|(at, _)| *at);
        let room = self.links.iter().flat_map(|l| l.free_at).map(|at| at.checked_sub(BUFFER));
        let room = room.flatten().filter(|at| *at > self.now);
        let timeouts = self.streams.iter().flatten().filter_map(Stream::poll_timeout);
        let slow = self.apps.iter().flatten().any(|a| a.read_rate.is_some() && !a.ended);
        let tick = slow.then(|| self.now + Duration::from_millis(10));
        arrivals.chain(room).chain(timeouts).chain(tick).min()
    }

    /// Goes on until all streams are over; fails after `most`.
    pub(super) fn run_until_over(&mut self, most: Duration) {
        let end = self.now + most;
        while !self.streams.iter().flatten().all(Stream::is_over) {
            assert!(self.now < end, "not over in {most:?}: {}", self.describe());
            self.run(Duration::from_millis(200));
        }
        self.step();
    }

    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        for (side, streams) in self.streams.iter().enumerate() {
            for (n, stream) in streams.iter().enumerate() {
                let app = &self.apps[side][n];
                let got = (app.written, app.got.len(), app.ended);
                text += &format!(
                    "\nside {side} stream {n}: {got:?} {:?} {:?} best {:?} over {} done {}",
                    stream.error(),
                    stream.counters(),
                    stream.best_link(),
                    stream.is_over(),
                    stream.is_done(),
                );
            }
        }
        text
    }

    /// All that was to be sent arrived, in order, once, with its end.
    pub(super) fn check_whole(&self) {
        for n in 0..self.streams[0].len() {
            for side in 0..2 {
                let (from, to) = (&self.apps[side][n], &self.apps[1 - side][n]);
                assert!(to.got == from.send, "stream {n} from {side}: {}", self.describe());
                assert!(to.ended && to.failed.is_none(), "stream {n}: {:?}", to.failed);
                assert!(self.streams[side][n].is_sent());
                assert_eq!(self.streams[side][n].error(), None);
            }
        }
    }
}
