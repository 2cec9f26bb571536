//! Bad uplinks.

use std::time::Duration;

use meshwire_netsim::link::{Loss, Reorder};
use meshwire_netsim::{Chance, LinkConfig};

use super::town::{Town, in_every_preset};

/// Both uplinks like this from now on.
fn both(town: &Town, config: LinkConfig) {
    town.uplink(&town.ana, config);
    town.uplink(&town.bob, config);
}

#[test]
fn thirty_percent_loss_costs_time_alone() {
    in_every_preset(async |town| {
        let loss = Loss::Independent(Chance::new(0.3).unwrap());
        both(town, LinkConfig { loss, ..LinkConfig::with_latency(Duration::from_millis(5)) });
        town.chat().await;
        town.send("ana", "bob", 10, 3_000).await;
    });
}

#[test]
fn six_hundred_milliseconds_of_round_trip_are_borne() {
    in_every_preset(async |town| {
        both(town, LinkConfig::with_latency(Duration::from_millis(295)));
        town.world.broker_mut().restart().await.unwrap();
        town.chat().await;
        town.send("ana", "bob", 5, 20_000).await;
    });
}

#[test]
fn an_mtu_of_1280_is_learnt() {
    in_every_preset(async |town| {
        let narrow = LinkConfig { mtu: 1280, ..LinkConfig::with_latency(Duration::from_millis(5)) };
        both(town, narrow);
        town.chat().await;
        town.send("ana", "bob", 5, 20_000).await;
        town.send("bob", "ana", 5, 20_000).await;
    });
}

#[test]
fn what_is_reordered_doubled_and_broken_comes_once_and_in_order() {
    in_every_preset(async |town| {
        let chance = |p| Chance::new(p).unwrap();
        both(
            town,
            LinkConfig {
                reorder: Some(Reorder { chance: chance(0.1), delay: Duration::from_millis(20) }),
                duplicate: chance(0.1),
                corrupt: chance(0.02),
                ..LinkConfig::with_latency(Duration::from_millis(5))
            },
        );
        town.chat().await;
        town.send("ana", "bob", 10, 5_000).await;
    });
}
