//! `meshwire doctor`: healthy homes, and one thing wrong at a time.

// Helpers fail their test, as assertions do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use common::{Broker, Home};
use serde_json::Value;

/// What the doctor said; its exit code fits what it found.
struct Said {
    report: Value,
    all: String,
}

impl Said {
    fn new(home: &Home, args: &[&str]) -> Self {
        let said = home.run(&[&["doctor"], args].concat());
        let report: Value = serde_json::from_str(said.stdout.trim()).expect(&said.stderr);
        assert_eq!(report["schema_version"], 1);
        assert_eq!(said.status == 0, report["healthy"] == true, "{report}");
        assert!(said.status <= 1 && said.stderr.is_empty(), "{said:?}");
        Self { report, all: said.stdout }
    }

    fn checks(&self) -> &[Value] {
        self.report["checks"].as_array().unwrap()
    }

    fn find(&self, name: &str) -> Option<&Value> {
        self.checks().iter().find(|c| c["name"] == name)
    }

    /// A check's text, once it has come out as it should.
    fn found(&self, name: &str, result: &str) -> String {
        let check = self.find(name).unwrap_or_else(|| panic!("no {name}: {}", self.all));
        assert_eq!(check["result"], result, "{name}: {}", self.all);
        assert_eq!(check.get("advice").is_some(), result != "ok", "{check}");
        format!("{} → {}", check["found"], check["advice"])
    }

    /// The names of the checks that fail.
    fn failing(&self) -> Vec<&str> {
        let failing = self.checks().iter().filter(|c| c["result"] == "fail");
        failing.map(|c| c["name"].as_str().unwrap()).collect()
    }
}

fn doctor(home: &Home) -> Said {
    Said::new(home, &[])
}

fn founded() -> (Home, Broker) {
    let (ana, broker) = (Home::new(), Broker::start(&[]));
    ana.create_mesh("home", &broker, "ana");
    (ana, broker)
}

fn key_file(home: &Home) -> PathBuf {
    let keys = std::fs::read_dir(home.path().join("keys")).unwrap();
    keys.map(|k| k.unwrap().path()).find(|path| path.is_file()).unwrap()
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

const ALWAYS_OK: [&str; 14] = [
    "env_home",
    "env_session",
    "home",
    "permissions",
    "node",
    "database",
    "schema",
    "key",
    "reach",
    "tls",
    "broker",
    "version",
    "clock",
    "websocket",
];

#[test]
fn a_healthy_home_is_healthy_with_its_node_down_and_up() {
    let (ana, _broker) = founded();
    let down = doctor(&ana);
    for name in ALWAYS_OK {
        down.found(name, "ok");
    }
    assert_eq!(down.failing(), Vec::<&str>::new());
    assert!(down.find("disk").is_some() && down.find("round_trip").is_some());
    assert!(down.find("link").is_none(), "there is no node to ask");
    assert_eq!(down.find("clock").unwrap()["mesh"], "home");
    let pid = ana.up();
    ana.ok(&["status"]);
    let up = doctor(&ana);
    assert!(up.found("node", "ok").contains(&pid.to_string()), "{}", up.all);
    up.found("link", "ok");
    assert_eq!(up.failing(), Vec::<&str>::new());
    let said = ana.text(&["doctor"]);
    assert_eq!(said.status, 0, "{}", said.stderr);
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(lines.len(), up.checks().len(), "a line per check: {}", said.stdout);
    assert!(lines.iter().any(|l| l.starts_with("ok\thome: websocket\t")), "{}", said.stdout);
}

#[test]
fn the_doctor_mends_nothing_and_tells_no_secrets() {
    let fresh = Home::new();
    let said = doctor(&fresh);
    said.found("home", "warn");
    assert!(!fresh.path().exists(), "looking makes no home");

    let (ana, broker) = founded();
    let seed = std::fs::read_to_string(key_file(&ana)).unwrap();
    let before = std::fs::read(ana.path().join("peer.db")).unwrap();
    let mut command = ana.command(&["doctor", "--json"]);
    let said = command.env("MESHWIRE_SESSION", "very-secret").output().unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.contains("MESHWIRE_SESSION is set"), "{text}");
    for secret in [seed.trim(), "very-secret", &broker.token] {
        assert!(!text.contains(secret), "{text}");
    }
    assert_eq!(std::fs::read(ana.path().join("peer.db")).unwrap(), before);
}

