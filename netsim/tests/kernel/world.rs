//! The two worlds that a script can run in: a namespace of the kernel, and the engine.
//!
//! Inside are 10.0.0.0/8, outside is everybody else; the router is 10.0.0.1 and 198.51.100.1.

use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

use meshwire_netsim::lab::{Lab, Options, Tun, check};
use meshwire_netsim::packet::{Build, View, build};
use meshwire_netsim::{Builder, Engine, HostId, Prefix, RouterConfig, Time, Uplink, Wire};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::wire::sock;

/// The router's outside address.
pub(crate) const EXT: &str = "198.51.100.1";

/// What came out of a router because of one packet.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) inside: Vec<Vec<u8>>,
    pub(crate) outside: Vec<Vec<u8>>,
}

/// A router between an inside and an outside.
pub(crate) trait World {
    /// Sends a packet from one side; gives all that comes out before the router is idle again.
    fn send(&mut self, from_inside: bool, packet: Vec<u8>) -> Seen;

    /// Lets this much time pass since the previous call of `wait`, or since the start.
    fn wait(&mut self, time: Duration);

    /// Whether waits took longer than was asked, so that the script says nothing.
    fn late(&self) -> bool;
}

/// How late a wait may end.
const SLACK: Duration = Duration::from_millis(250);
/// How long a packet that must come is waited for.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// A router of the kernel: the only host of a lab without a network.
pub(crate) struct Kernel {
    inside: Tun,
    outside: Tun,
    tick: u16,
    due: Instant,
    late: bool,
    _lab: Lab,
}

/// Whether this process may make namespaces and rules; prints why not.
///
/// # Panics
/// When it may not and `MESHWIRE_REQUIRE_LAB` is set.
pub(crate) fn can_run() -> bool {
    let why = match (check(), Command::new("nft").arg("--version").output()) {
        (Err(missing), _) => missing.to_string(),
        (_, Err(e)) => format!("nft (Debian: nftables): {e}"),
        (Ok(()), Ok(_)) => return true,
    };
    assert!(std::env::var_os("MESHWIRE_REQUIRE_LAB").is_none(), "the kernel's NAT: {why}");
    eprintln!("skipped: {why}");
    false
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

impl Kernel {
    /// A namespace with these rules and these settings under /proc/sys/net.
    #[expect(clippy::disallowed_methods, reason = "the kernel's timers run by the real clock")]
    pub(crate) fn new(rules: &str, settings: &[(&str, &str)]) -> Self {
        let set = |path: &str, value: &str| std::fs::write(format!("/proc/sys/net/{path}"), value);
        let mut world = Builder::new(1);
        let router = world.host("router").unwrap();
        let lab = Lab::start(world, Options::default()).unwrap();
        let devices = lab.enter(router, || {
            for family in ["all", "default"] {
                // There may be no IPv6 at all.
                set(&format!("ipv6/conf/{family}/disable_ipv6"), "1").ok();
                set(&format!("ipv4/conf/{family}/rp_filter"), "0")?;
            }
            set("ipv4/ip_forward", "1")?;
            set("ipv4/icmp_ratelimit", "0")?;
            io::Result::Ok((Tun::open("in0")?, Tun::open("out0")?))
        });
        let (inside, outside) = devices.unwrap().unwrap();
        inside.set_nonblocking(true).unwrap();
        outside.set_nonblocking(true).unwrap();
        for args in [
            "link set in0 up",
            "link set out0 up",
            "addr add 10.0.0.1/8 dev in0",
            "addr add 198.51.100.1/24 dev out0",
            "route add default dev out0",
        ] {
            run(lab.command(router, "ip").unwrap().args(args.split(' ')));
        }
        run(lab.command(router, "nft").unwrap().arg(rules));
        // The kernel has timers for connections only since there are rules that want them.
        let set_all = || settings.iter().try_for_each(|(path, value)| set(path, value));
        lab.enter(router, set_all).unwrap().unwrap();
        Self { inside, outside, tick: 0, due: Instant::now(), late: false, _lab: lab }
    }

    /// The next IPv4 packet of a device.
    fn read(device: &Tun) -> Vec<u8> {
        let mut buffer = vec![0; 65_535];
        loop {
            match device.read(&mut buffer) {
                Ok(length) if buffer[0] >> 4 == 4 => return buffer[..length].to_vec(),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let ready = poll(&mut [PollFd::new(device, PollFlags::IN)], Some(&PATIENCE));
                    assert_eq!(ready.unwrap(), 1, "the mark never came through");
                }
                Err(e) => panic!("reading from the router: {e}"),
            }
        }
    }

    /// Everything up to the packet with this payload.
    fn read_until(device: &Tun, mark: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let mut seen = Vec::new();
        loop {
            let packet = Self::read(device);
            if packet.ends_with(mark) {
                return (seen, packet);
            }
            seen.push(packet);
        }
    }
}

