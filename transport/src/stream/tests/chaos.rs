//! Whatever happens to paths: all arrives, in order, once.

use std::time::Duration;

use meshwire_signaling::stream::Fresh;

use super::super::Windows;
use super::FRESH;
use super::sim::{Hostile, Sim, data};
use crate::link::PathKind;

/// Path events at random over some 40 s, with both sides' views of a link apart by up to a second.
fn play(seed: u64, hostile: Hostile) -> Sim {
    play_accepting(seed, hostile, FRESH)
}

/// As [`play`], with what the acceptors add to the keys.
pub(super) fn play_accepting(seed: u64, hostile: Hostile, fresh: Fresh) -> Sim {
    let small = Windows { initial: 64 << 10, max: 1 << 20, send: 1 << 20 };
    let mut sim = Sim::accepting(seed, &[small, Windows::default()], fresh);
    sim.hostile = hostile;
    for side in 0..2 {
        for n in 0..2 {
            let len = 200_000 + usize::try_from(sim.pick(1_500_000)).unwrap();
            sim.apps[side][n].send = data(seed * 4 + n as u64 * 2 + side as u64, len);
        }
    }
    let slow = sim.pick(4);
    if slow == 0 {
        sim.apps[1][0].read_rate = Some(200_000);
    }
    sim.up(PathKind::Relay, 20, 400_000);
    for _ in 0..12 {
        let pause = sim.pick(3_000);
        sim.run(Duration::from_millis(pause));
        event(&mut sim);
    }
    // In the end there is a path.
    while sim.links.iter().any(|l| l.up[0] || l.up[1]) {
        let id = sim.links.iter().find(|l| l.up[0] || l.up[1]).unwrap().id;
        sim.down(id);
    }
    sim.run(Duration::from_secs(20));
    sim.up(PathKind::Relay, 30, 2_000_000);
    sim.run_until_over(Duration::from_secs(300));
    sim
}

fn event(sim: &mut Sim) {
    sim.links.retain(|l| l.up[0] || l.up[1]);
    let known = sim.links.len();
    let apart = sim.pick(1_000);
    let apart = Duration::from_millis(apart);
    let which = sim.pick(known as u64);
    let link = sim.links.get(usize::try_from(which).unwrap()).map(|l| l.id);
    let first = usize::try_from(sim.pick(2)).unwrap();
    match (sim.pick(8), link) {
        (0..=2, _) | (_, None) if known < 4 => {
            let kind = if sim.pick(2) == 0 { PathKind::Quic } else { PathKind::Relay };
            let (latency, rate) = (sim.pick(150), 50_000 + sim.pick(3_000_000));
            let id = sim.silent_up(kind, latency, rate);
            sim.side_up(first, id);
            sim.run(apart);
            sim.side_up(1 - first, id);
        }
        (3, Some(id)) => sim.down(id),
        (4, Some(id)) => {
            sim.side_down(first, id);
            sim.run(apart);
            sim.side_down(1 - first, id);
        }
        // It dies, and nobody notices for seconds.
        (5, Some(id)) => {
            sim.blacken(id);
            sim.run(apart * 5);
            sim.down(id);
        }
        // As a broker does whose other side reconnects.
        (6, Some(id)) => sim.lose_what_is_on_its_way(id),
        (_, Some(id)) => {
            let any = sim.pick(3);
            sim.prefer(first, (any > 0).then_some(id));
        }
        _ => {}
    }
}

#[test]
fn a_hundred_schedules_of_path_events() {
    let mut resent = 0;
    for seed in 0..100 {
        eprintln!("seed {seed}");
        let sim = play(seed, Hostile::default());
        sim.check_whole();
        resent += sim.streams.iter().flatten().map(|s| s.counters().resent).sum::<u64>();
        assert_eq!(sim.rejected, 0);
    }
    assert!(resent > 100, "the events did no harm: {resent}");
}

#[test]
fn a_hundred_schedules_with_a_hostile_carrier() {
    let (mut rejected, mut duplicates) = (0, 0);
    for seed in 1_000..1_100 {
        eprintln!("seed {seed}");
        let hostile = Hostile { repeat: 30, replay: 50, tamper: 15, swap: 20, drop: 5 };
        let sim = play(seed, hostile);
        sim.check_whole();
        rejected += sim.rejected;
        duplicates += sim.streams.iter().flatten().map(|s| s.counters().duplicates).sum::<u64>();
    }
    assert!(rejected > 100 && duplicates > 100, "it did no harm: {rejected} {duplicates}");
}
