//! Groups over the command line: who is in them, who gets their messages, and when.

// Helpers fail their test, as assertions do.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Broker, Home, Pair, pair, until};
use serde_json::Value;

/// A mesh with ana, bob and cy, whose nodes are up.
fn trio() -> (Home, Home, Home, Broker) {
    let Pair { ana, bob, broker } = pair();
    let cy = Home::new();
    cy.join(&ana.invite(&[]), "cy");
    for home in [&ana, &bob, &cy] {
        home.up();
    }
    for home in [&ana, &bob, &cy] {
        until("all members", || {
            Some(()).filter(|()| home.ok(&["peers"])["peers"].as_array().unwrap().len() == 3)
        });
    }
    (ana, bob, cy, broker)
}

/// The names in a list of rows.
fn names(rows: &Value) -> Vec<String> {
    let mut names: Vec<String> =
        rows.as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Waits until a home sees these members in exactly this group.
fn sees(home: &Home, group: &str, members: &[&str]) {
    until(&format!("{members:?} in @{group}"), || {
        let groups = home.ok(&["group", "list"])["groups"].clone();
        let found = groups.as_array().unwrap().iter().find(|g| g["name"] == group).cloned();
        let listed = found.map_or_else(Vec::new, |g| names(&g["members"]));
        Some(()).filter(|()| listed == members)
    });
}

#[test]
fn a_groups_message_reaches_who_joined_it_or_one_below_it() {
    let (ana, bob, cy, _broker) = trio();
    let joined = bob.ok(&["group", "join", "ops/db", "--role", "lead"]);
    assert_eq!((&joined["event"], &joined["role"]), (&"joined".into(), &"lead".into()));
    cy.ok(&["group", "join", "@ops"]);
    for home in [&ana, &bob] {
        sees(home, "ops/db", &["bob"]);
        sees(home, "ops", &["cy"]);
    }
    let sent = ana.deliver("@ops", "the disk is full");
    assert_eq!((&sent["to"], &sent["state"]), (&"@ops".into(), &"delivered".into()));
    assert_eq!(names(&sent["recipients"]), ["bob", "cy"]);
    assert!(sent["recipients"].as_array().unwrap().iter().all(|r| r["state"] == "delivered"));
    for home in [&bob, &cy] {
        let came = home.inbox();
        assert_eq!(came.len(), 1, "{came:?}");
        assert_eq!((&came[0]["group"], &came[0]["from"]), (&"ops".into(), &"ana".into()));
    }
    assert_eq!(names(&ana.deliver("@ops/db", "below")["recipients"]), ["bob"]);
    assert_eq!(names(&bob.deliver("@ops", "not to myself")["recipients"]), ["cy"]);
    assert_eq!(bob.texts(), ["the disk is full", "below"]);
    assert_eq!(cy.texts(), ["the disk is full", "not to myself"]);
    let lines = bob.text(&["inbox"]).stdout;
    assert!(lines.contains("\t@ops\tana\tthe disk is full\n"), "{lines}");
    let listed = ana.text(&["group", "list", "ops"]).stdout;
    let key = ana.ok(&["group", "list", "ops/db"])["groups"][0]["members"][0]["key"].clone();
    let key = &key.as_str().unwrap()[..16];
    assert!(listed.contains(&format!("@ops/db\tbob\t{key}\tlead\thome\n")), "{listed}");
    let peers = ana.text(&["peers"]).stdout;
    assert!(peers.contains("\t@ops/db (lead)\t"), "{peers}");
    cy.ok(&["group", "leave", "ops"]);
    sees(&ana, "ops", &[]);
    assert_eq!(names(&ana.deliver("@ops", "bob alone")["recipients"]), ["bob"]);
    assert_eq!(cy.texts().len(), 2);
}

#[test]
fn everybody_gets_a_broadcast_also_who_is_away() {
    let (ana, bob, cy, _broker) = trio();
    cy.down();
    let sent = ana.ok(&["broadcast", "good", "morning"]);
    assert_eq!(sent["to"], "@all");
    assert_eq!(names(&sent["recipients"]), ["bob", "cy"], "not the sender");
    let waited = ana.run(&["send", "@all", "again", "--wait", "delivered", "--timeout", "2s"]);
    assert_eq!((waited.status, waited.error_code()), (1, "not_delivered"));
    let why = waited.json["error"]["message"].as_str().unwrap();
    assert!(why.contains("delivered to 1 of 2 members"), "{why}");
    let stands: Value = serde_json::from_str(&waited.stdout).unwrap();
    let state = |name: &str| {
        let of = stands["recipients"].as_array().unwrap().iter().find(|r| r["name"] == name);
        of.unwrap()["state"].as_str().unwrap().to_owned()
    };
    assert_eq!((state("bob"), state("cy")), ("delivered".into(), "relayed".into()));
    cy.up();
    let follow = cy.start(&["inbox", "--follow"]);
    assert_eq!(follow.json_line()["message"], "good morning");
    assert_eq!(follow.json_line()["message"], "again");
    assert_eq!(bob.texts(), ["good morning", "again"]);
    assert_eq!(ana.inbox().len(), 0, "the sender has it in its outbox");
    let id = sent["id"].as_str().unwrap();
    until("delivered", || {
        Some(()).filter(|()| ana.ok(&["message", "status", id])["state"] == "delivered")
    });
    let said = ana.text(&["message", "status", id]).stdout;
    assert!(said.contains("for 2 members") && said.contains("\ncy\t"), "{said}");
}

#[test]
fn without_a_background_node_a_broadcast_reaches_everybody_too() {
    let Pair { ana, bob, broker: _broker } = pair();
    let said = ana.text(&["broadcast", "hello"]);
    assert_eq!(said.status, 0, "{}", said.stderr);
    assert!(said.stdout.contains("to @all in home by relay for 1 member"), "{}", said.stdout);
    let came = bob.inbox();
    assert_eq!((&came[0]["message"], &came[0]["group"]), (&"hello".into(), &"all".into()));
}

#[test]
fn who_is_hidden_is_in_no_group_but_can_be_written_to() {
    let (ana, bob, cy, _broker) = trio();
    bob.ok(&["set", "visible", "off"]);
    let listed = |args: &[&str]| names(&ana.ok(args)["peers"]);
    until("bob hidden", || Some(()).filter(|()| listed(&["peers"]) == ["ana", "cy"]));
    assert!(listed(&["peers", "--all"]).contains(&"bob".to_owned()));
    let lines = ana.text(&["peers", "--all"]).stdout;
    let bobs = lines.lines().find(|l| l.starts_with("bob\t")).unwrap();
    assert!(bobs.contains("\thidden\t") && !bobs.contains("offline"), "{lines}");
    assert_eq!(names(&ana.deliver("@all", "to all")["recipients"]), ["cy"]);
    ana.deliver("bob", "to bob");
    assert_eq!((bob.texts(), cy.texts()), (vec!["to bob".to_owned()], vec!["to all".to_owned()]));
    bob.ok(&["set", "visible", "on"]);
    until("bob seen", || Some(()).filter(|()| listed(&["peers"]) == ["ana", "bob", "cy"]));
}

#[test]
fn wrong_groups_suggest_the_right_ones() {
    let (ana, bob, _cy, _broker) = trio();
    let none = ana.text(&["group", "list"]);
    assert_eq!((none.status, none.stdout.as_str()), (0, ""));
    bob.ok(&["group", "join", "ops"]);
    sees(&ana, "ops", &["bob"]);
    for args in [&["send", "@opss", "hi"][..], &["group", "list", "opss"]] {
        let said = ana.run(args);
        assert_eq!(said.status, 5, "{args:?}: {}", said.stderr);
        assert!(said.stderr.contains("@ops"), "{args:?}: {}", said.stderr);
    }
    let said = ana.run(&["send", "@Ops", "hi"]);
    assert!(said.status == 3 && said.stderr.contains("a-z"), "{}", said.stderr);
    let said = ana.run(&["group", "join", "all"]);
    assert!(said.status == 3 && said.stderr.contains("every member"), "{}", said.stderr);
    let alone = bob.run(&["send", "@ops", "to myself?"]);
    assert_eq!(alone.status, 5, "{}", alone.stderr);
}
