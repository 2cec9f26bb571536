//! What members say of themselves, who closes whose connections, and how far away somebody is.

// Helpers fail their test, as assertions do.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Broker, Home, Pair, Running, pair, until};
use serde_json::Value;

fn peer(home: &Home, name: &str) -> Value {
    let peers = home.ok(&["peers"])["peers"].clone();
    let found = peers.as_array().unwrap().iter().find(|p| p["name"] == name).cloned();
    found.unwrap_or(Value::Null)
}

/// Waits until a home's row for a peer is so.
fn sees(home: &Home, name: &str, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    until(&format!("{name} {what}"), || Some(peer(home, name)).filter(&so))
}

/// ana (the owner), bob and cy, and a session of bob named agent.
fn with_session() -> (Home, Home, Home, Running, Broker) {
    let Pair { ana, bob, broker } = pair();
    let cy = Home::new();
    cy.join(&ana.invite(&[]), "cy");
    for home in [&ana, &bob, &cy] {
        home.up();
    }
    let args = ["session", "start", "--name", "agent", "--", "sh", "-c", "echo up; exec sleep 600"];
    let session = Running::start(bob.command(&args), None);
    assert_eq!(session.line(), "up");
    for home in [&ana, &cy] {
        sees(home, "agent", "there", |p| p["online"] == true);
    }
    (ana, bob, cy, session, broker)
}

#[test]
fn dnd_holds_back_what_is_not_urgent_and_idle_brings_it() {
    let Pair { ana, bob, broker: _broker } = pair();
    ana.up();
    bob.up();
    let said = bob.ok(&["set", "status", "dnd", "--for", "30m"]);
    let here = &said["presence"][0];
    assert_eq!((&here["status"], &here["announced"]), (&"dnd".into(), &true.into()));
    assert!(here["status_until"].is_u64(), "{said}");
    sees(&ana, "bob", "dnd", |p| p["status"] == "dnd");
    assert!(ana.text(&["peers"]).stdout.contains("\tdnd\t"));
    let quiet = ana.deliver("bob", "quiet");
    assert_eq!(quiet["state"], "delivered", "held back is delivered");
    assert_eq!(bob.texts(), Vec::<String>::new());
    ana.ok(&["send", "bob", "loud", "--priority", "now", "--wait", "delivered"]);
    assert_eq!(bob.texts(), ["loud"]);
    bob.ok(&["set", "status", "working"]);
    assert_eq!(bob.texts(), ["loud"]);
    bob.ok(&["set", "status", "idle"]);
    let follow = bob.start(&["inbox", "--follow", "--peek"]);
    assert_eq!(follow.json_line()["message"], "loud");
    assert_eq!(follow.json_line()["message"], "quiet");
}

#[test]
fn what_is_said_is_seen_by_others_and_kept() {
    let Pair { ana, bob, broker: _broker } = pair();
    ana.up();
    bob.up();
    bob.ok(&["set", "summary", "porting", "the", "parser"]);
    bob.ok(&["set", "profile", "--title", "build agent", "--avatar", "🛠"]);
    bob.ok(&["set", "profile", "--bio", "Builds.", "--avatar", ""]);
    let row = sees(&ana, "bob", "profile", |p| p["profile"]["bio"] == "Builds.");
    assert_eq!(row["summary"], "porting the parser");
    assert_eq!(
        (&row["profile"]["title"], &row["profile"]["avatar"]),
        (&"build agent".into(), &Value::Null)
    );
    bob.down();
    bob.up();
    let row = sees(&ana, "bob", "back", |p| p["online"] == true && p["summary"].is_string());
    assert_eq!(row["profile"]["title"], "build agent");
    bob.ok(&["set", "summary", ""]);
    sees(&ana, "bob", "silent", |p| p["summary"].is_null());
    let long = bob.run(&["set", "summary", &"x".repeat(281)]);
    assert!(long.status == 3 && long.stderr.contains("280"), "{}", long.stderr);
}

