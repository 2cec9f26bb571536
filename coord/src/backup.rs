//! A copy of everything a broker needs to come back, taken while it runs.
//!
//! The database is copied by SQLite's `VACUUM INTO` from a reading connection: one moment of it,
//! whole, without what waits in the log, while the broker goes on writing. The copy is made beside
//! its place and appears there by one rename, so that a folder with the name of a backup is one.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sqlx::Connection as _;

use crate::check::database;
use crate::config::{BrokerError, DATABASE_FILE, KEY_FILE, Tls};
use crate::tls::{CERT_FILE, TLS_KEY_FILE, write_private};

/// A backup that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backup {
    /// Its folder, for its owner only (mode 0700).
    pub folder: PathBuf,
    /// The files in it.
    pub files: Vec<String>,
    /// Size of the database's copy.
    pub database_bytes: u64,
}

/// Copies database, key and certificate of the data folder `data` to the new folder `target`; an
/// operator's own certificate ([`Tls::Files`]) too. A broker that is started with
/// `--data target` is the same broker as it was at this moment.
///
/// # Errors
/// [`BrokerError`]: there is no broker in `data`, `target` holds something, or a file fails. Nothing
/// is left at `target` then.
pub async fn backup(data: &Path, tls: &Tls, target: &Path) -> Result<Backup, BrokerError> {
    let database = data.join(DATABASE_FILE);
    if !database.exists() {
        let text = format!(
            "no broker's data is in {}: name its folder with --data, the one that the line \
             \"data\" showed when it started",
            data.display()
        );
        return Err(BrokerError::Config(text));
    }
    refuse_full(target)?;
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut making = tempfile::Builder::new()
        .prefix(".meshwire-backup-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .map_err(|e| file(parent, e))?;
    let mut files = vec![copy(data, KEY_FILE, making.path(), KEY_FILE)?];
    for name in [CERT_FILE, TLS_KEY_FILE] {
        if data.join(name).exists() {
            files.push(copy(data, name, making.path(), name)?);
        }
    }
    if let Tls::Files { cert, key } = tls {
        files.push(copy(Path::new(""), cert, making.path(), "cert.pem")?);
        files.push(copy(Path::new(""), key, making.path(), "key.pem")?);
    }
    let database_bytes = copy_database(&database, &making.path().join(DATABASE_FILE)).await?;
    files.push(DATABASE_FILE.to_owned());
    sync(making.path())?;
    std::fs::rename(making.path(), target).map_err(|e| file(target, e))?;
    making.disable_cleanup(true);
    sync(parent)?;
    Ok(Backup { folder: target.to_owned(), files, database_bytes })
}

fn file(path: &Path, error: io::Error) -> BrokerError {
    BrokerError::File { path: path.to_owned(), error }
}

/// An empty folder may be there, nothing else: a backup never replaces one.
fn refuse_full(target: &Path) -> Result<(), BrokerError> {
    let full = match std::fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => true,
        Err(e) => return Err(file(target, e)),
    };
    if !full {
        return Ok(());
    }
    let text = format!("{} is there and not empty: name a new folder", target.display());
    Err(BrokerError::Config(text))
}

fn copy(
    from: &Path,
    name: impl AsRef<Path>,
    folder: &Path,
    to: &str,
) -> Result<String, BrokerError> {
    let from = from.join(name);
    let bytes = std::fs::read(&from).map_err(|e| file(&from, e))?;
    write_private(&folder.join(to), &bytes)?;
    Ok(to.to_owned())
}

/// Copies a database that may be in use; the copy's size.
async fn copy_database(from: &Path, to: &Path) -> Result<u64, BrokerError> {
    let name = to.to_str().ok_or_else(|| {
        BrokerError::Config(format!("{}: the name is no UTF-8: choose another", to.display()))
    })?;
    // Made before SQLite fills it, so that nobody else can ever read it.
    write_private(to, b"")?;
    let mut source = database::open(from).await?;
    let copied = sqlx::query("VACUUM INTO ?").bind(name).execute(&mut source).await;
    source.close().await.map_err(crate::store::StoreError::from)?;
    copied.map_err(crate::store::StoreError::from)?;
    let mut copy = database::open(to).await?;
    let sound = database::quick_check(&mut copy).await;
    copy.close().await.map_err(crate::store::StoreError::from)?;
    if let Some(wrong) = sound? {
        return Err(BrokerError::Config(format!("{}: {wrong}", from.display())));
    }
    let copy = File::open(to).map_err(|e| file(to, e))?;
    copy.sync_all().map_err(|e| file(to, e))?;
    Ok(copy.metadata().map_err(|e| file(to, e))?.len())
}

fn sync(folder: &Path) -> Result<(), BrokerError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| file(folder, e))
}
