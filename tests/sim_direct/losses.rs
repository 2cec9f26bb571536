//! The direct path is lost and comes back.

use std::time::Duration;

use meshwire_netsim::Preset;
use tokio::time::sleep;

use super::town::{Town, between};

const SECOND: Duration = Duration::from_secs(1);

/// Nothing but the WebSocket passes for a while, again and again.
async fn udp_comes_and_goes(town: &mut Town) {
    let flood = town
        .flood(async |town| {
            town.direct().await;
            sleep(2 * SECOND).await;
            for outage in [4, 20, 12] {
                town.udp(false);
                sleep(outage * SECOND).await;
                town.udp(true);
                town.direct_again().await;
                sleep(SECOND).await;
            }
        })
        .await;
    flood.is_swift();
}

#[test]
fn the_path_is_lost_and_returns_and_is_lost_again() {
    between(Preset::PortRestricted, Preset::FullCone, 1, udp_comes_and_goes);
}

#[test]
fn a_path_by_turn_is_lost_and_returns_and_is_lost_again() {
    between(Preset::Symmetric, Preset::Symmetric, 2, udp_comes_and_goes);
}

#[test]
fn only_what_the_homes_send_each_other_is_lost() {
    between(Preset::PortRestricted, Preset::FullCone, 3, async |town| {
        let flood = town
            .flood(async |town| {
                town.direct().await;
                sleep(2 * SECOND).await;
                for outage in [4, 20, 12] {
                    town.apart(true);
                    sleep(outage * SECOND).await;
                    town.apart(false);
                    town.direct_again().await;
                    sleep(SECOND).await;
                }
            })
            .await;
        flood.is_swift();
    });
}
