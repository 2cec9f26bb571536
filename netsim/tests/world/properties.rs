//! What holds whatever happens: no panic, balanced books, bounded memory, no inside address outside,
//! the same trace from the same seed.

use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::build::{Home, SERVER, World, books_balance, ip, sock};
use meshwire_netsim::link::{Jitter, Loss, Reorder};
use meshwire_netsim::packet::{Build, View, build};
use meshwire_netsim::{
    Chance, Change, Direction, Engine, Event, LinkConfig, LinkState, Preset, Time, Wire,
};

fn rough() -> Wire {
    let chance = |p| Chance::new(p).unwrap();
    Wire::both(LinkConfig {
        jitter: Jitter::Uniform(Duration::from_millis(5)),
        loss: Loss::Independent(chance(0.05)),
        reorder: Some(Reorder { chance: chance(0.05), delay: Duration::from_millis(9) }),
        duplicate: chance(0.05),
        corrupt: chance(0.05),
        mtu: 600,
        ..LinkConfig::with_latency(Duration::from_millis(20))
    })
}

fn presets() -> impl Strategy<Value = Preset> {
    prop::sample::select(Preset::ALL.to_vec())
}

/// One thing that is done to the world.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Udp { from: u8, to: u8, port: u16, size: usize, fragments: bool },
    Tcp { from: u8, to: u8, port: u16, flags: u8 },
    Ping { from: u8, to: u8 },
    Raw { from: u8, bytes: Vec<u8> },
    Change(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0..40_000_000_000_u64).prop_map(Step::Wait),
        2 => (0..40_000_000_u64).prop_map(Step::Wait),
        6 => (0..3_u8, 0..6_u8, 0..5_u16, 0..1400_usize, any::<bool>()).prop_map(
            |(from, to, port, size, fragments)| Step::Udp { from, to, port, size, fragments }
        ),
        6 => (0..3_u8, 0..6_u8, 0..5_u16, any::<u8>())
            .prop_map(|(from, to, port, flags)| Step::Tcp { from, to, port, flags }),
        1 => (0..3_u8, 0..6_u8).prop_map(|(from, to)| Step::Ping { from, to }),
        1 => (0..3_u8, prop::collection::vec(any::<u8>(), 0..100))
            .prop_map(|(from, bytes)| Step::Raw { from, bytes }),
        1 => any::<u8>().prop_map(Step::Change),
    ];
    prop::collection::vec(step, 1..120)
}

