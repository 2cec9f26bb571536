//! Sessions that have ended, and the mail for them.

use meshwire_signaling::frame::{
    ClientNack, Frame, MessageFrame, MessageState, PresenceEvent, Status, UnboundReason, code,
};
use meshwire_signaling::limits::CLAIM_LEASE;
use meshwire_signaling::receipt::Verdict;
use meshwire_signaling::{Envelope, EnvelopeId, PublicKey, Target};

use super::MSGPACK;
use super::proto::{BOTH, Client, Member, World, now, within};

/// Mail for a session.
fn mail(world: &World, session: PublicKey, text: &str) -> (EnvelopeId, Envelope) {
    world.owner.letter(&world.mesh, session, 1, text, |h| {
        h.target = Target::Session { key: session };
    })
}

/// The member's word that a session has ended.
fn gone(world: &World, member: &Member, m: &MessageFrame) -> ClientNack {
    let header = m.envelope.header().unwrap();
    let from = header.from.key;
    let receipt = member.receipt(&world.mesh, from, &m.envelope, Verdict::Gone, Some("ended"));
    let reason = "the session has ended".to_owned();
    ClientNack { from, id: header.id, by: m.to, reason, permanent: true, receipt: Some(receipt) }
}

/// Ana learns from its member that a session is gone, and confirms it.
async fn learns(ana: &mut Client, world: &World, bob: &Member, id: EnvelopeId, sent: &Envelope) {
    let r = ana.receipt_of(id, bob.public()).await;
    assert_eq!((r.from, r.receipt.verdict), (world.owner.public(), Verdict::Gone));
    assert!(world.owner.believes(&world.mesh, sent, &r.receipt), "by its member's own key");
    let again = ana.hand(sent.clone()).await.unwrap();
    assert_eq!((again.duplicate, again.state), (true, MessageState::Failed));
}

#[tokio::test]
async fn an_unbound_session_has_left_and_its_mail_is_its_members_to_answer() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    for encoding in BOTH {
        let agent = bob.agent();
        let mut ana = world.connect(&world.owner, encoding).await;
        let mut b = world.connect(&bob, encoding).await;
        let words = bob.attest(&world.mesh, agent.public());
        b.bind(&agent.key, &words).await.unwrap();
        assert_eq!(ana.news_of(agent.public()).await.event, PresenceEvent::Joined);
        // Held back for a session that is not to be disturbed: nobody has seen it.
        b.say(agent.public(), |s| s.status = Some(Status::Dnd)).await.unwrap();
        let (id, waiting) = mail(&world, agent.public(), "for later");
        ana.hand(waiting.clone()).await.unwrap();
        b.unbind(agent.public()).await.unwrap();
        assert_eq!(ana.news_of(agent.public()).await.event, PresenceEvent::Left);
        let (late, envelope) = mail(&world, agent.public(), "too late");
        let refused = ana.hand(envelope).await.unwrap_err();
        assert_eq!((refused.code.as_str(), refused.id), (code::TARGET_GONE, Some(late)));
        assert_eq!((refused.member, refused.permanent), (Some(bob.public()), true));
        // What waited comes to its member, who has no key to open it.
        let m = b.message().await;
        assert_eq!(
            (m.to, m.envelope.hash(&world.mesh)),
            (agent.public(), waiting.hash(&world.mesh))
        );
        b.send(gone(&world, &bob, &m)).await;
        learns(&mut ana, &world, &bob, id, &waiting).await;
        // Sealed anew for the member, under another name.
        let (anew, again) = world.owner.letter(&world.mesh, bob.public(), 1, "for later", |_| {});
        ana.hand(again).await.unwrap();
        let m = b.message().await;
        assert_eq!(bob.open(&m.envelope), "for later");
        b.ack(&world.mesh, &bob, &m).await;
        ana.receipt_of(anew, bob.public()).await;
        // Confirmed, the receipts are forgotten: also the one that its member made for the session.
        let (_, marker) = world.owner.letter(&world.mesh, bob.public(), 2, "marker", |_| {});
        ana.hand(marker).await.unwrap();
        let m = b.message().await;
        ana.close().await;
        ana = world.connect(&world.owner, encoding).await;
        ana.drained().await;
        ana.peers().await;
        assert!(!ana.waiting().iter().any(|f| matches!(f, Frame::Receipt(_))));
        b.ack(&world.mesh, &bob, &m).await;
        ana.receipt_of(m.envelope.header().unwrap().id, bob.public()).await;
        // To say it again changes nothing.
        b.unbind(agent.public()).await.unwrap();
        // The word that it was bound with, known to many, brings it back no more.
        let refused = b.bind(&agent.key, &words).await.unwrap_err();
        assert_eq!((refused.code.as_str(), refused.permanent), (code::FORBIDDEN, true));
        assert_eq!(ana.told_of(agent.public()).await, []);
        for client in [ana, b] {
            client.close().await;
        }
    }
}

