//! Data, quotas and the way from one client to another.

use super::world::{Way, World};
use crate::auth::Kind;
use crate::core::{Delivery, Limits, Transport, Wrap};
use crate::metrics::{Refused, Traffic};
use crate::stun::{Class, Frame, Message, Method, attr, channel_data, decode_xor, next_frame};

const PEER: &str = "1.1.1.1:9";

#[test]
fn two_clients_talk_through_two_relayed_ports_of_ours() {
    let mut world = World::new();
    let (mut alice, mut bob) = (world.client("a", 1), world.client("b", 2));
    let (_, at_alice) = world.allocate(&mut alice);
    let (_, at_bob) = world.allocate(&mut bob);
    let (to_alice, to_bob) = (at_alice.to_string(), at_bob.to_string());
    assert_eq!(world.permit(&mut alice, &to_bob), 200);
    assert_eq!(world.indicate(&alice, &to_bob, b"hi"), Way::Nowhere, "bob does not permit it yet");
    // With port 0, as some clients ask for a permission.
    assert_eq!(world.permit(&mut bob, "9.9.9.9:0"), 200);
    let Way::Client(Delivery { flow, wrap }, data) = world.indicate(&alice, &to_bob, b"hi") else {
        panic!()
    };
    assert_eq!((flow, &data[..]), (bob.flow, &b"hi"[..]));
    assert!(matches!(wrap, Wrap::Indication { peer, .. } if peer == at_alice));

    assert_eq!(world.bind(&mut alice, 0x4000, &to_bob), 200);
    assert_eq!(world.bind(&mut bob, 0x5000, &to_alice), 200);
    let there = Delivery { flow: bob.flow, wrap: Wrap::Channel(0x5000) };
    assert_eq!(world.through(&alice, 0x4000, b"x"), Way::Client(there, b"x".to_vec()));
    let back = Delivery { flow: alice.flow, wrap: Wrap::Channel(0x4000) };
    assert_eq!(world.through(&bob, 0x5000, b"y"), Way::Client(back, b"y".to_vec()));

    // Once bob's allocation is gone, its port is one of this host's like any other.
    let gone = super::world::lifetime(0);
    assert_eq!(world.ask(&mut bob, Method::Refresh, &[gone]).code(), 200);
    assert_eq!(world.through(&alice, 0x4000, b"x"), Way::Nowhere);
    assert_eq!(world.indicate(&alice, &to_bob, b"x"), Way::Nowhere);
    assert_eq!(world.permit(&mut alice, &to_bob), 403);
}

#[test]
fn this_hosts_other_ports_do_not_reach_a_client_either() {
    let mut world = World::new();
    let mut alice = world.client("a", 1);
    let (id, relayed) = world.allocate(&mut alice);
    assert_eq!(world.permit(&mut alice, &relayed.to_string()), 200);
    assert_eq!(world.arrive(id, "9.9.9.9:22", 1), None);
}

#[test]
fn bytes_are_limited_per_member_in_both_directions() {
    let mut world = World::with(Limits { bytes_per_second: 1_000, ..Limits::default() });
    let (mut alice, mut bob) = (world.client("a", 1), world.client("b", 2));
    let (id, _) = world.allocate(&mut alice);
    world.allocate(&mut bob);
    for client in [&mut alice, &mut bob] {
        assert_eq!(world.permit(client, PEER), 200);
    }
    assert!(matches!(world.indicate(&alice, PEER, &[0; 600]), Way::Peer(..)));
    assert!(world.arrive(id, PEER, 400).is_some());
    assert_eq!(world.arrive(id, PEER, 1), None);
    assert_eq!(world.indicate(&alice, PEER, &[0; 1]), Way::Nowhere);
    // A second allocation is no way around it, nor is starting anew.
    let mut again = world.client("a", 3);
    world.allocate(&mut again);
    assert_eq!(world.permit(&mut again, PEER), 200);
    assert_eq!(world.indicate(&again, PEER, &[0; 1]), Way::Nowhere);
    assert!(matches!(world.indicate(&bob, PEER, &[0; 1_000]), Way::Peer(..)), "bob is served");
    assert_eq!(world.server.counters().refused[&Refused::ByteQuota], 3);
    world.pass(1);
    assert!(world.arrive(id, PEER, 1_000).is_some());
    assert_eq!(world.arrive(id, PEER, 1), None);
}

#[test]
fn payload_is_counted_by_who_and_how() {
    let mut world = World::new();
    let mut tcp = world.client_over("a", 1, Transport::Tcp);
    let (id, _) = world.allocate(&mut tcp);
    assert_eq!(world.permit(&mut tcp, PEER), 200);
    for _ in 0..3 {
        world.indicate(&tcp, PEER, &[0; 100]);
    }
    world.arrive(id, PEER, 50);
    let counters = world.server.counters();
    let who = (Kind::Member, Transport::Tcp);
    assert_eq!(counters.to_peers[&who], Traffic { datagrams: 3, bytes: 300 });
    assert_eq!(counters.to_clients[&who], Traffic { datagrams: 1, bytes: 50 });
}

#[test]
fn what_goes_out_is_what_came_in() {
    let mut world = World::new();
    for (over, number) in [(Transport::Udp, 0x4000), (Transport::Tls, 0x4001)] {
        let mut client = world.client_over("a", number, over);
        let (id, _) = world.allocate(&mut client);
        assert_eq!(world.permit(&mut client, PEER), 200);
        let mut out = Vec::new();
        world.arrive(id, PEER, 5).unwrap().write(b"hello", &mut out);
        let message = Message::parse(&out).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Indication, Method::Data));
        assert_eq!(message.attribute(attr::DATA), Some(&b"hello"[..]));
        let peer = message.attribute(attr::XOR_PEER_ADDRESS).unwrap();
        assert_eq!(decode_xor(peer, message.transaction()), Some(PEER.parse().unwrap()));

        let mut out = Vec::new();
        world.arrive(id, PEER, 65_507).unwrap().write(&[0; 65_507], &mut out);
        assert!(out.is_empty(), "it fits no indication");

        assert_eq!(world.bind(&mut client, number, PEER), 200);
        let mut out = Vec::new();
        world.arrive(id, PEER, 5).unwrap().write(b"hello", &mut out);
        assert_eq!(channel_data(&out), Some((number, &b"hello"[..])));
        let padded = if over == Transport::Udp { 9 } else { 12 };
        assert_eq!(out.len(), padded);
        if over == Transport::Tls {
            assert_eq!(next_frame(&out), Frame::Whole { length: 9, total: 12 });
        }
        // What is too long for a header is not sent at all.
        let mut out = Vec::new();
        world.arrive(id, PEER, 70_000).unwrap().write(&[0; 70_000], &mut out);
        assert!(out.is_empty());
    }
}
