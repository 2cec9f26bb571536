//! Every complaint has a line, a column and a key, and says what would be valid.

use meshwire_netsim::scenario::{BUILT_IN, Document};
use proptest::prelude::*;

use super::with;

/// Lines of a scenario, where the complaint is, and what it says.
const FLAWS: &[(&str, &str, &str)] = &[
    ("[[hoem]]\nname = \"a\"", "line 3, column 3, hoem", "did you mean \"home\"?"),
    ("[[home]]", "line 3, column 1, home", "\"name\" is missing here"),
    ("[[home]]\nname = 7", "line 4, column 8, home.name", "must be text in quotation marks"),
    ("[[home]]\nname = \"a b\"", "line 4, column 8, home.name", "is no name"),
    (
        "[[home]]\nname = \"a\"\npreset = \"hotell\"",
        "line 5, column 10, home.preset",
        "did you mean \"hotel\"?",
    ),
    (
        "[[home]]\nname = \"a\"\nlink = { latency = \"40\" }",
        "line 5, column 20, home.link.latency",
        "such as \"40ms\"",
    ),
    (
        "[[home]]\nname = \"a\"\nlink = { los = \"4%\" }",
        "line 5, column 10, home.link.los",
        "did you mean \"loss\"?",
    ),
    (
        "[[home]]\nname = \"a\"\nlink = { queue = \"4kB\" }",
        "line 5, column 8, home.link",
        "a queue needs a rate",
    ),
    (
        "[[home]]\nname = \"a\"\nlink = { rate = \"1mbit\", queue = \"100\" }",
        "line 5, column 8, home.link",
        "holds no packet of the link's MTU",
    ),
    (
        "[[home]]\nname = \"a\"\nlink = { loss = \"1%\", burst = { enter = \"1%\", leave = \"9%\" } }",
        "line 5, column 31, home.link.burst",
        "either loss or burst",
    ),
    ("[[home]]\nname = \"a\"\nbehind = \"b\"", "line 5, column 10, home.behind", "no home \"b\""),
    (
        "[[home]]\nname = \"a\"\nbehind = \"a\"",
        "line 3, column 1, home",
        "this home is behind itself",
    ),
    ("[[home]]\nname = \"a\"\n[[home]]\nname = \"a\"", "line 5, column 1, home", "used twice"),
    (
        "[[host]]\nname = \"a\"\nnetwork = \"lan\"\naddresses = [\"10.0.0.1\"]",
        "line 3, column 1, host",
        "there is no network \"lan\"",
    ),
    (
        "[[router]]\nname = \"r\"\naddresses = [\"11.0.0.1\"]\npreset = \"hotel\"\nnat = {}",
        "line 3, column 1, router",
        "either a preset, or nat and firewall",
    ),
    (
        "[[router]]\nname = \"r\"\naddresses = [\"2600::1\"]\npreset = \"hotel\"",
        "line 3, column 1, router",
        "a NAT needs at least one IPv4 address outside",
    ),
    (
        "[[router]]\nname = \"r\"\naddresses = [\"11.0.0.1\"]\nnat = { ports = \"preserving-shared\" }",
        "line 3, column 1, router",
        "address-and-port-dependent",
    ),
    (
        "[[router]]\nname = \"r\"\naddresses = [\"11.0.0.1\"]\nfirewall = { outbound = [{ action = \"drop\", ports = 53 }] }",
        "line 6, column 53, router.firewall.outbound.ports",
        "only UDP and TCP have ports",
    ),
    ("[[node]]\nname = \"a\"", "line 3, column 1, node", "nodes need a broker"),
    (
        "[broker]\n[[node]]\nname = \"a\"\nhost = \"b\"",
        "line 4, column 1, node",
        "there is no host \"b\"",
    ),
    (
        "[broker]\n[[node]]\nname = \"ana\"\n[[timeline]]\nsend = { from = \"ana\", to = \"anna\" }",
        "line 7, column 1, timeline.send",
        "did you mean \"ana\"?",
    ),
    (
        "[[timeline]]\nat = \"1s\"",
        "line 3, column 1, timeline",
        "each step does one thing, this one 0",
    ),
    (
        "[[timeline]]\nheal = \"internet\"\nreboot = \"x\"",
        "line 3, column 1, timeline",
        "this one 2",
    ),
    (
        "[[timeline]]\nblack_hole = \"nobody\"",
        "line 4, column 1, timeline.black_hole",
        "nothing is named \"nobody\"",
    ),
    (
        "[[server]]\nname = \"web\"\n[[timeline]]\nlink = { of = \"web\", mtu = 1280, queue = \"9kB\" }",
        "line 6, column 8, timeline.link",
        "a queue needs a rate",
    ),
    (
        "[[home]]\nname = \"a\"\npreset = \"hotel\"\n[[timeline]]\naddress = { of = \"a\", addresses = [\"2600::9\"] }",
        "line 7, column 1, timeline.address",
        "a NAT needs at least one IPv4 address outside",
    ),
    (
        "[[home]]\nname = \"a\"\n[[timeline]]\npartition = { parts = [[\"a.0\"]] }",
        "line 6, column 1, timeline.partition",
        "\"a.0\" is not in network \"internet\"",
    ),
    (
        "[[assert]]\ndelivered = { from = \"a\", to = \"b\", none = true, in_order = true }",
        "line 4, column 13, assert.delivered",
        "neither order nor time",
    ),
    (
        "[[assert]]\npath = { from = \"a\", to = \"b\", kind = \"dircet\" }",
        "line 4, column 39, assert.path.kind",
        "did you mean \"direct\"?",
    ),
    (
        "[[assert]]\npath = { from = \"a\", to = \"b\", kind = \"relay\", within = \"1s\" }",
        "line 4, column 8, assert.path",
        "from the first on",
    ),
    (
        "[[assert]]\npath = { from = \"a\", to = \"b\", kind = \"turn\", after = \"x\" }",
        "line 4, column 1, assert.path",
        "no step with the id \"x\"",
    ),
    (
        "[[timeline]]\nwait_for = { path = { from = \"a\", to = \"b\", kind = \"rely\" } }",
        "line 4, column 52, timeline.wait_for.path.kind",
        "did you mean \"relay\"?",
    ),
    (
        "[broker]\n[[node]]\nname = \"a\"\npaths = \"relay\"",
        "line 6, column 9, node.paths",
        "did you mean \"relay-only\"?",
    ),
    ("[[assert]]\nbytes = { host = \"a\" }", "line 4, column 9, assert.bytes", "give above, below"),
    (
        "[[assert]]\nbytes = { host = \"a\", above = \"9\", below = \"10\" }",
        "line 4, column 9, assert.bytes",
        "no number is above 9 and below 10",
    ),
    (
        "[[assert]]\nexit = { exec = \"web\" }",
        "line 4, column 1, assert.exit",
        "there is no exec with the id \"web\"",
    ),
    (
        "[[assert]]\ndropped = { reason = \"los\", above = 0 }",
        "line 4, column 22, assert.dropped.reason",
        "did you mean \"loss\"?",
    ),
    ("[matrix]\nfar = []", "line 4, column 1, matrix.far", "each key with 1 value or more"),
    ("[[home]]\nname = \"$n\"", "line 4, column 8, home.name", "there is no [matrix]"),
    ("[[home]\nname = 1", "line 3, column 8", ""),
];

