//! Routers forget, homes and machines move.

use std::net::IpAddr;
use std::time::Duration;

use meshwire_netsim::nat::NatConfig;
use meshwire_netsim::{Change, LinkState, Preset};
use tokio::time::sleep;

use super::town::{GAP, HEALED, Town, between};

const SECOND: Duration = Duration::from_secs(1);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What happens to a town.
type Happens = fn(&mut Town);

/// Plays a change in the middle of a stream of messages.
fn changes(ana: Preset, bob: Preset, seed: u64, longest: Duration, change: Happens) {
    changes_after(SECOND, ana, bob, seed, longest, change);
}

/// The same when the path has been up for a while.
fn changes_after(
    pause: Duration,
    ana: Preset,
    bob: Preset,
    seed: u64,
    longest: Duration,
    change: Happens,
) {
    between(ana, bob, seed, async |town| {
        let flood = town
            .flood(async |town| {
                town.direct().await;
                sleep(pause).await;
                change(town);
                town.direct_again_after(SECOND).await;
                sleep(5 * SECOND).await;
                town.direct_again().await;
            })
            .await;
        flood.waits_at_most(longest);
    });
}

fn anas_router_reboots(town: &mut Town) {
    town.control(Change::Reboot { router: town.ana.router });
}

fn bobs_router_reboots(town: &mut Town) {
    town.control(Change::Reboot { router: town.bob.router });
}

fn anas_home_gets_another_uplink(town: &mut Town) {
    let addresses = vec![ip("198.18.77.77"), ip("2001:db8:2::7777")];
    town.control(Change::Address { iface: town.ana.uplink, addresses });
}

fn anas_machine_gets_another_address(town: &mut Town) {
    let addresses = vec![ip("10.0.1.77")];
    town.control(Change::Address { iface: town.ana.iface, addresses });
}

#[test]
fn a_router_reboots_and_has_the_same_mappings_again() {
    changes(Preset::PortRestricted, Preset::FullCone, 11, GAP, anas_router_reboots);
}

#[test]
fn a_router_reboots_and_makes_other_mappings() {
    changes(Preset::Symmetric, Preset::FullCone, 12, GAP, anas_router_reboots);
}

#[test]
fn a_router_reboots_under_a_path_by_turn() {
    changes(Preset::Symmetric, Preset::Symmetric, 13, GAP, anas_router_reboots);
}

#[test]
fn the_recipients_router_reboots() {
    changes(Preset::PortRestricted, Preset::FullCone, 14, GAP, bobs_router_reboots);
}

/// Neither path leads to bob, and he has to find out first: nothing comes for seconds, and then the relay
/// is silent, too.
#[test]
fn the_recipients_router_reboots_and_makes_other_mappings() {
    changes(Preset::FullCone, Preset::Symmetric, 15, HEALED, bobs_router_reboots);
}

/// Later on, both sides look whether what is said is answered, and he gets up when nothing comes any more.
#[test]
fn the_recipients_router_reboots_and_makes_other_mappings_later_on() {
    let (longest, later) = (3 * SECOND, 12 * SECOND);
    changes_after(later, Preset::FullCone, Preset::Symmetric, 16, longest, bobs_router_reboots);
}

#[test]
fn a_home_gets_another_uplink() {
    changes(Preset::PortRestricted, Preset::FullCone, 21, GAP, anas_home_gets_another_uplink);
}

#[test]
fn a_home_with_a_path_by_turn_gets_another_uplink() {
    changes(Preset::Symmetric, Preset::Symmetric, 22, GAP, anas_home_gets_another_uplink);
}

#[test]
fn a_machine_gets_another_address() {
    changes(Preset::PortRestricted, Preset::FullCone, 31, GAP, anas_machine_gets_another_address);
}

#[test]
fn a_machine_with_a_path_by_turn_gets_another_address() {
    changes(Preset::Symmetric, Preset::Symmetric, 32, GAP, anas_machine_gets_another_address);
}

/// A carrier's NAT forgets after 30 s, and its mappings live only as long as something goes through.
#[test]
fn a_mapping_is_kept_while_nothing_is_said_and_outlives_a_long_silence() {
    between(Preset::Mobile, Preset::PortRestricted, 41, async |town| {
        town.flood(async |town| {
            town.direct().await;
        })
        .await;
        sleep(200 * SECOND).await;
        let flood = town.flood(async |_| sleep(3 * SECOND).await).await;
        flood.is_swift();
        town.direct_again().await;
    });
}

/// The mapping expires although packets go out: the NAT is given a timeout below the keepalive's.
#[test]
fn a_mapping_that_expires_is_made_anew() {
    between(Preset::Mobile, Preset::PortRestricted, 42, async |town| {
        let hasty = match Preset::Mobile.router().nat {
            Some(NatConfig::Ports(mut napt)) => {
                napt.lifetimes.udp = SECOND;
                napt.lifetimes.udp_unanswered = SECOND;
                NatConfig::Ports(napt)
            }
            other => panic!("{other:?}"),
        };
        town.flood(async |town| {
            town.direct().await;
        })
        .await;
        // What a change of the NAT costs is another test's.
        town.control(Change::Nat { router: town.ana.router, config: Some(hasty) });
        sleep(30 * SECOND).await;
        let flood = town.flood(async |_| sleep(12 * SECOND).await).await;
        flood.is_swift();
        town.direct_again().await;
    });
}

/// Nothing of a home arrives anywhere for a while, and it is told nothing.
#[test]
fn a_home_in_a_black_hole_comes_back() {
    between(Preset::PortRestricted, Preset::FullCone, 51, async |town| {
        let flood = town
            .flood(async |town| {
                town.direct().await;
                sleep(2 * SECOND).await;
                for hole in [3, 8] {
                    town.state(town.ana.uplink, LinkState::BlackHole);
                    sleep(hole * SECOND).await;
                    town.state(town.ana.uplink, LinkState::Up);
                    town.direct_again().await;
                    sleep(SECOND).await;
                }
            })
            .await;
        // Nobody could hear of anything while it lasted.
        assert!(flood.gap() < 8 * SECOND + HEALED, "{:?}", flood.gap());
    });
}
