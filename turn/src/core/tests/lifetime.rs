//! Allocations come, are prolonged and go.

use super::world::{Answer, World, lifetime, udp};
use crate::core::{Limits, Transport};
use crate::stun::{Message, Method, attr};

#[test]
fn an_allocation_lives_ten_minutes_unless_refreshed() {
    let mut world = World::new();
    let mut client = world.client("a", 1);
    let (_, relayed) = world.allocate(&mut client);
    world.pass(599);
    assert_eq!(world.server.allocations(), 1);
    assert_eq!(world.ask(&mut client, Method::Refresh, &[]).lifetime(), 600);
    assert_eq!(world.ask(&mut client, Method::Refresh, &[lifetime(1)]).lifetime(), 600);
    world.pass(599);
    assert_eq!(world.server.allocations(), 1);
    assert_eq!(world.ask(&mut client, Method::Refresh, &[lifetime(9_999)]).lifetime(), 3_600);
    world.pass(3_599);
    assert_eq!(world.server.allocations(), 1);
    world.pass(1);
    assert_eq!(world.closed(), [relayed.port()]);
    assert_eq!(world.server.next_deadline(), None);
    client.introduce(&mut world.server, crate::fuzz::at(world.tick));
    assert_eq!(world.ask(&mut client, Method::Refresh, &[]).code(), 437);
}

#[test]
fn a_shorter_lifetime_is_kept_too() {
    let mut world = World::new();
    let mut client = world.client("a", 1);
    let Answer::Opening(id) = world.ask(&mut client, Method::Allocate, &[udp(), lifetime(3_600)])
    else {
        panic!()
    };
    world.open(id);
    for _ in 0..1_000 {
        assert_eq!(world.ask(&mut client, Method::Refresh, &[lifetime(3_600)]).code(), 200);
        assert_eq!(world.ask(&mut client, Method::Refresh, &[lifetime(600)]).lifetime(), 600);
    }
    assert!(world.server.deadlines.len() <= 2, "they do not pile up");
    world.pass(600);
    assert_eq!(world.server.allocations(), 0);
}

#[test]
fn refresh_with_zero_ends_it() {
    let mut world = World::new();
    let mut client = world.client("a", 1);
    let (_, relayed) = world.allocate(&mut client);
    let bytes = client.request(Method::Refresh, &[lifetime(0)]);
    assert_eq!(world.send(&client, &bytes).lifetime(), 0);
    assert_eq!(world.closed(), [relayed.port()]);
    // Its retransmit finds nothing, which a client takes for success (RFC 8656 section 8.2).
    assert_eq!(world.send(&client, &bytes).code(), 437);
    world.allocate(&mut client);
    world.pass(10_000);
    assert_eq!(world.server.allocations(), 0);
}

#[test]
fn retransmits_get_the_same_answer_and_make_nothing() {
    let mut world = World::new();
    let mut client = world.client("a", 1);
    let bytes = client.request(Method::Allocate, &[udp()]);
    let Answer::Opening(id) = world.send(&client, &bytes) else { panic!() };
    assert_eq!(world.send(&client, &bytes), Answer::Nothing, "while its socket is opened");
    let relayed = world.open(id);
    world.pass(2);
    let again = world.send(&client, &bytes);
    assert_eq!((again.code(), again.lifetime()), (200, 598));
    let Answer::Success(reply) = &again else { panic!() };
    let reply = Message::parse(reply).unwrap();
    let value = reply.attribute(attr::XOR_RELAYED_ADDRESS).unwrap();
    assert_eq!(crate::stun::decode_xor(value, reply.transaction()), Some(relayed));
    assert_eq!(world.server.allocations(), 1);
    // Another request is not a retransmit.
    assert_eq!(world.ask(&mut client, Method::Allocate, &[udp()]).code(), 437);
}

