//! Direct paths between real nodes over loopback: relay first, direct soon, nothing lost on the way.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests

#[path = "proto/mod.rs"]
mod proto;

use std::sync::Arc;

use futures_util::future::join_all;
use meshwire::{DirectPaths, Event, Home, Node, OsNet, api};
use meshwire_peer::path::{PathMode, Via};
use meshwire_signaling::frame::MessageState;
use meshwire_transport::quic::interfaces::FixedInterfaces;
use meshwire_transport::quic::{Config, QuicAdapter, QuicNode};
use proto::{Cutter, World, inbox, outbox_is, send, stop, until, up, within};

/// A node that makes direct paths over loopback; its home has joined.
async fn direct(world: &World, name: &str, mode: PathMode) -> Node {
    direct_through(world, &world.link.base, name, mode).await
}

async fn direct_through(world: &World, base: &str, name: &str, mode: PathMode) -> Node {
    let node = world.node_through(base, name).await;
    node.close().await;
    let net = Arc::new(OsNet);
    let interfaces = Arc::new(FixedInterfaces::new([]));
    let quic = QuicNode::start(net.clone(), Config::new(interfaces)).await.unwrap();
    let adapter = QuicAdapter::new(net.clone(), Arc::new(quic));
    let home = Home::open(&world.home(name)).unwrap();
    let lock = home.try_lock().unwrap().unwrap();
    let paths = DirectPaths { adapter: Some(Arc::new(adapter)), mode };
    let node = Node::open(net, &home, lock, paths).await.unwrap();
    up(&node).await;
    node
}

async fn path(node: &Node, peer: &str) -> api::PathReport {
    node.path(api::AskPath { mesh: None, peer: peer.to_owned() }).await.unwrap()
}

