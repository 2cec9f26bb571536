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

#[test]
fn counts_that_make_no_sense_are_refused() {
    for args in [&["rtt", "--count", "0"][..], &["connect", "--count", "many"]] {
        let said = Home::new().run(&[&["bench"], args].concat());
        assert_ne!(said.status, 0, "{args:?}");
        assert!(said.stderr.contains("--count"), "{}", said.stderr);
    }
}
