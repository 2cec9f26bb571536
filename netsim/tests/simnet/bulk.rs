//! Bulk TCP in both directions at once: what arrives is what was sent, whatever the way does.

use std::time::Duration;

use meshwire_netsim::link::{Loss, Reorder};
use meshwire_netsim::simnet::{Sim, run};
use meshwire_netsim::{Chance, LinkConfig, Preset, Reason, Wire};
use meshwire_transport::net::Net as _;

use super::{PORT, Pair, content, exchange, latency, listen};

/// Exchanges so many bytes each way between a home and a server; gives the simulation.
async fn through(pair: Pair, bytes: usize) -> Sim {
    let (near, far) = pair.connect().await;
    let (up, down) = (content(bytes, 1), content(bytes, 2));
    let (at_home, at_server) = tokio::join!(exchange(near, &up), exchange(far, &down));
    assert!(at_home.unwrap() == down, "the server's bytes");
    assert!(at_server.unwrap() == up, "the home's bytes");
    pair.sim
}

/// The same over an uplink that does this in both directions, with 10 ms of latency.
fn over(seed: u64, bytes: usize, config: LinkConfig) -> (Duration, u64, u64) {
    run(seed, async |stage| {
        let uplink = Wire::both(LinkConfig { latency: Duration::from_millis(10), ..config });
        let pair = Pair::new(stage, Preset::PortRestricted, uplink, Wire::default());
        let sim = through(pair, bytes).await;
        let dropped = |reason| sim.inspect(|e| e.ledger().dropped(reason));
        (
            sim.now().since(meshwire_netsim::Time::ZERO),
            dropped(Reason::Loss),
            dropped(Reason::TooBig),
        )
    })
}

#[test]
fn every_preset_carries_a_megabyte_each_way() {
    for preset in Preset::ALL {
        run(1, async |stage| {
            let pair = Pair::new(stage, preset, latency(5), latency(5));
            println!("{preset}");
            through(pair, 1 << 20).await;
        });
    }
}

#[test]
fn homes_that_can_be_reached_serve() {
    for preset in [Preset::Open, Preset::CloudOneToOne] {
        run(2, async |stage| {
            let pair = Pair::new(stage, preset, latency(5), latency(5));
            let listener = listen(&pair.client, PORT).await;
            let outside = pair.home.outside.to_string();
            let (far, near) =
                tokio::join!(pair.server.tcp_connect(&outside, PORT), listener.accept());
            let (up, down) = (content(100_000, 1), content(100_000, 2));
            let (a, b) =
                tokio::join!(exchange(near.unwrap().0, &up), exchange(far.unwrap(), &down));
            assert!(a.unwrap() == down && b.unwrap() == up, "{preset}");
        });
    }
}

#[test]
fn five_percent_loss_costs_time_alone() {
    for seed in 0..4 {
        let loss = Loss::Independent(Chance::new(0.05).unwrap());
        let (took, lost, _) = over(seed, 500_000, LinkConfig { loss, ..LinkConfig::default() });
        assert!(lost > 10, "seed {seed}: {lost} lost");
        assert!(took < Duration::from_secs(300), "seed {seed}: {took:?}");
    }
}

#[test]
fn reordered_doubled_and_broken_packets_do_no_harm() {
    for seed in 0..4 {
        let chance = |p| Chance::new(p).unwrap();
        over(
            seed,
            500_000,
            LinkConfig {
                reorder: Some(Reorder { chance: chance(0.1), delay: Duration::from_millis(3) }),
                duplicate: chance(0.05),
                corrupt: chance(0.02),
                ..LinkConfig::default()
            },
        );
    }
}

#[test]
fn a_small_mtu_that_says_so_is_learnt() {
    let narrow = LinkConfig { mtu: 1280, ..LinkConfig::default() };
    let (took, _, too_big) = over(3, 500_000, narrow);
    assert!(too_big > 0, "nobody had to be told");
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[test]
fn ipv6_learns_a_small_mtu_too() {
    run(4, async |stage| {
        let narrow =
            LinkConfig { mtu: 1280, ..LinkConfig::with_latency(Duration::from_millis(10)) };
        let pair = Pair::new(stage, Preset::Ipv6Only, Wire::both(narrow), Wire::default());
        let sim = through(pair, 300_000).await;
        assert!(sim.inspect(|e| e.ledger().dropped(Reason::TooBig)) > 0);
    });
}
