//! Streams: what their decoders make of any bytes, and two whole machines with a meddler on their links.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meshwire_signaling::stream::{Ends, Fresh, MIN_WINDOW, Secret};
use meshwire_signaling::{MeshId, PublicKey, StreamId, stream};
use meshwire_transport::link::PathKind;
use meshwire_transport::stream::{Budget, LinkId, Read, Stream, Windows};
use tokio::time::Instant;

use crate::steps::{Step, steps};

/// Links at a time, and records on one: a meddler that repeats them must not be what grows.
const LINKS: usize = 3;
const ON_ITS_WAY: usize = 64;
const BUDGET: u64 = 4 << 20;

/// Opens and records, and what carries them through a broker.
pub(crate) fn wire(data: &[u8]) {
    stream::fuzz(data);
    stream::carry::fuzz(data);
}

/// What came of two streams.
#[derive(Debug, Default)]
pub(crate) struct Came {
    /// Bytes that were read at either end.
    pub(crate) read: usize,
    /// Ends that were read to.
    pub(crate) ended: usize,
}

struct Link {
    id: LinkId,
    /// What is on its way from each side.
    from: [VecDeque<Bytes>; 2],
}

struct Side {
    stream: Stream,
    /// What was written, and how much of the other side's was read.
    sent: Vec<u8>,
    read: usize,
    finished: bool,
    ended: bool,
}

