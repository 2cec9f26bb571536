//! This node's secret keys: one per mesh and one per running session, each in a file of its own, or
//! in memory for nodes that are simulated.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshwire_signaling::{MeshId, PublicKey, SecretKey};
use meshwire_transport::net::{Net, random};
use zeroize::Zeroizing;

use crate::api::{ApiError, ErrorKind};
use crate::home::io_error;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) enum Keyring {
    Folder(PathBuf),
    Memory(Memory),
}

/// Keys that end with the process. Clones are the same keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    meshes: Kept<MeshId>,
    sessions: Kept<PublicKey>,
}

type Kept<K> = Arc<Mutex<BTreeMap<K, SecretKey>>>;

fn lock<K>(kept: &Kept<K>) -> MutexGuard<'_, BTreeMap<K, SecretKey>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keyring {
    /// The keys in `folder`, made if missing, for its owner alone.
    pub(crate) fn open(folder: PathBuf) -> Result<Self, ApiError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|e| io_error(&folder, &e))?;
        let sessions = folder.join("sessions");
        match std::fs::DirBuilder::new().mode(0o700).create(&sessions) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error(&sessions, &e));
            }
            _ => {}
        }
        Ok(Self::Folder(folder))
    }

    /// The key for a mesh, if there is one.
    pub(crate) fn load(&self, mesh: &MeshId) -> Result<Option<SecretKey>, ApiError> {
        match self {
            Self::Folder(folder) => read(&mesh_path(folder, mesh)),
            Self::Memory(keys) => Ok(lock(&keys.meshes).get(mesh).cloned()),
        }
    }

    /// The key for a mesh, made if there is none. It is on disk before anybody hears of it, so that
    /// a join that is cut short can be repeated with the same key.
    pub(crate) fn load_or_make(&self, mesh: &MeshId, net: &dyn Net) -> Result<SecretKey, ApiError> {
        if let Some(key) = self.load(mesh)? {
            return Ok(key);
        }
        let key = SecretKey::from_seed(&Zeroizing::new(random(net)));
        self.save(mesh, &key)?;
        // Of two joins at once, the first key stands for both.
        Ok(self.load(mesh)?.unwrap_or(key))
    }

    /// Keeps a key for a mesh, unless there is one.
    pub(crate) fn save(&self, mesh: &MeshId, key: &SecretKey) -> Result<(), ApiError> {
        match self {
            Self::Folder(folder) => write(&mesh_path(folder, mesh), key),
            Self::Memory(keys) => {
                lock(&keys.meshes).entry(*mesh).or_insert_with(|| key.clone());
                Ok(())
            }
        }
    }

    /// The key of a session, if it is there.
    pub(crate) fn load_session(&self, key: &PublicKey) -> Result<Option<SecretKey>, ApiError> {
        match self {
            Self::Folder(folder) => read(&session_path(folder, key)),
            Self::Memory(keys) => Ok(lock(&keys.sessions).get(key).cloned()),
        }
    }

    /// Keeps a session's key: after a restart of the node its mail can still be opened.
    pub(crate) fn save_session(&self, key: &SecretKey) -> Result<(), ApiError> {
        match self {
            Self::Folder(folder) => write(&session_path(folder, &key.public()), key),
            Self::Memory(keys) => {
                lock(&keys.sessions).insert(key.public(), key.clone());
                Ok(())
            }
        }
    }

    /// Removes an ended session's key.
    pub(crate) fn remove_session(&self, key: &PublicKey) -> Result<(), ApiError> {
        let path = match self {
            Self::Folder(folder) => session_path(folder, key),
            Self::Memory(keys) => {
                lock(&keys.sessions).remove(key);
                return Ok(());
            }
        };
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(&path, &e)),
            _ => Ok(()),
        }
    }
}

fn mesh_path(folder: &Path, mesh: &MeshId) -> PathBuf {
    folder.join(format!("{mesh}.key"))
}

fn session_path(folder: &Path, key: &PublicKey) -> PathBuf {
    folder.join("sessions").join(format!("{key}.key"))
}

fn read(path: &Path) -> Result<Option<SecretKey>, ApiError> {
    match std::fs::read(path).map(Zeroizing::new) {
        Ok(text) => parse(path, &text).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error(path, &e)),
    }
}

fn write(path: &Path, key: &SecretKey) -> Result<(), ApiError> {
    let text = Zeroizing::new(hex::encode(key.seed().as_slice()));
    match write_new(path, text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(io_error(path, &e)),
        _ => Ok(()),
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<SecretKey, ApiError> {
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim_ascii(), seed.as_mut_slice()).map_err(|_| {
        let text = format!("{} is no key (64 hex characters): restore it", path.display());
        ApiError::new(ErrorKind::Io, "bad_key_file", text)
    })?;
    Ok(SecretKey::from_seed(&seed))
}

/// Writes a whole new file, or none: under a name of its own first, then in its place. One that is
/// there stays.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut draft = tempfile::Builder::new().prefix(".key").tempfile_in(folder)?;
    draft.write_all(bytes)?;
    draft.as_file().sync_all()?;
    draft.persist_noclobber(path).map_err(|e| e.error)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_transport::net::OsNet;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let ring = Keyring::open(dir.path().join("keys")).unwrap();
        let mesh = MeshId([1; 32]);
        assert!(ring.load(&mesh).unwrap().is_none());
        let key = ring.load_or_make(&mesh, &OsNet).unwrap();
        assert_eq!(ring.load_or_make(&mesh, &OsNet).unwrap().public(), key.public());
        let path = mesh_path(&dir.path().join("keys"), &mesh);
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        ring.save(&mesh, &SecretKey::from_seed(&[1; 32])).unwrap();
        assert_eq!(ring.load(&mesh).unwrap().unwrap().public(), key.public(), "the first stands");
        std::fs::write(path, "nonsense").unwrap();
        assert_eq!(ring.load(&mesh).unwrap_err().code, "bad_key_file");
    }

    #[test]
    fn a_sessions_key_is_private_and_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let ring = Keyring::open(dir.path().join("keys")).unwrap();
        let key = SecretKey::from_seed(&[2; 32]);
        ring.save_session(&key).unwrap();
        let path = session_path(&dir.path().join("keys"), &key.public());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let folder = path.parent().unwrap().metadata().unwrap();
        assert_eq!(folder.permissions().mode() & 0o777, 0o700);
        let again = Keyring::open(dir.path().join("keys")).unwrap();
        assert_eq!(again.load_session(&key.public()).unwrap().unwrap().public(), key.public());
        ring.remove_session(&key.public()).unwrap();
        ring.remove_session(&key.public()).unwrap();
        assert!(ring.load_session(&key.public()).unwrap().is_none());
    }

    #[test]
    fn keys_in_memory_are_those_of_all_clones() {
        let ring = Keyring::Memory(Memory::default());
        let (mesh, session) = (MeshId([1; 32]), SecretKey::from_seed(&[2; 32]));
        let key = ring.load_or_make(&mesh, &OsNet).unwrap();
        ring.save(&mesh, &session).unwrap();
        ring.save_session(&session).unwrap();
        let again = ring.clone();
        assert_eq!(again.load(&mesh).unwrap().unwrap().public(), key.public(), "the first stands");
        assert!(again.load_session(&session.public()).unwrap().is_some());
        ring.remove_session(&session.public()).unwrap();
        assert!(again.load_session(&session.public()).unwrap().is_none());
    }
}
