//! Messages from one home to another, through a broker: with background nodes and without.

// Helpers fail their test, as assertions do.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{Broker, Home, Pair, pair, pair_on, until};
use serde_json::Value;

#[test]
fn messages_arrive_without_background_nodes() {
    let Pair { ana, bob, broker: _broker } = pair();
    let sent = ana.ok(&["send", "bob", "hello", "there"]);
    assert_eq!(sent["schema_version"], 1);
    assert_eq!((sent["state"].as_str(), sent["to"].as_str()), (Some("relayed"), Some("bob")));
    let listed = bob.ok(&["inbox"]);
    assert_eq!(listed["schema_version"], 1);
    let messages = listed["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 1, "{listed}");
    assert_eq!(messages[0]["message"], "hello there");
    assert_eq!((&messages[0]["from"], &messages[0]["id"]), (&Value::from("ana"), &sent["id"]));
    assert_eq!(messages[0]["unread"], true);
    let id = sent["id"].as_str().unwrap();
    // The broker may still be writing bob's ack down when ana asks for the first time.
    let status = until("delivered", || {
        Some(ana.ok(&["message", "status", id])).filter(|status| status["state"] == "delivered")
    });
    assert_eq!(status["path"], "relay");
    assert_eq!(bob.ok(&["inbox", "--unread"])["messages"], Value::Array(vec![]));
    assert_eq!(bob.texts(), ["hello there"]);
}

#[test]
fn messages_arrive_between_background_nodes() {
    let Pair { ana, bob, broker: _broker } = pair();
    let pid = ana.up();
    bob.up();
    assert_eq!(ana.up(), pid, "up again changes nothing");
    let sent = ana.deliver("bob", "over there");
    assert_eq!(sent["state"], "delivered");
    assert_eq!(bob.texts(), ["over there"]);
    let id = sent["id"].as_str().unwrap();
    let answer = bob.ok(&["send", "ana", "and back", "--reply-to", id, "--wait", "delivered"]);
    assert_eq!(answer["state"], "delivered");
    assert_eq!(ana.inbox()[0]["reply_to"], id);
    let peers = ana.ok(&["peers"]);
    let peers = peers["peers"].as_array().unwrap();
    let online = |name: &str| peers.iter().find(|p| p["name"] == name).map(|p| &p["online"]);
    assert_eq!((online("ana"), online("bob")), (Some(&true.into()), Some(&true.into())));
    let status = ana.ok(&["status"]);
    assert_eq!(status["background"], true);
    assert_eq!(status["meshes"][0]["link"], "up");
    ana.down();
    ana.down();
}

#[test]
fn following_lists_what_is_there_and_what_comes() {
    let Pair { ana, bob, broker: _broker } = pair();
    bob.up();
    ana.deliver("bob", "before");
    let follow = bob.start(&["inbox", "--follow"]);
    let first = follow.json_line();
    assert_eq!((&first["message"], &first["schema_version"]), (&"before".into(), &1.into()));
    for text in ["one", "two"] {
        ana.deliver("bob", text);
        assert_eq!(follow.json_line()["message"], text);
    }
    assert_eq!(follow.interrupt(), 0, "Ctrl-C is how following ends");
}

#[test]
fn following_works_without_a_background_node() {
    let Pair { ana, bob, broker: _broker } = pair();
    let follow = bob.start(&["inbox", "--follow"]);
    ana.deliver("bob", "hello");
    assert_eq!(follow.json_line()["message"], "hello");
    assert_eq!(follow.interrupt(), 0);
}

#[test]
fn what_cannot_leave_is_queued_and_leaves_later() {
    let Pair { ana, bob, mut broker } = pair();
    broker.kill();
    let sent = ana.ok(&["send", "bob", "later"]);
    assert_eq!(sent["state"], "queued");
    let said = ana.text(&["send", "bob", "later too"]);
    assert!(said.status == 0 && said.stdout.contains("meshwire up keeps trying"), "{said:?}");
    let waited = ana.run(&["send", "bob", "not now", "--wait", "accepted", "--timeout", "1s"]);
    assert_eq!((waited.status, waited.error_code()), (1, "not_accepted"));
    assert!(waited.stdout.contains("\"state\":\"queued\""), "{}", waited.stdout);
    assert_eq!(ana.run(&["status"]).status, 1, "an unreachable broker shows in the exit code");
    broker.restart();
    ana.up();
    bob.up();
    let follow = bob.start(&["inbox", "--follow"]);
    let texts = [(); 3].map(|()| follow.json_line()["message"].as_str().unwrap().to_owned());
    assert_eq!(texts, ["later", "later too", "not now"]);
}

#[test]
fn waiting_for_a_receipt_says_where_the_message_stands() {
    let Pair { ana, bob, broker: _broker } = pair();
    let waited = ana.run(&["send", "bob", "hi", "--wait", "delivered", "--timeout", "1s"]);
    assert_eq!((waited.status, waited.error_code()), (1, "not_delivered"));
    assert!(waited.json["error"]["message"].as_str().unwrap().contains("relayed"));
    assert!(waited.stdout.contains("\"state\":\"relayed\""), "{}", waited.stdout);
    assert_eq!(bob.texts(), ["hi"]);
}

#[test]
fn standard_input_is_a_message_if_it_is_small_text() {
    let Pair { ana, bob, broker: _broker } = pair();
    ana.up();
    bob.up();
    let send =
        |input: &[u8]| ana.run_with_input(&["send", "bob", "-", "--wait", "delivered"], input);
    assert_eq!(send("two\nlines ✓".as_bytes()).status, 0);
    let large = send(&[b'x'; 70_000]);
    assert_eq!((large.status, large.error_code()), (3, "message_too_large"));
    let binary = send(b"a\xffb");
    assert_eq!((binary.status, binary.error_code()), (3, "message_not_text"));
    assert_eq!(bob.texts(), ["two\nlines ✓"]);
    let lines = bob.text(&["inbox"]).stdout;
    assert!(lines.contains("\tana\ttwo\\nlines ✓\n"), "one line a message: {lines}");
}

#[test]
fn repeating_a_send_with_its_key_is_harmless() {
    let Pair { ana, bob, broker: _broker } = pair();
    let send = |text| ana.run(&["send", "bob", text, "--idempotency-key", "k1"]);
    let (first, again) = (send("once"), send("once"));
    assert_eq!(first.json["id"], again.json["id"]);
    assert_eq!((&first.json["duplicate"], &again.json["duplicate"]), (&false.into(), &true.into()));
    assert_eq!(send("another").status, 6);
    assert_eq!(bob.texts(), ["once"]);
}

#[test]
fn safety_numbers_are_the_same_on_both_sides() {
    let Pair { ana, bob, broker: _broker } = pair();
    let (here, there) = (ana.ok(&["verify", "bob"]), bob.ok(&["verify", "ana"]));
    assert_eq!(here["number"], there["number"]);
    let groups: Vec<&str> = here["number"].as_str().unwrap().split(' ').collect();
    assert!(groups.len() == 6 && groups.iter().all(|g| g.len() == 5), "{groups:?}");
    let said = ana.text(&["verify", "bob"]);
    assert!(
        said.stdout.contains(here["number"].as_str().unwrap()) && said.stdout.contains("voice")
    );
    let nobody = ana.run(&["verify", "bobb"]);
    assert_eq!(nobody.status, 5);
    assert!(nobody.stderr.contains("bob"), "the nearest name: {}", nobody.stderr);
}

/// Whether any file below `folder` holds `needle`.
fn holds(folder: &Path, needle: &str) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if let Some(found) = holds(&path, needle) {
                return Some(found);
            }
        } else if contains(&path, needle) {
            return Some(path);
        }
    }
    None
}

