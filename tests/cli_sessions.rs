//! Sessions over the command line: programs that are peers of their own.

// Helpers fail their test, as assertions do.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use common::{Home, Output, PATIENCE, Pair, Running, pair, until};
use serde_json::Value;

const MESHWIRE: &str = env!("CARGO_BIN_EXE_meshwire");

/// ana and bob, whose nodes are up.
fn both_up() -> Pair {
    let pair = pair();
    pair.ana.up();
    pair.bob.up();
    pair
}

/// `session start` for a shell script that finds the command under test in `$0`.
fn script(home: &Home, options: &[&str], script: &str) -> Command {
    let mut args = vec!["session", "start"];
    args.extend(options);
    args.extend(["--", "sh", "-c", script, MESHWIRE]);
    home.command(&args)
}

/// Runs one verb as a session with these options.
fn as_session(home: &Home, options: &[&str], verb: &[&str]) -> Output {
    let all = [&["session", "start"], options, &["--", MESHWIRE, "--json"], verb].concat();
    home.text(&all)
}

/// The rows that a home's `peers` has for a session of bob.
fn rows(home: &Home, session: &str) -> Vec<Value> {
    let peers = home.ok(&["peers"])["peers"].clone();
    let is = |p: &&Value| p["kind"] == "session" && p["name"] == session;
    peers.as_array().unwrap().iter().filter(is).cloned().collect()
}

/// Waits until a home sees a session of this name; its row.
fn appears(home: &Home, name: &str) -> Value {
    until(&format!("{name} there"), || rows(home, name).pop())
}

fn is_gone(home: &Home, name: &str) {
    until(&format!("{name} gone"), || Some(()).filter(|()| rows(home, name).is_empty()));
}

#[test]
fn a_script_sends_and_reads_as_its_session() {
    let Pair { ana, bob, broker: _broker } = both_up();
    let text = r#"
        "$0" --json send ana hello --wait delivered
        until "$0" inbox --peek | grep -q answer; do sleep 0.05; done
        "$0" --json inbox
        "$0" --json session list
        "$0" session list
        "$0" peers | grep agent
        echo "$MESHWIRE_HOME"
        read -r end
    "#;
    let mut command = script(&bob, &["--name", "agent"], text);
    command.current_dir(bob.path().parent().unwrap()).env("MESHWIRE_HOME", "home");
    command.stdin(std::process::Stdio::piped());
    let running = Running::start(command, None);
    let sent = running.json_line();
    assert_eq!((&sent["state"], &sent["to"]), (&"delivered".into(), &"ana".into()));
    let row = appears(&ana, "agent");
    assert_eq!((&row["kind"], &row["online"]), (&"session".into(), &true.into()));
    assert_eq!((&row["member_name"], &row["capabilities"]), (&"bob".into(), &"all".into()));
    let came = ana.inbox();
    assert_eq!(came.len(), 1, "{came:?}");
    assert_eq!(came[0]["from_session"], row["key"]);
    assert!(came[0]["from"].as_str().unwrap().starts_with("bob"), "{came:?}");
    let lines = ana.text(&["peers"]).stdout;
    assert!(lines.contains("bob/agent\t"), "{lines}");
    ana.deliver("bob/agent", "answer");
    let read = running.json_line();
    assert_eq!(read["messages"][0]["message"], "answer");
    assert_eq!(read["messages"][0]["to_session"], row["key"]);
    let listed = running.json_line();
    let session = &listed["sessions"][0];
    assert_eq!((&session["name"], &session["this_session"]), (&"agent".into(), &true.into()));
    assert_eq!(session["pid"], running.pid(), "the program took the process over");
    assert!(running.line().starts_with("agent (this session)\t"));
    assert!(running.line().starts_with("bob/agent (this session)\t"));
    assert_eq!(running.line(), bob.path().to_str().unwrap(), "an absolute path");
    assert_eq!(bob.inbox().len(), 0, "the session's mail is its own");
    assert_eq!(bob.ok(&["inbox", "--all", "--peek"])["messages"][0]["message"], "answer");
    let listed = bob.ok(&["session", "list"]);
    assert_eq!(listed["sessions"][0]["this_session"], false);
    assert!(!listed.to_string().contains("token"), "{listed}");
    running.kill();
    is_gone(&ana, "agent");
    assert_eq!(bob.ok(&["session", "list"])["sessions"], Value::Array(vec![]));
}

