//! Whatever a client sends, the broker answers clearly, goes on, and does not grow. HTTP is in
//! `bad_input/web.rs`, random bytes in `bad_input/random.rs`.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in their helpers

mod proto;
#[path = "bad_input/random.rs"]
mod random;
#[path = "bad_input/web.rs"]
mod web;

use meshwire_signaling::codec::{Encoding, encode};
use meshwire_signaling::frame::{
    Drained, ErrorFrame, Frame, Goaway, Hello, ListPeers, Ok as OkFrame, Send, close, code,
};
use meshwire_signaling::limits::{MAX_DEPTH, MAX_FRAME};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame as WsFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use proto::{BOTH, Client, World};

/// Bytes that are no good frame, what is said to them, and to which request.
struct Bad {
    bytes: Vec<u8>,
    code: &'static str,
    req: Option<u64>,
}

fn bad(bytes: impl AsRef<[u8]>, code: &'static str, req: Option<u64>) -> Bad {
    Bad { bytes: bytes.as_ref().to_vec(), code, req }
}

fn malformed(bytes: impl AsRef<[u8]>) -> Bad {
    bad(bytes, code::MALFORMED, None)
}

fn malformed_req(bytes: impl AsRef<[u8]>, req: u64) -> Bad {
    bad(bytes, code::MALFORMED, Some(req))
}

/// What both encodings can say.
fn in_both(encoding: Encoding) -> Vec<Bad> {
    let e = |value: serde_json::Value| encode(encoding, &value);
    let nested = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!([inner]));
    let peers = |field: &str, value: serde_json::Value| {
        let mut frame = json!({"type": "list_peers", "req": 7});
        frame[field] = value;
        e(frame)
    };
    let key = "ab".repeat(32);
    let send = |envelope: serde_json::Value| {
        malformed_req(e(json!({"type": "send", "req": 7, "envelope": envelope})), 7)
    };
    let mut cases = vec![
        malformed(e(json!([]))),
        malformed(e(json!("hello"))),
        malformed(e(json!(1))),
        malformed(e(json!(null))),
        malformed(e(json!({}))),
        malformed_req(e(json!({"req": 7})), 7),
        malformed_req(e(json!({"type": 1, "req": 7})), 7),
        malformed_req(e(json!({"type": "x".repeat(65), "req": 7})), 7),
        bad(e(json!({"type": "nonsense", "req": 7})), code::UNKNOWN_TYPE, Some(7)),
        bad(e(json!({"type": "nonsense"})), code::UNKNOWN_TYPE, None),
        bad(e(json!({"type": "", "req": 7})), code::UNKNOWN_TYPE, Some(7)),
        bad(e(json!({"type": "LIST_PEERS", "req": 7})), code::UNKNOWN_TYPE, Some(7)),
        malformed(e(json!({"type": "list_peers"}))),
        malformed(e(json!({"type": "list_peers", "req": "7"}))),
        malformed(e(json!({"type": "list_peers", "req": -7}))),
        malformed(e(json!({"type": "list_peers", "req": null}))),
        // 2^53 and beyond, also in fields that nobody knows.
        malformed(e(json!({"type": "list_peers", "req": 9_007_199_254_740_992_u64}))),
        malformed(e(json!({"type": "list_peers", "req": 7, "x": u64::MAX}))),
        malformed(e(json!({"type": "list_peers", "req": 7, "x": i64::MIN}))),
        malformed(e(json!({"type": "list_peers", "req": 7, "x": 1.5}))),
        malformed(peers("x", nested(MAX_DEPTH))),
        malformed(peers("x", nested(64))),
        // Keys: short, long, uppercase, no hex, no text at all.
        malformed_req(peers("after", json!(key[2..])), 7),
        malformed_req(peers("after", json!(format!("{key}00"))), 7),
        malformed_req(peers("after", json!(key.to_uppercase())), 7),
        malformed_req(peers("after", json!(key.replace('a', "z"))), 7),
        malformed_req(peers("after", json!(5)), 7),
        malformed_req(peers("after", json!({"hex": key})), 7),
        send(json!(null)),
        send(json!([1, 2, 3])),
        send(json!({"v": "2"})),
        send(json!({"v": 256, "header": "", "body": "", "sig": "ab".repeat(64)})),
        send(json!({"v": 2, "header": "", "body": "", "sig": "ab".repeat(63)})),
        send(json!({"v": 2, "header": true, "body": "", "sig": "ab".repeat(64)})),
    ];
    let good = peers("x", json!("later"));
    cases.push(malformed(&good[..good.len() - 1]));
    cases.push(malformed(&good[..good.len() / 2]));
    cases.push(malformed([good.as_slice(), good.as_slice()].concat()));
    cases.push(malformed([]));
    cases
}