struct Run {
    engine: Engine,
    homes: [Home; 2],
    hosts: [(meshwire_netsim::HostId, &'static str); 3],
    core: meshwire_netsim::NetId,
    server_iface: meshwire_netsim::IfaceId,
    now: Time,
}

fn start(seed: u64, presets: [Preset; 2]) -> Run {
    let mut world = World::new(seed);
    let homes = [1, 2].map(|n| {
        let preset = presets[usize::from(n) - 1];
        world.home(n, preset.router(), rough())
    });
    let hosts = [(world.server, SERVER), (homes[0].host, "10.0.1.2"), (homes[1].host, "10.0.2.2")];
    let (core, server_iface) = (world.core, world.server_iface);
    Run { engine: world.go(), homes, hosts, core, server_iface, now: Time::ZERO }
}

const TARGETS: [&str; 6] =
    [SERVER, "198.51.100.1", "198.51.100.2", "10.0.1.2", "192.0.2.1", "10.0.1.1"];

impl Run {
    fn step(&mut self, step: &Step) {
        let engine = &mut self.engine;
        let target =
            |to: u8, port: u16| sock(&format!("{}:{}", TARGETS[usize::from(to)], 1000 + port));
        let source = |from: u8, port: u16, hosts: &[(_, &str); 3]| {
            sock(&format!("{}:{}", hosts[usize::from(from)].1, 1000 + port))
        };
        let send = |engine: &mut Engine, from: u8, packet| {
            engine.send(self.now, self.hosts[usize::from(from)].0, packet);
        };
        match step {
            Step::Wait(nanos) => self.now += Duration::from_nanos(*nanos),
            Step::Udp { from, to, port, size, fragments } => {
                let payload = vec![1; *size];
                let ends = (source(*from, *port, &self.hosts), target(*to, *port));
                let mut packet = build(ends.0, ends.1, Build::Udp(&payload));
                if *fragments {
                    packet[6] = 0;
                    packet[10..12].copy_from_slice(&[0, 0]);
                    let check = meshwire_netsim::packet::checksum(&packet[..20]);
                    packet[10..12].copy_from_slice(&check.to_be_bytes());
                }
                send(engine, *from, packet);
            }
            Step::Tcp { from, to, port, flags } => {
                let ends = (source(*from, *port, &self.hosts), target(*to, *port));
                send(engine, *from, build(ends.0, ends.1, Build::tcp(*flags)));
            }
            Step::Ping { from, to } => {
                let what = Build::Echo { reply: false, sequence: 1, payload: b"ping" };
                send(engine, *from, build(source(*from, 0, &self.hosts), target(*to, 0), what));
            }
            Step::Raw { from, bytes } => send(engine, *from, bytes.clone()),
            Step::Change(which) => {
                let home = &self.homes[usize::from(which & 1)];
                let state =
                    |state| Change::State { iface: home.uplink, direction: Direction::Both, state };
                let change = match which >> 1 & 7 {
                    0 => Change::Reboot { router: home.router },
                    1 => state(LinkState::Down),
                    2 | 3 => state(LinkState::Up),
                    4 => state(LinkState::BlackHole),
                    5 => Change::Partition { net: self.core, parts: vec![vec![self.server_iface]] },
                    6 => Change::Heal { net: self.core },
                    _ => Change::Address {
                        iface: home.uplink,
                        addresses: vec![ip(&format!("198.51.100.{}", 100 + (which >> 4)))],
                    },
                };
                engine.control(self.now, change).ok();
            }
        }
        while self.engine.poll(self.now).is_some() {}
        books_balance(&self.engine);
    }

    fn finish(&mut self) {
        while let Some(at) = self.engine.next_deadline() {
            while self.engine.poll(at).is_some() {}
        }
        books_balance(&self.engine);
        assert_eq!(self.engine.in_flight(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn books_balance_and_nothing_panics(
        seed: u64, one in presets(), two in presets(), steps in steps()
    ) {
        let mut run = start(seed, [one, two]);
        for step in &steps {
            run.step(step);
        }
        run.finish();
        // Memory is bounded by what was sent, and gone when all timeouts are over.
        run.now += Duration::from_secs(1_000_000);
        while run.engine.poll(run.now).is_some() {}
        for home in &run.homes {
            prop_assert!(run.engine.mappings(home.router).is_empty());
        }
    }

    #[test]
    fn no_inside_address_leaves_a_nat(
        seed: u64,
        one in presets().prop_filter("translates", |p| !matches!(p, Preset::Open)),
        steps in steps()
    ) {
        let mut run = start(seed, [one, Preset::PortRestricted]);
        let leaks = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&leaks);
        run.engine.set_trace(move |t| {
            let outside = t.place == "internet" || (t.place == "server" && t.event == Event::Delivered);
            if let (true, Ok(view)) = (outside, View::parse(t.packet)) {
                // A corrupted packet's source is anything; its checksum gives it away.
                let whole = meshwire_netsim::packet::header_checksum_ok(t.packet, &view.ip);
                if whole && view.ip.source.to_string().starts_with("10.") {
                    sink.lock().unwrap().push(t.to_string());
                }
            }
        });
        for step in &steps {
            run.step(step);
        }
        run.finish();
        let leaks = leaks.lock().unwrap();
        prop_assert!(leaks.is_empty(), "{leaks:?}");
    }

    #[test]
    fn two_runs_of_one_seed_have_the_same_trace(
        seed: u64, one in presets(), two in presets(), steps in steps()
    ) {
        let trace = |often: bool| {
            let mut run = start(seed, [one, two]);
            let lines = Arc::new(Mutex::new(String::new()));
            let sink = Arc::clone(&lines);
            run.engine.set_trace(move |t| writeln!(sink.lock().unwrap(), "{t}").unwrap());
            for step in &steps {
                run.step(step);
                // How often the engine is asked must not matter.
                if often && let Some(at) = run.engine.next_deadline().filter(|at| *at <= run.now) {
                    run.engine.poll(at);
                }
            }
            run.finish();
            drop(run);
            Arc::try_unwrap(lines).unwrap().into_inner().unwrap()
        };
        prop_assert!(trace(false) == trace(true));
    }
}

#[test]
fn another_host_does_not_change_the_draws_of_the_others() {
    let trace = |extra: bool| {
        let mut world = World::new(9);
        let home = world.home(1, Preset::Symmetric.router(), rough());
        if extra {
            world.preset(7, Preset::Symmetric);
        }
        let mut engine = world.go();
        let lines = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&lines);
        engine.set_trace(move |t| writeln!(sink.lock().unwrap(), "{t}").unwrap());
        for n in 0..500_u16 {
            let to = sock(&format!("{SERVER}:{}", 1 + n % 50));
            engine.send(
                Time::from_millis(n.into()),
                home.host,
                build(sock("10.0.1.2:9"), to, Build::Udp(b"x")),
            );
        }
        while engine.poll(Time::from_secs(9)).is_some() {}
        let lines = lines.lock().unwrap();
        lines.clone()
    };
    assert_eq!(trace(false), trace(true));
}

#[test]
fn packets_on_their_way_are_bounded() {
    let mut world = World::new(1);
    let home = world.home(1, Preset::Open.router(), rough());
    let mut engine = world.go();
    engine.set_max_in_flight(10);
    for _ in 0..100 {
        engine.send(
            Time::ZERO,
            home.host,
            build(sock("10.0.1.2:9"), sock("203.0.113.5:9"), Build::Udp(b"x")),
        );
    }
    assert!(engine.in_flight() <= 10);
    assert!(engine.ledger().dropped(meshwire_netsim::Reason::EngineFull) > 70);
}