#[test]
fn a_session_may_do_what_its_capabilities_say() {
    let Pair { ana, bob, broker: _broker } = both_up();
    ana.deliver("bob", "for bob");
    for (caps, verb, word) in [
        ("none", &["send", "ana", "hi"][..], "dm"),
        ("group,presence", &["send", "ana", "hi"], "dm"),
        ("dm", &["send", "@all", "hi"], "group"),
        ("dm", &["set", "status", "dnd"], "presence"),
    ] {
        let said = as_session(&bob, &["--caps", caps], verb);
        assert_eq!((said.status, said.error_code()), (7, "capability_missing"), "{}", said.stderr);
        let text = said.json["error"]["message"].as_str().unwrap();
        assert!(text.contains(&format!("capability {word}")), "{text}");
    }
    let mail = |options: &[&str]| {
        let said = as_session(&bob, options, &["inbox", "--peek"]);
        assert_eq!(said.status, 0, "{}", said.stderr);
        said.json["messages"].as_array().unwrap().len()
    };
    assert_eq!((mail(&["--caps", "dm"]), mail(&["--caps", "inbox"]), mail(&[])), (0, 1, 1));
    let said = as_session(&bob, &["--caps", "dm"], &["send", "ana", "hi", "--wait", "delivered"]);
    assert_eq!(said.status, 0, "{}", said.stderr);
    let said = as_session(&bob, &[], &["invite", "--local"]);
    assert_eq!(said.status, 7, "a session invites nobody: {}", said.stderr);
    let said = as_session(&bob, &[], &["down"]);
    assert_eq!((said.status, said.error_code()), (7, "owner_only"), "{}", said.stderr);
    assert!(said.stderr.contains("from outside the session"), "{}", said.stderr);
    let said = as_session(&bob, &[], &["kick", "ana"]);
    assert!(said.status == 7 && said.stderr.contains("meshwire kick"), "{}", said.stderr);
    assert_eq!(bob.ok(&["status"])["background"], true, "its node goes on");
}

#[test]
fn mail_to_a_session_that_was_killed_ends_up_at_its_member() {
    let Pair { ana, bob, broker: _broker } = pair();
    ana.up();
    let node = bob.node();
    let session =
        Running::start(script(&bob, &["--name", "agent"], "echo up; exec sleep 600"), None);
    assert_eq!(session.line(), "up");
    appears(&ana, "agent");
    // Nobody tells the broker: the session is waited for, with its member.
    node.kill();
    session.kill();
    let sent = ana.ok(&["send", "bob/agent", "are you there?"]);
    bob.up();
    let follow = bob.start(&["inbox", "--follow"]);
    let came = follow.json_line();
    assert_eq!((&came["message"], &came["from"]), (&"are you there?".into(), &"ana".into()));
    assert_eq!(came["to_session"], Value::Null);
    let id = sent["id"].as_str().unwrap();
    let stands = until("superseded", || {
        let stands = ana.ok(&["message", "status", id]);
        Some(stands).filter(|s| s["then"][0]["state"] == "delivered")
    });
    assert_eq!(stands["superseded_by"], stands["then"][0]["id"]);
    assert_eq!(stands["then"][0]["to"], "bob");
    assert_eq!(came["id"], stands["then"][0]["id"]);
    let said = ana.text(&["message", "status", id]).stdout;
    assert!(said.contains("goes on as") && said.contains("delivered"), "{said}");
    is_gone(&ana, "agent");
}

