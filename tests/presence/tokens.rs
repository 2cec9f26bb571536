//! Resume tokens: they say where a lease is, and grant nothing (inventory T17 to T19).

use meshwire_signaling::Hash;
use meshwire_signaling::frame::{Attendance, Lease, PresenceEvent, ResumeToken, close, code};
use meshwire_signaling::sign::{Signed, domains};

use super::proto::{BOTH, Client, World, new_key, now};
use super::{MSGPACK, noticed_lost, presence};

fn lease(client: &Client) -> &Lease {
    client.ack.lease.as_ref().unwrap()
}

#[tokio::test]
async fn t17_a_token_shown_while_online_moves_the_presence_and_nobody_hears_of_it() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let mut old = world.connect(&bob, MSGPACK).await;
    assert!(!lease(&old).resumed, "he has only just come");
    assert_eq!(ana.news_of(bob.public()).await.event, PresenceEvent::Joined);
    let first = lease(&old).token.clone();
    let genuine: ResumeToken = first.open(&world.broker.key(), domains::RESUME).unwrap();
    assert_eq!((genuine.key, genuine.instance), (bob.public(), bob.instance));
    // The same token again and again: it is not used up.
    for encoding in BOTH.into_iter().cycle().take(4) {
        let resume = Some(first.clone());
        let mut new = world.connect_as(&bob, encoding, |b| b.resume = resume).await.unwrap();
        assert!(lease(&new).resumed);
        let goes_on: ResumeToken = lease(&new).token.peek().unwrap();
        assert_eq!(goes_on.lease, genuine.lease, "it is the same lease");
        assert_eq!(old.closed().await, (close::NORMAL, "session_replaced".to_owned()));
        new.peers().await;
        old = new;
    }
    assert_eq!(ana.told_of(bob.public()).await, []);
    assert!(ana.peer(&world.mesh, bob.public()).await.online);
}

#[tokio::test]
async fn t18_a_forged_token_is_ignored_and_the_hello_stands_or_falls_by_itself() {
    let world = World::start().await;
    let (bob, eve) = (world.member("bob").await, world.member("eve").await);
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    ana.news_of(bob.public()).await;
    let his = lease(&b).token.clone();
    let body: ResumeToken = his.peek().unwrap();
    let for_eve = ResumeToken { key: eve.public(), instance: eve.instance, ..body.clone() };
    let mut changed = his.clone();
    changed.payload = Signed::new(&new_key(), domains::RESUME, &for_eve).payload;
    let mut broken = his.clone();
    broken.payload.0.truncate(7);
    let tokens = [
        ("bob's genuine one", his.clone()),
        ("bob's, its payload changed", changed),
        ("bob's, cut short", broken),
        ("signed by herself", Signed::new(&eve.key, domains::RESUME, &body)),
        ("her own words, signed by herself", Signed::new(&eve.key, domains::RESUME, &for_eve)),
        ("no token's words", Signed::new(&eve.key, domains::RESUME, &"garbage")),
        ("another kind of object", Signed::new(&eve.key, domains::HELLO, &body)),
        // What only the broker can make, still for a lease that is not hers.
        ("the broker's word", Signed::new(&world.broker_secret(), domains::RESUME, &for_eve)),
    ];
    for (what, token) in tokens {
        for encoding in BOTH {
            let resume = Some(token.clone());
            let mut e = world.connect_as(&eve, encoding, |b| b.resume = resume).await.unwrap();
            assert_eq!(ana.news_of(eve.public()).await.event, PresenceEvent::Joined, "{what}");
            assert!(!lease(&e).resumed, "{what}: she has only just come");
            let hers: ResumeToken = lease(&e).token.peek().unwrap();
            assert_eq!((hers.key, hers.lease == body.lease), (eve.public(), false), "{what}");
            e.send(meshwire_signaling::frame::Bye {}).await;
            assert_eq!(ana.news_of(eve.public()).await.event, PresenceEvent::Left, "{what}");
            e.close().await;
        }
        // Nor does a token mend a hello.
        let resume = Some(token);
        let refused = world
            .connect_as(&eve, MSGPACK, |b| {
                b.resume = resume;
                b.challenge = Hash([1; 32]);
            })
            .await
            .unwrap_err();
        assert_eq!(refused.codes(), (code::BAD_CHALLENGE, close::REFUSED), "{what}");
    }
    b.peers().await;
    assert_eq!(ana.told_of(bob.public()).await, []);

    // The same while he is away: his lease waits for him, with or without a token of his own.
    drop(b);
    noticed_lost(&mut ana, &world, bob.public(), bob.public()).await;
    let e = world.connect_as(&eve, MSGPACK, |b| b.resume = Some(his)).await.unwrap();
    assert!(!lease(&e).resumed);
    let peer = ana.peer(&world.mesh, bob.public()).await;
    let row = presence(&peer, bob.public()).unwrap();
    assert_eq!(row.attendance, Attendance::Grace);
    let forged = Signed::new(&eve.key, domains::RESUME, &body);
    let b = world.connect_as(&bob, MSGPACK, |b| b.resume = Some(forged)).await.unwrap();
    assert!(lease(&b).resumed, "his hello has proven all that counts");
    assert_eq!(ana.told_of(bob.public()).await, []);
}

