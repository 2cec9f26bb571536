//! The lab measures its links, and finds out when they are not what was asked.

use std::time::Duration;

use meshwire_netsim::lab::{LabError, Options};
use meshwire_netsim::link::{Jitter, Loss, Rate};
use meshwire_netsim::{Chance, Change, Direction, LinkConfig, LinkState, Preset, Wire};

use crate::world::{ready, udp, world};

fn chance(p: f64) -> Chance {
    Chance::new(p).expect("a chance")
}

#[test]
fn rtt_and_loss_are_measured_as_asked_and_a_wrong_link_is_told() {
    if !ready() {
        return;
    }
    let latency = Duration::from_millis(20);
    let lossy =
        LinkConfig { loss: Loss::Independent(chance(0.1)), ..LinkConfig::with_latency(latency) };
    let wire = Wire { up: lossy, down: LinkConfig::with_latency(latency) };
    let mut world = world(Preset::Symmetric, wire);
    let lab = world.start(Options::default());
    let asked = lab.expected(world.alice, world.server).expect("a way");
    let measured = lab.verify(world.alice, world.server, &asked).expect("as asked");
    assert!(measured.rtt >= Duration::from_millis(40), "{measured:?}");
    assert_eq!(measured.arrived, measured.returned, "{measured:?}");
    assert!((850..950).contains(&measured.arrived), "{measured:?}");

    // Another link than was asked: slower, and losing nothing.
    let config = LinkConfig::with_latency(Duration::from_millis(45));
    let change = Change::Link { iface: world.alice_uplink, direction: Direction::Up, config };
    lab.control(change).expect("a change");
    let Err(LabError::Mismatch(told)) = lab.verify(world.alice, world.server, &asked) else {
        panic!("a wrong link was taken for the right one");
    };
    let what: Vec<_> = told.faults.iter().map(|f| f.what).collect();
    assert_eq!(what, ["round trip", "loss there"]);
    assert!(told.to_string().contains("asked 40.00 ms, measured 6"), "{told}");

    // The engine's own account of it is right again.
    let asked = lab.expected(world.alice, world.server).expect("a way");
    lab.verify(world.alice, world.server, &asked).expect("as asked");
    lab.shutdown().expect("an end");
}

#[test]
fn rates_jitter_and_bursts_are_measured_as_asked() {
    if !ready() {
        return;
    }
    let rate = |bits_per_second| Some(Rate { bits_per_second, queue_bytes: 64_000 });
    let loss = Loss::Burst {
        enter: chance(0.02),
        leave: chance(0.3),
        good: Chance::NEVER,
        bad: Chance::ALWAYS,
    };
    let base = LinkConfig::with_latency(Duration::from_millis(10));
    let wire = Wire {
        up: LinkConfig { rate: rate(1_000_000), ..base },
        down: LinkConfig {
            rate: rate(20_000_000),
            loss,
            jitter: Jitter::Uniform(Duration::from_millis(3)),
            ..base
        },
    };
    let mut world = world(Preset::PortRestricted, wire);
    let lab = world.start(Options::default());
    let asked = lab.expected(world.alice, world.server).expect("a way");
    let measured = lab.verify(world.alice, world.server, &asked).expect("as asked");
    assert!(measured.rate_there.is_some() && measured.rate_back.is_some(), "{measured:?}");

    let mut wrong = asked;
    wrong.there.rate = Some(1_500_000);
    let Err(LabError::Mismatch(told)) = lab.verify(world.alice, world.server, &wrong) else {
        panic!("a wrong rate was taken for the right one");
    };
    assert_eq!(told.faults.iter().map(|f| f.what).collect::<Vec<_>>(), ["rate there"], "{told}");
    lab.shutdown().expect("an end");
}

#[test]
fn links_are_measured_through_a_firewall_that_is_there_again_afterwards() {
    if !ready() {
        return;
    }
    let mut world = world(Preset::Corporate, Wire::default());
    let lab = world.start(Options::default());
    let asked = lab.expected(world.alice, world.server).expect("a way");
    lab.verify(world.alice, world.server, &asked).expect("as asked");
    let socket = udp(&lab, world.alice, "10.0.1.2:4000");
    socket.connect("203.0.113.1:4000").expect("an address");
    socket.send(b"hello").expect("sent");
    // Company firewalls say that they do not let UDP through.
    assert!(socket.recv(&mut [0; 16]).is_err_and(|e| e.raw_os_error().is_some()));
    lab.shutdown().expect("an end");
}

#[test]
fn what_cannot_be_measured_is_told() {
    if !ready() {
        return;
    }
    let mut world = world(Preset::FullCone, Wire::default());
    let lab = world.start(Options::default());
    let told = lab.measure(world.server, world.alice).expect_err("no way in");
    assert!(
        matches!(&told, LabError::NoWay { .. }) && told.to_string().contains("behind it"),
        "{told}"
    );
    let asked = lab.expected(world.alice, world.server).expect("a way");
    let (direction, state) = (Direction::Down, LinkState::BlackHole);
    lab.control(Change::State { iface: world.alice_uplink, direction, state }).expect("a change");
    let told = lab.verify(world.alice, world.server, &asked).expect_err("nothing comes back");
    let LabError::Unreachable { sent, arrived, .. } = told else { panic!("{told}") };
    assert_eq!(sent, arrived);
    lab.shutdown().expect("an end");
}
