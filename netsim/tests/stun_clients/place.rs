//! A router of some preset between a client's home and a STUN server.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use meshwire_netsim::lab::{Lab, Options, check};
use meshwire_netsim::nat::Pair;
use meshwire_netsim::{Builder, HostId, Preset, Uplink, Wire};

/// The server's addresses; the second is the other address of RFC 5780.
const SERVER: [&str; 2] = ["203.0.113.1", "203.0.113.9"];
/// The client, and its neighbour behind the same router.
const HOSTS: [&str; 2] = ["192.168.1.2", "192.168.1.3"];
/// The router's outside addresses; the second is the client's own behind a cloud's NAT.
const OUTSIDE: [&str; 2] = ["198.51.100.1", "198.51.100.2"];

/// Whether lab and programs are there; prints what is not.
///
/// # Panics
/// When something is missing and `MESHWIRE_REQUIRE_LAB` is set.
pub(crate) fn can_run() -> bool {
    let programs =
        [("turnserver", "coturn"), ("turnutils_natdiscovery", "coturn"), ("stun", "stun-client")];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    let absent = programs.iter().find(|(program, _)| !there(program));
    let why = match (check(), absent) {
        (Err(missing), _) => missing.to_string(),
        (_, Some((program, package))) => format!("{program} (Debian: {package}) is not installed"),
        (Ok(()), None) => return true,
    };
    assert!(std::env::var_os("MESHWIRE_REQUIRE_LAB").is_none(), "STUN clients: {why}");
    eprintln!("skipped: {why}");
    false
}

/// A lab with a client behind a router, and a STUN server.
pub(crate) struct Place {
    // Ended before the lab.
    _server: Server,
    lab: Lab,
    client: HostId,
    neighbour: HostId,
    /// The client's.
    address: &'static str,
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Place {
    /// The server listens at `port` and the next one.
    pub(crate) fn new(preset: Preset, port: u16) -> Self {
        let ip = |text: &str| text.parse().unwrap();
        let mut world = Builder::new(1);
        let core = world.core("internet").unwrap();
        let (client, neighbour) = (world.host("client").unwrap(), world.host("neighbour").unwrap());
        let server = world.host("server").unwrap();
        world.attach(server, core, &SERVER.map(ip), Wire::default()).unwrap();
        if preset == Preset::Open {
            world.attach(client, core, &[ip(OUTSIDE[0])], Wire::default()).unwrap();
            world.attach(neighbour, core, &[ip(OUTSIDE[1])], Wire::default()).unwrap();
        } else {
            let lan = world.segment("lan", &["192.168.1.0/24".parse().unwrap()]).unwrap();
            let mut router = preset.router();
            if preset == Preset::CloudOneToOne {
                let pair = |n: usize| Pair {
                    inside: HOSTS[n].parse().unwrap(),
                    outside: OUTSIDE[n].parse().unwrap(),
                };
                router = router.with_pairs(vec![pair(0), pair(1)]);
            }
            let addresses = OUTSIDE.map(ip);
            let own =
                if preset == Preset::CloudOneToOne { &addresses[..] } else { &addresses[..1] };
            let uplink = Uplink { net: core, addresses: own, routed: &[], wire: Wire::default() };
            let router = world.router("home", router, &uplink).unwrap();
            world.inside(router, lan, &[ip("192.168.1.1")], &[], Wire::default()).unwrap();
            world.attach(client, lan, &[ip(HOSTS[0])], Wire::default()).unwrap();
            world.attach(neighbour, lan, &[ip(HOSTS[1])], Wire::default()).unwrap();
        }
        let lab = Lab::start(world, Options::default()).unwrap();
        let server = serve(&lab, server, port);
        let address = if preset == Preset::Open { OUTSIDE[0] } else { HOSTS[0] };
        Self { _server: server, lab, client, neighbour, address }
    }

    /// What RFC 5780's client prints; `flags` may say which port it uses.
    pub(crate) fn discover(&self, flags: &[&str], port: u16) -> String {
        let mut command = self.lab.command(self.client, "turnutils_natdiscovery").unwrap();
        // Without its own address it cannot see that there is no NAT.
        command.args(["-L", self.address]).args(flags);
        said(command.args(["-p", &port.to_string(), SERVER[0]]))
    }

    /// The verdict of RFC 3489's client.
    pub(crate) fn classic(&self) -> String {
        let mut command = self.lab.command(self.client, "stun").unwrap();
        let said = said(command.arg(SERVER[0]));
        let verdict = said.lines().find_map(|line| line.strip_prefix("Primary: "));
        verdict.unwrap_or_else(|| panic!("no verdict: {said}")).trim().to_owned()
    }

    /// The neighbour sends to the server's second address; gives the port that it does so from.
    #[expect(clippy::disallowed_methods, reason = "a socket of the neighbour's namespace")]
    pub(crate) fn neighbour_uses_a_port(&self) -> u16 {
        let sent = self.lab.enter(self.neighbour, || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:5000")?;
            socket.send_to(b"hello", (SERVER[1], 3478))
        });
        sent.unwrap().unwrap();
        5000
    }
}

fn said(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat()
}

/// Starts the server and waits until it listens at both addresses and ports.
fn serve(lab: &Lab, host: HostId, port: u16) -> Server {
    let mut command = lab.command(host, "turnserver").unwrap();
    command.args(["-n", "--stun-only", "--no-auth", "--no-tls", "--no-dtls", "--no-cli"]);
    command.args(["--log-file", "stdout", "--simple-log", "--pidfile", "/dev/null"]);
    command.args(["--userdb", "/dev/null"]);
    command.args(SERVER.iter().flat_map(|address| ["--listening-ip", address]));
    command.args(["--listening-port", &port.to_string()]);
    command.args(["--alt-listening-port", &(port + 1).to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = Server(command.spawn().unwrap());
    let listening = || {
        let table = lab.enter(host, || std::fs::read_to_string("/proc/thread-self/net/udp"));
        table.unwrap().unwrap()
    };
    let wanted = [port, port + 1].map(|p| format!(":{p:04X} "));
    for _ in 0..500 {
        let table = listening();
        // Each address and port once at least; the server opens several sockets for each.
        let count = |end: &String| {
            let of = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
            let all: std::collections::BTreeSet<_> =
                table.lines().filter(|l| l.contains(end.as_str())).filter_map(of).collect();
            all.len()
        };
        if wanted.iter().all(|end| count(end) == SERVER.len()) {
            return server;
        }
        assert!(server.0.try_wait().unwrap().is_none(), "the STUN server has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the STUN server does not listen");
}
