//! Who gets a group send, and what becomes of each copy.

use meshwire_signaling::attest::{Attestation, Capabilities, capability};
use meshwire_signaling::envelope::{Durability, Suite};
use meshwire_signaling::frame::{ClientNack, Frame, MessageState, ReceiptAck, ReceiptFrame, code};
use meshwire_signaling::group::ALL;
use meshwire_signaling::receipt::{Verdict, reason};
use meshwire_signaling::{Channel, Target};

use super::proto::{BOTH, Client, Member, World};
use super::{MSGPACK, changed, joins, posted, refused, sorted};

/// The next message is `text`, for `me`, with `me`'s own wrap; acks it.
async fn gets(client: &mut Client, world: &World, me: &Member, text: &str) {
    let m = client.message().await;
    assert_eq!(m.to, me.public());
    assert_eq!(me.open_post(&m.envelope), text);
    client.ack(&world.mesh, me, &m).await;
}

/// Nothing has come for this client but what it was asked about.
async fn nothing(client: &mut Client) {
    client.peers().await;
    assert!(!client.waiting().iter().any(|f| matches!(f, Frame::Message(_))));
}

#[tokio::test]
async fn defect_1_who_is_offline_gets_its_own_copy_of_a_group_send() {
    let world = World::start().await;
    let (bob, carol) = (world.member("bob").await, world.member("carol").await);
    for member in [&bob, &carol] {
        joins(&world, member, &["ops"]).await;
    }
    let recipients = [bob.public(), carol.public()];
    for encoding in BOTH {
        let mut ana = world.connect(&world.owner, encoding).await;
        let mut b = world.connect(&bob, encoding).await;
        let mut ids = Vec::new();
        for (group, text) in [("ops", "to ops"), (ALL, "to all")] {
            let post = world.owner.post(&world.mesh, group, text);
            let accepted = posted(&mut ana, post.to(recipients)).await;
            assert_eq!((accepted.id, accepted.duplicate), (post.id, false));
            assert_eq!((accepted.state, accepted.full), (MessageState::Relayed, vec![]));
            gets(&mut b, &world, &bob, text).await;
            let receipt = ana.receipt_of(post.id, bob.public()).await;
            assert!(world.owner.believes(&world.mesh, post.bare(), &receipt.receipt));
            ids.push((text, post.id));
        }
        // Carol was away.
        let mut c = world.connect(&carol, encoding).await;
        for (text, id) in ids {
            gets(&mut c, &world, &carol, text).await;
            ana.receipt_of(id, carol.public()).await;
        }
        c.drained().await;
        nothing(&mut b).await;
        for client in [ana, b, c] {
            client.close().await;
        }
    }
}

