//! Who may come in: every refusal of a hello over real sockets, in both encodings, with its error
//! code and its close code. The parts: impostors between node and broker, sessions, TLS.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in their helpers

#[path = "hello/between.rs"]
mod between;
mod proto;
#[path = "hello/sessions.rs"]
mod sessions;
#[path = "hello/tls.rs"]
mod tls;

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{
    Bye, Frame, HelloBody, Peers, PresenceEvent, close, code, feature,
};
use meshwire_signaling::invite::Role;
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::{Hash, MeshId, PublicKey};

use proto::{BOTH, Client, Opening, Refused, World, new_key};

const MSGPACK: Encoding = Encoding::MsgPack;

/// Says a hello that `twist` has changed, and is refused.
async fn twisted(
    world: &World,
    encoding: Encoding,
    twist: impl FnOnce(&mut HelloBody) + Clone,
) -> Refused {
    let opening = world.dial(encoding).await;
    let mut body = opening.body(&world.mesh, &world.owner);
    twist(&mut body);
    opening.say(body.sign(&world.owner.key), None).await.unwrap_err()
}

#[tokio::test]
async fn a_valid_hello_is_welcome_in_both_encodings() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    for encoding in BOTH {
        let mut a = world.connect(&world.owner, encoding).await;
        assert_eq!((a.ack.name.as_str(), a.ack.role), ("ana", Role::Owner));
        assert_eq!(a.ack.broker, world.broker.key());
        let features: Vec<_> = a.ack.features.keys().map(String::as_str).collect();
        let mut all = [
            feature::DEDUPE,
            feature::RECEIPTS,
            feature::GROUPS,
            feature::DELEGATES,
            feature::LEASE,
            feature::P2P,
            feature::STREAMS,
        ];
        all.sort_unstable();
        assert_eq!(features, all);
        let b = world.connect(&bob, encoding).await;
        assert_eq!((b.ack.name.as_str(), b.ack.role), ("bob", Role::Member));
        assert_eq!(a.peers().await.peers.len(), 2);
    }
}

#[tokio::test]
async fn every_fault_of_a_hello_has_its_code_and_its_close() {
    let world = World::start().await;
    let mut identity = [0; 32];
    identity[0] = 1;
    let small_order = PublicKey(identity);
    type Twist = Box<dyn Fn(&mut HelloBody)>;
    let cases: [(&str, Twist); 11] = [
        (code::TIMESTAMP_SKEW, Box::new(|b| b.at -= 61_000)),
        (code::TIMESTAMP_SKEW, Box::new(|b| b.at += 61_000)),
        (code::TIMESTAMP_SKEW, Box::new(|b| b.at = 0)),
        (code::BAD_KEY, Box::new(move |b| b.key = small_order)),
        (code::BAD_SIGNATURE, Box::new(|b| b.key = new_key().public())),
        (code::BAD_CHALLENGE, Box::new(|b| b.challenge = Hash([1; 32]))),
        (code::WRONG_BROKER, Box::new(|b| b.broker = new_key().public())),
        (code::BAD_BINDING, Box::new(|b| b.binding = Some(Hash([1; 32])))),
        (code::UNKNOWN_MESH, Box::new(|b| b.mesh = MeshId([1; 32]))),
        (code::MALFORMED, Box::new(|b| b.member = new_key().public())),
        (code::ATTESTATION_MALFORMED, Box::new(|b| b.kind = IdentityKind::Session)),
    ];
    for encoding in BOTH {
        for (i, (code, twist)) in cases.iter().enumerate() {
            let refused = twisted(&world, encoding, twist).await;
            assert_eq!(refused.codes(), (*code, close::REFUSED), "case {i}, {encoding:?}");
            assert!(refused.error.permanent, "case {i}");
        }
        let refused = twisted(&world, encoding, |b| b.requires = vec!["teleport".into()]).await;
        assert_eq!(refused.codes(), (code::FEATURE_MISSING, close::FEATURE));
        assert!(refused.error.message.contains("teleport"), "it says which");
    }
    let mut a = world.connect(&world.owner, MSGPACK).await;
    a.peers().await;
}

