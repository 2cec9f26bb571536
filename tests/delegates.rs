//! Mail by and for sessions and services, by raw clients: the proof that goes with it, what a narrow or
//! late attestation allows, and what becomes of mail for sessions that have ended.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in their helpers

#[path = "delegates/end.rs"]
mod end;
mod proto;

use meshwire_signaling::attest::{Attestation, Capabilities, IdentityKind, capability};
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::envelope::Proof;
use meshwire_signaling::frame::{Frame, MessageFrame, ReceiptAck, code};
use meshwire_signaling::receipt::Verdict;
use meshwire_signaling::sign::Signed;
use meshwire_signaling::{Envelope, Target};

use proto::{BOTH, Client, HOUR_MS, Member, World, new_key, now};

const MSGPACK: Encoding = Encoding::MsgPack;

/// An attestation with these capabilities alone.
fn narrow(world: &World, member: &Member, agent: &Member, words: &[&str]) -> Signed {
    member.vouch(&world.mesh, agent.public(), |a| {
        let words = words.iter().map(|w| (*w).to_owned());
        a.capabilities = Capabilities::List(words.collect());
    })
}

/// An envelope with the attestation that its author shows.
fn showing(member: &Member, attestation: &Signed, envelope: Envelope) -> Envelope {
    let (chain, attestation) = (member.chain.clone(), Some(attestation.clone()));
    Envelope { proof: Some(Box::new(Proof { chain, attestation })), ..envelope }
}

/// What the recipient sees proves that `member` vouches for the author: at the time of sending, by the
/// chain's member. Returns the attestation.
fn proven(world: &World, member: &Member, m: &MessageFrame) -> Signed {
    let header = m.envelope.header().unwrap();
    m.envelope.verify(&world.mesh, &header).unwrap();
    let proof = m.envelope.proof.clone().unwrap();
    assert_eq!(proof.chain.verify(&world.mesh).unwrap().key, member.public());
    let signed = proof.attestation.unwrap();
    let a = Attestation::verify(&signed, &world.mesh, &member.public(), header.sent_at).unwrap();
    assert_eq!(a.key, header.from.key);
    assert!(a.capabilities.allow(capability::DM));
    signed
}

#[tokio::test]
async fn a_sessions_mail_comes_with_its_members_word_for_it() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    for encoding in BOTH {
        let (bound, own) = (bob.agent(), bob.agent());
        let mut ana = world.connect(&world.owner, encoding).await;
        let mut b = world.connect(&bob, encoding).await;
        let words = bob.attest(&world.mesh, bound.public());
        b.bind(&bound.key, &words).await.unwrap();
        let own_words = narrow(&world, &bob, &own, &[capability::DM]);
        let mut s = world.delegate(&bob, &own, &own_words, |_| {}).await.unwrap();
        // Each of them shows nothing: what it is bound with counts.
        for n in 1..=2 {
            for (client, agent, words) in [(&mut b, &bound, &words), (&mut s, &own, &own_words)] {
                let to = world.owner.public();
                let (id, mail) = agent.letter(&world.mesh, to, n, "by a session", |_| {});
                assert!(!client.hand(mail.clone()).await.unwrap().duplicate);
                let m = ana.message().await;
                assert_eq!(proven(&world, &bob, &m), *words, "{n}: with each message");
                assert_eq!(world.owner.open(&m.envelope), "by a session");
                assert_eq!(m.envelope.hash(&world.mesh), mail.hash(&world.mesh));
                // The receipt comes to the socket that speaks for the author, and holds for its key.
                ana.ack(&world.mesh, &world.owner, &m).await;
                let r = client.receipt_of(id, world.owner.public()).await;
                assert_eq!(r.from, agent.public());
                assert!(agent.believes(&world.mesh, &mail, &r.receipt));
            }
        }
        // Its member writes with its own key as ever, and needs no such word.
        let (id, mail) = bob.letter(&world.mesh, world.owner.public(), 1, "by bob", |_| {});
        b.hand(mail).await.unwrap();
        let m = ana.message().await;
        ana.ack(&world.mesh, &world.owner, &m).await;
        b.receipt_of(id, world.owner.public()).await;
        assert!(m.envelope.proof.is_none_or(|p| p.attestation.is_none()));
        for client in [ana, b, s] {
            client.close().await;
        }
    }
}