#[tokio::test]
async fn defect_16_an_ack_ends_ones_own_delivery_and_nobody_elses() {
    let world = World::start().await;
    let (bob, carol, dan) =
        (world.member("bob").await, world.member("carol").await, world.member("dan").await);
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    let all = [bob.public(), carol.public(), dan.public()];
    let post = world.owner.post(&world.mesh, ALL, "to everybody");
    let envelope = post.to(all);
    posted(&mut ana, envelope.clone()).await;
    let again = async |ana: &mut Client, envelope| {
        let accepted = posted(ana, envelope).await;
        assert!(accepted.duplicate);
        accepted.state
    };
    // Bob acks, more than once, and for others.
    let m = b.message().await;
    for _ in 0..3 {
        b.ack(&world.mesh, &bob, &m).await;
    }
    let author = world.owner.public();
    let (from, id) = (author, post.id);
    for other in [&carol, &dan] {
        let receipt = bob.receipt(&world.mesh, author, &m.envelope, Verdict::Delivered, None);
        let by = other.public();
        let receipt = meshwire_signaling::receipt::Receipt { by, ..receipt };
        b.send(meshwire_signaling::frame::ClientAck { from, id, receipt }).await;
        assert_eq!(b.error().await.code, code::NOT_YOURS);
    }
    assert_eq!(ana.receipt().await.receipt.by, bob.public());
    assert_eq!(again(&mut ana, envelope.clone()).await, MessageState::Relayed);
    // Carol still gets it, after a restart of the broker as well, and refuses it.
    let world = world.again(None, |_| {}).await;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let mut c = world.connect(&carol, MSGPACK).await;
    let m = c.message().await;
    assert_eq!(carol.open_post(&m.envelope), "to everybody");
    let word = Some(reason::BLOCKED);
    let receipt = carol.receipt(&world.mesh, author, &m.envelope, Verdict::Refused, word);
    let (by, reason, receipt) = (carol.public(), reason::BLOCKED.to_owned(), Some(receipt));
    c.send(ClientNack { from, id, by, reason, permanent: true, receipt }).await;
    let theirs = [ana.receipt().await, ana.receipt().await];
    let by = sorted(theirs.iter().map(|r| r.receipt.by).collect());
    assert_eq!(by, sorted(vec![bob.public(), carol.public()]), "his comes again, hers for once");
    assert_eq!(again(&mut ana, envelope.clone()).await, MessageState::Relayed);
    // And dan, whose ack makes it complete. One refused: so the whole is failed.
    let mut d = world.connect(&dan, MSGPACK).await;
    gets(&mut d, &world, &dan, "to everybody").await;
    let receipt = ana.receipt().await;
    assert_eq!(receipt.receipt.by, dan.public());
    assert!(world.owner.believes(&world.mesh, post.bare(), &receipt.receipt));
    assert_eq!(again(&mut ana, envelope).await, MessageState::Failed);
    // Each receipt is confirmed by itself.
    for by in [bob.public(), dan.public()] {
        ana.send(ReceiptAck { from, id, by }).await;
    }
    let (_, marker) = world.owner.letter(&world.mesh, bob.public(), 1, "marker", |_| {});
    ana.hand(marker).await.unwrap();
    ana.close().await;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let r: ReceiptFrame = ana.receipt().await;
    assert_eq!((r.receipt.by, r.receipt.verdict), (carol.public(), Verdict::Refused));
    ana.drained().await;
    assert!(!ana.waiting().iter().any(|f| matches!(f, Frame::Receipt(_))));
}

#[tokio::test]
async fn defect_4_who_is_in_a_group_below_is_reached_connected_or_not() {
    let world = World::start().await;
    let mut people = Vec::new();
    // Each below the one before; beside them what only begins with the same letters.
    for (name, groups) in [
        ("bob", &["ops"][..]),
        ("carol", &["ops/db"]),
        ("dan", &["ops/db/backup"]),
        ("eve", &["opsen", "dev/ops", "ops-db", "ops.db"]),
        ("fay", &["ops/db", "ops/web", "ops"]),
    ] {
        let member = world.member(name).await;
        joins(&world, &member, groups).await;
        people.push(member);
    }
    let [bob, carol, dan, eve, fay] = <[Member; 5]>::try_from(people).ok().unwrap();
    let reached: [(&str, &[&Member]); 6] = [
        ("ops", &[&bob, &carol, &dan, &fay]),
        ("ops/db", &[&carol, &dan, &fay]),
        ("ops/db/backup", &[&dan]),
        ("ops/web", &[&fay]),
        ("opsen", &[&eve]),
        ("dev", &[&eve]),
    ];
    for connected in [true, false] {
        let mut ana = world.connect(&world.owner, MSGPACK).await;
        let mut live = Vec::new();
        for member in [&bob, &carol, &dan, &eve, &fay] {
            if connected {
                live.push((member, world.connect(member, MSGPACK).await));
            }
        }
        let mut ids = Vec::new();
        for (group, members) in reached {
            let keys = || members.iter().map(|m| m.public());
            let post = world.owner.post(&world.mesh, group, group);
            ids.push(post.id);
            // With nobody's wraps the broker names exactly those; with everybody's, the others.
            let c = changed(&mut ana, post.to([])).await;
            assert_eq!((c.id, c.missing), (post.id, sorted(keys().collect())), "{group}");
            assert_eq!(posted(&mut ana, post.to(keys())).await.full, [], "{group}");
        }
        if !connected {
            for member in [&bob, &carol, &dan, &eve, &fay] {
                live.push((member, world.connect(member, MSGPACK).await));
            }
        }
        for (member, client) in &mut live {
            for ((group, members), id) in reached.iter().zip(&ids) {
                if members.iter().any(|m| m.public() == member.public()) {
                    gets(client, &world, member, group).await;
                    ana.receipt_of(*id, member.public()).await;
                }
            }
            nothing(client).await;
        }
        for (_, client) in live {
            client.close().await;
        }
        ana.close().await;
    }
}

