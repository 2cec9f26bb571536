//! Routers that are asked for a port: good ones, and bad ones.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meshwire_netsim::nat::{Forward, NatConfig};
use meshwire_netsim::simnet::{Home, Internet, Sim, SimHost, run};
use meshwire_netsim::{Change, LinkConfig, Preset, Wire};
use meshwire_transport::net::Net as _;
use meshwire_transport::netcheck::{PortMapping, ask_router};
use meshwire_transport::quic::candidates::CandidateKind;
use meshwire_transport::quic::interfaces::{FixedInterfaces, Router};
use meshwire_transport::quic::portmap::PORT;
use meshwire_transport::quic::{AttemptEvent, Config, Dial, PairKind, QuicNode, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::quic::{echo, pair_of, stun_server, try_meet};

/// The port of alice's node, inside and outside.
const NODE: u16 = 45_000;
const ALICE: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
/// Who plays the part of alice's router, in her network: the engine's own has no port control.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 3);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// What a UPnP router answers to a call, by its name: an HTTP status and a text.
type Calls = fn(&str, u32) -> (u16, String);

const DESCRIPTION: &str = "<root><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1\
    </serviceType><controlURL>ctl</controlURL></service></root>";

fn address(ip: Ipv4Addr) -> (u16, String) {
    (200, format!("<NewExternalIPAddress>{ip}</NewExternalIPAddress>"))
}

fn fault(code: u16) -> (u16, String) {
    (500, format!("<errorCode>{code}</errorCode>"))
}

/// Answers searches with `location`, and calls at TCP port 5000 as `calls` says, which is told of
/// how many there were before.
async fn upnp(gateway: &SimHost, location: &'static str, calls: Calls) -> Arc<AtomicUsize> {
    let search = gateway.udp_bind((GATEWAY, 1900).into()).await.unwrap();
    tokio::spawn(async move {
        let mut buf = [0; 2000];
        while let Ok((length, from)) = search.recv_from(&mut buf).await {
            assert!(buf[..length].starts_with(b"M-SEARCH * HTTP/1.1\r\n"));
            let answer = format!("HTTP/1.1 200 OK\r\nLOCATION: {location}\r\n\r\n");
            search.send_to(answer.as_bytes(), from).await.unwrap();
        }
    });
    let listener = gateway.tcp_bind((GATEWAY, 5000).into()).await.unwrap();
    let added = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&added);
    tokio::spawn(async move {
        let mut nth = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut said = String::new();
            let asks = |said: &str| said.starts_with("GET /d.xml ") && said.ends_with("\r\n\r\n");
            while !said.ends_with("</s:Envelope>\r\n") && !asks(&said) {
                let Ok(byte) = stream.read_u8().await else { break };
                said.push(char::from(byte));
            }
            let action = said.lines().find_map(|l| l.strip_prefix("soapaction: "));
            let action = action.and_then(|a| a.trim().trim_matches('"').split_once('#'));
            let (status, text) = match action {
                None => (200, DESCRIPTION.to_owned()),
                Some((_, call)) => calls(call, nth),
            };
            nth += u32::from(action.is_some());
            if said.contains("<u:AddPortMapping") && status == 200 {
                let own = format!("<NewInternalClient>{ALICE}</NewInternalClient>");
                assert!(said.contains(&own) && said.contains("<NewLeaseDuration>1200<"), "{said}");
                count.fetch_add(1, Ordering::Relaxed);
            }
            let length = text.len();
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{text}");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.flush().await;
        }
    });
    added
}

const LOCATION: &str = "http://10.0.1.3:5000/d.xml";

fn obliging(call: &str, _: u32) -> (u16, String) {
    match call {
        "GetExternalIPAddress" => address(OUTSIDE),
        _ => (200, String::new()),
    }
}

/// Two homes behind symmetric NATs, of which alice's forwards [`NODE`] to her.
struct Place {
    _sim: Sim,
    alice: SimHost,
    bob: SimHost,
    gateway: SimHost,
    server: SimHost,
}

