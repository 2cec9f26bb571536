//! The data folder and the broker's key.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use meshwire_signaling::PublicKey;
use rustix::fs::{Access, access};

use super::Check;
use crate::config::{DATABASE_FILE, KEY_FILE};
use crate::serve::read_key;

/// Whether the folder is there, ours and nobody else's, or can be made.
pub(super) fn data(path: &Path) -> Check {
    const NAME: &str = "data";
    let shown = path.display();
    let writable = |p: &Path| access(p, Access::WRITE_OK | Access::EXEC_OK);
    match std::fs::metadata(path) {
        Ok(meta) if !meta.is_dir() => {
            let found = format!("{shown} is no folder");
            Check::fail(NAME, found, "name a folder with --data")
        }
        Ok(meta) => {
            if let Err(e) = writable(path) {
                let advice = "run the broker as the folder's owner, or give it the folder (chown)";
                return Check::fail(NAME, format!("{shown} cannot be written: {e}"), advice);
            }
            let mode = meta.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                let found = format!("{shown} is open to others (mode {mode:o})");
                return Check::warn(NAME, found, format!("chmod 700 {shown}"));
            }
            Check::ok(NAME, shown.to_string())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let above = path.ancestors().skip(1).map(|p| match p.as_os_str() {
                empty if empty.is_empty() => Path::new("."),
                _ => p,
            });
            match above.into_iter().find(|p| p.exists()).map(|p| (p, writable(p))) {
                Some((_, Ok(()))) => Check::ok(NAME, format!("{shown} will be made")),
                Some((p, Err(e))) => {
                    let found = format!("{shown} cannot be made: {}: {e}", p.display());
                    Check::fail(NAME, found, "make it for the broker's user, mode 700")
                }
                None => Check::fail(NAME, format!("{shown} cannot be made"), "name another folder"),
            }
        }
        Err(e) => {
            let advice = "look at the folder's owner and at the folders above it";
            Check::fail(NAME, format!("{shown}: {e}"), advice)
        }
    }
}

/// Whether the key is usable, and which it is. `kept`: the broker has a database file.
pub(super) fn key(data: &Path, kept: bool) -> (Check, Option<PublicKey>) {
    const NAME: &str = "key";
    let path = data.join(KEY_FILE);
    let shown = path.display();
    let restore = "restore it from a backup; without it the members refuse this broker";
    match read_key(&path) {
        Err(e) => (Check::fail(NAME, e.to_string(), restore), None),
        Ok(None) if kept && data.join(DATABASE_FILE).exists() => {
            // The start would make another key, and the meshes in the database name the old one.
            let found = format!("{shown} is missing, but the database is there");
            (Check::fail(NAME, found, restore), None)
        }
        Ok(None) => (Check::ok(NAME, "made at the first start"), None),
        Ok(Some(key)) => {
            let public = key.public();
            let mode = std::fs::metadata(&path).map_or(0, |m| m.permissions().mode() & 0o777);
            let check = if mode & 0o077 == 0 {
                Check::ok(NAME, public.to_string())
            } else {
                let found = format!("{shown} is open to others (mode {mode:o})");
                Check::warn(NAME, found, format!("chmod 600 {shown}"))
            };
            (check, Some(public))
        }
    }
}