#[tokio::test]
async fn what_the_attestation_does_not_allow_is_refused() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let to = world.owner.public();
    let mut b = world.connect(&bob, MSGPACK).await;
    let refused = async |c: &mut Client, envelope| {
        let error = c.hand(envelope).await.unwrap_err();
        assert!(error.permanent, "{error:?}");
        error.code
    };
    // All but writing to members; nothing at all; a word of the future.
    let all_but = [capability::GROUP, capability::PRESENCE, capability::INBOX];
    for words in [&all_but[..], &[], &["everything"]] {
        let agent = bob.agent();
        let attestation = narrow(&world, &bob, &agent, words);
        b.bind(&agent.key, &attestation).await.unwrap();
        let mail = || agent.letter(&world.mesh, to, 1, "x", |_| {}).1;
        assert_eq!(refused(&mut b, mail()).await, code::FORBIDDEN, "{words:?}");
        assert_eq!(
            refused(&mut b, showing(&bob, &attestation, mail())).await,
            code::FORBIDDEN,
            "{words:?}"
        );
        b.unbind(agent.public()).await.unwrap();
    }
    // What the envelope shows counts, and must hold: at the time of sending, for this key, by this
    // member, with its signature.
    let agent = bob.agent();
    let good = bob.attest(&world.mesh, agent.public());
    b.bind(&agent.key, &good).await.unwrap();
    let eve = world.member("eve").await;
    let vouch = |by: &Member, twist: &dyn Fn(&mut Attestation)| {
        by.vouch(&world.mesh, agent.public(), twist)
    };
    let mut forged = good.clone();
    forged.sig.0[9] ^= 1;
    let other_key = bob.attest(&world.mesh, new_key().public());
    let cases = [
        (code::ATTESTATION_EXPIRED, vouch(&bob, &|a| a.expires_at = now() - 1)),
        (code::ATTESTATION_TTL, vouch(&bob, &|a| a.expires_at = now() + 26 * HOUR_MS)),
        (code::ATTESTATION_MISMATCH, other_key),
        (code::ATTESTATION_MISMATCH, vouch(&eve, &|_| {})),
        (code::BAD_SIGNATURE, forged),
        (code::ATTESTATION_MALFORMED, vouch(&bob, &|a| a.kind = IdentityKind::Member)),
        (code::FORBIDDEN, narrow(&world, &bob, &agent, &[])),
    ];
    for (n, (code, attestation)) in cases.iter().enumerate() {
        let (_, mail) = agent.letter(&world.mesh, to, 1, "x", |_| {});
        assert_eq!(refused(&mut b, showing(&bob, attestation, mail)).await, *code, "case {n}");
    }
    // Nor does anybody write in a session's name who does not speak for it.
    let mut e = world.connect(&eve, MSGPACK).await;
    let (_, mail) = agent.letter(&world.mesh, to, 1, "x", |_| {});
    assert_eq!(refused(&mut e, showing(&bob, &good, mail)).await, code::NOT_YOURS);
    ana.peers().await;
    assert!(!ana.waiting().iter().any(|f| matches!(f, Frame::Message(_))));

    // An attestation that was valid then is good for what was sent then.
    let then = now() - HOUR_MS;
    let old = vouch(&bob, &|a| {
        a.issued_at = then - HOUR_MS;
        a.expires_at = then + HOUR_MS / 2;
    });
    let (_, mail) = agent.letter(&world.mesh, to, 1, "written long ago", |h| h.sent_at = then);
    b.hand(showing(&bob, &old, mail)).await.unwrap();
    let m = ana.message().await;
    assert_eq!(proven(&world, &bob, &m), old);
}

