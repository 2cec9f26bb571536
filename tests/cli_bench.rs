//! `meshwire bench` in small: it runs, ends, leaves nothing behind, and prints what it should. How fast
//! things are is nothing that a test can say.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::Home;
use serde_json::Value;
use tempfile::TempDir;

/// Runs a benchmark; what it says with `--json`, and what people get to see.
fn bench(args: &[&str]) -> (Value, String) {
    let (home, temporary) = (Home::new(), TempDir::new().unwrap());
    let env = [("TMPDIR", temporary.path().to_str().unwrap())];
    let said = home.run_with_env(&[&["bench"], args].concat(), &env);
    assert_eq!(said.status, 0, "{}", said.stderr);
    assert_eq!(said.json["schema_version"], 1);
    assert_eq!(said.json["optimised"], !cfg!(debug_assertions));
    let text = home.text(&[&["bench"], args].concat());
    assert_eq!(text.status, 0, "{}", text.stderr);
    assert!(!home.path().exists(), "it has homes of its own");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "nothing stays behind");
    (said.json, text.stdout)
}

fn is_spread(spread: &Value, count: u64) {
    assert_eq!(spread["count"], count, "{spread}");
    let at = |field: &str| spread[field].as_f64().unwrap();
    assert!(at("p50_us") > 0.0, "{spread}");
    assert!(at("p50_us") <= at("p90_us") && at("p90_us") <= at("p99_us"), "{spread}");
}

#[test]
fn round_trips_stand_beside_raw_quinn() {
    let (json, text) = bench(&["rtt", "--baseline", "--count", "3"]);
    let rows = json["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 7, "{json}");
    for row in rows {
        is_spread(row, 3);
        assert!(row["ratio"].as_f64().unwrap() > 0.0, "{row}");
        assert!(text.contains(row["what"].as_str().unwrap()), "{text}");
    }
    assert_eq!(rows[0]["what"], "raw quinn, there and back");
    assert_eq!(rows[0]["ratio"], 1.0);
}

#[test]
fn without_a_baseline_there_is_no_ratio() {
    let (json, text) = bench(&["rtt", "--count", "1"]);
    let rows = json["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 6, "{json}");
    assert!(rows.iter().all(|row| row.get("ratio").is_none()), "{json}");
    assert!(!text.contains("raw quinn"), "{text}");
}

#[test]
fn first_messages_stand_beside_those_of_the_relay_alone() {
    let (json, text) = bench(&["connect", "--count", "2"]);
    for field in
        ["delivered_direct", "delivered_relay", "receipt_direct", "receipt_relay", "path_up"]
    {
        is_spread(&json[field], 2);
    }
    let added = json["delivered_direct"]["p50_us"].as_f64().unwrap()
        - json["delivered_relay"]["p50_us"].as_f64().unwrap();
    assert!((json["added_us"].as_f64().unwrap() - added).abs() < 1.0, "{json}");
    assert!(text.contains("direct path up\t"), "{text}");
}

#[test]
#[cfg(target_os = "linux")]
fn idle_pairs_are_weighed() {
    let (json, text) = bench(&["idle", "--count", "2", "--seconds", "1"]);
    assert_eq!((&json["pairs"], &json["meshes"]), (&2.into(), &1.into()), "{json}");
    let memory = |field: &str| json[field].as_u64().unwrap();
    assert!(memory("rss_alone") > 1 << 20, "{json}");
    assert!(memory("rss_direct") > 1 << 20 && json["wakeups"].is_u64(), "{json}");
    assert!(text.contains("per direct path\t"), "{text}");
}

/// Bulk of 2 MiB: its figures; what must be there whatever the way.
#[cfg(target_os = "linux")]
fn bulk(path: &str, streams: &str, more: &[&str]) -> (Value, String) {
    let args = ["stream", "--path", path, "--size", "2MiB", "--rounds", "1", "--streams", streams];
    let (json, text) = bench(&[&args, more].concat());
    assert_eq!((&json["path"], &json["bytes"]), (&path.into(), &(2 << 20).into()), "{json}");
    assert_eq!(json["streams"].to_string(), streams, "{json}");
    let number = |field: &str| json[field].as_f64().unwrap();
    assert!(number("seconds") > 0.0 && number("mb_s") > 0.0, "{json}");
    assert!(number("first_s") <= number("last_s") && number("fairness") >= 1.0, "{json}");
    assert!(json["rss"]["sender"].as_u64().unwrap() > 1 << 20, "{json}");
    assert_eq!(json["each_mb_s"].as_array().unwrap().len(), 1, "{json}");
    (json, text)
}

#[test]
#[cfg(target_os = "linux")]
fn bulk_stands_beside_raw_quinn() {
    let (json, text) = bulk("quic", "2", &["--baseline", "--messages"]);
    assert_eq!((&json["paths"], &json["reach"]), (&["quic"].into(), &["host"].into()), "{json}");
    for process in ["broker", "receiver"] {
        assert!(json["rss"][process].as_u64().unwrap() > 1 << 20, "{json}");
    }
    assert!(json["raw"]["mb_s"].as_f64().unwrap() > 0.0, "{json}");
    assert!(json["ratio"].as_f64().unwrap() > 0.0, "{json}");
    let count = json["messages"]["count"].as_u64().unwrap();
    assert!(count > 0, "{json}");
    is_spread(&json["messages"], count);
    for row in ["raw quinn\t", "first and last stream\t", "messages, until their receipt\t"] {
        assert!(text.contains(row), "{text}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn bulk_takes_the_way_that_was_asked_for() {
    for (path, seen, reach) in
        [("relay", "relay", &[][..]), ("turn", "quic", &["relayed"]), ("memory", "memory", &[])]
    {
        let (json, text) = bulk(path, "1", &[]);
        assert_eq!((&json["paths"], &json["reach"]), (&[seen].into(), &reach.into()), "{json}");
        assert!(json.get("ratio").is_none() && json.get("messages").is_none(), "{json}");
        assert!(text.contains(&format!("path\t{seen}")), "{text}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn bulk_that_makes_no_sense_is_refused() {
    for (args, said) in [
        (&["--path", "quic", "--size", "1gb"][..], "did you mean 1GB?"),
        (&["--path", "carrier-pigeon"], "turn"),
        (&["--path", "quic", "--size", "5", "--streams", "6"], "--size 5"),
        (&["--path", "memory", "--messages"], "--messages"),
        (&["--size", "1MiB"], "--path"),
    ] {
        let refused = Home::new().run(&[&["bench", "stream"], args].concat());
        assert_ne!(refused.status, 0, "{args:?}");
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
}

#[test]
fn counts_that_make_no_sense_are_refused() {
    for args in [&["rtt", "--count", "0"][..], &["connect", "--count", "many"]] {
        let said = Home::new().run(&[&["bench"], args].concat());
        assert_ne!(said.status, 0, "{args:?}");
        assert!(said.stderr.contains("--count"), "{}", said.stderr);
    }
}