#[test]
fn what_a_session_has_not_read_is_its_members_when_it_ends() {
    let Pair { ana, bob, broker: _broker } = both_up();
    let start =
        || Running::start(script(&bob, &["--name", "agent"], "echo up; exec sleep 600"), None);
    let session = start();
    assert_eq!(session.line(), "up");
    let row = appears(&ana, "agent");
    ana.deliver("bob/agent", "are you there?");
    assert_eq!(bob.inbox().len(), 0, "it is the session's");
    let follow = bob.start(&["inbox", "--follow"]);
    session.kill();
    let came = follow.json_line();
    assert_eq!((&came["message"], &came["to_session"]), (&"are you there?".into(), &row["key"]));
    assert_eq!(came["session_ended"], true);
    assert_eq!(bob.ok(&["inbox", "--unread"])["messages"], Value::Array(vec![]), "once");
    is_gone(&ana, "agent");

    // Two of one name: never one of them for the other.
    let (first, second) = (start(), start());
    for session in [&first, &second] {
        assert_eq!(session.line(), "up");
    }
    let keys = until("both", || {
        let rows = rows(&ana, "agent");
        (rows.len() == 2).then(|| rows.iter().map(|r| r["key"].clone()).collect::<Vec<_>>())
    });
    let said = ana.run(&["send", "bob/agent", "which one?"]);
    assert_eq!(said.error_code(), "peer_ambiguous", "{}", said.stderr);
    for key in keys {
        assert!(said.stderr.contains(&key.as_str().unwrap()[..16]), "{}", said.stderr);
    }
    for bad in ["bob/agent", "a\u{7}", &"x".repeat(65)] {
        let said = bob.run(&["session", "start", "--name", bad, "--", "true"]);
        assert!(said.status != 0 && said.stderr.contains("a session's name"), "{}", said.stderr);
    }
}

#[test]
fn a_session_ends_when_it_is_told_to_and_its_program_goes_on() {
    let Pair { ana, bob, broker: _broker } = both_up();
    let text = r#"echo up; read -r go; "$0" --json send ana hi 2>&1; echo on"#;
    let mut command = script(&bob, &["--name", "agent"], text);
    let gate = bob.path().join("gate");
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    // Opened for both, so that neither end waits for the other.
    let both = std::fs::OpenOptions::new().read(true).write(true).open(&gate).unwrap();
    command.stdin(both.try_clone().unwrap());
    let running = Running::start(command, None);
    assert_eq!(running.line(), "up");
    appears(&ana, "agent");
    let near = bob.run(&["session", "end", "agnet"]);
    assert!(near.status == 5 && near.stderr.contains("agent"), "{}", near.stderr);
    let ended = bob.ok(&["session", "end", "agent"]);
    assert_eq!((&ended["name"], &ended["pid"]), (&"agent".into(), &running.pid().into()));
    is_gone(&ana, "agent");
    std::io::Write::write_all(&mut &both, b"go\n").unwrap();
    let refused = running.json_line();
    assert_eq!(refused["error"]["code"], "bad_session", "{refused}");
    assert_eq!(running.line(), "on");
    assert_eq!(running.wait(), 0);
}

#[test]
fn a_session_is_not_started_without_a_node_or_a_program() {
    let Pair { ana: _, bob, broker: _broker } = pair();
    let said = bob.run(&["session", "start", "--", "true"]);
    assert_eq!((said.status, said.error_code()), (3, "no_node"));
    assert!(said.stderr.contains("meshwire up"), "{}", said.stderr);
    bob.up();
    let plain = bob.path().join("plain");
    std::fs::write(&plain, "echo").unwrap();
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o600)).unwrap();
    for (program, status, why) in [
        ("no-such-program-here", 5, "not found in PATH"),
        ("/no/such/program", 5, "no such file"),
        (plain.to_str().unwrap(), 7, "may not be executed"),
    ] {
        let said = bob.run(&["session", "start", "--", program]);
        assert_eq!((said.status, said.error_code()), (status, "command_not_run"), "{program}");
        assert!(said.stderr.contains(why) && said.stderr.contains(program), "{}", said.stderr);
        assert_eq!(bob.ok(&["session", "list"])["sessions"], Value::Array(vec![]), "it is ended");
    }
    let hex = bob.run(&["session", "start", "--", "./deadbeef"]);
    assert!(hex.status == 3 && hex.stderr.contains("--name"), "{}", hex.stderr);
    let code = bob.text(&["session", "start", "--", "sh", "-c", "exit 42"]).status;
    assert_eq!(code, 42, "the program's end is the command's");
    assert!(PATIENCE.as_secs() > 30, "long enough to see what is gone within 30 s");
}
