//! `meshwire sim`: the built-in scenarios in virtual time, what fails when it should, and what people
//! and programs get to see.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[cfg(target_os = "linux")]
#[path = "cli_sim/lab.rs"]
mod lab;

use std::fs;
use std::path::{Path, PathBuf};

use common::meshwire;
use meshwire::sim::{Options, in_virtual};
use meshwire_netsim::scenario::{Document, built_in};
use serde_json::Value;
use tempfile::TempDir;

/// Nodes of the largest cells that are played here: `sim_relay` has a herd of two hundred.
const MOST_NODES: usize = 50;

/// Plays every cell of a built-in scenario.
fn plays(name: &str) {
    let document = Document::parse(built_in(name).unwrap()).unwrap();
    for cell in document.cells().iter().filter(|c| c.scenario.nodes.len() <= MOST_NODES) {
        let report = in_virtual(cell, &Options::default()).unwrap();
        assert!(report.passed, "{report:#?}");
        assert!(report.sent > 0 && report.packets > 0, "{report:#?}");
    }
}

macro_rules! built_ins {
    ($($test:ident $name:literal)*) => {
        $(#[test]
        fn $test() {
            plays($name);
        })*

        #[test]
        fn every_built_in_scenario_is_played() {
            let played = [$($name),*];
            let all = meshwire_netsim::scenario::BUILT_IN.map(|(name, _)| name);
            assert_eq!(played.as_slice(), all.as_slice());
        }
    };
}

built_ins! {
    connect "connect"
    dm "dm"
    offline_queue "offline-queue"
    broker_restart "broker-restart"
    uplink_change "uplink-change"
    loss_30 "loss-30"
    rtt_600ms "rtt-600ms"
    mtu_1280 "mtu-1280"
    black_hole "black-hole"
    partition "partition"
    herd "herd"
}

/// What a command said.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Vec<Value> {
        self.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }
}

