//! What identities say of themselves, hiding, and news that a busy reader has lost.

use meshwire_signaling::attest::{Capabilities, capability};
use meshwire_signaling::frame::{
    About, Attendance, Bye, Frame, PresenceEvent, Profile, Status, code,
};
use meshwire_signaling::limits::{MAX_PROFILE_PART, MAX_SUMMARY};

use super::proto::{BOTH, World, http, new_key, within};
use super::{MSGPACK, presence};

fn profile() -> Profile {
    Profile {
        avatar: Some("🦊".into()),
        title: Some("database keeper".into()),
        bio: Some("keeps databases".into()),
    }
}

#[tokio::test]
async fn what_a_member_says_of_itself_reaches_everybody_else_as_a_whole() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let agent = bob.agent();
    for encoding in BOTH {
        let mut ana = world.connect(&world.owner, encoding).await;
        let words = bob.attest(&world.mesh, agent.public());
        let mut sibling = world.delegate(&bob, &agent, &words, |_| {}).await.unwrap();
        let mut b = world.connect(&bob, encoding).await;
        b.state(bob.joins(&world.mesh, "ops/db")).await.unwrap();
        ana.changed().await;
        sibling.changed().await;
        b.say(bob.public(), |s| {
            s.status = Some(Status::Dnd);
            s.summary = Some("moves the backups".into());
            s.profile = Some(profile());
        })
        .await
        .unwrap();
        let all = About {
            status: Status::Dnd,
            summary: Some("moves the backups".into()),
            profile: Some(profile()),
        };
        for hearer in [&mut ana, &mut sibling] {
            let peer = hearer.changed().await;
            assert_eq!(peer.chain.verify(&world.mesh).unwrap().key, bob.public());
            assert_eq!((&peer.about, peer.online, peer.hidden), (&all, true, false));
            let row = presence(&peer, bob.public()).unwrap();
            assert_eq!(row.attendance, Attendance::Online);
            assert!(presence(&peer, agent.public()).is_some());
            assert_eq!(peer.groups.len(), 1);
            assert_eq!(hearer.peer(&world.mesh, bob.public()).await, peer, "as the list has it");
        }
        // What is absent stays; what is empty goes.
        b.say(bob.public(), |s| s.status = Some(Status::Idle)).await.unwrap();
        let peer = ana.changed().await;
        assert_eq!(peer.about, About { status: Status::Idle, ..all });
        b.say(bob.public(), |s| {
            s.summary = Some(String::new());
            s.profile = Some(Profile::default());
        })
        .await
        .unwrap();
        assert_eq!(ana.changed().await.about, About::default());
        b.peers().await;
        assert!(!b.waiting().iter().any(|f| matches!(f, Frame::PeerChanged(_))), "he knows");
        b.state(bob.leaves(&world.mesh, "ops/db")).await.unwrap();
        for mut client in [ana, sibling, b] {
            client.send(Bye {}).await;
            client.close().await;
        }
    }
}