fn place(stage: meshwire_netsim::simnet::Stage) -> Place {
    let mut net = Internet::new(stage).unwrap();
    let server = net.server("stun", Wire::default()).unwrap();
    let wire = Wire::both(LinkConfig::with_latency(Duration::from_millis(5)));
    let mut home = |name| net.home(name, Preset::Symmetric, wire).unwrap();
    let (alice, bob): (Home, Home) = (home("alice"), home("bob"));
    let builder = net.builder();
    let gateway = builder.host("gateway").unwrap();
    builder.attach(gateway, alice.lan, &[GATEWAY.into()], Wire::default()).unwrap();
    let sim = net.start();
    let Some(NatConfig::Ports(mut napt)) = Preset::Symmetric.router().nat else { panic!() };
    let forward = Forward { tcp: false, external: 0, port: NODE, to: ALICE, to_port: NODE };
    napt.forwards.push(forward);
    let config = Some(NatConfig::ports(*napt));
    sim.control(Change::Nat { router: alice.router, config }).unwrap();
    let host = |id| sim.host(id);
    let (alice, bob, gateway, server) =
        (host(alice.host), host(bob.host), host(gateway), host(server));
    Place { alice, bob, gateway, server, _sim: sim }
}

/// What a router does with a request; the packets that it sends back.
type Manner = fn(&[u8]) -> Vec<Vec<u8>>;

fn granted(request: &[u8], external: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut answer = vec![2, 0x81, 0, 0, 0, 0, 4, 176];
    answer.extend([0; 16]);
    answer.extend(&request[24..42]);
    answer.extend(port.to_be_bytes());
    answer.extend(external.to_ipv6_mapped().octets());
    answer
}

fn good(request: &[u8]) -> Vec<Vec<u8>> {
    vec![granted(request, OUTSIDE, NODE)]
}