#[test]
fn a_verb_that_keeps_the_home_is_no_node() {
    let (ana, _broker) = founded();
    let follow = ana.start(&["inbox", "--follow"]);
    let said = common::until("the verb has the home", || {
        Some(doctor(&ana)).filter(|s| s.find("node").unwrap()["result"] == "warn")
    });
    assert!(said.found("node", "warn").contains("--follow"), "{}", said.all);
    assert_eq!(said.failing(), Vec::<&str>::new(), "the database is read all the same");
    follow.kill();
}

#[test]
fn files_that_others_can_use_fail() {
    let (ana, _broker) = founded();
    chmod(ana.path(), 0o755);
    let said = doctor(&ana);
    assert_eq!(said.failing(), ["home"]);
    assert!(said.found("home", "fail").contains("chmod 700"), "{}", said.all);
    said.found("websocket", "ok");
    chmod(ana.path(), 0o700);
    chmod(&key_file(&ana), 0o644);
    let said = doctor(&ana);
    assert_eq!(said.failing(), ["permissions"]);
    assert!(said.found("permissions", "fail").contains(".key (mode 644)"), "{}", said.all);
}

#[test]
fn keys_that_are_missing_or_wrong_fail() {
    let (ana, _broker) = founded();
    let (key, folder) = (key_file(&ana), ana.path().join("keys"));
    let seed = std::fs::read_to_string(&key).unwrap();
    std::fs::write(&key, "00".repeat(32)).unwrap();
    assert!(doctor(&ana).found("key", "fail").contains("knows us as"));
    std::fs::write(&key, "nonsense").unwrap();
    assert!(doctor(&ana).found("key", "fail").contains("is no key"));
    std::fs::remove_dir_all(&folder).unwrap();
    let said = doctor(&ana);
    assert_eq!(said.failing(), ["key"]);
    assert!(said.found("key", "fail").contains("is missing"), "{}", said.all);
    assert!(!folder.exists(), "looking makes no folder");
    std::fs::create_dir(&folder).unwrap();
    chmod(&folder, 0o700);
    std::fs::write(&key, seed).unwrap();
}

#[test]
fn a_damaged_database_fails() {
    let (ana, _broker) = founded();
    let path = ana.path().join("peer.db");
    let good = std::fs::read(&path).unwrap();
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(ana.path().join(format!("peer.db{suffix}")));
    }
    std::fs::write(&path, "this is no database, and long enough to tell").unwrap();
    let said = doctor(&ana);
    assert_eq!(said.failing(), ["database"]);
    assert!(said.found("database", "fail").contains("backup"), "{}", said.all);
    std::fs::write(&path, good).unwrap();
}

#[test]
fn a_broker_that_is_away_or_another_one_fails() {
    let (ana, mut broker) = founded();
    broker.kill();
    let said = doctor(&ana);
    assert_eq!(said.failing(), ["reach"]);
    assert!(said.found("reach", "fail").contains(&broker.addr), "{}", said.all);
    assert!(said.find("broker").is_none(), "what needs a connection is not tried");
    std::fs::remove_dir_all(&broker.data).unwrap();
    broker.restart();
    let said = doctor(&ana);
    assert_eq!(said.failing(), ["broker"]);
    assert!(said.found("broker", "fail").contains(&broker.key[..8]), "{}", said.all);
}