#[tokio::test]
async fn what_is_too_long_or_not_ones_own_is_refused_and_changes_nothing() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let (free, quiet) = (new_key(), new_key());
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    b.bind(&free, &bob.attest(&world.mesh, free.public())).await.unwrap();
    let words = bob.vouch(&world.mesh, quiet.public(), |a| {
        let all_but = [capability::DM, capability::GROUP, capability::INBOX];
        a.capabilities = Capabilities::List(all_but.map(str::to_owned).to_vec());
    });
    b.bind(&quiet, &words).await.unwrap();

    let long = |n: usize| "ü".repeat(n);
    let refused = b.say(bob.public(), |s| s.summary = Some(long(MAX_SUMMARY + 1))).await;
    assert_eq!(refused.unwrap_err().code, code::TOO_LARGE);
    for part in 0..3 {
        let refused = b.say(bob.public(), |s| {
            let mut parts = [None, None, None];
            parts[part] = Some(long(MAX_PROFILE_PART + 1));
            let [avatar, title, bio] = parts;
            s.profile = Some(Profile { avatar, title, bio });
            s.status = Some(Status::Dnd);
        });
        assert_eq!(refused.await.unwrap_err().code, code::TOO_LARGE, "part {part}");
    }
    // Another member's key, a session's that nobody has bound, somebody's own from elsewhere.
    for key in [world.owner.public(), new_key().public()] {
        let refused = b.say(key, |s| s.status = Some(Status::Dnd)).await.unwrap_err();
        assert_eq!((refused.code.as_str(), refused.permanent), (code::NOT_YOURS, true));
    }
    let refused = ana.say(free.public(), |s| s.status = Some(Status::Dnd)).await;
    assert_eq!(refused.unwrap_err().code, code::NOT_YOURS);
    // A session that may not, and what only members may.
    let refused = b.say(quiet.public(), |s| s.status = Some(Status::Dnd)).await;
    assert_eq!(refused.unwrap_err().code, code::FORBIDDEN);
    let refused = b.say(free.public(), |s| s.visible = Some(false)).await;
    assert_eq!(refused.unwrap_err().code, code::FORBIDDEN);
    ana.peers().await;
    assert!(!ana.waiting().iter().any(|f| matches!(f, Frame::PeerChanged(_))));
    let peer = ana.peer(&world.mesh, bob.public()).await;
    assert_eq!(peer.about, About::default());
    assert!(peer.presences.iter().all(|p| p.about == About::default()));

    // As long as may be.
    b.say(bob.public(), |s| {
        let part = || Some(long(MAX_PROFILE_PART));
        s.summary = Some(long(MAX_SUMMARY));
        s.profile = Some(Profile { avatar: part(), title: part(), bio: part() });
    })
    .await
    .unwrap();
    assert_eq!(ana.changed().await.about.summary, Some(long(MAX_SUMMARY)));
    // A session that may speaks of itself, not of its member.
    b.say(free.public(), |s| s.status = Some(Status::Working)).await.unwrap();
    let peer = ana.changed().await;
    assert_eq!(presence(&peer, free.public()).unwrap().about.status, Status::Working);
    assert_eq!(peer.about.status, Status::Idle);
}

#[tokio::test]
async fn a_members_words_survive_restarts_and_a_sessions_end_with_it() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let session = new_key();
    let attestation = bob.attest(&world.mesh, session.public());
    let mut b = world.connect(&bob, MSGPACK).await;
    b.bind(&session, &attestation).await.unwrap();
    b.say(session.public(), |s| s.summary = Some("its own".into())).await.unwrap();
    b.say(bob.public(), |s| {
        s.summary = Some("moves the backups".into());
        s.profile = Some(profile());
    })
    .await
    .unwrap();
    b.unbind(session.public()).await.unwrap();
    // A new life needs a new word.
    b.bind(&session, &bob.attest(&world.mesh, session.public())).await.unwrap();
    let peer = b.peer(&world.mesh, bob.public()).await;
    assert_eq!(presence(&peer, session.public()).unwrap().about, About::default(), "a new life");
    b.send(Bye {}).await;
    b.close().await;

    let world = world.again(None, |_| {}).await;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let peer = ana.peer(&world.mesh, bob.public()).await;
    assert!(!peer.online, "and while he is away");
    assert_eq!(peer.about.summary.as_deref(), Some("moves the backups"));
    assert_eq!(peer.about.profile, Some(profile()));
    let mut b = world.connect(&bob, MSGPACK).await;
    // A part changes, the rest is still there.
    b.say(bob.public(), |s| s.status = Some(Status::Working)).await.unwrap();
    let peer = ana.changed().await;
    let about = (peer.about.status, peer.about.summary.as_deref());
    assert_eq!(about, (Status::Working, Some("moves the backups")));
}

