//! Windows, memory, and streams beside each other.

use std::time::Duration;

use bytes::BytesMut;
use meshwire_signaling::stream::{Control, Keys, MIN_WINDOW, PREFIX, Role, State, Suite, TAG};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tokio::time::Instant;

use super::super::{Budget, LinkId, Rejected, Stream, StreamError, Windows};
use super::sim::{Sim, data};
use super::{FRESH, ends, secret};
use crate::link::PathKind;

const S: Duration = Duration::from_secs(1);

#[test]
fn a_slow_reader_holds_its_sender() {
    let windows = Windows { initial: 128 << 10, max: 8 << 20, send: 512 << 10 };
    let mut sim = Sim::new(1, &[windows]);
    sim.apps[0][0].send = data(1, 8_000_000);
    sim.apps[1][0].read_rate = Some(100_000);
    sim.up(PathKind::Memory, 0, 1_000_000_000);
    sim.run(60 * S);
    let (from, to) = (&sim.apps[0][0], &sim.apps[1][0]);
    assert!((5_900_000..=6_000_000).contains(&to.got.len()), "{}", to.got.len());
    assert!(to.most_held[1] <= 128 << 10, "the reader holds {}", to.most_held[1]);
    // Eight waiting chunks, and what is in the window.
    assert!(from.most_held[0] <= (8 * 32 + 128) << 10, "the sender holds {}", from.most_held[0]);
    assert!(from.written <= to.got.len() + (8 * 32 + 2 * 128) * 1024);
    assert!(sim.budgets[0].used() <= 1 << 20 && sim.budgets[1].used() <= 256 << 10);
    sim.apps[1][0].read_rate = None;
    sim.run_until_over(60 * S);
    sim.check_whole();
    let [a, b] = &mut sim.streams;
    a.clear();
    b.clear();
    assert_eq!((sim.budgets[0].used(), sim.budgets[1].used()), (0, 0), "all is given back");
}

#[test]
fn the_window_follows_the_path() {
    let mut sim = Sim::new(1, &[Windows::default()]);
    // 100 MB/s over 40 ms: 4 MB on their way.
    sim.apps[0][0].send = data(1, 100_000_000);
    sim.up(PathKind::Quic, 20, 100_000_000);
    let began = sim.now;
    sim.run_until_over(60 * S);
    sim.check_whole();
    let took = sim.now - began;
    assert!(took < Duration::from_millis(1_700), "100 MB at 100 MB/s took {took:?}");
    let window = sim.streams[1][0].counters().window;
    assert!(window <= 16 << 20);
}

#[test]
fn many_streams_share_a_link_and_the_budget_fairly() {
    let mut sim = Sim::new(1, &[Windows::default(); 40]);
    sim.budgets = [Budget::new(16 << 20), Budget::new(16 << 20)];
    for side in 0..2 {
        sim.streams[side].clear();
        sim.apps[side].clear();
    }
    for n in 0..40 {
        let [here, there] = &sim.budgets;
        let windows = Windows::default();
        let (opener, open) =
            Stream::open(secret(n), "many", ends(n), &windows, here, sim.now).unwrap();
        let acceptor = Stream::accept(&open, ends(n), FRESH, &windows, there, sim.now).unwrap();
        sim.push(opener, acceptor);
        sim.apps[0][usize::from(n)].send = data(u64::from(n), 1 << 20);
    }
    sim.up(PathKind::Quic, 10, 20_000_000);
    sim.run(S);
    let got: Vec<_> = sim.apps[1].iter().map(|a| a.got.len()).collect();
    let (most, least) = (got.iter().max().unwrap(), got.iter().min().unwrap());
    assert!(*least > 0 && most <= &(2 * least), "{got:?}");
    for budget in &sim.budgets {
        assert!(budget.used() <= budget.limit());
    }
    sim.run_until_over(60 * S);
    sim.check_whole();
}

#[test]
fn without_memory_there_is_no_stream() {
    let now = Instant::now();
    let budget = Budget::new(2 * MIN_WINDOW);
    let open = |n| Stream::open(secret(n), "x", ends(n), &Windows::default(), &budget, now);
    let first = open(0).map_err(|e| e.to_string());
    let (_kept, open_) = first.expect("it fits");
    assert_eq!(open(1).err(), Some(StreamError::Busy { limit: 2 * MIN_WINDOW }));
    let accepted = Stream::accept(&open_, ends(0), FRESH, &Windows::default(), &budget, now);
    assert!(accepted.is_err());
    // Saying no needs none.
    let refused = Stream::refuse(&open_, ends(0), FRESH, 3, "busy", &budget, now);
    assert!(refused.is_ok());
}

/// The acceptor's stream, and the keys of an opener that does as it likes.
fn against(windows: &Windows) -> (Stream, Keys, Instant) {
    let (now, budget) = (Instant::now(), Budget::new(1 << 30));
    let (_, open) = Stream::open(secret(0), "x", ends(0), windows, &budget, now).unwrap();
    let mut stream = Stream::accept(&open, ends(0), FRESH, windows, &budget, now).unwrap();
    stream.link_up(LinkId(0), PathKind::Memory, None, now);
    stream.poll_transmit(LinkId(0), now).unwrap();
    (stream, Keys::derive(secret(0), Suite::preferred()[0], ends(0), FRESH, Role::Opener), now)
}

