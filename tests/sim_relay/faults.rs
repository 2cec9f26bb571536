//! Who is there and who is not: mail, offline members, brokers that stop, homes that move.

use std::time::Duration;

use meshwire_netsim::{Change, LinkState};
use tokio::time::sleep;

use super::town::in_every_preset;

#[test]
fn messages_go_both_ways() {
    in_every_preset(async |town| {
        town.chat().await;
        town.all_delivered().await;
        town.chat().await;
    });
}

#[test]
fn what_is_sent_to_somebody_who_is_away_waits() {
    in_every_preset(async |town| {
        town.chat().await;
        town.all_delivered().await;
        town.world.node_mut("bob").unwrap().stop().await.unwrap();
        town.send("ana", "bob", 10, 100).await;
        sleep(Duration::from_secs(3_600)).await;
        town.world.node_mut("bob").unwrap().start().await.unwrap();
    });
}

#[test]
fn a_broker_that_restarts_loses_nothing() {
    in_every_preset(async |town| {
        town.chat().await;
        town.world.broker_mut().restart().await.unwrap();
        town.chat().await;
        town.world.broker_mut().stop().await.unwrap();
        town.chat().await;
        sleep(Duration::from_secs(600)).await;
        town.world.broker_mut().start().await.unwrap();
    });
}

#[test]
fn a_broker_that_loses_power_loses_nothing() {
    in_every_preset(async |town| {
        town.chat().await;
        let link = town.broker_link;
        town.state(link, LinkState::Down);
        town.chat().await;
        town.world.broker_mut().stop().await.unwrap();
        sleep(Duration::from_secs(60)).await;
        town.world.broker_mut().start().await.unwrap();
        town.state(link, LinkState::Up);
    });
}

#[test]
fn a_home_that_moves_to_another_uplink_goes_on() {
    in_every_preset(async |town| {
        town.chat().await;
        town.move_ana();
        town.chat().await;
        town.all_delivered().await;
        town.chat().await;
    });
}

#[test]
fn routers_that_reboot_forget_connections_and_no_message() {
    in_every_preset(async |town| {
        town.chat().await;
        for router in [town.ana.router, town.bob.router] {
            town.control(Change::Reboot { router });
        }
        town.chat().await;
    });
}

#[test]
fn after_a_black_hole_everything_comes() {
    in_every_preset(async |town| {
        town.chat().await;
        let uplink = town.bob.uplink;
        town.state(uplink, LinkState::BlackHole);
        town.chat().await;
        sleep(Duration::from_secs(300)).await;
        town.chat().await;
        town.state(uplink, LinkState::Up);
    });
}

#[test]
fn a_partition_heals() {
    in_every_preset(async |town| {
        town.chat().await;
        let (net, parts) = (town.core, vec![vec![town.ana.uplink]]);
        town.control(Change::Partition { net, parts });
        town.chat().await;
        sleep(Duration::from_secs(120)).await;
        town.control(Change::Heal { net });
        town.chat().await;
    });
}
