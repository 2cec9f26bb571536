use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn counter(n: u8) -> Counter {
    Counter {
        mesh: MeshId([0; 32]),
        author: PublicKey([n; 32]),
        instance: InstanceId([n; 16]),
        target: Target::Member { key: PublicKey([9; 32]) },
        priority: Priority::Next,
    }
}

fn at(seq: u64, floor: u64) -> Waiting {
    Waiting { counter: counter(1), seq, floor, row: i64::try_from(seq).unwrap() }
}

/// A book that has surfaced number 1 of counter 1.
fn started() -> OrderBook {
    let mut book = OrderBook::default();
    assert_eq!(book.on_message(0, at(1, 1)), [1]);
    book
}

const HOLD: u64 = 5_000;

#[test]
fn first_contact_never_waits() {
    let mut book = OrderBook::default();
    assert_eq!(book.on_message(0, at(40, 1)), [40]);
    assert_eq!(book.next_deadline(), None);
}

#[test]
fn numbers_in_a_row_surface_at_once() {
    let mut book = started();
    for seq in 2..50 {
        assert_eq!(book.on_message(0, at(seq, 1)), [i64::try_from(seq).unwrap()]);
    }
    assert_eq!(book.held(), 0);
}

#[test]
fn a_hole_holds_until_it_is_filled() {
    let mut book = started();
    assert!(book.on_message(10, at(3, 1)).is_empty());
    assert!(book.on_message(20, at(4, 1)).is_empty());
    assert_eq!(book.next_deadline(), Some(10 + HOLD));
    assert_eq!(book.on_message(30, at(2, 1)), [2, 3, 4]);
    assert_eq!((book.held(), book.next_deadline()), (0, None));
}

#[test]
fn a_hole_holds_five_seconds_and_no_longer() {
    let mut book = started();
    assert!(book.on_message(10, at(3, 1)).is_empty());
    assert!(book.poll(10 + HOLD - 1).is_empty());
    assert_eq!(book.poll(10 + HOLD), [3]);
    // The late one surfaces at once: only ids suppress.
    assert_eq!(book.on_message(9_000, at(2, 1)), [2]);
    assert_eq!(book.on_message(9_000, at(4, 1)), [4]);
}

#[test]
fn what_came_later_with_a_lower_number_surfaces_first_when_the_hold_ends() {
    let mut book = started();
    assert!(book.on_message(0, at(9, 1)).is_empty());
    assert!(book.on_message(4_000, at(8, 1)).is_empty());
    assert!(book.on_message(4_000, at(11, 1)).is_empty());
    assert_eq!(book.poll(HOLD), [8, 9]);
    assert_eq!(book.next_deadline(), Some(4_000 + HOLD));
    assert_eq!(book.poll(4_000 + HOLD), [11]);
}

#[test]
fn holes_below_the_floor_never_block() {
    let mut book = started();
    assert_eq!(book.on_message(0, at(7, 7)), [7]);
    assert!(book.on_message(0, at(20, 10)).is_empty(), "10 to 19 may still come");
    // 8 lies below the floor of 10 by now.
    assert_eq!(book.on_message(0, at(9, 8)), [9]);
}

#[test]
fn a_higher_floor_frees_what_waited_for_lower_numbers() {
    let mut book = started();
    assert!(book.on_message(0, at(3, 1)).is_empty(), "waits for 2");
    assert!(book.on_message(0, at(6, 1)).is_empty(), "waits for 2, 4, 5");
    // The author gave 2, 4 and 5 up.
    assert_eq!(book.on_message(0, at(7, 6)), [3, 6, 7]);
}

#[test]
fn an_old_number_with_a_higher_floor_frees_too() {
    let mut book = started();
    assert!(book.on_message(0, at(3, 1)).is_empty());
    // An instance that numbers twice is at fault, but its floor is its word.
    let odd = Waiting { floor: 3, row: 100, ..at(1, 3) };
    assert_eq!(book.on_message(0, odd), [100, 3]);
}

#[test]
fn two_messages_of_one_number_both_surface() {
    let mut book = started();
    assert!(book.on_message(0, at(3, 1)).is_empty());
    assert!(book.on_message(0, Waiting { row: 33, ..at(3, 1) }).is_empty());
    assert_eq!(book.on_message(0, at(2, 1)), [2, 3, 33]);
    assert_eq!(book.on_message(0, Waiting { row: 333, ..at(3, 1) }), [333]);
}

