//! Sessions: further identities on a member's connection, and connections of their own.

use meshwire_signaling::attest::{Attestation, Capabilities, IdentityKind};
use meshwire_signaling::frame::{Bind, Frame, HelloBody, close, code};
use meshwire_signaling::{Hash, MeshId, PublicKey, Target};

use super::MSGPACK;
use super::proto::{BOTH, Client, HOUR_MS, Member, World, new_key, now};

/// Mail to a session.
async fn to_session(world: &World, from: &Member, session: PublicKey) {
    let mut client = world.connect(from, MSGPACK).await;
    let (_, mail) = from.letter(&world.mesh, session, 1, "hello, session", |h| {
        h.target = Target::Session { key: session };
    });
    client.hand(mail).await.unwrap();
    client.close().await;
}

#[tokio::test]
async fn a_session_binds_with_its_own_proof_and_gets_its_mail_there() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    for encoding in BOTH {
        let session = new_key();
        let attestation = bob.attest(&world.mesh, session.public());
        let mut b = world.connect(&bob, encoding).await;
        let bound = b.bind(&session, &attestation).await.unwrap();
        assert!(matches!(bound, Frame::Bound(f) if f.key == session.public()));
        to_session(&world, &world.owner, session.public()).await;
        let m = b.message().await;
        assert_eq!(m.to, session.public());
        b.close().await;
    }
}

#[tokio::test]
async fn a_stolen_attestation_binds_nothing() {
    let world = World::start().await;
    let (bob, eve) = (world.member("bob").await, world.member("eve").await);
    let session = new_key();
    let stolen = bob.attest(&world.mesh, session.public());
    for encoding in BOTH {
        let mut b = world.connect(&bob, encoding).await;
        let mut e = world.connect(&eve, encoding).await;
        let attempt = async |c: &mut Client, key: PublicKey, proof| {
            let attestation = stolen.clone();
            let bind = |req| Bind { req, key, attestation, proof }.into();
            c.ask(bind).await.unwrap_err().code
        };
        // Another member has the attestation, and even the session's key.
        let proof = Bind::prove(&e.hello, &session, &stolen);
        let code = attempt(&mut e, session.public(), proof).await;
        assert_eq!(code, code::ATTESTATION_MISMATCH);
        // A thief on the member's own connection has the attestation, not the session's key.
        let thief = new_key();
        let proof = Bind::prove(&b.hello, &thief, &stolen);
        assert_eq!(attempt(&mut b, session.public(), proof).await, code::BAD_SIGNATURE);
        assert_eq!(attempt(&mut b, thief.public(), proof).await, code::ATTESTATION_MISMATCH);
        // A genuine proof, recorded on another connection.
        let proof = Bind::prove(&Hash([9; 32]), &session, &stolen);
        assert_eq!(attempt(&mut b, session.public(), proof).await, code::BAD_SIGNATURE);
        // As a hello of its own.
        let opening = world.dial(encoding).await;
        let body = HelloBody {
            key: session.public(),
            kind: IdentityKind::Session,
            ..opening.body(&world.mesh, &bob)
        };
        let refused = opening.say(body.sign(&thief), Some(stolen.clone())).await.unwrap_err();
        assert_eq!(refused.codes(), (code::BAD_SIGNATURE, close::REFUSED));
        b.peers().await;
        e.close().await;
        b.close().await;
    }
    let mut a = world.connect(&world.owner, MSGPACK).await;
    let (_, mail) = world.owner.letter(&world.mesh, session.public(), 1, "x", |h| {
        h.target = Target::Session { key: session.public() };
    });
    assert_eq!(a.hand(mail).await.unwrap_err().code, code::UNKNOWN_TARGET, "it was never there");
}

#[tokio::test]
async fn every_fault_of_an_attestation_has_its_code_at_bind_and_at_hello() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let session = new_key();
    let good = Attestation {
        mesh: world.mesh,
        member: bob.public(),
        key: session.public(),
        kind: IdentityKind::Session,
        name: "agent".into(),
        capabilities: Capabilities::All,
        issued_at: now(),
        expires_at: now() + HOUR_MS,
    };
    let expired = Attestation { expires_at: now() - 1, ..good.clone() };
    let long = Attestation { expires_at: now() + 25 * HOUR_MS, ..good.clone() };
    let elsewhere = Attestation { mesh: MeshId([1; 32]), ..good.clone() };
    let of_another = Attestation { key: new_key().public(), ..good.clone() };
    let forged = good.sign(&new_key());
    let cases = [
        (code::ATTESTATION_EXPIRED, expired.sign(&bob.key)),
        (code::ATTESTATION_TTL, long.sign(&bob.key)),
        (code::ATTESTATION_MALFORMED, elsewhere.sign(&bob.key)),
        (code::ATTESTATION_MISMATCH, of_another.sign(&bob.key)),
        (code::BAD_SIGNATURE, forged),
    ];
    for encoding in BOTH {
        let mut b = world.connect(&bob, encoding).await;
        for (code, attestation) in &cases {
            assert_eq!(b.bind(&session, attestation).await.unwrap_err().code, *code);
            let opening = world.dial(encoding).await;
            let body = HelloBody {
                key: session.public(),
                kind: IdentityKind::Session,
                ..opening.body(&world.mesh, &bob)
            };
            let hello = body.sign(&session);
            let refused = opening.say(hello, Some(attestation.clone())).await.unwrap_err();
            assert_eq!(refused.codes(), (*code, close::REFUSED));
        }
        b.close().await;
    }
    // The good one lets a session say hello by itself.
    let opening = world.dial(MSGPACK).await;
    let body = HelloBody {
        key: session.public(),
        kind: IdentityKind::Session,
        ..opening.body(&world.mesh, &bob)
    };
    let mut s = opening.say(body.sign(&session), Some(good.sign(&bob.key))).await.unwrap();
    assert_eq!(s.ack.name, "bob");
    to_session(&world, &world.owner, session.public()).await;
    assert_eq!(s.message().await.to, session.public());
}
