//! How much the API takes at once (inventory C-005).

use serde_json::json;

use super::http::{Api, Event};
use crate::common::{Home, pair, until};

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn a_body_has_a_limit() {
    let home = Home::new();
    let _node = home.node();
    let api = Api::unix(&home);
    let send =
        |len: usize| api.post("/v1/send", &json!({"to": "bob", "message": "x".repeat(len)})).code();
    assert_eq!(send(600 * 1024), is(413, "too_large"));
    assert_eq!(send(3 * 1024 * 1024), is(413, "too_large"));
    assert_ne!(send(400 * 1024).0, 413, "that is too large for a message, but not for a request");
    let headers = [("Host", "localhost"), ("Content-Type", "application/json")];
    let bad = api.raw("POST", "/v1/send", &headers, b"{\"to\": ");
    assert_eq!(bad.code(), is(400, "malformed"));
}

#[test]
fn requests_and_streams_are_counted() {
    let home = Home::new();
    let _node = home.node();
    let api = Api::unix(&home);
    // Sixty-four wait for mail which does not come. Some more ask for it, as what looks whether they all wait may have one
    // of the places for a moment.
    let waiting: Vec<_> = (0..72).map(|_| api.begin("/v1/inbox?wait_ms=600000")).collect();
    until("daemon_busy", || {
        let answer = api.get("/v1/version");
        let busy = answer.status == 429;
        busy.then(|| {
            assert_eq!(answer.code(), is(429, "daemon_busy"));
            assert!(answer.head.to_lowercase().contains("retry-after: 1"), "{answer:?}");
        })
    });
    // Streams have places of their own.
    let mut streams: Vec<_> = (0..32).map(|_| api.events(&[])).collect();
    for stream in &mut streams {
        assert_eq!(stream.of("ready").data, json!({"after": 0}));
    }
    assert!(api.events(&[]).head.starts_with("HTTP/1.0 429"), "too many streams");
    assert_eq!(api.get("/v1/events").code(), is(429, "too_many_streams"));
    drop(streams.pop());
    until("a place for a stream", || {
        let mut stream = api.events(&[]);
        let there = stream.head.starts_with("HTTP/1.0 200");
        there.then(|| assert!(matches!(stream.next(), Some(Event { name, .. }) if name == "ready")))
    });
    // Who goes away gives its place back.
    drop(waiting);
    until("a place for a request", || (api.get("/v1/version").status == 200).then_some(()));
}

#[test]
fn a_flood_is_slowed_down() {
    let home = Home::new();
    let _node = home.node();
    let api = Api::unix(&home);
    let refused = (0..5_000).map(|_| api.get("/v1/version")).find(|a| a.status == 429);
    let refused = refused.expect("five thousand at once are too many");
    assert_eq!(refused.code(), is(429, "rate_limited"));
    // The command line tries again by itself.
    assert_eq!(home.ok(&["status"])["schema_version"], 1);
}

#[test]
fn a_session_keeps_nobody_out() {
    let pair = pair();
    let _ana = pair.ana.node();
    let api = Api::unix(&pair.ana);
    let tokens: Vec<String> = ["one", "two"]
        .iter()
        .map(|name| {
            let ask = json!({"name": name, "pid": std::process::id()});
            api.post("/v1/sessions", &ask).json()["token"].as_str().unwrap().to_owned()
        })
        .collect();
    let get = |token: &str, uri: &str| {
        let headers = [("Host", "localhost"), ("Meshwire-Session", token)];
        api.raw("GET", uri, &headers, b"")
    };
    let [one, two] = [0, 1].map(|n| [("Meshwire-Session", tokens[n].as_str())]);
    let mut streams: Vec<_> = (0..2).map(|_| api.events(&one)).collect();
    for stream in &mut streams {
        stream.of("ready");
    }
    assert_eq!(get(&tokens[0], "/v1/events").code(), is(429, "too_many_streams"));
    api.events(&two).of("ready");
    api.events(&[]).of("ready");
    // Eight that wait for mail which does not come.
    let _waiting: Vec<_> =
        (0..8).map(|_| api.begin_with("/v1/inbox?wait_ms=600000", &one)).collect();
    until("daemon_busy", || {
        let answer = get(&tokens[0], "/v1/version");
        (answer.status == 429).then(|| assert_eq!(answer.code(), is(429, "daemon_busy")))
    });
    assert_eq!(get(&tokens[1], "/v1/version").status, 200);
    assert_eq!(api.get("/v1/version").status, 200);
    // It asks on and on: it is slowed down, the others are not.
    let refused = (0..5_000).any(|_| get(&tokens[0], "/v1/version").code().1 == "rate_limited");
    assert!(refused);
    assert_eq!(get(&tokens[1], "/v1/version").status, 200);
    assert_eq!(api.get("/v1/version").status, 200);
}
