//! How streams end.

use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use super::super::{Budget, LinkId, Read, Stream, StreamError, Windows};
use super::sim::{Hostile, Sim, data};
use super::{FRESH, ends, secret};
use crate::link::PathKind;

const S: Duration = Duration::from_secs(1);

/// A stream in the middle of much data, both ways.
fn busy(seed: u64) -> Sim {
    let mut sim = Sim::new(seed, &[Windows::default()]);
    for side in 0..2 {
        sim.apps[side][0].send = data(seed + side as u64, 20_000_000);
    }
    sim.up(PathKind::Relay, 20, 1_000_000);
    sim.run(2 * S);
    sim
}

fn error(sim: &Sim, side: usize) -> StreamError {
    sim.streams[side][0].error().cloned().expect("it has failed")
}

/// What was read is the beginning of what was sent, and no end was seen.
fn check_cut(sim: &Sim) {
    for side in 0..2 {
        let (from, to) = (&sim.apps[side][0], &sim.apps[1 - side][0]);
        assert!(from.send.starts_with(&to.got) && to.got.len() < from.send.len());
        assert!(!to.ended && to.failed.is_some());
    }
}

#[test]
fn an_empty_stream_ends_at_once() {
    let mut sim = Sim::new(1, &[Windows::default()]);
    sim.up(PathKind::Relay, 20, 1_000_000);
    let began = sim.now;
    sim.run_until_over(5 * S);
    sim.check_whole();
    assert!(sim.now - began < S);
}

#[test]
fn one_half_may_end_long_before_the_other() {
    let mut sim = Sim::new(1, &[Windows::default()]);
    sim.apps[0][0].send = data(1, 100);
    sim.apps[1][0].finish = false;
    sim.up(PathKind::Quic, 20, 1_000_000);
    sim.run(300 * S);
    assert!(sim.apps[1][0].ended && sim.streams[0][0].is_sent());
    assert!(!sim.apps[0][0].ended && sim.streams[0][0].error().is_none());
    sim.apps[1][0].send = data(2, 1_000_000);
    sim.apps[1][0].finish = true;
    sim.run_until_over(60 * S);
    sim.check_whole();
}

#[test]
fn a_reset_ends_both_directions_on_both_sides() {
    let mut sim = busy(1);
    let now = sim.now;
    sim.streams[0][0].reset(300, "enough", now);
    sim.run_until_over(20 * S);
    assert_eq!(error(&sim, 0), StreamError::Cancelled { code: 300 });
    assert_eq!(error(&sim, 1), StreamError::Reset { code: 300, reason: "enough".into() });
    check_cut(&sim);
    let after = sim.streams[1][0].write(b"x", sim.now);
    assert!(matches!(after, Err(StreamError::Reset { .. } | StreamError::Finished)));
}

#[test]
fn a_reset_arrives_over_a_later_link_too() {
    let mut sim = busy(2);
    let link = sim.links[0].id;
    sim.down(link);
    let now = sim.now;
    sim.streams[1][0].reset(0, "", now);
    sim.run(15 * S);
    assert_eq!(sim.streams[0][0].error(), None);
    sim.up(PathKind::Quic, 10, 1_000_000);
    sim.run_until_over(20 * S);
    assert_eq!(error(&sim, 0), StreamError::Reset { code: 0, reason: String::new() });
    check_cut(&sim);
}

#[test]
fn both_may_reset_at_once() {
    let mut sim = busy(3);
    let now = sim.now;
    for side in 0..2 {
        sim.streams[side][0].reset(300, "", now);
    }
    sim.run_until_over(5 * S);
    check_cut(&sim);
}

#[test]
fn who_reads_no_more_is_sent_no_more() {
    let mut sim = busy(4);
    let now = sim.now;
    sim.streams[1][0].stop(7, now);
    sim.run_until_over(60 * S);
    assert_eq!(sim.streams[0][0].write(b"x", now), Err(StreamError::Stopped { code: 7 }));
    assert!(!sim.streams[0][0].is_sent());
    assert!(sim.apps[0][0].written < 5_000_000);
    // The other direction is whole.
    assert!(sim.apps[0][0].ended && sim.apps[0][0].got == sim.apps[1][0].send);
    assert_eq!((sim.streams[0][0].error(), sim.streams[1][0].error()), (None, None));
}

