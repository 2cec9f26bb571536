use std::collections::VecDeque;

use super::*;

const TO: PublicKey = PublicKey([1; 32]);
const MS: Duration = Duration::from_millis(1);

fn stream(n: usize) -> StreamId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    StreamId(id)
}

/// How much of records of `len` bytes fits.
fn fill(credit: &mut Credit<usize>, n: usize, len: u64) -> u64 {
    let mut sent = 0;
    while credit.room(stream(n), TO, len, n) {
        credit.spend(stream(n), TO, len, Instant::now());
        sent += len;
    }
    sent
}

fn give(credit: &mut Credit<usize>, n: usize, bytes: u64) -> Vec<usize> {
    credit.give(stream(n), TO, bytes, Instant::now())
}

#[test]
fn windows_are_kept_and_who_waits_is_told() {
    let mut credit = Credit::default();
    for n in 0..3 {
        assert_eq!(fill(&mut credit, n, MOST), STREAM_WINDOW);
    }
    assert_eq!(fill(&mut credit, 3, MOST), STREAM_WINDOW - RESERVE);
    assert_eq!(fill(&mut credit, 4, MOST), 0, "all streams to one recipient have a window, too");
    for _ in 0..9 {
        assert_eq!(fill(&mut credit, 4, MOST), 0, "and wait once");
    }
    assert!(credit.room(stream(4), PublicKey([2; 32]), MOST, 9), "others have their own");
    assert_eq!(give(&mut credit, 1, MOST), [0, 1, 2, 3, 4]);
    assert_eq!(fill(&mut credit, 0, MOST), 0);
    assert_eq!(fill(&mut credit, 4, MOST), MOST);
}

#[test]
fn states_pass_when_bulk_has_used_its_windows() {
    let mut credit = Credit::default();
    assert_eq!((0..9).map(|n| fill(&mut credit, n, MOST)).sum::<u64>(), BULK_WINDOW);
    let states = fill(&mut credit, 20, 74);
    assert!((RESERVE - 74..=RESERVE).contains(&states), "{states}");
    assert!(credit.pairs[&TO].used <= PAIR_WINDOW);
    // Its credit alone makes room for more of them, and not for bulk.
    let _ = give(&mut credit, 20, states);
    assert_eq!(fill(&mut credit, 1, MOST), 0);
    assert!(credit.room(stream(1), TO, 74, 1));
}

#[test]
fn what_comes_back_is_forgotten_and_no_more_than_was_sent() {
    let mut credit = Credit::<usize>::default();
    assert!(give(&mut credit, 0, u64::MAX).is_empty());
    credit.spend(stream(0), TO, 100, Instant::now());
    credit.spend(stream(1), TO, 50, Instant::now());
    assert!(give(&mut credit, 0, u64::MAX).is_empty());
    assert_eq!((credit.streams.len(), credit.pairs[&TO].used), (1, 50));
    let _ = give(&mut credit, 1, 50);
    assert!(credit.streams.is_empty() && credit.pairs.is_empty());
}

#[test]
fn the_number_of_streams_is_bounded() {
    let mut credit = Credit::default();
    for n in 0..MAX_STREAMS {
        assert!(credit.room(stream(n), TO, 44, n));
        credit.spend(stream(n), TO, 44, Instant::now());
    }
    assert!(!credit.room(stream(MAX_STREAMS), TO, 44, MAX_STREAMS));
    assert!(credit.room(stream(7), TO, 44, 7), "it has begun");
    assert_eq!(give(&mut credit, 3, 44), [MAX_STREAMS]);
    assert!(credit.room(stream(MAX_STREAMS), TO, 44, MAX_STREAMS));
}

/// A broker at the end of a way: each record's credit comes back when it has left for its recipient.
struct Way {
    credit: Credit<usize>,
    start: Instant,
    now: Duration,
    /// When each record comes to the broker, when it leaves, and when its credit is back; its stream.
    sent: VecDeque<(Duration, Duration, Duration, usize)>,
    free: Duration,
    /// The most that has waited at the broker.
    queued: u64,
}

impl Way {
    fn new() -> Self {
        Self {
            credit: Credit::default(),
            start: Instant::now(),
            now: Duration::ZERO,
            sent: VecDeque::new(),
            free: Duration::ZERO,
            queued: 0,
        }
    }

    /// Sends all it may of `streams` for `secs`, to a recipient that takes `rate` bytes per second; bytes per second.
    fn run(&mut self, streams: usize, secs: u64, rtt: Duration, rate: u64) -> Vec<u64> {
        self.queued = 0;
        let took = Duration::from_nanos(MOST * 1_000_000_000 / rate);
        let until = self.now + Duration::from_secs(secs);
        let mut sent = vec![0; streams];
        while self.now < until {
            let mut any = true;
            while any {
                any = false;
                for (n, sent) in sent.iter_mut().enumerate() {
                    if self.credit.room(stream(n), TO, MOST, n) {
                        self.credit.spend(stream(n), TO, MOST, self.start + self.now);
                        *sent += MOST;
                        any = true;
                        let comes = self.now + rtt / 2;
                        self.free = self.free.max(comes) + took;
                        self.sent.push_back((comes, self.free, self.free + rtt / 2, n));
                    }
                }
            }
            let queue = self.sent.iter().filter(|(c, l, ..)| *c <= self.now && *l > self.now);
            self.queued = self.queued.max(queue.count() as u64 * MOST);
            // In lumps, as the broker gives it.
            for _ in 0..4 {
                let Some((.., back, n)) = self.sent.pop_front() else { break };
                self.now = self.now.max(back);
                let _ = self.credit.give(stream(n), TO, MOST, self.start + self.now);
            }
        }
        sent.into_iter().map(|n| n / secs).collect()
    }
}

#[test]
fn a_long_way_widens_the_window() {
    const MB: u64 = 1_000_000;
    let rate = |rtt: u32| Way::new().run(1, 10, MS * rtt, 500 * MB)[0];
    assert!(rate(10) > 280 * MB, "{}", rate(10));
    // A stream of 1 MiB per round trip would have 26 and 5 MB/s.
    assert!(rate(40) > 85 * MB, "{}", rate(40));
    assert!(rate(200) > 17 * MB, "{}", rate(200));
}

#[test]
fn a_queue_at_the_broker_does_not() {
    const KB: u64 = 1_000;
    for (rtt, rate) in [(0, 100), (1, 2_000), (20, 10_000), (40, 1_000), (200, 500)] {
        let mut way = Way::new();
        let got = way.run(1, 30, MS * rtt, rate * KB)[0];
        assert!(got > rate * KB * 9 / 10, "{rtt} ms: {got}");
        assert!(way.queued <= STREAM_WINDOW, "{rtt} ms, {rate} KB/s: {} wait", way.queued);
    }
}

#[test]
fn a_recipient_that_becomes_slow_narrows_it_again() {
    let mut way = Way::new();
    way.run(1, 5, MS * 40, 200_000_000);
    assert!(way.credit.pairs[&TO].window > 3 << 20);
    way.run(1, 20, MS * 40, 2_000_000);
    assert_eq!(way.credit.pairs[&TO].window, STREAM_WINDOW);
    way.run(1, 5, MS * 40, 2_000_000);
    assert!(way.queued <= STREAM_WINDOW, "{}", way.queued);
}

#[test]
fn a_wide_stream_leaves_room_for_the_next() {
    let mut way = Way::new();
    way.run(1, 5, MS * 40, 500_000_000);
    let got = way.run(2, 10, MS * 40, 500_000_000);
    assert!(got[0].abs_diff(got[1]) < got[0] / 5, "{got:?}");
}