fn sim(args: &[&str]) -> Said {
    let output = meshwire().arg("sim").args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// A built-in scenario, changed, as a file.
fn changed(dir: &TempDir, name: &str, old: &str, new: &str) -> PathBuf {
    let text = built_in(name).unwrap();
    assert!(text.contains(old), "{name} has no {old:?}");
    let path = dir.path().join(format!("{name}.toml"));
    fs::write(&path, text.replace(old, new)).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

const HOTEL: [&str; 2] = ["--set", "preset=hotel"];

#[test]
fn a_run_is_the_same_each_time_and_another_with_another_seed() {
    let dir = TempDir::new().unwrap();
    let run = |name: &str, seed: &str| {
        let path = dir.path().join(name);
        let said =
            sim(&["run", "loss-30", HOTEL[0], HOTEL[1], "--seed", seed, "--trace", text(&path)]);
        assert_eq!(said.code, 0, "{}", said.err);
        fs::read(path).unwrap()
    };
    let first = run("a", "7");
    assert!(first.len() > 10_000);
    assert!(first == run("b", "7"), "cmp finds a difference");
    assert!(first != run("c", "8"));
    let line = String::from_utf8(first).unwrap();
    assert_eq!(line.lines().next().unwrap().split(' ').count(), 7);
}

#[test]
fn what_does_not_hold_fails_and_says_how_to_see_it_again() {
    let dir = TempDir::new().unwrap();
    let cases = [
        // Faster than light, as the links are.
        ("dm", "within = \"1s\"", "within = \"30ms\"", "line 29: delivered ana -> bob"),
        ("dm", "above = \"50kB\"", "above = \"300kB\"", "bytes bob down"),
        ("dm", "below = \"400kB\"", "below = \"60kB\"", "bytes bob down"),
        ("mtu-1280", "mtu = 1280", "mtu = 1500", "dropped too-big"),
        ("loss-30", "loss = \"30%\"", "loss = \"0%\"", "dropped loss"),
        // It never comes back.
        ("offline-queue", "start = \"bob\"", "heal = \"internet\"", "delivered ana -> bob"),
        ("broker-restart", "start = \"broker\"", "heal = \"internet\"", "delivered ana -> bob"),
        ("black-hole", "up = \"bob\"", "heal = \"internet\"", "delivered ana -> bob"),
        ("partition", "heal = \"internet\"", "up = \"bob\"", "delivered ana -> bob"),
        (
            "connect",
            "start = \"bob\"",
            "heal = \"internet\"",
            "waited 10s in vain for bob's connection",
        ),
    ];
    for (name, old, new, says) in cases {
        let path = changed(&dir, name, old, new);
        let said = sim(&["run", text(&path), HOTEL[0], HOTEL[1]]);
        assert_eq!(said.code, 1, "{name} with {new}: {}{}", said.out, said.err);
        assert!(said.err.contains(says), "{name} with {new}: {}", said.err);
        assert!(said.out.contains("FAIL\tpreset=hotel\t"), "{}", said.out);
        let again = "--seed 1 --set preset=hotel\n";
        assert!(said.err.ends_with(again) && said.err.contains(text(&path)), "{}", said.err);
    }
}

#[test]
fn one_failed_run_of_several_is_named() {
    let dir = TempDir::new().unwrap();
    let path = changed(&dir, "dm", "preset = \"all\"", "preset = [\"open\", \"corporate\"]");
    let broken = fs::read_to_string(&path).unwrap().replace("[broker]", "[broker]\nport = 80");
    fs::write(&path, broken).unwrap();
    let said = sim(&["run", text(&path)]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("before the timeline began"), "{}", said.err);
}

#[test]
fn programs_get_an_object_for_each_run_and_one_at_the_end() {
    let said = sim(&["run", "dm", "--json", HOTEL[0], HOTEL[1], "--seed", "3"]);
    let lines = said.json();
    assert_eq!((said.code, lines.len()), (0, 2), "{}", said.err);
    let run = &lines[0];
    assert_eq!(run["event"], "run");
    assert_eq!(
        (&run["passed"], &run["seed"], &run["driver"]),
        (&true.into(), &3.into(), &"virtual".into())
    );
    assert_eq!(run["cell"], "preset=hotel");
    assert_eq!(run["replay"], "meshwire sim run dm --seed 3 --set preset=hotel");
    assert_eq!(run["asserts"].as_array().unwrap().len(), 4);
    assert_eq!(run["asserts"][2]["got"], "relay");
    assert_eq!(lines[1]["event"], "summary");
    assert_eq!((&lines[1]["ok"], &lines[1]["runs"]), (&true.into(), &1.into()));
    assert_eq!(run["schema_version"], 1);
}

#[test]
fn several_scenarios_run_at_a_time_and_are_told_in_their_order() {
    let jobs = ["--jobs", "3"];
    let said =
        sim(&["run", "mtu-1280", "uplink-change", "dm", HOTEL[0], HOTEL[1], jobs[0], jobs[1]]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    let cells: Vec<&str> = said.out.lines().map(|l| l.split('\t').nth(1).unwrap()).collect();
    let all = ["mtu-1280", "uplink-change", "dm"].map(|name| format!("{name} preset=hotel"));
    assert_eq!(cells, all, "one row each: {}", said.out);
    // One that has no such cell is left out; all of them are a mistake.
    let cloud = ["--set", "preset=cloud-1to1"];
    let said = sim(&["run", "uplink-change", "dm", cloud[0], cloud[1], "--json"]);
    let lines = said.json();
    assert_eq!((said.code, lines.len()), (0, 2), "{}", said.err);
    assert_eq!((&lines[0]["scenario"], &lines[1]["left_out"]), (&"dm".into(), &0.into()));
    let said = sim(&["run", "uplink-change", cloud[0], cloud[1]]);
    assert_eq!(said.code, 3);
    // What fails is told in full, and how to see it again.
    let dir = TempDir::new().unwrap();
    let path = changed(&dir, "dm", "within = \"1s\"", "within = \"30ms\"");
    let said = sim(&["run", "mtu-1280", text(&path), HOTEL[0], HOTEL[1], jobs[0], jobs[1]]);
    assert_eq!((said.code, said.out.lines().count()), (1, 2), "{}", said.out);
    let says = "1 of 2 runs failed; dm preset=hotel: line 29: delivered ana -> bob";
    assert!(said.err.contains(says), "{}", said.err);
    for (args, code) in
        [(&["run"][..], 3), (&["run", "dm", "--all"], 3), (&["run", "--jobs", "0"], 3)]
    {
        assert_eq!(sim(args).code, code, "{args:?}");
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    let dir = TempDir::new().unwrap();
    let path = changed(&dir, "dm", "count = 50", "conut = 50");
    let said = sim(&["run", text(&path)]);
    let place = format!("{}: line 23, column 36, timeline.send.conut: ", path.display());
    assert_eq!(said.code, 3);
    assert!(
        said.err.contains(&place) && said.err.contains("did you mean \"count\"?"),
        "{}",
        said.err
    );
    let said = sim(&["run", "partitoin"]);
    assert_eq!(said.code, 5);
    assert!(said.err.contains("did you mean partition?"), "{}", said.err);
    for (args, says) in [
        (["run", "dm", "--set", "preset"], "write --set KEY=VALUE"),
        (["run", "dm", "--set", "preset=hotell"], "did you mean \"hotel\"?"),
        (["explain", "hotel", "--svg", "x"], "--svg draws scenarios"),
    ] {
        let said = sim(&args);
        assert_eq!(said.code, 3, "{args:?}");
        assert!(said.err.contains(says), "{args:?}: {}", said.err);
    }
    let path = dir.path().join("exec.toml");
    let exec = "[scenario]\nname = \"e\"\n[[server]]\nname = \"s\"\n[[timeline]]\n\
                exec = { host = \"s\", command = \"true\" }\n";
    fs::write(&path, exec).unwrap();
    let said = sim(&["run", text(&path)]);
    assert_eq!(said.code, 3);
    assert!(said.err.contains("line 6: exec runs programs") && said.err.contains("--driver lab"));
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(sim(&["run", text(&path)]).err.contains("is not text"));
}

#[test]
fn captures_are_there_for_each_interface() {
    let dir = TempDir::new().unwrap();
    let pcap = dir.path().join("pcap");
    let said = sim(&["run", "dm", HOTEL[0], HOTEL[1], "--pcap", text(&pcap)]);
    assert_eq!(said.code, 0, "{}", said.err);
    for host in ["ana", "bob", "broker"] {
        let bytes = fs::read(pcap.join(format!("{host}-eth0.pcap"))).unwrap();
        assert_eq!(bytes[..4], [0x4d, 0x3c, 0xb2, 0xa1], "{host}");
        assert_eq!(bytes[20..24], [101, 0, 0, 0]);
        // The first packet is a whole IPv4 packet.
        assert_eq!(bytes[40] >> 4, 4);
        assert!(bytes.len() > 10_000, "{host}");
    }
}

#[test]
fn what_there_is_can_be_listed_and_explained() {
    let said = sim(&["list", "--json"]);
    let entries = said.json()[0]["entries"].as_array().unwrap().clone();
    let named = |name: &str| entries.iter().find(|e| e["name"] == name).unwrap().clone();
    assert_eq!((&named("dm")["kind"], &named("dm")["runs"]), (&"scenario".into(), &12.into()));
    for preset in meshwire_netsim::Preset::ALL {
        assert_eq!(named(preset.name())["kind"], "preset");
        let said = sim(&["explain", preset.name()]);
        assert_eq!(said.code, 0, "{}", said.err);
        assert!(said.out.contains("RFC"), "{}", said.out);
    }
    let dir = TempDir::new().unwrap();
    let svg = dir.path().join("a.svg");
    let said = sim(&["explain", "partition", HOTEL[0], HOTEL[1], "--svg", text(&svg)]);
    assert_eq!(said.code, 0, "{}", said.err);
    for part in [
        "bob.router: hotel, in front of bob.lan",
        "at 2s: internet falls into parts: broker, ana | bob | the rest",
        "connected bob after healed: within 1m",
    ] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    assert!(fs::read_to_string(svg).unwrap().starts_with("<svg xmlns="));
}

const DIRECT: &str = r#"
[scenario]
name = "direct"
[broker]
[[node]]
name = "ana"
preset = "port-restricted"
[[node]]
name = "bob"
preset = "full-cone"
link = { latency = "20ms" }
[[timeline]]
send = { from = "ana", to = "bob" }
[[timeline]]
id = "up"
wait_for = { path = { from = "ana", to = "bob", kind = "direct" }, within = "15s" }
[[timeline]]
send = { from = "ana", to = "bob", count = 100, size = "10kB" }
[[assert]]
delivered = { from = "ana", to = "bob", exactly_once = true, in_order = true, within = "20s" }
[[assert]]
path = { from = "ana", to = "bob", kind = "direct", within = "15s" }
[[assert]]
path = { from = "ana", to = "bob", kind = "direct", after = "up", all = true }
[[assert]]
bytes = { host = "broker", direction = "down", below = "300kB" }
"#;

/// Plays [`DIRECT`], with and without direct paths.
fn direct_path(driver: &str) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("direct.toml");
    fs::write(&path, DIRECT).unwrap();
    let said = sim(&["run", text(&path), "--driver", driver]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(said.out.contains("\tdirect, "), "{}", said.out);
    let alone = "name = \"bob\"\npaths = \"relay-only\"";
    fs::write(&path, DIRECT.replace("name = \"bob\"", alone).replace("15s", "5s")).unwrap();
    let said = sim(&["run", text(&path), "--driver", driver]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    assert!(said.err.contains("in vain for ana's messages to bob to go by direct"), "{}", said.err);
}

/// Behind two NATs that can be punched, messages leave the broker, and scenarios can ask for that.
#[test]
fn a_scenario_can_demand_a_direct_path() {
    direct_path("virtual");
}