#[test]
fn silence_is_an_error_and_never_an_end() {
    let mut sim = busy(5);
    let link = sim.links[0].id;
    sim.blacken(link);
    sim.lose_what_is_on_its_way(link);
    sim.run(59 * S);
    assert_eq!(sim.streams[0][0].error(), None);
    sim.run_until_over(3 * S);
    assert_eq!((error(&sim, 0), error(&sim, 1)), (StreamError::Silent, StreamError::Silent));
    check_cut(&sim);
}

#[test]
fn a_hint_shortens_the_wait_and_ends_nothing_alone() {
    let mut sim = busy(6);
    let now = sim.now;
    sim.streams[0][0].hint_gone(now);
    sim.run(30 * S);
    assert_eq!(sim.streams[0][0].error(), None, "the other side is there");
    let mut sim = busy(7);
    let link = sim.links[0].id;
    sim.down(link);
    let now = sim.now;
    sim.streams[0][0].hint_gone(now);
    sim.run(9 * S);
    assert_eq!(sim.streams[0][0].error(), None);
    sim.run(2 * S);
    assert_eq!(error(&sim, 0), StreamError::Silent);
    assert_eq!(sim.streams[1][0].error(), None);
}

#[test]
fn an_idle_stream_lives_and_says_little() {
    let mut sim = Sim::new(1, &[Windows::default()]);
    for side in 0..2 {
        sim.apps[side][0].finish = false;
    }
    sim.up(PathKind::Relay, 50, 1_000_000);
    sim.run(10 * S);
    let before = sim.carried;
    sim.run(600 * S);
    assert_eq!((sim.streams[0][0].error(), sim.streams[1][0].error()), (None, None));
    let said = sim.carried - before;
    assert!((40..=200).contains(&said), "{said} records in ten minutes");
}

/// A direct path that nothing is said over rests; the broker's connection never does.
#[test]
fn an_idle_stream_lets_its_direct_path_rest() {
    let mut sim = Sim::new(1, &[Windows::default()]);
    for side in 0..2 {
        sim.apps[side][0].finish = false;
        sim.apps[side][0].send = data(1, 100_000);
    }
    let (direct, relay) = (0, 1);
    sim.up(PathKind::Quic, 10, 1_000_000);
    let broker = sim.up(PathKind::Relay, 30, 1_000_000);
    sim.run(10 * S);
    let before = [direct, relay].map(|n| sim.links[n].carried);
    assert!(before[direct] > 5);
    sim.run(600 * S);
    let said = [direct, relay].map(|n| sim.links[n].carried - before[n]);
    assert_eq!(said[direct], 0);
    assert!((40..=200).contains(&said[relay]), "{said:?}");
    // Without the broker it says that it is there over what it has; and so if that swallows all.
    sim.blacken(broker);
    sim.run(100 * S);
    sim.down(broker);
    sim.run(200 * S);
    assert_eq!((sim.streams[0][0].error(), sim.streams[1][0].error()), (None, None));
    assert!(sim.links[direct].carried > before[direct] + 10);
    for side in 0..2 {
        sim.apps[side][0].finish = true;
    }
    sim.run_until_over(20 * S);
    sim.check_whole();
}

/// Who keeps a stream that is over, to see what it did or to read the rest, keeps no memory but that rest.
#[test]
fn what_is_over_takes_nothing_from_the_budget() {
    let mut sim = Sim::new(1, &[Windows::default()]);
    sim.apps[0][0].send = data(1, 3_000_000);
    sim.up(PathKind::Relay, 20, 10_000_000);
    sim.run_until_over(60 * S);
    sim.check_whole();
    assert_eq!(sim.budgets.each_ref().map(Budget::used), [0, 0]);

    let mut sim = Sim::new(2, &[Windows::default()]);
    sim.apps[0][0].send = data(1, 100_000);
    sim.apps[1][0].read_rate = Some(0);
    sim.up(PathKind::Relay, 20, 1_000_000);
    sim.run_until_over(20 * S);
    let left = sim.budgets.each_ref().map(Budget::used);
    assert!(left[0] == 0 && (100_000..110_000).contains(&left[1]), "{left:?}");
    while let Ok(Read::Data(bytes)) = sim.streams[1][0].read(7_000, sim.now) {
        sim.apps[1][0].got.extend_from_slice(&bytes);
    }
    assert!(sim.apps[1][0].got == sim.apps[0][0].send);
    assert_eq!(sim.budgets.each_ref().map(Budget::used), [0, 0]);

    // One that failed, too.
    let mut sim = busy(8);
    let now = sim.now;
    sim.streams[0][0].reset(300, "", now);
    sim.run_until_over(20 * S);
    assert_eq!(sim.budgets.each_ref().map(Budget::used), [0, 0]);
}

