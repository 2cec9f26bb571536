//! How many simple UDP packets per second go through two NATs on one core. Run it in release:
//! `cargo run --release -p meshwire-netsim --example engine_speed`

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meshwire_netsim::packet::{Build, View, build};
use meshwire_netsim::{
    Builder, Engine, HostId, LinkConfig, NetId, Preset, RouterId, Time, Uplink, Wire,
};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

const PACKETS: u32 = 3_000_000;

fn home(world: &mut Builder, core: NetId, n: u8, wire: Wire) -> Fallible<(HostId, RouterId)> {
    let lan = world.segment(&format!("lan{n}"), &[format!("10.0.{n}.0/24").parse()?])?;
    let outside: IpAddr = format!("198.51.100.{n}").parse()?;
    let uplink = Uplink { net: core, addresses: &[outside], routed: &[], wire };
    let router = world.router(&format!("nat{n}"), Preset::FullCone.router(), &uplink)?;
    world.inside(router, lan, &[format!("10.0.{n}.1").parse()?], &[], Wire::default())?;
    let host = world.host(&format!("host{n}"))?;
    world.attach(host, lan, &[format!("10.0.{n}.2").parse()?], Wire::default())?;
    Ok((host, router))
}

/// Packets per second from one host to the other, in batches of 32 as a paced sender would make them.
fn measure(engine: &mut Engine, from: HostId, packet: &[u8]) -> f64 {
    #[expect(clippy::disallowed_methods, reason = "a measurement of real time")]
    let start = std::time::Instant::now();
    let (mut now, mut got) = (Time::ZERO, 0_u32);
    for n in 0..PACKETS {
        engine.send(now, from, packet.to_vec());
        if n % 32 == 31 {
            now += Duration::from_micros(32);
            while engine.poll(now).is_some() {
                got += 1;
            }
        }
    }
    while let Some(at) = engine.next_deadline() {
        while engine.poll(at).is_some() {
            got += 1;
        }
    }
    #[expect(clippy::disallowed_methods, reason = "a measurement of real time")]
    let took = start.elapsed();
    assert_eq!(got, PACKETS, "every packet arrives");
    f64::from(PACKETS) / took.as_secs_f64()
}

fn main() -> Fallible<()> {
    let mut out = std::io::stdout();
    let kinds = [("perfect wires", Duration::ZERO), ("20 ms uplinks", Duration::from_millis(20))];
    for (name, latency) in kinds {
        let mut world = Builder::new(1);
        let core = world.core("internet")?;
        let wire = Wire::both(LinkConfig::with_latency(latency));
        let (a, _) = home(&mut world, core, 1, wire)?;
        let (b, _) = home(&mut world, core, 2, wire)?;
        let mut engine = world.build();
        // The second host opens its port; its router's outside endpoint is what the first sends to.
        let b_inside: SocketAddr = "10.0.2.2:5000".parse()?;
        engine.send(Time::ZERO, b, build(b_inside, "198.51.100.1:9".parse()?, Build::Udp(b"open")));
        let from = "10.0.1.2:5000".parse()?;
        let packet = build(from, "198.51.100.2:5000".parse()?, Build::Udp(&[0; 172]));
        View::parse(&packet)?;
        while engine.next_deadline().is_some_and(|at| at < Time::from_secs(1)) {
            engine.poll(Time::from_secs(1));
        }
        let rate = measure(&mut engine, a, &packet);
        writeln!(out, "{name}: {rate:.0} packets/s of {} bytes through two NATs", packet.len())?;
    }
    Ok(())
}