#[tokio::test]
async fn a_member_ends_what_an_earlier_connection_left_behind_but_no_session_with_its_own() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let (left, own) = (bob.agent(), bob.agent());
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    b.bind(&left.key, &bob.attest(&world.mesh, left.public())).await.unwrap();
    drop(b);
    let (id, waiting) = mail(&world, left.public(), "for later");
    // Until the broker has noticed the cut, mail goes to the lost connection, and back.
    ana.hand(waiting.clone()).await.unwrap();
    let mut b = world.connect(&bob, MSGPACK).await;
    b.unbind(left.public()).await.unwrap();
    let told = [ana.news_of(left.public()).await.event, ana.news_of(left.public()).await.event];
    assert_eq!(told, [PresenceEvent::Joined, PresenceEvent::Left]);
    let (_, late) = mail(&world, left.public(), "too late");
    assert_eq!(ana.hand(late).await.unwrap_err().code, code::TARGET_GONE);
    let m = b.message().await;
    assert_eq!(m.to, left.public());
    b.send(gone(&world, &bob, &m)).await;
    learns(&mut ana, &world, &bob, id, &waiting).await;

    let words = bob.attest(&world.mesh, own.public());
    let mut s = world.delegate(&bob, &own, &words, |_| {}).await.unwrap();
    assert_eq!(b.unbind(own.public()).await.unwrap_err().code, code::NOT_YOURS);
    assert_eq!(b.unbind(bob.public()).await.unwrap_err().code, code::NOT_YOURS);
    s.peers().await;
    assert_eq!(ana.told_of(own.public()).await, [PresenceEvent::Joined]);
}

#[tokio::test]
async fn only_its_own_member_answers_for_an_ended_session() {
    let world = World::start().await;
    let (bob, eve) = (world.member("bob").await, world.member("eve").await);
    let agent = bob.agent();
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    let mut e = world.connect(&eve, MSGPACK).await;
    b.bind(&agent.key, &bob.attest(&world.mesh, agent.public())).await.unwrap();
    b.say(agent.public(), |s| s.status = Some(Status::Dnd)).await.unwrap();
    let (id, waiting) = mail(&world, agent.public(), "for later");
    ana.hand(waiting.clone()).await.unwrap();
    assert_eq!(e.unbind(agent.public()).await.unwrap_err().code, code::NOT_YOURS);
    b.unbind(agent.public()).await.unwrap();
    let m = b.message().await;
    // Another member; a receipt by the session's key, or by the wrong hand; a `delivered`.
    e.send(gone(&world, &eve, &m)).await;
    assert_eq!(e.error().await.code, code::NOT_YOURS);
    let mut by_session = gone(&world, &agent, &m);
    b.send(by_session.clone()).await;
    assert_eq!(b.error().await.code, code::MALFORMED);
    by_session.receipt =
        Some(eve.receipt(&world.mesh, world.owner.public(), &m.envelope, Verdict::Gone, None));
    b.send(by_session).await;
    assert_eq!(b.error().await.code, code::MALFORMED);
    let author = world.owner.public();
    let delivered = bob.receipt(&world.mesh, author, &m.envelope, Verdict::Delivered, None);
    b.send(ClientNack { receipt: Some(delivered), ..gone(&world, &bob, &m) }).await;
    assert_eq!(b.error().await.code, code::MALFORMED);
    ana.peers().await;
    assert!(!ana.waiting().iter().any(|f| matches!(f, Frame::Receipt(_))));
    b.send(gone(&world, &bob, &m)).await;
    learns(&mut ana, &world, &bob, id, &waiting).await;
}

#[tokio::test]
async fn mail_for_a_kicked_session_goes_to_its_member_at_once_or_when_it_comes() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    for connected in [true, false] {
        let agent = bob.agent();
        let mut ana = world.connect(&world.owner, MSGPACK).await;
        let words = bob.attest(&world.mesh, agent.public());
        // With a socket of its own, lost: in grace.
        drop(world.delegate(&bob, &agent, &words, |_| {}).await.unwrap());
        let mut b = None;
        if connected {
            b = Some(world.connect(&bob, MSGPACK).await);
        }
        let (id, waiting) = mail(&world, agent.public(), "for later");
        ana.hand(waiting.clone()).await.unwrap();
        // The broker may not have noticed yet that it is lost; either way it is affected.
        let done = ana.disconnect(vec![agent.public()], true).await.unwrap();
        assert_eq!((done.affected, done.skipped), (vec![agent.public()], vec![]));
        let (_, late) = mail(&world, agent.public(), "too late");
        assert_eq!(ana.hand(late).await.unwrap_err().code, code::TARGET_GONE);
        let mut b = match b {
            Some(b) => b,
            None => world.connect(&bob, MSGPACK).await,
        };
        let m = b.message().await;
        assert_eq!(m.to, agent.public());
        b.send(gone(&world, &bob, &m)).await;
        learns(&mut ana, &world, &bob, id, &waiting).await;
        ana.close().await;
        b.close().await;
    }
}

