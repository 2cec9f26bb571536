//! What a change of path costs.

use std::time::Duration;

use super::super::{Pulse, Windows};
use super::sim::{Sim, data};
use crate::link::PathKind;

const S: Duration = Duration::from_secs(1);

/// One stream of `len` bytes one way, over a direct path.
fn direct(len: usize) -> Sim {
    let mut sim = Sim::new(1, &[Windows::default()]);
    sim.apps[0][0].send = data(7, len);
    sim.up(PathKind::Quic, 10, 10_000_000);
    sim
}

fn got(sim: &Sim) -> usize {
    sim.apps[1][0].got.len()
}

#[test]
fn it_moves_to_the_relay_and_back() {
    let mut sim = direct(60_000_000);
    let first = sim.links[0].id;
    sim.run(2 * S);
    sim.down(first);
    sim.up(PathKind::Relay, 30, 5_000_000);
    let before = got(&sim);
    sim.run(S);
    assert!(got(&sim) > before + 3_000_000, "it went on over the relay");
    let healed = sim.up(PathKind::Quic, 10, 10_000_000);
    let before = got(&sim);
    sim.run(S);
    assert_eq!(sim.streams[0][0].best_link(), Some(healed));
    assert!(got(&sim) > before + 7_000_000, "and back: {}", got(&sim) - before);
    let resent = sim.streams[0][0].counters().resent;
    sim.run_until_over(60 * S);
    sim.check_whole();
    assert_eq!(sim.streams[0][0].counters().resent, resent, "moving back loses nothing");
}

#[test]
fn both_paths_may_be_lost_for_twenty_seconds() {
    let mut sim = direct(20_000_000);
    sim.up(PathKind::Relay, 30, 5_000_000);
    sim.run(S);
    for at in 0..2 {
        let id = sim.links[at].id;
        sim.down(id);
    }
    sim.run(20 * S);
    let before = got(&sim);
    assert!(before < 20_000_000);
    sim.up(PathKind::Relay, 30, 5_000_000);
    sim.run(S);
    assert!(got(&sim) > before);
    sim.run_until_over(60 * S);
    sim.check_whole();
}

#[test]
fn a_path_that_dies_unseen_is_left_behind() {
    let mut sim = direct(20_000_000);
    sim.run(S);
    let dead = sim.links[0].id;
    sim.blacken(dead);
    sim.run(S);
    let before = got(&sim);
    // It is still up, only not the best any more: after a second and four round trips, what is on it goes over the other.
    let relay = sim.up(PathKind::Relay, 30, 5_000_000);
    for side in 0..2 {
        sim.prefer(side, Some(relay));
    }
    sim.run(Duration::from_millis(1_500));
    assert!(got(&sim) > before + 300_000, "{}", sim.describe());
    sim.run_until_over(60 * S);
    sim.check_whole();
}

/// The carrier takes seconds to see it, and nobody says which link is to be preferred.
#[test]
fn a_path_that_answers_nothing_is_left_while_another_does() {
    let mut sim = direct(40_000_000);
    sim.up(PathKind::Relay, 30, 5_000_000);
    sim.run(S);
    let direct = sim.links[0].id;
    sim.blacken(direct);
    let before = got(&sim);
    sim.run(Duration::from_millis(1_500));
    assert!(got(&sim) > before + 1_000_000, "{}", sim.describe());
    let healed = sim.up(PathKind::Quic, 10, 10_000_000);
    sim.run(S);
    assert_eq!(sim.streams[0][0].best_link(), Some(healed), "{}", sim.describe());
    sim.run_until_over(60 * S);
    sim.check_whole();
}

/// Both leave it, so that nothing new is said over it any more: it is asked now and then, and comes back.
#[test]
fn a_link_that_both_sides_left_comes_back() {
    let mut sim = direct(60_000_000);
    sim.apps[1][0].send = data(8, 60_000_000);
    sim.up(PathKind::Relay, 30, 2_000_000);
    sim.run(S);
    let direct = sim.links[0].id;
    sim.blacken(direct);
    sim.run(5 * S / 2);
    for side in 0..2 {
        assert_ne!(sim.streams[side][0].best_link(), Some(direct), "{}", sim.describe());
    }
    sim.lighten(direct);
    sim.run(6 * S);
    for side in 0..2 {
        assert_eq!(sim.streams[side][0].best_link(), Some(direct), "{}", sim.describe());
    }
    sim.run_until_over(60 * S);
    sim.check_whole();
}

