//! Real nodes at real brokers that lack features.

use std::process::Command;

use serde_json::Value;

use super::common::{Broker, Home, Output, pair, pair_on, until};

const WITHOUT: &str = "MESHWIRE_TEST_WITHOUT";

/// Starts the broker again, without these features.
fn restart_without(broker: &mut Broker, features: &str) {
    broker.restart_as(|mut command: Command| {
        command.env(WITHOUT, features);
        command
    });
}

/// Checks that a refusal names the feature, what it is that does not work, and what would help.
fn lacks(output: &Output, feature: &str, what: &str) {
    assert_eq!((output.status != 0, output.error_code()), (true, "feature_missing"), "{output:?}");
    let text = output.json["error"]["message"].as_str().unwrap();
    assert!(text.contains(feature) && text.contains(what) && text.contains("update"), "{text}");
}

fn link(home: &Home) -> Value {
    let status = home.run(&["status"]);
    let text = format!("{}{}", status.stdout, status.stderr);
    let shown = text.lines().find_map(|l| {
        let value: Value = serde_json::from_str(l).ok()?;
        value["meshes"].get(0).cloned()
    });
    shown.unwrap_or_else(|| panic!("no status: {status:?}"))
}

#[test]
fn an_older_broker_carries_direct_mail_and_what_it_cannot_is_said() {
    let pair = pair_on(Broker::with_env(&[], &[(WITHOUT, "groups,delegates,lease")]));
    pair.ana.up();
    pair.bob.up();
    assert_eq!(pair.ana.deliver("bob", "to and")["state"], "delivered");
    assert_eq!(pair.bob.deliver("ana", "fro")["state"], "delivered");
    assert_eq!((pair.ana.texts(), pair.bob.texts()), (vec!["fro".into()], vec!["to and".into()]));

    lacks(&pair.ana.run(&["send", "@all", "everybody"]), "groups", "no groups");
    lacks(&pair.ana.run(&["broadcast", "everybody"]), "groups", "no groups");
    lacks(&pair.ana.run(&["group", "join", "ops"]), "groups", "no groups");
    lacks(&pair.ana.run(&["session", "start", "--", "true"]), "delegates", "broker of mesh");
    // Without a node in the background it is the verb itself that asks the broker.
    pair.ana.down();
    lacks(&pair.ana.run(&["send", "@all", "everybody"]), "groups", "no groups");
    // What is said of itself stays on this side, and is no failure.
    pair.ana.up();
    pair.ana.ok(&["set", "status", "working"]);
    assert_eq!(pair.bob.deliver("ana", "still there")["state"], "delivered");
    assert_eq!(pair.bob.texts(), ["to and"], "nothing of what was refused has left");
}

#[test]
fn a_session_at_a_broker_that_is_older_since_its_restart_hears_why_it_cannot_write() {
    let mut pair = pair();
    pair.ana.up();
    pair.bob.up();
    let shell = "echo \"[\\\"$MESHWIRE_SESSION\\\"]\"; exec sleep 600";
    let session = pair.ana.start(&["session", "start", "--name", "agent", "--", "sh", "-c", shell]);
    let token = session.json_line()[0].as_str().unwrap().to_owned();
    let send = |text: &str| {
        let args = ["send", "bob", text, "--wait", "delivered", "--timeout", "60s"];
        pair.ana.run_with_env(&args, &[("MESHWIRE_SESSION", &token)])
    };
    assert_eq!(send("while it can").json["state"], "delivered");

    restart_without(&mut pair.broker, "delegates");
    until("ana's return", || (link(&pair.ana)["link"] == "up").then_some(()));
    lacks(&send("now it cannot"), "delegates", "sessions");
    pair.ana.deliver("bob", "as a member");
    assert_eq!(pair.bob.texts(), ["while it can", "as a member"]);
}

#[test]
fn a_node_gives_up_on_a_broker_without_what_it_requires_and_names_it() {
    let mut pair = pair();
    restart_without(&mut pair.broker, "dedupe");
    let node = pair.ana.node();
    let link = until("the verdict", || Some(link(&pair.ana)).filter(|l| l["link"] == "down"));
    let reason = link["reason"].as_str().unwrap();
    assert!(reason.contains("dedupe") && reason.contains("requires"), "{reason}");
    let sent = pair.ana.ok(&["send", "bob", "for later"]);
    assert_eq!(sent["state"], "queued", "{sent}");

    // Nothing of it is lost; with another broker the node's next start is enough.
    pair.broker.restart();
    assert_eq!(super::processes::link(&pair.ana)["link"], "down", "it has given up");
    assert_eq!(node.terminate(), 0);
    pair.ana.up();
    pair.bob.up();
    let arrived = until("the message", || Some(pair.bob.texts()).filter(|t| !t.is_empty()));
    assert_eq!(arrived, ["for later"]);
}
