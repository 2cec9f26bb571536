//! `docs/protocol.md` names everything that the source does: a reminder when one of them changes.

#![allow(clippy::unwrap_used)] // helpers of tests

use meshwire_signaling::frame::Frame;

const DOC: &str = include_str!("../../docs/protocol.md");

/// The text constants of a source file: what stands between `before` and the next quote.
fn constants<'a>(source: &'a str, before: &str) -> Vec<&'a str> {
    let source = source.split("#[cfg(test)]").next().unwrap();
    let found: Vec<_> =
        source.split(before).skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(!found.is_empty(), "nothing like {before:?} in the source any more");
    found
}

/// The section of a heading, up to the next heading of any level.
fn section(heading: &str) -> &'static str {
    let start = DOC.find(&format!("\n{heading}")).unwrap_or_else(|| panic!("no {heading}")) + 1;
    let body = &DOC[start + heading.len()..];
    body.split("\n#").next().unwrap()
}

fn assert_named(words: &[&str], place: &str) {
    for word in words {
        assert!(place.contains(&format!("`{word}`")), "{word} is not in docs/protocol.md");
    }
}

#[test]
fn domains_are_documented() {
    let domains = constants(include_str!("../src/sign.rs"), "= Domain(\"");
    assert_named(&domains, section("## 4. Signatures"));
}

#[test]
fn error_codes_and_reasons_are_documented() {
    let codes = constants(include_str!("../src/frame/error.rs"), ": &str = \"");
    assert_named(&codes, section("## 17. Error codes"));
    let reasons = constants(include_str!("../src/receipt.rs"), ": &str = \"");
    assert_named(&reasons, section("## 9. Receipts"));
    let features = constants(include_str!("../src/frame/hello.rs"), ": &str = \"");
    assert_named(&features, section("## 11. Hello"));
}

#[test]
fn close_codes_are_documented() {
    let source = include_str!("../src/frame/error.rs");
    let place = section("## 18. Close codes");
    let codes: Vec<_> = source.split(": u16 = ").skip(1).collect();
    assert!(!codes.is_empty());
    for code in codes {
        let code = code.split(';').next().unwrap();
        assert!(place.contains(&format!("\n| {code} |")), "close code {code}");
    }
}

#[test]
fn every_frame_has_its_section_its_fields_and_an_example() {
    let file: serde_json::Value =
        serde_json::from_str(include_str!("../vectors/frames.json")).unwrap();
    let vectors = file["frames"].as_array().unwrap();
    for kind in Frame::TYPES {
        let place = section(&format!("### {kind} ("));
        let json = place.split("```json\n").nth(1).and_then(|rest| rest.split("\n```").next());
        let example: serde_json::Value =
            serde_json::from_str(json.unwrap_or_else(|| panic!("no example of {kind}"))).unwrap();
        assert_eq!(example["type"], **kind);
        for vector in vectors.iter().filter(|v| v["type"] == **kind) {
            let frame: serde_json::Value =
                serde_json::from_str(vector["json"].as_str().unwrap()).unwrap();
            for field in frame.as_object().unwrap().keys().filter(|f| *f != "type") {
                assert!(place.contains(&format!("`{field}`")), "{kind} {field}");
            }
            for field in example.as_object().unwrap().keys() {
                let known = vectors.iter().any(|v| {
                    v["type"] == **kind
                        && v["json"].as_str().unwrap().contains(&format!("\"{field}\""))
                });
                assert!(known, "{kind} has no field {field}");
            }
        }
    }
}

#[test]
fn fields_of_signed_objects_are_documented() {
    let file: serde_json::Value =
        serde_json::from_str(include_str!("../vectors/layouts.json")).unwrap();
    let objects = file["signed"].as_array().unwrap().iter().map(|c| &c["object"]);
    let messages = ["header", "content", "json"]
        .map(|k| file["envelopes_box"].as_array().unwrap().iter().map(move |c| &c[k]));
    for object in objects.chain(messages.into_iter().flatten()) {
        for field in object.as_object().unwrap().keys() {
            assert!(DOC.contains(&format!("`{field}`")), "{field}");
        }
    }
}

#[test]
fn transport_words_are_documented() {
    use meshwire_signaling::codec::Encoding;
    let label = std::str::from_utf8(meshwire_signaling::frame::EXPORTER_LABEL).unwrap();
    assert_named(
        &[Encoding::MsgPack.subprotocol(), Encoding::Json.subprotocol(), label, "/v2/ws"],
        section("## 1. Transport"),
    );
}
