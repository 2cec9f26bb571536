//! Joining and leaving: a member's own word, and nobody else's.

use meshwire_signaling::frame::{Frame, code};
use meshwire_signaling::group::{ALL, GroupAction, GroupStatement, MAX_GROUP_ROLE};
use meshwire_signaling::limits::MAX_GROUPS;
use meshwire_signaling::sign::Signed;
use meshwire_signaling::{MeshId, PublicKey};

use super::proto::{BOTH, Client, World, now};
use super::{MSGPACK, posted, refused};

/// The groups that a member is in, with its roles, as another member's client verifies them.
async fn groups(c: &mut Client, world: &World, key: PublicKey) -> Vec<(String, Option<String>)> {
    let verify = |s: &Signed| GroupStatement::verify(s, &world.mesh, &key).unwrap();
    let mut groups: Vec<_> = c
        .peer(&world.mesh, key)
        .await
        .groups
        .iter()
        .map(verify)
        .map(|s| (s.group, s.role))
        .collect();
    groups.sort();
    groups
}

fn plain(names: &[&str]) -> Vec<(String, Option<String>)> {
    names.iter().map(|n| ((*n).to_owned(), None)).collect()
}

#[tokio::test]
async fn a_members_word_is_told_listed_and_kept() {
    let mut world = World::start().await;
    let bob = world.member("bob").await;
    let mesh = world.mesh;
    for (round, encoding) in BOTH.into_iter().enumerate() {
        let mut ana = world.connect(&world.owner, encoding).await;
        let mut b = world.connect(&bob, encoding).await;
        let before = if round == 0 { plain(&[]) } else { plain(&["dev"]) };
        assert_eq!(groups(&mut ana, &world, bob.public()).await, before);
        b.state(bob.joins(&mesh, "ops/db")).await.unwrap();
        let told = ana.changed().await;
        assert_eq!(told, ana.peer(&mesh, bob.public()).await, "the whole of him");
        b.state(bob.joins(&mesh, "dev")).await.unwrap();
        assert_eq!(groups(&mut ana, &world, bob.public()).await, plain(&["dev", "ops/db"]));
        // A later word about the same group: another role, then none, then out.
        let lead = |s: &mut GroupStatement| s.role = Some("lead".into());
        b.state(bob.word(&mesh, "dev", GroupAction::Join, lead)).await.unwrap();
        let with_role = [("dev".to_owned(), Some("lead".to_owned())), ("ops/db".to_owned(), None)];
        assert_eq!(groups(&mut ana, &world, bob.public()).await, with_role);
        b.state(bob.leaves(&mesh, "ops/db")).await.unwrap();
        b.state(bob.joins(&mesh, "dev")).await.unwrap();
        assert_eq!(groups(&mut ana, &world, bob.public()).await, plain(&["dev"]));
        b.close().await;
        ana.close().await;
        world = world.again(None, |_| {}).await;
    }
}