#[test]
fn what_an_allocate_may_ask_for() {
    let mut world = World::new();
    let family = |kind, n| (kind, vec![n, 0, 0, 0]);
    let wanted = |n| family(attr::REQUESTED_ADDRESS_FAMILY, n);
    let also = |n| family(attr::ADDITIONAL_ADDRESS_FAMILY, n);
    let even = |n| (attr::EVEN_PORT, vec![n]);
    let token = (attr::RESERVATION_TOKEN, vec![0; 8]);
    let fragment = (attr::DONT_FRAGMENT, vec![]);
    let tcp = (attr::REQUESTED_TRANSPORT, vec![6, 0, 0, 0]);
    for (index, (attributes, code)) in [
        (vec![], 400),
        (vec![(attr::REQUESTED_TRANSPORT, vec![17])], 400),
        (vec![tcp], 442),
        (vec![udp(), wanted(2)], 100),
        (vec![udp(), wanted(3)], 440),
        (vec![udp(), (attr::REQUESTED_ADDRESS_FAMILY, vec![1])], 440),
        (vec![udp(), also(2)], 100),
        (vec![udp(), also(1)], 400),
        (vec![udp(), wanted(1), also(2)], 400),
        (vec![udp(), even(0)], 100),
        (vec![udp(), even(0x80)], 508),
        (vec![udp(), (attr::EVEN_PORT, vec![])], 400),
        (vec![udp(), token.clone()], 508),
        (vec![udp(), token, even(0)], 400),
        (vec![udp(), fragment], 100),
        (vec![udp(), (attr::LIFETIME, vec![1])], 400),
        (vec![udp(), lifetime(0)], 100),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = world.client("a", 100 + u16::try_from(index).unwrap());
        let answer = world.ask(&mut client, Method::Allocate, &attributes);
        assert_eq!(answer.code(), code, "{attributes:?}");
    }
}

#[test]
fn a_second_family_is_refused_within_a_success() {
    let mut world = World::new();
    let mut client = world.client("a", 1);
    let also = (attr::ADDITIONAL_ADDRESS_FAMILY, vec![2, 0, 0, 0]);
    let bytes = client.request(Method::Allocate, &[udp(), also]);
    let Answer::Opening(id) = world.send(&client, &bytes) else { panic!() };
    world.open(id);
    let answer = world.send(&client, &bytes);
    assert_eq!(answer.attribute(attr::ADDRESS_ERROR_CODE), Some(vec![2, 0, 4, 40]));
}

#[test]
fn one_members_quota_is_no_others() {
    let mut world = World::with(Limits { per_member: 2, allocations: 3, ..Limits::default() });
    let mut clients: Vec<_> = (1..=5).map(|n| world.client("a", n)).collect();
    world.allocate(&mut clients[0]);
    world.allocate(&mut clients[1]);
    assert_eq!(world.ask(&mut clients[2], Method::Allocate, &[udp()]).code(), 486);
    let mut bob = world.client("b", 9);
    world.allocate(&mut bob);
    let mut carol = world.client("c", 10);
    assert_eq!(world.ask(&mut carol, Method::Allocate, &[udp()]).code(), 508, "the server's");
    assert_eq!(world.ask(&mut clients[0], Method::Refresh, &[lifetime(0)]).code(), 200);
    assert_eq!(world.ask(&mut bob, Method::Refresh, &[lifetime(0)]).code(), 200);
    world.allocate(&mut clients[2]);
    assert_eq!(world.ask(&mut clients[3], Method::Allocate, &[udp()]).code(), 486);
}

#[test]
fn a_socket_that_cannot_be_opened_costs_no_quota() {
    let mut world = World::with(Limits { per_member: 1, ..Limits::default() });
    let mut client = world.client("a", 1);
    for _ in 0..3 {
        let Answer::Opening(id) = world.ask(&mut client, Method::Allocate, &[udp()]) else {
            panic!()
        };
        let failed = Err(std::io::ErrorKind::AddrInUse.into());
        let (flow, bytes) = world.server.opened(id, failed).unwrap();
        assert_eq!(flow, client.flow);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.attribute(attr::ERROR_CODE).unwrap()[2..4], [5, 8]);
    }
    world.allocate(&mut client);
}

#[test]
fn a_client_that_goes_takes_its_allocation_along() {
    let mut world = World::new();
    let mut client = world.client_over("a", 1, Transport::Tcp);
    let (_, relayed) = world.allocate(&mut client);
    world.server.forget(&client.flow);
    assert_eq!(world.closed(), [relayed.port()]);
    // And one that went while its socket was opened leaves none open.
    let Answer::Opening(id) = world.ask(&mut client, Method::Allocate, &[udp()]) else { panic!() };
    world.server.forget(&client.flow);
    assert_eq!(world.server.opened(id, Ok((7, relayed))), None);
    assert_eq!(world.closed(), [7]);
    assert_eq!(world.server.opened(id, Ok((8, relayed))), None);
    assert_eq!(world.closed(), [8]);
    assert_eq!(world.server.sizes().most_per_member, 0);
}