#[tokio::test]
async fn an_expired_attestation_neither_binds_nor_sends() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let agent = bob.agent();
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    let over = bob.vouch(&world.mesh, agent.public(), |a| a.expires_at = now() - 1);
    let error = b.bind(&agent.key, &over).await.unwrap_err();
    assert_eq!(error.code, code::ATTESTATION_EXPIRED);
    // One that is over soon: bound in time, and then too late for what is sent after its end.
    let end = now() + 1_500;
    let brief = bob.vouch(&world.mesh, agent.public(), |a| a.expires_at = end);
    b.bind(&agent.key, &brief).await.unwrap();
    let to = world.owner.public();
    let (_, before) = agent.letter(&world.mesh, to, 1, "in time", |_| {});
    let (_, after) = agent.letter(&world.mesh, to, 2, "too late", |h| h.sent_at = end);
    b.hand(before).await.unwrap();
    assert_eq!(b.hand(after).await.unwrap_err().code, code::ATTESTATION_EXPIRED);
    assert_eq!(world.owner.open(&ana.message().await.envelope), "in time");
    // Bound again with a fresh one, it goes on.
    b.bind(&agent.key, &bob.attest(&world.mesh, agent.public())).await.unwrap();
    let (_, mail) = agent.letter(&world.mesh, to, 3, "afresh", |h| h.sent_at = end);
    b.hand(mail).await.unwrap();
    assert_eq!(world.owner.open(&ana.message().await.envelope), "afresh");
}

#[tokio::test]
async fn a_sessions_receipts_wait_for_it_and_follow_it() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let agent = bob.agent();
    let words = bob.attest(&world.mesh, agent.public());
    let mut b = world.connect(&bob, MSGPACK).await;
    b.bind(&agent.key, &words).await.unwrap();
    let (id, mail) = agent.letter(&world.mesh, world.owner.public(), 1, "hello", |_| {});
    b.hand(mail.clone()).await.unwrap();
    b.close().await;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let m = ana.message().await;
    ana.ack(&world.mesh, &world.owner, &m).await;
    let (_, marker) = world.owner.letter(&world.mesh, bob.public(), 1, "marker", |_| {});
    ana.hand(marker).await.unwrap();
    // Bob's own connection is not told before it speaks for the session.
    let mut b = world.connect(&bob, MSGPACK).await;
    b.drained().await;
    b.peers().await;
    assert!(!b.waiting().iter().any(|f| matches!(f, Frame::Receipt(_))));
    b.bind(&agent.key, &words).await.unwrap();
    let r = b.receipt().await;
    assert_eq!((r.from, r.id, r.receipt.verdict), (agent.public(), id, Verdict::Delivered));
    assert!(agent.believes(&world.mesh, &mail, &r.receipt));
    b.close().await;
    // Unconfirmed, it comes again, wherever the session is by then.
    let mut s = world.delegate(&bob, &agent, &words, |h| h.instance = bob.instance).await.unwrap();
    assert_eq!(s.receipt().await, r);
    s.send(ReceiptAck { from: r.from, id, by: r.receipt.by }).await;
    let (_, marker) = agent.letter(&world.mesh, world.owner.public(), 2, "marker", |_| {});
    s.hand(marker).await.unwrap();
    s.close().await;
    let mut b = world.connect(&bob, MSGPACK).await;
    b.bind(&agent.key, &words).await.unwrap();
    b.drained().await;
    b.peers().await;
    assert!(!b.waiting().iter().any(|f| matches!(f, Frame::Receipt(_))), "it is forgotten now");
}

#[tokio::test]
async fn what_was_accepted_stays_accepted_whatever_the_attestation_says_now() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let agent = bob.agent();
    let mut b = world.connect(&bob, MSGPACK).await;
    b.bind(&agent.key, &bob.attest(&world.mesh, agent.public())).await.unwrap();
    let (_, mail) = agent.letter(&world.mesh, world.owner.public(), 1, "hello", |_| {});
    b.hand(mail.clone()).await.unwrap();
    b.bind(&agent.key, &narrow(&world, &bob, &agent, &[])).await.unwrap();
    assert!(b.hand(mail).await.unwrap().duplicate, "it is on disk");
    let (_, other) = agent.letter(&world.mesh, world.owner.public(), 2, "more", |h| {
        h.target = Target::Member { key: world.owner.public() };
    });
    assert_eq!(b.hand(other).await.unwrap_err().code, code::FORBIDDEN);
}
