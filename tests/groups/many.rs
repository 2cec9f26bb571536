//! One message to a thousand.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use meshwire::api;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{Batch, Frame, MessageState};
use meshwire_signaling::group::ALL;
use meshwire_signaling::invite::Role;
use meshwire_signaling::limits::MAX_WRAPS;
use meshwire_signaling::{Envelope, PublicKey};
use tokio::task::JoinSet;

use super::proto::{BOTH, Client, Member, PATIENCE, World, stop};
use super::{changed, sorted};

/// Recipients of one send.
const MANY: usize = 1_000;

/// Members, admitted side by side.
async fn crowd(world: &Arc<World>, n: usize) -> Vec<Member> {
    let link = Arc::new(world.invite(u32::try_from(n).unwrap(), Role::Member).await);
    let mut joining = JoinSet::new();
    for part in 0..8 {
        let (world, link) = (world.clone(), link.clone());
        joining.spawn(async move {
            let mut members = Vec::new();
            for i in (part..n).step_by(8) {
                members.push(world.member_by(&link, &format!("m{i}")).await);
            }
            members
        });
    }
    joining.join_all().await.into_iter().flatten().collect()
}

/// Hands in all the wraps, batch by batch; returns the last answer.
async fn in_batches(client: &mut Client, envelope: &Envelope) -> Frame {
    let batches = envelope.wraps.chunks(MAX_WRAPS);
    let last = batches.len() - 1;
    for (index, wraps) in batches.enumerate() {
        let piece = Envelope { wraps: wraps.to_vec(), ..envelope.clone() };
        let batch = Batch { index: u32::try_from(index).unwrap(), last: index == last };
        let answer = client.post(piece, Some(batch)).await.unwrap();
        if index == last {
            return answer;
        }
        assert!(matches!(answer, Frame::Ok(_)), "{answer:?}");
    }
    unreachable!("there is a last one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_recipients_get_one_message_each_with_its_own_wrap() {
    let world = Arc::new(World::with(|c| c.policy.rate = 1_000_000).await);
    let crowd = crowd(&world, MANY).await;
    let mut ana = world.connect(&world.owner, Encoding::MsgPack).await;
    // From the roster, as a node would: page by page, each chain verified.
    let own = world.owner.public();
    let roster: Vec<PublicKey> =
        ana.roster(&world.mesh).await.iter().map(|(key, _)| *key).filter(|k| *k != own).collect();
    assert_eq!(roster, sorted(crowd.iter().map(Member::public).collect()));

    let post = world.owner.post(&world.mesh, ALL, "to a thousand");
    // The broker names as many as fit when all are missing.
    let c = changed(&mut ana, post.to([])).await;
    assert_eq!((c.missing, c.gone), (roster.clone(), vec![]));
    let envelope = post.to(roster.iter().copied());
    let Frame::Accepted(accepted) = in_batches(&mut ana, &envelope).await else {
        panic!("it is for all of them");
    };
    assert_eq!((accepted.state, accepted.duplicate), (MessageState::Relayed, false));
    assert_eq!(accepted.full, []);

    // Some come, in either encoding, and answer; each by itself.
    let some: Vec<&Member> = crowd.iter().step_by(MANY / 20).collect();
    let mut by = HashSet::new();
    for (n, member) in some.iter().enumerate() {
        let mut client = world.connect(member, BOTH[n % 2]).await;
        let m = client.message().await;
        assert_eq!(m.envelope.hash(&world.mesh), post.hash(&world.mesh));
        assert_eq!(member.open_post(&m.envelope), "to a thousand");
        client.ack(&world.mesh, member, &m).await;
        let receipt = ana.receipt().await;
        assert_eq!((receipt.id, receipt.receipt.by), (post.id, member.public()));
        assert!(world.owner.believes(&world.mesh, post.bare(), &receipt.receipt));
        by.insert(receipt.receipt.by);
        client.drained().await;
        assert!(!client.waiting().iter().any(|f| matches!(f, Frame::Message(_))), "once");
        client.close().await;
    }
    assert_eq!(by.len(), some.len());
    let Frame::Accepted(again) = in_batches(&mut ana, &envelope).await else {
        panic!("it was accepted before");
    };
    assert_eq!((again.state, again.duplicate), (MessageState::Relayed, true));
}

/// The same by a real node: it seals for its roster, sends the batches, and keeps each one's state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_sends_to_a_thousand_and_knows_where_it_stands_with_each() {
    let world = Arc::new(World::with(|c| c.policy.rate = 1_000_000).await);
    let crowd = crowd(&world, MANY).await;
    let node = world.node("ann").await;
    node.settle(PATIENCE).await;
    let ask = api::Send {
        mesh: None,
        to: "@all".into(),
        message: "from a node to a thousand".into(),
        priority: Default::default(),
        reply_to: None,
        idempotency_key: None,
        ttl_ms: None,
        wait: Some(api::WaitFor::Accepted),
        timeout_ms: Some(60_000),
    };
    let sent = node.send(ask).await.unwrap();
    assert_eq!(sent.state, MessageState::Relayed, "{:?}", sent.reason);
    let standing = || async {
        node.message(api::MessageStatus { id: sent.id.to_string() }).await.unwrap().recipients
    };
    // The crowd and the owner; not itself.
    assert_eq!(standing().await.len(), MANY + 1);
    let mut events = node.events();
    let some: Vec<&Member> = crowd.iter().step_by(MANY / 5).collect();
    for (n, member) in some.iter().enumerate() {
        let mut client = world.connect(member, BOTH[n % 2]).await;
        let m = client.message().await;
        assert_eq!(member.open_post(&m.envelope), "from a node to a thousand");
        client.ack(&world.mesh, member, &m).await;
        loop {
            let now = standing().await;
            let of = now.iter().find(|r| r.key == member.public()).unwrap();
            if of.state == MessageState::Delivered {
                break;
            }
            assert_eq!(of.state, MessageState::Relayed);
            let _ = tokio::time::timeout(Duration::from_millis(200), events.recv()).await;
        }
        client.close().await;
    }
    let done = standing().await.iter().filter(|r| r.state == MessageState::Delivered).count();
    assert_eq!(done, some.len());
    stop(node).await;
}