/// Answers at [`PORT`], and counts what it was sent.
async fn play(gateway: &SimHost, manner: Manner) -> Arc<AtomicUsize> {
    let socket = gateway.udp_bind((GATEWAY, PORT).into()).await.unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    tokio::spawn(async move {
        let mut buf = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut buf).await {
            count.fetch_add(1, Ordering::Relaxed);
            for answer in manner(&buf[..length]) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    seen
}

async fn node(host: &SimHost, router: Option<Router>, relayed_only: bool) -> QuicNode {
    let v4 = host.addresses().into_iter().filter(IpAddr::is_ipv4);
    let interfaces = Arc::new(FixedInterfaces::new(v4));
    interfaces.set_router(router);
    let mut config = Config::new(interfaces);
    (config.port, config.relayed_only) = (NODE, relayed_only);
    QuicNode::start(Arc::new(host.clone()), config).await.unwrap()
}

const ROUTER: Router = Router { gateway: GATEWAY, own: ALICE };

#[test]
fn a_forwarded_port_lets_a_symmetric_peer_in() {
    for forwarded in [true, false] {
        run(1, async |stage| {
            let place = place(stage);
            play(&place.gateway, good).await;
            let servers = stun_server(&place.server).await;
            let alice = node(&place.alice, forwarded.then_some(ROUTER), false).await;
            let bob = node(&place.bob, None, false).await;
            for node in [&alice, &bob] {
                node.set_servers(None, servers.clone());
            }
            let (left, right) = try_meet(&bob, &alice).await;
            assert_eq!((left.is_ok(), right.is_ok()), (forwarded, forwarded));
            if let (Ok(left), Ok(right)) = (left, right) {
                assert_eq!(pair_of(&left).kind, PairKind::Reflexive);
                assert_eq!(pair_of(&left).remote, SocketAddr::new(OUTSIDE.into(), NODE));
                echo(&left, &right).await;
            }
        });
    }
}

#[test]
fn upnp_does_where_the_others_are_not_spoken() {
    let taken: Calls = |call, nth| match (call, nth) {
        ("AddPortMapping", 1) => fault(718),
        _ => obliging(call, nth),
    };
    for (calls, same) in [(obliging as Calls, true), (taken, false)] {
        run(1, async |stage| {
            let place = place(stage);
            let added = upnp(&place.gateway, LOCATION, calls).await;
            let alice = node(&place.alice, Some(ROUTER), false).await;
            let offered = offered(&alice, Dial::new(Role::Controlling)).await;
            assert_eq!(offered.len(), 1, "{offered:?}");
            assert_eq!(offered[0].ip(), IpAddr::from(OUTSIDE));
            assert_eq!(offered[0].port() == NODE, same, "{offered:?}");
            tokio::time::sleep(Duration::from_secs(1_000)).await;
            assert_eq!(added.load(Ordering::Relaxed), 2, "renewed at half its lifetime");
        });
    }
}

#[test]
fn bad_upnp_routers_change_nothing() {
    let rows: [(&str, Calls, &str); 8] = [
        (
            LOCATION,
            |call, _| match call {
                "GetExternalIPAddress" => address(Ipv4Addr::new(100, 64, 0, 7)),
                _ => panic!("it must not be asked"),
            },
            "behind another NAT",
        ),
        (
            LOCATION,
            |call, nth| match call {
                "AddPortMapping" => fault(725),
                _ => obliging(call, nth),
            },
            "for ever",
        ),
        (
            LOCATION,
            |call, nth| match call {
                "AddPortMapping" => fault(718),
                _ => obliging(call, nth),
            },
            "other machines have",
        ),
        (LOCATION, |_, _| (200, "<".repeat(70_000)), "make no sense"),
        (LOCATION, |_, _| (404, String::new()), "501"),
        ("http://203.0.113.1:5000/d.xml", obliging, ""),
        ("http://10.0.1.3:1/d.xml", obliging, "make no sense"),
        ("\r\n", obliging, ""),
    ];
    for (n, (location, calls, expected)) in rows.into_iter().enumerate() {
        run(1, async |stage| {
            let place = place(stage);
            let added = upnp(&place.gateway, location, calls).await;
            match ask_router(Arc::new(place.alice.clone()), Some(ROUTER)).await {
                PortMapping::Refused { reason, .. } if !expected.is_empty() => {
                    assert!(reason.contains(expected), "{n}: {reason}");
                }
                PortMapping::Silent { .. } if expected.is_empty() => {}
                other => panic!("{n}: {other:?}"),
            }
            assert_eq!(added.load(Ordering::Relaxed), 0, "{n}");
        });
    }
}

/// The mapped candidates that a node offers within a while of virtual time.
async fn offered(node: &QuicNode, dial: Dial) -> Vec<SocketAddr> {
    let mut attempt = node.dial(dial).unwrap();
    let mut mapped = Vec::new();
    let mut note = |c: meshwire_transport::quic::candidates::Candidate| {
        if c.kind == CandidateKind::Mapped {
            mapped.push(c.addr);
        }
    };
    attempt.local().candidates.iter().copied().for_each(&mut note);
    let _ = timeout(Duration::from_secs(8), async {
        while let Some(event) = attempt.next().await {
            if let AttemptEvent::Candidate(candidate) = event {
                note(candidate);
            }
        }
    })
    .await;
    mapped
}

#[test]
fn bad_routers_change_nothing() {
    let bad: [Manner; 6] = [
        |_| Vec::new(),
        |request| vec![request.to_vec(), vec![0; 3], vec![2, 0x81], vec![0xff; 1400]],
        // Another's nonce.
        |request| {
            let mut answer = granted(request, OUTSIDE, NODE);
            answer[24] ^= 1;
            vec![answer; 500]
        },
        |request| vec![granted(request, Ipv4Addr::new(192, 168, 0, 9), NODE)],
        |request| vec![granted(request, Ipv4Addr::LOCALHOST, NODE)],
        |request| vec![granted(request, OUTSIDE, 22)],
    ];
    for (n, manner) in bad.into_iter().enumerate() {
        run(1, async |stage| {
            let place = place(stage);
            let seen = play(&place.gateway, manner).await;
            let alice = node(&place.alice, Some(ROUTER), false).await;
            assert_eq!(offered(&alice, Dial::new(Role::Controlling)).await, [], "{n}");
            let seen = seen.load(Ordering::Relaxed);
            assert!((1..=9).contains(&seen), "{n}: asked {seen} times");
        });
    }
}

/// Somebody else in the network answers faster than the router, who refuses.
#[test]
fn answers_come_from_the_router_alone() {
    run(1, async |stage| {
        let place = place(stage);
        let socket = place.gateway.udp_bind((GATEWAY, PORT).into()).await.unwrap();
        let other = place.gateway.udp_bind((GATEWAY, PORT + 1).into()).await.unwrap();
        tokio::spawn(async move {
            let mut buf = [0; 2000];
            while let Ok((length, from)) = socket.recv_from(&mut buf).await {
                let answer = granted(&buf[..length.max(60)], OUTSIDE, NODE);
                other.send_to(&answer, from).await.unwrap();
            }
        });
        let alice = node(&place.alice, Some(ROUTER), false).await;
        assert_eq!(offered(&alice, Dial::new(Role::Controlling)).await, []);
    });
}

#[test]
fn who_hides_or_stays_on_this_machine_asks_for_nothing() {
    for (hidden, loopback) in [(true, false), (false, true), (false, false)] {
        run(1, async |stage| {
            let place = place(stage);
            let seen = play(&place.gateway, good).await;
            let alice = node(&place.alice, Some(ROUTER), hidden).await;
            assert_eq!(seen.load(Ordering::Relaxed), 0, "nobody wants to connect yet");
            let mut dial = Dial::new(Role::Controlling);
            dial.loopback = loopback;
            let expected: &[SocketAddr] = match hidden || loopback {
                true => &[],
                false => &[SocketAddr::new(IpAddr::V4(OUTSIDE), NODE)],
            };
            assert_eq!(offered(&alice, dial).await, expected);
            assert_eq!(seen.load(Ordering::Relaxed), expected.len());
        });
    }
}

#[test]
fn netcheck_says_what_the_router_does() {
    run(1, async |stage| {
        let place = place(stage);
        let added = upnp(&place.gateway, LOCATION, obliging).await;
        let found = ask_router(Arc::new(place.alice.clone()), Some(ROUTER)).await;
        let by = |m: &PortMapping| matches!(m, PortMapping::Mapped { protocol: "UPnP", .. });
        assert!(by(&found), "{found:?}");
        assert_eq!(added.load(Ordering::Relaxed), 1);
    });
    let refuses: Manner = |request| {
        let mut answer = granted(request, OUTSIDE, NODE);
        answer[3] = 2;
        vec![answer]
    };
    for (manner, expected) in [(Some(good as Manner), "mapped"), (Some(refuses), "no"), (None, "-")]
    {
        run(1, async |stage| {
            let place = place(stage);
            if let Some(manner) = manner {
                play(&place.gateway, manner).await;
            }
            let asking = ask_router(Arc::new(place.alice.clone()), Some(ROUTER));
            let found = timeout(Duration::from_secs(6), asking).await.unwrap();
            match (expected, found) {
                ("mapped", PortMapping::Mapped { router, protocol: "PCP", external }) => {
                    assert_eq!((router, external), (GATEWAY, (OUTSIDE, NODE).into()));
                }
                ("no", PortMapping::Refused { router: GATEWAY, reason }) => {
                    assert!(reason.contains("switched off"), "{reason}");
                }
                ("-", PortMapping::Silent { router: GATEWAY }) => {}
                (_, other) => panic!("{expected}: {other:?}"),
            }
        });
    }
}