#[test]
fn members_kick_nobody_and_the_owner_ends_sessions() {
    let (ana, bob, cy, session, _broker) = with_session();
    for verb in ["kick", "disconnect"] {
        let refused = cy.run(&[verb, "bob/agent"]);
        assert_eq!(refused.status, 7, "{verb}: {}", refused.stderr);
        assert!(refused.stderr.contains("admin"), "{verb}: {}", refused.stderr);
        assert!(refused.stderr.contains(verb), "{verb}: {}", refused.stderr);
        let unsure = ana.run(&[verb, "--all"]);
        assert_eq!((unsure.status, unsure.error_code()), (3, "needs_yes"));
    }
    let near = ana.run(&["kick", "bob/agnet"]);
    assert!(near.status == 5 && near.stderr.contains("bob/agent"), "{}", near.stderr);
    assert_eq!(peer(&ana, "agent")["online"], true);
    let kicked = ana.ok(&["kick", "bob"]);
    assert_eq!(kicked["affected"][0]["name"], "bob/agent", "{kicked}");
    sees(&ana, "agent", "gone", Value::is_null);
    until("no session", || {
        Some(()).filter(|()| bob.ok(&["session", "list"])["sessions"] == Value::Array(vec![]))
    });
    assert_eq!(peer(&ana, "bob")["online"], true, "a kick leaves the member");
    let again = ana.run(&["kick", "bob"]);
    assert_eq!((again.status, again.error_code()), (1, "nobody_affected"), "{}", again.stderr);
    drop(session);
}

#[test]
fn who_is_disconnected_comes_back_by_itself() {
    let (ana, bob, cy, _session, _broker) = with_session();
    let cut = ana.ok(&["disconnect", "bob"]);
    assert!(!cut["affected"].as_array().unwrap().is_empty(), "{cut}");
    ana.deliver("bob", "back?");
    assert_eq!(bob.texts(), ["back?"]);
    sees(&ana, "agent", "back", |p| p["online"] == true && p["reconnecting"] != true);
    let said = ana.text(&["disconnect", "--all", "--yes"]);
    assert_eq!(said.status, 0, "{}", said.stderr);
    assert!(said.stdout.contains("come back by themselves"), "{}", said.stdout);
    ana.deliver("cy", "you too?");
    assert_eq!(cy.texts(), ["you too?"]);
}

#[test]
fn ping_measures_each_leg_and_shows_nothing_there() {
    let Pair { ana, bob, broker: _broker } = pair();
    ana.up();
    bob.up();
    let said = ana.run(&["ping", "bob", "--count", "2", "--timeout", "30s"]);
    assert_eq!(said.status, 0, "{}", said.stderr);
    let pongs: Vec<Value> = said.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(pongs.len(), 2);
    for pong in &pongs {
        assert_eq!((&pong["schema_version"], &pong["name"]), (&1.into(), &"bob".into()));
        let legs = pong["legs"].as_array().unwrap();
        let priorities: Vec<_> = legs.iter().map(|l| l["priority"].as_str().unwrap()).collect();
        assert_eq!(priorities, ["now", "next", "low"]);
        for leg in legs {
            let us = |name: &str| leg[name].as_u64().unwrap();
            assert!(us("durable_us") <= us("accepted_us"), "{leg}");
            assert!(us("accepted_us") <= us("delivered_us"), "{leg}");
        }
    }
    let lines = ana.text(&["ping", "bob"]).stdout;
    assert!(lines.lines().count() == 3 && lines.starts_with("bob\tnow\t"), "{lines}");
    assert_eq!(bob.ok(&["inbox", "--all"])["messages"], Value::Array(vec![]));
    assert_eq!(ana.ok(&["inbox", "--all"])["messages"], Value::Array(vec![]));
    bob.down();
    let listed = |args: &[&str]| ana.ok(args)["messages"].as_array().unwrap().len();
    assert_eq!(listed(&["outbox"]), 0, "pings are no messages");
    assert_eq!(listed(&["outbox", "--all"]), 9);
    let lost = ana.run(&["ping", "bob", "--timeout", "1s"]);
    assert_eq!((lost.status, lost.error_code()), (1, "no_answer"), "{}", lost.stderr);
    let pong: Value = serde_json::from_str(&lost.stdout).unwrap();
    assert!(pong["legs"][0]["accepted_us"].is_u64() && pong["legs"][0]["delivered_us"].is_null());
    let nobody = ana.run(&["ping", "bbo"]);
    assert!(nobody.status == 5 && nobody.stderr.contains("bob"), "{}", nobody.stderr);
}
