use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn to(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

fn line(sender: u64, stream: u8, recipient: u8) -> Line {
    Line { sender, stream: StreamId([stream; 16]), to: to(recipient) }
}

/// Credit goes to the sender's number; a record is its number within its line.
type Model = Queue<u64, u64>;

fn push(queue: &mut Model, line: Line, record: u64, len: u64) -> Result<bool, Refused> {
    queue.push(line, &line.sender, record, len, Untold::default())
}

#[test]
fn what_a_sender_is_not_told_of_counts_in_its_windows() {
    let mut queue = Model::default();
    let mut owed = Owed::<u8>::default();
    let mut try_push = |stream, len, owed: &Owed<u8>| {
        let line = line(1, stream, 9);
        queue.push(line, &1, 0, len, owed.untold(line.stream, line.to)).is_ok()
    };
    let id = |n| StreamId([n; 16]);
    owed.give(id(1), to(9), STREAM_WINDOW - 1_000);
    assert!(try_push(1, 1_000, &owed) && !try_push(1, 44, &owed), "its own");
    for n in 2..=4 {
        owed.give(id(n), to(9), STREAM_WINDOW);
    }
    assert!(!try_push(5, 44, &owed), "all to that recipient");
    assert_eq!(owed.untold(id(5), to(8)), Untold::default());
    assert_eq!(owed.take().count(), 4);
    assert!(try_push(1, 1_000, &owed) && try_push(5, 44, &owed), "it is told");
}

#[test]
fn a_stream_and_a_pair_have_their_windows_and_others_have_theirs() {
    let mut queue = Model::default();
    let len = 32 << 10;
    for n in 0..STREAM_WINDOW / len {
        assert_eq!(push(&mut queue, line(1, 1, 9), n, len), Ok(n == 0));
    }
    assert_eq!(push(&mut queue, line(1, 1, 9), 99, 44), Err(Refused::Full));
    for stream in 2..=4 {
        for n in 0..STREAM_WINDOW / len {
            assert_eq!(push(&mut queue, line(1, stream, 9), n, len), Ok(false));
        }
    }
    assert_eq!(queue.bytes(), PAIR_WINDOW);
    assert_eq!(push(&mut queue, line(1, 5, 9), 0, 44), Err(Refused::Full));
    // Another identity behind the same socket, and another sender.
    assert_eq!(push(&mut queue, line(1, 5, 8), 0, 44), Ok(false));
    assert_eq!(push(&mut queue, line(2, 5, 9), 0, 44), Ok(false));
    let (_, left, ..) = queue.pop().unwrap();
    assert_eq!(push(&mut queue, left, 99, len), Ok(false));
}

#[test]
fn the_number_of_streams_is_bounded() {
    let mut queue = Model::default();
    let nth = |n: usize| {
        let mut stream = [0; 16];
        stream[..8].copy_from_slice(&n.to_be_bytes());
        Line { sender: 1, stream: StreamId(stream), to: to(1) }
    };
    for n in 0..MAX_STREAMS {
        push(&mut queue, nth(n), 0, 44).unwrap();
    }
    assert_eq!(push(&mut queue, nth(MAX_STREAMS), 0, 44), Err(Refused::Full));
    push(&mut queue, nth(0), 0, 44).unwrap();
    assert_eq!(queue.streams(), MAX_STREAMS);
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
        let (_, line, _, len) = queue.pop().unwrap();
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
    let before = (0..).take_while(|_| queue.pop().unwrap().1.stream.0[0] == 1).count();
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
    assert!(!owed.give(id(1), to(1), LUMP - 1));
    assert!(owed.is_any() && !owed.is_due());
    assert!(owed.give(id(1), to(1), 1), "a lump of one stream");
    assert!(!owed.give(id(1), to(1), 1), "due already");
    assert_eq!(owed.take().collect::<Vec<_>>(), [(id(1), to(1), LUMP + 1)]);
    assert!(!owed.is_any() && !owed.is_due());
    let mut streams = 0;
    while !owed.give(id(streams), to(1), LUMP / 2) {
        streams += 1;
    }
    assert_eq!(streams + 1, HEAP / (LUMP / 2), "little of many streams");
    assert_eq!(owed.take().map(|(_, _, n)| n).sum::<u64>(), HEAP);
    for n in 0..=MAX_DEBTS {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        assert_eq!(owed.give(id(1), PublicKey(key), 1), n + 1 == DEBTS);
    }
    assert!(owed.is_overfull());
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

/// Of a line: records pushed, those popped, bytes sent, bytes that came back as credit.
type Told = (u64, Vec<u64>, u64, u64);

#[derive(Clone, Debug)]
enum Step {
    Push(u8, u8, u8, u64),
    Pop,
    Tell,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![44..200_u64, 30_000..=32_768_u64];
    prop_oneof![
        6 => (0..3_u8, 0..6_u8, 0..2_u8, len).prop_map(|(s, n, to, len)| Step::Push(s, n, to, len)),
        4 => Just(Step::Pop),
        1 => Just(Step::Tell),
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
                    let entry = numbers.entry(key(&line)).or_default();
                    entry.0 += 1;
                    entry.2 += len;
                    let number = entry.0;
                    if push(&mut queue, line, number, len).is_err() {
                        owed[usize::from(sender)].give(line.stream, line.to, len);
                    }
                }
                Step::Pop => {
                    if let Some((number, line, sender, len)) = queue.pop() {
                        prop_assert_eq!(sender, line.sender);
                        numbers.get_mut(&key(&line)).unwrap().1.push(number);
                        let at = usize::try_from(sender).unwrap();
                        owed[at].give(line.stream, line.to, len);
                    }
                }
                Step::Tell => for (sender, owed) in owed.iter_mut().enumerate() {
                    for (stream, to, bytes) in owed.take() {
                        let key = (u64::try_from(sender).unwrap(), stream.0[0], to.0[0]);
                        numbers.get_mut(&key).unwrap().3 += bytes;
                    }
                },
            }
            let held: u64 = queue.lines.values().map(|w| w.bytes).sum();
            prop_assert_eq!(held, queue.bytes());
            prop_assert!(queue.lines.values().all(|w| w.bytes <= STREAM_WINDOW && !w.records.is_empty()));
            prop_assert!(queue.pairs.values().all(|p| p.bytes <= PAIR_WINDOW));
            prop_assert_eq!(queue.pairs.values().map(|p| p.lines).sum::<usize>(), queue.streams());
            prop_assert_eq!(queue.turns.len(), queue.streams());
        }
        if close {
            for (line, sender, bytes) in queue.close() {
                owed[usize::try_from(sender).unwrap()].give(line.stream, line.to, bytes);
            }
        } else {
            while let Some((number, line, sender, len)) = queue.pop() {
                numbers.get_mut(&key(&line)).unwrap().1.push(number);
                owed[usize::try_from(sender).unwrap()].give(line.stream, line.to, len);
            }
            prop_assert!(queue.pairs.is_empty());
        }
        for (sender, owed) in owed.iter_mut().enumerate() {
            for (stream, to, bytes) in owed.take() {
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
