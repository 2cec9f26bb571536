//! Who may do what.

use super::world::{Answer, World, udp};
use crate::auth::{Algorithm, Kind, Member, PASSWORD_ALGORITHMS_BIT, REALM, long_term_key};
use crate::core::{Limits, Outcome, Server, Transport, Via};
use crate::fuzz::{self, at};
use crate::metrics::Refused;
use crate::stun::{Builder, Class, Integrity, Message, Method, attr};

fn refused(world: &World, why: Refused) -> u64 {
    world.server.counters().refused.get(&why).copied().unwrap_or(0)
}

#[test]
fn strangers_are_told_realm_and_nonce_in_a_small_answer() {
    let mut world = World::new();
    let client = world.client("a", 1);
    let hello = Builder::new(Class::Request, Method::Allocate, &[7; 12]).finish();
    let answer = world.send(&client, &hello);
    assert_eq!(answer.code(), 401);
    assert_eq!(answer.attribute(attr::REALM).as_deref(), Some(REALM.as_bytes()));
    assert!(answer.attribute(attr::NONCE).unwrap().starts_with(b"obMatJos2"));
    let Answer::Error(_, bytes) = answer else { panic!() };
    assert!(bytes.len() < 160, "{}", bytes.len());
    assert_eq!(world.server.sizes().allocations + world.server.sizes().flows, 0);
}

#[test]
fn a_prefix_gets_so_many_answers_and_no_more() {
    let mut world = World::with(Limits { answers_per_second: 5, ..Limits::default() });
    let client = fuzz::client(&world.secret.clone(), "a", 1, Transport::Udp);
    let request = |method| Builder::new(Class::Request, method, &[7; 12]);
    let unsigned = [
        (200, request(Method::Binding).finish()),
        (401, request(Method::Allocate).finish()),
        // A signature that nobody can check proves nothing.
        (400, request(Method::Allocate).attribute(attr::MESSAGE_INTEGRITY, &[]).finish()),
        (400, request(Method::Refresh).attribute(attr::MESSAGE_INTEGRITY, &[0; 20]).finish()),
        (420, request(Method::Allocate).attribute(0x0026, &[0; 4]).finish()),
        (
            420,
            request(Method::ChannelBind)
                .attribute(0x0026, &[])
                .attribute(attr::MESSAGE_INTEGRITY, &[0; 20])
                .finish(),
        ),
        (400, request(Method::Other(0x0b)).finish()),
    ];
    for (n, (code, bytes)) in (1..).zip(&unsigned) {
        let answered = (0..100).filter(|_| world.send(&client, bytes) != Answer::Nothing).count();
        assert_eq!((answered, refused(&world, Refused::Throttled)), (5, 95 * n), "{code}");
        world.pass(1);
        assert_eq!(world.send(&client, bytes).code(), *code);
        world.pass(1);
    }
}

#[test]
fn wrong_expired_and_forged_credentials_are_refused() {
    let mut world = World::new();
    let mut client = world.client("a", 1);
    let good = client.credentials.clone();
    client.credentials.password = "wrong".to_owned().into();
    assert_eq!(world.ask(&mut client, Method::Allocate, &[udp()]).code(), 401);
    assert_eq!(refused(&world, Refused::WrongCredential), 1);

    // Another's name with one's own password.
    let other = world.client("b", 2).credentials;
    client.credentials.username = other.username;
    client.credentials.password = good.password.clone();
    assert_eq!(world.ask(&mut client, Method::Allocate, &[udp()]).code(), 401);
    // A longer life than was given.
    client.credentials.username = good.username.replacen("86400:", "86401:", 1);
    assert_ne!(client.credentials.username, good.username);
    assert_eq!(world.ask(&mut client, Method::Allocate, &[udp()]).code(), 401);
    client.credentials.username = "alice".to_owned();
    assert_eq!(world.ask(&mut client, Method::Allocate, &[udp()]).code(), 401);

    client.credentials = good;
    world.pass(86_400);
    client.introduce(&mut world.server, at(world.tick));
    assert_eq!(world.ask(&mut client, Method::Allocate, &[udp()]).code(), 401);
    assert_eq!(refused(&world, Refused::ExpiredCredential), 1);
    assert_eq!(world.server.allocations(), 0);
}

