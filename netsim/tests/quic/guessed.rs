//! Where one router shows another port to each and the other filters by port, a port is guessed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meshwire_netsim::Preset::{self, Mobile, PortRestricted, Symmetric, SymmetricPreserving};
use meshwire_netsim::simnet::{Stage, run};
use meshwire_signaling::PublicKey;
use meshwire_transport::quic::candidates::{Candidate, CandidateKind};
use meshwire_transport::quic::{
    AttemptEvent, AttemptHandle, Dial, PairKind, Ports, QuicConn, QuicNode, Role,
};
use meshwire_turn::TurnServer;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::LONG;
use crate::place::{Place, echo, pair_of};
use crate::relayed::{servers, turn};

/// Ports that the easy side may try in one run.
const PROBES: usize = 832;
/// Checks of one attempt, to as many addresses.
const CHECKS: usize = 420;
const ADDRESSES: usize = 20;

/// Two homes with a TURN server.
async fn place(stage: Stage, presets: [Preset; 2]) -> (Place, TurnServer) {
    let place = Place::new(stage, presets, IpAddr::is_ipv4).await;
    let (server, credentials) = turn(&place).await;
    for (peer, turn) in place.peers.iter().zip(&credentials) {
        peer.node.set_servers(None, servers(turn));
    }
    (place, server)
}

/// One side of a negotiation, as its peer hears it.
struct Side {
    conn: QuicConn,
    /// Feeds this side.
    handle: AttemptHandle,
    /// Ports were guessed in vain, so many times.
    missed: mpsc::UnboundedReceiver<()>,
}

fn dial(role: Role, guess: Option<u8>) -> Dial {
    Dial { guess: guess.map(|n| PublicKey([n; 32])), ..Dial::new(role) }
}

/// Connects `a` and `b`, which guess if they know each other's keys; `b`'s candidates are changed on
/// their way.
async fn meet(
    a: (&QuicNode, Option<u8>),
    b: (&QuicNode, Option<u8>),
    change: fn(Candidate) -> Candidate,
) -> [Side; 2] {
    let left = a.0.dial(dial(Role::Controlling, a.1)).unwrap();
    let right = b.0.dial(dial(Role::Controlled, b.1)).unwrap();
    let handles = [left.handle(), right.handle()];
    let locals = [left.local().clone(), right.local().clone()];
    let changes: [fn(Candidate) -> Candidate; 2] = [|same| same, change];
    let mut sides = Vec::new();
    for (n, mut attempt) in [left, right].into_iter().enumerate() {
        let (to, change) = (handles[1 - n].clone(), changes[n]);
        let mut local = locals[n].clone();
        local.candidates = local.candidates.into_iter().map(change).collect();
        to.set_remote(local).await.unwrap();
        let (done, connected) = tokio::sync::oneshot::channel();
        let (miss, missed) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut done = Some(done);
            while let Some(event) = attempt.next().await {
                match event {
                    AttemptEvent::Candidate(c) => drop(to.add_remote(change(c)).await),
                    AttemptEvent::Ports(ports) => drop(to.set_ports(ports).await),
                    AttemptEvent::Connected(conn) => drop(done.take().map(|d| d.send(conn))),
                    AttemptEvent::Missed => drop(miss.send(())),
                    other => panic!("{other:?}"),
                }
            }
        });
        sides.push((connected, missed));
    }
    let mut all = Vec::new();
    for ((connected, missed), handle) in sides.into_iter().zip(handles) {
        let conn = timeout(LONG, connected).await.unwrap().unwrap();
        all.push(Side { conn, handle, missed });
    }
    all.try_into().unwrap_or_else(|_| panic!("two sides"))
}

fn honest(candidate: Candidate) -> Candidate {
    candidate
}

/// UDP datagrams that a machine sent, by destination.
fn sent(trace: &[u8], machine: &str) -> BTreeMap<SocketAddr, usize> {
    let mut sent = BTreeMap::new();
    for line in std::str::from_utf8(trace).unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let [_, place, _, to, "udp", _, "sent"] = words[..]
            && place == machine
        {
            *sent.entry(to.parse().unwrap()).or_default() += 1;
        }
    }
    sent
}

async fn guessed(conn: &QuicConn) {
    let mut pair = conn.pair();
    let is = pair.wait_for(|p| p.is_some_and(|p| p.kind == PairKind::Guessed));
    let found = timeout(Duration::from_secs(15), is).await.is_ok();
    assert!(found, "{:?}", pair_of(conn));
}

#[test]
fn a_connection_moves_to_the_guessed_port_and_stays() {
    for presets in [[PortRestricted, Symmetric], [Mobile, SymmetricPreserving]] {
        for swapped in [false, true] {
            run(3, async |stage| {
                let (place, _turn) = place(stage, presets).await;
                let [a, b] = &place.peers;
                let (one, other) = if swapped { (b, a) } else { (a, b) };
                let [left, right] =
                    meet((&one.node, Some(2)), (&other.node, Some(1)), honest).await;
                assert_eq!(pair_of(&left.conn).kind, PairKind::Relayed);
                echo(&left.conn, &right.conn).await;
                guessed(&left.conn).await;
                guessed(&right.conn).await;
                // Longer than any mapping lives by itself.
                for _ in 0..3 {
                    echo(&left.conn, &right.conn).await;
                    sleep(Duration::from_secs(7 * 60)).await;
                    assert_eq!(pair_of(&left.conn).kind, PairKind::Guessed);
                }
                // Only the port that was found is in use.
                let trace = place.sim.record();
                sleep(Duration::from_secs(60)).await;
                echo(&left.conn, &right.conn).await;
                for (me, peer) in [("alice", 1), ("bob", 0)] {
                    let outside = place.homes[peer].outside;
                    let sent = sent(&trace.bytes(), me);
                    let to_peer = sent.keys().filter(|to| to.ip() == outside);
                    assert!((1..=3).contains(&to_peer.count()), "{sent:?}");
                }
            });
        }
    }
}

