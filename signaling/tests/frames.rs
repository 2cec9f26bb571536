//! Properties of every frame: it survives both encodings, and nothing that comes instead of it does
//! more than give an error.

#![allow(clippy::unwrap_used)] // helpers of tests

#[path = "frames/strategies.rs"]
mod strategies;

use meshwire_signaling::codec::{CodecError, Encoding};
use meshwire_signaling::frame::{Frame, FrameError, Ok as OkFrame};
use meshwire_signaling::limits::{MAX_DEPTH, MAX_FRAME, MAX_INT};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use serde_json::{Value, json};
use strategies::{all, any_frame, signed_of};

const BOTH: [Encoding; 2] = [Encoding::MsgPack, Encoding::Json];

fn config(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..Config::default()
    }
}

/// The examples of `vectors/frames.json`: every type, with and without its options.
fn examples() -> Vec<Frame> {
    let file: Value = serde_json::from_str(include_str!("../vectors/frames.json")).unwrap();
    let frames = file["frames"].as_array().unwrap().iter();
    let text = |f: &Value| f["json"].as_str().unwrap().as_bytes().to_vec();
    frames.map(|f| Frame::decode(Encoding::Json, &text(f)).unwrap()).collect()
}

fn malformed(result: Result<Frame, FrameError>) -> Option<u64> {
    match result {
        Err(FrameError::Malformed { req, .. }) => req,
        other => panic!("not malformed: {other:?}"),
    }
}

#[test]
fn every_type_has_a_strategy_and_an_example() {
    let mut types = Frame::TYPES.to_vec();
    types.sort_unstable();
    assert_eq!(all().into_keys().collect::<Vec<_>>(), types);
    let mut kinds: Vec<_> = examples().iter().map(Frame::kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, types);
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn strategies_make_the_type_that_they_are_named_after(
        frames in all().into_values().collect::<Vec<_>>()
    ) {
        for (frame, name) in frames.iter().zip(all().into_keys()) {
            prop_assert_eq!(frame.kind(), name);
            for encoding in BOTH {
                let bytes = frame.encode(encoding);
                prop_assert_eq!(&Frame::decode(encoding, &bytes), &Ok(frame.clone()));
            }
        }
    }
}

proptest! {
    #![proptest_config(config(2_000))]

    #[test]
    fn a_cut_frame_is_an_error(frame in any_frame(), at in any::<prop::sample::Index>()) {
        for encoding in BOTH {
            let bytes = frame.encode(encoding);
            let cut = at.index(bytes.len());
            prop_assert!(Frame::decode(encoding, &bytes[..cut]).is_err());
        }
    }

    #[test]
    fn flipped_bytes_never_panic(
        frame in any_frame(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..8),
    ) {
        for encoding in BOTH {
            let mut bytes = frame.encode(encoding);
            for (at, xor) in &flips {
                let at = at.index(bytes.len());
                bytes[at] ^= xor;
            }
            let _ = Frame::decode(encoding, &bytes);
        }
    }

    #[test]
    fn unknown_fields_are_ignored(frame in any_frame(), deep in 0..MAX_DEPTH) {
        let mut value: Value = serde_json::from_slice(&frame.encode(Encoding::Json)).unwrap();
        let nested = (1..deep).fold(json!({"type": "no", "req": 1}), |v, _| json!([v]));
        value["zz"] = nested;
        let got = Frame::decode(Encoding::Json, value.to_string().as_bytes());
        prop_assert_eq!(got.as_ref(), Ok(&frame));

        let mut packed = frame.encode(Encoding::MsgPack);
        packed[0] += 1;
        prop_assert!((0x80..=0x8f).contains(&packed[0]), "frames have under 15 fields");
        packed.extend_from_slice(b"\xa2zz");
        packed.extend(std::iter::repeat_n(0x91, deep.max(1) - 1));
        packed.extend_from_slice(b"\x81\xa3req\x01");
        let got = Frame::decode(Encoding::MsgPack, &packed);
        prop_assert_eq!(got.as_ref(), Ok(&frame));
    }

    #[test]
    fn unknown_types_are_named_with_their_request(
        kind in "[a-z0-9_.]{1,64}", req in prop::option::of(0..=MAX_INT), first in any::<bool>(),
    ) {
        prop_assume!(!Frame::TYPES.contains(&kind.as_str()));
        #[derive(serde::Serialize)]
        struct Unknown<'a> { a: Option<u64>, #[serde(rename = "type")] kind: &'a str, req: Option<u64> }
        let value = Unknown { a: first.then_some(1), kind: &kind, req };
        for encoding in BOTH {
            let bytes = meshwire_signaling::codec::encode(encoding, &value);
            let want = FrameError::UnknownType { kind: kind.clone(), req };
            prop_assert_eq!(Frame::decode(encoding, &bytes), Err(want));
        }
    }

    #[test]
    fn integers_end_at_two_to_the_53(n in any::<u64>()) {
        for encoding in BOTH {
            let got = Frame::decode(encoding, &Frame::from(OkFrame { req: n }).encode(encoding));
            prop_assert_eq!(got.is_ok(), n <= MAX_INT);
        }
    }
}