#[test]
fn a_tls_key_that_is_not_the_pinned_one_fails() {
    let (ana, mut broker) = (Home::new(), Broker::start(&[]));
    // Beyond loopback it speaks TLS with a key of its own.
    let tls = |broker: &mut Broker| {
        broker.kill();
        std::fs::remove_dir_all(&broker.data).unwrap();
        let port = broker.addr.rsplit(':').next().unwrap().to_owned();
        broker.addr = format!("0.0.0.0:{port}");
        broker.restart();
        broker.url = format!("https://127.0.0.1:{port}");
    };
    tls(&mut broker);
    ana.create_mesh("home", &broker, "ana");
    assert!(doctor(&ana).found("tls", "ok").contains("pinned"));
    tls(&mut broker);
    let said = doctor(&ana);
    assert_eq!(said.failing(), ["tls"]);
    assert!(said.found("tls", "fail").contains("in between"), "{}", said.all);
}

/// A proxy in front of `broker` that answers what starts with `question` itself; its address.
fn proxy(broker: &str, question: &'static str, answer: String) -> String {
    let (listener, broker) = (TcpListener::bind("127.0.0.1:0").unwrap(), broker.to_owned());
    let address = listener.local_addr().unwrap();
    let pass = move |mut near: TcpStream| -> std::io::Result<()> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && near.read(&mut byte)? == 1 {
            head.push(byte[0]);
        }
        if head.starts_with(question.as_bytes()) {
            return near.write_all(answer.as_bytes());
        }
        let mut far = TcpStream::connect(&broker)?;
        far.write_all(&head)?;
        let (mut from, mut to) = (near.try_clone()?, far.try_clone()?);
        thread::spawn(move || std::io::copy(&mut from, &mut to));
        std::io::copy(&mut far, &mut near)?;
        near.shutdown(Shutdown::Both)
    };
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let pass = pass.clone();
            thread::spawn(move || pass(near));
        }
    });
    format!("http://{address}")
}

/// A home whose mesh was founded through a proxy.
fn behind(broker: &Broker, proxy: &str) -> Home {
    let ana = Home::new();
    let mut create = ana.command(&["mesh", "create", "home", "--name", "ana"]);
    create.args(["--broker", proxy]).env("MESHWIRE_ADMIN_TOKEN", &broker.token);
    let created = create.output().unwrap();
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    ana
}

#[test]
fn a_proxy_that_breaks_websocket_is_found_out() {
    let broker = Broker::start(&[]);
    for (answer, why) in [
        ("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", "HTTP 502"),
        ("HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n", "RFC 6455"),
        ("", "closed"),
    ] {
        let ana = behind(&broker, &proxy(&broker.addr, "GET /v2/ws", answer.to_owned()));
        let said = doctor(&ana);
        assert_eq!(said.failing(), ["websocket"], "{}", said.all);
        let found = said.found("websocket", "fail");
        assert!(found.contains(why) && found.contains("proxy"), "{found}");
    }
}

#[test]
fn clocks_that_differ_fail_and_other_versions_are_a_warning() {
    let broker = Broker::start(&[]);
    let info = format!(r#"{{"broker":"{}","agent":"meshwire-broker/99.0.0","at":5}}"#, broker.key);
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{info}", info.len());
    let said = doctor(&behind(&broker, &proxy(&broker.addr, "GET /v2/broker", answer)));
    assert_eq!(said.failing(), ["clock"], "{}", said.all);
    assert!(said.found("clock", "fail").contains("behind"), "{}", said.all);
    assert!(said.found("version", "warn").contains("99.0.0"), "{}", said.all);
}

#[test]
fn one_mesh_can_be_named() {
    let (ana, broker) = founded();
    ana.create_mesh("work", &broker, "ana");
    let of = |said: &Said| -> Vec<String> {
        let reached = said.checks().iter().filter(|c| c["name"] == "reach");
        reached.map(|c| c["mesh"].as_str().unwrap().to_owned()).collect()
    };
    let mut both = of(&doctor(&ana));
    both.sort();
    assert_eq!(both, ["home", "work"]);
    assert_eq!(of(&Said::new(&ana, &["--mesh", "work"])), ["work"]);
    let said = Said::new(&ana, &["--mesh", "wrok"]);
    assert_eq!(said.failing(), ["mesh"]);
    assert!(said.found("mesh", "fail").contains("home, work"), "{}", said.all);
}
