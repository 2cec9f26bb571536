//! Repeated sends: the eleven rows of the inventory's table (A-110), each by real means.

use serde_json::{Value, json};

use super::http::{Answer, Api, comes_to};
use crate::common::{Pair, pair, until};

/// A send under a key.
fn send(api: &Api, key: &str, text: &str, further: Value) -> Answer {
    let mut body = json!({"to": "bob", "message": text});
    body.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    api.post_with("/v1/send", &[("Idempotency-Key", key)], &body)
}

fn id(answer: &Answer) -> String {
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// A repeated request's refusal, held to the message that it is about.
fn conflict(answer: &Answer, code: &str, existing: &str) -> Value {
    assert_eq!(answer.code(), (409, code.to_owned()), "{answer:?}");
    let conflict = answer.json()["conflict"].clone();
    assert_eq!(conflict["existing"]["id"], existing, "{answer:?}");
    let prefix = conflict["fingerprint_prefix"].as_str().unwrap();
    assert!(prefix.len() == 16 && prefix.bytes().all(|b| b.is_ascii_hexdigit()), "{answer:?}");
    conflict
}

/// A node whose broker is away.
fn alone() -> (Pair, crate::common::Running, Api) {
    let mut pair = pair();
    pair.broker.kill();
    let node = pair.ana.node();
    let api = Api::unix(&pair.ana);
    (pair, node, api)
}

#[test]
fn nothing_and_pending() {
    let (_pair, _node, api) = alone();
    let first = send(&api, "k", "hello", json!({}));
    assert_eq!((first.status, &first.json()["state"]), (202, &json!("queued")), "{first:?}");
    assert_eq!(first.json()["duplicate"], false);

    let again = send(&api, "k", "hello", json!({}));
    assert_eq!((again.status, id(&again)), (202, id(&first)), "{again:?}");
    assert_eq!(
        (&again.json()["state"], &again.json()["duplicate"]),
        (&json!("queued"), &json!(true))
    );

    let other = send(&api, "k", "another", json!({}));
    let found = conflict(&other, "outbox_pending_fingerprint_mismatch", &id(&first));
    assert_eq!(found["existing"]["state"], "queued");
    let third = send(&api, "k", "a third", json!({}));
    let same = conflict(&third, "outbox_pending_fingerprint_mismatch", &id(&first));
    assert_eq!(
        same["fingerprint_prefix"], found["fingerprint_prefix"],
        "the node's, not the caller's"
    );
    let urgent = send(&api, "k", "hello", json!({"priority": "now"}));
    conflict(&urgent, "outbox_pending_fingerprint_mismatch", &id(&first));

    // The other ways to name a key.
    let in_body = |key: &str| json!({"to": "bob", "message": "hello", "idempotency_key": key});
    assert_eq!(id(&api.post("/v1/send", &in_body("k"))), id(&first));
    let both = api.post_with("/v1/send", &[("Idempotency-Key", "k")], &in_body("k"));
    assert_eq!(id(&both), id(&first));
    let different = api.post_with("/v1/send", &[("Idempotency-Key", "k")], &in_body("other"));
    assert_eq!(different.code(), (400, "bad_idempotency_key".to_owned()));
    let keyless = api.post("/v1/send", &json!({"to": "bob", "message": "hello"}));
    assert_ne!(id(&keyless), id(&first), "no key, no memory");
}

#[cfg(debug_assertions)]
#[test]
fn inflight() {
    use meshwire_transport::fault::ENQUEUED;
    let pair = pair();
    let _node = pair.ana.node_with_env(&[("MESHWIRE_TEST_PAUSE", ENQUEUED)]);
    let api = Api::unix(&pair.ana);
    let first = send(&api, "k", "hello", json!({}));
    assert_eq!(first.status, 202);
    let line = format!("paused at {ENQUEUED}");
    until(&line, || {
        let log = std::fs::read_to_string(pair.ana.node_log()).unwrap_or_default();
        log.lines().any(|l| l == line).then_some(())
    });
    let again = send(&api, "k", "hello", json!({}));
    assert_eq!((again.status, id(&again)), (202, id(&first)), "{again:?}");
    assert_eq!(again.json()["state"], "queued");
    let other = send(&api, "k", "another", json!({}));
    conflict(&other, "outbox_inflight_fingerprint_mismatch", &id(&first));
}

#[test]
fn done() {
    let pair = pair();
    let (_ana, bob) = (pair.ana.node(), pair.bob.node());
    let api = Api::unix(&pair.ana);
    let wait = json!({"wait": "delivered", "timeout_ms": 60_000});
    let first = send(&api, "k", "hello", wait);
    assert_eq!((first.status, &first.json()["state"]), (200, &json!("delivered")), "{first:?}");
    assert_eq!(first.json()["duplicate"], false);
    let again = send(&api, "k", "hello", json!({}));
    assert_eq!((again.status, id(&again)), (200, id(&first)), "{again:?}");
    assert_eq!(again.json()["duplicate"], true);
    let other = send(&api, "k", "another", json!({}));
    let found = conflict(&other, "outbox_done_fingerprint_mismatch", &id(&first));
    assert_eq!(found["existing"]["state"], "delivered");

    // Taken by the broker for somebody who is away: done, too.
    bob.kill();
    let relayed = send(&api, "r", "hello", json!({"wait": "accepted", "timeout_ms": 60_000}));
    assert_eq!(relayed.status, 200, "{relayed:?}");
    let again = send(&api, "r", "hello", json!({}));
    assert_eq!((again.status, id(&again)), (200, id(&relayed)), "{again:?}");
    let _bob = pair.bob.node();
    comes_to(&api, &id(&relayed), "delivered");
    assert_eq!(pair.bob.texts(), ["hello", "hello"], "one for each key");
}

#[test]
fn dead() {
    let (_pair, _node, api) = alone();
    let short = json!({"ttl_ms": 1});
    let first = send(&api, "k", "hello", short.clone());
    assert_eq!(first.status, 202);
    let expired = comes_to(&api, &id(&first), "expired");
    let again = send(&api, "k", "hello", short.clone());
    let found = conflict(&again, "outbox_dead_fingerprint_match", &id(&first));
    assert_eq!(found["existing"]["reason"], expired["reason"]);
    assert!(expired["reason"].is_string(), "{expired}");
    let other = send(&api, "k", "another", short);
    conflict(&other, "outbox_dead_fingerprint_mismatch", &id(&first));
}

#[test]
fn aborted() {
    let (_pair, _node, api) = alone();
    let first = send(&api, "k", "hello", json!({}));
    let anew = api.post("/v1/outbox/requeue", &json!({"id": id(&first)}));
    assert_eq!(anew.status, 200, "{anew:?}");
    assert_ne!(id(&anew), id(&first), "a fresh id");
    let again = send(&api, "k", "hello", json!({}));
    let found = conflict(&again, "outbox_aborted_fingerprint_match", &id(&first));
    assert_eq!(found["existing"]["superseded_by"], id(&anew));
    let other = send(&api, "k", "another", json!({}));
    conflict(&other, "outbox_aborted_fingerprint_mismatch", &id(&first));
}