#[test]
fn nonces_grow_stale_and_are_nobody_elses() {
    let mut world = World::new();
    let mut client = world.client("a", 1);
    world.pass(3_600);
    let answer = world.ask(&mut client, Method::Allocate, &[udp()]);
    assert_eq!(answer.code(), 438);
    client.nonce = answer.attribute(attr::NONCE).unwrap();
    world.allocate(&mut client);

    let mut thief = world.client("b", 2);
    thief.nonce.clone_from(&client.nonce);
    assert_eq!(world.ask(&mut thief, Method::Allocate, &[udp()]).code(), 438);
}

#[test]
fn what_a_signature_needs_is_asked_for() {
    let mut world = World::new();
    let client = world.client("a", 1);
    let name = client.credentials.username.clone();
    for leave_out in [attr::USERNAME, attr::REALM, attr::NONCE] {
        let mut message = Builder::new(Class::Request, Method::Allocate, &[1; 12]);
        for (kind, value) in [
            (attr::USERNAME, name.as_bytes()),
            (attr::REALM, REALM.as_bytes()),
            (attr::NONCE, &client.nonce),
        ] {
            if kind != leave_out {
                message = message.attribute(kind, value);
            }
        }
        let bytes = message.integrity(Integrity::Sha1, b"key").finish();
        assert_eq!(world.send(&client, &bytes).code(), 400);
    }
}

