//! `meshwire sim run --driver lab`: broker and nodes as programs in network namespaces.

use std::fs;
use std::process::Stdio;

use tempfile::TempDir;

use super::common::meshwire;
use super::{HOTEL, sim, text};

/// Whether there can be a lab. Where there can be none, `sim run` says why.
fn lab() -> bool {
    let Err(missing) = meshwire_netsim::lab::check() else { return true };
    assert!(std::env::var_os("MESHWIRE_REQUIRE_LAB").is_none(), "{missing}");
    let said = sim(&["run", "dm", "--driver", "lab", HOTEL[0], HOTEL[1]]);
    assert_eq!(said.code, 3);
    assert!(said.err.contains("the Linux lab cannot run here"), "{}", said.err);
    false
}

/// A canary of `sim run --all --driver lab`, with the real programs: what is quick, in a cell each.
#[test]
fn the_lab_plays_what_is_built_in() {
    if !lab() {
        return;
    }
    let cells = [
        ("mtu-1280", "preset=ipv6-only"),
        ("rtt-600ms", "preset=cgnat"),
        ("broker-restart", "preset=corporate"),
        ("uplink-change", "preset=mobile"),
        ("herd", "each=2"),
    ];
    // Each is a process of its own, so that all wait at the same time.
    let runs = cells.map(|(name, set)| {
        let mut command = meshwire();
        command.args(["sim", "run", name, "--driver", "lab", "--json", "--set", set]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        (name, command.spawn().unwrap())
    });
    for (name, run) in runs {
        let output = run.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{name}: {out}{err}");
        assert!(out.contains("\"driver\":\"lab\""), "{name}: {out}");
    }
}

/// The broker gets another address: who finds it by its name finds it there.
#[test]
fn names_follow_a_broker_that_moves_in_the_lab() {
    if !lab() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("moved.toml");
    fs::write(&path, MOVED).unwrap();
    for driver in ["virtual", "lab"] {
        let said = sim(&["run", text(&path), "--driver", driver]);
        assert_eq!(said.code, 0, "{driver}: {}{}", said.out, said.err);
    }
}

const MOVED: &str = r#"
[scenario]
name = "moved"
paths = "relay-only"
[broker]
[[node]]
name = "ana"
[[node]]
name = "bob"
preset = "full-cone"
[[timeline]]
stop = "broker"
[[timeline]]
address = { of = "broker", addresses = ["11.1.0.200", "2600:1:1::c8"] }
[[timeline]]
start = "broker"
id = "moved"
[[timeline]]
send = { from = "ana", to = "bob", count = 5 }
[[assert]]
delivered = { from = "ana", to = "bob", exactly_once = true, within = "60s" }
[[assert]]
connected = { node = "*", after = "moved", within = "60s" }
"#;

/// The matrix's canary: the real programs behind the kinds of routers that differ most.
#[test]
fn cells_of_the_matrix_get_the_paths_that_they_must() {
    if !lab() {
        return;
    }
    let cells = [
        "full-cone:symmetric:v4",
        "port-restricted:port-restricted:dual",
        "symmetric:symmetric:v4",
        "corporate:open:dual",
        "symmetric:lan:v4",
    ];
    let mut args = vec!["matrix", "--driver", "lab"];
    args.extend(cells.iter().flat_map(|cell| ["--cells", cell]));
    let said = sim(&args);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert_eq!(said.out.lines().filter(|l| l.starts_with("pass\t")).count(), cells.len());
    let said = sim(&["matrix", "--driver", "lab", "--disable", "quic", "--cells", cells[0]]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    assert!(said.err.contains("must get direct, got relay"), "{}", said.err);
}

/// As [`super::a_scenario_can_demand_a_direct_path`], with the real programs.
#[test]
fn a_scenario_can_demand_a_direct_path_in_the_lab() {
    if lab() {
        super::direct_path("lab");
    }
}

/// Two programs that serve each other, and a scenario of meshwire's, in namespaces.
#[test]
fn the_lab_plays_the_same_files() {
    if !lab() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let pcap = dir.path().join("pcap");
    let args =
        ["run", "dm", "--driver", "lab", HOTEL[0], HOTEL[1], "--json", "--pcap", text(&pcap)];
    let said = sim(&args);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert_eq!(said.json()[0]["driver"], "lab");
    assert!(fs::metadata(pcap.join("bob-eth0.pcap")).unwrap().len() > 10_000);

    let path = dir.path().join("exec.toml");
    let exec = r#"
[scenario]
name = "exec"
[[server]]
name = "web"
[[home]]
name = "pc"
preset = "symmetric"
link = { latency = "30ms" }
[[timeline]]
id = "inside"
exec = { host = "pc", command = "ip address show eth0 | grep -q 10.0.1.2" }
[[timeline]]
id = "refused"
exec = { host = "pc", command = ["bash", "-c", "echo > /dev/tcp/web/9"] }
[[timeline]]
id = "slow"
exec = { host = "web", command = "sleep 600", within = "200ms", background = true }
[[timeline]]
wait_for = { exit = "slow", within = "10s" }
[[timeline]]
id = "no"
exec = { host = "pc", command = "echo so; exit 3" }
[[assert]]
exit = { exec = "inside" }
[[assert]]
exit = { exec = "refused", code = 1 }
[[assert]]
bytes = { host = "web", above = "60", direction = "down" }
[[assert]]
exit = { exec = "no", code = 3 }
"#;
    fs::write(&path, exec).unwrap();
    let said = sim(&["run", text(&path), "--driver", "lab"]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    fs::write(&path, format!("{exec}[[assert]]\nexit = {{ exec = \"slow\" }}\n")).unwrap();
    let said = sim(&["run", text(&path), "--driver", "lab"]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    assert!(said.err.contains("ended by a signal or its time limit"), "{}", said.err);
    fs::write(&path, exec.replace("code = 3", "code = 4")).unwrap();
    let said = sim(&["run", text(&path), "--driver", "lab"]);
    assert!(said.err.contains("exit no: wanted 4, got 3: so"), "{}", said.err);
}
