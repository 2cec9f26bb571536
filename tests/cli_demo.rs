//! The demo passes, and notices what is sabotaged.

mod common;

use std::path::Path;

use common::{Home, Running, meshwire};
use tempfile::TempDir;

#[test]
fn the_demo_delivers_everything() {
    let home = Home::new();
    let played = home.run(&["demo"]);
    assert_eq!(played.status, 0, "{}", played.stderr);
    let rows = played.json["rows"].as_array().unwrap();
    assert!(rows.len() >= 5 && rows.iter().all(|r| r["state"] == "delivered"), "{rows:?}");
    let file = rows.iter().find(|r| r["file"].is_object()).unwrap();
    assert_eq!(file["path"], "relay, direct", "{file}");
    let bytes = |what: &str| file["file"][what].as_u64().unwrap();
    assert!(bytes("relayed") >= 1 << 20 && bytes("direct") >= 8 << 20, "{file}");
    let last = rows.last().unwrap();
    assert_eq!((&last["what"], &last["path"]), (&"without the broker".into(), &"direct".into()));
    assert!(!home.path().exists(), "the demo leaves the caller's home alone");
}

#[test]
fn the_demo_notices_each_sabotage_and_names_the_row() {
    let home = Home::new();
    for (sabotage, row) in [
        ("flip-ciphertext", "row 1 \"a first message\""),
        ("drop-acks", "row 1 \"a first message\""),
        ("no-restart", "row 5 \"across a broker restart\""),
    ] {
        let played = home.text(&["demo", "--sabotage", sabotage]);
        assert_eq!(played.status, 1, "{sabotage}: {}", played.stderr);
        let named = format!("demo failed: {row}: ");
        assert!(played.stderr.contains(&named), "{sabotage}: {}", played.stderr);
    }
}

/// Processes whose arguments name a folder; none where there is no `/proc`.
fn processes(folder: &Path) -> Vec<String> {
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    let lines = all.flatten().filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
    let lines = lines.map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "));
    lines.filter(|line| line.contains(&*folder.to_string_lossy())).collect()
}

#[test]
fn a_cancelled_demo_leaves_nothing_behind() {
    for cancel in [Running::interrupt, Running::terminate] {
        let folder = TempDir::new().unwrap();
        let mut command = meshwire();
        command.arg("demo").env("TMPDIR", folder.path());
        let demo = Running::start(command, None);
        assert!(demo.line().contains("WHAT"), "the table begins when everybody is up");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(cancel(demo), 1);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(processes(folder.path()), Vec::<String>::new());
    }
}
