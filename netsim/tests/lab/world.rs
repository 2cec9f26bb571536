//! A server and two homes, and sockets inside them.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use meshwire_netsim::lab::{Lab, Options, check};
use meshwire_netsim::{Builder, HostId, IfaceId, Preset, RouterId, Uplink, Wire};

/// How long something may take that happens at once, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// Whether there can be a lab. Says why not.
pub(crate) fn ready() -> bool {
    let Err(missing) = check() else { return true };
    assert!(std::env::var_os("MESHWIRE_REQUIRE_LAB").is_none_or(|v| v != "1"), "{missing}");
    eprintln!("skipped: {missing}");
    false
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// `alice` (10.0.1.2, outside 198.18.0.1) and `bob` (10.0.2.2, outside 198.18.0.2) behind routers,
/// `server` (203.0.113.1, 2001:db8:1::1) in the core.
pub(crate) struct World {
    builder: Builder,
    pub(crate) server: HostId,
    pub(crate) server_iface: IfaceId,
    pub(crate) alice: HostId,
    pub(crate) alice_iface: IfaceId,
    pub(crate) alice_uplink: IfaceId,
    pub(crate) router: RouterId,
    pub(crate) bob: HostId,
}

pub(crate) fn world(preset: Preset, wire: Wire) -> World {
    let mut world = Builder::new(7);
    let core = world.core("internet").expect("a core");
    let server = world.host("server").expect("a host");
    let addresses = [ip("203.0.113.1"), ip("2001:db8:1::1")];
    let server_iface = world.attach(server, core, &addresses, Wire::default()).expect("a link");
    let mut home = |name: &str, n: u8, wire: Wire| {
        let subnet = format!("10.0.{n}.0/24").parse().expect("a prefix");
        let lan = world.segment(&format!("{name}.lan"), &[subnet]).expect("a lan");
        let outside = [ip(&format!("198.18.0.{n}"))];
        let uplink = Uplink { net: core, addresses: &outside, routed: &[], wire };
        let router = world.router(&format!("{name}.router"), preset.router(), &uplink);
        let router = router.expect("a router");
        let gateway = [ip(&format!("10.0.{n}.1"))];
        world.inside(router, lan, &gateway, &[], Wire::default()).expect("a gateway");
        let host = world.host(name).expect("a host");
        let own = [ip(&format!("10.0.{n}.2"))];
        let iface = world.attach(host, lan, &own, Wire::default()).expect("a link");
        (host, iface, router, world.uplink(router).expect("an uplink"))
    };
    let (alice, alice_iface, router, alice_uplink) = home("alice", 1, wire);
    let (bob, ..) = home("bob", 2, Wire::default());
    World { builder: world, server, server_iface, alice, alice_iface, alice_uplink, router, bob }
}

impl World {
    pub(crate) fn start(&mut self, options: Options) -> Lab {
        let builder = std::mem::replace(&mut self.builder, Builder::new(0));
        Lab::start(builder, options).expect("a lab")
    }
}

/// A UDP socket of a host, which waits for some seconds at most.
pub(crate) fn udp(lab: &Lab, host: HostId, address: &str) -> UdpSocket {
    #[expect(clippy::disallowed_methods, reason = "the kernel's socket is what is tested")]
    let socket = lab.enter(host, || UdpSocket::bind(address)).expect("inside").expect("a socket");
    socket.set_read_timeout(Some(SOON)).expect("a timeout");
    socket
}

/// The next packet, or None when there is none within `wait`.
pub(crate) fn receive(socket: &UdpSocket, wait: Duration) -> Option<(Vec<u8>, SocketAddr)> {
    socket.set_read_timeout(Some(wait)).expect("a timeout");
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    Some((buffer[..length].to_vec(), from))
}

pub(crate) fn soon(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    receive(socket, SOON).expect("a packet")
}

pub(crate) fn listen(lab: &Lab, host: HostId, address: &str) -> TcpListener {
    #[expect(clippy::disallowed_methods, reason = "the kernel's socket is what is tested")]
    lab.enter(host, || TcpListener::bind(address)).expect("inside").expect("a listener")
}

pub(crate) fn connect(lab: &Lab, host: HostId, address: &str) -> TcpStream {
    #[expect(clippy::disallowed_methods, reason = "the kernel's socket is what is tested")]
    lab.enter(host, || TcpStream::connect(address)).expect("inside").expect("a connection")
}

/// What a program says on its standard output.
pub(crate) fn output(lab: &Lab, host: HostId, program: &str, args: &[&str]) -> String {
    let out = lab.command(host, program).expect("a host").args(args).output().expect("a program");
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}
