//! This node's secret keys: one per mesh, each in a file of its own.

use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use meshwire_signaling::{MeshId, SecretKey};
use meshwire_transport::net::{Net, random};
use zeroize::Zeroizing;

use crate::api::{ApiError, ErrorKind};
use crate::home::io_error;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Keyring(PathBuf);

impl Keyring {
    /// The keys in `folder`, made if missing, for its owner alone.
    pub(crate) fn open(folder: PathBuf) -> Result<Self, ApiError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|e| io_error(&folder, &e))?;
        Ok(Self(folder))
    }

    fn path(&self, mesh: &MeshId) -> PathBuf {
        self.0.join(format!("{mesh}.key"))
    }

    /// The key for a mesh, if there is one.
    pub(crate) fn load(&self, mesh: &MeshId) -> Result<Option<SecretKey>, ApiError> {
        let path = self.path(mesh);
        match std::fs::read(&path).map(Zeroizing::new) {
            Ok(text) => parse(&path, &text).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error(&path, &e)),
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
        Ok(key)
    }

    /// Keeps a key for a mesh that is new here.
    pub(crate) fn save(&self, mesh: &MeshId, key: &SecretKey) -> Result<(), ApiError> {
        let path = self.path(mesh);
        let text = Zeroizing::new(hex::encode(key.seed().as_slice()));
        write_new(&path, text.as_bytes()).map_err(|e| io_error(&path, &e))
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

/// Writes a whole new file, or none: under another name first, then in its place.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
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
        let mode = ring.path(&mesh).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(ring.path(&mesh), "nonsense").unwrap();
        assert_eq!(ring.load(&mesh).unwrap_err().code, "bad_key_file");
    }
}