/// Signs an Allocate with each algorithm, and tampers with what was offered.
fn sha256(
    server: &mut Server<u16>,
    client: &fuzz::Client,
    algorithm: Algorithm,
    offer: Option<&[u8]>,
    choice: Option<[u8; 4]>,
) -> bool {
    let mut message = Builder::new(Class::Request, Method::Allocate, &[9; 12])
        .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        .attribute(attr::USERNAME, client.credentials.username.as_bytes())
        .attribute(attr::REALM, REALM.as_bytes())
        .attribute(attr::NONCE, &client.nonce);
    if let Some(offer) = offer {
        message = message.attribute(attr::PASSWORD_ALGORITHMS, offer);
    }
    if let Some(choice) = choice {
        message = message.attribute(attr::PASSWORD_ALGORITHM, &choice);
    }
    let credentials = &client.credentials;
    let key = long_term_key(algorithm, &credentials.username, &credentials.password);
    let bytes = message.integrity(Integrity::Sha256, &key).finish();
    match server.client_sent(at(0), &client.flow, &bytes) {
        Outcome::Open(open) => {
            let relayed = "9.9.9.9:50000".parse().unwrap();
            let (_, bytes) = server.opened(open.allocation, Ok((1, relayed))).unwrap();
            let reply = Message::parse(&bytes).unwrap();
            assert_eq!(reply.integrity(), Some(Integrity::Sha256), "as it was asked");
            reply.verify(&key)
        }
        Outcome::Reply(_, Via::Same) => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn sha256_is_offered_and_cannot_be_tampered_with() {
    const { assert!(PASSWORD_ALGORITHMS_BIT) };
    let offer = &Algorithm::OFFER[..];
    let (md5, sha) = ([0, 1, 0, 0], [0, 2, 0, 0]);
    for (algorithm, offer, choice, good) in [
        (Algorithm::Sha256, Some(offer), Some(sha), true),
        (Algorithm::Md5, Some(offer), Some(md5), true),
        (Algorithm::Md5, None, None, true),
        (Algorithm::Sha256, None, None, false),
        (Algorithm::Sha256, Some(&offer[..4]), Some(sha), false),
        (Algorithm::Md5, Some(&offer[4..]), Some(md5), false),
        (Algorithm::Sha256, None, Some(sha), false),
        (Algorithm::Sha256, Some(offer), None, false),
        (Algorithm::Sha256, Some(offer), Some([0, 3, 0, 0]), false),
    ] {
        let mut world = World::new();
        let client = world.client("a", 1);
        let got = sha256(&mut world.server, &client, algorithm, offer, choice);
        assert_eq!(got, good, "{algorithm:?} {offer:?} {choice:?}");
    }
}

#[test]
fn anothers_allocation_stays_anothers() {
    let mut world = World::new();
    let mut alice = world.client("a", 1);
    world.allocate(&mut alice);
    // Bob at Alice's address: behind one NAT mapping, or a spoofer who sees her packets.
    let mut bob = world.client("b", 1);
    for method in [Method::Refresh, Method::CreatePermission, Method::ChannelBind] {
        assert_eq!(world.ask(&mut bob, method, &[]).code(), 441, "{method:?}");
    }
    assert_eq!(world.ask(&mut bob, Method::Allocate, &[udp()]).code(), 437);
    assert_eq!(refused(&world, Refused::OtherMember), 3);
    // Alice with new credentials is still Alice.
    let member = Member::new(Kind::Member, "a").unwrap();
    alice.credentials = world.secret.issue(&member, 3_600, at(world.tick).unix_ms + 5);
    assert_eq!(world.ask(&mut alice, Method::Refresh, &[]).code(), 200);
}

#[test]
fn a_deleted_members_allocations_end_at_once_and_new_credentials_work() {
    let mut world = World::new();
    let (mut alice, mut bob) = (world.client("a", 1), world.client("b", 2));
    let mut tcp = world.client_over("a", 3, Transport::Tcp);
    for client in [&mut alice, &mut bob, &mut tcp] {
        world.allocate(client);
    }
    world.server.delete_member("a", at(world.tick));
    assert_eq!(world.closed().len(), 2);
    assert_eq!(world.server.allocations(), 1);
    assert_eq!(world.ask(&mut alice, Method::Refresh, &[]).code(), 401);
    assert_eq!(world.ask(&mut alice, Method::Allocate, &[udp()]).code(), 401);
    assert_eq!(refused(&world, Refused::DeletedCredential), 2);
    assert_eq!(world.ask(&mut bob, Method::Refresh, &[]).code(), 200);

    let member = Member::new(Kind::Member, "a").unwrap();
    alice.credentials = world.secret.issue(&member, 60, at(world.tick).unix_ms + 1);
    world.allocate(&mut alice);
    world.server.revoke(&alice.credentials.username, at(world.tick));
    assert_eq!(world.closed().len(), 1);
    assert_eq!(world.ask(&mut alice, Method::Allocate, &[udp()]).code(), 401);
}

#[test]
fn what_must_be_understood_and_is_not_is_named() {
    let mut world = World::new();
    let client = world.client("a", 1);
    let bytes = Builder::new(Class::Request, Method::Binding, &[1; 12])
        .attribute(0x0026, &[0; 4])
        .attribute(0x8026, &[0; 4])
        .attribute(0x7000, &[])
        .finish();
    let answer = world.send(&client, &bytes);
    assert_eq!(answer.code(), 420);
    assert_eq!(answer.attribute(attr::UNKNOWN_ATTRIBUTES), Some(vec![0, 0x26, 0x70, 0]));
    let bytes = Builder::new(Class::Request, Method::Other(0x0b), &[1; 12]).finish();
    assert_eq!(world.send(&client, &bytes).code(), 400);
    for class in [Class::Success, Class::Error, Class::Indication] {
        let bytes = Builder::new(class, Method::Allocate, &[1; 12]).finish();
        assert_eq!(world.send(&client, &bytes), Answer::Nothing);
    }
}

#[test]
fn a_binding_tells_the_clients_address() {
    let mut world = World::new();
    let client = world.client("a", 7_777);
    let hello = Builder::new(Class::Request, Method::Binding, &[7; 12]).fingerprint().finish();
    let Answer::Success(bytes) = world.send(&client, &hello) else { panic!() };
    let message = Message::parse(&bytes).unwrap();
    assert!(message.has_fingerprint());
    let value = message.attribute(attr::XOR_MAPPED_ADDRESS).unwrap();
    assert_eq!(crate::stun::decode_xor(value, &[7; 12]), Some(client.flow.client));
}