impl World for Kernel {
    fn send(&mut self, from_inside: bool, packet: Vec<u8>) -> Seen {
        let device = if from_inside { &self.inside } else { &self.outside };
        device.write(&packet).unwrap();
        // A device's packets stay in order. When a mark that was sent later has come through both
        // ways, what has not come out does not come any more.
        self.tick += 1;
        let mark = [b"mark", &self.tick.to_be_bytes()[..]].concat();
        let (here, there) = (sock("10.200.0.1:200"), sock("203.0.113.200:200"));
        self.inside.write(&build(here, there, Build::Udp(&mark))).unwrap();
        let (outside, gone) = Self::read_until(&self.outside, &mark);
        let view = View::parse(&gone).unwrap();
        let back = std::net::SocketAddr::new(view.ip.source, view.ports().0);
        self.outside.write(&build(there, back, Build::Udp(&mark))).unwrap();
        let (inside, _) = Self::read_until(&self.inside, &mark);
        Seen { inside, outside }
    }

    #[expect(clippy::disallowed_methods, reason = "the kernel's timers run by the real clock")]
    fn wait(&mut self, time: Duration) {
        self.due += time;
        self.late |= Instant::now() > self.due;
        std::thread::sleep(self.due.saturating_duration_since(Instant::now()));
        self.late |= self.due.elapsed() > SLACK;
    }

    fn late(&self) -> bool {
        self.late
    }
}

/// A router of the engine.
pub(crate) struct Simulated {
    engine: Engine,
    inside: HostId,
    outside: HostId,
    now: Time,
}

/// Who is outside.
pub(crate) const OUTSIDE: [&str; 4] = ["203.0.113.1", "203.0.113.9", "203.0.113.200", "192.0.2.77"];

impl Simulated {
    pub(crate) fn new(config: RouterConfig) -> Self {
        let mut world = Builder::new(1);
        let everything: Prefix = "0.0.0.0/0".parse().unwrap();
        let wan = world.segment("wan", &[everything]).unwrap();
        let lan = world.segment("lan", &["10.0.0.0/8".parse().unwrap()]).unwrap();
        let uplink = Uplink {
            net: wan,
            addresses: &[EXT.parse().unwrap()],
            routed: &[],
            wire: Wire::default(),
        };
        let router = world.router("home", config, &uplink).unwrap();
        world.inside(router, lan, &["10.0.0.1".parse().unwrap()], &[], Wire::default()).unwrap();
        let (inside, outside) = (world.host("inside").unwrap(), world.host("outside").unwrap());
        let hosts: Vec<_> =
            (2..60).chain([254]).map(|n| format!("10.0.0.{n}").parse().unwrap()).collect();
        world.attach(inside, lan, &hosts, Wire::default()).unwrap();
        let hosts = OUTSIDE.map(|a| a.parse().unwrap());
        world.attach(outside, wan, &hosts, Wire::default()).unwrap();
        Self { engine: world.build(), inside, outside, now: Time::ZERO }
    }
}

impl World for Simulated {
    fn send(&mut self, from_inside: bool, packet: Vec<u8>) -> Seen {
        let from = if from_inside { self.inside } else { self.outside };
        self.engine.send(self.now, from, packet);
        let mut seen = Seen::default();
        while let Some(delivery) = self.engine.poll(self.now) {
            let side =
                if delivery.host == self.inside { &mut seen.inside } else { &mut seen.outside };
            side.push(delivery.packet);
        }
        seen
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        assert!(self.engine.poll(self.now).is_none(), "nothing comes by itself");
    }

    fn late(&self) -> bool {
        false
    }
}