#[tokio::test]
async fn the_senders_member_and_who_hides_are_no_recipients() {
    let world = World::start().await;
    let (bob, carol) = (world.member("bob").await, world.member("carol").await);
    let mesh = world.mesh;
    for member in [&bob, &carol, &world.owner] {
        joins(&world, member, &["ops"]).await;
    }
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let mut c = world.connect(&carol, MSGPACK).await;
    c.say(carol.public(), |s| s.visible = Some(false)).await.unwrap();
    for group in ["ops", ALL] {
        let post = world.owner.post(&mesh, group, "hello");
        let whole = changed(&mut ana, post.to([bob.public(), carol.public()])).await;
        assert_eq!((whole.missing, whole.gone), (vec![], vec![carol.public()]), "{group}");
        let own = post.to([bob.public(), world.owner.public()]);
        assert_eq!(refused(&mut ana, own).await.code, code::BAD_ENVELOPE, "{group}");
        posted(&mut ana, post.to([bob.public()])).await;
        // Who hides may write; it is in the group no less for that.
        let hers = carol.post(&mesh, group, "from nowhere");
        posted(&mut c, hers.to([bob.public(), world.owner.public()])).await;
    }
    nothing(&mut c).await;
    // Her session's sends leave her member out too, not her as a recipient.
    let agent = bob.agent();
    let words = bob.attest(&mesh, agent.public());
    let mut s = world.delegate(&bob, &agent, &words, |_| {}).await.unwrap();
    let post = agent.post(&mesh, "ops", "by his session");
    let both = post.to([bob.public(), world.owner.public()]);
    assert_eq!(refused(&mut s, both).await.code, code::BAD_ENVELOPE);
    posted(&mut s, post.to([world.owner.public()])).await;
    let m = ana.find(|f| match f {
        Frame::Message(m) if m.envelope.header().unwrap().from.key == agent.public() => {
            Some(m.clone())
        }
        _ => None,
    });
    let m = m.await;
    assert_eq!(world.owner.open_post(&m.envelope), "by his session");
    let shown = m.envelope.proof.unwrap().attestation.unwrap();
    let sent_at = post.bare().header().unwrap().sent_at;
    Attestation::verify(&shown, &mesh, &bob.public(), sent_at).unwrap();
    // One that may only write to members may not write to groups.
    let words = bob.vouch(&mesh, agent.public(), |a| {
        a.capabilities = Capabilities::List(vec![capability::DM.to_owned()]);
    });
    let mut s = world.delegate(&bob, &agent, &words, |_| {}).await.unwrap();
    let post = agent.post(&mesh, "ops", "by his session");
    let error = refused(&mut s, post.to([world.owner.public()])).await;
    assert_eq!(error.code, code::FORBIDDEN);
    // Visible again, she is a recipient again.
    c.say(carol.public(), |s| s.visible = Some(true)).await.unwrap();
    let post = world.owner.post(&mesh, "ops", "welcome back");
    posted(&mut ana, post.to([bob.public(), carol.public()])).await;
    gets(&mut c, &world, &carol, "welcome back").await;
}