#[test]
fn without_a_word_of_both_sides_nothing_is_guessed() {
    for keys in [[None, None], [Some(2), None], [None, Some(1)]] {
        run(3, async |stage| {
            let (place, _turn) = place(stage, [PortRestricted, Symmetric]).await;
            let [a, b] = &place.peers;
            let trace = place.sim.record();
            let [left, _right] = meet((&a.node, keys[0]), (&b.node, keys[1]), honest).await;
            sleep(Duration::from_secs(30)).await;
            assert_eq!(pair_of(&left.conn).kind, PairKind::Relayed);
            for me in ["alice", "bob"] {
                let sent = sent(&trace.bytes(), me);
                assert!(sent.len() <= ADDRESSES, "{} addresses", sent.len());
            }
        });
    }
}

#[test]
fn two_unknown_ports_are_not_guessed() {
    run(3, async |stage| {
        let (place, _turn) = place(stage, [Symmetric, Symmetric]).await;
        let [a, b] = &place.peers;
        let trace = place.sim.record();
        let [left, right] = meet((&a.node, Some(2)), (&b.node, Some(1)), honest).await;
        // A peer that says so all the same.
        for _ in 0..20 {
            left.handle.set_ports(Ports::Opened).await.unwrap();
            right.handle.set_ports(Ports::Opened).await.unwrap();
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(pair_of(&left.conn).kind, PairKind::Relayed);
        assert!(sent(&trace.bytes(), "alice").len() <= ADDRESSES);
    });
}

/// The peer's word starts a run, but not one after the other.
#[test]
fn a_member_that_opens_nothing_gets_the_probes_of_one_run_in_ten_minutes() {
    run(3, async |stage| {
        let (place, _turn) = place(stage, [PortRestricted, Symmetric]).await;
        let [a, b] = &place.peers;
        let trace = place.sim.record();
        // Bob does not guess: only somebody else's words in his name say that he does.
        let [mut left, right] = meet((&a.node, Some(2)), (&b.node, None), honest).await;
        let outside = place.homes[1].outside;
        let probes = || {
            let sent = sent(&trace.bytes(), "alice");
            let theirs = sent.iter().filter(|(to, _)| to.ip() == outside);
            let all: usize = theirs.clone().map(|(_, count)| count).sum();
            (theirs.count(), all)
        };
        for _ in 0..590 {
            left.handle.set_ports(Ports::Opened).await.unwrap();
            sleep(Duration::from_secs(1)).await;
        }
        let (ports, all) = probes();
        assert!((PROBES..=PROBES + ADDRESSES).contains(&ports), "{ports} ports");
        // Those that nobody opened are tried once; the rest is the attempt's own checks.
        assert!(all <= PROBES + 2 * CHECKS, "{all} datagrams");
        for _ in 0..60 {
            left.handle.set_ports(Ports::Opened).await.unwrap();
            sleep(Duration::from_secs(1)).await;
        }
        let (ports, _) = probes();
        assert!(ports > PROBES + ADDRESSES && ports <= 2 * PROBES + ADDRESSES, "{ports} ports");
        assert!(left.missed.recv().await.is_some());
        echo(&left.conn, &right.conn).await;
        assert_eq!(pair_of(&left.conn).kind, PairKind::Relayed);
    });
}

/// A victim on the Internet, and addresses that nobody is to be made to send to.
#[test]
fn a_member_that_lies_about_its_address_gets_no_probe_sent_there() {
    fn lie(candidate: Candidate, at: [u8; 4]) -> Candidate {
        let addr = SocketAddr::new(at.into(), candidate.addr.port());
        match candidate.kind {
            CandidateKind::Reflexive => Candidate { addr, ..candidate },
            _ => candidate,
        }
    }
    let lies: [fn(Candidate) -> Candidate; 5] = [
        |c| lie(c, [198, 18, 99, 99]),
        |c| lie(c, [127, 0, 0, 1]),
        |c| lie(c, [10, 0, 1, 1]),
        |c| lie(c, [10, 0, 1, 255]),
        |c| lie(c, [224, 0, 0, 251]),
    ];
    for lie in lies {
        run(3, async |stage| {
            let (place, _turn) = place(stage, [PortRestricted, Symmetric]).await;
            let [a, b] = &place.peers;
            let trace = place.sim.record();
            let [left, right] = meet((&a.node, Some(2)), (&b.node, None), lie).await;
            for _ in 0..20 {
                left.handle.set_ports(Ports::Opened).await.unwrap();
                sleep(Duration::from_secs(1)).await;
            }
            echo(&left.conn, &right.conn).await;
            let sent = sent(&trace.bytes(), "alice");
            assert!(sent.len() <= ADDRESSES, "{} addresses", sent.len());
            let forbidden =
                |to: &&SocketAddr| to.ip().is_loopback() || to.ip().is_multicast() || ends(to, 255);
            assert_eq!(sent.keys().filter(forbidden).count(), 0, "{sent:?}");
        });
    }
}

fn ends(to: &SocketAddr, with: u8) -> bool {
    matches!(to.ip(), IpAddr::V4(ip) if ip.octets()[3] == with)
}
