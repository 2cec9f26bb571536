//! One seed, one trace: broker, nodes, messages and loss.

use std::time::Duration;

use meshwire::sim::virtual_world::{BrokerSite, VirtualWorld};
use meshwire_netsim::link::Loss;
use meshwire_netsim::simnet::{Internet, run};
use meshwire_netsim::{Chance, LinkConfig, Preset, Wire};

use super::town::within;

/// Everything on the wire while a mesh is founded, joined and used, and its broker restarted.
fn play(seed: u64) -> String {
    run(seed, async |stage| {
        let mut net = Internet::new(stage).unwrap();
        let broker = net.server("broker", Wire::default()).unwrap();
        let lossy = Wire::both(LinkConfig {
            loss: Loss::Independent(Chance::new(0.1).unwrap()),
            ..LinkConfig::with_latency(Duration::from_millis(15))
        });
        let hosts: Vec<_> = [Preset::Symmetric, Preset::Mobile, Preset::Corporate]
            .into_iter()
            .zip(["ana", "bob", "cy"])
            .map(|(preset, name)| (name.to_owned(), net.home(name, preset, lossy).unwrap().host))
            .collect();
        let sim = net.start();
        let recording = sim.record();
        let site = BrokerSite::on(broker, "broker");
        let mut world = VirtualWorld::start(sim, site).await.unwrap();
        within("joining", world.add_all(&hosts)).await.unwrap();
        for (name, other) in [("ana", "bob"), ("bob", "cy"), ("cy", "ana"), ("bob", "ana")] {
            within("a roster", world.node(name).unwrap().knows(other)).await.unwrap();
        }
        for round in 0..3 {
            let mut sent = Vec::new();
            for (from, to) in [("ana", "bob"), ("bob", "cy"), ("cy", "ana"), ("bob", "ana")] {
                let text = format!("round {round} {}", "x".repeat(500 * round));
                let id = world.node(from).unwrap().send(to, &text).await.unwrap();
                sent.push((from, id));
            }
            if round == 1 {
                within("a restart", world.broker_mut().restart()).await.unwrap();
            }
            for (from, id) in sent {
                within(from, world.node(from).unwrap().delivered(id)).await.unwrap();
            }
        }
        String::from_utf8(recording.bytes()).unwrap()
    })
}

#[test]
fn one_seed_gives_one_trace_of_the_whole_world() {
    let first = play(5);
    assert!(first.lines().count() > 500, "{} lines", first.lines().count());
    for _ in 0..5 {
        let again = play(5);
        let differs = first.lines().zip(again.lines()).enumerate().find(|(_, (a, b))| a != b);
        assert_eq!(differs, None, "the first line that differs");
        assert!(first == again);
    }
    assert!(play(6) != first);
}
