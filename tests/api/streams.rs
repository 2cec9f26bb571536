//! Streams to peers: WebSockets as any language's library makes them.

use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::client;
use tokio_tungstenite::tungstenite::http::Request;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, HandshakeError, Message, WebSocket};

use super::http::{Answer, Api, Stream, up_with_http};
use super::schema::Schemas;
use crate::common::{Pair, pair, until};

/// What a WebSocket client sends, beside the headers that this door asks for.
const UPGRADE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

pub(super) struct Socket(WebSocket<Box<dyn Stream>>);

/// What came.
#[derive(Debug, PartialEq)]
enum Came {
    Bytes(Vec<u8>),
    Said(Value),
    Closed(Option<CloseCode>),
    Broken,
}

impl Socket {
    fn open(api: &Api, uri: &str) -> Self {
        Self::try_open(api, uri).unwrap_or_else(|status| panic!("{uri}: {status}"))
    }

    /// A socket, or the status of what is answered instead.
    fn try_open(api: &Api, uri: &str) -> Result<Self, u16> {
        let mut request = Request::get(format!("ws://localhost{uri}"));
        for (name, value) in UPGRADE.into_iter().chain([("Host", "localhost")]) {
            request = request.header(name, value);
        }
        if let Api::Tcp { token, .. } = api {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        match client(request.body(()).unwrap(), api.connect()) {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(HandshakeError::Failure(Error::Http(answer))) => Err(answer.status().as_u16()),
            Err(e) => panic!("{uri}: {e}"),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.send(Message::binary(bytes.to_vec())).unwrap();
    }

    fn say(&mut self, text: &str) {
        self.0.send(Message::text(text)).unwrap();
    }

    fn next(&mut self) -> Came {
        loop {
            return match self.0.read() {
                Ok(Message::Binary(bytes)) => Came::Bytes(bytes.into()),
                Ok(Message::Text(text)) => Came::Said(serde_json::from_str(&text).unwrap()),
                Ok(Message::Close(frame)) => Came::Closed(frame.map(|f| f.code)),
                Ok(_) => continue,
                Err(Error::Io(_) | Error::Protocol(_) | Error::ConnectionClosed) => Came::Broken,
                Err(e) => panic!("{e}"),
            };
        }
    }

    /// The next that is said, beside how far it is.
    pub(super) fn said(&mut self) -> Value {
        loop {
            match self.next() {
                Came::Said(said) if said["type"] == "progress" => {}
                Came::Said(said) => return said,
                Came::Bytes(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Bytes until the other side's end.
    fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.next() {
                Came::Bytes(bytes) => all.extend(bytes),
                Came::Said(said) if said["type"] == "end" => return all,
                Came::Said(said) => assert_ne!(said["type"], "reset", "{said}"),
                other => panic!("{other:?} after {} bytes", all.len()),
            }
        }
    }

    /// So many bytes, and word that one of the counts is so far; every word is looked at.
    fn so_far(
        &mut self,
        bytes: usize,
        (count, far): (&str, u64),
        look: impl Fn(&Value),
    ) -> Vec<u8> {
        let (mut all, mut known) = (Vec::new(), false);
        while all.len() < bytes || !known {
            match self.next() {
                Came::Bytes(bytes) => all.extend(bytes),
                Came::Said(said) => {
                    assert_eq!(said["type"], "progress", "{said}");
                    look(&said);
                    known |= said[count] == far;
                }
                other => panic!("{other:?} after {} bytes", all.len()),
            }
        }
        all
    }

    /// Writes until the stream has no room for the rest of the last message. Which stream it is.
    fn fill(&mut self, api: &Api) -> Value {
        let id = self.said()["id"].clone();
        let mut sent = 0;
        loop {
            self.bytes(&[7; 65_536]);
            sent += 65_536;
            // Whoever gives up too early, on a slow machine, finds a stream that is less full.
            let end = Instant::now() + Duration::from_secs(1);
            let more = until("room, or none", || {
                let taken = listed(api, &id).is_some_and(|row| row["written"] == sent);
                (taken || Instant::now() > end).then_some(taken)
            });
            if !more {
                return id;
            }
        }
    }

    /// How it is closed.
    fn closed(&mut self) -> Option<CloseCode> {
        loop {
            match self.next() {
                Came::Closed(code) => return code,
                Came::Broken => panic!("no word at the end"),
                _ => {}
            }
        }
    }
}

/// The row of a stream.
fn listed(api: &Api, id: &Value) -> Option<Value> {
    let rows = api.get("/v1/streams").json();
    rows.as_array().unwrap().iter().find(|row| row["id"] == *id).cloned()
}

/// What each of two has of one stream.
pub(super) struct Both {
    pub(super) ana: Socket,
    bob: Socket,
}

pub(super) fn both(ana: &Api, bob: &Api) -> Both {
    let at_bob = bob.clone();
    let uri = "/v1/streams/accept?name=talk&from=ana";
    let accepting = std::thread::spawn(move || Socket::open(&at_bob, uri));
    // Until the broker has heard of bob's new node, nobody speaks for him.
    let opened =
        until("bob", || match Socket::try_open(ana, "/v1/streams/open?to=bob&name=talk") {
            Ok(socket) => Some(socket),
            Err(status) => {
                assert_eq!(status, 502);
                None
            }
        });
    Both { ana: opened, bob: accepting.join().unwrap() }
}

#[test]
fn bytes_go_both_ways_and_each_side_hears_how_far_they_are() {
    let pair = pair();
    let (_ana, ana) = up_with_http(&pair.ana, &[], &[]);
    let _bob = pair.bob.node();
    let mut both = both(&ana, &Api::unix(&pair.bob));
    let document = ana.get("/v1/openapi.json").json();
    let described = &document["paths"]["/v1/streams/open"]["get"]["x-messages"]["from_node"];
    let schemas = Schemas(&document["components"]["schemas"]);
    let hold = |said: &Value| {
        let kind = said["type"].as_str().unwrap();
        let mut bare = said.clone();
        bare.as_object_mut().unwrap().remove("type");
        schemas.hold(&described[kind], &bare, kind);
    };
    let (opened, accepted) = (both.ana.said(), both.bob.said());
    for first in [&opened, &accepted] {
        assert_eq!(first["type"], "stream");
        hold(first);
    }
    assert_eq!((&opened["peer"], &accepted["peer"]), (&json!("bob"), &json!("ana")));
    assert_eq!((&opened["id"], &opened["opened"]), (&accepted["id"], &json!(true)));
    assert_eq!(listed(&ana, &opened["id"]).unwrap()["name"], "talk");
    let data: Vec<u8> = (0..300_000_u32).map(|i| i.to_le_bytes()[i as usize % 3]).collect();
    for piece in data.chunks(65_536) {
        both.ana.bytes(piece);
    }
    both.bob.bytes(b"and back");
    assert!(both.bob.so_far(data.len(), ("received", 300_000), hold) == data);
    assert_eq!(both.ana.so_far(8, ("written", 300_000), hold), b"and back");
    both.ana.say(r#"{"type": "end"}"#);
    both.bob.say(r#"{"type": "end"}"#);
    // Each is told once the other has everything; then both are closed.
    for socket in [&mut both.ana, &mut both.bob] {
        let mut wanted = vec!["end", "finished"];
        while !wanted.is_empty() {
            let said = socket.said();
            hold(&said);
            wanted.retain(|w| said["type"] != *w);
        }
    }
    assert_eq!(both.bob.closed(), Some(CloseCode::Normal));
    assert_eq!(both.ana.closed(), Some(CloseCode::Normal));
    until("gone", || listed(&ana, &opened["id"]).is_none().then_some(()));
}

#[test]
fn what_can_be_refused_is_refused_before_the_upgrade() {
    let pair = pair();
    let (_node, api) = up_with_http(&pair.ana, &[], &[]);
    let Api::Tcp { token, .. } = &api else { unreachable!() };
    let bearer = format!("Bearer {token}");
    let with = |further: &[(&str, &str)], uri: &str| -> Answer {
        let headers = [&[("Host", "localhost"), ("Authorization", &bearer)], further].concat();
        api.raw("GET", uri, &headers, b"")
    };
    let upgrade = |uri: &str| with(&UPGRADE, uri).code();
    let is = |status: u16, code: &str| (status, code.to_owned());
    let good = "/v1/streams/open?to=bob&name=talk";
    let plain = with(&[], good);
    assert_eq!(plain.code(), is(426, "no_websocket"));
    assert!(plain.head.to_lowercase().contains("upgrade: websocket"), "{plain:?}");
    assert_eq!(with(&UPGRADE[..3], good).code(), is(426, "no_websocket"));
    assert_eq!(upgrade("/v1/streams/open?to=bop&name=talk"), is(404, "peer_not_found"));
    assert_eq!(upgrade("/v1/streams/accept?from=bop"), is(404, "peer_not_found"));
    assert_eq!(upgrade("/v1/streams/open?to=bob&name="), is(400, "bad_stream_name"));
    assert_eq!(upgrade("/v1/streams/open?name=talk"), is(400, "malformed"));
    assert_eq!(upgrade("/v1/streams/open?to=bob&name=a&timeout_ms=x"), is(400, "malformed"));
    assert_eq!(upgrade("/v1/streams/accept?timeout_ms=-1"), is(400, "malformed"));
    assert_eq!(upgrade("/v1/streams/accept?name=a&timeout_ms=100"), is(504, "no_stream"));
    for uri in ["/v1/streams/open?to=bob&name=a&priority=nwo", "/v1/streams/accept?priority=nwo"] {
        assert_eq!(upgrade(uri), is(400, "malformed"));
        let message = with(&UPGRADE, uri).json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains("now, next, low (did you mean now?)"), "{message}");
    }
    assert_eq!(upgrade(good), is(502, "peer_offline"));
    let page = [&UPGRADE[..], &[("Origin", "https://evil.example")]].concat();
    assert_eq!(with(&page, good).code(), is(403, "origin_refused"));
    let bare = [&UPGRADE[..], &[("Host", "localhost")]].concat();
    assert_eq!(api.raw("GET", good, &bare, b"").code(), is(401, "bad_token"));
    let ask = json!({"name": "mute", "capabilities": ["inbox"], "pid": std::process::id()});
    let mute = api.post("/v1/sessions", &ask).json()["token"].as_str().unwrap().to_owned();
    let session = [&UPGRADE[..], &[("Meshwire-Session", &mute)]].concat();
    for uri in [good, "/v1/streams/accept"] {
        assert_eq!(with(&session, uri).code(), is(403, "capability_missing"), "{uri}");
    }
    let close = api.post("/v1/streams/close", &json!({"id": "0123456789abcdef"}));
    assert_eq!(close.code(), is(404, "stream_not_found"));
}

#[test]
fn an_open_that_came_to_nothing_is_no_stream() {
    let Pair { ana, bob, broker: _broker } = pair();
    let (_ana, _bob) = (ana.node(), bob.node());
    let (ana, bob) = (Api::unix(&ana), Api::unix(&bob));
    // Once there was a stream, bob's node is known to be there.
    let id = both(&ana, &bob).ana.said()["id"].clone();
    until("gone", || [&ana, &bob].iter().all(|at| listed(at, &id).is_none()).then_some(()));
    let nothing = || {
        for api in [&ana, &bob] {
            let rows = api.get("/v1/streams").json();
            assert_eq!(rows, json!([]), "while it is remembered");
            let metrics = api.get("/v1/metrics").body;
            assert!(metrics.contains("\nmeshwire_streams{mesh=\"home\"} 0\n"), "{metrics}");
        }
    };
    let headers = [&UPGRADE[..], &[("Host", "localhost")]].concat();
    let open = |uri: &str| ana.raw("GET", uri, &headers, b"").code();
    let refused = open("/v1/streams/open?to=bob&name=nobody");
    assert_eq!(refused, (403, "stream_refused".to_owned()));
    nothing();
    let given_up = open("/v1/streams/open?to=bob&name=hurried&timeout_ms=1000");
    assert_eq!(given_up, (504, "stream_unanswered".to_owned()));
    nothing();
    // Who accepts it now is told; here it is none all the same.
    let mut late = Socket::open(&bob, "/v1/streams/accept?name=hurried");
    assert_eq!(late.said()["name"], "hurried");
    assert_eq!(ana.get("/v1/streams").json(), json!([]));
}

#[test]
fn each_side_says_how_urgent_what_it_sends_is() {
    let Pair { ana, bob, broker: _broker } = pair();
    let (_ana, _bob) = (ana.node(), bob.node());
    let (ana_api, bob_api) = (Api::unix(&ana), Api::unix(&bob));
    // Bob's node is known once this is over.
    drop(both(&ana_api, &bob_api));
    let at_bob = bob_api.clone();
    let accept = "/v1/streams/accept?name=files&priority=now";
    let accepting = std::thread::spawn(move || Socket::open(&at_bob, accept));
    let mut opened = Socket::open(&ana_api, "/v1/streams/open?to=bob&name=files&priority=low");
    let mut accepted = accepting.join().unwrap();
    let (at_ana, at_bob) = (opened.said(), accepted.said());
    assert_eq!((&at_ana["priority"], &at_bob["priority"]), (&json!("low"), &json!("now")));
    assert_eq!(listed(&ana_api, &at_ana["id"]).unwrap()["priority"], "low");
    let row = ana.text(&["stream", "list"]);
    assert!(row.stdout.lines().any(|l| l.contains("files") && l.contains("low")), "{row:?}");
    opened.bytes(b"and it goes");
    opened.say(r#"{"type": "end"}"#);
    assert_eq!(accepted.rest(), b"and it goes");
}

#[test]
fn who_breaks_the_rules_is_closed_and_the_other_side_hears_it() {
    let Pair { ana, bob, broker: _broker } = pair();
    let (_ana, _bob) = (ana.node(), bob.node());
    let (ana, bob) = (Api::unix(&ana), Api::unix(&bob));
    type Wrong = fn(&mut Socket);
    let wrong: [(Wrong, CloseCode); 8] = [
        (|s| s.say("hello"), CloseCode::Policy),
        (|s| s.say(""), CloseCode::Policy),
        (|s| s.say(r#"{"type": "finished"}"#), CloseCode::Policy),
        (|s| s.say(r#"{"type": "reset", "code": -1}"#), CloseCode::Policy),
        (|s| s.say(&"[".repeat(60_000)), CloseCode::Policy),
        (|s| s.bytes(&[0; 65_537]), CloseCode::Size),
        (
            |s| {
                s.say(r#"{"type": "end"}"#);
                s.bytes(b"more");
            },
            CloseCode::Policy,
        ),
        (
            |s| {
                s.say(r#"{"type": "end"}"#);
                s.say(r#"{"type": "end"}"#);
            },
            CloseCode::Policy,
        ),
    ];
    for (n, (wrong, close)) in wrong.into_iter().enumerate() {
        let mut both = both(&ana, &bob);
        wrong(&mut both.ana);
        assert_eq!(both.ana.closed(), Some(close), "{n}");
        let heard = loop {
            let said = both.bob.said();
            if !matches!(said["type"].as_str(), Some("stream" | "end")) {
                break said;
            }
        };
        assert_eq!((&heard["type"], &heard["by"]), (&json!("reset"), &json!("peer")), "{n}");
        assert!(heard["reason"].as_str().unwrap().contains("program"), "{n}: {heard}");
        assert_eq!(both.bob.closed(), Some(CloseCode::Normal), "{n}");
    }
}

#[test]
fn each_side_may_stop_reset_or_go() {
    let Pair { ana, bob, broker: _broker } = pair();
    let (_ana, _bob) = (ana.node(), bob.node());
    let (ana, bob) = (Api::unix(&ana), Api::unix(&bob));
    // One that reads no more still writes.
    let mut pair = both(&ana, &bob);
    assert_eq!(
        (pair.ana.said()["type"].clone(), pair.bob.said()["type"].clone()),
        (json!("stream"), json!("stream"))
    );
    pair.bob.say(r#"{"type": "stop", "code": 300}"#);
    pair.ana.bytes(b"in vain");
    assert_eq!(pair.ana.said(), json!({"type": "stopped", "code": 300}));
    pair.ana.bytes(b"dropped");
    pair.bob.bytes(b"still");
    pair.bob.say(r#"{"type": "end"}"#);
    assert_eq!(pair.ana.rest(), b"still");
    assert_eq!(pair.ana.closed(), Some(CloseCode::Normal));
    assert_eq!(pair.bob.said()["type"], "finished");
    assert_eq!(pair.bob.closed(), Some(CloseCode::Normal));
    // A reset has its reason.
    let mut pair = both(&ana, &bob);
    pair.bob.said();
    pair.ana.say(r#"{"type": "reset", "code": 301, "reason": "out of paper"}"#);
    assert_eq!(pair.ana.closed(), Some(CloseCode::Normal));
    let expected = json!({"type": "reset", "by": "peer", "code": 301, "reason": "out of paper"});
    assert_eq!(pair.bob.said(), expected);
    // Somebody else closes it here.
    let mut pair = both(&ana, &bob);
    let id = pair.ana.said()["id"].clone();
    pair.bob.said();
    let closed = bob.post("/v1/streams/close", &json!({"id": id, "reason": "late"})).json();
    assert_eq!((&closed["id"], &closed["peer"]), (&id, &json!("ana")));
    assert_eq!(
        pair.bob.said(),
        json!({"type": "reset", "by": "here", "code": 0, "reason": "late"})
    );
    assert_eq!(
        pair.ana.said(),
        json!({"type": "reset", "by": "peer", "code": 0, "reason": "late"})
    );
    // One that goes has not finished, whatever it has read.
    let mut pair = both(&ana, &bob);
    pair.bob.said();
    pair.ana.bytes(b"half a");
    drop(pair.ana);
    let gone = pair.bob.said();
    assert_eq!((&gone["type"], &gone["by"]), (&json!("reset"), &json!("peer")));
    assert!(gone["reason"].as_str().unwrap().contains("before its end"), "{gone}");
}

#[test]
fn a_client_that_waits_for_room_is_heard_and_missed() {
    let pair = pair();
    let (_ana, tcp) = up_with_http(&pair.ana, &[], &[]);
    let _bob = pair.bob.node();
    let (unix, bob) = (Api::unix(&pair.ana), Api::unix(&pair.bob));
    let ended = |id: &Value| until("gone", || listed(&unix, id).is_none().then_some(()));
    let heard = |mut bob: Socket| {
        assert_eq!(bob.said()["type"], "stream");
        bob.said()
    };
    // Nobody reads what comes to bob until the stream is gone at ana's.
    let mut full = both(&unix, &bob);
    let id = full.ana.fill(&unix);
    full.ana.say(r#"{"type": "reset", "code": 301, "reason": "out of paper"}"#);
    assert_eq!(full.ana.closed(), Some(CloseCode::Normal));
    ended(&id);
    let expected = json!({"type": "reset", "by": "peer", "code": 301, "reason": "out of paper"});
    assert_eq!(heard(full.bob), expected);
    for door in [unix.clone(), tcp] {
        let mut full = both(&door, &bob);
        let id = full.ana.fill(&unix);
        // So much that its socket is not even looked at.
        full.ana.bytes(&[7; 65_536]);
        full.ana.bytes(&[7; 65_536]);
        drop(full.ana);
        ended(&id);
        let gone = heard(full.bob);
        assert_eq!((&gone["type"], &gone["by"]), (&json!("reset"), &json!("peer")));
        assert!(gone["reason"].as_str().unwrap().contains("before its end"), "{gone}");
    }
}

#[test]
fn sockets_are_counted_and_end_with_the_node() {
    let Pair { ana, bob, broker: _broker } = pair();
    let (node, _bob) = (ana.node(), bob.node());
    let (ana, bob) = (Api::unix(&ana), Api::unix(&bob));
    let ask = json!({"name": "many", "pid": std::process::id()});
    let token = ana.post("/v1/sessions", &ask).json()["token"].as_str().unwrap().to_owned();
    let session = [&UPGRADE[..], &[("Meshwire-Session", &token)]].concat();
    let uri = "/v1/streams/accept?name=never";
    let mut waiting = Vec::new();
    let headers = [&session[..], &[("Host", "localhost")]].concat();
    // What looks whether there is room asks for what cannot be: else it would wait. It takes a place for a moment.
    until("too many", || {
        waiting.push(ana.begin_with(uri, &session));
        let answer = ana.raw("GET", "/v1/streams/accept?from=nobody", &headers, b"");
        // Asking on and on is slowed down, too.
        (answer.code().1 == "too_many_streams").then_some(())
    });
    // Others are not kept out; and who goes away makes room.
    let mut pair = both(&ana, &bob);
    drop(waiting);
    until("room", || {
        let answer = ana.raw("GET", "/v1/streams/accept?from=nobody", &headers, b"");
        (answer.status == 404).then_some(())
    });
    // So does one that is not missed when it goes, as what it sent too much is not read before the answer.
    until("too many", || {
        let mut other = ana.begin_with("/v1/streams/accept?name=never&timeout_ms=20000", &session);
        other.write_all(b"x").unwrap();
        drop(other);
        let answer = ana.raw("GET", "/v1/streams/accept?from=nobody", &headers, b"");
        (answer.code().1 == "too_many_streams").then_some(())
    });
    until("room", || {
        let answer = ana.raw("GET", "/v1/streams/accept?from=nobody", &headers, b"");
        (answer.status == 404).then_some(())
    });
    let (first, _) = (pair.ana.said(), pair.bob.said());
    assert_eq!(first["type"], "stream");
    assert_eq!(node.terminate(), 0);
    let last = pair.ana.said();
    assert_eq!((&last["type"], &last["by"]), (&json!("reset"), &json!("here")));
    assert_eq!(pair.ana.closed(), Some(CloseCode::Away));
    assert_eq!(pair.bob.said()["type"], "reset");
}
