//! A stream through bad times: whatever happens to its paths, all bytes come, once and in order.

use std::net::IpAddr;
use std::time::Duration;

use meshwire_netsim::{Change, LinkState, Preset};
use meshwire_transport::link::PathKind;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use tokio::time::sleep;

use super::bulk::Pour;
use super::town::{HEALED, Town, between};

const SECOND: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;
/// How long a stream may stand still where another path is there.
const SEAM: Duration = Duration::from_secs(2);

/// Some 2 MB/s, for as long as it takes.
const STEADY: Pour = Pour { bytes: MIB, every: Duration::from_millis(30) };

#[test]
fn it_goes_on_over_the_relay_and_comes_back() {
    between(Preset::PortRestricted, Preset::FullCone, 101, async |town| {
        let poured = town
            .pour(STEADY, async |town, ends| {
                ends.go(Some(PathKind::Quic)).await;
                for outage in [3, 10] {
                    ends.moves(MIB).await;
                    town.udp(false);
                    ends.go(Some(PathKind::Relay)).await;
                    ends.moves(MIB).await;
                    sleep(outage * SECOND).await;
                    town.udp(true);
                    town.direct_again().await;
                    ends.go(Some(PathKind::Quic)).await;
                    ends.moves(MIB).await;
                }
            })
            .await;
        assert!(poured.gap < SEAM, "{poured:?}\n{}", town.story().await);
    });
}

#[test]
fn it_does_without_the_relay_while_its_direct_path_lives() {
    between(Preset::PortRestricted, Preset::FullCone, 102, async |town| {
        let poured = town
            .pour(STEADY, async |town, ends| {
                ends.go(Some(PathKind::Quic)).await;
                town.world.broker_mut().restart().await.unwrap();
                town.note("restarted");
                ends.moves(MIB).await;
                town.world.broker_mut().stop().await.unwrap();
                town.note("stopped");
                ends.moves(10 * MIB).await;
                town.world.broker_mut().start().await.unwrap();
                town.note("started");
                ends.moves(MIB).await;
            })
            .await;
        assert!(poured.gap < SECOND / 2, "{poured:?}\n{}", town.story().await);
    });
}

#[test]
fn it_outlives_a_restart_of_the_broker_that_carries_it() {
    between(Preset::Corporate, Preset::FullCone, 103, async |town| {
        let poured = town
            .pour(STEADY, async |town, ends| {
                ends.go(Some(PathKind::Relay)).await;
                for _ in 0..3 {
                    ends.moves(MIB).await;
                    town.world.broker_mut().restart().await.unwrap();
                    town.note("restarted");
                    sleep(3 * SECOND).await;
                }
                ends.moves(MIB).await;
            })
            .await;
        assert!(poured.gap < HEALED, "{poured:?}\n{}", town.story().await);
    });
}

#[test]
fn it_outlives_twenty_seconds_without_any_path() {
    between(Preset::PortRestricted, Preset::FullCone, 104, async |town| {
        let poured = town
            .pour(STEADY, async |town, ends| {
                for state in [LinkState::BlackHole, LinkState::Down] {
                    ends.go(Some(PathKind::Quic)).await;
                    ends.moves(MIB).await;
                    town.state(town.ana.uplink, state);
                    sleep(20 * SECOND).await;
                    town.state(town.ana.uplink, LinkState::Up);
                    ends.moves(MIB).await;
                    town.direct_again().await;
                }
            })
            .await;
        assert!(poured.gap < 20 * SECOND + HEALED, "{poured:?}\n{}", town.story().await);
    });
}

#[test]
fn it_outlives_a_change_of_the_uplink() {
    for (seed, presets) in [
        (105, [Preset::PortRestricted, Preset::FullCone]),
        (106, [Preset::Symmetric, Preset::Symmetric]),
    ] {
        between(presets[0], presets[1], seed, async |town| {
            let poured = town
                .pour(STEADY, async |town, ends| {
                    ends.go(Some(PathKind::Quic)).await;
                    ends.moves(MIB).await;
                    another_uplink(town, 77);
                    ends.moves(MIB).await;
                    town.direct_again().await;
                    ends.go(Some(PathKind::Quic)).await;
                    ends.moves(MIB).await;
                })
                .await;
            // Neither path leads to her, and no packet says so.
            assert!(poured.gap < HEALED, "{poured:?}\n{}", town.story().await);
        });
    }
}

fn another_uplink(town: &mut Town, last: u8) {
    let addresses: Vec<IpAddr> = vec![[198, 18, 77, last].into()];
    town.control(Change::Address { iface: town.ana.uplink, addresses });
}

/// Things that happen to paths, and how long until the next one.
async fn happens(town: &mut Town, dice: &mut ChaCha8Rng, number: u8) {
    let a_while = Duration::from_millis(u64::from(dice.next_u32() % 3_000));
    match dice.next_u32() % 9 {
        0 => {
            town.udp(false);
            sleep(a_while).await;
            town.udp(true);
        }
        1 => {
            town.apart(true);
            sleep(a_while).await;
            town.apart(false);
        }
        2 => town.control(Change::Reboot { router: town.ana.router }),
        3 => town.control(Change::Reboot { router: town.bob.router }),
        4 => another_uplink(town, 100 + number),
        5 if town.may_move() => {
            let addresses = vec![[10, 0, 1, 100 + number].into()];
            town.control(Change::Address { iface: town.ana.iface, addresses });
        }
        6 => {
            town.world.broker_mut().stop().await.unwrap();
            town.note("broker stopped");
            sleep(a_while).await;
            town.world.broker_mut().start().await.unwrap();
            town.note("broker started");
        }
        event => {
            let home = if dice.next_u32().is_multiple_of(2) { town.ana } else { town.bob };
            let state = if event == 7 { LinkState::BlackHole } else { LinkState::Down };
            town.state(home.uplink, state);
            sleep(a_while).await;
            town.state(home.uplink, LinkState::Up);
        }
    }
    sleep(Duration::from_millis(u64::from(dice.next_u32() % 3_000))).await;
}

/// Ten random events in a run, between random homes.
fn ten_events(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let mut any = || Preset::ALL[dice.next_u32() as usize % Preset::ALL.len()];
        let (ana, bob) = (any(), any());
        between(ana, bob, seed, async |town| {
            let pour = Pour { bytes: MIB, every: Duration::from_millis(250) };
            town.pour(pour, async |town, _| {
                for number in 0..10 {
                    happens(town, &mut dice, number).await;
                }
            })
            .await;
        });
    }
}

#[test]
fn ten_events_seeds_0_to_49() {
    ten_events(0..50);
}

#[test]
fn ten_events_seeds_50_to_99() {
    ten_events(50..100);
}

#[test]
fn ten_events_seeds_100_to_149() {
    ten_events(100..150);
}

#[test]
fn ten_events_seeds_150_to_199() {
    ten_events(150..200);
}
