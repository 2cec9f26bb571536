//! Disconnecting others (inventory B-116 to B-125): the rows of the truth table, and who may.

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::{
    Attendance, Bye, Disconnect, Disconnected, Frame, PresenceEvent, UnboundReason, close, code,
};
use meshwire_signaling::invite::Role;
use meshwire_signaling::limits::MAX_DISCONNECT;
use meshwire_signaling::{PublicKey, Target};

use super::proto::{Client, Member, World, new_key, within};
use super::{MSGPACK, noticed_lost, presence};

/// Who was affected and who was skipped, in no order.
fn keys(done: Disconnected) -> (Vec<PublicKey>, Vec<PublicKey>) {
    let sorted = |mut keys: Vec<PublicKey>| {
        keys.sort_unstable();
        keys
    };
    (sorted(done.affected), sorted(done.skipped))
}

/// What the broker says to mail for a session: an error's code, or that it took it.
async fn mail_to(ana: &mut Client, world: &World, session: PublicKey) -> Result<(), String> {
    let (_, mail) = world.owner.letter(&world.mesh, session, 1, "hello", |h| {
        h.target = Target::Session { key: session };
    });
    ana.hand(mail).await.map(drop).map_err(|e| e.code)
}

fn row(peer: &meshwire_signaling::frame::PeerInfo, key: PublicKey) -> Option<Attendance> {
    presence(peer, key).map(|p| p.attendance)
}

#[tokio::test]
async fn who_is_disconnected_softly_may_come_back_at_once_and_nobody_notices() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let (own, bound) = (bob.agent(), new_key());
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let words = bob.attest(&world.mesh, own.public());
    let bound_words = bob.attest(&world.mesh, bound.public());
    let mut s = world.delegate(&bob, &own, &words, |_| {}).await.unwrap();
    let mut b = world.connect(&bob, MSGPACK).await;
    b.bind(&bound, &bound_words).await.unwrap();

    // A bound session: its socket stays.
    let done = ana.disconnect(vec![bound.public()], false).await.unwrap();
    assert_eq!(keys(done), (vec![bound.public()], vec![]));
    let lost = b.unbound().await;
    assert_eq!((lost.key, lost.reason), (bound.public(), UnboundReason::Disconnected));
    let peer = ana.peer(&world.mesh, bob.public()).await;
    assert_eq!(row(&peer, bound.public()), Some(Attendance::Grace));
    // In grace there is nothing more to do.
    let done = ana.disconnect(vec![bound.public()], false).await.unwrap();
    assert_eq!(keys(done), (vec![], vec![]));
    assert_eq!(mail_to(&mut ana, &world, bound.public()).await, Ok(()), "it has not ended");
    let back = b.bind(&bound, &bound_words).await.unwrap();
    assert!(matches!(back, Frame::Bound(f) if f.resumed));

    // A session's own socket.
    let done = ana.disconnect(vec![own.public()], false).await.unwrap();
    assert_eq!(keys(done), (vec![own.public()], vec![]));
    assert_eq!(s.closed().await, (close::NORMAL, "disconnected".to_owned()));
    let s = world.delegate(&bob, &own, &words, |_| {}).await.unwrap();
    assert!(s.ack.lease.as_ref().unwrap().resumed);

    // A member's key means all that it has.
    let mut s = s;
    let done = ana.disconnect(vec![bob.public()], false).await.unwrap();
    let mut all = vec![bob.public(), own.public(), bound.public()];
    all.sort_unstable();
    assert_eq!(keys(done), (all, vec![]));
    assert_eq!(b.closed().await, (close::NORMAL, "disconnected".to_owned()));
    assert_eq!(s.closed().await, (close::NORMAL, "disconnected".to_owned()));
    noticed_lost(&mut ana, &world, bob.public(), bob.public()).await;
    // His control plane in grace: nothing.
    let done = ana.disconnect(vec![bob.public()], false).await.unwrap();
    assert_eq!(keys(done), (vec![], vec![]));
    let b = world.connect(&bob, MSGPACK).await;
    assert!(b.ack.lease.as_ref().unwrap().resumed);
    for key in [bob.public(), own.public(), bound.public()] {
        assert_eq!(ana.told_of(key).await, [PresenceEvent::Joined]);
    }
}

