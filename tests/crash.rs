//! Processes killed at the worst moments: every message arrives, once, and becomes `delivered`.
//!
//! `MESHWIRE_TEST_PAUSE` stops a process at an exact point (`meshwire_transport::fault`, debug
//! builds only), where it is killed with SIGKILL.

#![cfg(debug_assertions)]
// Helpers panic, which is what they are for.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Home, Pair, Running, pair};
use meshwire_transport::fault::{CLAIMED, ENQUEUED, PUSHED, STORED};
use serde_json::Value;

/// Longest wait for anything here.
const WAIT: Duration = Duration::from_secs(20);
/// The message whose way is interrupted.
const TEXT: &str = "no less, no more";

/// Makes a process stop at a point.
fn paused(point: &'static str) -> impl FnOnce(Command) -> Command {
    move |mut command| {
        command.env("MESHWIRE_TEST_PAUSE", point);
        command
    }
}

/// Waits until a process has come to its point.
fn comes_to(point: &str, log: &Path) {
    let line = format!("paused at {point}");
    let until = Instant::now() + WAIT;
    while !std::fs::read_to_string(log).unwrap_or_default().lines().any(|l| l == line) {
        assert!(Instant::now() < until, "nothing is {line}");
        sleep(Duration::from_millis(5));
    }
}

/// Sends to bob; the same text is the same message.
fn send(from: &Home, text: &str, further: &[&str]) -> Value {
    from.ok(&[&["send", "bob", text, "--idempotency-key", text], further].concat())
}

/// Sends to bob unless it was sent before, and waits for the receipt.
fn delivered(from: &Home, text: &str) -> Value {
    let sent = send(from, text, &["--wait", "delivered", "--timeout", "20s"]);
    assert_eq!(sent["state"], "delivered", "{sent}");
    sent
}

/// What has surfaced, in order, up to and including `last`.
fn surfaced(at: &Home, last: &str) -> Vec<String> {
    let following = at.start(&["inbox", "--follow", "--peek", "--limit", "1000"]);
    let mut texts = Vec::new();
    while texts.last().is_none_or(|t| t != last) {
        texts.push(following.json_line()["message"].as_str().unwrap().to_owned());
    }
    texts
}

/// Checks, with everybody up, that the message arrives and nothing comes twice.
fn arrives_once(pair: &Pair) {
    let sent = delivered(&pair.ana, TEXT);
    assert_eq!(sent["duplicate"], true, "it was in the outbox: {sent}");
    delivered(&pair.ana, "after");
    assert_eq!(surfaced(&pair.bob, "after"), [TEXT, "after"]);
}

#[test]
fn a_broker_killed_between_claim_and_push() {
    let mut pair = pair();
    pair.broker.restart_as(paused(CLAIMED));
    let _nodes = (pair.ana.node(), pair.bob.node());
    send(&pair.ana, TEXT, &["--wait", "accepted"]);
    comes_to(CLAIMED, &pair.broker.log);
    pair.broker.kill();
    pair.broker.restart();
    arrives_once(&pair);
}

#[test]
fn a_node_killed_between_outbox_commit_and_send() {
    let pair = pair();
    let _bob = pair.bob.node();
    let ana = pair.ana.node_as(paused(ENQUEUED));
    assert_eq!(send(&pair.ana, TEXT, &[])["state"], "queued");
    comes_to(ENQUEUED, &pair.ana.node_log());
    ana.kill();
    let _ana = pair.ana.node();
    arrives_once(&pair);
}

#[test]
fn a_send_without_a_node_killed_between_outbox_commit_and_send() {
    let pair = pair();
    let _bob = pair.bob.node();
    let command = pair.ana.command(&["--json", "send", "bob", TEXT, "--idempotency-key", TEXT]);
    let sending = Running::start(paused(ENQUEUED)(command), Some(&pair.ana.node_log()));
    comes_to(ENQUEUED, &pair.ana.node_log());
    sending.kill();
    let _ana = pair.ana.node();
    arrives_once(&pair);
}

fn recipient_killed_at(point: &'static str) {
    let pair = pair();
    let _ana = pair.ana.node();
    let bob = pair.bob.node_as(paused(point));
    send(&pair.ana, TEXT, &[]);
    comes_to(point, &pair.bob.node_log());
    bob.kill();
    let _bob = pair.bob.node();
    arrives_once(&pair);
}

#[test]
fn a_recipient_killed_after_the_push_before_its_inbox_has_it() {
    recipient_killed_at(PUSHED);
}

#[test]
fn a_recipient_killed_after_its_inbox_has_it_before_the_ack() {
    recipient_killed_at(STORED);
}

/// SplitMix64 (Steele, Lea, Flood 2014): a schedule from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[test]
fn a_broker_killed_again_and_again_while_messages_pass() {
    const MESSAGES: u64 = 20;
    let chosen = std::env::var("MESHWIRE_TEST_SEED").ok();
    let seed: u64 = chosen.map_or(2, |seed| seed.parse().unwrap());
    // Shown when the test fails.
    println!("replay with MESHWIRE_TEST_SEED={seed}");
    let mut dice = Dice(seed);
    let mut pair = pair();
    let _nodes = (pair.ana.node(), pair.bob.node());
    delivered(&pair.ana, "before");
    // One kill in each third, at a message of its own and some milliseconds after it.
    let kills = [0, 1, 2].map(|third| third * 6 + dice.below(6));
    for i in 0..MESSAGES {
        send(&pair.ana, &i.to_string(), &[]);
        if kills.contains(&i) {
            sleep(Duration::from_millis(dice.below(30)));
            pair.broker.kill();
            pair.broker.restart();
        }
    }
    let texts: Vec<String> = (0..MESSAGES).map(|i| i.to_string()).collect();
    for text in &texts {
        delivered(&pair.ana, text);
    }
    delivered(&pair.ana, "after");
    let all = [&["before".to_owned()], &texts[..], &["after".to_owned()]].concat();
    assert_eq!(surfaced(&pair.bob, "after"), all);
}