/// Waits until a direct path is up.
async fn is_direct(node: &Node, peer: &str) {
    let mut events = node.events();
    within("a direct path", async {
        while path(node, peer).await.via != Via::Direct {
            let _ = events.recv().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_message_goes_by_the_relay_and_later_ones_directly() {
    let world = World::start().await;
    let ann = direct(&world, "ann", PathMode::Auto).await;
    let bob = direct(&world, "bob", PathMode::Auto).await;
    let first = send(&ann, "bob", "0", Some(api::WaitFor::Delivered), None).await;
    assert_eq!(first.path.as_deref(), Some("relay"), "nobody waits for a direct path");
    is_direct(&ann, "bob").await;
    is_direct(&bob, "ann").await;
    let report = path(&ann, "bob").await;
    assert!(report.direct.is_some_and(|d| d.remote.ip().is_loopback()), "{:?}", report.history);
    // A slow disk makes an ack late, and the relay carries the message as well: not every one has to
    // come by the direct path, but either side uses it.
    let mut direct = 0;
    for n in 1..50 {
        let sent = send(&ann, "bob", &n.to_string(), Some(api::WaitFor::Delivered), None).await;
        assert_eq!(sent.state, MessageState::Delivered);
        direct += usize::from(sent.path.as_deref() == Some("direct"));
    }
    assert!(direct > 0, "{:?}", path(&ann, "bob").await);
    within("a message back", async {
        loop {
            let back = send(&bob, "ann", "back", Some(api::WaitFor::Delivered), None).await;
            if back.path.as_deref() == Some("direct") {
                break;
            }
        }
    })
    .await;
    let texts: Vec<_> = inbox(&bob, 50).await.into_iter().map(|m| m.message).collect();
    assert_eq!(texts, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
    stop(ann).await;
    stop(bob).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_go_on_over_the_direct_path_without_the_broker() {
    let world = World::start().await;
    let to_ann = Cutter::start(world.broker.addr()).await;
    let ann = direct_through(&world, &to_ann.base, "ann", PathMode::Auto).await;
    let bob = direct(&world, "bob", PathMode::Auto).await;
    send(&ann, "bob", "0", Some(api::WaitFor::Delivered), None).await;
    is_direct(&ann, "bob").await;
    let mut events = ann.events();
    to_ann.cut(false);
    until(&mut events, |e| matches!(e, Event::Link { up: false, .. }).then_some(())).await;
    let sent = send(&ann, "bob", "1", Some(api::WaitFor::Delivered), None).await;
    assert_eq!(sent.path.as_deref(), Some("direct"));
    // What needs the broker waits, and stops nobody.
    let later = send(&ann, "ana", "2", None, None).await;
    let sent = send(&ann, "bob", "3", Some(api::WaitFor::Delivered), None).await;
    assert_eq!(sent.state, MessageState::Delivered);
    assert_eq!(
        ann.message(api::MessageStatus { id: later.id.to_string() }).await.unwrap().state,
        MessageState::Queued
    );
    stop(ann).await;
    stop(bob).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_dies_takes_no_message_with_it() {
    let world = World::start().await;
    let ann = direct(&world, "ann", PathMode::Auto).await;
    let bob = direct(&world, "bob", PathMode::Auto).await;
    send(&ann, "bob", "0", Some(api::WaitFor::Delivered), None).await;
    is_direct(&ann, "bob").await;
    // Bob dies without a word, and comes back with another key and other ports.
    let mut sent = Vec::new();
    for n in 1..=20 {
        sent.push(send(&ann, "bob", &n.to_string(), None, None).await.id);
    }
    stop(bob).await;
    for n in 21..=40 {
        sent.push(send(&ann, "bob", &n.to_string(), None, None).await.id);
    }
    let home = Home::open(&world.home("bob")).unwrap();
    let lock = home.try_lock().unwrap().unwrap();
    let bob = Node::open(Arc::new(OsNet), &home, lock, DirectPaths::default()).await.unwrap();
    for id in sent {
        outbox_is(&ann, id, MessageState::Delivered).await;
    }
    let texts: Vec<_> = inbox(&bob, 41).await.into_iter().map(|m| m.message).collect();
    assert_eq!(texts, (0..=40).map(|n| n.to_string()).collect::<Vec<_>>(), "once, in order");
    stop(ann).await;
    stop(bob).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_the_relay_alone_gets_it() {
    let world = World::start().await;
    let ann = direct(&world, "ann", PathMode::Auto).await;
    let bob = direct(&world, "bob", PathMode::RelayOnly).await;
    for n in 0..5 {
        let sent = send(&ann, "bob", &n.to_string(), Some(api::WaitFor::Delivered), None).await;
        assert_eq!(sent.path.as_deref(), Some("relay"));
        let sent = send(&bob, "ann", &n.to_string(), Some(api::WaitFor::Delivered), None).await;
        assert_eq!(sent.path.as_deref(), Some("relay"));
    }
    assert_eq!(path(&bob, "ann").await.via, Via::Relay);
    assert!(path(&bob, "ann").await.history.is_empty(), "it never tried");
    stop(ann).await;
    stop(bob).await;
}

/// Asks for a peer's path until `holds`, in one of several meshes.
async fn path_in(
    node: &Node,
    world: &World,
    peer: &str,
    holds: impl Fn(&api::PathReport) -> bool,
) -> api::PathReport {
    let mut events = node.events();
    within("a path", async {
        loop {
            let ask = api::AskPath { mesh: Some(world.mesh.to_string()), peer: peer.to_owned() };
            let report = node.path(ask).await.unwrap();
            if holds(&report) {
                return report;
            }
            let _ = events.recv().await;
        }
    })
    .await
}

/// Has a message delivered in one of several meshes; says by which path.
async fn send_in(node: &Node, world: &World, peer: &str) -> Option<String> {
    let ask = api::Send {
        mesh: Some(world.mesh.to_string()),
        to: peer.to_owned(),
        message: "hello".into(),
        priority: Default::default(),
        reply_to: None,
        idempotency_key: None,
        ttl_ms: None,
        wait: Some(api::WaitFor::Delivered),
        timeout_ms: Some(30_000),
    };
    let sent = node.send(ask).await.unwrap();
    assert_eq!(sent.state, MessageState::Delivered);
    sent.path
}

/// A node that makes direct paths and has joined all meshes.
async fn in_all(worlds: &[World], name: &str) -> Node {
    let node = direct(&worlds[0], name, PathMode::Auto).await;
    for world in &worlds[1..] {
        let join = api::Join { invite: world.link.to_string(), member_name: name.to_owned() };
        node.join(join).await.unwrap();
    }
    up(&node).await;
    node
}

/// All paths begin at once, between the same two sockets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_in_several_meshes_have_a_direct_path_in_each() {
    let worlds = join_all((0..6).map(|_| World::start())).await;
    for round in 0..3 {
        let names = ["ann", "bob"].map(|name| format!("{name}{round}"));
        let ann = in_all(&worlds, &names[0]).await;
        let bob = in_all(&worlds, &names[1]).await;
        let ends = [(&ann, &names[1]), (&bob, &names[0])];
        join_all(worlds.iter().map(|world| send_in(&ann, world, &names[1]))).await;
        for world in &worlds {
            for (node, peer) in ends {
                // A try that fails is followed by another one: the first one is what counts.
                let ended = |report: &api::PathReport| {
                    report.via == Via::Direct || report.history.iter().any(|e| e.what == "failed")
                };
                let report = path_in(node, world, peer, ended).await;
                let first = report.history.iter().find(|e| ["up", "failed"].contains(&&*e.what));
                assert_eq!(first.map(|e| &*e.what), Some("up"), "{:?}", report.history);
            }
        }
        // Each of them carries messages, both ways.
        for (world, (node, peer)) in worlds.iter().flat_map(|world| ends.map(|end| (world, end))) {
            within("a message on the direct path", async {
                while send_in(node, world, peer).await.as_deref() != Some("direct") {}
            })
            .await;
        }
        stop(ann).await;
        stop(bob).await;
    }
}