#[tokio::test]
async fn who_hides_is_not_listed_and_makes_no_news_but_gets_mail() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let (agent, bound) = (bob.agent(), new_key());
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let words = bob.attest(&world.mesh, agent.public());
    let mut sibling = world.delegate(&bob, &agent, &words, |_| {}).await.unwrap();
    let mut b = world.connect(&bob, MSGPACK).await;
    b.say(bob.public(), |s| s.summary = Some("a secret".into())).await.unwrap();
    ana.changed().await;
    b.say(bob.public(), |s| s.visible = Some(false)).await.unwrap();
    let peer = ana.changed().await;
    assert!(peer.hidden);
    let mut world = world;
    for round in 0..2 {
        // From now on: also after a restart of the broker.
        if round == 1 {
            world = world.again(None, |_| {}).await;
            ana = world.connect(&world.owner, MSGPACK).await;
            sibling = world.delegate(&bob, &agent, &words, |_| {}).await.unwrap();
            b = world.connect(&bob, MSGPACK).await;
        }
        for peer in [peer.clone(), ana.peer(&world.mesh, bob.public()).await] {
            assert!(peer.hidden && !peer.online && peer.since.is_none());
            assert_eq!((peer.about, peer.presences.len()), (About::default(), 0));
        }
        let own = b.peer(&world.mesh, bob.public()).await;
        assert!(own.hidden && own.online, "he sees himself");
        assert_eq!((own.about.summary.as_deref(), own.presences.len()), (Some("a secret"), 2));

        // Coming and going: his own alone hear of it.
        ana.forget();
        b.bind(&bound, &bob.attest(&world.mesh, bound.public())).await.unwrap();
        assert_eq!(sibling.news_of(bound.public()).await.event, PresenceEvent::Joined);
        b.say(bob.public(), |s| s.status = Some(Status::Working)).await.unwrap();
        b.say(bound.public(), |s| s.status = Some(Status::Dnd)).await.unwrap();
        b.send(Bye {}).await;
        assert_eq!(sibling.news_of(bound.public()).await.event, PresenceEvent::Left);
        b.close().await;
        b = world.connect(&bob, MSGPACK).await;
        ana.peers().await;
        let news = |f: &Frame| matches!(f, Frame::Presence(_) | Frame::PeerChanged(_));
        assert!(!ana.waiting().iter().any(news), "{:?}", ana.waiting());

        let (_, mail) = world.owner.letter(&world.mesh, bob.public(), 1, "psst", |h| {
            h.priority = meshwire_signaling::Priority::Now;
        });
        ana.hand(mail).await.unwrap();
        let m = b.message().await;
        assert_eq!(bob.open(&m.envelope), "psst");
        b.ack(&world.mesh, &bob, &m).await;
        ana.receipt().await;
    }
    b.say(bob.public(), |s| s.visible = Some(true)).await.unwrap();
    let peer = ana.changed().await;
    assert!(!peer.hidden && peer.online);
    assert_eq!(peer.about.summary.as_deref(), Some("a secret"));
    assert!(presence(&peer, bob.public()).is_some() && presence(&peer, agent.public()).is_some());
    b.send(Bye {}).await;
    assert_eq!(ana.news_of(bob.public()).await.event, PresenceEvent::Left);
}

/// News that the broker could not hand to connections that were busy.
async fn lost_news(world: &World) -> u64 {
    let page = http::get(world.broker.addr(), "/metrics").await.body;
    let line = page.lines().find(|l| !l.starts_with('#') && l.contains("news_dropped")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_lost_news_is_told_to_ask_again() {
    let world = World::with(|c| {
        c.policy.rate = 1_000_000;
        c.policy.news = 1_000_000;
    })
    .await;
    let bob = world.member("bob").await;
    let session = new_key();
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    b.bind(&session, &bob.attest(&world.mesh, session.public())).await.unwrap();
    ana.drained().await;
    // Ana reads nothing now. Large news fill her socket, then her queue, which holds 256.
    let part = || Some("ü".repeat(MAX_PROFILE_PART));
    let large = Profile { avatar: part(), title: part(), bio: part() };
    let mut said = 0;
    within("lost news", async {
        while lost_news(&world).await == 0 {
            for _ in 0..100 {
                said += 1;
                b.say(session.public(), |s| {
                    s.summary = Some(said.to_string());
                    s.profile = Some(large.clone());
                })
                .await
                .unwrap();
            }
        }
    })
    .await;
    assert!(said > 256, "what fits is not lost");
    // She reads again.
    let mut seen = 0;
    loop {
        match ana.next().await.unwrap() {
            Frame::PeerChanged(_) => seen += 1,
            Frame::Resync(_) => break,
            _ => {}
        }
    }
    assert!(seen < said, "{seen} of {said}");
    let peer = ana.peer(&world.mesh, bob.public()).await;
    let row = presence(&peer, session.public()).unwrap();
    assert_eq!(row.about.summary, Some(said.to_string()), "the list has the last word");
    // And goes on to hear of what happens.
    ana.forget();
    b.say(session.public(), |s| s.summary = Some("and on".into())).await.unwrap();
    let last = ana.changed().await;
    assert_eq!(presence(&last, session.public()).unwrap().about.summary.as_deref(), Some("and on"));
}