fn in_json() -> Vec<Bad> {
    let cases = [
        r#"{"type":"list_peers","req":7"#,
        r#"{"type":"list_peers","req":7,"req":7}"#,
        r#"{"type":"list_peers","req":7,"x":{"y":1,"y":1}}"#,
        r#"{"type":"list_peers","req":7.0}"#,
        r#"{"type":"list_peers","req":7e0}"#,
        r#"{"type":"list_peers","req":7,"x":"\ud800"}"#,
        r#"{"type":"list_peers","req":7,"x":NaN}"#,
        r#"{"type":"list_peers","req":7,}"#,
        r#"{'type':'list_peers','req':7}"#,
        r#"{"type":"list_peers","req":99999999999999999999999999}"#,
    ];
    let mut cases: Vec<Bad> = cases.iter().map(malformed).collect();
    let bad_base64 =
        r#"{"type":"send","req":7,"envelope":{"v":2,"header":"a$","body":"","sig":""}}"#;
    cases.push(malformed_req(bad_base64, 7));
    cases.push(malformed("[".repeat(100_000)));
    cases
}

fn in_msgpack() -> Vec<Bad> {
    // {"type": "list_peers", "req": 7, "x": …}
    let with = |x: &[u8]| [b"\x83\xa4type\xaalist_peers\xa3req\x07\xa1x", x].concat();
    [
        // Lengths of 4 GiB: map, array, bin, str, at the top and inside.
        b"\xdf\xff\xff\xff\xff".to_vec(),
        b"\xdd\xff\xff\xff\xff".to_vec(),
        b"\xc6\xff\xff\xff\xff".to_vec(),
        b"\xdb\xff\xff\xff\xff".to_vec(),
        with(b"\xdf\xff\xff\xff\xff"),
        with(b"\xdd\xff\xff\xff\xff\x01\x01\x01"),
        with(b"\xc6\xff\xff\xff\xff\x00"),
        with(b"\xdb\xff\xff\xff\xffabc"),
        with(b"\xdf\x00\xff\xff\xff\xa1a\x01"),
        // Floats, extension types, the byte that is never used, keys that are no text.
        with(b"\xca\x3f\x80\x00\x00"),
        with(b"\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00"),
        with(b"\xc7\x01\x05\x00"),
        with(b"\xd6\xff\x00\x00\x00\x00"),
        with(b"\xc1"),
        with(b"\x81\x01\x01"),
        with(b"\x81\xc4\x01a\x01"),
        // Text that is not UTF-8, as value and as key.
        with(b"\xa2\xff\xfe"),
        with(b"\x81\xa1\xff\x01"),
        with(b"\x82\xa1a\x01\xa1a\x01"),
        b"\x83\xa4type\xaalist_peers\xa3req\x07\xa3req\x07".to_vec(),
        [vec![0x91; 100_000], vec![0x01]].concat(),
    ]
    .iter()
    .map(malformed)
    .collect()
}

/// A request still succeeds, and nothing else has come.
async fn still_works(client: &mut Client) {
    assert_eq!(client.peers().await.peers.len(), 1);
    assert!(!client.waiting().iter().any(|f| matches!(f, Frame::Error(_))), "one answer each");
}