/// Bytes that look like MessagePack: small maps, known keys, lengths that lie.
const PIECES: &[&[u8]] = &[
    b"\x82\xa4type",
    b"\x8f",
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\x7f\xff\xff\xff",
    b"\xa4send",
    b"\xa4type",
    b"\xa3req",
    b"\xa8envelope",
    b"\xa4peer",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\x80\x00\x00\x00",
    b"\xc4\x02ab",
    b"\xa0",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
    b"\xd0\x80",
    b"\xd6\xff",
    b"\xc1",
    b"\xc0",
    b"\x91",
    b"\x07",
];

proptest! {
    #![proptest_config(config(2_000))]

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for encoding in BOTH {
            let _ = Frame::decode(encoding, &bytes);
        }
    }

    #[test]
    fn packed_pieces_never_panic(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..24)
    ) {
        let _ = Frame::decode(Encoding::MsgPack, &pieces.concat());
    }

    #[test]
    fn text_that_looks_like_json_never_panics(pieces in prop::collection::vec(prop_oneof![
        Just("{".to_owned()), Just("}".into()), Just("[".into()), Just("]".into()), Just(",".into()),
        Just(":".into()), Just("\"type\"".into()), Just("\"send\"".into()), Just("\"req\"".into()),
        Just("\"".into()), Just("\\u".into()), Just("\\ud800".into()), Just("-".into()),
        Just("1e999".into()), Just("null".into()), Just("true".into()), Just(" ".into()),
        "[0-9]{1,24}", "\"[a-z]{0,8}\"", "\\PC{0,4}",
    ], 0..40)) {
        let text = pieces.concat();
        let _ = Frame::decode(Encoding::Json, text.as_bytes());
        let _ = Frame::decode(Encoding::Json, format!("{{\"type\":\"send\",{text}}}").as_bytes());
    }
}

#[test]
fn every_cut_of_every_example_is_an_error() {
    for frame in examples() {
        for encoding in BOTH {
            let bytes = frame.encode(encoding);
            for cut in 0..bytes.len() {
                assert!(
                    Frame::decode(encoding, &bytes[..cut]).is_err(),
                    "{} at {cut}",
                    frame.kind()
                );
            }
        }
    }
}

#[test]
fn a_field_of_the_wrong_type_is_malformed_and_the_request_is_known() {
    for frame in examples() {
        let value: Value = serde_json::from_slice(&frame.encode(Encoding::Json)).unwrap();
        for (field, old) in value.as_object().unwrap() {
            if field == "type" {
                continue;
            }
            let wrong = [json!(true), json!("\u{1}"), json!(-1), json!([[]]), json!({"q": []})];
            for new in wrong {
                // Codes, messages and the like may be any text, flags either way; a profile needs
                // none of its fields.
                if (new.is_boolean() && old.is_boolean())
                    || (new.is_string() && is_free_text(frame.kind(), field))
                    || (new.is_object() && field == "profile")
                {
                    continue;
                }
                let mut bad = value.clone();
                bad[field] = new.clone();
                let req = malformed(Frame::decode(Encoding::Json, bad.to_string().as_bytes()));
                assert_eq!(req, bad["req"].as_u64(), "{} {field} {new}", frame.kind());
            }
        }
    }
}