#[test]
fn a_refusal_says_why() {
    let mut sim = Sim::new(1, &[]);
    let [here, there] = &sim.budgets;
    let windows = Windows::default();
    let (opener, open) = Stream::open(secret(0), "x", ends(0), &windows, here, sim.now).unwrap();
    let acceptor = Stream::refuse(&open, ends(0), FRESH, 2, "not today", there, sim.now).unwrap();
    assert!(!opener.is_accepted());
    sim.push(opener, acceptor);
    sim.apps[0][0].send = data(1, 100_000);
    sim.up(PathKind::Relay, 20, 1_000_000);
    sim.run_until_over(20 * S);
    assert_eq!(error(&sim, 0), StreamError::Refused { code: 2, reason: "not today".into() });
    assert!(!sim.streams[0][0].is_accepted());
}

#[test]
fn nobody_answers() {
    let (now, budget) = (Instant::now(), Budget::new(1 << 20));
    let windows = Windows::default();
    let (mut opener, _) = Stream::open(secret(0), "x", ends(0), &windows, &budget, now).unwrap();
    opener.link_up(LinkId(0), PathKind::Quic, None, now);
    assert!(opener.write(b"early", now).is_ok());
    assert_eq!(opener.poll_transmit(LinkId(0), now), None, "nothing before it is accepted");
    let at = opener.poll_timeout().unwrap();
    assert_eq!(at, now + 60 * S);
    opener.handle_timeout(at);
    assert!(opener.is_over());
    assert_eq!(opener.read(1, at), Err(StreamError::Unanswered));
    assert_eq!(opener.poll_timeout(), None);
}

#[test]
fn forged_ends_and_resets_change_nothing() {
    let mut sim = Sim::new(1, &[Windows::default(); 2]);
    for n in 0..2 {
        sim.apps[0][n].send = data(n as u64, 500_000);
    }
    sim.hostile = Hostile { replay: 500, tamper: 100, repeat: 100, ..Hostile::default() };
    sim.up(PathKind::Relay, 20, 1_000_000);
    // The other stream is reset: its resets are replayed to both.
    let now = sim.now;
    sim.run(Duration::from_millis(300));
    sim.streams[1][1].reset(300, "", now);
    sim.run_until_over(120 * S);
    assert_eq!(sim.streams[1][0].error(), None);
    assert!(sim.apps[1][0].got == sim.apps[0][0].send && sim.apps[1][0].ended);
}

/// Everything after some record is lost for good, whichever that is: no prefix is ever taken for the whole.
#[test]
fn a_stream_cut_anywhere_is_no_whole() {
    let now = Instant::now();
    let budget = Budget::new(1 << 30);
    let windows = Windows::default();
    let (mut a, open) = Stream::open(secret(0), "x", ends(0), &windows, &budget, now).unwrap();
    let mut b = Stream::accept(&open, ends(0), FRESH, &windows, &budget, now).unwrap();
    let link = LinkId(0);
    for stream in [&mut a, &mut b] {
        stream.link_up(link, PathKind::Memory, None, now);
    }
    let accept = b.poll_transmit(link, now).unwrap();
    a.receive(link, BytesMut::from(&accept[..]), now).unwrap();
    assert_eq!(a.write(&data(1, 100_000), now), Ok(100_000));
    a.finish(now);
    let records: Vec<_> = std::iter::from_fn(|| a.poll_transmit(link, now)).collect();
    for cut in 0..records.len() {
        let mut b = Stream::accept(&open, ends(0), FRESH, &windows, &budget, now).unwrap();
        b.link_up(link, PathKind::Memory, None, now);
        b.poll_transmit(link, now).unwrap();
        for record in &records[..cut] {
            b.receive(link, BytesMut::from(&record[..]), now).unwrap();
        }
        let mut last = Ok(Read::Pending);
        for at in [now, now + 61 * S] {
            b.handle_timeout(at);
            loop {
                last = b.read(usize::MAX, at);
                if !matches!(last, Ok(Read::Data(_))) {
                    break;
                }
            }
        }
        assert_eq!(last, Err(StreamError::Silent), "cut at {cut} of {}", records.len());
    }
}