fn contains(file: &Path, needle: &str) -> bool {
    let bytes = std::fs::read(file).unwrap();
    bytes.windows(needle.len()).any(|w| w == needle.as_bytes())
}

#[test]
fn the_broker_has_the_plaintext_nowhere() {
    let Pair { ana, bob, mut broker } = pair_on(Broker::with_env(&[], &[("RUST_LOG", "trace")]));
    let text = "the treasure lies under the third oak";
    bob.up();
    ana.deliver("bob", text);
    bob.down();
    let waiting = ana.ok(&["send", "bob", text]);
    assert_eq!(waiting["state"], "relayed");
    let looked = |broker: &Broker| {
        assert_eq!(holds(&broker.data, text), None);
        assert!(!contains(&broker.log, text), "in the log");
        let secret = broker.token.trim_start_matches("mwadmin1.");
        assert!(!contains(&broker.log, &secret[..30]), "the admin token is in the log");
    };
    let id = waiting["id"].as_str().unwrap();
    assert!(holds(&broker.data, id).is_some(), "the envelope is there, so looking finds things");
    assert!(std::fs::metadata(&broker.log).unwrap().len() > 1_000, "the log tells everything");
    looked(&broker);
    assert_eq!(broker.stop(), 0);
    looked(&broker);
    assert_eq!(holds(bob.path(), text).map(|p| p.is_file()), Some(true));
}

