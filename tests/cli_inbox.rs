//! Finding messages in the inbox, and deleting them.

// Helpers fail their test, as assertions do.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Home, Pair, pair};

fn texts(home: &Home, filters: &[&str]) -> Vec<String> {
    let listed = home.ok(&[&["inbox", "--peek"], filters].concat());
    let messages = listed["messages"].as_array().unwrap();
    messages.iter().map(|m| m["message"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn messages_are_found_by_sender_and_time() {
    let Pair { ana, bob, broker: _broker } = pair();
    let cy = Home::new();
    cy.join(&ana.invite(&[]), "cy");
    bob.up();
    ana.deliver("bob", "from ana");
    cy.deliver("bob", "from cy");
    assert_eq!(texts(&bob, &["--from", "ana"]), ["from ana"]);
    assert_eq!(texts(&bob, &["--from", "cy", "--since", "1h"]), ["from cy"]);
    assert_eq!(texts(&bob, &["--since", "2026-01-01"]).len(), 2);
    assert!(texts(&bob, &["--before", "1h"]).is_empty());
    assert!(texts(&bob, &["--before", "2026-01-01T00:00:00Z"]).is_empty());
    let nobody = bob.run(&["inbox", "--from", "anna"]);
    assert!(nobody.status == 5 && nobody.stderr.contains("ana"), "{}", nobody.stderr);
}

#[test]
fn deleted_messages_are_gone_and_do_not_come_again() {
    let Pair { ana, bob, broker: _broker } = pair();
    bob.up();
    for text in ["one", "two", "three"] {
        ana.deliver("bob", text);
    }
    let id = bob.inbox()[1]["id"].as_str().unwrap().to_owned();
    assert_eq!(bob.ok(&["inbox", "delete", &id])["deleted"], 1);
    assert_eq!(bob.texts(), ["one", "three"]);
    let again = bob.run(&["inbox", "delete", &id]);
    assert_eq!(again.status, 5, "{}", again.stderr);
    assert_eq!(bob.ok(&["inbox", "delete", "--before", "1h"])["deleted"], 0);
    let unsure = bob.run(&["inbox", "delete", "--all"]);
    assert_eq!((unsure.status, unsure.error_code()), (3, "needs_yes"));
    let said = bob.text(&["inbox", "delete", "--all", "--yes"]);
    assert_eq!((said.status, said.stdout.as_str()), (0, "Deleted 2 messages.\n"));
    assert!(bob.texts().is_empty());
    bob.down();
    bob.up();
    ana.deliver("bob", "four");
    assert_eq!(bob.texts(), ["four"]);
}
