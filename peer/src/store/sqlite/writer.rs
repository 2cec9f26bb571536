//! The connection that writes, and what of its work is on disk.
//!
//! A commit goes into SQLite's write-ahead log and is in force at once, but not safe from a power cut:
//! the connection has `synchronous = NORMAL`, where no commit syncs. What a transaction is decides
//! what follows:
//!
//! - A **note** may be lost: losing it makes the node do again what it did, which nobody notices. No
//!   sync.
//! - A **promise** is one that somebody relies on as soon as he hears of it. [`Writer::keep`] returns
//!   after an `fdatasync` of the log that began after the commit, just as a commit with
//!   `synchronous = FULL` does (<https://sqlite.org/pragma.html#pragma_synchronous>).
//!
//! ```text
//! commit ──► commit ──► commit ──► …          one connection, one after the other
//!    └─ sync ───────┐  └─ wait ─┴─ sync ──►   one at a time, for all commits before it
//! ```
//!
//! That is a group commit without a timer and without a queue: a lone promise is synced at once, and
//! all that are made while one sync runs share the next. The log is valid up to the last commit that
//! is on disk: a power cut takes away the newest commits, never one from between, so a note is on
//! disk with the next promise. Who reads asks [`Writer::settle`] for what he is about to tell:
//! promises are not shown before they are kept.
//!
//! Once a sync has failed, no later one proves anything (the system may have dropped the pages), so
//! nothing is promised any more until the store is opened again.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sqlx::sqlite::SqlitePool;
use sqlx::{Sqlite, Transaction};

use super::super::{StoreError, StoreResult};

/// Brings the log to the disk; blocks.
pub(super) type Sync = dyn Fn() -> io::Result<()> + Send + std::marker::Sync;

/// See the module's documentation.
pub(super) struct Writer {
    /// One connection.
    pool: SqlitePool,
    path: PathBuf,
    sync: Arc<Sync>,
    /// Promises of which the commit has begun, ever.
    made: AtomicU64,
    /// The last of them of which it is known how its commit ended.
    committed: AtomicU64,
    disk: Arc<Disk>,
    /// Held while a sync runs, by the sync itself: whoever waits for it may go away.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// What the syncs came to.
#[derive(Default)]
struct Disk {
    /// The last promise that is on disk, with all before.
    kept: AtomicU64,
    /// Why the log could not be synced.
    broken: OnceLock<String>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Writer {
    /// Over the one connection of `pool` to the file at `path`, whose log `sync` syncs.
    pub(super) fn new(pool: SqlitePool, path: &Path, sync: Arc<Sync>) -> Self {
        Self {
            pool,
            path: path.to_owned(),
            sync,
            // What the last process left may be in the system's memory alone: promises number 1.
            made: AtomicU64::new(1),
            committed: AtomicU64::new(1),
            disk: Arc::default(),
            turn: Arc::default(),
        }
    }

    /// A transaction that holds the write lock from its start: what it reads stays true.
    pub(super) async fn begin(&self) -> StoreResult<Transaction<'static, Sqlite>> {
        let tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        // There is one connection: whatever was begun before is over, heard or not.
        self.committed.fetch_max(self.made.load(Ordering::SeqCst), Ordering::SeqCst);
        Ok(tx)
    }

    /// For a note that is one statement.
    pub(super) fn notes(&self) -> &SqlitePool {
        &self.pool
    }

    /// Commits a note.
    pub(super) async fn note(&self, tx: Transaction<'static, Sqlite>) -> StoreResult<()> {
        Ok(tx.commit().await?)
    }

    /// Commits a promise, which is kept only after [`Self::settle`].
    pub(super) async fn promise(&self, tx: Transaction<'static, Sqlite>) -> StoreResult<u64> {
        // Before anybody can see it. Who goes away here leaves a number that `begin` sees to.
        let number = self.made.fetch_add(1, Ordering::SeqCst) + 1;
        let done = tx.commit().await;
        self.committed.fetch_max(number, Ordering::SeqCst);
        done?;
        Ok(number)
    }

    /// Commits a promise; it is on disk when this returns.
    pub(super) async fn keep(&self, tx: Transaction<'static, Sqlite>) -> StoreResult<()> {
        let number = self.promise(tx).await?;
        self.kept_up_to(number).await
    }

    /// Returns when every promise of which the caller can have seen anything is on disk.
    pub(super) async fn settle(&self) -> StoreResult<()> {
        self.kept_up_to(self.made.load(Ordering::SeqCst)).await
    }

    async fn kept_up_to(&self, number: u64) -> StoreResult<()> {
        if self.is_kept(number)? {
            return Ok(());
        }
        let turn = Arc::clone(&self.turn).lock_owned().await;
        if self.is_kept(number)? {
            return Ok(());
        }
        // Not `number`: that one's commit may not be over. What of it can be seen is synced all the same.
        let committed = self.committed.load(Ordering::SeqCst);
        let (sync, disk) = (Arc::clone(&self.sync), Arc::clone(&self.disk));
        let run = tokio::task::spawn_blocking(move || {
            match sync() {
                Ok(()) => {
                    disk.kept.fetch_max(committed, Ordering::SeqCst);
                }
                Err(e) => {
                    disk.broken.get_or_init(|| e.to_string());
                }
            }
            drop(turn);
        });
        if let Err(e) = run.await {
            self.disk.broken.get_or_init(|| e.to_string());
        }
        match self.disk.broken.get() {
            Some(what) => Err(self.unsynced(what)),
            None => Ok(()),
        }
    }

    fn is_kept(&self, number: u64) -> StoreResult<bool> {
        match self.disk.broken.get() {
            Some(what) => Err(self.unsynced(what)),
            None => Ok(self.disk.kept.load(Ordering::SeqCst) >= number),
        }
    }

    fn unsynced(&self, what: &str) -> StoreError {
        StoreError::Unsynced { path: self.path.clone(), what: what.to_owned() }
    }

    #[cfg(test)]
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }

    #[cfg(test)]
    pub(super) fn committed(&self) -> u64 {
        self.committed.load(Ordering::SeqCst)
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

/// Syncs the log of the database at `path`, which leads to the database itself and not to a link: SQLite
/// has the log beside that.
pub(super) fn log_of(path: &Path) -> Arc<Sync> {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    let (path, log) = (path.to_owned(), PathBuf::from(name));
    // Held open: an error of writing that happens between two syncs is told to those alone who had the
    // file open then.
    let held: Mutex<Option<File>> = Mutex::default();
    Arc::new(move || {
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        let there = identity(&std::fs::metadata(&log)?);
        let same = match held.as_ref() {
            Some(file) => identity(&file.metadata()?) == there,
            None => false,
        };
        if let Some(file) = held.as_ref().filter(|_| same) {
            return file.sync_data();
        }
        let file = File::options().write(true).open(&log)?;
        file.sync_data()?;
        sync_folder(&path)?;
        *held = Some(file);
        Ok(())
    })
}

/// What tells a file from another one that has had its name.
#[cfg(unix)]
fn identity(file: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (file.dev(), file.ino())
}

#[cfg(not(unix))]
fn identity(_: &std::fs::Metadata) -> (u64, u64) {
    (0, 0)
}

/// Brings the names of the files beside `path` to the disk: SQLite does it only when it syncs a log
/// itself.
fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        let folder = path.parent().filter(|f| !f.as_os_str().is_empty());
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()?;
    }
    let _ = path;
    Ok(())
}
