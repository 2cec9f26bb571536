//! The worlds that scenarios make: packets go where the file says they can.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meshwire_netsim::packet::{Build, build};
use meshwire_netsim::scenario::{Action, Scenario};
use meshwire_netsim::{Engine, Reason, Time};

use super::{read, with};

struct World {
    engine: Engine,
    map: meshwire_netsim::scenario::Map,
    scenario: Scenario,
    now: Time,
}

impl World {
    fn new(lines: &str) -> Self {
        let scenario = read(&with(lines));
        let plan = scenario.plan(scenario.seed).unwrap();
        Self { engine: plan.builder.build(), map: plan.map, scenario, now: Time::ZERO }
    }

    fn address(&self, host: &str, v4: bool) -> Option<IpAddr> {
        self.map.host(host).unwrap().addresses().find(|a| a.is_ipv4() == v4)
    }

    /// Sends UDP from one host to another's address and says when it arrived.
    fn reaches(&mut self, from: &str, to: &str, v4: bool, port: u16) -> Option<Duration> {
        let (source, target) = (self.address(from, v4)?, self.address(to, v4)?);
        let id = self.map.host(from).unwrap().id;
        let packet =
            build(SocketAddr::new(source, 4000), SocketAddr::new(target, port), Build::Udp(b"x"));
        let sent = self.now;
        self.engine.send(self.now, id, packet);
        loop {
            while let Some(delivery) = self.engine.poll(self.now) {
                if delivery.host == self.map.host(to).unwrap().id {
                    return Some(delivery.at.since(sent));
                }
            }
            self.now = self.engine.next_deadline()?;
        }
    }

    /// Does what the n-th step says.
    fn step(&mut self, n: usize) {
        let step = self.scenario.timeline[n].clone();
        let Action::World(disturbance) = &step.action else { panic!("{step:?}") };
        for change in self.map.changes(disturbance, &step.place).unwrap() {
            self.engine.control(self.now, change).unwrap();
        }
    }
}

#[test]
fn every_preset_reaches_a_server_as_it_should() {
    for (preset, v4, v6) in [
        ("open", true, true),
        ("full-cone", true, true),
        ("address-restricted", true, true),
        ("port-restricted", true, true),
        ("symmetric", true, true),
        ("symmetric-preserving", true, true),
        ("cgnat", true, true),
        ("mobile", true, true),
        ("hotel", false, false),
        ("corporate", false, false),
        ("cloud-1to1", true, true),
        ("ipv6-only", false, true),
    ] {
        let lines =
            format!("[[home]]\nname = \"a\"\npreset = \"{preset}\"\n[[server]]\nname = \"s\"");
        let mut world = World::new(&lines);
        assert_eq!(world.reaches("a", "s", true, 99).is_some(), v4, "{preset}");
        assert_eq!(world.reaches("a", "s", false, 99).is_some(), v6, "{preset}");
        let dns = world.reaches("a", "s", true, 53).is_some();
        assert_eq!(dns, !matches!(preset, "corporate" | "ipv6-only"), "{preset}");
    }
}

#[test]
fn homes_stack() {
    let mut world = World::new(
        "[[home]]\nname = \"carrier\"\npreset = \"cgnat\"\nmachines = []\nlink = { latency = \"10ms\" }\n\
         [[home]]\nname = \"a\"\npreset = \"port-restricted\"\nbehind = \"carrier\"\n\
         link = { latency = \"5ms\" }\n\
         [[home]]\nname = \"b\"\nbehind = \"a\"\n[[server]]\nname = \"s\"\nlink = { latency = \"1ms\" }",
    );
    let way = Some(Duration::from_millis(16));
    assert_eq!(world.reaches("a", "s", true, 99), way);
    assert_eq!(world.reaches("a", "s", false, 99), way);
    assert_eq!(world.reaches("b", "s", true, 99), way, "a router without NAT behind one with");
    assert_eq!(world.reaches("b", "s", false, 4000), way);
    assert_eq!(world.reaches("s", "b", false, 4000), way, "the answer");
    assert_eq!(world.reaches("s", "b", false, 4001), None, "behind a's firewall");
    let routers: Vec<&str> = world.scenario.routers.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(routers, ["carrier.router", "a.router", "b.router"]);
}