#[tokio::test]
async fn words_of_others_stale_ones_and_bad_names_are_refused() {
    let world = World::start().await;
    let (bob, eve) = (world.member("bob").await, world.member("eve").await);
    let mesh = world.mesh;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    let mut e = world.connect(&eve, MSGPACK).await;
    let code_of = async |c: &mut Client, word: Signed| c.state(word).await.unwrap_err().code;

    // Bob's genuine word on eve's connection; hers about him, signed by herself; his name, her key.
    assert_eq!(code_of(&mut e, bob.joins(&mesh, "ops")).await, code::FORBIDDEN);
    let about_bob = |s: &mut GroupStatement| s.member = bob.public();
    let posed = eve.word(&mesh, "ops", GroupAction::Join, about_bob);
    assert_eq!(code_of(&mut e, posed.clone()).await, code::FORBIDDEN);
    assert_eq!(code_of(&mut b, posed).await, code::BAD_SIGNATURE);
    let mut changed = bob.joins(&mesh, "ops");
    changed.payload = bob.joins(&mesh, "dev").payload;
    assert_eq!(code_of(&mut b, changed).await, code::BAD_SIGNATURE);
    let elsewhere = |s: &mut GroupStatement| s.mesh = MeshId([1; 32]);
    let elsewhere = bob.word(&mesh, "ops", GroupAction::Join, elsewhere);
    assert_eq!(code_of(&mut b, elsewhere).await, code::FORBIDDEN);

    // Names and roles that are none.
    for name in ["", "Ops", "@ops", "ops/", "a//b", "o p", &"x".repeat(129), ALL] {
        assert_eq!(code_of(&mut b, bob.joins(&mesh, name)).await, code::BAD_GROUP, "{name:?}");
    }
    assert_eq!(code_of(&mut b, bob.leaves(&mesh, ALL)).await, code::BAD_GROUP);
    for role in [String::new(), "r".repeat(MAX_GROUP_ROLE + 1), "a\nb".to_owned()] {
        let word = bob.word(&mesh, "ops", GroupAction::Join, |s| s.role = Some(role.clone()));
        assert_eq!(code_of(&mut b, word).await, code::BAD_GROUP, "{role:?}");
    }

    // Not by a session, even of the same member.
    let agent = bob.agent();
    let words = bob.attest(&mesh, agent.public());
    let mut s = world.delegate(&bob, &agent, &words, |_| {}).await.unwrap();
    assert_eq!(code_of(&mut s, bob.joins(&mesh, "ops")).await, code::FORBIDDEN);
    ana.peers().await;
    assert!(!ana.waiting().iter().any(|f| matches!(f, Frame::PeerChanged(_))));
    assert_eq!(groups(&mut ana, &world, bob.public()).await, []);

    // Replayed words: the same again changes nothing, an older one is refused.
    let at = now();
    let word = |action, at| bob.word(&mesh, "ops", action, |s| s.at = at);
    let (join, leave) = (word(GroupAction::Join, at), word(GroupAction::Leave, at + 1));
    b.state(join.clone()).await.unwrap();
    b.state(join.clone()).await.unwrap();
    assert_eq!(groups(&mut ana, &world, bob.public()).await, plain(&["ops"]));
    b.state(leave.clone()).await.unwrap();
    b.state(leave).await.unwrap();
    let error = b.state(join).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.permanent), (code::STALE_STATEMENT, true));
    // Another word of the same time is none that is later.
    let same_time = word(GroupAction::Join, at + 1);
    assert_eq!(code_of(&mut b, same_time).await, code::STALE_STATEMENT);
    assert_eq!(groups(&mut ana, &world, bob.public()).await, []);
}

#[tokio::test]
async fn a_member_is_in_so_many_groups_and_no_more() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let mesh = world.mesh;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    let name = |n: usize| format!("g{n}");
    for n in 0..MAX_GROUPS {
        b.state(bob.joins(&mesh, &name(n))).await.unwrap();
    }
    let late = name(MAX_GROUPS);
    let error = b.state(bob.joins(&mesh, &late)).await.unwrap_err();
    assert_eq!(error.code, code::CAPACITY);
    // A further word about one of them is no further group; one left makes room.
    b.state(bob.word(&mesh, "g0", GroupAction::Join, |s| s.role = Some("lead".into())))
        .await
        .unwrap();
    b.state(bob.leaves(&mesh, "g1")).await.unwrap();
    b.state(bob.joins(&mesh, &late)).await.unwrap();
    assert_eq!(groups(&mut ana, &world, bob.public()).await.len(), MAX_GROUPS);
    let to_late = world.owner.post(&mesh, &late, "hello");
    posted(&mut ana, to_late.to([bob.public()])).await;
    let left = world.owner.post(&mesh, "g1", "hello");
    assert_eq!(refused(&mut ana, left.to([bob.public()])).await.code, code::UNKNOWN_TARGET);
}
