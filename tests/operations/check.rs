//! `meshwire broker --check`, on good and on broken set-ups.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::common::{Broker, Home, Pair, meshwire, pair};

/// What a check said.
struct Checked {
    status: i32,
    checks: Vec<Value>,
    stderr: String,
}

impl Checked {
    fn run(mut command: Command) -> Self {
        let output = command.output().unwrap();
        let stdout: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
            panic!("{e}: {}", String::from_utf8_lossy(&output.stderr));
        });
        assert_eq!(stdout["schema_version"], 1);
        let checked = Self {
            status: output.status.code().unwrap(),
            checks: stdout["checks"].as_array().unwrap().clone(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        let failed = checked.checks.iter().any(|c| c["outcome"] == "fail");
        assert_eq!(checked.status, i32::from(failed), "{}", checked.stderr);
        for c in &checked.checks {
            assert_eq!(c["advice"].is_null(), c["outcome"] == "ok", "{c}");
        }
        checked
    }

    fn of(&self, name: &str) -> (&str, &str) {
        let check = self.checks.iter().find(|c| c["name"] == name);
        let check = check.unwrap_or_else(|| panic!("{name}: {:?}", self.checks));
        (check["outcome"].as_str().unwrap(), check["found"].as_str().unwrap())
    }

    /// Those that failed.
    fn failed(&self) -> Vec<&str> {
        let failed = self.checks.iter().filter(|c| c["outcome"] == "fail");
        failed.map(|c| c["name"].as_str().unwrap()).collect()
    }
}

fn check(data: &Path, args: &[&str]) -> Checked {
    let mut command = meshwire();
    command.args(["broker", "--check", "--json", "--data"]).arg(data);
    if !args.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command.args(args);
    Checked::run(command)
}

/// Overwrites what the tables of a database are found by.
pub(crate) fn damage(database: &Path) {
    let file = std::fs::OpenOptions::new().write(true).open(database).unwrap();
    let len = file.metadata().unwrap().len();
    assert!(len > 8_192);
    for page in 1..len / 4_096 {
        file.write_all_at(&[0x5a; 512], page * 4_096).unwrap();
    }
}

/// A broker's data after some use.
fn used() -> Broker {
    let Pair { ana, mut broker, .. } = pair();
    ana.ok(&["send", "bob", "hello"]);
    assert_eq!(broker.stop(), 0);
    broker
}

#[test]
fn nothing_is_wrong_before_the_first_start_and_nothing_is_made() {
    let home = Home::new();
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("a/b");
    let checked = check(&data, &[]);
    assert_eq!(checked.failed(), Vec::<&str>::new());
    for name in ["data", "key", "certificate", "database", "migrations", "listen", "url"] {
        assert_eq!(checked.of(name).0, "ok", "{:?}", checked.checks);
    }
    assert!(!folder.path().join("a").exists());
    let shown = home.text(&["broker", "--check", "--listen", "127.0.0.1:0"]);
    assert_eq!(shown.status, 0, "{}", shown.stderr);
    let lines: Vec<Vec<&str>> = shown.stdout.lines().map(|l| l.split('\t').collect()).collect();
    assert!(lines.len() >= 9 && lines.iter().all(|l| l.len() == 4), "{}", shown.stdout);
    assert!(!home.path().exists());
}

#[test]
fn a_running_broker_is_fine_and_its_port_is_said_to_be_its_own() {
    let Pair { ana, bob, broker } = pair();
    let checked = check(&broker.data, &["--listen", &broker.addr]);
    let (outcome, found) = checked.of("listen");
    assert!(outcome == "warn" && found.contains("this very broker"), "{found}");
    for name in ["data", "key", "database", "migrations"] {
        assert_eq!(checked.of(name).0, "ok", "{:?}", checked.checks);
    }
    assert_eq!(checked.status, 0);
    // It goes on as before.
    bob.up();
    ana.deliver("bob", "hello");
}

#[test]
fn a_taken_port_is_told_from_ones_own() {
    let (one, other) = (Broker::start(&[]), Broker::start(&[]));
    let checked = check(&one.data, &["--listen", &other.addr]);
    assert_eq!(checked.failed(), ["listen"]);
    assert!(checked.of("listen").1.contains("another meshwire broker"));
    assert!(checked.stderr.contains("1 of 10 checks failed: listen"), "{}", checked.stderr);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let closing = std::thread::spawn(move || drop(taken.accept()));
    let checked = check(&one.data, &["--listen", &addr]);
    closing.join().unwrap();
    assert_eq!(checked.failed(), ["listen"]);
    assert!(checked.of("listen").1.contains("another program"));
    // TEST-NET-1 (RFC 5737) is nobody's address.
    let args =
        ["--listen", "192.0.2.7:7900", "--behind-proxy", "--public-url", "https://b.example"];
    assert!(check(&one.data, &args).of("listen").1.contains("no address of this machine"));
}

