//! Programs as hosts.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meshwire_netsim::lab::{Lab, LabError, Options, bench};
use meshwire_netsim::packet::{View, transport_checksum_ok};
use meshwire_netsim::{Builder, HostId, LinkConfig, Preset, Trace, Wire};

use crate::world::{connect, ip, listen, output, ready, soon, udp, world};

#[test]
fn two_hosts_behind_nats_reach_each_other_and_a_server() {
    if !ready() {
        return;
    }
    let mut world = world(Preset::FullCone, Wire::default());
    let lab = world.start(Options::default());

    let server = udp(&lab, world.server, "203.0.113.1:3478");
    let alice = udp(&lab, world.alice, "10.0.1.2:4000");
    let bob = udp(&lab, world.bob, "10.0.2.2:4000");
    alice.send_to(b"who am I?", "203.0.113.1:3478").expect("sent");
    let (text, outside) = soon(&server);
    assert_eq!((&text[..], outside.ip()), (&b"who am I?"[..], ip("198.18.0.1")));
    bob.send_to(b"hello", outside).expect("sent");
    let (text, from) = soon(&alice);
    assert_eq!((&text[..], from.ip()), (&b"hello"[..], ip("198.18.0.2")));
    alice.send_to(b"hello yourself", from).expect("sent");
    assert_eq!(soon(&bob), (b"hello yourself".to_vec(), outside));

    let mappings = lab.mappings(world.router).expect("mappings");
    assert_eq!(mappings.len(), 1, "{mappings:?}");
    let traffic = lab.traffic(world.alice_uplink).expect("the lab").expect("an interface");
    assert_eq!((traffic.up_packets, traffic.down_packets), (2, 1));
    lab.shutdown().expect("an end");
}

#[test]
fn programs_find_each_other_by_name_and_talk_tcp_through_a_nat() {
    if !ready() {
        return;
    }
    let mut world = world(Preset::Symmetric, Wire::default());
    let lab = world.start(Options {
        names: vec![("broker.example".to_owned(), vec![ip("203.0.113.1")])],
        ..Options::default()
    });
    assert!(output(&lab, world.alice, "cat", &["/etc/hosts"]).contains("203.0.113.1 server"));
    let listener = listen(&lab, world.server, "0.0.0.0:80");
    let server = std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().expect("a connection");
        let mut line = [0; 6];
        stream.read_exact(&mut line).expect("a line");
        stream.write_all(&line).expect("sent");
        from
    });
    let script = "exec 3<>/dev/tcp/broker.example/80; echo hello >&3; cat <&3";
    assert_eq!(output(&lab, world.alice, "bash", &["-c", script]), "hello\n");
    assert_eq!(server.join().expect("the server").ip(), ip("198.18.0.1"));
    // An unknown name fails at once: there is no name server to wait for.
    let lookup = lab
        .command(world.alice, "getent")
        .expect("a host")
        .args(["hosts", "nobody.example"])
        .status();
    assert!(!lookup.expect("getent").success());
    lab.shutdown().expect("an end");
}

/// Sends as fast as TCP does, in both families; what the engine sees and what arrives.
fn large_transfer(lab: &Lab, from: HostId, to: HostId, address: &str) {
    const SIZE: usize = 8 << 20;
    let listener = listen(lab, to, address);
    let pattern = |i: usize| (i % 251).to_le_bytes()[0];
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("everything");
        got
    });
    let largest = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&largest);
    let hook = move |trace: &Trace<'_>| {
        let right = View::parse(trace.packet)
            .is_ok_and(|view| transport_checksum_ok(trace.packet, &view.ip));
        let length = if right { trace.packet.len() } else { usize::MAX };
        seen.fetch_max(length, Ordering::Relaxed);
    };
    lab.inspect(|engine| engine.set_trace(hook)).expect("the lab");
    let mut stream = connect(lab, from, address);
    stream.write_all(&(0..SIZE).map(pattern).collect::<Vec<_>>()).expect("sent");
    drop(stream);
    let got = server.join().expect("the server");
    assert_eq!(got.len(), SIZE);
    assert!((0..SIZE).all(|i| got[i] == pattern(i)));
    // The engine saw packets as a wire would, with right checksums.
    assert_eq!(largest.load(Ordering::Relaxed), 1280);
    let ledger = lab.inspect(|engine| *engine.ledger()).expect("the lab");
    assert_eq!(ledger.dropped_in_all(), 0);
    let strain = lab.strain().expect("the lab");
    assert_eq!((strain.refused, strain.overrun), (0, 0));
}

#[test]
fn a_large_transfer_over_a_link_with_latency_arrives_whole() {
    if !ready() {
        return;
    }
    let link = LinkConfig { mtu: 1280, ..LinkConfig::with_latency(Duration::from_millis(5)) };
    let mut builder = Builder::new(1);
    let core = builder.core("internet").expect("a core");
    let (near, far) = (builder.host("near").expect("a host"), builder.host("far").expect("a host"));
    let (one, other) = ([ip("192.0.2.1"), ip("2001:db8::1")], [ip("192.0.2.2"), ip("2001:db8::2")]);
    builder.attach(near, core, &one, Wire::both(link)).expect("a link");
    builder.attach(far, core, &other, Wire::default()).expect("a link");
    let lab = Lab::start(builder, Options::default()).expect("a lab");
    large_transfer(&lab, near, far, "192.0.2.2:80");
    large_transfer(&lab, far, near, "[2001:db8::1]:80");
    lab.shutdown().expect("an end");
}

