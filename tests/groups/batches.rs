//! Sends whose wraps do not fit one frame.

use meshwire_signaling::frame::{Batch, Frame, code};
use meshwire_signaling::group::ALL;
use meshwire_signaling::{Envelope, PublicKey};

use super::proto::{BOTH, Client, Member, Post, World};
use super::{MSGPACK, sorted};

fn batch(index: u32, last: bool) -> Option<Batch> {
    Some(Batch { index, last })
}

/// The answer's code, or what kind of frame it is.
async fn answer(client: &mut Client, envelope: Envelope, batch: Option<Batch>) -> String {
    match client.post(envelope, batch).await {
        Ok(frame) => frame.kind().to_owned(),
        Err(error) => error.code,
    }
}

/// A post to everybody, who are four.
async fn setting() -> (World, [Member; 4], Post) {
    let world = World::start().await;
    let mut members = Vec::new();
    for name in ["bob", "carol", "dan", "eve"] {
        members.push(world.member(name).await);
    }
    let post = world.owner.post(&world.mesh, ALL, "in pieces");
    (world, <[Member; 4]>::try_from(members).ok().unwrap(), post)
}

fn keys(members: &[Member]) -> Vec<PublicKey> {
    members.iter().map(Member::public).collect()
}

#[tokio::test]
async fn nothing_counts_before_the_last_batch() {
    let (world, members, _) = setting().await;
    for encoding in BOTH {
        let mut ana = world.connect(&world.owner, encoding).await;
        let mut b = world.connect(&members[0], encoding).await;
        let post = world.owner.post(&world.mesh, ALL, "in pieces");
        for (n, key) in keys(&members[..3]).into_iter().enumerate() {
            let batch = batch(u32::try_from(n).unwrap(), false);
            assert_eq!(answer(&mut ana, post.to([key]), batch).await, "ok");
        }
        b.drained().await;
        b.peers().await;
        assert!(!b.waiting().iter().any(|f| matches!(f, Frame::Message(_))));
        // One is missing; all come again, with the same envelope.
        let Ok(Frame::RecipientsChanged(changed)) = ana.post(post.to([]), batch(3, true)).await
        else {
            panic!("one is missing");
        };
        assert_eq!((changed.missing, changed.gone), (vec![members[3].public()], vec![]));
        let halves = (post.to(keys(&members[..2])), post.to(keys(&members[2..])));
        assert_eq!(answer(&mut ana, halves.0.clone(), batch(0, false)).await, "ok");
        assert_eq!(answer(&mut ana, halves.1.clone(), batch(1, true)).await, "accepted");
        let m = b.message().await;
        assert_eq!(members[0].open_post(&m.envelope), "in pieces");
        b.ack(&world.mesh, &members[0], &m).await;
        assert_eq!(ana.receipt().await.receipt.by, members[0].public());
        // All of them a second time: it is there already.
        assert_eq!(answer(&mut ana, halves.0, batch(0, false)).await, "ok");
        let Ok(Frame::Accepted(again)) = ana.post(halves.1, batch(1, true)).await else {
            panic!("accepted before");
        };
        assert!(again.duplicate);
        ana.close().await;
        b.close().await;
    }
}