#[test]
fn clouds_have_an_address_for_each_machine() {
    let mut world = World::new(
        "[[home]]\nname = \"cloud\"\npreset = \"cloud-1to1\"\nmachines = [\"a\", \"b\"]\n\
         [[home]]\nname = \"c\"\n[[server]]\nname = \"s\"",
    );
    assert!(world.reaches("a", "s", true, 99).is_some());
    assert!(world.reaches("b", "s", true, 99).is_some());
    assert!(world.reaches("c", "s", true, 99).is_some(), "no address is given twice");
}

#[test]
fn links_change_as_is_said_and_stay_else() {
    let mut world = World::new(
        "[[home]]\nname = \"a\"\nlink = { latency = \"10ms\", down = { latency = \"50ms\" } }\n\
         [[server]]\nname = \"s\"\n\
         [[timeline]]\nlink = { of = \"a\", mtu = 1280 }\n\
         [[timeline]]\nlink = { of = \"a\", latency = \"20ms\", direction = \"up\" }\n\
         [[timeline]]\ndown = \"s\"\n[[timeline]]\nup = \"s\"\n\
         [[timeline]]\npartition = { parts = [[\"a\"]] }\n[[timeline]]\nheal = \"internet\"",
    );
    let ms = |n| Some(Duration::from_millis(n));
    assert_eq!(world.reaches("a", "s", true, 99), ms(10));
    assert_eq!(world.reaches("s", "a", true, 99), ms(50));
    world.step(0);
    assert_eq!(world.reaches("s", "a", true, 99), ms(50));
    world.step(1);
    assert_eq!(world.reaches("a", "s", true, 99), ms(20));
    assert_eq!(world.reaches("s", "a", true, 99), ms(50));
    world.step(2);
    assert_eq!(world.reaches("a", "s", true, 99), None);
    world.step(3);
    assert_eq!(world.reaches("a", "s", true, 99), ms(20));
    world.step(4);
    assert_eq!(world.reaches("a", "s", true, 99), None);
    assert_eq!(world.engine.ledger().dropped(Reason::Partitioned), 1);
    world.step(5);
    assert_eq!(world.reaches("a", "s", true, 99), ms(20));
}

#[test]
fn worlds_can_be_written_out() {
    let mut world = World::new(
        r#"
[[network]]
name = "lan"
subnets = ["192.168.1.0/24"]

[[router]]
name = "gate"
addresses = ["11.9.0.1"]
nat = { mapping = "endpoint-independent", filtering = "endpoint-independent", forward = [
    { protocol = "udp", port = 4000, to = "192.168.1.2" },
] }
firewall = { outbound = [{ action = "drop", protocol = "udp", ports = "1000-2000" }] }
inside = [{ network = "lan", addresses = ["192.168.1.1"], link = { latency = "3ms" } }]

[[host]]
name = "pc"
network = "lan"
addresses = ["192.168.1.2"]

[[host]]
name = "far"
interface = [
    { network = "internet", addresses = ["11.8.0.1"], link = { latency = "7ms" } },
]

[[timeline]]
preset = { router = "gate", preset = "corporate" }
"#,
    );
    assert_eq!(world.reaches("pc", "far", true, 99), Some(Duration::from_millis(10)));
    assert_eq!(world.reaches("pc", "far", true, 1500), None);
    for name in ["gate", "gate.up", "gate.lan", "pc", "pc.0", "far", "far.0"] {
        assert!(world.map.link(name).is_some(), "{name}");
    }
    assert_eq!(world.map.link("gate"), world.map.link("gate.up"));
    world.step(0);
    assert_eq!(world.reaches("pc", "far", true, 99), None);
}
