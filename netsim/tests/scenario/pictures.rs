//! Pictures of topologies: those in docs/img are what the tool makes. To make them anew, run the tests
//! with MESHWIRE_BLESS=1.

use std::path::Path;

use meshwire_netsim::scenario::{Document, built_in};
use meshwire_netsim::svg::picture;

use super::{read, with};

/// A topology that shows most of what there is, with machines that have something to do.
const OFFICE: &str = include_str!("../../scenarios/examples/office.toml");

#[test]
fn pictures_in_the_docs_are_what_the_tool_makes() {
    let dm = Document::parse(built_in("dm").unwrap()).unwrap().only("preset", "hotel").unwrap();
    let pictures =
        [("dm-hotel", picture(&dm.cells()[0].scenario)), ("office", picture(&read(OFFICE)))];
    for (name, made) in pictures {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/img/{name}.svg"));
        if std::env::var_os("MESHWIRE_BLESS").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == made, "{name}.svg is another picture: make it anew with MESHWIRE_BLESS=1");
    }
}

#[test]
fn names_cannot_break_out_of_the_picture() {
    let text = with("about = \"<script>&\\\"\\u0007\"\n[[server]]\nname = \"s\"");
    let made = picture(&read(&text));
    assert!(made.contains("&lt;script&gt;&amp;&quot;") && !made.contains("<script>"), "{made}");
    assert!(!made.contains('\u{7}'));
}

#[test]
fn everything_is_in_the_picture() {
    let made = picture(&read(OFFICE));
    for word in
        ["carrier.router", "cgnat", "ana.lan", "printer", "1% loss", "15ms ± 3ms", "MTU 1280"]
    {
        assert!(made.contains(word), "{word}");
    }
    assert!(made.contains("prefers-color-scheme: dark"));
}
