//! A backup that is taken while the broker works is a broker.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use super::common::{Broker, Home, Output, Pair, meshwire, pair, pair_on};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn command(data: &Path, target: &Path) -> Command {
    let mut command = Home::new().command(&["--json", "broker", "--data"]);
    command.arg(data).arg("--backup").arg(target);
    command
}

pub(crate) fn backup(data: &Path, target: &Path) -> Output {
    let output = command(data, target).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let said = if output.status.success() { &stdout } else { &stderr };
    let json = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    Output { status: output.status.code().unwrap_or(-1), stdout, stderr, json }
}

#[test]
fn a_broker_comes_back_from_a_backup_made_under_traffic() {
    let Pair { ana, bob, mut broker } = pair();
    let early: Vec<String> = (0..5).map(|i| format!("early {i}")).collect();
    for text in &early {
        ana.ok(&["send", "bob", text]);
    }
    let carol = Home::new();
    carol.join(&ana.invite(&[]), "carol");
    let _node = ana.node();
    let target = broker.data.parent().unwrap().join("monday");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut sent = 0;
            while sent == 0 || !done.load(Ordering::Relaxed) {
                ana.ok(&["send", "carol", &format!("meanwhile {sent}")]);
                sent += 1;
            }
            sent
        });
        let made = backup(&broker.data, &target);
        done.store(true, Ordering::Relaxed);
        assert!(traffic.join().unwrap() > 0);
        assert_eq!(made.status, 0, "{}", made.stderr);
        assert_eq!(made.json["event"], "backed_up");
        assert!(made.json["database_bytes"].as_u64().unwrap() > 0);
    });
    assert_eq!(mode(&target), 0o700);
    let files = ["broker.db", "broker.key"];
    for file in files {
        assert_eq!(mode(&target.join(file)), 0o600, "{file}");
    }
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), files.len());
    let beside: Vec<_> = std::fs::read_dir(target.parent().unwrap()).unwrap().flatten().collect();
    assert!(!beside.iter().any(|e| e.file_name().to_string_lossy().starts_with('.')), "{beside:?}");

    let (key, url) = (broker.key.clone(), broker.url.clone());
    assert_eq!(broker.stop(), 0);
    std::fs::remove_dir_all(&broker.data).unwrap();
    broker.data = target;
    broker.restart();
    assert_eq!((&broker.key, &broker.url), (&key, &url));
    bob.up();
    ana.deliver("bob", "after");
    let texts = bob.texts();
    assert_eq!(texts[..5], early, "what waited is there, in order");
    assert_eq!(texts[5..], ["after"]);
}

#[test]
fn certificates_are_part_of_it() {
    let folder = tempfile::TempDir::new().unwrap();
    let data = folder.path().join("data");
    let mut start = meshwire();
    start.args(["broker", "--json", "--listen", "0.0.0.0:0", "--data"]).arg(&data);
    let broker = super::common::Running::start(start, None);
    let ready = broker.json_line();
    let target = folder.path().join("copy");
    // An empty folder, such as one made with the right owner, may be there.
    std::fs::create_dir(&target).unwrap();
    assert_eq!(backup(&data, &target).status, 0);
    assert_eq!(broker.terminate(), 0);
    for file in ["tls.crt", "tls.key"] {
        assert_eq!(
            std::fs::read(data.join(file)).unwrap(),
            std::fs::read(target.join(file)).unwrap()
        );
    }
    assert_eq!((mode(&target), mode(&target.join("tls.key"))), (0o700, 0o600));
    let mut again = meshwire();
    again.args(["broker", "--json", "--listen", "0.0.0.0:0", "--data"]).arg(&target);
    let again = super::common::Running::start(again, None);
    assert_eq!(again.json_line()["pin"], ready["pin"]);
}

#[test]
fn a_backup_replaces_nothing_and_needs_a_broker() {
    let Pair { broker, .. } = pair_on(Broker::start(&[]));
    let parent = broker.data.parent().unwrap();
    let target = parent.join("there");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("precious"), "x").unwrap();
    for full in [&target, &target.join("precious")] {
        let refused = backup(&broker.data, full);
        assert_eq!((refused.status, refused.error_code()), (3, "config"), "{}", refused.stderr);
        assert!(refused.stderr.contains("not empty"), "{}", refused.stderr);
    }
    assert_eq!(std::fs::read(target.join("precious")).unwrap(), b"x");
    let nowhere = backup(&parent.join("no-broker"), &parent.join("new"));
    assert_eq!(nowhere.status, 3);
    assert!(nowhere.stderr.contains("--data"), "{}", nowhere.stderr);
    assert!(!parent.join("new").exists());
    assert!(!parent.join("no-broker").exists());
}

#[test]
fn a_damaged_database_is_no_backup() {
    let Pair { broker, .. } = pair();
    // The copy is one file without a log, so that what is damaged is what is read.
    let parent = broker.data.parent().unwrap();
    let (first, second) = (parent.join("first"), parent.join("second"));
    assert_eq!(backup(&broker.data, &first).status, 0);
    super::check::damage(&first.join("broker.db"));
    let refused = backup(&first, &second);
    assert_ne!(refused.status, 0);
    assert!(!second.exists());
}