#[tokio::test]
async fn bytes_that_are_no_frame_are_answered_and_the_connection_goes_on() {
    let world = World::start().await;
    for encoding in BOTH {
        let own = if encoding == Encoding::Json { in_json() } else { in_msgpack() };
        let cases: Vec<Bad> = in_both(encoding).into_iter().chain(own).collect();
        // Below the number at which a broker loses its patience.
        for cases in cases.chunks(16) {
            let mut client = world.connect(&world.owner, encoding).await;
            for Bad { bytes, code, req } in cases {
                // As binary: JSON that is no UTF-8 cannot be said in text.
                client.raw(Message::binary(bytes.clone())).await.unwrap();
                let said = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]);
                let pick = |f: &Frame| match f {
                    Frame::Error(e) => Some(e.clone()),
                    _ => None,
                };
                let e: ErrorFrame = client.find(pick).await;
                assert_eq!((e.code.as_str(), e.req), (*code, *req), "{encoding:?} {said}");
                assert!(e.permanent && !e.message.is_empty(), "{said}");
                assert!(e.message.len() < 1_000, "an answer does not grow with the question");
                still_works(&mut client).await;
            }
            client.close().await;
        }
    }
}

#[tokio::test]
async fn unknown_fields_survive() {
    let world = World::start().await;
    for encoding in BOTH {
        let mut client = world.connect(&world.owner, encoding).await;
        let later = json!({"type": "list_peers", "req": 900, "later": {"deep": [1, {"er": null}]}});
        client.bytes(encode(encoding, &later)).await.unwrap();
        assert!(matches!(client.answer(900).await, Ok(Frame::Peers(_))));
        client.close().await;
    }
}

#[tokio::test]
async fn too_much_nonsense_closes_the_connection_but_not_too_little() {
    let world = World::start().await;
    for encoding in BOTH {
        let mut client = world.connect(&world.owner, encoding).await;
        for _ in 0..32 {
            client.bytes("{").await.unwrap();
            assert_eq!(client.error().await.code, code::MALFORMED);
        }
        still_works(&mut client).await;
        client.bytes("{").await.unwrap();
        assert_eq!(client.closed().await, (close::REFUSED, code::MALFORMED.to_owned()));
    }
}

#[tokio::test]
async fn unknown_types_never_close_the_connection() {
    // docs/protocol.md, section 12: an older broker must bear a newer node.
    let world = World::start().await;
    for encoding in BOTH {
        let mut client = world.connect(&world.owner, encoding).await;
        for req in 1..=100 {
            let newer = json!({"type": "from_the_future", "req": req, "payload": [1, 2]});
            client.bytes(encode(encoding, &newer)).await.unwrap();
            assert_eq!(client.answer(req).await.unwrap_err().code, code::UNKNOWN_TYPE);
        }
        still_works(&mut client).await;
        client.close().await;
    }
}

#[tokio::test]
async fn an_error_is_never_answered() {
    let world = World::start().await;
    for encoding in BOTH {
        let mut client = world.connect(&world.owner, encoding).await;
        client.drained().await;
        client.forget();
        for req in [None, Some(1), Some(77)] {
            client.send(ErrorFrame::permanent(code::MALFORMED, "no").to_req(req)).await;
        }
        client.send(ErrorFrame::transient("a_newer_word", "no", u64::from(u32::MAX))).await;
        client.send(ListPeers { req: 500, after: None, key: None }).await;
        let next = client.next().await.unwrap();
        assert!(matches!(&next, Frame::Peers(p) if p.req == 500), "{next:?}");
        client.close().await;
    }
}

#[tokio::test]
async fn frames_in_the_wrong_direction_or_at_the_wrong_time_are_refused() {
    let world = World::start().await;
    for encoding in BOTH {
        let opening = world.dial(encoding).await;
        let challenge = opening.challenge.clone();
        let hello = opening.body(&world.mesh, &world.owner).sign(&world.owner.key);
        let mut client = opening.say(hello.clone(), None).await.unwrap();
        let wrong: [Frame; 4] = [
            Drained {}.into(),
            OkFrame { req: 3 }.into(),
            Goaway { reason: "x".into(), retry_after_ms: 1 }.into(),
            challenge.into(),
        ];
        for frame in wrong {
            client.send(frame).await;
            let e = client.find(|f| if let Frame::Error(e) = f { Some(e.clone()) } else { None });
            assert_eq!(e.await.code, code::UNSUPPORTED);
        }
        client.send(Hello { hello, attestation: None }).await;
        assert_eq!(client.error().await.code, code::NO_HELLO);
        still_works(&mut client).await;
        client.close().await;
    }
}

