//! The header that says which session asks.

use serde_json::{Value, json};

use super::http::{Answer, Api};
use crate::common::pair;

#[test]
fn a_session_asks_as_itself() {
    let pair = pair();
    let (_ana, _bob) = (pair.ana.node(), pair.bob.node());
    let (ana, bob) = (Api::unix(&pair.ana), Api::unix(&pair.bob));
    let ask = json!({"name": "builder", "capabilities": ["dm"], "pid": std::process::id()});
    let started = ana.post("/v1/sessions", &ask).json();
    let token = started["token"].as_str().unwrap();
    let header = [("Meshwire-Session", token)];
    let get = |headers: &[(&str, &str)], uri: &str| {
        ana.raw("GET", uri, &[&[("Host", "localhost")], headers].concat(), b"")
    };
    let is = |status: u16, code: &str| (status, code.to_owned());

    let own = |answer: Answer| -> Vec<Value> {
        let rows = answer.json();
        rows.as_array().unwrap().iter().map(|s| s["this_session"].clone()).collect()
    };
    assert_eq!(own(get(&header, "/v1/sessions")), [json!(true)]);
    assert_eq!(own(get(&[], "/v1/sessions")), [json!(false)]);

    // Its mail is its own, and its stream tells of nobody else's.
    let mut events = ana.events(&header);
    events.of("ready");
    // Mail of different authors has no order but that of its arrival.
    let body = json!({"to": "bob", "message": "the member's", "wait": "delivered"});
    let members = ana.post("/v1/send", &body).json();
    let body = json!({"to": "bob", "message": "the session's", "wait": "delivered"});
    let sent = ana.post_with("/v1/send", &header, &body);
    assert_eq!(sent.status, 200, "{sent:?}");
    assert_eq!(events.of("outbox").data["id"], sent.json()["id"]);
    let inbox = bob.get("/v1/inbox?wait_ms=60000").json();
    let authors = inbox.as_array().unwrap().iter().map(|m| m["from_session"].clone());
    assert_eq!(authors.collect::<Vec<_>>(), [Value::Null, started["key"].clone()]);
    let id = members["id"].as_str().unwrap();
    let others = get(&header, &format!("/v1/message?id={id}"));
    assert_eq!(others.code(), is(404, "message_not_found"));

    // What it may not.
    let group = ana.post_with("/v1/groups", &header, &json!({"group": "team"}));
    assert_eq!(group.status, 403, "{group:?}");
    let end = ana.post_with("/v1/shutdown", &header, &json!({}));
    assert_eq!(end.code(), is(403, "owner_only"));

    // Who shows a wrong token is nobody, not the owner.
    for wrong in ["", "x", &"0".repeat(64)] {
        let answer = get(&[("Meshwire-Session", wrong)], "/v1/status");
        assert_eq!(answer.code(), is(401, "bad_session"), "{wrong}");
    }
    let twice = [header[0], header[0]];
    assert_eq!(get(&twice, "/v1/status").code(), is(401, "bad_session"));
    let mut command = pair.ana.command(&["--json", "send", "bob", "hi"]);
    let output = command.env("MESHWIRE_SESSION", "0".repeat(64)).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "the command line takes it from its environment");

    assert_eq!(ana.post("/v1/sessions/end", &json!({"session": "builder"})).status, 200);
    while events.next().is_some() {}
    assert_eq!(get(&header, "/v1/status").code(), is(401, "bad_session"), "it has ended");
}