#[tokio::test]
async fn a_send_is_completed_with_the_same_envelope_and_counts_once() {
    let world = World::start().await;
    let (bob, carol, dan) =
        (world.member("bob").await, world.member("carol").await, world.member("dan").await);
    let mesh = world.mesh;
    joins(&world, &bob, &["ops"]).await;
    for encoding in BOTH {
        let mut ana = world.connect(&world.owner, encoding).await;
        let post = world.owner.post(&mesh, "ops", "to whom it concerns");
        // Written for bob; before it is sent carol and dan come, and bob leaves.
        for member in [&carol, &dan] {
            joins(&world, member, &["ops"]).await;
        }
        let mut b = world.connect(&bob, encoding).await;
        b.state(bob.leaves(&mesh, "ops")).await.unwrap();
        let c = changed(&mut ana, post.to([bob.public()])).await;
        assert_eq!(c.id, post.id);
        assert_eq!(c.missing, sorted(vec![carol.public(), dan.public()]));
        assert_eq!(c.gone, [bob.public()]);
        nothing(&mut b).await;
        // Completed for those; meanwhile dan leaves again.
        let mut d = world.connect(&dan, encoding).await;
        d.state(dan.leaves(&mesh, "ops")).await.unwrap();
        let c = changed(&mut ana, post.to([carol.public(), dan.public()])).await;
        assert_eq!((c.missing, c.gone), (vec![], vec![dan.public()]));
        let whole = post.to([carol.public()]);
        assert_eq!(whole.hash(&mesh), post.hash(&mesh), "wraps lie outside of it");
        assert!(!posted(&mut ana, whole.clone()).await.duplicate);
        // Sent again, it is the same one: whatever its wraps, and whoever is in the group by now.
        assert!(posted(&mut ana, whole).await.duplicate);
        b.state(bob.joins(&mesh, "ops")).await.unwrap();
        for wraps in [vec![], vec![bob.public()], vec![bob.public(), carol.public()]] {
            let again = posted(&mut ana, post.to(wraps)).await;
            assert_eq!((again.duplicate, again.state), (true, MessageState::Relayed));
        }
        let mut c = world.connect(&carol, encoding).await;
        let m = c.message().await;
        assert_eq!(m.envelope.hash(&mesh), post.hash(&mesh));
        assert_eq!(carol.open_post(&m.envelope), "to whom it concerns");
        c.ack(&mesh, &carol, &m).await;
        assert_eq!(ana.receipt().await.receipt.by, carol.public());
        assert_eq!(posted(&mut ana, post.to([])).await.state, MessageState::Delivered);
        c.drained().await;
        for client in [&mut b, &mut c, &mut d] {
            nothing(client).await;
        }
        c.state(carol.leaves(&mesh, "ops")).await.unwrap();
        // Another message under the same name is none.
        let header = post.bare().header().unwrap();
        let other = world.owner.post_as(&mesh, "ops", "another", |h| h.id = header.id);
        assert_eq!(refused(&mut ana, other.to([bob.public()])).await.code, code::CONFLICT);
        for client in [ana, b, c, d] {
            client.close().await;
        }
    }
}

