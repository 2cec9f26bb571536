//! Streams of events: what they say, and that resuming one misses nothing.

use serde_json::json;

use super::http::{Api, Event, Events};
use crate::common::{pair, until};

fn text(event: &Event) -> &str {
    event.data["message"].as_str().unwrap()
}

/// The texts of the next messages.
fn texts(events: &mut Events, count: usize) -> Vec<String> {
    (0..count).map(|_| text(&events.of("message")).to_owned()).collect()
}

#[test]
fn a_stream_tells_of_mail_and_of_what_becomes_of_ours() {
    let pair = pair();
    let _ana = pair.ana.node();
    let (ana, bob) = (Api::unix(&pair.ana), Api::unix(&pair.bob));
    // What was so before the link came up is no news.
    until("the link", || (ana.get("/v1/health").json()["brokers"]["home"] == "up").then_some(()));
    let mut at_ana = ana.events(&[]);
    assert!(at_ana.head.starts_with("HTTP/1.0 200"), "{}", at_ana.head);
    assert!(at_ana.head.to_lowercase().contains("content-type: text/event-stream"));
    let ready = at_ana.next().unwrap();
    assert_eq!((ready.name.as_str(), ready.id.as_deref()), ("ready", Some("0")));

    let bob_up = pair.bob.node();
    let mut at_bob = bob.events(&[]);
    at_bob.of("ready");
    let ask = json!({"name": "builder", "pid": std::process::id()});
    let session = bob.post("/v1/sessions", &ask).json();
    let started = at_bob.of("session").data;
    assert_eq!((&started["key"], &started["started"]), (&session["key"], &json!(true)));
    // Whether bob himself is news depends on how long ago he was last there.
    let mut came = std::iter::from_fn(|| Some(at_ana.of("presence").data));
    let came = came.find(|data| data["key"] == session["key"]).unwrap();
    assert_eq!((&came["kind"], &came["online"]), (&json!("session"), &json!(true)), "{came}");

    let sent = ana.post("/v1/send", &json!({"to": "bob", "message": "hello"})).json();
    let message = at_bob.of("message");
    assert_eq!((text(&message), &message.data["id"]), ("hello", &sent["id"]));
    assert_eq!(message.id.as_deref(), Some("1"), "its place is where to resume");
    loop {
        let moved = at_ana.of("outbox");
        assert_eq!(moved.data["id"], sent["id"]);
        if moved.data["state"] == "delivered" {
            break;
        }
    }
    // It is unread still: a stream marks nothing.
    assert_eq!(bob.get("/v1/inbox?unread=true").json().as_array().unwrap().len(), 1);

    // The node's end is the stream's.
    assert_eq!(bob_up.terminate(), 0);
    assert!(std::iter::from_fn(|| at_bob.next()).all(|e| e.name != "lagged"));
}

#[test]
fn resuming_misses_nothing_and_repeats_nothing() {
    let pair = pair();
    let (_ana, _bob) = (pair.ana.node(), pair.bob.node());
    let (ana, bob) = (Api::unix(&pair.ana), Api::unix(&pair.bob));
    let send = |text: &str| {
        let body = json!({"to": "bob", "message": text, "wait": "delivered", "timeout_ms": 60_000});
        assert_eq!(ana.post("/v1/send", &body).status, 200);
    };
    let mut first = bob.events(&[]);
    let ready = first.of("ready");
    // One that heard nothing can resume as well.
    drop(first);
    for i in 0..3 {
        send(&i.to_string());
    }
    let mut second = bob.events(&[("Last-Event-ID", ready.id.as_deref().unwrap())]);
    let zero = second.of("message");
    assert_eq!((text(&zero), text(&second.of("message"))), ("0", "1"));
    drop(second);

    // While the inbox is read, more comes: many pages, and no gap or repeat where live begins.
    let sender = {
        let ana = ana.clone();
        std::thread::spawn(move || {
            for i in 3..150 {
                let body = json!({"to": "bob", "message": i.to_string()});
                assert_eq!(ana.post("/v1/send", &body).status, 202);
            }
        })
    };
    let mut third = bob.events(&[("Last-Event-ID", zero.id.as_deref().unwrap())]);
    assert_eq!(third.of("ready").data["after"], 1);
    let expected: Vec<String> = (1..150).map(|i| i.to_string()).collect();
    assert_eq!(texts(&mut third, 149), expected);
    sender.join().unwrap();

    let bad = bob.events(&[("Last-Event-ID", "yesterday")]);
    assert!(bad.head.starts_with("HTTP/1.0 400"), "{}", bad.head);
}
