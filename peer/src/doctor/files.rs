//! The home's folder and files, and the disk that they lie on.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Check, judge};
use crate::home::Home;

/// Most files named in one line.
const MAX_NAMED: usize = 3;
/// Permission bits of everybody but the owner.
const OTHERS: u32 = 0o077;

/// Whether the home is its owner's alone.
pub(super) fn folder(home: &Home) -> Check {
    let path = home.path();
    match mode(path) {
        Err(e) => unreadable("home", path, &e),
        Ok(mode) if mode & OTHERS != 0 => {
            let found = format!("others can use {} (mode {mode:o})", path.display());
            Check::fail("home", found, format!("chmod 700 {}", quoted(path)))
        }
        Ok(mode) if mode & 0o700 != 0o700 => {
            let found = format!("you cannot use {} yourself (mode {mode:o})", path.display());
            Check::fail("home", found, format!("chmod 700 {}", quoted(path)))
        }
        Ok(mode) => Check::ok("home", format!("{}, mode {mode:o}", path.display())),
    }
}

/// Whether keys, database and socket are their owner's alone.
pub(super) fn private(home: &Home) -> Check {
    let keys = home.keys();
    let mut paths = match entries(&keys) {
        Ok(paths) => paths,
        Err(e) => return unreadable("permissions", &keys, &e),
    };
    paths.push(keys);
    let database = home.database();
    // SQLite's log and its index hold the newest rows.
    for suffix in ["", "-wal", "-shm"] {
        let mut path = database.clone().into_os_string();
        path.push(suffix);
        paths.push(path.into());
    }
    paths.push(home.socket());
    let (mut seen, mut open) = (0_usize, Vec::new());
    for path in paths {
        match mode(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return unreadable("permissions", &path, &e),
            Ok(mode) => {
                seen += 1;
                if mode & OTHERS != 0 {
                    open.push((path, mode));
                }
            }
        }
    }
    if open.is_empty() {
        let found = format!("keys, database and socket ({seen} files) are yours alone");
        return Check::ok("permissions", found);
    }
    let named = |(path, mode): &(PathBuf, u32)| format!("{} (mode {mode:o})", path.display());
    let mut found: Vec<String> = open.iter().take(MAX_NAMED).map(named).collect();
    if open.len() > MAX_NAMED {
        found.push(format!("{} more", open.len() - MAX_NAMED));
    }
    let found = format!("others can use {}", found.join(", "));
    let advice = format!("chmod -R go= {}", quoted(home.path()));
    Check::fail("permissions", found, advice)
}

/// How much room is left where the home lies, or will.
pub(super) fn disk(path: &Path) -> Check {
    let there = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("."));
    match rustix::fs::statvfs(there) {
        Ok(fs) => judge::disk(fs.f_bavail.saturating_mul(fs.f_frsize)),
        Err(e) => unreadable("disk", there, &e.into()),
    }
}

fn mode(path: &Path) -> io::Result<u32> {
    Ok(path.metadata()?.permissions().mode() & 0o777)
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|e| Ok(e?.path())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

fn unreadable(name: &'static str, path: &Path, e: &io::Error) -> Check {
    let found = format!("cannot look at {}: {e}", path.display());
    Check::fail(name, found, "see whose it is (ls -ld) and run this as that user")
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn set(path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_others_can_use_is_named_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(&dir.path().join("it's")).unwrap();
        assert_eq!(folder(&home).result, Verdict::Ok);
        assert_eq!(private(&home).result, Verdict::Ok, "nothing is there yet");
        set(home.path(), 0o755);
        let check = folder(&home);
        assert_eq!(check.result, Verdict::Fail);
        assert!(check.advice.unwrap().ends_with("it'\\''s'"));
        std::fs::create_dir(home.keys()).unwrap();
        set(&home.keys(), 0o700);
        for i in 0..5 {
            let key = home.keys().join(format!("{i}.key"));
            std::fs::write(&key, "").unwrap();
            set(&key, 0o644);
        }
        let check = private(&home);
        assert_eq!(check.result, Verdict::Fail);
        assert!(check.found.contains("(mode 644)") && check.found.ends_with("2 more"));
    }

    #[test]
    fn a_disk_is_found_before_the_home_is_there() {
        let dir = tempfile::tempdir().unwrap();
        assert!(disk(&dir.path().join("a/b/c")).found.ends_with(" free"));
    }
}