#[tokio::test]
async fn sends_of_the_wrong_shape_are_refused_with_their_code() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let mesh = world.mesh;
    joins(&world, &bob, &["ops"]).await;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let me = &world.owner;
    let to_bob = |post: super::proto::Post| post.to([bob.public()]);

    let live = me.post_as(&mesh, "ops", "x", |h| h.durability = Durability::Live);
    assert_eq!(refused(&mut ana, to_bob(live)).await.code, code::UNSUPPORTED);
    for group in ["Ops", "", "ops/", "@ops"] {
        let error = refused(&mut ana, to_bob(me.post(&mesh, group, "x"))).await;
        assert_eq!(error.code, code::BAD_GROUP, "{group:?}");
    }
    let nobody = refused(&mut ana, to_bob(me.post(&mesh, "nobody/here", "x"))).await;
    assert_eq!((nobody.code.as_str(), nobody.permanent), (code::UNKNOWN_TARGET, true));
    let boxed = me.post_as(&mesh, "ops", "x", |h| h.suite = Suite::Box);
    assert_eq!(refused(&mut ana, to_bob(boxed)).await.code, code::BAD_ENVELOPE);
    let short = me.post_as(&mesh, "ops", "x", |h| h.key_id.0.truncate(8));
    assert_eq!(refused(&mut ana, to_bob(short)).await.code, code::BAD_ENVELOPE);
    let as_dm = me.post_as(&mesh, "ops", "x", |h| h.channel = Channel::Dm);
    assert_eq!(refused(&mut ana, to_bob(as_dm)).await.code, code::BAD_ENVELOPE);

    let post = me.post(&mesh, "ops", "x");
    let twice = post.to([bob.public(), bob.public()]);
    assert_eq!(refused(&mut ana, twice).await.code, code::BAD_ENVELOPE);
    for len in [0, 71, 73] {
        let mut odd = post.to([bob.public()]);
        odd.wraps[0].key.0.resize(len, 7);
        assert_eq!(refused(&mut ana, odd).await.code, code::BAD_ENVELOPE, "{len}");
    }
    let (_, mut letter) = me.letter(&mesh, bob.public(), 1, "x", |_| {});
    letter.wraps.push(post.wrap(bob.public()));
    assert_eq!(refused(&mut ana, letter).await.code, code::UNSUPPORTED);
    let to_key = me.post_as(&mesh, "ops", "x", |h| h.target = Target::Member { key: bob.public() });
    assert_eq!(refused(&mut ana, to_bob(to_key)).await.code, code::BAD_ENVELOPE);
    // None of them has left anything behind.
    posted(&mut ana, to_bob(post)).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    gets(&mut b, &world, &bob, "x").await;
    b.drained().await;
    nothing(&mut b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_full_mailbox_is_named_and_the_others_get_theirs() {
    // By one author.
    const FULL: u64 = 2_000;
    let world = World::with(|c| c.policy.rate = 1_000_000).await;
    let (bob, carol) = (world.member("bob").await, world.member("carol").await);
    let mesh = world.mesh;
    joins(&world, &bob, &["ops", "bobs"]).await;
    joins(&world, &carol, &["ops"]).await;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    // In flights, so that the broker commits many at once.
    for flight in 0..FULL / 200 {
        for n in 0..200 {
            let seq = flight * 200 + n;
            let (_, envelope) = world.owner.letter(&mesh, bob.public(), seq + 1, "x", |_| {});
            ana.send(meshwire_signaling::frame::Send { req: seq, envelope, batch: None }).await;
        }
        for n in 0..200 {
            let accepted = ana.answer(flight * 200 + n).await.unwrap();
            assert!(matches!(accepted, Frame::Accepted(_)));
        }
    }
    let post = world.owner.post(&mesh, "ops", "to both");
    let accepted = posted(&mut ana, post.to([bob.public(), carol.public()])).await;
    assert_eq!((accepted.full, accepted.duplicate), (vec![bob.public()], false));
    let only = world.owner.post(&mesh, "bobs", "to bob alone");
    let error = refused(&mut ana, only.to([bob.public()])).await;
    assert_eq!((error.code.as_str(), error.permanent), (code::QUEUE_FULL, false));
    let mut c = world.connect(&carol, MSGPACK).await;
    gets(&mut c, &world, &carol, "to both").await;
    assert_eq!(ana.receipt().await.receipt.by, carol.public());
    // An author whose share is not used up still reaches him.
    let hers = carol.post(&mesh, "ops", "from carol");
    assert_eq!(posted(&mut c, hers.to([bob.public()])).await.full, []);
    // Room again: what was refused as a whole can be sent again.
    let mut b = world.connect(&bob, MSGPACK).await;
    let m = b.message().await;
    b.ack(&mesh, &bob, &m).await;
    ana.receipt().await;
    assert!(!posted(&mut ana, only.to([bob.public()])).await.duplicate);
}
