//! Routers forget, homes and machines move.

use std::net::IpAddr;
use std::time::Duration;

use meshwire_netsim::nat::NatConfig;
use meshwire_netsim::{Change, LinkState, Preset};
use tokio::time::sleep;

use super::town::{Town, between};

const SECOND: Duration = Duration::from_secs(1);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Plays a change in the middle of a stream of messages.
async fn changes(town: &mut Town, change: impl AsyncFnOnce(&mut Town)) {
    let flood = town
        .flood(async |town| {
            town.direct().await;
            sleep(2 * SECOND).await;
            change(town).await;
            sleep(SECOND).await;
            town.direct_again().await;
            sleep(12 * SECOND).await;
            town.direct_again().await;
        })
        .await;
    flood.is_swift();
}

#[test]
fn a_router_reboots_and_forgets_its_mappings() {
    for (seed, ana, bob) in [
        (11, Preset::PortRestricted, Preset::FullCone),
        (12, Preset::Symmetric, Preset::FullCone),
        (13, Preset::Symmetric, Preset::Symmetric),
    ] {
        between(ana, bob, seed, async |town| {
            changes(town, async |town| town.control(Change::Reboot { router: town.ana.router }))
                .await;
        });
    }
}

#[test]
fn the_recipients_router_reboots() {
    for (seed, ana, bob) in
        [(14, Preset::PortRestricted, Preset::FullCone), (15, Preset::FullCone, Preset::Symmetric)]
    {
        between(ana, bob, seed, async |town| {
            changes(town, async |town| town.control(Change::Reboot { router: town.bob.router }))
                .await;
        });
    }
}

#[test]
fn a_home_gets_another_uplink() {
    for (seed, ana, bob) in
        [(21, Preset::PortRestricted, Preset::FullCone), (22, Preset::Symmetric, Preset::Symmetric)]
    {
        between(ana, bob, seed, async |town| {
            changes(town, async |town| {
                let addresses = vec![ip("198.18.77.77"), ip("2001:db8:2::7777")];
                town.control(Change::Address { iface: town.ana.uplink, addresses });
            })
            .await;
        });
    }
}

#[test]
fn a_machine_gets_another_address() {
    for (seed, ana, bob) in
        [(31, Preset::PortRestricted, Preset::FullCone), (32, Preset::Symmetric, Preset::Symmetric)]
    {
        between(ana, bob, seed, async |town| {
            changes(town, async |town| {
                let addresses = vec![ip("10.0.1.77")];
                town.control(Change::Address { iface: town.ana.iface, addresses });
            })
            .await;
        });
    }
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
        let flood = town.flood(async |_| sleep(20 * SECOND).await).await;
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
        // Nobody could hear of the rest any sooner.
        println!("{:?}", flood.gap());
    });
}