#[test]
fn counters_do_not_wait_for_each_other() {
    let mut book = started();
    assert!(book.on_message(0, at(3, 1)).is_empty());
    let other = Waiting { counter: counter(2), ..at(5, 1) };
    assert_eq!(book.on_message(0, other), [5]);
    let urgent = Counter { priority: Priority::Now, ..counter(1) };
    assert_eq!(book.on_message(0, Waiting { counter: urgent, ..at(8, 1) }), [8]);
    assert_eq!(book.held(), 1);
}

#[test]
fn a_counter_holds_a_bounded_number_and_the_oldest_surface_first() {
    let bounds = Bounds { per_counter: 3, ..Bounds::default() };
    let mut book = OrderBook::with_bounds(bounds);
    assert_eq!(book.on_message(0, at(1, 1)), [1]);
    for seq in [10, 5, 20] {
        assert!(book.on_message(0, at(seq, 1)).is_empty());
    }
    // 10 waited longest; 5 surfaces in front of it to keep the order.
    assert_eq!(book.on_message(0, at(30, 1)), [5, 10]);
    assert_eq!(book.held(), 2);
}

#[test]
fn the_total_is_bounded_across_counters() {
    let bounds = Bounds { total: 4, ..Bounds::default() };
    let mut book = OrderBook::with_bounds(bounds);
    let mut out = 0;
    for n in 0..20 {
        out += book.on_message(0, Waiting { counter: counter(n), ..at(1, 1) }).len();
        out += book.on_message(u64::from(n), Waiting { counter: counter(n), ..at(3, 1) }).len();
        assert!(book.held() <= 4);
    }
    assert_eq!(out + book.poll(u64::MAX).len(), 40);
}

#[test]
fn counters_are_bounded_and_those_with_held_rows_are_kept() {
    let bounds = Bounds { counters: 8, ..Bounds::default() };
    let mut book = OrderBook::with_bounds(bounds);
    let waits = Waiting { counter: counter(200), ..at(1, 1) };
    assert_eq!(book.on_message(0, waits.clone()).len(), 1);
    assert!(book.on_message(0, Waiting { seq: 3, row: 3, ..waits }).is_empty());
    for n in 0..100 {
        assert_eq!(book.on_message(0, Waiting { counter: counter(n), ..at(1, 1) }).len(), 1);
        assert!(book.lines.len() <= 8, "{}", book.lines.len());
    }
    assert_eq!(book.poll(HOLD), [3]);
}

#[test]
fn a_restart_goes_on_from_cursors_and_held_rows() {
    let cursors = [(counter(1), 4), (counter(2), 1)];
    let held = [at(5, 1), at(8, 1), Waiting { counter: counter(3), row: 70, ..at(7, 1) }];
    let (mut book, now) = OrderBook::restore(Bounds::default(), cursors, held, 100);
    assert_eq!(now, [5, 70], "5 follows 4; 7 is a first contact; 8 waits for 6");
    assert_eq!(book.next_deadline(), Some(100 + HOLD));
    assert!(book.on_message(100, at(7, 1)).is_empty());
    assert_eq!(book.on_message(200, at(6, 1)), [6, 7, 8]);
    assert_eq!(book.on_message(200, at(3, 1)), [3], "below the last surfaced");
}

#[test]
fn numbers_at_the_end_of_the_range_do_not_overflow() {
    let mut book = OrderBook::default();
    let top = Waiting { seq: u64::MAX, floor: u64::MAX, row: 1, counter: counter(1) };
    assert_eq!(book.on_message(u64::MAX, top.clone()), [1]);
    assert_eq!(book.on_message(u64::MAX, Waiting { row: 2, ..top }), [2]);
}

/// What the design's sentence says, done the slow way.
#[derive(Default)]
struct Model {
    last: Option<u64>,
    floor: u64,
    /// (seq, arrival, row, deadline)
    held: Vec<(u64, usize, i64, u64)>,
    arrivals: usize,
}

