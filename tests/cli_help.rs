//! What the command line says about itself, and about arguments that make no sense.

mod common;

use common::Home;

const VERBS: [&[&str]; 55] = [
    &[],
    &["broker"],
    &["mesh"],
    &["mesh", "create"],
    &["mesh", "list"],
    &["invite"],
    &["invite", "list"],
    &["invite", "revoke"],
    &["join"],
    &["up"],
    &["down"],
    &["status"],
    &["peers"],
    &["send"],
    &["broadcast"],
    &["inbox"],
    &["inbox", "delete"],
    &["message", "status"],
    &["outbox"],
    &["outbox", "requeue"],
    &["group"],
    &["group", "join"],
    &["group", "leave"],
    &["group", "list"],
    &["session"],
    &["session", "start"],
    &["session", "list"],
    &["session", "end"],
    &["set"],
    &["set", "status"],
    &["set", "summary"],
    &["set", "profile"],
    &["set", "visible"],
    &["kick"],
    &["disconnect"],
    &["ping"],
    &["verify"],
    &["demo"],
    &["turn"],
    &["netcheck"],
    &["bench"],
    &["bench", "rtt"],
    &["bench", "connect"],
    &["bench", "idle"],
    &["sim"],
    &["sim", "run"],
    &["sim", "list"],
    &["sim", "explain"],
    &["sim", "matrix"],
    &["sim", "bench"],
    &["path"],
    &["pipe"],
    &["stream"],
    &["stream", "list"],
    &["stream", "close"],
];

#[test]
fn every_verbs_help_has_an_example() {
    let home = Home::new();
    for verb in VERBS {
        let help = home.text(&[verb, &["--help"]].concat());
        assert_eq!(help.status, 0, "{verb:?}: {}", help.stderr);
        let example = format!("EXAMPLE:\n  {}", [&["meshwire"], verb].concat().join(" "));
        assert!(help.stdout.contains(&example), "{verb:?}: {}", help.stdout);
        assert!(help.stderr.is_empty(), "{verb:?}: {}", help.stderr);
    }
    assert!(!home.path().exists(), "help makes no home");
}

#[test]
fn help_fits_a_terminal_of_80_columns() {
    let home = Home::new();
    for verb in VERBS {
        let help = home.run_with_env(&[verb, &["--help"]].concat(), &[("COLUMNS", "80")]);
        let wide: Vec<&str> = help.stdout.lines().filter(|l| l.chars().count() > 80).collect();
        assert!(wide.is_empty(), "{verb:?}: {wide:#?}");
    }
}

#[test]
fn arguments_that_make_no_sense_suggest_what_does() {
    let home = Home::new();
    for (args, tip) in [
        (&["sned", "bob", "hi"][..], "'send'"),
        (&["send", "bob", "hi", "--priorty", "now"], "'--priority'"),
        (&["send", "bob", "hi", "--wait", "delivred"], "'delivered'"),
        (&["invite", "--expires", "7 days"], "7d?"),
        (&["invite", "--expires", "soon"], "30m"),
        (&["invite", "revok", "x"], "'revoke'"),
        (&["broker", "--public-url", "broker.example"], "https://"),
        (&["broker", "--cert", "x.pem"], "--key"),
        (&["mesh", "create", "@all", "--broker", "http://x"], "@"),
        (&["join", "hello", "--name", "deadbeef"], "key"),
        (&["send"], "<PEER>"),
        (&["send", "bob", ""], "is empty"),
        (&["broadcast", " \n"], "is empty"),
        (&["send", "bob", "-"], "standard input is empty"),
        (&["group", "join", "Ops Team"], "ops-team?"),
        (&["group", "list", "all"], "meshwire peers"),
        (&["session", "start", "--caps", "gruop", "--", "true"], "'group'"),
        (&["session", "start", "--caps", "none,dm", "--", "true"], "alone"),
        (&["session", "start"], "<COMMAND>"),
        (&["set", "status", "bussy"], "idle"),
        (&["set", "profile"], "--title"),
        (&["set", "status", "dnd", "--for", "30 mins"], "30m?"),
        (&["kick"], "<PEER>"),
        (&["kick", "--all"], "--yes"),
        (&["disconnect", "bob", "--all"], "--all"),
        (&["pipe"], "<PEER|--listen>"),
        (&["pipe", "bob", "--listen"], "--listen"),
        (&["pipe", "bob", "--from", "ana"], "'--from <PEER>'"),
        (&["pipe", "bob", "--timeout", "30 mins"], "30m?"),
        (&["stream", "close"], "<ID>"),
        (&["inbox", "--since", "2026-13-01"], "2026-11-21"),
        (&["inbox", "delete"], "--before"),
        (&["inbox", "delete", "--all"], "--yes"),
        (&[], "Usage"),
    ] {
        let said = home.text(args);
        assert_eq!(said.status, 3, "{args:?}: {}", said.stderr);
        assert!(said.stderr.contains(tip), "{args:?}: {}", said.stderr);
        assert!(said.stdout.is_empty(), "{args:?}: {}", said.stdout);
    }
}

#[test]
fn errors_are_json_where_that_was_asked_for() {
    let home = Home::new();
    for (args, status, kind, code) in [
        (&["sned"][..], 3, "invalid", "usage"),
        (&["join", "hello"], 3, "invalid", ""),
        (&["send", "bob", "hi"], 5, "not_found", "no_mesh"),
        (&["message", "status", "01JQ4T5ZK0"], 5, "not_found", "message_not_found"),
        (
            &["mesh", "create", "home", "--broker", "http://127.0.0.1:1"],
            2,
            "auth",
            "admin_token_missing",
        ),
    ] {
        let said = home.run(args);
        assert_eq!(said.status, status, "{args:?}: {}", said.stderr);
        assert_eq!(said.json["schema_version"], 1, "{args:?}: {}", said.stderr);
        assert_eq!(said.json["error"]["kind"], kind, "{args:?}");
        assert!(said.json["error"]["message"].as_str().is_some_and(|m| !m.is_empty()));
        assert!(code.is_empty() || said.error_code() == code, "{args:?}: {}", said.stderr);
        assert_eq!(said.stderr.lines().count(), 1, "{args:?}: {}", said.stderr);
    }
}

#[test]
fn a_broker_that_is_not_there_is_a_network_error() {
    let (home, broker) = (Home::new(), common::Broker::start(&[]));
    let (token, url) = (broker.token.clone(), broker.url.clone());
    drop(broker);
    let said = home.run(&["mesh", "create", "home", "--broker", &url, "--admin-token", &token]);
    assert_eq!((said.status, said.json["error"]["kind"].as_str()), (4, Some("unreachable")));
    let said = home.text(&["mesh", "create", "home", "--broker", &url, "--admin-token", &token]);
    assert!(said.stderr.starts_with("error: "), "{}", said.stderr);
    assert!(!said.stderr.contains(&token));
}
