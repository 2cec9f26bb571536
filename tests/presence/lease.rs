//! How leases begin, outlive connections and the broker, and end.

use std::time::Duration;

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::{Attendance, Bye, Frame, PresenceEvent, Status};
use tokio::time::Instant;

use super::proto::{BOTH, Mortal, World, new_key};
use super::{MSGPACK, brief, noticed_lost, presence};

#[tokio::test]
async fn each_coming_is_told_once_and_each_going_once() {
    let lease = Duration::from_millis(300);
    let world = brief(lease).await;
    let bob = world.member("bob").await;
    let session = new_key();
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    for encoding in BOTH {
        let mut b = world.connect(&bob, encoding).await;
        let ttl = b.ack.lease.as_ref().unwrap().ttl_ms;
        assert_eq!(u128::from(ttl), lease.as_millis());
        b.bind(&session, &bob.attest(&world.mesh, session.public())).await.unwrap();
        let lost = Instant::now();
        drop(b);
        for (key, kind) in
            [(bob.public(), IdentityKind::Member), (session.public(), IdentityKind::Session)]
        {
            let came = ana.news_of(key).await;
            assert_eq!((came.event, came.kind), (PresenceEvent::Joined, kind));
            assert_eq!(came.member, bob.public());
            let went = ana.news_of(key).await;
            assert_eq!((went.event, went.kind), (PresenceEvent::Left, kind));
            assert!(lost.elapsed() >= lease, "not before its time");
        }
        let peer = ana.peer(&world.mesh, bob.public()).await;
        assert!(!peer.online && peer.presences.is_empty());
    }
    for key in [bob.public(), session.public()] {
        assert_eq!(ana.told_of(key).await, [], "and no more");
    }
}

#[tokio::test]
async fn bye_ends_all_that_the_socket_holds_at_once() {
    // A lease of 90 s: what is told within the test's patience was not waited for.
    let world = World::start().await;
    let bob = world.member("bob").await;
    let session = new_key();
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    for encoding in BOTH {
        let mut b = world.connect(&bob, encoding).await;
        b.bind(&session, &bob.attest(&world.mesh, session.public())).await.unwrap();
        b.send(Bye {}).await;
        for key in [bob.public(), session.public()] {
            assert_eq!(ana.news_of(key).await.event, PresenceEvent::Joined);
            assert_eq!(ana.news_of(key).await.event, PresenceEvent::Left);
        }
        b.close().await;
    }
    assert!(!ana.peer(&world.mesh, bob.public()).await.online);
    // Mail for him waits as ever, and for the session, which has not ended.
    let (_, mail) = world.owner.letter(&world.mesh, bob.public(), 1, "for later", |_| {});
    ana.hand(mail).await.unwrap();
    let mut b = world.connect(&bob, MSGPACK).await;
    assert_eq!(bob.open(&b.message().await.envelope), "for later");
    assert_eq!(ana.told_of(bob.public()).await, [PresenceEvent::Joined]);
}

#[tokio::test]
async fn news_of_sessions_reach_the_siblings_and_news_of_members_other_members() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let (agent, bound) = (bob.agent(), new_key());
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let words = bob.attest(&world.mesh, agent.public());
    let mut sibling = world.delegate(&bob, &agent, &words, |_| {}).await.unwrap();
    let came = ana.news_of(agent.public()).await;
    assert_eq!((came.event, came.kind), (PresenceEvent::Joined, IdentityKind::Session));
    assert_eq!(came.attestation, Some(words));
    assert_eq!(came.chain.unwrap().verify(&world.mesh).unwrap().key, bob.public());

    let mut b = world.connect(&bob, MSGPACK).await;
    assert_eq!(ana.news_of(bob.public()).await.event, PresenceEvent::Joined);
    let words = bob.attest(&world.mesh, bound.public());
    b.bind(&bound, &words).await.unwrap();
    for hearer in [&mut ana, &mut sibling] {
        let came = hearer.news_of(bound.public()).await;
        assert_eq!((came.event, came.member), (PresenceEvent::Joined, bob.public()));
        assert_eq!(came.attestation.as_ref(), Some(&words), "with its member's word");
    }
    assert_eq!(b.told_of(bound.public()).await, [], "who bound it knows");
    assert_eq!(sibling.told_of(bob.public()).await, [], "a member is no sibling's news");

    b.unbind(bound.public()).await.unwrap();
    for hearer in [&mut ana, &mut sibling] {
        assert_eq!(hearer.news_of(bound.public()).await.event, PresenceEvent::Left);
    }
    sibling.send(Bye {}).await;
    for hearer in [&mut ana, &mut b] {
        assert_eq!(hearer.news_of(agent.public()).await.event, PresenceEvent::Left);
    }
    b.send(Bye {}).await;
    assert_eq!(ana.news_of(bob.public()).await.event, PresenceEvent::Left);
    for key in [bob.public(), agent.public(), bound.public()] {
        assert_eq!(ana.told_of(key).await, []);
    }
}