impl Model {
    fn on_message(&mut self, now: u64, seq: u64, floor: u64, row: i64) -> Vec<i64> {
        self.arrivals += 1;
        self.floor = self.floor.max(floor);
        let Some(last) = self.last else {
            self.last = Some(seq);
            return vec![row];
        };
        let mut out = Vec::new();
        if seq <= last {
            out.push(row);
        } else {
            self.held.push((seq, self.arrivals, row, now + HOLD));
            self.held.sort_unstable();
        }
        self.release(now, &mut out);
        out
    }

    fn release(&mut self, now: u64, out: &mut Vec<i64>) {
        while let Some(&(seq, _, row, _)) = self.held.first() {
            let last = self.last.unwrap();
            let hole = (last + 1..seq).any(|n| n >= self.floor);
            // Whoever is over its hold lets all with lower numbers go first.
            let over = self.held.iter().any(|&(_, _, _, deadline)| deadline <= now);
            if hole && !over {
                break;
            }
            self.held.remove(0);
            self.last = Some(last.max(seq));
            out.push(row);
        }
    }
}

#[derive(Debug, Clone)]
struct Sent {
    seq: u64,
    floor: u64,
    arrives: u64,
    copies: usize,
}

/// A sender's stream: each message is lost, or arrives after some delay, perhaps twice; floors rise
/// when the sender gives lost ones up.
fn streams() -> impl Strategy<Value = Vec<Sent>> {
    let one = (0..4u8, 0..8_000u64, 1..3usize, any::<bool>());
    prop::collection::vec(one, 1..40).prop_map(|raw| {
        let mut floor = 1;
        let mut sent = Vec::new();
        for (i, (lost, delay, copies, gives_up)) in raw.into_iter().enumerate() {
            let seq = i as u64 + 1;
            if gives_up {
                floor = floor.max(seq.saturating_sub(delay % 5)).max(1);
            }
            let copies = if lost == 0 { 0 } else { copies };
            sent.push(Sent { seq, floor, arrives: seq * 20 + delay, copies });
        }
        sent
    })
}

proptest! {
    #[test]
    fn the_book_agrees_with_the_model(stream in streams()) {
        let mut events: Vec<(u64, Sent, i64)> = Vec::new();
        for s in &stream {
            for copy in 0..s.copies {
                let row = i64::try_from(s.seq).unwrap();
                events.push((s.arrives + 37 * copy as u64, s.clone(), row));
            }
        }
        events.sort_by_key(|(when, s, _)| (*when, s.seq));
        let (mut book, mut model) = (OrderBook::default(), Model::default());
        let (mut seen, mut surfaced) = (HashSet::new(), Vec::new());
        let arrived: HashSet<i64> = events.iter().map(|(_, _, row)| *row).collect();
        for (now, s, row) in events {
            while let Some(due) = book.next_deadline().filter(|due| *due <= now) {
                let mut expected = Vec::new();
                model.release(due, &mut expected);
                let got = book.poll(due);
                prop_assert_eq!(&got, &expected);
                surfaced.extend(got);
            }
            // The store suppresses second copies by id.
            if !seen.insert(row) {
                continue;
            }
            let got = book.on_message(now, Waiting { row, ..at(s.seq, s.floor) });
            let expected = model.on_message(now, s.seq, s.floor, row);
            prop_assert_eq!(&got, &expected);
            surfaced.extend(got);
        }
        surfaced.extend(book.poll(u64::MAX));
        prop_assert_eq!(book.held(), 0);
        let once: HashSet<i64> = surfaced.iter().copied().collect();
        prop_assert_eq!(once.len(), surfaced.len(), "a row surfaced twice");
        prop_assert_eq!(once, arrived);
    }

    #[test]
    fn what_arrives_within_the_hold_surfaces_in_order(
        order in Just((2..30u64).collect::<Vec<_>>()).prop_shuffle(),
        lost in prop::collection::hash_set(2..30u64, 0..6),
    ) {
        let mut book = started();
        let mut out = Vec::new();
        for (i, seq) in order.into_iter().filter(|seq| !lost.contains(seq)).enumerate() {
            out.extend(book.on_message(i as u64, at(seq, 1)));
        }
        out.extend(book.poll(HOLD + 100));
        prop_assert!(out.is_sorted(), "{:?}", out);
        prop_assert_eq!(out.len(), 28 - lost.len());
    }
}
