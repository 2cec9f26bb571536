//! Checks that catch a broker with a fault switched on (`MESHWIRE_TEST_MUTANT`, debug builds only):
//! the same check passes without the fault and fails with it. `sync-off` is caught in `fsync.rs`.

#![cfg(debug_assertions)]
// Helpers panic, which is what they are for.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
mod proto;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use common::{Broker, Home, Pair, pair, pair_on};
use meshwire::OsNet;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::Features;
use meshwire_signaling::{InstanceId, MeshId, SecretKey};
use meshwire_transport::link::{LinkEvent, MessageLink as _};
use meshwire_transport::net::random;
use meshwire_transport::relay::{CounterError, HelloCounter, RelayConfig, RelayLink};
use proto::{letter, within};
use tokio::sync::mpsc::Receiver;

const MUTANT: &str = "MESHWIRE_TEST_MUTANT";

/// Power cuts tried: one comes too late for the fault only on a machine that stalls for 300 ms.
const CUTS: u32 = 3;

/// Kills the broker as soon as the sender has heard that it took a message. `Err`: one is lost.
fn survives_power_cuts(mutant: Option<&str>) -> Result<(), String> {
    let Pair { ana, bob, mut broker } = pair();
    let _ana = ana.node();
    for cut in 0..CUTS {
        broker.restart_as(|mut command: Command| {
            command.envs(mutant.map(|m| (MUTANT, m)));
            command
        });
        let text = format!("cut {cut}");
        let send = ["send", "bob", &text, "--idempotency-key", &text];
        // What it says counts, not its end: that comes later.
        let sending = ana.start(&[&send[..], &["--wait", "accepted", "--timeout", "20s"]].concat());
        assert_eq!(sending.json_line()["state"], "relayed");
        broker.restart();
        // Once a later message has come, this one has come too, or never will.
        let bob_up = bob.node();
        ana.ok(&["send", "bob", "later", "--wait", "delivered", "--timeout", "20s"]);
        let sent = ana.run(&[&send[..], &["--wait", "delivered", "--timeout", "3s"]].concat());
        if sent.status != 0 {
            return Err(format!("the broker took {text:?} and lost it: {}", sent.stderr));
        }
        bob_up.kill();
    }
    Ok(())
}

#[test]
fn what_the_broker_accepted_survives_a_power_cut() {
    survives_power_cuts(None).unwrap();
}

#[test]
fn a_broker_that_answers_before_its_commit_is_caught() {
    let lost = survives_power_cuts(Some("ack-before-commit")).unwrap_err();
    assert!(lost.contains("relayed, not delivered"), "{lost}");
}

struct Counter(InstanceId, AtomicU64);

#[async_trait]
impl HelloCounter for Counter {
    async fn next(&self) -> Result<(InstanceId, u64), CounterError> {
        Ok((self.0, self.1.fetch_add(1, Ordering::Relaxed) + 1))
    }

    async fn renew(&self) -> Result<(), CounterError> {
        Err(CounterError("this instance is new".into()))
    }
}

/// A member's key in the one mesh of its home.
fn key(home: &Home) -> (MeshId, SecretKey) {
    let mut files = std::fs::read_dir(home.path().join("keys")).unwrap().map(|f| f.unwrap().path());
    let file = files.find(|file| file.is_file()).unwrap();
    let mut seed = [0; 32];
    hex::decode_to_slice(std::fs::read_to_string(&file).unwrap().trim(), &mut seed).unwrap();
    let mesh = file.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    (mesh, SecretKey::from_seed(&seed))
}

/// A member's link without a node behind it, connected.
async fn link(home: &Home, broker: &Broker) -> (Arc<RelayLink>, Receiver<LinkEvent>) {
    let (mesh, identity) = key(home);
    let config = RelayConfig {
        base: broker.url.parse().unwrap(),
        pin: None,
        mesh,
        broker: broker.key.parse().unwrap(),
        identity,
        encoding: Encoding::MsgPack,
        features: Features::default(),
        requires: Vec::new(),
        agent: "test".into(),
        counter: Arc::new(Counter(InstanceId(random(&OsNet)), AtomicU64::new(0))),
    };
    let (link, mut events) = RelayLink::open(Arc::new(OsNet), config);
    within("the link", async {
        while !matches!(events.recv().await.expect("a link"), LinkEvent::Up(_)) {}
    })
    .await;
    (link, events)
}

/// Hands the broker an envelope twice. `Err`: the recipient got it another number of times than once.
async fn pushed_once(mutant: Option<&str>) -> Result<(), String> {
    let env: Vec<_> = mutant.map(|m| (MUTANT, m)).into_iter().collect();
    let Pair { ana, bob, broker } = pair_on(Broker::with_env(&[], &env));
    let (mesh, author) = key(&ana);
    let to = key(&bob).1.public();
    let (sender, _sender_events) = link(&ana, &broker).await;
    let (_recipient, mut events) = link(&bob, &broker).await;
    let from = (&author, InstanceId(random(&OsNet)));
    let (id, twice) = letter(&mesh, from, to, 1, "twice", |_| {});
    let (last, marker) = letter(&mesh, from, to, 2, "marker", |_| {});
    for envelope in [twice.clone(), twice, marker] {
        let ticket = sender.send(envelope).await.unwrap();
        within("the broker's answer", ticket).await.unwrap();
    }
    let mut times = 0;
    within("the marker", async {
        loop {
            let LinkEvent::Envelope(inbound) = events.recv().await.expect("a link") else {
                continue;
            };
            match inbound.envelope.header().unwrap().id {
                got if got == last => break,
                got => times += u32::from(got == id),
            }
        }
    })
    .await;
    if times == 1 { Ok(()) } else { Err(format!("pushed {times} times")) }
}

#[tokio::test]
async fn an_envelope_accepted_twice_is_pushed_once() {
    pushed_once(None).await.unwrap();
}

#[tokio::test]
async fn a_broker_that_does_not_dedupe_is_caught() {
    assert_eq!(pushed_once(Some("no-dedupe")).await.unwrap_err(), "pushed 2 times");
}