fn chunk(keys: &mut Keys, last: bool, len: usize) -> BytesMut {
    let mut record = BytesMut::zeroed(PREFIX + len + TAG);
    keys.seal.chunk(last, &mut record).unwrap();
    record
}

#[test]
fn chunks_beyond_the_limit_are_counted_and_dropped() {
    let windows = Windows { initial: MIN_WINDOW, ..Windows::default() };
    let (mut stream, mut keys, now) = against(&windows);
    // The first never comes, so nothing can be read: all the rest waits behind a gap.
    chunk(&mut keys, false, 1);
    let mut beyond = 0;
    for _ in 0..10_000 {
        beyond += u64::from(
            stream.receive(LinkId(0), chunk(&mut keys, false, 1), now)
                == Err(Rejected::BeyondLimit),
        );
    }
    let counters = stream.counters();
    assert!(counters.held[1] <= MIN_WINDOW, "{counters:?}");
    assert_eq!(counters.beyond_limit, beyond);
    assert!(beyond > 8_000);
    assert_eq!(stream.error(), None);
}

#[test]
fn a_peer_that_breaks_the_rules_ends_the_stream() {
    type Play = fn(&mut Keys) -> Vec<BytesMut>;
    let plays: [Play; 4] = [
        |keys| vec![chunk(keys, false, 0)],
        |keys| vec![chunk(keys, true, 1), chunk(keys, false, 1)],
        |keys| vec![chunk(keys, true, 1), chunk(keys, true, 1)],
        |keys| {
            let (last, after) = (chunk(keys, true, 1), chunk(keys, false, 1));
            vec![after, last]
        },
    ];
    for play in plays {
        let (mut stream, mut keys, now) = against(&Windows::default());
        for record in play(&mut keys) {
            stream.receive(LinkId(0), record, now).unwrap();
        }
        assert!(matches!(stream.error(), Some(StreamError::Protocol(_))), "{:?}", stream.error());
        assert!(stream.poll_transmit(LinkId(0), now).is_some(), "it says so");
    }
}

/// A peer with the right keys and no manners: whatever it says, nothing panics, and memory stays within the window.
#[test]
fn a_peer_that_says_anything() {
    for seed in 0..300 {
        let windows = Windows { initial: MIN_WINDOW, max: MIN_WINDOW, send: MIN_WINDOW };
        let (mut stream, mut keys, mut now) = against(&windows);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let _ = stream.write(&[7; 50_000], now);
        for _ in 0..60 {
            let record = match rng.next_u32() % 8 {
                0 => chunk(
                    &mut keys,
                    rng.next_u32() % 16 == 0,
                    1 + (rng.next_u32() % 9_000) as usize,
                ),
                1..=4 => control(&mut keys, &anything(&mut rng).encode()),
                5 => control(&mut keys, &data(rng.next_u64(), (rng.next_u32() % 400) as usize)),
                6 => BytesMut::from(&data(rng.next_u64(), (rng.next_u32() % 99) as usize)[..]),
                _ => {
                    let mut record = chunk(&mut keys, false, 10);
                    let at = rng.next_u32() as usize % record.len();
                    record[at] ^= 1;
                    record
                }
            };
            let _ = stream.receive(LinkId(0), record, now);
            while stream.poll_transmit(LinkId(0), now).is_some() {}
            let held = stream.counters().held;
            assert!(held[0] <= MIN_WINDOW && held[1] <= MIN_WINDOW, "seed {seed}: {held:?}");
            if rng.next_u32() % 4 == 0 {
                let _ = stream.read(5_000, now);
            }
            now += Duration::from_millis(u64::from(rng.next_u32() % 3_000));
            stream.handle_timeout(now);
            assert!(stream.poll_timeout().is_none_or(|at| at > now), "seed {seed}");
        }
    }
}

/// A control with any numbers, most of them small enough to mean something.
fn anything(rng: &mut ChaCha8Rng) -> Control {
    let mut number = || match rng.next_u32() % 8 {
        0 => u64::MAX,
        1 => rng.next_u64(),
        _ => (rng.next_u64() % 100_000) >> (rng.next_u32() % 17),
    };
    let (heard, next, limit, word) = (number(), number() % 4, number(), number());
    let code = u32::try_from(word % 512).unwrap();
    if word % 97 == 1 {
        return Control::Reset { heard, code, reason: "because".into() };
    }
    let stop = (word % 31 == 3).then_some(code);
    let (answer, done) = (word % 2 == 0, word % 5 == 0);
    Control::State(State { answer, stop, done, heard, next, limit })
}

fn control(keys: &mut Keys, plain: &[u8]) -> BytesMut {
    let mut record = BytesMut::zeroed(PREFIX + plain.len() + TAG);
    record[PREFIX..PREFIX + plain.len()].copy_from_slice(plain);
    keys.seal.control(&mut record).unwrap();
    record
}