#[tokio::test]
async fn batches_that_do_not_fit_end_their_send() {
    let (world, members, post) = setting().await;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let [bob, carol, dan, eve] = &members;
    let piece = |m: &Member| post.to([m.public()]);
    let bad = code::BAD_BATCH;
    // Without a beginning, with a gap, twice, out of order.
    assert_eq!(answer(&mut ana, piece(bob), batch(1, true)).await, bad);
    for next in [2, 0xffff_ffff] {
        assert_eq!(answer(&mut ana, piece(bob), batch(0, false)).await, "ok");
        assert_eq!(answer(&mut ana, piece(carol), batch(next, false)).await, bad);
        assert_eq!(answer(&mut ana, piece(carol), batch(1, false)).await, bad, "it has ended");
    }
    assert_eq!(answer(&mut ana, piece(bob), batch(0, false)).await, "ok");
    assert_eq!(answer(&mut ana, piece(carol), batch(1, false)).await, "ok");
    assert_eq!(answer(&mut ana, piece(carol), batch(1, false)).await, bad);
    // Another envelope under the same name: body, header, signature.
    let header = post.bare().header().unwrap();
    let mut body = piece(carol);
    body.body.0[0] ^= 1;
    let mut sig = piece(carol);
    sig.sig.0[0] ^= 1;
    let other = world.owner.post_as(&world.mesh, ALL, "another", |h| h.id = header.id);
    for twisted in [body, sig, other.to([carol.public()])] {
        assert_eq!(answer(&mut ana, piece(bob), batch(0, false)).await, "ok");
        assert_eq!(answer(&mut ana, twisted, batch(1, true)).await, bad);
    }
    // Not on another socket, nor after one's own has ended.
    assert_eq!(answer(&mut ana, piece(bob), batch(0, false)).await, "ok");
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    assert_eq!(answer(&mut ana, post.to(keys(&members[1..])), batch(1, true)).await, bad);
    // Four may be unfinished: a fifth ends the oldest.
    let posts: Vec<Post> =
        (0..5).map(|n| world.owner.post(&world.mesh, ALL, &n.to_string())).collect();
    for p in &posts {
        assert_eq!(answer(&mut ana, p.to([bob.public()]), batch(0, false)).await, "ok");
    }
    for (n, p) in posts.iter().enumerate() {
        let rest = p.to([carol, dan, eve].map(Member::public));
        let expected = if n == 0 { bad } else { "accepted" };
        assert_eq!(answer(&mut ana, rest, batch(1, true)).await, expected, "{n}");
    }
    // A recipient in two batches has two wraps.
    assert_eq!(answer(&mut ana, piece(bob), batch(0, false)).await, "ok");
    let again = post.to(keys(&members));
    assert_eq!(answer(&mut ana, again, batch(1, true)).await, code::BAD_ENVELOPE);
    // After all that the send itself is still good.
    let whole = post.to(keys(&members));
    assert_eq!(answer(&mut ana, whole, batch(0, true)).await, "accepted");
}

#[tokio::test]
async fn a_batch_and_a_send_are_bounded() {
    let (world, members, post) = setting().await;
    let mut ana = world.connect(&world.owner, MSGPACK).await;
    let one = post.wrap(members[0].public());
    // Not for real keys: nobody looks at them before the send is whole.
    let wraps = |from: u32, n: u32| {
        let wrap = |n: u32| {
            let mut to = [0; 32];
            to[..4].copy_from_slice(&n.to_be_bytes());
            meshwire_signaling::seal::Wrap { to: PublicKey(to), key: one.key.clone() }
        };
        Envelope { wraps: (from..from + n).map(wrap).collect(), ..post.bare().clone() }
    };
    let code = answer(&mut ana, wraps(0, 501), None).await;
    assert_eq!(code, code::TOO_LARGE);
    assert_eq!(answer(&mut ana, wraps(0, 501), batch(0, false)).await, code::TOO_LARGE);
    for index in 0..20 {
        assert_eq!(answer(&mut ana, wraps(index * 500, 500), batch(index, false)).await, "ok");
    }
    assert_eq!(answer(&mut ana, wraps(10_000, 1), batch(20, true)).await, code::TOO_LARGE);
    // As many as there may be are compared: nobody is in the group but four.
    for index in 0..19 {
        assert_eq!(answer(&mut ana, wraps(index * 500, 500), batch(index, false)).await, "ok");
    }
    let Ok(Frame::RecipientsChanged(c)) = ana.post(wraps(9_500, 500), batch(19, true)).await else {
        panic!("they are strangers");
    };
    assert_eq!(sorted(c.missing), sorted(keys(&members)));
    assert_eq!(c.gone.len(), 1_000, "as many as one answer has room for");
    ana.peers().await;
}