#[tokio::test]
async fn before_the_hello_everything_else_ends_the_connection() {
    let world = World::start().await;
    for encoding in BOTH {
        let (_, envelope) = world.owner.letter(&world.mesh, world.owner.public(), 1, "x", |_| {});
        let frames: [Frame; 4] = [
            ListPeers { req: 5, after: None, key: None }.into(),
            Send { req: 5, envelope, batch: None }.into(),
            Drained {}.into(),
            ErrorFrame::permanent(code::MALFORMED, "no").into(),
        ];
        for frame in frames {
            let mut opening = world.dial(encoding).await;
            opening.raw(Message::binary(frame.encode(encoding))).await;
            let refused = opening.answer(meshwire_signaling::Hash([0; 32])).await.unwrap_err();
            assert_eq!(refused.codes(), (code::NO_HELLO, close::REFUSED));
        }
        for bytes in [&b"{"[..], b"", b"\xdf\xff\xff\xff\xff", b"{\"type\":\"later\"}"] {
            let mut opening = world.dial(encoding).await;
            opening.raw(Message::binary(bytes.to_vec())).await;
            let refused = opening.answer(meshwire_signaling::Hash([0; 32])).await.unwrap_err();
            assert_eq!(refused.codes(), (code::MALFORMED, close::REFUSED));
        }
    }
}

#[tokio::test]
async fn text_that_is_not_utf_8_closes_as_websocket_wants_it() {
    let world = World::start().await;
    let mut client = world.connect(&world.owner, Encoding::Json).await;
    let frame =
        WsFrame::message(b"{\"type\":\"\xff\xfe\"}".to_vec(), OpCode::Data(Data::Text), true);
    client.raw(Message::Frame(frame)).await.unwrap();
    // RFC 6455 section 8.1.
    assert_eq!(client.closed().await.0, 1007);
    still_works(&mut world.connect(&world.owner, Encoding::Json).await).await;
}

/// This process's resident memory, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_10_mb_close_with_1009_and_grow_nothing() {
    const HUGE: u64 = 10 * 1024 * 1024;
    let world = World::start().await;
    let mut before = 0;
    for round in 0..55 {
        if round == 5 {
            before = resident();
        }
        let mut client = world.connect(&world.owner, BOTH[round % 2]).await;
        client.pour(HUGE).await;
        assert_eq!(client.closed().await, (close::TOO_BIG, "frame too large".to_owned()));
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 * 1024 * 1024, "{grown} bytes more after 50 frames");
    still_works(&mut world.connect(&world.owner, Encoding::MsgPack).await).await;
}

#[tokio::test]
async fn the_largest_message_is_read_and_one_byte_more_is_not() {
    let world = World::start().await;
    let padded = |len: usize| {
        let frame = json!({"type": "list_peers", "req": 800, "x": ""}).to_string();
        frame.replace(r#""x":"""#, &format!(r#""x":"{}""#, "a".repeat(len - frame.len())))
    };
    let mut client = world.connect(&world.owner, Encoding::Json).await;
    client.bytes(padded(MAX_FRAME)).await.unwrap();
    assert!(matches!(client.answer(800).await, Ok(Frame::Peers(_))));
    let _ = client.bytes(padded(MAX_FRAME + 1)).await;
    assert_eq!(client.closed().await.0, close::TOO_BIG);
    // In pieces that are each small enough.
    let mut client = world.connect(&world.owner, Encoding::Json).await;
    let piece = vec![b' '; MAX_FRAME / 2];
    for i in 0..4 {
        let kind = if i == 0 { Data::Text } else { Data::Continue };
        let frame = WsFrame::message(piece.clone(), OpCode::Data(kind), false);
        if client.raw(Message::Frame(frame)).await.is_err() {
            break;
        }
    }
    assert_eq!(client.closed().await.0, close::TOO_BIG);
}
