//! Permissions and channels.

use super::world::{Way, World, channel};
use crate::core::{Limits, Wrap};
use crate::stun::{Method, attr};

const PEER: &str = "1.1.1.1:9";
const OTHER: &str = "1.1.1.2:9";

#[test]
fn a_permission_holds_five_minutes_for_all_ports_of_an_address() {
    let mut world = World::new();
    let mut client = world.client("a", 1);
    let (id, relayed) = world.allocate(&mut client);
    assert_eq!(world.indicate(&client, PEER, b"x"), Way::Nowhere);
    assert_eq!(world.arrive(id, PEER, 1), None);
    assert_eq!(world.permit(&mut client, PEER), 200);
    let there = "1.1.1.1:10".parse().unwrap();
    let way = world.indicate(&client, "1.1.1.1:10", b"x");
    assert_eq!(way, Way::Peer(relayed.port(), there, b"x".to_vec()));
    let delivery = world.arrive(id, "1.1.1.1:10", 1).unwrap();
    assert!(matches!(delivery.wrap, Wrap::Indication { peer, .. } if peer == there));
    assert_eq!(world.indicate(&client, OTHER, b"x"), Way::Nowhere);
    assert_eq!(world.arrive(id, OTHER, 1), None);
    world.pass(299);
    assert_eq!(world.permit(&mut client, PEER), 200);
    world.pass(299);
    assert!(world.arrive(id, PEER, 1).is_some());
    world.pass(1);
    assert_eq!(world.arrive(id, PEER, 1), None);
    assert_eq!(world.indicate(&client, PEER, b"x"), Way::Nowhere);
}

#[test]
fn a_channel_holds_ten_minutes_and_permits_for_five() {
    let mut world = World::new();
    let mut client = world.client("a", 1);
    let (id, relayed) = world.allocate(&mut client);
    assert_eq!(world.through(&client, 0x4000, b"x"), Way::Nowhere);
    assert_eq!(world.bind(&mut client, 0x4000, PEER), 200);
    let way = Way::Peer(relayed.port(), PEER.parse().unwrap(), b"x".to_vec());
    assert_eq!(world.through(&client, 0x4000, b"x"), way);
    assert_eq!(world.arrive(id, PEER, 1).unwrap().wrap, Wrap::Channel(0x4000));
    let elsewhere = world.arrive(id, "1.1.1.1:10", 1).unwrap();
    assert!(matches!(elsewhere.wrap, Wrap::Indication { .. }), "another port has no channel");
    world.pass(300);
    assert_eq!(world.arrive(id, PEER, 1), None, "the permission is over");
    assert_eq!(world.permit(&mut client, PEER), 200);
    assert_eq!(world.arrive(id, PEER, 1).unwrap().wrap, Wrap::Channel(0x4000));
    assert_eq!(world.ask(&mut client, Method::Refresh, &[]).code(), 200);
    world.pass(299);
    assert_eq!(world.through(&client, 0x4000, b"x"), way);
    world.pass(1);
    assert_eq!(world.through(&client, 0x4000, b"x"), Way::Nowhere);
    // Free again for another peer, and the peer for another number.
    assert_eq!(world.bind(&mut client, 0x4000, OTHER), 200);
    assert_eq!(world.bind(&mut client, 0x4001, PEER), 200);
    assert_eq!(world.arrive(id, PEER, 1).unwrap().wrap, Wrap::Channel(0x4001));
    assert_eq!(world.arrive(id, OTHER, 1).unwrap().wrap, Wrap::Channel(0x4000));
}

#[test]
fn a_number_and_a_peer_are_bound_to_each_other_alone() {
    let mut world = World::new();
    let mut client = world.client("a", 1);
    world.allocate(&mut client);
    assert_eq!(world.bind(&mut client, 0x4000, PEER), 200);
    assert_eq!(world.bind(&mut client, 0x4000, PEER), 200, "again is a refresh");
    assert_eq!(world.bind(&mut client, 0x4000, OTHER), 400);
    assert_eq!(world.bind(&mut client, 0x4001, PEER), 400);
    for number in [0, 0x3fff, 0x7fff, 0x8000, 0xffff] {
        assert_eq!(world.bind(&mut client, number, OTHER), 400, "{number:x}");
    }
    assert_eq!(world.bind(&mut client, 0x7ffe, OTHER), 200);
    let peer = world.peer(&client, OTHER);
    assert_eq!(world.ask(&mut client, Method::ChannelBind, &[peer]).code(), 400);
    assert_eq!(world.ask(&mut client, Method::ChannelBind, &[channel(0x4005)]).code(), 400);
    assert_eq!(world.ask(&mut client, Method::CreatePermission, &[]).code(), 400);
    let cut = (attr::XOR_PEER_ADDRESS, vec![0, 1, 0]);
    assert_eq!(world.ask(&mut client, Method::CreatePermission, &[cut]).code(), 400);
}

#[test]
fn without_an_allocation_there_is_nothing_to_permit() {
    let mut world = World::new();
    let mut client = world.client("a", 1);
    assert_eq!(world.permit(&mut client, PEER), 437);
    assert_eq!(world.bind(&mut client, 0x4000, PEER), 437);
}

