//! The units start what is there, by systemd's own word where it is installed.

use std::process::Command;

use tempfile::TempDir;

use super::common::meshwire;
use super::document;

/// The arguments of a unit's `ExecStart`, and the program in front of them.
fn exec_start(unit: &str) -> (String, Vec<String>) {
    let line = unit.lines().find_map(|l| l.strip_prefix("ExecStart=")).unwrap();
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.collect())
}

#[test]
fn the_units_are_good() {
    for (name, scope) in
        [("meshwire-broker.service", "--system"), ("meshwire-node.service", "--user")]
    {
        let unit = document(name);
        let (program, args) = exec_start(&unit);
        // The command line is one that this program takes: help is refused after a wrong one.
        let help = meshwire().args(&args).arg("--help").output().unwrap();
        assert!(help.status.success(), "{name}: {}", String::from_utf8_lossy(&help.stderr));
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(name);
        let real = meshwire().get_program().to_str().unwrap().to_owned();
        std::fs::write(&path, unit.replacen(&program, &real, 1)).unwrap();
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", scope, "--man=no"]).arg(&path);
        // A user's manager wants a place of its own.
        verify.env("XDG_RUNTIME_DIR", folder.path()).env("HOME", folder.path());
        // Elsewhere than on Linux with systemd there is nobody to ask.
        let Ok(verify) = verify.output() else { continue };
        let said = String::from_utf8_lossy(&verify.stderr);
        assert!(!said.lines().any(|l| l.contains(name) || l.contains("Failed")), "{name}: {said}");
    }
}

#[test]
fn the_container_starts_what_there_is() {
    let file = document("Containerfile");
    let entry = file.lines().find_map(|l| l.strip_prefix("ENTRYPOINT ")).unwrap();
    let words: Vec<String> = serde_json::from_str(entry).unwrap();
    assert!(meshwire().args(&words[1..]).arg("--help").output().unwrap().status.success());
    let user = file.lines().rfind(|l| l.starts_with("USER ")).unwrap();
    assert!(!user.contains("root") && !user.contains(" 0"), "{user}");
}