#[tokio::test]
async fn who_is_kicked_has_ended_and_control_planes_are_left_alone() {
    // A lease of 90 s: what is told within the test's patience was not waited for.
    let world = World::start().await;
    let bob = world.member("bob").await;
    let (own, bound, away) = (bob.agent(), new_key(), new_key());
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let attest = |key: PublicKey| bob.attest(&world.mesh, key);
    let mut s = world.delegate(&bob, &own, &attest(own.public()), |_| {}).await.unwrap();
    let mut b = world.connect(&bob, MSGPACK).await;
    for session in [&bound, &away] {
        b.bind(session, &attest(session.public())).await.unwrap();
    }
    for key in [bob.public(), own.public(), bound.public(), away.public()] {
        assert_eq!(ana.news_of(key).await.event, PresenceEvent::Joined);
    }
    // One of them in grace.
    ana.disconnect(vec![away.public()], false).await.unwrap();

    // All of bob's at once; he himself stays.
    let done = ana.disconnect(vec![bob.public()], true).await.unwrap();
    let mut ended = vec![own.public(), bound.public(), away.public()];
    ended.sort_unstable();
    assert_eq!(keys(done), (ended.clone(), vec![bob.public()]));
    assert_eq!(s.closed().await, (close::KICKED, "kicked".to_owned()));
    let reasons = [b.unbound().await, b.unbound().await].map(|u| (u.key, u.reason));
    let soft = (away.public(), UnboundReason::Disconnected);
    assert_eq!(reasons, [soft, (bound.public(), UnboundReason::Kicked)]);
    for key in &ended {
        assert_eq!(ana.news_of(*key).await.event, PresenceEvent::Left);
        assert_eq!(mail_to(&mut ana, &world, *key).await, Err(code::TARGET_GONE.to_owned()));
    }
    let peer = ana.peer(&world.mesh, bob.public()).await;
    assert_eq!(peer.presences.len(), 1);
    assert_eq!(row(&peer, bob.public()), Some(Attendance::Online));
    b.peers().await;
    // Nobody is there of whom anything could be ended.
    let nobody = vec![own.public(), bound.public(), new_key().public()];
    assert_eq!(keys(ana.disconnect(nobody, true).await.unwrap()), (vec![], vec![]));
    // A control plane in grace is skipped too.
    drop(b);
    noticed_lost(&mut ana, &world, bob.public(), bob.public()).await;
    let done = ana.disconnect(vec![bob.public()], true).await.unwrap();
    assert_eq!(keys(done), (vec![], vec![bob.public()]));
    assert_eq!(ana.told_of(bob.public()).await, []);
    // The kick binds nobody for ever: a person may start the session again.
    let mut b = world.connect(&bob, MSGPACK).await;
    let back = b.bind(&bound, &attest(bound.public())).await.unwrap();
    assert!(matches!(back, Frame::Bound(f) if !f.resumed));
    assert_eq!(mail_to(&mut ana, &world, bound.public()).await, Ok(()));
}

