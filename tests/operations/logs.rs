//! The log: one JSON object a line where that is asked for, and never a secret.

use std::path::Path;

use serde_json::Value;

use super::common::{Broker, Home, pair_on};

/// The lines of a log, each of which is an event in JSON.
fn events(log: &str) -> Vec<Value> {
    let event = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        for key in ["ts", "level", "target", "message"] {
            assert!(event[key].is_string(), "{key}: {line}");
        }
        assert!(event["fields"].is_object(), "{line}");
        event
    };
    log.lines().map(event).collect()
}

/// What keys' files hold, in every form in which a log could show it.
fn secrets(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            secrets(&path, found);
        } else if name.ends_with(".key") || folder.ends_with("keys") {
            let bytes = std::fs::read(&path).unwrap();
            if let Ok(text) = std::str::from_utf8(&bytes) {
                let lines = text.lines().filter(|l| l.len() >= 32 && !l.starts_with("-----"));
                found.extend(lines.map(str::to_owned));
            }
            found.push(hex::encode(&bytes));
        }
    }
}

#[test]
fn logs_are_json_and_show_no_secret() {
    let broker = Broker::with_env(&["-vv"], &[("MESHWIRE_LOG_FORMAT", "json")]);
    let pair = pair_on(broker);
    let link = pair.ana.invite(&[]);
    let carol = Home::new();
    carol.join(&link, "carol");
    pair.bob.up();
    let node = pair.ana.node_as(|mut command| {
        command.args(["-vv", "--log-format", "json"]);
        command
    });
    pair.ana.deliver("bob", "a text that stays between the two");
    assert_eq!(node.terminate(), 0);
    let mut broker = pair.broker;
    assert_eq!(broker.stop(), 0);

    let of_broker = std::fs::read_to_string(&broker.log).unwrap();
    let of_node = std::fs::read_to_string(pair.ana.node_log()).unwrap();
    let said = |log: &str, what: &str| events(log).iter().any(|e| e["message"] == what);
    assert!(said(&of_broker, "listening") && said(&of_broker, "stopping"), "{of_broker}");
    let levels: Vec<Value> = events(&of_broker).iter().map(|e| e["level"].clone()).collect();
    assert!(levels.contains(&"TRACE".into()) || levels.contains(&"DEBUG".into()), "{levels:?}");
    assert!(!events(&of_node).is_empty());

    let mut hidden = vec![broker.token.clone(), "a text that stays".to_owned()];
    let secret_of_link = link.split_once('#').unwrap().1;
    hidden.push(secret_of_link.to_owned());
    for folder in [&broker.data, pair.ana.path(), pair.bob.path(), carol.path()].map(Path::new) {
        secrets(folder, &mut hidden);
    }
    assert!(hidden.len() >= 7, "the keys are found");
    for secret in hidden {
        for (whose, log) in [("broker", &of_broker), ("node", &of_node)] {
            assert!(!log.contains(&secret), "the {whose}'s log shows {secret}");
        }
    }
}

#[test]
fn a_background_node_inherits_the_format() {
    let pair = pair_on(Broker::start(&[]));
    let by_argument = pair.ana.command(&["--json", "-v", "up", "--log-format", "json"]);
    let mut by_environment = pair.bob.command(&["--json", "-v", "up"]);
    by_environment.env("MESHWIRE_LOG_FORMAT", "json");
    for (home, mut up) in [(&pair.ana, by_argument), (&pair.bob, by_environment)] {
        assert!(up.output().unwrap().status.success());
        home.down();
        let log = std::fs::read_to_string(home.path().join("node.log")).unwrap();
        assert!(!events(&log).is_empty(), "{log}");
    }
}

#[test]
fn text_is_the_default_and_nonsense_is_refused() {
    let mut broker = Broker::start(&[]);
    broker.stop();
    let log = std::fs::read_to_string(&broker.log).unwrap();
    assert!(log.contains("listening") && !log.contains("\"message\""), "{log}");
    let refused = Home::new().run(&["--log-format", "xml", "peers"]);
    assert_eq!(refused.status, 3);
    assert!(
        refused.stderr.contains("text") && refused.stderr.contains("json"),
        "{}",
        refused.stderr
    );
}
