//! Homes: who may read them, who works with them, and where their socket is.

// Helpers fail their test, as assertions do.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{Broker, Home, Pair, pair};

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

/// Every file and folder below `folder` that somebody else can use.
fn open_to_others(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(open_to_others(&path));
        }
        // The lock and the log say nothing; all the same nobody else needs them.
        if mode(&path) & 0o077 != 0 {
            found.push(path);
        }
    }
    found
}

#[test]
fn homes_are_private_and_so_is_what_is_in_them() {
    let Pair { ana, bob, broker } = pair();
    ana.up();
    ana.ok(&["send", "bob", "hi"]);
    bob.ok(&["inbox"]);
    for home in [&ana, &bob] {
        assert_eq!(mode(home.path()), 0o700);
        assert_eq!(open_to_others(home.path()), Vec::<std::path::PathBuf>::new());
    }
    for file in ["peer.db", "node.log", "node.sock"] {
        assert_eq!(mode(&ana.path().join(file)), 0o600, "{file}");
    }
    let keys = std::fs::read_dir(ana.path().join("keys")).unwrap().flatten();
    let (folders, keys): (Vec<_>, Vec<_>) = keys.partition(|k| k.path().is_dir());
    assert_eq!(
        (folders.len(), keys.len()),
        (1, 1),
        "the sessions' keys have a folder of their own"
    );
    assert_eq!((mode(&folders[0].path()), mode(&keys[0].path())), (0o700, 0o600));
    assert_eq!(mode(&broker.data), 0o700);
    for file in ["broker.key", "broker.db"] {
        assert_eq!(mode(&broker.data.join(file)), 0o600, "{file}");
    }
}

#[test]
fn a_home_that_others_can_read_is_refused() {
    let home = Home::new();
    home.ok(&["mesh", "list"]);
    std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let said = home.run(&["status"]);
    assert_eq!((said.status, said.error_code()), (10, "open_permissions"));
    assert!(said.stderr.contains("chmod 700"));
    std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o700)).unwrap();
}

#[test]
fn up_and_down_say_what_is() {
    let home = Home::new();
    let said = home.text(&["down"]);
    assert!(said.status == 0 && said.stdout.contains("not running"), "{said:?}");
    let up = home.ok(&["up"]);
    assert_eq!((&up["event"], &up["already_running"]), (&"up".into(), &false.into()));
    let said = home.text(&["up"]);
    let pid = up["pid"].to_string();
    assert!(said.status == 0 && said.stdout.contains(&pid), "{said:?}");
    assert_eq!(home.ok(&["status"])["pid"], up["pid"]);
    let second = home.run(&["up", "--foreground"]);
    assert_eq!((second.status, second.error_code()), (1, "already_running"));
    assert_eq!(home.ok(&["down"])["was_running"], true);
    assert_eq!(home.ok(&["down"])["was_running"], false);
}

#[test]
fn a_foreground_node_ends_well_on_signals_and_on_down() {
    let home = Home::new();
    assert_eq!(home.node().terminate(), 0);
    assert_eq!(home.node().interrupt(), 0);
    let node = home.node();
    home.down();
    assert_eq!(node.wait(), 0);
}

#[test]
fn a_killed_node_leaves_a_home_that_works() {
    let Pair { ana, bob, broker: _broker } = pair();
    let node = ana.node();
    node.kill();
    assert!(ana.path().join("node.sock").exists(), "the socket's file outlives the process");
    ana.ok(&["send", "bob", "still here"]);
    ana.up();
    assert_eq!(bob.texts(), ["still here"]);
}

#[test]
fn a_node_that_cannot_start_shows_why() {
    let home = Home::new();
    home.ok(&["mesh", "list"]);
    std::fs::write(home.path().join("peer.db"), b"this is no database, and long enough to tell")
        .unwrap();
    let said = home.text(&["up"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.stderr.contains("did not start"), "{}", said.stderr);
    assert!(said.stderr.contains("database"), "{}", said.stderr);
}

#[test]
fn long_home_paths_work() {
    let broker = Broker::start(&[]);
    let (ana, bob) = (Home::named(&"long".repeat(40)), Home::new());
    ana.create_mesh("home", &broker, "ana");
    bob.join(&ana.invite(&[]), "bob");
    let pid = ana.up();
    assert!(!ana.path().join("node.sock").exists(), "the path is too long for a socket");
    assert_eq!(ana.ok(&["status"])["pid"], pid);
    ana.ok(&["send", "bob", "from far down", "--wait", "accepted"]);
    assert_eq!(bob.texts(), ["from far down"]);
    ana.down();
    assert_eq!(ana.ok(&["status"])["background"], false);
}