#[tokio::test]
async fn all_means_everybody_but_the_callers_own_member() {
    let world = World::start().await;
    let (bob, carol) = (world.member("bob").await, world.member("carol").await);
    let (hers, his) = (world.owner.agent(), new_key());
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let words = world.owner.attest(&world.mesh, hers.public());
    let mut s = world.delegate(&world.owner, &hers, &words, |_| {}).await.unwrap();
    let mut c = world.connect(&carol, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    b.bind(&his, &bob.attest(&world.mesh, his.public())).await.unwrap();
    let all = async |ana: &mut Client, kick| {
        let ask = |req| Disconnect { req, keys: Vec::new(), all: true, kick }.into();
        match ana.ask(ask).await.unwrap() {
            Frame::Disconnected(done) => keys(done),
            other => panic!("{other:?}"),
        }
    };
    let mut members = vec![bob.public(), carol.public()];
    members.sort_unstable();
    assert_eq!(all(&mut ana, true).await, (vec![his.public()], members.clone()));
    assert_eq!(b.unbound().await.reason, UnboundReason::Kicked);
    assert_eq!(all(&mut ana, false).await, (members, vec![]));
    for client in [&mut b, &mut c] {
        assert_eq!(client.closed().await, (close::NORMAL, "disconnected".to_owned()));
    }
    s.peers().await;
    ana.peers().await;
}

#[tokio::test]
async fn only_owner_and_admins_disconnect_and_within_bounds() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let admin = world.member_by(&world.invite(1, Role::Admin).await, "ada").await;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    for kick in [false, true] {
        let refused = b.disconnect(vec![world.owner.public()], kick).await.unwrap_err();
        assert_eq!((refused.code.as_str(), refused.permanent), (code::FORBIDDEN, true));
    }
    // Not by the owner's session either, whatever it is allowed.
    let hers = world.owner.agent();
    let words = world.owner.attest(&world.mesh, hers.public());
    let mut s = world.delegate(&world.owner, &hers, &words, |_| {}).await.unwrap();
    assert_eq!(s.ack.role, Role::Owner);
    let refused = s.disconnect(vec![bob.public()], false).await.unwrap_err();
    assert_eq!(refused.code, code::FORBIDDEN);
    let many = vec![bob.public(); MAX_DISCONNECT + 1];
    assert_eq!(ana.disconnect(many, false).await.unwrap_err().code, code::TOO_LARGE);
    b.peers().await;
    assert_eq!(ana.told_of(bob.public()).await, [PresenceEvent::Joined]);

    let mut a = world.connect(&admin, MSGPACK).await;
    let many = vec![bob.public(); MAX_DISCONNECT];
    assert_eq!(keys(a.disconnect(many, false).await.unwrap()).0, [bob.public()]);
    assert_eq!(b.closed().await, (close::NORMAL, "disconnected".to_owned()));
    // The owner's connection too: an admin is an admin.
    a.disconnect(vec![world.owner.public()], false).await.unwrap();
    assert_eq!(ana.closed().await, (close::NORMAL, "disconnected".to_owned()));
}

/// A session's own connection, as soon as the broker has room for it.
async fn room(world: &World, bob: &Member, agent: &Member) -> Client {
    let words = bob.attest(&world.mesh, agent.public());
    within("room for a connection", async {
        loop {
            match world.delegate(bob, agent, &words, |_| {}).await {
                Ok(client) => return client,
                // The broker sees the end of a socket a moment after we do.
                Err(refused) => assert_eq!(refused.codes(), (code::CAPACITY, close::TRY_LATER)),
            }
        }
    })
    .await
}

#[tokio::test]
async fn defect_6_kicks_leave_no_connections_in_the_count() {
    // Room for ana, and for two more.
    let world = World::with(|c| c.policy.sockets_per_mesh = 3).await;
    let bob = world.member("bob").await;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    for n in 0..50 {
        let (one, two) = (bob.agent(), bob.agent());
        let mut first = room(&world, &bob, &one).await;
        let mut second = room(&world, &bob, &two).await;
        // It is full, and says so.
        let (late, words) = (bob.agent(), |k| bob.attest(&world.mesh, k));
        let refused = world.delegate(&bob, &late, &words(late.public()), |_| {}).await;
        assert_eq!(refused.unwrap_err().codes(), (code::CAPACITY, close::TRY_LATER), "{n}");
        let mut both = vec![one.public(), two.public()];
        both.sort_unstable();
        let kick = n % 2 == 0;
        assert_eq!(keys(ana.disconnect(both, kick).await.unwrap()).0.len(), 2);
        for client in [&mut first, &mut second] {
            let code = if kick { close::KICKED } else { close::NORMAL };
            assert_eq!(client.closed().await.0, code);
        }
        for key in [one.public(), two.public()] {
            let came = ana.news_of(key).await;
            assert_eq!((came.event, came.kind), (PresenceEvent::Joined, IdentityKind::Session));
            if kick {
                assert_eq!(ana.news_of(key).await.event, PresenceEvent::Left, "a kick is told");
            }
        }
    }
    // Replacing one's own connection costs no room either, nor does leaving.
    let mut last = world.connect(&bob, MSGPACK).await;
    for _ in 0..20 {
        let new = world.connect(&bob, MSGPACK).await;
        assert_eq!(last.closed().await.1, "session_replaced");
        last = new;
    }
    last.send(Bye {}).await;
    last.peers().await;
    room(&world, &bob, &bob.agent()).await;
}
