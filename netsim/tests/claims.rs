//! Every requirement that docs/netsim.md claims has a test of its name, and every such test is claimed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

const DOCS: &str = include_str!("../../docs/netsim.md");
const TESTS: [(&str, &[&str]); 4] = [
    ("4787", &[include_str!("rfc4787.rs"), include_str!("world/main.rs")]),
    ("5382", &[include_str!("rfc5382.rs")]),
    ("5508", &[include_str!("rfc5508.rs")]),
    ("6888", &[include_str!("rfc6888.rs")]),
];

/// `5b`, of whatever is one.
fn requirement(word: &str) -> Option<String> {
    let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let right = digits.parse::<u8>().is_ok() && word.len() - digits.len() <= 1;
    right.then(|| word.to_ascii_lowercase())
}

/// What a row of the table names: `1, 2a, 10a (of it echo), 11`.
fn claimed(rfc: &str) -> BTreeSet<String> {
    let begin = format!("| {rfc} (");
    let row = DOCS.lines().find(|l| l.starts_with(&begin)).unwrap();
    let list = row.split('|').nth(2).unwrap().replace("REQ-", "");
    let mut depth = 0;
    let outside = list.chars().filter(|c| {
        depth += i32::from(*c == '(') - i32::from(*c == ')');
        depth == 0
    });
    outside.collect::<String>().split([',', ' ', ')']).filter_map(requirement).collect()
}

/// What tests are named after: `rfc4787_req_5_and_5b_mappings_last`.
fn tested(rfc: &str, sources: &[&str]) -> BTreeSet<String> {
    let begin = format!("fn rfc{rfc}_req_");
    let names = sources.iter().flat_map(|s| s.lines()).filter_map(|l| l.strip_prefix(&begin));
    let of = |name: &str| {
        let words: Vec<String> = format!("and_{name}").split('_').map(str::to_owned).collect();
        let pairs = words.windows(2).filter(|w| w[0] == "and");
        pairs.filter_map(|w| requirement(&w[1])).collect::<Vec<_>>()
    };
    names.flat_map(of).collect()
}

#[test]
fn what_is_claimed_is_tested_and_what_is_tested_is_claimed() {
    for (rfc, sources) in TESTS {
        let claimed = claimed(rfc);
        assert!(claimed.len() >= 16, "RFC {rfc}: {claimed:?}");
        assert_eq!(claimed, tested(rfc, sources), "RFC {rfc}");
    }
}
