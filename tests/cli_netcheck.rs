//! `meshwire netcheck` over loopback: real brokers and STUN servers, none, and wrong arguments.

// Helpers fail their test, as assertions do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use common::{Broker, Home, Running, meshwire};
use serde_json::Value;

/// A STUN server of its own; its first UDP address.
fn turn() -> (Running, String) {
    let mut command = meshwire();
    command.args(["turn", "--listen", "127.0.0.1:0", "--json"]);
    let running = Running::start(command, None);
    let ready = running.json_line();
    let addr = ready["udp"][0].as_str().unwrap_or_else(|| panic!("{ready}")).to_owned();
    (running, addr)
}

fn check(home: &Home, args: &[&str]) -> Value {
    let said = home.run(&[&["netcheck"], args].concat());
    assert_eq!(said.status, 0, "{}", said.stderr);
    let report: Value = serde_json::from_str(said.stdout.trim()).expect(&said.stderr);
    assert_eq!(report["schema_version"], 1);
    report
}

#[test]
fn a_members_broker_and_a_server_are_asked_and_people_are_told() {
    let (ana, broker) = (Home::new(), Broker::start(&[]));
    ana.create_mesh("home", &broker, "ana");
    let (_turn, server) = turn();
    let report = check(&ana, &["--server", &server]);
    assert_eq!(report["v4"]["udp"]["result"], "answered", "{report}");
    assert_eq!(report["v4"]["translated"], false, "{report}");
    assert_eq!(
        report["v4"]["filtering"],
        serde_json::json!(["endpoint_independent", "address_dependent"])
    );
    assert_eq!(report["v4"]["mtu"], serde_json::json!({"result": "at_least", "bytes": 1500}));
    assert!(report["v4"]["rtt_us"].is_u64(), "{report}");
    assert_eq!(report["v6"]["udp"]["result"], "no_server");
    assert_eq!(report["relays"][0]["url"], broker.url.as_str());
    assert!(report["relays"][0]["rtt_us"].is_u64(), "{report}");
    assert_eq!(report["verdict"]["reach"], "everybody");
    let text = ana.text(&["netcheck", "--server", &server]);
    assert_eq!(text.status, 0, "{}", text.stderr);
    for said in ["IPv4 UDP\t", "no NAT", "→ Direct paths will work with almost everybody."] {
        assert!(text.stdout.contains(said), "{}", text.stdout);
    }
}

/// Its STUN servers may have any port: it says which.
#[test]
fn a_brokers_own_servers_are_asked_wherever_they_are() {
    let broker = Broker::start(&["--turn", "127.0.0.1:0"]);
    let report = check(&Home::new(), &["--broker", &broker.url]);
    assert_eq!(report["v4"]["udp"]["result"], "answered", "{report}");
    assert_ne!(report["servers"][0], "127.0.0.1:3478", "{report}");
}

/// The broker on loopback serves no STUN unless it is told to; the relay is there all the same.
#[test]
fn a_broker_without_stun_is_a_relay() {
    let broker = Broker::start(&["--turn", "off"]);
    let report = check(&Home::new(), &["--broker", &broker.url]);
    assert_eq!(report["relays"][0]["url"], broker.url.as_str());
    assert_eq!(report["servers"], serde_json::json!([]));
    assert_eq!(report["v4"]["udp"]["result"], "no_server", "{report}");
}

#[test]
fn with_nobody_to_ask_it_says_whom_to_name() {
    let home = Home::new();
    let said = home.text(&["netcheck"]);
    assert_eq!(said.status, 5, "{}", said.stderr);
    assert!(
        said.stderr.contains("--broker") && said.stderr.contains("--server"),
        "{}",
        said.stderr
    );
    assert!(!home.path().exists(), "it makes no home");
    let said = home.text(&["netcheck", "--server", "stun.example:x"]);
    assert_eq!(said.status, 3, "{}", said.stderr);
    assert!(said.stderr.contains("stun.example:3478"), "{}", said.stderr);
    let said = home.text(&["netcheck", "--broker", "ftp://broker"]);
    assert_eq!(said.status, 3, "{}", said.stderr);
}
