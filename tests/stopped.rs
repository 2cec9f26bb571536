//! A node whose process stands still, dies or leaves, seen from the other end of a mesh.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // helpers panic, which is what they are for

mod common;

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Broker, Home, Pair, pair, until};
use serde_json::Value;

/// How long bob's process stands still. Above every delay that a healthy connection knows, below the
/// lease.
const STILL: Duration = Duration::from_secs(8);
/// How soon he has his mail afterwards, and how soon others know that he has left.
const SOON: Duration = Duration::from_secs(2);

/// A process that stands still until this is dropped.
struct Stopped(u32);

impl Stopped {
    fn new(pid: u32) -> Self {
        signal(pid, "STOP");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, "CONT");
    }
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(sent.success(), "SIG{name} to {pid}");
}

/// How often somebody was said to have come, and to have gone.
fn news(broker: &Broker) -> (u64, u64) {
    let count = |what: &str| broker.metric(&format!("broker_presence_{what}_total"));
    (count("joined"), count("left"))
}

/// What ana's node says of bob.
fn bob(ana: &Home) -> Value {
    let peers = ana.ok(&["peers"]);
    let all = peers["peers"].as_array().unwrap();
    all.iter().find(|p| p["name"] == "bob").unwrap_or_else(|| panic!("no bob: {peers}")).clone()
}

fn is_online(ana: &Home) -> bool {
    bob(ana)["online"] == true
}

/// Ana's and bob's nodes are up and know of each other; ana's as a background process.
fn meet(pair: &Pair) {
    pair.ana.up();
    until("bob online", || is_online(&pair.ana).then_some(()));
}

#[test]
fn a_node_that_stands_still_for_a_while_is_not_gone_and_gets_its_mail_once() {
    let pair = pair();
    let pid = pair.bob.up();
    meet(&pair);
    let following = pair.bob.start(&["inbox", "--follow", "--peek"]);
    pair.ana.deliver("bob", "before");
    assert_eq!(following.json_line()["message"], "before");
    let told = news(&pair.broker);

    let stopped = Stopped::new(pid);
    let start = Instant::now();
    let sent = pair.ana.ok(&["send", "bob", "meanwhile", "--wait", "accepted"]);
    assert_eq!(sent["state"], "relayed", "{sent}");
    while start.elapsed() < STILL {
        assert!(is_online(&pair.ana), "after {:?}", start.elapsed());
        sleep(Duration::from_millis(200));
    }
    let id = sent["id"].as_str().unwrap();
    assert_eq!(pair.ana.ok(&["message", "status", id])["state"], "relayed");

    drop(stopped);
    let start = Instant::now();
    assert_eq!(following.json_line()["message"], "meanwhile");
    let took = start.elapsed();
    println!("surfaced {took:?} after SIGCONT");
    assert!(took < SOON, "{took:?}");
    pair.ana.deliver("bob", "after");
    assert_eq!(pair.bob.texts(), ["before", "meanwhile", "after"]);
    assert!(is_online(&pair.ana));
    assert_eq!(news(&pair.broker), told, "nobody has come or gone");
}

#[test]
fn a_node_killed_and_started_again_within_its_lease_is_no_news() {
    let pair = pair();
    let node = pair.bob.node();
    meet(&pair);
    pair.ana.deliver("bob", "before");
    let told = news(&pair.broker);

    node.kill();
    pair.ana.ok(&["send", "bob", "meanwhile", "--wait", "accepted"]);
    until("the broker's notice", || {
        (pair.broker.metric("broker_presence_in_grace") == 1).then_some(())
    });
    assert!(is_online(&pair.ana), "he is waited for");
    let node = pair.bob.node();
    until("bob's return", || (pair.broker.metric("broker_presence_in_grace") == 0).then_some(()));
    pair.ana.deliver("bob", "after");
    assert_eq!(pair.bob.texts(), ["before", "meanwhile", "after"]);
    assert!(is_online(&pair.ana));
    assert_eq!(news(&pair.broker), told, "nobody has come or gone");
    assert_eq!(node.terminate(), 0);
}

#[test]
fn a_node_that_is_taken_down_has_left_at_once() {
    let pair = pair();
    pair.bob.up();
    meet(&pair);
    let (joined, left) = news(&pair.broker);

    pair.bob.down();
    let start = Instant::now();
    until("bob offline", || (!is_online(&pair.ana)).then_some(()));
    let took = start.elapsed();
    println!("known to have left {took:?} after down");
    assert!(took < SOON, "{took:?}");
    assert_eq!(news(&pair.broker), (joined, left + 1));

    pair.bob.up();
    until("bob online", || is_online(&pair.ana).then_some(()));
    assert_eq!(news(&pair.broker), (joined + 1, left + 1), "he came and went once each");
}
