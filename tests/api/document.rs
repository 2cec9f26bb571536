//! The OpenAPI document: it is the one in `docs/`, and a running node does what it says.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::http::{Answer, Api, Events, comes_to};
use super::schema::Schemas;
use super::streams::both;
use crate::common::{Broker, Home, pair};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");

/// With `MESHWIRE_BLESS=1` it writes the file anew.
#[test]
fn the_document_in_docs_is_this_code_s() {
    let document = meshwire_peer::local_api::document();
    if std::env::var_os("MESHWIRE_BLESS").is_some() {
        std::fs::write(FILE, &document).unwrap();
    }
    let kept = std::fs::read_to_string(Path::new(FILE)).unwrap_or_default();
    assert!(
        kept == document,
        "docs/openapi.json is out of date; bring it up to date with \
         MESHWIRE_BLESS=1 cargo nextest run -p meshwire --test api"
    );
}

/// A request that the walk makes: what comes behind `?`, or the body.
enum Ask {
    Query(String),
    Body(Value),
}

/// What a valid request of each operation is, in the order in which they are made: some need what
/// earlier ones made, and the last ends the node.
fn examples(world: &World) -> Vec<(&'static str, Ask)> {
    let query = |text: &str| Ask::Query(text.to_owned());
    let id = &world.expired;
    vec![
        ("openapi", query("")),
        ("version", query("")),
        ("health", query("")),
        ("status", query("")),
        ("peers", query("mesh=home&all=true")),
        ("verify", Ask::Body(json!({"mesh": "home", "peer": "bob"}))),
        (
            "send",
            Ask::Body(json!({
                "to": "bob", "message": "hello", "priority": "now", "ttl_ms": 60_000,
                "wait": "delivered", "timeout_ms": 60_000,
            })),
        ),
        ("send", Ask::Body(json!({"to": "bob", "message": "hello"}))),
        ("message", Ask::Query(format!("id={id}"))),
        ("outbox", query("mesh=home&limit=10")),
        ("outbox", query("state=expired")),
        ("requeue", Ask::Body(json!({"id": id, "ttl_ms": 60_000}))),
        ("message", Ask::Query(format!("id={id}"))),
        ("inbox", query("unread=true&peek=true&wait_ms=60000")),
        ("inbox", query("mesh=home&from=bob&limit=5&since=1&all=true")),
        ("inbox_delete", Ask::Body(json!({"before": 1}))),
        (
            "set_presence",
            Ask::Body(json!({
                "mesh": "home", "status": "working", "status_for_ms": 60_000, "summary": "the API",
                "profile": {"title": "a test"}, "visible": true,
            })),
        ),
        ("set_group", Ask::Body(json!({"mesh": "home", "group": "team/docs", "role": "lead"}))),
        ("groups", query("mesh=home")),
        (
            "start_session",
            Ask::Body(json!({
                "mesh": "home", "name": "builder", "capabilities": ["dm"], "pid": world.pid,
            })),
        ),
        ("sessions", query("mesh=home")),
        ("peers", query("mesh=home&all=true")),
        ("end_session", Ask::Body(json!({"session": "builder"}))),
        ("ping", Ask::Body(json!({"mesh": "home", "peer": "bob", "timeout_ms": 30_000}))),
        ("path", query("mesh=home&peer=bob")),
        ("list_streams", query("mesh=home")),
        ("close_stream", Ask::Body(json!({"id": &world.stream[..8], "reason": "an example"}))),
        ("disconnect", Ask::Body(json!({"mesh": "home", "peers": ["bob"]}))),
        (
            "invite",
            Ask::Body(json!({
                "mesh": "home", "uses": 2, "ttl_ms": 60_000, "role": "member",
            })),
        ),
        ("invites", Ask::Body(json!({"mesh": "home"}))),
        (
            "create_mesh",
            Ask::Body(json!({
                "name": "second", "broker_url": world.broker, "admin_token": world.admin,
                "member_name": "ana",
            })),
        ),
        ("join", Ask::Body(json!({"invite": world.invite, "member_name": "ana"}))),
        ("status", query("")),
        ("shutdown", Ask::Body(json!({}))),
    ]
}

/// What the examples name.
struct World {
    expired: String,
    stream: String,
    invite: String,
    broker: String,
    admin: String,
    pid: u32,
}

fn world(api: &Api, broker: &Broker) -> World {
    let sent = api.post("/v1/send", &json!({"to": "bob", "message": "late", "ttl_ms": 1})).json();
    let expired = sent["id"].as_str().unwrap().to_owned();
    comes_to(api, &expired, "expired");
    let carl = Home::new();
    carl.create_mesh("third", broker, "carl");
    World {
        expired,
        stream: String::new(),
        invite: carl.invite(&[]),
        broker: broker.url.clone(),
        admin: broker.token.clone(),
        pid: std::process::id(),
    }
}