#[test]
fn flaws_are_where_they_are() {
    let mut wrong = Vec::new();
    for (lines, place, says) in FLAWS {
        let flaws = Document::parse(&with(lines)).expect_err(lines).to_string();
        if !flaws.lines().any(|l| l.starts_with(&format!("{place}: ")) && l.contains(says)) {
            wrong.push(format!("{lines}\nwanted {place}: {says}\ngot {flaws}\n"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_flaws_are_said_at_once_in_order() {
    let text = with("[[home]]\nname = \"a\"\npreset = \"x\"\nlink = { rate = \"1\", mtu = 5 }");
    let flaws = Document::parse(&text).unwrap_err();
    let lines: Vec<usize> = flaws.all().iter().map(|f| f.place.line).collect();
    assert_eq!(lines, [5, 6, 6]);
}

#[test]
fn files_without_end_are_not_read() {
    let text = with(&"#".repeat(2 << 20));
    let flaws = Document::parse(&text).unwrap_err().to_string();
    assert!(flaws.contains("at most 1048576 bytes"), "{flaws}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is done to a file: it is read or refused.
    #[test]
    fn nothing_panics(
        which in 0..BUILT_IN.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<char>(), 0..3_u8), 1..8),
    ) {
        // One cell is enough here.
        let text = BUILT_IN[which].1.replace("\"all\"", "[\"hotel\"]");
        let mut chars: Vec<char> = text.chars().collect();
        for (at, c, kind) in edits {
            let at = at.index(chars.len());
            match kind {
                0 => chars[at] = c,
                1 => { chars.remove(at); }
                _ => chars.insert(at, chars[(at * 7) % chars.len()]),
            }
        }
        let text: String = chars.into_iter().collect();
        if let Err(flaws) = Document::parse(&text) {
            prop_assert!(!flaws.all().is_empty());
        }
    }
}