#[test]
fn keys_and_folders_are_looked_at() {
    let broker = used();
    let key = broker.data.join("broker.key");
    std::fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    std::fs::set_permissions(&broker.data, Permissions::from_mode(0o755)).unwrap();
    let checked = check(&broker.data, &[]);
    assert_eq!((checked.of("key").0, checked.of("data").0), ("warn", "warn"));
    assert!(checked.of("key").1.contains("644") && checked.of("data").1.contains("755"));
    let saved = std::fs::read(&key).unwrap();
    std::fs::write(&key, "no key").unwrap();
    assert_eq!(check(&broker.data, &[]).failed(), ["key"]);
    std::fs::remove_file(&key).unwrap();
    let checked = check(&broker.data, &[]);
    assert_eq!(checked.failed(), ["key"]);
    assert!(checked.of("key").1.contains("missing"));
    assert!(!key.exists(), "it makes none");
    std::fs::write(&key, saved).unwrap();
    assert_eq!(check(&key, &[]).failed()[0], "data");
}

#[test]
fn a_damaged_database_is_noticed() {
    let broker = used();
    let data = broker.data.parent().unwrap().join("copy");
    assert_eq!(super::backup::backup(&broker.data, &data).status, 0);
    let database = data.join("broker.db");
    assert_eq!(check(&data, &[]).failed(), Vec::<&str>::new());
    damage(&database);
    assert_eq!(check(&data, &[]).failed(), ["database"]);
    std::fs::write(&database, "this is no database, whatever its name says ".repeat(100)).unwrap();
    assert_eq!(check(&data, &[]).failed(), ["database"]);
}

#[test]
fn certificates_and_addresses_are_to_fit() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let made = |name: &str, until: i32| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["broker.example".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let cert = params.self_signed(&key).unwrap();
        let pem = write(&format!("{name}.crt"), &cert.pem());
        (pem, write(&format!("{name}.key"), &key.serialize_pem()))
    };
    let (good, over) = (made("good", 2999), made("over", 2020));
    let with = |cert: &str, key: &str, url: &str| {
        let args = ["--listen", "0.0.0.0:0", "--cert", cert, "--key", key, "--public-url", url];
        check(&data, &args)
    };
    let url = "https://broker.example";
    assert_eq!(with(&good.0, &good.1, url).failed(), Vec::<&str>::new());
    let checked = with(&over.0, &over.1, url);
    assert_eq!(checked.failed(), ["certificate"]);
    assert!(checked.of("certificate").1.starts_with("over since"));
    assert_eq!(with(&good.0, &over.1, url).failed(), ["certificate"]);
    assert_eq!(with(&good.0, &write("empty", ""), url).failed(), ["certificate"]);
    let checked = with(&good.0, &good.1, "https://other.example");
    assert_eq!(checked.failed(), ["url"]);
    assert!(checked.of("url").1.contains("does not name other.example"));
    assert_eq!(with(&good.0, &good.1, "http://broker.example").failed(), ["url"]);
    let proxied = ["--behind-proxy", "--public-url", "http://broker.example"];
    assert_eq!(check(&data, &proxied).of("url").0, "warn");
    assert_eq!(check(&data, &["--listen", "0.0.0.0:0"]).of("url").0, "warn");
}

#[test]
fn half_a_pinned_certificate_is_noticed() {
    let folder = TempDir::new().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
    std::fs::write(folder.path().join("tls.crt"), "x").unwrap();
    let checked = check(folder.path(), &["--listen", "0.0.0.0:0"]);
    assert_eq!(checked.failed(), ["certificate"]);
    assert!(checked.of("certificate").1.contains("only one of"));
}

#[test]
fn few_descriptors_are_a_warning() {
    if !Path::new("/proc/self/limits").exists() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let with = |limit: u32| {
        let plain = meshwire();
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -Sn {limit} && exec \"$0\" \"$@\""));
        command.arg(plain.get_program()).args(["broker", "--check", "--json"]);
        command.args(["--listen", "127.0.0.1:0", "--data"]).arg(folder.path().join("data"));
        Checked::run(command).of("descriptors").0.to_owned()
    };
    assert_eq!(with(512), "warn");
}