#[tokio::test]
async fn a_session_ends_with_its_last_attestation() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let agent = bob.agent();
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let brief = bob.vouch(&world.mesh, agent.public(), |a| a.expires_at = now() + 1_000);
    drop(world.delegate(&bob, &agent, &brief, |_| {}).await.unwrap());
    let (first, waiting) = mail(&world, agent.public(), "for later");
    ana.hand(waiting.clone()).await.unwrap();
    let mut ids = vec![first];
    let member = within("the end of the attestation", async {
        loop {
            let (id, envelope) = mail(&world, agent.public(), "and more");
            match ana.hand(envelope).await {
                Ok(_) => ids.push(id),
                Err(error) => {
                    assert_eq!(error.code, code::TARGET_GONE);
                    return error.member;
                }
            }
        }
    })
    .await;
    assert_eq!(member, Some(bob.public()));
    let mut b = world.connect(&bob, MSGPACK).await;
    for id in ids {
        let m = b.message().await;
        assert_eq!((m.to, m.envelope.header().unwrap().id), (agent.public(), id));
        b.send(gone(&world, &bob, &m)).await;
    }
    let r = ana.receipt().await;
    assert_eq!((r.id, r.receipt.verdict, r.receipt.by), (first, Verdict::Gone, bob.public()));
    // A fresh attestation is a new life.
    let mut s = world
        .delegate(&bob, &agent, &bob.attest(&world.mesh, agent.public()), |_| {})
        .await
        .unwrap();
    let (_, anew) = mail(&world, agent.public(), "anew");
    ana.hand(anew).await.unwrap();
    let m = s.message().await;
    assert_eq!(agent.open(&m.envelope), "anew");
}

#[tokio::test]
async fn a_lease_that_ran_out_is_no_end() {
    let world = World::with(|c| {
        c.policy.lease = std::time::Duration::from_millis(300);
    })
    .await;
    let bob = world.member("bob").await;
    let agent = bob.agent();
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let words = bob.attest(&world.mesh, agent.public());
    let mut b = world.connect(&bob, MSGPACK).await;
    b.bind(&agent.key, &words).await.unwrap();
    drop(b);
    assert_eq!(ana.news_of(agent.public()).await.event, PresenceEvent::Joined);
    assert_eq!(ana.news_of(agent.public()).await.event, PresenceEvent::Left);
    let (id, waiting) = mail(&world, agent.public(), "for later");
    ana.hand(waiting.clone()).await.unwrap();
    let mut b = world.connect(&bob, MSGPACK).await;
    b.drained().await;
    b.peers().await;
    assert!(!b.waiting().iter().any(|f| matches!(f, Frame::Message(_))), "it is the session's");
    b.bind(&agent.key, &words).await.unwrap();
    let m = b.message().await;
    assert_eq!(agent.open(&m.envelope), "for later");
    b.ack(&world.mesh, &agent, &m).await;
    let r = ana.receipt().await;
    assert_eq!((r.id, r.receipt.by), (id, agent.public()));
    assert!(world.owner.believes(&world.mesh, &waiting, &r.receipt));
}

/// Mail that its member's socket has and has not answered comes with it at once, and not when the claim's
/// lease is over.
#[tokio::test]
async fn what_was_not_answered_for_a_session_moves_with_it() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let agent = bob.agent();
    let words = bob.attest(&world.mesh, agent.public());
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    b.bind(&agent.key, &words).await.unwrap();
    let (_, letter) = mail(&world, agent.public(), "first");
    ana.hand(letter).await.unwrap();
    assert_eq!(b.message().await.attempt, 1);
    let mut s = world.delegate(&bob, &agent, &words, |h| h.instance = bob.instance).await.unwrap();
    let since = tokio::time::Instant::now();
    let m = s.message().await;
    assert_eq!((agent.open(&m.envelope).as_str(), m.attempt), ("first", 2));
    assert!(since.elapsed() < CLAIM_LEASE / 2, "{:?}", since.elapsed());
    s.ack(&world.mesh, &agent, &m).await;
    assert_eq!(ana.receipt().await.receipt.by, agent.public());
}

#[tokio::test]
async fn a_session_that_moves_to_its_own_socket_takes_its_mail_along() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let agent = bob.agent();
    let words = bob.attest(&world.mesh, agent.public());
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    b.bind(&agent.key, &words).await.unwrap();
    let (_, first) = mail(&world, agent.public(), "first");
    ana.hand(first).await.unwrap();
    let m = b.message().await;
    b.ack(&world.mesh, &agent, &m).await;
    ana.receipt().await;
    let mut s = world.delegate(&bob, &agent, &words, |h| h.instance = bob.instance).await.unwrap();
    let lost = b.unbound().await;
    assert_eq!((lost.key, lost.reason), (agent.public(), UnboundReason::Replaced));
    let (_, second) = mail(&world, agent.public(), "second");
    ana.hand(second).await.unwrap();
    let m = s.message().await;
    assert_eq!(agent.open(&m.envelope), "second");
    // Its member's socket speaks for it no more.
    b.ack(&world.mesh, &agent, &m).await;
    assert_eq!(b.error().await.code, code::NOT_YOURS);
    let refused = b.say(agent.public(), |p| p.status = Some(Status::Idle)).await.unwrap_err();
    assert_eq!(refused.code, code::NOT_YOURS);
    s.ack(&world.mesh, &agent, &m).await;
    assert_eq!(ana.receipt().await.receipt.by, agent.public());
}