#[tokio::test]
async fn a_session_of_the_members_own_instance_takes_its_identity_and_nothing_else() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let agent = bob.agent();
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    let words = bob.attest(&world.mesh, agent.public());
    b.bind(&agent.key, &words).await.unwrap();
    let instance = bob.instance;
    let own = world.delegate(&bob, &agent, &words, |h| h.instance = instance).await.unwrap();
    assert!(own.ack.lease.as_ref().unwrap().resumed);
    let lost = b.unbound().await;
    let replaced = meshwire_signaling::frame::UnboundReason::Replaced;
    assert_eq!((lost.key, lost.reason), (agent.public(), replaced));
    // His own connection lives, and takes the identity back.
    b.peers().await;
    let bound = b.bind(&agent.key, &words).await.unwrap();
    assert!(matches!(bound, Frame::Bound(f) if f.resumed));
    let mut own = own;
    assert_eq!(own.closed().await, (1000, "session_replaced".to_owned()));
    for key in [bob.public(), agent.public()] {
        assert_eq!(ana.told_of(key).await, [PresenceEvent::Joined]);
    }
}

/// Leases over a restart: who comes back was never gone, who does not is told as left, once.
async fn restarted(killed: Option<Mortal>) {
    let short = Duration::from_secs(3);
    let long = |c: &mut meshwire::BrokerConfig| c.policy.lease = Duration::from_secs(90);
    let world = match &killed {
        Some(runtime) => World::on(runtime.handle(), long).await,
        None => World::with(long).await,
    };
    let (bob, carol) = (world.member("bob").await, world.member("carol").await);
    let session = new_key();
    let mut b = world.connect(&bob, MSGPACK).await;
    b.bind(&session, &bob.attest(&world.mesh, session.public())).await.unwrap();
    b.say(session.public(), |s| s.summary = Some("moves the backups".into())).await.unwrap();
    let mut c = world.connect(&carol, MSGPACK).await;
    // Leases are written in the background, in the order in which they came: each of these commits
    // gives that another turn.
    for status in Status::ALL.into_iter().cycle().take(9) {
        c.say(carol.public(), |s| s.status = Some(status)).await.unwrap();
    }
    let since = c.peer(&world.mesh, bob.public()).await.presences;
    let was: Vec<_> = since.iter().map(|p| (p.key, p.since)).collect();

    let world = world.again(killed, |c| c.policy.lease = short).await;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    assert!(b.ack.lease.as_ref().unwrap().resumed, "bob was never gone");
    let attestation = bob.attest(&world.mesh, session.public());
    let bound = b.bind(&session, &attestation).await.unwrap();
    assert!(matches!(bound, Frame::Bound(f) if f.resumed), "nor his session");
    let peer = ana.peer(&world.mesh, bob.public()).await;
    let is: Vec<_> = peer.presences.iter().map(|p| (p.key, p.since)).collect();
    assert_eq!(is, was, "there since then");
    assert!(peer.presences.iter().all(|p| p.attendance == Attendance::Online));
    let said = presence(&peer, session.public()).unwrap().about.summary.as_deref();
    assert_eq!(said, Some("moves the backups"));

    // Carol does not come back.
    assert_eq!(ana.news_of(carol.public()).await.event, PresenceEvent::Left);
    for key in [bob.public(), session.public(), carol.public()] {
        assert_eq!(ana.told_of(key).await, []);
        assert_eq!(b.told_of(key).await.len(), usize::from(key == carol.public()));
    }
    // That is remembered too: another restart tells nothing of her.
    let world = world.again(None, |c| c.policy.lease = short).await;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    assert!(!ana.peer(&world.mesh, carol.public()).await.online);
    for key in [bob.public(), session.public()] {
        assert_eq!(ana.news_of(key).await.event, PresenceEvent::Left, "they stayed away");
    }
    assert_eq!(ana.told_of(carol.public()).await, []);
}

#[tokio::test]
async fn leases_survive_a_broker_that_is_stopped_and_started() {
    Box::pin(restarted(None)).await;
}

#[tokio::test]
async fn leases_survive_a_broker_that_is_killed() {
    Box::pin(restarted(Some(Mortal::new()))).await;
}

#[tokio::test]
async fn mail_during_grace_waits_and_comes_once() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    drop(world.connect(&bob, MSGPACK).await);
    noticed_lost(&mut ana, &world, bob.public(), bob.public()).await;
    let (id, mail) = world.owner.letter(&world.mesh, bob.public(), 1, "now!", |h| {
        h.priority = meshwire_signaling::Priority::Now;
    });
    assert!(!ana.hand(mail.clone()).await.unwrap().duplicate);
    let mut b = world.connect(&bob, MSGPACK).await;
    let m = b.message().await;
    assert_eq!((bob.open(&m.envelope).as_str(), m.attempt), ("now!", 1));
    b.ack(&world.mesh, &bob, &m).await;
    let receipt = ana.receipt().await;
    assert_eq!(receipt.id, id);
    assert!(world.owner.believes(&world.mesh, &mail, &receipt.receipt));
    b.drained().await;
    assert!(!b.waiting().iter().any(|f| matches!(f, Frame::Message(_))), "once");
    assert_eq!(ana.told_of(bob.public()).await, [PresenceEvent::Joined]);
}
