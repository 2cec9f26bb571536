use std::collections::BTreeMap;

use proptest::prelude::*;

use meshwire_signaling::stream::carry::{MAX_STREAMS, PAIR_WINDOW};
use meshwire_signaling::{PublicKey, StreamId};

use super::owed::{DEBTS, HEAP, LUMP, MAX_DEBTS, NOTICES, SMALL_HEAP};
use super::queue::QUANTUM;
use super::*;

const MIB: u64 = 1 << 20;

fn to(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

/// Each socket is another member's.
fn line(sender: u64, stream: u8, recipient: u8) -> Line {
    let member = PublicKey([u8::try_from(sender).unwrap(); 32]);
    Line { member, sender, stream: StreamId([stream; 16]), to: to(recipient) }
}

/// The `n`th of many streams.
fn nth(n: usize) -> StreamId {
    let mut stream = [0; 16];
    stream[..8].copy_from_slice(&n.to_be_bytes());
    StreamId(stream)
}

/// Credit goes to the sender's number; a record is its number within its line.
type Model = Queue<u64, u64>;

fn push(queue: &mut Model, line: Line, record: u64, len: u64) -> Result<bool, Refused> {
    queue.push(line, &line.sender, record, len, 0)
}

#[test]
fn what_a_sender_is_not_told_of_counts_in_its_window() {
    let mut queue = Model::default();
    let mut owed = Owed::<u8>::default();
    let mut try_push = |to, len, owed: &Owed<u8>| {
        let line = line(1, 1, to);
        queue.push(line, &1, 0, len, owed.untold(&line.to)).is_ok()
    };
    let id = |n| StreamId([n; 16]);
    owed.give(id(1), to(9), PAIR_WINDOW - 2_000, false);
    owed.give(id(2), to(9), 1_000, true);
    assert!(try_push(9, 1_000, &owed) && !try_push(9, 44, &owed), "all to that recipient");
    assert!(try_push(8, 44, &owed), "others have their own");
    assert_eq!(owed.take(false).collect::<Vec<_>>(), [(id(2), to(9), 1_000)]);
    assert!(try_push(9, 1_000, &owed) && !try_push(9, 44, &owed), "a part is told");
    assert_eq!(owed.take(true).count(), 1);
    assert!(try_push(9, 1_000, &owed), "it is told");
}

#[test]
fn a_pair_has_its_window_and_others_have_theirs() {
    let mut queue = Model::default();
    let len = 32 << 10;
    for n in 0..PAIR_WINDOW / len {
        let line = line(1, u8::try_from(n % 5).unwrap(), 9);
        assert_eq!(push(&mut queue, line, n, len), Ok(n == 0));
    }
    assert_eq!(queue.bytes(), PAIR_WINDOW);
    for stream in [1, 7] {
        assert_eq!(push(&mut queue, line(1, stream, 9), 99, 44), Err(Refused::Full));
    }
    // Another identity behind the same socket, and another sender.
    assert_eq!(push(&mut queue, line(1, 5, 8), 0, 44), Ok(false));
    assert_eq!(push(&mut queue, line(2, 5, 9), 0, 44), Ok(false));
    let left = queue.pop().unwrap().line;
    assert_eq!(push(&mut queue, left, 99, len), Ok(false));
}

#[test]
fn the_number_of_streams_is_bounded() {
    let mut queue = Model::default();
    let nth = |n| Line { stream: nth(n), ..line(1, 0, 1) };
    for n in 0..MAX_STREAMS {
        push(&mut queue, nth(n), 0, 44).unwrap();
    }
    assert_eq!(push(&mut queue, nth(MAX_STREAMS), 0, 44), Err(Refused::Full));
    push(&mut queue, nth(0), 0, 44).unwrap();
    assert_eq!(queue.streams(), MAX_STREAMS);
}

#[test]
fn members_share_alike_whatever_the_number_of_their_streams_and_sockets() {
    const STREAMS: usize = 1_000;
    let mut queue = Model::default();
    let many = |n: usize| {
        // Four sockets of one member.
        let sender = u64::try_from(10 + n % 4).unwrap();
        Line { sender, stream: nth(n), ..line(1, 0, 1) }
    };
    let lone = line(2, 1, 1);
    for n in 0..STREAMS {
        push(&mut queue, many(n), 0, 2_000).unwrap();
        push(&mut queue, many(n), 0, 2_000).unwrap();
    }
    let mut sent = [0_u64; 2];
    for _ in 0..20_000 {
        while queue.lines.get(&lone).is_none_or(|w| w.bytes < 100_000) {
            push(&mut queue, lone, 0, 9_000).unwrap();
        }
        let Popped { line, len, .. } = queue.pop().unwrap();
        sent[usize::from(line.member == lone.member)] += len;
        if line.member != lone.member {
            push(&mut queue, line, 0, len).unwrap();
        }
        assert!(sent[0].abs_diff(sent[1]) <= 3 * QUANTUM, "{sent:?}");
    }
    // Its streams share alike what it has.
    let mut each = vec![0_u64; STREAMS];
    for _ in 0..4 * STREAMS {
        let Popped { line, len, .. } = queue.pop().unwrap();
        push(&mut queue, line, 0, len).unwrap();
        if line.member != lone.member {
            let n = line.stream.0[..8].iter().fold(0, |sum, b| sum * 256 + usize::from(*b));
            each[n] += len;
        }
    }
    let (most, least) = (each.iter().max().unwrap(), each.iter().min().unwrap());
    assert!(most - least <= 2 * QUANTUM, "{most} {least}");
}

#[test]
fn nobody_takes_all_of_the_memory() {
    const RECORD: u64 = 33_000;
    let limit = 256 << 20;
    let fill = |own: &mut u64, used: u64| {
        while admits(*own, RECORD, used + *own, limit) {
            *own += RECORD;
        }
    };
    for hogs in [1_u64, 4, 100] {
        // Together: each takes a record at its turn.
        let mut own = vec![0; usize::try_from(hogs).unwrap()];
        loop {
            let used = own.iter().sum();
            let Some(least) = own.iter_mut().min() else { break };
            if !admits(*least, RECORD, used, limit) {
                break;
            }
            *least += RECORD;
        }
        let (most, least) = (own.iter().max().unwrap(), own.iter().min().unwrap());
        let share = limit / (hogs + 8);
        assert!(most - least <= RECORD && share.abs_diff(*most) <= 2 * RECORD, "{most} {least}");
        let mut fresh = 0;
        fill(&mut fresh, own.iter().sum());
        assert!(fresh > share * 3 / 4, "{hogs}: {fresh} of {share}");
    }
    // One by one: twenty leave the windows of two streams.
    let mut used = 0;
    for _ in 0..20 {
        let mut own = 0;
        fill(&mut own, used);
        used += own;
    }
    let mut fresh = 0;
    fill(&mut fresh, used);
    assert!(fresh > 2 << 20, "{fresh}");
    assert!(!admits(0, 1, u64::MAX, limit) && !admits(u64::MAX, u64::MAX, 0, limit));
}

#[test]
fn bytes_are_fair_between_streams_whatever_their_records() {
    let mut queue = Model::default();
    let sizes = [32_768, 1_000, 20_000, 44];
    let mut sent = [0_u64; 4];
    for _ in 0..20_000 {
        for (n, len) in sizes.into_iter().enumerate() {
            let line = line(1, u8::try_from(n).unwrap(), 1);
            while queue.lines.get(&line).is_none_or(|w| w.bytes < 70_000) {
                push(&mut queue, line, 0, len).unwrap();
            }
        }
        let Popped { line, len, .. } = queue.pop().unwrap();
        sent[usize::from(line.stream.0[0])] += len;
    }
    let (most, least) = (sent.iter().max().unwrap(), sent.iter().min().unwrap());
    assert!(most - least <= 3 * QUANTUM, "{sent:?}");
}

#[test]
fn one_record_passes_a_full_window_of_another_stream() {
    let mut queue = Model::default();
    for n in 0..32 {
        push(&mut queue, line(1, 1, 1), n, 32_768).unwrap();
    }
    push(&mut queue, line(1, 2, 1), 0, 100).unwrap();
    let before = (0..).take_while(|_| queue.pop().unwrap().line.stream.0[0] == 1).count();
    assert!(before <= 2, "{before}");
}

#[test]
fn a_closed_queue_gives_all_back_and_takes_no_more() {
    let mut queue = Model::default();
    push(&mut queue, line(1, 1, 1), 0, 500).unwrap();
    push(&mut queue, line(1, 1, 1), 1, 700).unwrap();
    push(&mut queue, line(2, 1, 1), 0, 90).unwrap();
    let mut back = queue.close();
    back.sort_by_key(|b| b.1);
    assert_eq!(back, [(line(1, 1, 1), 1, 1_200), (line(2, 1, 1), 2, 90)]);
    assert_eq!((queue.bytes(), queue.streams()), (0, 0));
    assert!(queue.pop().is_none());
    assert_eq!(push(&mut queue, line(1, 1, 1), 2, 44), Err(Refused::Closed));
}

#[test]
fn credit_is_told_in_lumps_and_before_anybody_waits_for_it() {
    let mut owed = Owed::<u8>::default();
    let id = |n: u64| StreamId([u8::try_from(n).unwrap(); 16]);
    assert!(owed.give(id(1), to(1), LUMP - 1, false), "the first of it");
    assert!(owed.is_any(true) && !owed.is_due(true));
    assert!(owed.give(id(1), to(1), 1, false), "a lump of one stream");
    assert!(owed.is_due(true));
    assert!(!owed.give(id(1), to(1), 1, false), "due already");
    assert_eq!(owed.take(true).collect::<Vec<_>>(), [(id(1), to(1), LUMP + 1)]);
    assert!(!owed.is_any(true) && !owed.is_due(true));
    let mut streams = 0;
    while !owed.is_due(true) {
        owed.give(id(streams), to(1), LUMP / 2, false);
        streams += 1;
    }
    assert_eq!(streams, HEAP / (LUMP / 2), "little of many streams");
    assert_eq!(owed.take(true).map(|(_, _, n)| n).sum::<u64>(), HEAP);
    for n in 0..=MAX_DEBTS {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        let news = owed.give(id(1), PublicKey(key), 1, n % 2 == 1);
        assert_eq!(
            news,
            n < 2 || n + 1 == DEBTS || n == 2 * usize::try_from(SMALL_HEAP).unwrap() - 1
        );
    }
    assert!(owed.is_overfull());
}

#[test]
fn what_is_free_is_told_whatever_waits_for_the_quota() {
    let mut owed = Owed::<u8>::default();
    let id = |n| StreamId([n; 16]);
    owed.give(id(1), to(1), HEAP, false);
    assert!(owed.is_due(true) && !owed.is_due(false) && !owed.is_any(false));
    assert!(owed.give(id(1), to(1), 74, true), "the first of it");
    assert!(owed.is_any(false) && !owed.is_due(false));
    assert!(!owed.give(id(2), to(1), 74, true));
    assert!(owed.give(id(2), to(1), SMALL_HEAP, true) && owed.is_due(false));
    assert_eq!(owed.untold(&to(1)), HEAP + 148 + SMALL_HEAP);
    assert_eq!(owed.take(false).map(|(_, _, n)| n).sum::<u64>(), 148 + SMALL_HEAP);
    assert_eq!(owed.untold(&to(1)), HEAP);
    assert!(!owed.is_any(false) && !owed.is_due(false) && owed.is_due(true));
    assert_eq!(owed.take(true).collect::<Vec<_>>(), [(id(1), to(1), HEAP)]);
    assert_eq!(owed.untold(&to(1)), 0);
}

#[test]
fn notices_are_few_and_said_once() {
    let mut owed = Owed::default();
    assert!(owed.notice(0));
    assert!(!owed.notice(0) && owed.notices() == [0]);
    for n in 0..1_000 {
        assert_eq!(owed.notice(n), n == 0);
    }
    assert_eq!(owed.notices().len(), NOTICES);
    assert!(!owed.has_notices());
}

#[test]
fn credit_waits_for_who_is_too_fast() {
    let mut quota = Quota::new(MIB);
    quota.charge(MIB, 0);
    assert_eq!(quota.wait(0), 0, "a second's worth at once");
    quota.charge(MIB / 2, 0);
    assert_eq!(quota.wait(0), 500);
    assert_eq!(quota.wait(499), 1);
    assert_eq!(quota.wait(500), 0);
    // Who was silent has saved no more than that.
    quota.charge(2 * MIB, 100_000);
    assert_eq!(quota.wait(100_000), 1_000);
    quota.charge(u64::MAX, u64::MAX);
    let _ = quota.wait(0);
}

#[test]
fn control_records_have_a_little_rate_of_their_own() {
    let mut quota = Quota::new(1_000);
    quota.charge(MIB, 0);
    let waits = quota.wait(0);
    assert!(waits > 1_000_000);
    let mut free = 0;
    while quota.charge_control(74, 0) {
        free += 74;
    }
    assert!((16_384..32_768).contains(&free), "{free}");
    assert_eq!(quota.wait(0), waits, "what is free is not charged");
    assert!(quota.charge_control(74, 1_000) && quota.charge_control(74, 1_000));
    let mut fast = Quota::new(1 << 30);
    assert!((0..800_000).all(|_| fast.charge_control(80, 0)), "a part of a larger rate");
}

/// Of a line: records pushed, those popped, bytes sent, bytes that came back as credit.
type Told = (u64, Vec<u64>, u64, u64);

/// What a sender has at the broker, by its own count.
fn outstanding(numbers: &BTreeMap<(u64, u8, u8), Told>, sender: u64, to: u8) -> (u64, usize) {
    let of = numbers.iter().filter(|((s, _, t), _)| (*s, *t) == (sender, to));
    let open = of.map(|(_, (_, _, sent, back))| sent - back).filter(|n| *n > 0);
    open.fold((0, 0), |(sum, count), n| (sum + n, count + 1))
}

#[derive(Clone, Debug)]
enum Step {
    Push(u8, u8, u8, u64),
    Pop,
    Tell(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![1 => 44..200_u64, 3 => 30_000..=32_768_u64];
    prop_oneof![
        12 => (0..2_u8, 0..6_u8, len).prop_map(|(s, n, len)| Step::Push(s, n, 0, len)),
        2 => (0..3_u8, 0..6_u8, 0..2_u8, 44..200_u64)
            .prop_map(|(s, n, to, len)| Step::Push(s, n, to, len)),
        7 => Just(Step::Pop),
        1 => any::<bool>().prop_map(Step::Tell),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Senders that keep to their windows lose nothing; those that do not never make it hold more. Order is kept,
    /// and each byte comes back as credit once, also of what was dropped.
    #[test]
    fn windows_order_and_credit(steps in prop::collection::vec(step(), 1..2_500), close in any::<bool>()) {
        let mut queue = Model::default();
        let mut owed: Vec<Owed<()>> = (0..3).map(|_| Owed::default()).collect();
        let mut numbers: BTreeMap<(u64, u8, u8), Told> = BTreeMap::new();
        let key = |l: &Line| (l.sender, l.stream.0[0], l.to.0[0]);
        for step in steps {
            match step {
                Step::Push(sender, stream, recipient, len) => {
                    let line = line(sender.into(), stream, recipient);
                    let (held, _) = outstanding(&numbers, sender.into(), recipient);
                    // One of them is honest.
                    if sender == 0 && held + len > PAIR_WINDOW {
                        continue;
                    }
                    let entry = numbers.entry(key(&line)).or_default();
                    entry.0 += 1;
                    entry.2 += len;
                    let number = entry.0;
                    let debt = &mut owed[usize::from(sender)];
                    let untold = debt.untold(&line.to);
                    let taken = queue.push(line, &line.sender, number, len, untold);
                    prop_assert!(taken.is_ok() || held + len > PAIR_WINDOW, "lost within the window");
                    if taken.is_err() {
                        debt.give(line.stream, line.to, len, false);
                    }
                }
                Step::Pop => {
                    if let Some(Popped { record: number, line, sender, len }) = queue.pop() {
                        prop_assert_eq!(sender, line.sender);
                        numbers.get_mut(&key(&line)).unwrap().1.push(number);
                        let at = usize::try_from(sender).unwrap();
                        owed[at].give(line.stream, line.to, len, len < 200);
                    }
                }
                Step::Tell(all) => for (sender, owed) in owed.iter_mut().enumerate() {
                    for (stream, to, bytes) in owed.take(all) {
                        let key = (u64::try_from(sender).unwrap(), stream.0[0], to.0[0]);
                        numbers.get_mut(&key).unwrap().3 += bytes;
                    }
                },
            }
            let held: u64 = queue.lines.values().map(|w| w.bytes).sum();
            prop_assert_eq!(held, queue.bytes());
            prop_assert!(queue.lines.values().all(|w| !w.records.is_empty()));
            prop_assert!(queue.pairs.values().all(|p| p.bytes <= PAIR_WINDOW));
            prop_assert_eq!(queue.pairs.values().map(|p| p.lines).sum::<usize>(), queue.streams());
            let turns = queue.members.values().map(|m| m.turns.len());
            prop_assert_eq!(turns.sum::<usize>(), queue.streams());
            prop_assert!(queue.members.values().all(|m| !m.turns.is_empty()));
        }
        if close {
            for (line, sender, bytes) in queue.close() {
                owed[usize::try_from(sender).unwrap()].give(line.stream, line.to, bytes, false);
            }
        } else {
            while let Some(Popped { record: number, line, sender, len }) = queue.pop() {
                numbers.get_mut(&key(&line)).unwrap().1.push(number);
                owed[usize::try_from(sender).unwrap()].give(line.stream, line.to, len, false);
            }
            prop_assert!(queue.pairs.is_empty() && queue.members.is_empty());
        }
        for (sender, owed) in owed.iter_mut().enumerate() {
            for (stream, to, bytes) in owed.take(true) {
                let key = (u64::try_from(sender).unwrap(), stream.0[0], to.0[0]);
                numbers.get_mut(&key).unwrap().3 += bytes;
            }
        }
        for (_, popped, sent, back) in numbers.into_values() {
            prop_assert!(popped.is_sorted_by(|a, b| a < b));
            prop_assert_eq!(sent, back);
        }
    }
}
