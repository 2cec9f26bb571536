//! Order: messages arrive once and, per priority, in the order of sending, whatever happens to the
//! connections in between; a message that will never come holds nobody up for long.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in their helpers

mod proto;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meshwire::{Event, Node, api};
use meshwire_signaling::Priority;
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::limits::ORDER_HOLD;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use tokio::time::Instant;

use proto::{Cutter, World, inbox, outbox_is, send, stop, until, up};

fn ask(message: String, priority: Priority) -> api::Send {
    api::Send {
        mesh: None,
        to: "bob".into(),
        message,
        priority,
        reply_to: None,
        idempotency_key: None,
        ttl_ms: None,
        wait: None,
        timeout_ms: None,
    }
}

fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    usize::try_from(rng.next_u64() % n as u64).unwrap()
}

/// Every message that surfaces, in order.
async fn collect(bob: &Node, n: usize, count: &AtomicUsize) -> Vec<(Priority, String)> {
    let (mut got, mut after) = (Vec::new(), 0);
    while got.len() < n {
        let wait_ms = Some(60_000);
        let ask =
            api::Inbox { after: Some(after), limit: Some(500), wait_ms, ..Default::default() };
        let rows = bob.inbox(ask).await.unwrap();
        assert!(!rows.is_empty(), "only {} of {n} came", got.len());
        after = rows.last().unwrap().order;
        got.extend(rows.into_iter().map(|r| (r.priority, r.message)));
        count.store(got.len(), Ordering::Relaxed);
    }
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_messages_arrive_once_and_in_order_across_reconnects() {
    const N: usize = 1_000;
    const CUTS: usize = 6;
    let seed = std::env::var("MESHWIRE_SEED").ok().and_then(|s| s.parse().ok());
    let seed: u64 = seed.unwrap_or(0x6f72_6465);
    // Shown when the test fails.
    println!("MESHWIRE_SEED={seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);

    let world = World::start().await;
    let to_ann = Cutter::start(world.broker.addr()).await;
    let to_bob = Cutter::start(world.broker.addr()).await;
    let ann = world.node_through(&to_ann.base, "ann").await;
    let bob = world.node_through(&to_bob.base, "bob").await;
    up(&ann).await;
    up(&bob).await;

    let plan: Vec<Priority> = (0..N).map(|_| Priority::ALL[below(&mut rng, 3)]).collect();
    // Cuts after so many messages have surfaced, on either side.
    let mut cuts: Vec<(usize, bool)> =
        (0..CUTS).map(|_| (below(&mut rng, N * 9 / 10), below(&mut rng, 2) == 0)).collect();
    cuts.sort_unstable();
    let count = Arc::new(AtomicUsize::new(0));

    let sending = async {
        for (i, priority) in plan.iter().enumerate() {
            ann.send(ask(i.to_string(), *priority)).await.unwrap();
        }
    };
    let cutting = async {
        for (at, sender) in cuts {
            while count.load(Ordering::Relaxed) < at {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let (cutter, node) = if sender { (&to_ann, &ann) } else { (&to_bob, &bob) };
            let mut events = node.events();
            cutter.cut(true);
            // The next cut finds a connection.
            until(&mut events, |e| matches!(e, Event::Link { up: true, .. }).then_some(())).await;
        }
    };
    let collecting = collect(&bob, N, &count);
    let work = async { tokio::join!(sending, cutting, collecting) };
    let ((), (), got) = tokio::time::timeout(Duration::from_secs(90), work).await.unwrap();

    let once: HashSet<&String> = got.iter().map(|(_, text)| text).collect();
    assert_eq!((got.len(), once.len()), (N, N), "exactly once");
    let mut by_priority: BTreeMap<Priority, Vec<usize>> = BTreeMap::new();
    for (priority, text) in &got {
        by_priority.entry(*priority).or_default().push(text.parse().unwrap());
    }
    for priority in Priority::ALL {
        let sent: Vec<usize> = (0..N).filter(|i| plan[*i] == priority).collect();
        assert_eq!(by_priority[&priority], sent, "{priority:?}, in the order of sending");
    }
    stop(ann).await;
    stop(bob).await;
}

/// Ann, who has written to bob before and is now cut off from the broker.
async fn cut_off(world: &World, bob: &Node) -> (Cutter, Node) {
    let cutter = Cutter::start(world.broker.addr()).await;
    let ann = world.node_through(&cutter.base, "ann").await;
    send(&ann, "bob", "0", Some(api::WaitFor::Delivered), None).await;
    assert_eq!(inbox(bob, 1).await[0].message, "0");
    let mut events = ann.events();
    cutter.cut(false);
    until(&mut events, |e| matches!(e, Event::Link { up: false, .. }).then_some(())).await;
    (cutter, ann)
}

async fn texts(bob: &Node, n: usize) -> Vec<String> {
    inbox(bob, n).await.into_iter().map(|r| r.message).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_hole_blocks_nobody_for_longer_than_the_hold() {
    let world = World::start().await;
    let bob = world.node("bob").await;
    let (cutter, ann) = cut_off(&world, &bob).await;
    send(&ann, "bob", "1", None, None).await;
    let hole = send(&ann, "bob", "never", None, Some(50)).await;
    // Its floor still counts the hole as one that may come.
    send(&ann, "bob", "2", None, None).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    cutter.cut(true);
    assert_eq!(texts(&bob, 2).await[..2], ["0", "1"]);
    let start = Instant::now();
    assert_eq!(texts(&bob, 3).await, ["0", "1", "2"]);
    let took = start.elapsed();
    assert!(took < ORDER_HOLD + Duration::from_secs(2), "{took:?}");
    outbox_is(&ann, hole.id, MessageState::Expired).await;
    stop(ann).await;
    stop(bob).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_that_is_known_to_stay_open_is_not_waited_for() {
    let world = World::start().await;
    let bob = world.node("bob").await;
    let (cutter, ann) = cut_off(&world, &bob).await;
    let hole = send(&ann, "bob", "never", None, Some(50)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // A node's start looks for what has expired.
    stop(ann).await;
    let ann = Node::at(&world.home("ann")).await.unwrap();
    outbox_is(&ann, hole.id, MessageState::Expired).await;
    send(&ann, "bob", "1", None, None).await;
    let mut bobs = bob.events();
    cutter.cut(true);
    let row =
        until(&mut bobs, |e| if let Event::Message(row) = e { Some(row.clone()) } else { None });
    let row = row.await;
    assert_eq!(row.item.content, b"1");
    let held = row.surfaced_at.unwrap() - row.item.received_at;
    assert!(held < 2_000, "{held} ms held for nothing");
    assert_eq!(texts(&bob, 2).await, ["0", "1"]);
    stop(ann).await;
    stop(bob).await;
}