#[test]
fn forbidden_peers_are_refused_everywhere() {
    let mut world = World::new();
    let mut client = world.client("a", 1);
    let (_, relayed) = world.allocate(&mut client);
    let forbidden = [
        "0.0.0.0:9",
        "[::]:9",
        "127.0.0.1:9",
        "127.255.255.254:9",
        "[::1]:9",
        "[::ffff:127.0.0.1]:9",
        "169.254.1.1:9",
        "169.254.169.254:80",
        "[::ffff:169.254.169.254]:80",
        "[::ffff:10.0.0.1]:9",
        "[::ffff:0.0.0.0]:9",
        "10.0.0.1:9",
        "172.16.0.1:9",
        "192.168.0.1:9",
        "100.64.0.1:9",
        "[fd00::1]:9",
        "[fc00::1]:9",
        "[fe80::1]:9",
        "224.0.0.1:9",
        "255.255.255.255:9",
        "[ff02::1]:9",
        "[ff0e::1]:9",
        "239.255.255.255:9",
        "[2002:7f00:1::1]:9",
        "[2002:808:808::1]:9",
        "[64:ff9b::7f00:1]:9",
        "[64:ff9b:1::1]:9",
        "[::127.0.0.1]:9",
        "[::ffff:9.9.9.9]:22",
        "9.9.9.9:22",
        "9.9.9.9:3478",
        "1.1.1.1:0",
    ];
    // A refusal by the policy, not for want of a permission: each counts as one.
    let refused = |world: &World| world.server.counters().refused_peers.values().sum::<u64>();
    for peer in forbidden {
        let before = refused(&world);
        // A permission is for an address; the port of an ordinary one does not matter.
        let permitted = if peer == "1.1.1.1:0" { 200 } else { 403 };
        assert_eq!(world.permit(&mut client, peer), permitted, "{peer}");
        assert_eq!(world.bind(&mut client, 0x4000, peer), 403, "{peer}");
        assert_eq!(world.indicate(&client, peer, b"x"), Way::Nowhere, "{peer}");
        let each = if permitted == 403 { 3 } else { 2 };
        assert_eq!(refused(&world) - before, each, "{peer}");
    }
    // One bad peer among good ones spoils the request, and nothing of it is done.
    let attributes = [world.peer(&client, OTHER), world.peer(&client, "10.0.0.1:9")];
    assert_eq!(world.ask(&mut client, Method::CreatePermission, &attributes).code(), 403);
    assert_eq!(world.indicate(&client, OTHER, b"x"), Way::Nowhere);
    // A permission for a live port of ours opens no other port of ours.
    assert_eq!(world.permit(&mut client, &relayed.to_string()), 200);
    assert_eq!(world.indicate(&client, "9.9.9.9:22", b"x"), Way::Nowhere);
    let refused = &world.server.counters().refused_peers;
    assert!(refused.len() >= 7, "{refused:?}");
}

#[test]
fn an_address_that_this_host_gets_later_is_refused_from_then_on() {
    let mut world = World::new();
    let mut client = world.client("a", 1);
    let (id, _) = world.allocate(&mut client);
    assert_eq!(world.bind(&mut client, 0x4000, PEER), 200);
    assert!(matches!(world.through(&client, 0x4000, b"x"), Way::Peer(..)));
    let own = |all: &[&str]| all.iter().map(|ip| ip.parse().unwrap()).collect();
    world.server.set_own(own(&["9.9.9.9", "1.1.1.1"]));
    assert_eq!(world.permit(&mut client, PEER), 403);
    assert_eq!(world.bind(&mut client, 0x4000, PEER), 403);
    assert_eq!(world.indicate(&client, PEER, b"x"), Way::Nowhere);
    assert_eq!(
        world.through(&client, 0x4000, b"x"),
        Way::Nowhere,
        "nor by the channel that it has"
    );
    assert_eq!(world.arrive(id, PEER, 1), None);
    world.server.set_own(own(&["9.9.9.9"]));
    assert!(matches!(world.through(&client, 0x4000, b"x"), Way::Peer(..)), "it is another's again");
}

#[test]
fn families_do_not_mix() {
    let mut world = World::new();
    let mut client = world.client("a", 1);
    world.allocate(&mut client);
    assert_eq!(world.permit(&mut client, "[2606:4700::1]:9"), 443);
    assert_eq!(world.bind(&mut client, 0x4000, "[2606:4700::1]:9"), 443);
    assert_eq!(world.permit(&mut client, "[::ffff:1.1.1.1]:9"), 200, "that is IPv4");
    let family = (attr::REQUESTED_ADDRESS_FAMILY, vec![2, 0, 0, 0]);
    assert_eq!(world.ask(&mut client, Method::Refresh, &[family]).code(), 443);
}

#[test]
fn permissions_and_channels_are_bounded_and_make_room_when_they_expire() {
    let mut world = World::with(Limits { permissions: 3, channels: 2, ..Limits::default() });
    let mut client = world.client("a", 1);
    world.allocate(&mut client);
    for n in 1..=3 {
        assert_eq!(world.permit(&mut client, &format!("1.1.1.{n}:9")), 200);
    }
    assert_eq!(world.permit(&mut client, "1.1.1.4:9"), 508);
    assert_eq!(world.permit(&mut client, "1.1.1.3:9"), 200);
    assert_eq!(world.bind(&mut client, 0x4000, "1.1.1.4:9"), 508);
    assert_eq!(world.bind(&mut client, 0x4000, "1.1.1.1:9"), 200);
    assert_eq!(world.bind(&mut client, 0x4001, "1.1.1.2:9"), 200);
    assert_eq!(world.bind(&mut client, 0x4002, "1.1.1.3:9"), 508);
    world.pass(300);
    assert_eq!(world.permit(&mut client, "1.1.1.4:9"), 200);
    assert_eq!(world.ask(&mut client, Method::Refresh, &[]).code(), 200);
    world.pass(300);
    assert_eq!(world.bind(&mut client, 0x4002, "1.1.1.3:9"), 200);
    assert_eq!(world.server.sizes().channels, 1);
    // So many in one request are too many anyway.
    let many: Vec<_> = (0..65).map(|_| world.peer(&client, PEER)).collect();
    assert_eq!(world.ask(&mut client, Method::CreatePermission, &many).code(), 400);
}