fn is_free_text(kind: &str, field: &str) -> bool {
    kind != "unbound" && ["reason", "code", "message", "summary", "adapter"].contains(&field)
}

#[test]
fn a_missing_field_is_malformed_in_both_encodings() {
    #[derive(serde::Serialize)]
    struct Bare<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        req: u64,
    }
    for kind in Frame::TYPES {
        for encoding in BOTH {
            let bytes = meshwire_signaling::codec::encode(encoding, &Bare { kind, req: 7 });
            match (*kind, Frame::decode(encoding, &bytes)) {
                (
                    "ok" | "drained" | "invite_list" | "list_peers" | "bye" | "resync"
                    | "disconnect" | "turn_credentials" | "turn_servers",
                    got,
                ) => assert!(got.is_ok()),
                (_, got) => assert_eq!(malformed(got), Some(7), "{kind}"),
            }
        }
    }
}

#[test]
fn a_frame_over_the_limit_is_refused_by_its_length_alone() {
    let huge = vec![0x91; 10_000_000];
    for encoding in BOTH {
        let error = CodecError::TooLong { len: huge.len(), max: MAX_FRAME };
        let want = FrameError::Malformed { error, req: None };
        assert_eq!(Frame::decode(encoding, &huge), Err(want));
    }
    let just = vec![0x91; MAX_FRAME];
    assert!(matches!(
        Frame::decode(Encoding::MsgPack, &just),
        Err(FrameError::Malformed { error: CodecError::Invalid(_), .. })
    ));
}

#[test]
fn lengths_that_lie_end_with_the_input() {
    // In a field that is known, in one that is not, and as the frame itself.
    let heads = [
        &b"\x83\xa4type\xa5peers\xa3req\x07\xa5peers"[..],
        b"\x83\xa4type\xa4send\xa3req\x07\xa8envelope",
        b"\x83\xa4type\xa5bound\xa3req\x07\xa3key",
        b"\x83\xa4type\xa2ok\xa3req\x07\xa1z",
        b"",
    ];
    let lies = ["dd", "df", "db", "c6"].map(|m| hex::decode(format!("{m}ffffffff")).unwrap());
    for head in heads {
        for lie in &lies {
            for tail in [&b""[..], &[0xc0; 64]] {
                let bytes = [head, lie, tail].concat();
                malformed(Frame::decode(Encoding::MsgPack, &bytes));
            }
        }
    }
}

#[test]
fn the_largest_group_send_fits_a_frame() {
    use meshwire_signaling::envelope::Proof;
    use meshwire_signaling::frame::{Batch, Send};
    use meshwire_signaling::id::Blob;
    use meshwire_signaling::limits::{MAX_BODY, MAX_HEADER, MAX_WRAPS};
    use meshwire_signaling::seal::{WRAP, Wrap};
    use meshwire_signaling::{Envelope, PublicKey, Signature, invite};

    let link = invite::Link {
        capability: signed_of(400),
        claim: signed_of(500),
        proof: Signature([9; 64]),
        countersign: signed_of(100),
    };
    let chain = invite::Chain { genesis: signed_of(700), links: vec![link; 8] };
    let envelope = Envelope {
        v: 2,
        header: Blob(vec![1; MAX_HEADER]),
        body: Blob(vec![2; MAX_BODY]),
        sig: Signature([3; 64]),
        proof: Some(Box::new(Proof { chain, attestation: Some(signed_of(2_000)) })),
        wraps: vec![Wrap { to: PublicKey([4; 32]), key: Blob(vec![5; WRAP]) }; MAX_WRAPS],
    };
    let frame = Frame::from(Send {
        req: MAX_INT,
        envelope,
        batch: Some(Batch { index: u32::MAX, last: true }),
    });
    for encoding in BOTH {
        let bytes = frame.encode(encoding);
        assert!(bytes.len() <= MAX_FRAME, "{} bytes in {encoding:?}", bytes.len());
        assert_eq!(Frame::decode(encoding, &bytes).as_ref(), Ok(&frame));
    }
}