#[test]
fn two_meshes_need_a_word_only_where_it_matters() {
    let Pair { ana, bob, broker } = pair();
    ana.create_mesh("work", &broker, "ana");
    let cy = Home::new();
    cy.join(&ana.invite(&["--mesh", "work"]), "cy");
    let meshes = ana.ok(&["mesh", "list"]);
    assert_eq!(meshes["meshes"].as_array().unwrap().len(), 2);
    ana.ok(&["send", "cy", "one cy in all meshes"]);
    ana.ok(&["--mesh", "home", "send", "bob", "hi"]);
    let near = ana.run(&["status", "--mesh", "wrok"]);
    assert_eq!(near.status, 5);
    assert!(near.stderr.contains("did you mean work?"), "{}", near.stderr);
    let wrong = ana.run(&["send", "bob", "hi", "--mesh", "work"]);
    assert_eq!(wrong.status, 5);
    let which = ana.run(&["invite", "--local"]);
    assert_eq!((which.status, which.json["error"]["kind"].as_str()), (5, Some("ambiguous")));
    assert!(which.stderr.contains("--mesh"));
    assert_eq!((cy.texts().len(), bob.texts().len()), (1, 1));
}

#[test]
fn the_outbox_lists_what_was_sent_and_sends_it_anew() {
    let Pair { ana, bob, mut broker } = pair();
    bob.up();
    ana.deliver("bob", "first");
    bob.down();
    broker.kill();
    let old = ana.ok(&["send", "bob", "second", "--priority", "now"]);
    let queued = ana.ok(&["outbox", "--state", "queued"]);
    assert_eq!(queued["messages"].as_array().unwrap().len(), 1);
    assert_eq!(queued["messages"][0]["id"], old["id"]);
    let new = ana.ok(&["outbox", "requeue", old["id"].as_str().unwrap(), "--expires", "1h"]);
    assert_ne!(new["id"], old["id"]);
    assert_eq!((&new["to"], &new["priority"]), (&old["to"], &old["priority"]));
    // The old one stays for the record, and cannot be sent anew twice.
    let states: Vec<_> = ana.ok(&["outbox"])["messages"].as_array().unwrap().clone();
    let states: Vec<_> = states.iter().map(|m| m["state"].as_str().unwrap().to_owned()).collect();
    assert_eq!(states, ["queued", "failed", "delivered"], "newest first");
    let again = ana.run(&["outbox", "requeue", old["id"].as_str().unwrap()]);
    assert_eq!((again.status, again.error_code()), (3, "not_requeueable"));
    let went_on = format!("was requeued as {}", new["id"].as_str().unwrap());
    assert!(again.stderr.contains(&went_on), "{}", again.stderr);
    let listed = |state: &str| ana.text(&["outbox", "--state", state]).stdout;
    let requeued = listed("requeued");
    assert!(requeued.contains("\trequeued\t") && requeued.lines().count() == 1, "{requeued}");
    assert!(requeued.contains(&format!("\tas {}\t", new["id"].as_str().unwrap())), "{requeued}");
    assert_eq!(listed("failed"), "");
    broker.restart();
    ana.up();
    bob.up();
    let follow = bob.start(&["inbox", "--follow"]);
    assert_eq!(follow.json_line()["message"], "first");
    assert_eq!(follow.json_line()["message"], "second");
    assert_eq!(bob.texts(), ["first", "second"], "once, for all that it was queued twice");
}
