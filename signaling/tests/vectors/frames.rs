//! `frames.json` and `refused.json`: what decodes to what, and what must not decode.

use meshwire_signaling::codec::{self, Encoding};
use meshwire_signaling::frame::{Frame, FrameError, ListPeers, http};
use serde::{Serialize, de::DeserializeOwned};

use super::{Case, file};

fn vectors() -> Case {
    file(include_str!("../../vectors/frames.json"))
}

#[test]
fn every_frame_reads_the_same_in_both_encodings() {
    let mut seen = std::collections::BTreeSet::new();
    for case in vectors().cases("frames") {
        let json = Frame::decode(Encoding::Json, case.text("json").as_bytes()).unwrap();
        let packed = Frame::decode(Encoding::MsgPack, &case.bytes("msgpack")).unwrap();
        assert_eq!(json, packed, "{}", case.name());
        assert_eq!(json.kind(), case.text("type"));
        for encoding in [Encoding::Json, Encoding::MsgPack] {
            let again = Frame::decode(encoding, &json.encode(encoding));
            assert_eq!(again.as_ref(), Ok(&json), "{}", case.name());
        }
        seen.insert(json.kind());
    }
    assert_eq!(seen, Frame::TYPES.iter().copied().collect());
}

#[test]
fn http_bodies_read_and_write() {
    fn round<T: Serialize + DeserializeOwned>(text: &str) {
        let body: T = codec::decode(Encoding::Json, text.as_bytes()).unwrap();
        let again: serde_json::Value = serde_json::to_value(&body).unwrap();
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(text).unwrap());
    }
    for case in vectors().cases("http") {
        let text = case.text("json");
        match case.text("type") {
            "BrokerInfo" => round::<http::BrokerInfo>(text),
            "CreateMesh" => round::<http::CreateMesh>(text),
            "MeshCreated" => round::<http::MeshCreated>(text),
            "InvitePreview" => round::<http::InvitePreview>(text),
            "ClaimRequest" => round::<http::ClaimRequest>(text),
            "ClaimAnswer" => round::<http::ClaimAnswer>(text),
            "HttpError" => round::<http::HttpError>(text),
            other => panic!("a body that this test does not know: {other}"),
        }
    }
}

fn encoding(case: &Case) -> Encoding {
    match case.text("encoding") {
        "json" => Encoding::Json,
        "msgpack" => Encoding::MsgPack,
        other => panic!("no encoding: {other}"),
    }
}

#[test]
fn what_must_be_refused_is_and_its_neighbours_are_not() {
    let v = file(include_str!("../../vectors/refused.json"));
    for case in v.cases("refused") {
        let got = Frame::decode(encoding(&case), &case.bytes("bytes"));
        assert!(matches!(got, Err(FrameError::Malformed { .. })), "{got:?} from {}", case.name());
    }
    for case in v.cases("accepted") {
        let got = Frame::decode(encoding(&case), &case.bytes("bytes"));
        let want = ListPeers { req: 7, after: None, key: None };
        assert_eq!(got, Ok(want.into()), "{}", case.name());
    }
}
