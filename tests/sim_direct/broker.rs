//! The broker goes away and comes back.

use std::time::Duration;

use meshwire_netsim::Preset;
use tokio::time::sleep;

use super::town::between;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_broker_that_restarts_is_not_missed() {
    between(Preset::PortRestricted, Preset::FullCone, 61, async |town| {
        let flood = town
            .flood(async |town| {
                town.direct().await;
                sleep(2 * SECOND).await;
                town.world.broker_mut().restart().await.unwrap();
                town.note("restarted");
                sleep(5 * SECOND).await;
                town.world.broker_mut().stop().await.unwrap();
                town.note("stopped");
                sleep(8 * SECOND).await;
                town.world.broker_mut().start().await.unwrap();
                town.note("started");
                sleep(5 * SECOND).await;
                town.direct_again().await;
            })
            .await;
        flood.is_swift();
        // It was not even noticed.
        assert!(flood.gap() < Duration::from_millis(200), "{:?}", flood.gap());
    });
}

/// The broker is the TURN server: the path goes with it.
#[test]
fn a_broker_that_restarts_takes_paths_through_it_along_and_brings_them_back() {
    between(Preset::Symmetric, Preset::Symmetric, 62, async |town| {
        let flood = town
            .flood(async |town| {
                town.direct().await;
                sleep(2 * SECOND).await;
                for _ in 0..2 {
                    town.world.broker_mut().restart().await.unwrap();
                    town.note("restarted");
                    sleep(SECOND).await;
                    town.direct_again().await;
                    sleep(2 * SECOND).await;
                }
            })
            .await;
        // Until it is back there is no path at all, and nodes come back within a second.
        assert!(flood.gap() < 3 * SECOND, "{:?}", flood.gap());
    });
}

/// Without the relay nothing is lost either: what neither path takes waits.
#[test]
fn both_paths_go_and_come_back() {
    between(Preset::PortRestricted, Preset::FullCone, 63, async |town| {
        town.flood(async |town| {
            town.direct().await;
            sleep(2 * SECOND).await;
            town.udp(false);
            town.world.broker_mut().restart().await.unwrap();
            town.note("restarted");
            sleep(2 * SECOND).await;
            town.udp(true);
            for name in ["ana", "bob"] {
                town.node(name).connected().await.unwrap();
            }
            town.note("connected");
            town.direct_again().await;
        })
        .await;
    });
}
