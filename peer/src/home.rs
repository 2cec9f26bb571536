//! A node's folder: what is in it, who may read it, and who owns it right now.
//!
//! ```text
//! HOME/            0700
//!   node.lock      held by whoever works with this home: the background node, or one verb
//!   node.sock      0600, the background node's socket (elsewhere if the path is too long)
//!   api.token      0600, what clients of the local API show on TCP, once it was asked for
//!   api.url        where that API listens, while it does
//!   node.log       what the background node says
//!   peer.db        0600, outbox, inbox, roster
//!   keys/MESH.key  0600, this node's key in each mesh
//!   keys/sessions/KEY.key  0600, the key of each running session
//! ```

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use meshwire_signaling::Hash;

use crate::api::{ApiError, ErrorKind};

/// Longest socket path used as it is: `sun_path` has 108 bytes on Linux and 104 elsewhere.
const MAX_SOCKET_PATH: usize = 100;

/// A node's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

/// Exclusive use of a home; given up when dropped, or when the process ends.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] File); // held for its lock alone

pub(crate) fn io_error(path: &Path, e: &io::Error) -> ApiError {
    ApiError::new(ErrorKind::Io, "io", format!("{}: {e}", path.display()))
}

impl Home {
    /// The folder at `path`, made if missing. One that others may read is refused.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn open(path: &Path) -> Result<Self, ApiError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|e| io_error(path, &e))?;
        let mode = path.metadata().map_err(|e| io_error(path, &e))?.permissions().mode();
        if mode & 0o077 != 0 {
            let text = format!(
                "{} can be read by others (mode {:o}): run chmod 700 on it",
                path.display(),
                mode & 0o777
            );
            return Err(ApiError::new(ErrorKind::Io, "open_permissions", text));
        }
        let path = path.canonicalize().map_err(|e| io_error(path, &e))?;
        Ok(Self(path))
    }

    /// The folder at `path` as it is: neither made nor checked.
    pub(crate) fn unchecked(path: &Path) -> Self {
        Self(path.canonicalize().unwrap_or_else(|_| path.to_owned()))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.0.join("peer.db")
    }

    /// The background node's log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.0.join("node.log")
    }

    /// What clients of the local API show on TCP.
    #[must_use]
    pub fn api_token(&self) -> PathBuf {
        self.0.join("api.token")
    }

    /// Where the local API listens on TCP, while it does.
    #[must_use]
    pub fn api_url(&self) -> PathBuf {
        self.0.join("api.url")
    }

    /// The folder of keys.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// The background node's socket: in the home, or, where that path is too long for a socket,
    /// under a hashed name in `$XDG_RUNTIME_DIR` or `/tmp`.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        let direct = self.0.join("node.sock");
        if direct.as_os_str().len() <= MAX_SOCKET_PATH {
            return direct;
        }
        let name =
            format!("meshwire-{}.sock", Hash::of(self.0.as_os_str().as_encoded_bytes()).short());
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let short = |d: &PathBuf| d.is_dir() && d.as_os_str().len() + name.len() < MAX_SOCKET_PATH;
        runtime.filter(short).unwrap_or_else(|| PathBuf::from("/tmp")).join(name)
    }

    /// Takes the home for exclusive use. None: somebody else has it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn try_lock(&self) -> Result<Option<Lock>, ApiError> {
        let path = self.0.join("node.lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(|e| io_error(&path, &e))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(io_error(&path, &e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_private_and_has_one_user() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(&dir.path().join("a/b")).unwrap();
        assert_eq!(home.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let lock = home.try_lock().unwrap();
        assert!(lock.is_some() && home.try_lock().unwrap().is_none());
        drop(lock);
        assert!(home.try_lock().unwrap().is_some());
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(home.path(), open).unwrap();
        let e = Home::open(home.path()).unwrap_err();
        assert_eq!(e.code, "open_permissions");
        assert!(e.message.contains("chmod 700"));
    }

    #[test]
    fn long_socket_paths_fall_back_to_a_hashed_name() {
        let dir = tempfile::tempdir().unwrap();
        let near = Home::open(&dir.path().join("n")).unwrap();
        assert_eq!(near.socket(), near.path().join("node.sock"));
        let far = Home::open(&dir.path().join("x".repeat(120))).unwrap();
        assert!(far.socket().as_os_str().len() <= MAX_SOCKET_PATH);
        let other = Home::open(&dir.path().join("y".repeat(120))).unwrap();
        assert_ne!(far.socket(), other.socket());
    }
}
