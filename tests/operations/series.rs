//! The dashboard and the alerts use what a real broker shows.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use super::common::{Broker, Pair, pair};
use super::document;

/// The body of an answer to GET, whose status is 200.
fn get(broker: &Broker, path: &str) -> String {
    let mut stream = TcpStream::connect(&broker.addr).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// The series of brokers that an expression names, each with what stands between its braces.
fn used(expr: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = expr;
    while let Some(at) = rest.find("broker_") {
        let inside_a_name = rest[..at].chars().next_back().is_some_and(is_name);
        let name: String = rest[at..].chars().take_while(|c| is_name(*c)).collect();
        rest = &rest[at + name.len()..];
        let braces = rest.strip_prefix('{').and_then(|r| r.split_once('}'));
        if !inside_a_name {
            found.push((name, braces.map_or("", |(inside, _)| inside).to_owned()));
        }
    }
    found
}

/// The alternatives that a selector names for labels of the broker's own, `label="value"`.
fn labels(selector: &str) -> Vec<String> {
    let own = selector.split(',').filter(|l| !l.trim().is_empty() && !l.contains('$'));
    own.flat_map(|l| {
        let (label, values) = l.split_once("=~").or_else(|| l.split_once('=')).unwrap();
        let values = values.trim_matches('"').split('|');
        values.map(|v| format!("{}=\"{v}\"", label.trim())).collect::<Vec<_>>()
    })
    .collect()
}

/// Names of the samples in a text of `/metrics`.
fn samples(metrics: &str) -> BTreeSet<&str> {
    let lines = metrics.lines().filter(|l| !l.starts_with('#'));
    lines.map(|l| l.split(['{', ' ']).next().unwrap()).collect()
}

fn assert_shown(metrics: &str, expr: &str, place: &str) {
    let names = samples(metrics);
    let used = used(expr);
    assert!(
        !used.is_empty() || expr.starts_with("up{"),
        "{place} asks for nothing of ours: {expr}"
    );
    for (name, selector) in used {
        assert!(names.contains(name.as_str()), "{place}: no broker shows {name}");
        for label in labels(&selector) {
            let has = |l: &str| l.starts_with(&format!("{name}{{")) && l.contains(&label);
            assert!(metrics.lines().any(has), "{place}: {name} has no {label}");
        }
    }
}

/// All values of `expr` in a JSON document, and the number of places that may have one.
fn exprs<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("expr").and_then(Value::as_str));
            map.values().for_each(|v| exprs(v, found));
        }
        Value::Array(all) => all.iter().for_each(|v| exprs(v, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_series_that_exist() {
    let broker = Broker::start(&[]);
    let metrics = get(&broker, "/metrics");

    let dashboard: Value = serde_json::from_str(&document("grafana.json")).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        let mut found = Vec::new();
        exprs(panel, &mut found);
        assert!(!found.is_empty(), "{title} shows nothing");
        found.iter().for_each(|expr| assert_shown(&metrics, expr, title));
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(definition) = variable["definition"].as_str() {
            assert_shown(&metrics, definition, "a variable");
        }
    }

    // Each rule is written with one line per key, which is all that is read here.
    let alerts = document("alerts.yaml");
    let mut rules = 0;
    let mut name = "";
    for line in alerts.lines().map(str::trim) {
        if let Some(alert) = line.strip_prefix("- alert: ") {
            name = alert;
            rules += 1;
        } else if let Some(expr) = line.strip_prefix("expr: ") {
            assert!(!expr.starts_with(['|', '>', '"', '\'']), "{name}: write it on one line");
            assert_shown(&metrics, expr, name);
            rules -= 1;
        }
    }
    assert_eq!(rules, 0, "each alert has one expression");
    assert!(alerts.matches("- alert:").count() >= 4, "those of the inventory at least");
}

#[test]
fn series_that_do_not_exist_are_noticed() {
    let metrics = "broker_a_total{reason=\"x\"} 0\nbroker_b 1\n";
    let shown =
        |expr: &str| std::panic::catch_unwind(|| assert_shown(metrics, expr, "here")).is_ok();
    assert!(shown("rate(broker_a_total{reason=\"x\"}[5m]) > 0 and broker_b{instance=~\"$i\"}"));
    assert!(!shown("broker_b + broker_c"));
    assert!(!shown("broker_a_total{reason=~\"x|y\"}"));
    assert!(!shown("1 + 1"));
}

#[test]
fn metrics_count_what_happens_and_health_tells() {
    let Pair { ana, bob, broker } = pair();
    ana.ok(&["send", "bob", "one"]);
    bob.ok(&["inbox"]);
    ana.ok(&["send", "bob", "two"]);
    // Gauges that are read and not counted may be a second old.
    let queued = || {
        let metrics = get(&broker, "/metrics");
        let done = metrics.lines().any(|l| l == "broker_queue_depth 1");
        done.then_some(metrics)
    };
    let metrics = super::common::until("the queue is seen", queued);
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find(|l| l.split(' ').next() == Some(name));
        let line = line.unwrap_or_else(|| panic!("{name}:\n{metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(value("broker_db_healthy"), 1.0);
    assert_eq!(value("broker_messages_routed_total{priority=\"next\"}"), 2.0);
    assert!(value("broker_connections_total") >= 3.0);
    assert!(value("broker_database_bytes") > 4_096.0);
    assert!(value("broker_data_free_bytes") > 0.0);
    assert!(value("broker_uptime_seconds") >= 0.0);
    assert!(metrics.ends_with("# EOF\n"));
    let health: Value = serde_json::from_str(&get(&broker, "/health")).unwrap();
    assert_eq!((health["status"].as_str(), health["db"].as_str()), (Some("ok"), Some("ok")));
    let ready: Value = serde_json::from_str(&get(&broker, "/health/ready")).unwrap();
    assert_eq!(ready["status"], "ready");
}