#[tokio::test]
async fn a_wrong_key_a_stranger_and_bytes_changed_after_signing_are_refused() {
    let world = World::start().await;
    let refused = |r: Result<Client, Refused>, code: &str| {
        assert_eq!(r.unwrap_err().codes(), (code, close::REFUSED));
    };
    for encoding in BOTH {
        let body = |o: &Opening| o.body(&world.mesh, &world.owner);

        let opening = world.dial(encoding).await;
        let forged = body(&opening).sign(&new_key());
        refused(opening.say(forged, None).await, code::BAD_SIGNATURE);

        // A good key, but no member's.
        let opening = world.dial(encoding).await;
        let stranger = new_key();
        let (key, member) = (stranger.public(), stranger.public());
        let hello = HelloBody { key, member, ..body(&opening) }.sign(&stranger);
        refused(opening.say(hello, None).await, code::UNAUTHORIZED);

        // A changed field under the old signature.
        let opening = world.dial(encoding).await;
        let good = body(&opening);
        let mut hello = good.sign(&world.owner.key);
        hello.payload = HelloBody { counter: good.counter + 1, ..good }.sign(&stranger).payload;
        refused(opening.say(hello, None).await, code::BAD_SIGNATURE);

        // Feature bits stripped on the way.
        let opening = world.dial(encoding).await;
        let mut good = body(&opening);
        good.features.insert(feature::GATE.into(), Default::default());
        let mut hello = good.sign(&world.owner.key);
        good.features.clear();
        good.requires.clear();
        hello.payload = good.sign(&stranger).payload;
        refused(opening.say(hello, None).await, code::BAD_SIGNATURE);

        // Malformed signatures: all ones, and a scalar that is not reduced (RFC 8032 section 5.1.7).
        for byte in [0, 63] {
            let opening = world.dial(encoding).await;
            let mut hello = body(&opening).sign(&world.owner.key);
            hello.sig.0[byte] = 0xff;
            refused(opening.say(hello, None).await, code::BAD_SIGNATURE);
        }

        // A payload that is no hello.
        let opening = world.dial(encoding).await;
        let mut hello = body(&opening).sign(&world.owner.key);
        hello.payload.0.truncate(9);
        refused(opening.say(hello, None).await, code::MALFORMED);
        let opening = world.dial(encoding).await;
        let other = Signed::new(&world.owner.key, domains::HELLO, &"not a hello");
        refused(opening.say(other, None).await, code::MALFORMED);
    }
}

#[tokio::test]
async fn a_hello_is_good_for_one_connection() {
    let world = World::start().await;
    for encoding in BOTH {
        let opening = world.dial(encoding).await;
        let hello = opening.body(&world.mesh, &world.owner).sign(&world.owner.key);
        let client = opening.say(hello.clone(), None).await.unwrap();
        let replayed = world.dial(encoding).await.say(hello, None).await.unwrap_err();
        assert_eq!(replayed.codes(), (code::BAD_CHALLENGE, close::REFUSED));
        client.close().await;
    }
}

#[tokio::test]
async fn counters_grow_and_a_copied_home_is_noticed() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    for encoding in BOTH {
        let opening = world.dial(encoding).await;
        let body = opening.body(&world.mesh, &bob);
        let said = body.counter;
        opening.say(body.sign(&bob.key), None).await.unwrap().close().await;
        for counter in [said, said - 1, 0] {
            let opening = world.dial(encoding).await;
            let body = HelloBody { counter, ..opening.body(&world.mesh, &bob) };
            let refused = opening.say(body.sign(&bob.key), None).await.unwrap_err();
            assert_eq!(refused.codes(), (code::STALE_INSTANCE, close::REFUSED), "{counter}");
        }
    }
}

#[tokio::test]
async fn another_instance_is_refused_while_the_first_lives_and_both_are_told() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let copy = bob.elsewhere();
    for encoding in BOTH {
        let mut live = world.connect(&bob, encoding).await;
        let refused = world.try_connect(&copy, encoding).await.unwrap_err();
        assert_eq!(refused.codes(), (code::ALREADY_CONNECTED, close::ALREADY_CONNECTED));
        let told = live.error().await;
        assert_eq!((told.code.as_str(), told.req), (code::ALREADY_CONNECTED, None));
        live.peers().await;
        live.close().await;
        // The broker sees the end of a socket a moment after we do.
        let moved = proto::within("the other instance's turn", async {
            loop {
                match world.try_connect(&copy, encoding).await {
                    Ok(client) => return client,
                    Err(refused) => assert_eq!(refused.close, close::ALREADY_CONNECTED),
                }
            }
        });
        moved.await.close().await;
    }
}

#[tokio::test]
async fn the_same_instance_replaces_its_socket_and_nobody_hears_of_it() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let mut observer = world.connect(&world.owner, MSGPACK).await;
    let mut old = world.connect(&bob, MSGPACK).await;
    let key = bob.public();
    let event = |f: &Frame| match f {
        Frame::Presence(p) if p.key == key => Some(p.event),
        _ => None,
    };
    assert_eq!(observer.find(event).await, PresenceEvent::Joined);
    for encoding in BOTH {
        let new = world.connect(&bob, encoding).await;
        assert_eq!(old.closed().await, (close::NORMAL, "session_replaced".to_owned()));
        old = new;
    }
    let bob_online = |p: &Peers| {
        let row = p.peers.iter().find(|p| p.chain.verify(&world.mesh).unwrap().key == key);
        row.unwrap().online
    };
    assert!(bob_online(&observer.peers().await));
    assert_eq!(observer.waiting().iter().find_map(event), None, "no flapping");
    // An end on purpose is one at once; any other would be told when the lease is over.
    old.send(Bye {}).await;
    assert_eq!(observer.find(event).await, PresenceEvent::Left);
    assert!(!bob_online(&observer.peers().await));
}