#[test]
fn ipv6_and_capture_files_and_the_trace() {
    if !ready() {
        return;
    }
    let mut builder = Builder::new(1);
    let core = builder.core("internet").expect("a core");
    let (a, b) = (builder.host("a").expect("a host"), builder.host("b/c").expect("a host"));
    builder.attach(a, core, &[ip("2001:db8::a")], Wire::default()).expect("a link");
    builder.attach(b, core, &[ip("2001:db8::b")], Wire::default()).expect("a link");
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options { pcap: Some(dir.path().to_owned()), ..Options::default() };
    let lab = Lab::start(builder, options).expect("a lab");
    let trace = lab.record().expect("a trace");
    let (near, far) = (udp(&lab, a, "[2001:db8::a]:1000"), udp(&lab, b, "[2001:db8::b]:2000"));
    near.send_to(b"hello", "[2001:db8::b]:2000").expect("sent");
    assert_eq!(soon(&far).0, b"hello");
    // Nothing but what programs send: no router solicitations, no multicast reports.
    let lines = String::from_utf8(trace.bytes()).expect("text");
    let events: Vec<_> = lines.lines().filter_map(|l| l.split(' ').next_back()).collect();
    assert_eq!(events, ["sent", "delivered"], "{lines}");
    lab.flush().expect("the lab");
    for name in ["a-eth0.pcap", "b_c-eth0.pcap"] {
        let capture = std::fs::read(dir.path().join(name)).expect("a capture");
        assert_eq!(capture.len(), 24 + 16 + 40 + 8 + 5, "{name}");
        assert!(capture.ends_with(b"hello"));
    }
    lab.shutdown().expect("an end");
}

#[test]
fn two_labs_of_one_kind_do_not_disturb_each_other() {
    if !ready() {
        return;
    }
    let (mut first, mut second) =
        (world(Preset::Open, Wire::default()), world(Preset::Open, Wire::default()));
    let one = first.start(Options::default());
    let two = second.start(Options::default());
    let name = one.namespace(first.server).expect("a host").to_owned();
    let sockets = |lab, world: &crate::world::World, port: u16| {
        let server = udp(lab, world.server, "203.0.113.1:53");
        let alice = udp(lab, world.alice, &format!("10.0.1.2:{port}"));
        (server, alice)
    };
    let (server_one, alice_one) = sockets(&one, &first, 1001);
    let (server_two, alice_two) = sockets(&two, &second, 1002);
    alice_two.send_to(b"two", "203.0.113.1:53").expect("sent");
    alice_one.send_to(b"one", "203.0.113.1:53").expect("sent");
    assert_eq!((soon(&server_one).0, soon(&server_two).0), (b"one".to_vec(), b"two".to_vec()));
    two.shutdown().expect("an end");
    alice_one.send_to(b"still", "203.0.113.1:53").expect("sent");
    assert_eq!(soon(&server_one).0, b"still");
    drop(one);
    assert!(!Path::new("/run/netns").join(name).exists());
}

#[test]
fn programs_that_still_run_end_with_the_lab() {
    if !ready() {
        return;
    }
    let mut world = world(Preset::Open, Wire::default());
    let lab = world.start(Options::default());
    let mut sleeper =
        lab.command(world.alice, "sleep").expect("a host").arg("86400").spawn().expect("sleep");
    let name = lab.namespace(world.alice).expect("a host").to_owned();
    assert!(Path::new("/run/netns").join(&name).exists());
    lab.shutdown().expect("an end");
    assert!(!sleeper.wait().expect("an end").success());
    for dir in ["/run/netns", "/etc/netns"] {
        assert!(!Path::new(dir).join(&name).exists());
    }
}

#[test]
fn a_host_of_another_world_is_refused() {
    if !ready() {
        return;
    }
    let mut small = Builder::new(1);
    let core = small.core("internet").expect("a core");
    let only = small.host("only").expect("a host");
    small.attach(only, core, &[ip("203.0.113.1")], Wire::default()).expect("a link");
    let lab = Lab::start(small, Options::default()).expect("a lab");
    let stranger = world(Preset::Open, Wire::default()).bob;
    assert!(matches!(lab.command(stranger, "true"), Err(LabError::Config(_))));
    lab.shutdown().expect("an end");
}

#[test]
fn the_benchmarks_give_numbers() {
    if !ready() {
        return;
    }
    let latency = bench::added_latency().expect("a latency");
    // `sim bench` prints what it is; this catches only what is broken, in an unoptimised build on a
    // machine that does other things.
    assert!(latency.added() < Duration::from_millis(5), "{latency:?}");
    match bench::tcp_through_nat(1) {
        Ok(rate) => assert!(rate > 50e6, "{rate} bit/s"),
        Err(LabError::Program { message, .. }) if message.contains("apt-get install iperf3") => {
            assert!(std::env::var_os("MESHWIRE_REQUIRE_LAB").is_none_or(|v| v != "1"), "{message}");
            println!("skipped: iperf3: {message}");
        }
        Err(e) => panic!("{e}"),
    }
}