/// A relay that says that the other side is gone is not believed while another link has not been asked.
#[test]
fn a_relay_that_lies_does_not_end_what_a_direct_path_carries() {
    let mut sim = direct(1_000);
    for side in 0..2 {
        sim.apps[side][0].finish = false;
    }
    let relay = sim.up(PathKind::Relay, 30, 2_000_000);
    sim.run(S);
    sim.blacken(relay);
    let mut swallowed = sim.links[1].carried;
    for _ in 0..600 {
        sim.run(S / 4);
        if std::mem::replace(&mut swallowed, sim.links[1].carried) < sim.links[1].carried {
            let now = sim.now;
            sim.streams.iter_mut().for_each(|all| all[0].hint_gone(now));
        }
        assert!(sim.streams.iter().all(|all| !all[0].is_over()), "{}", sim.describe());
    }
}

/// Its connection is so full that an answer takes long, while a lightly used relay is quick.
#[test]
fn a_full_connection_that_brings_other_streams_is_not_left() {
    let mut sim = direct(40_000_000);
    sim.up(PathKind::Relay, 30, 5_000_000);
    let (direct, pulse) = (sim.links[0].id, Pulse::default());
    for side in 0..2 {
        sim.streams[side][0].link_pulse(direct, pulse.clone());
    }
    sim.run(S);
    sim.blacken(direct);
    for _ in 0..30 {
        pulse.beat(sim.now);
        sim.run(S / 10);
        assert_eq!(sim.streams[0][0].best_link(), Some(direct), "{}", sim.describe());
    }
    sim.run(2 * S);
    assert_ne!(sim.streams[0][0].best_link(), Some(direct), "{}", sim.describe());
}

/// As when the other side's connection to the broker is lost: ours lives, and what the broker held is gone.
#[test]
fn what_a_living_link_loses_is_noticed_and_sent_again() {
    let mut sim = Sim::new(1, &[Windows::default()]);
    sim.apps[0][0].send = data(7, 20_000_000);
    let link = sim.up(PathKind::Quic, 10, 2_000_000);
    for _ in 0..5 {
        sim.run(Duration::from_millis(300));
        sim.lose_what_is_on_its_way(link);
        let before = got(&sim);
        sim.run(S);
        assert!(got(&sim) > before + 300_000, "{}", sim.describe());
    }
    sim.run_until_over(60 * S);
    sim.check_whole();
    assert!(sim.streams[0][0].counters().resent > 0);
}

#[test]
fn a_slower_old_link_is_left_to_deliver() {
    let mut sim = Sim::new(1, &[Windows::default()]);
    sim.apps[0][0].send = data(7, 20_000_000);
    sim.up(PathKind::Relay, 200, 1_000_000);
    sim.run(3 * S);
    sim.up(PathKind::Quic, 5, 20_000_000);
    sim.run_until_over(60 * S);
    sim.check_whole();
    assert_eq!(sim.streams[0][0].counters().resent, 0, "{}", sim.describe());
}

#[test]
fn sides_may_prefer_different_links() {
    let mut sim = Sim::new(1, &[Windows::default()]);
    for side in 0..2 {
        sim.apps[side][0].send = data(side as u64, 10_000_000);
    }
    let a = sim.up(PathKind::Relay, 40, 2_000_000);
    let b = sim.up(PathKind::Quic, 5, 2_000_000);
    sim.prefer(0, Some(a));
    sim.prefer(1, Some(b));
    sim.run_until_over(60 * S);
    sim.check_whole();
    assert_eq!(sim.streams[0][0].counters().resent, 0, "{}", sim.describe());
}

/// One side knows that the direct path is dead and the other does not: its answers still come the way of the questions.
#[test]
fn a_side_that_clings_to_a_dead_path_is_heard() {
    let mut sim = direct(20_000_000);
    let relay = sim.up(PathKind::Relay, 30, 5_000_000);
    sim.run(S);
    let dead = sim.links[0].id;
    sim.side_down(0, dead);
    assert_eq!(sim.streams[1][0].best_link(), Some(dead));
    assert_eq!(sim.streams[0][0].best_link(), Some(relay));
    let before = got(&sim);
    sim.run(5 * S);
    assert!(got(&sim) > before + 1_000_000, "{}", sim.describe());
    sim.side_down(1, dead);
    sim.run_until_over(60 * S);
    sim.check_whole();
}
