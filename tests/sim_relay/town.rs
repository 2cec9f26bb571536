//! Two homes behind one kind of router, a broker, and the mail between them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use meshwire::sim::virtual_world::{BrokerSite, VirtualNode, VirtualWorld};
use meshwire_netsim::nat::Pair;
use meshwire_netsim::simnet::{Home, Internet, Stage, run};
use meshwire_netsim::{Change, Direction, IfaceId, LinkConfig, LinkState, NetId, Preset, Wire};
use meshwire_signaling::EnvelopeId;
use tokio::time::timeout;

/// Longest virtual time for anything, far beyond every back-off.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1_800);

/// Waits for `work`, but not for ever.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Ana and bob, each in a home, and the broker.
pub(crate) struct Town {
    pub(crate) world: VirtualWorld,
    pub(crate) preset: Preset,
    pub(crate) ana: Home,
    pub(crate) bob: Home,
    pub(crate) broker_link: IfaceId,
    pub(crate) core: NetId,
    sent: BTreeMap<(&'static str, &'static str), Vec<(EnvelopeId, String)>>,
}

impl Town {
    /// Both are connected. Their uplinks and the broker's link have 5 ms of latency.
    pub(crate) async fn new(stage: Stage, preset: Preset) -> Self {
        let wire = Wire::both(LinkConfig::with_latency(Duration::from_millis(5)));
        let mut net = Internet::new(stage).unwrap();
        let core = net.core();
        let broker = net.server("broker", wire).unwrap();
        let (ana, bob) =
            (net.home("ana", preset, wire).unwrap(), net.home("bob", preset, wire).unwrap());
        let site = BrokerSite::on(broker, "broker");
        let sim = net.start();
        let broker_link = sim.interfaces(broker)[0];
        let mut world = VirtualWorld::start(sim, site).await.unwrap();
        within("founding", world.add("ana", ana.host)).await.unwrap();
        within("joining", world.add("bob", bob.host)).await.unwrap();
        let town = Self { world, preset, ana, bob, broker_link, core, sent: BTreeMap::new() };
        town.connected().await;
        for (name, other) in [("ana", "bob"), ("bob", "ana")] {
            within("a roster", town.node(name).knows(other)).await.unwrap();
        }
        town
    }

    pub(crate) fn node(&self, name: &str) -> &VirtualNode {
        self.world.node(name).unwrap()
    }

    /// Waits until both are connected.
    pub(crate) async fn connected(&self) {
        for name in ["ana", "bob"] {
            within("a connection", self.node(name).connected()).await.unwrap();
        }
    }

    /// Sends so many messages, of about so many bytes each.
    pub(crate) async fn send(
        &mut self,
        from: &'static str,
        to: &'static str,
        count: usize,
        bytes: usize,
    ) {
        let already = self.sent.get(&(from, to)).map_or(0, Vec::len);
        for n in already..already + count {
            let text = format!("{from} to {to} {n} {}", "x".repeat(bytes));
            let id = self.node(from).send(to, &text).await.unwrap();
            self.sent.entry((from, to)).or_default().push((id, text));
        }
    }

    /// A few messages each way.
    pub(crate) async fn chat(&mut self) {
        self.send("ana", "bob", 5, 10).await;
        self.send("bob", "ana", 5, 10).await;
    }

    /// Waits until all that was sent is delivered; then each inbox holds it once and in order.
    pub(crate) async fn all_delivered(&self) {
        for ((from, to), sent) in &self.sent {
            for (id, text) in sent {
                let told = format!("{} in {}", &text[..text.len().min(30)], self.preset);
                within(&told, self.node(from).delivered(*id)).await.unwrap();
            }
            let texts: Vec<&String> = sent.iter().map(|(_, text)| text).collect();
            assert_eq!(self.node(to).texts().await.unwrap().iter().collect::<Vec<_>>(), texts);
        }
    }

    /// Gives a home's uplink other properties, both ways.
    pub(crate) fn uplink(&self, home: &Home, config: LinkConfig) {
        let (iface, direction) = (home.uplink, Direction::Both);
        self.control(Change::Link { iface, direction, config });
    }

    /// Lets a link work, or not.
    pub(crate) fn state(&self, iface: IfaceId, state: LinkState) {
        self.control(Change::State { iface, direction: Direction::Both, state });
    }

    pub(crate) fn control(&self, change: Change) {
        self.world.sim().control(change).unwrap();
    }

    /// Moves ana's home to another uplink: what the world saw of it before is gone.
    pub(crate) fn move_ana(&self) {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (iface, uplink, router) = (self.ana.iface, self.ana.uplink, self.ana.router);
        let outside = vec![ip("198.18.77.77"), ip("2001:db8:2::7777")];
        match self.preset {
            // Nothing is translated: the machine itself has another address.
            Preset::Open => {
                let addresses = vec![ip("198.19.1.77"), ip("2001:db8:3:1::77")];
                self.control(Change::Address { iface, addresses });
            }
            Preset::Ipv6Only => {
                self.control(Change::Address { iface, addresses: vec![ip("2001:db8:3:1::77")] });
            }
            Preset::CloudOneToOne => {
                let pair = Pair {
                    inside: "10.0.1.2".parse().unwrap(),
                    outside: "198.18.77.77".parse().unwrap(),
                };
                self.control(Change::Nat { router, config: None });
                self.control(Change::Address { iface: uplink, addresses: outside });
                let config = Preset::CloudOneToOne.router().with_pairs(vec![pair]).nat;
                self.control(Change::Nat { router, config });
            }
            _ => self.control(Change::Address { iface: uplink, addresses: outside }),
        }
    }
}

/// Plays a case in every preset, each with a seed of its own.
#[expect(clippy::print_stdout, reason = "shown when the case fails")]
pub(crate) fn in_every_preset(case: impl AsyncFn(&mut Town)) {
    for (seed, preset) in (1..).zip(Preset::ALL) {
        println!("in {preset}, seed {seed}");
        run(seed, async |stage| {
            let mut town = Town::new(stage, preset).await;
            case(&mut town).await;
            town.all_delivered().await;
        });
    }
}