/// Holds an answer to what the document says of this status.
fn hold(document: &Value, operation: &Value, answer: &Answer, what: &str) {
    let responses = &operation["responses"];
    let described = responses.get(answer.status.to_string()).unwrap_or(&responses["default"]);
    let schema = &described["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "{what}: {} is not described", answer.status);
    let schemas = Schemas(&document["components"]["schemas"]);
    schemas.hold(schema, &answer.json(), what);
    assert!(answer.head.to_lowercase().contains("content-type: application/json"), "{what}");
}

#[test]
fn a_running_node_does_what_the_document_says() {
    let pair = pair();
    // Away, so that a message to him can expire; later there, so that one arrives.
    let ana = pair.ana.node();
    let api = Api::unix(&pair.ana);
    let mut world = world(&api, &pair.broker);
    // Before there is a direct path, so that its coming is heard of.
    let events = api.events(&[("Last-Event-ID", "0")]);
    let _bob = pair.bob.node();
    pair.bob.deliver("ana", "welcome");

    let document = api.get("/v1/openapi.json").json();
    assert_eq!(document.to_string(), {
        let ours: Value = serde_json::from_str(&meshwire_peer::local_api::document()).unwrap();
        ours.to_string()
    });
    assert_eq!(document["openapi"], "3.1.0");
    let mut operations = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            let there = operations.insert(id, (path.as_str(), method.as_str(), operation));
            assert!(there.is_none(), "{id} is there twice");
        }
    }
    // Every operation refuses what makes no sense, as described.
    for (id, (path, method, operation)) in &operations {
        let answer = match *method {
            "post" => api.post(path, &json!([])),
            _ => api.get(&format!("{path}?token=x")),
        };
        assert_eq!(answer.status, 400, "{id}: {answer:?}");
        hold(&document, operation, &answer, &format!("{id}, refused"));
    }
    streams(&document, operations.remove("events").unwrap().2, &api, events);
    figures(operations.remove("metrics").unwrap().2, &api);
    // What is said on these is held to the document in tests/api/streams.rs.
    for socket in ["open_stream", "accept_stream"] {
        let operation = operations.remove(socket).unwrap().2;
        assert!(operation["responses"]["101"].is_object() && operation["x-messages"].is_object());
    }
    let mut between = both(&api, &Api::unix(&pair.bob));
    world.stream = between.ana.said()["id"].as_str().unwrap().to_owned();

    let schemas = Schemas(&document["components"]["schemas"]);
    let mut untried: Vec<&str> = operations.keys().copied().collect();
    for (id, ask) in examples(&world) {
        let (path, method, operation) =
            operations.get(id).unwrap_or_else(|| panic!("no operation {id}"));
        untried.retain(|u| u != &id);
        let answer = match (&ask, *method) {
            (Ask::Query(query), "get") => {
                let known = |name: &str| {
                    let all = operation["parameters"].as_array().unwrap();
                    all.iter().any(|p| p["name"] == name && p["in"] == "query")
                };
                for (name, _) in query.split('&').filter_map(|pair| pair.split_once('=')) {
                    assert!(known(name), "{id}: the document has no parameter {name}");
                }
                api.get(&format!("{path}?{query}"))
            }
            (Ask::Body(body), "post") => {
                let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
                schemas.hold(schema, body, &format!("{id}'s example"));
                api.post(path, body)
            }
            _ => panic!("{id} is {method}"),
        };
        assert!(matches!(answer.status, 200 | 202), "{id}: {answer:?}");
        hold(&document, operation, &answer, id);
    }
    assert!(untried.is_empty(), "the test has no example for {untried:?}");
    assert_eq!(ana.wait(), 0, "the last one ended it");
}

/// Metrics are text.
fn figures(operation: &Value, api: &Api) {
    let answer = api.get("/v1/metrics");
    let media =
        operation["responses"]["200"]["content"].as_object().unwrap().keys().next().unwrap();
    assert!(answer.head.to_lowercase().contains(&format!("content-type: {media}")), "{answer:?}");
    for line in [
        "meshwire_pairs{mesh=\"home\",path=\"direct\"} 1",
        "meshwire_negotiations_total{mesh=\"home\",result=\"up\",cause=\"\"} 1",
        "meshwire_negotiations_total{mesh=\"home\",result=\"failed\",cause=\"no_pair\"} 0",
        "# EOF",
    ] {
        assert!(answer.body.lines().any(|l| l == line), "no {line} in {answer:?}");
    }
}

/// Streams are no JSON: their events are.
fn streams(document: &Value, operation: &Value, api: &Api, mut events: Events) {
    assert!(operation["responses"]["200"]["content"]["text/event-stream"].is_object());
    let schemas = Schemas(&document["components"]["schemas"]);
    let sent = api.post("/v1/send", &json!({"to": "bob", "message": "for the stream"}));
    assert_eq!(sent.status, 202, "{sent:?}");
    let mut wanted = vec!["ready", "message", "outbox", "path"];
    while !wanted.is_empty() {
        let event = events.next().unwrap();
        let schema = &operation["x-events"][&event.name];
        assert!(schema.is_object(), "{} is not described", event.name);
        schemas.hold(schema, &event.data, &event.name);
        wanted.retain(|w| *w != event.name);
    }
}