struct World {
    now: Instant,
    budgets: [Budget; 2],
    sides: [Side; 2],
    links: Vec<Link>,
    ids: u64,
    came: Came,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let budgets = [Budget::new(BUDGET), Budget::new(BUDGET)];
        let [opener, acceptor] = [[2; 32], [3; 32]].map(PublicKey);
        let ends = || Ends { mesh: MeshId([1; 32]), stream: StreamId([4; 16]), opener, acceptor };
        let windows = Windows { initial: MIN_WINDOW, ..Windows::default() };
        let (a, open) =
            Stream::open(Secret::new([5; 32]), "fuzz", ends(), &windows, &budgets[0], now)
                .expect("room");
        let b = Stream::accept(&open, ends(), Fresh([6; 32]), &windows, &budgets[1], now)
            .expect("room");
        let side =
            |stream| Side { stream, sent: Vec::new(), read: 0, finished: false, ended: false };
        let sides = [side(a), side(b)];
        Self { now, budgets, sides, links: Vec::new(), ids: 0, came: Came::default() }
    }

    fn step(&mut self, step: &Step<'_>) {
        let (side, which) = (usize::from(step.which & 1), usize::from(step.which >> 1));
        let byte = |n: usize| step.bytes.get(n).copied().unwrap_or(0);
        match step.what % 16 {
            0 => self.up(which),
            1 => self.down(which),
            2 => self.write(side, usize::from(byte(0)) << 8 | usize::from(byte(1))),
            3 => {
                self.sides[side].stream.finish(self.now);
                self.sides[side].finished = true;
            }
            4..=6 => self.deliver(side, which, usize::from(byte(0))),
            7 => self.lose(side, which),
            8 => self.repeat(side, which, usize::from(byte(0))),
            9 => self.change(side, which, step.bytes),
            10 => self.read(side, usize::from(byte(0)) << 8 | usize::from(byte(1))),
            11 => {
                self.now += Duration::from_millis(u64::from(byte(0)) << (byte(1) % 9));
                for side in &mut self.sides {
                    side.stream.handle_timeout(self.now);
                }
            }
            12 => {
                let link = self.links.get(which).map(|l| l.id);
                self.sides[side].stream.prefer(link, self.now);
            }
            13 => self.sides[side].stream.hint_gone(self.now),
            // Seldom: nothing comes after them.
            14 if byte(0) == 255 => {
                self.sides[side].stream.reset(u32::from(byte(1)), "no", self.now)
            }
            15 if byte(0) == 255 => self.sides[side].stream.stop(u32::from(byte(1)), self.now),
            _ => self.strange(side, which, step.bytes),
        }
        self.hold();
    }

    fn up(&mut self, which: usize) {
        if self.links.len() == LINKS {
            return;
        }
        self.ids += 1;
        let (id, kind) = (LinkId(self.ids), [PathKind::Relay, PathKind::Quic][which % 2]);
        self.links.push(Link { id, from: Default::default() });
        for side in &mut self.sides {
            side.stream.link_up(id, kind, None, self.now);
        }
    }

    fn down(&mut self, which: usize) {
        if which < self.links.len() {
            let link = self.links.remove(which);
            for side in &mut self.sides {
                side.stream.link_down(link.id, self.now);
            }
        }
    }

    fn write(&mut self, side: usize, len: usize) {
        let Side { stream, sent, finished, .. } = &mut self.sides[side];
        if *finished {
            return;
        }
        let data: Vec<u8> =
            (sent.len()..sent.len() + len).map(|n| n.wrapping_mul(7).to_le_bytes()[0]).collect();
        if let Ok(taken) = stream.write(&data, self.now) {
            sent.extend_from_slice(&data[..taken]);
        }
    }

    /// Lets a side say what it has to say on a link, and some of it arrive.
    fn deliver(&mut self, side: usize, which: usize, count: usize) {
        self.poll(side, which);
        let Some(link) = self.links.get_mut(which) else { return };
        for _ in 0..=count {
            let Some(record) = link.from[side].pop_front() else { return };
            let id = link.id;
            // What does not open has been counted.
            let _ = self.sides[1 - side].stream.receive(id, BytesMut::from(&record[..]), self.now);
        }
    }

    fn poll(&mut self, side: usize, which: usize) {
        let Some(link) = self.links.get_mut(which) else { return };
        while link.from[side].len() < ON_ITS_WAY
            && let Some(record) = self.sides[side].stream.poll_transmit(link.id, self.now)
        {
            link.from[side].push_back(record);
        }
    }

    /// What one side's carrier loses, without the link.
    fn lose(&mut self, side: usize, which: usize) {
        self.poll(side, which);
        if let Some(link) = self.links.get_mut(which) {
            link.from[side].clear();
        }
    }

    fn repeat(&mut self, side: usize, which: usize, at: usize) {
        let Some(link) = self.links.get_mut(which) else { return };
        let queue = &mut link.from[side];
        if queue.len() < ON_ITS_WAY && !queue.is_empty() {
            let again = queue[at % queue.len()].clone();
            queue.push_back(again);
        }
    }

    fn change(&mut self, side: usize, which: usize, bytes: &[u8]) {
        let Some(link) = self.links.get_mut(which) else { return };
        let (Some(first), [at, xor, rest @ ..]) = (link.from[side].front_mut(), bytes) else {
            return;
        };
        let mut record = first.to_vec();
        let at = (usize::from(*at) << (rest.first().unwrap_or(&0) % 8)) % record.len();
        record[at] ^= xor;
        *first = record.into();
    }

    /// Bytes of the meddler's own.
    fn strange(&mut self, side: usize, which: usize, bytes: &[u8]) {
        let Some(link) = self.links.get(which) else { return };
        let _ = self.sides[side].stream.receive(link.id, BytesMut::from(bytes), self.now);
    }

    fn read(&mut self, side: usize, max: usize) {
        let sent = std::mem::take(&mut self.sides[1 - side].sent);
        let finished = self.sides[1 - side].finished;
        let this = &mut self.sides[side];
        match this.stream.read(max + 1, self.now) {
            Ok(Read::Data(bytes)) => {
                let end = this.read + bytes.len();
                assert_eq!(Some(&bytes[..]), sent.get(this.read..end), "not what was written");
                this.read = end;
                self.came.read += bytes.len();
            }
            Ok(Read::End) => {
                assert!(finished && this.read == sent.len(), "an end that is none");
                self.came.ended += usize::from(!std::mem::replace(&mut this.ended, true));
            }
            Ok(_) | Err(_) => {}
        }
        self.sides[1 - side].sent = sent;
    }

    /// What must hold after each step.
    fn hold(&mut self) {
        for (side, budget) in self.sides.iter_mut().zip(&self.budgets) {
            assert!(budget.used() <= budget.limit(), "{budget:?}");
            if let Some(at) = side.stream.poll_timeout() {
                // A timer that is due and stays due would spin.
                if at <= self.now {
                    side.stream.handle_timeout(self.now);
                    let next = side.stream.poll_timeout();
                    assert!(next.is_none_or(|next| next > self.now), "a timer that spins");
                }
            }
        }
    }

    /// Everybody behaves from now on: what is not over gets there.
    fn settle(&mut self) {
        for which in (0..self.links.len()).rev() {
            self.down(which);
        }
        self.up(0);
        for side in 0..2 {
            self.sides[side].stream.finish(self.now);
            self.sides[side].finished = true;
        }
        for _ in 0..2_000 {
            for side in 0..2 {
                self.deliver(side, 0, ON_ITS_WAY);
                self.read(1 - side, usize::MAX - 1);
            }
            self.now += Duration::from_millis(20);
            for side in &mut self.sides {
                side.stream.handle_timeout(self.now);
            }
            if self.sides.iter().all(|s| s.stream.is_over()) {
                break;
            }
        }
        // The end, which may be read when all is over.
        for side in 0..2 {
            self.read(side, usize::MAX - 1);
        }
        // Two minutes and a half of silence end everything.
        self.now += Duration::from_secs(150);
        for side in &mut self.sides {
            side.stream.handle_timeout(self.now);
            assert!(side.stream.is_over(), "it does not end");
        }
    }
}

/// Two machines, three links and a meddler who loses, repeats, holds back and changes what is on them.
pub(crate) fn machine(data: &[u8]) {
    play(data);
}

/// As [`machine`]; says what came of it.
pub(crate) fn play(data: &[u8]) -> Came {
    let mut world = World::new();
    for step in steps(data) {
        world.step(&step);
    }
    world.settle();
    world.came
}
