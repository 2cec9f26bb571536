//! Two hundred nodes that all come back at once.

use std::time::Duration;

use meshwire::sim::virtual_world::{BrokerSite, VirtualWorld};
use meshwire_netsim::simnet::{Internet, run};
use meshwire_netsim::{LinkConfig, Preset, Wire};

use super::town::within;

const NODES: usize = 200;

#[test]
fn two_hundred_nodes_reconnect_and_lose_nothing() {
    run(1, async |stage| {
        let mut net = Internet::new(stage).unwrap();
        let broker = net.server("broker", Wire::default()).unwrap();
        let all: Vec<_> = (0..NODES)
            .map(|n| {
                let (name, preset) = (format!("n{n:03}"), Preset::ALL[n % Preset::ALL.len()]);
                let wire = LinkConfig::with_latency(Duration::from_millis(5 + n as u64 % 40));
                let home = net.home(&name, preset, Wire::both(wire)).unwrap();
                (name, home.host)
            })
            .collect();
        let site = BrokerSite::on(broker, "broker");
        let mut world = VirtualWorld::start(net.start(), site).await.unwrap();
        within("joining", world.add_all(&all)).await.unwrap();
        for (n, (name, _)) in all.iter().enumerate() {
            let node = world.node(name).unwrap();
            within("a connection", node.connected()).await.unwrap();
            within("a roster", node.knows(&all[(n + 1) % NODES].0)).await.unwrap();
        }
        world.broker_mut().stop().await.unwrap();
        // Each to the next, while nobody is connected.
        let mut sent = Vec::new();
        for (n, (name, _)) in all.iter().enumerate() {
            let next = &all[(n + 1) % NODES].0;
            let node = world.node(name).unwrap();
            for text in ["one", "two"] {
                let id = node.send(next, &format!("{text} from {name}")).await.unwrap();
                sent.push((name, id));
            }
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.broker_mut().start().await.unwrap();
        for (name, id) in sent {
            within(name, world.node(name).unwrap().delivered(id)).await.unwrap();
        }
        for (n, (name, _)) in all.iter().enumerate() {
            let before = &all[(n + NODES - 1) % NODES].0;
            let expected = ["one", "two"].map(|text| format!("{text} from {before}"));
            assert_eq!(world.node(name).unwrap().texts().await.unwrap(), expected);
        }
    });
}