#[tokio::test]
async fn t19_who_comes_back_in_time_was_never_gone() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let session = new_key();
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let (mut token, mut came) = (None, None);
    for n in 0..6 {
        // With a token, and without one: a program that was started anew has none.
        let resume = token.take().filter(|_| n % 2 == 0);
        let encoding = BOTH[n % 2];
        let mut b = world.connect_as(&bob, encoding, |b| b.resume = resume).await.unwrap();
        assert_eq!(lease(&b).resumed, n > 0);
        let attestation = bob.attest(&world.mesh, session.public());
        let bound = b.bind(&session, &attestation).await.unwrap();
        let again = matches!(bound, meshwire_signaling::frame::Frame::Bound(f) if f.resumed);
        assert_eq!(again, n > 0);
        let peer = ana.peer(&world.mesh, bob.public()).await;
        assert_eq!(peer.presences.len(), 2);
        assert!(peer.presences.iter().all(|p| p.attendance == Attendance::Online));
        let since: Vec<u64> = peer.presences.iter().map(|p| p.since).collect();
        assert_eq!(*came.get_or_insert(since.clone()), since, "it is there since then");
        token = Some(lease(&b).token.clone());
        drop(b);
        noticed_lost(&mut ana, &world, bob.public(), session.public()).await;
        let peer = ana.peer(&world.mesh, bob.public()).await;
        assert!(peer.online, "in grace it counts as there");
        assert!(peer.presences.iter().all(|p| p.attendance == Attendance::Grace));
    }
    for key in [bob.public(), session.public()] {
        assert_eq!(ana.told_of(key).await, [PresenceEvent::Joined], "once");
    }
}

#[tokio::test]
async fn another_instance_ends_a_lease_in_grace_whatever_token_it_shows() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let b = world.connect(&bob, MSGPACK).await;
    let token = lease(&b).token.clone();
    drop(b);
    noticed_lost(&mut ana, &world, bob.public(), bob.public()).await;
    let before = now();
    let elsewhere = bob.elsewhere();
    let moved = world.connect_as(&elsewhere, MSGPACK, |b| b.resume = Some(token)).await.unwrap();
    assert!(!lease(&moved).resumed);
    let told = [PresenceEvent::Joined, PresenceEvent::Left, PresenceEvent::Joined];
    assert_eq!(ana.told_of(bob.public()).await, told);
    let peer = ana.peer(&world.mesh, bob.public()).await;
    assert!(presence(&peer, bob.public()).unwrap().since >= before);
}
