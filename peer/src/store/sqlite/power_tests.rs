//! What a power cut takes, and who waits for the disk. The disk is one whose syncs can be held up, and of
//! which the state at the last sync can be had: all that was written since is lost then, the worst that
//! can happen.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use futures_util::FutureExt as _;
use meshwire_signaling::EnvelopeId;

use super::super::conformance::{self as suite, NOW};
use super::super::{Arrived, OutboxFilter, PeerStore, Pick, StoreError, StoreResult};
use super::*;
use crate::core::outbox::OutboxState;

#[derive(Debug, Default)]
struct State {
    /// Syncs that have returned.
    syncs: u32,
    /// Length of the log at the last of them.
    safe: u64,
    held: bool,
    /// Syncs that wait.
    waiting: u32,
    broken: bool,
    /// Power cuts so far.
    cuts: u32,
}

/// See the module's documentation.
struct Disk {
    folder: tempfile::TempDir,
    state: Mutex<State>,
    changed: Condvar,
}

impl Disk {
    fn new() -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        Arc::new(Self { folder, state: Mutex::default(), changed: Condvar::new() })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("node.db")
    }

    async fn store(self: &Arc<Self>) -> Arc<SqliteStore> {
        let disk = Arc::clone(self);
        let store = SqliteStore::open_with(&self.path(), Arc::new(move || disk.sync())).await;
        let store = Arc::new(store.unwrap());
        suite::seed(&(store.clone() as suite::Subject)).await;
        store
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        // What is written while it runs may be on disk or not.
        let safe = std::fs::metadata(log(&self.path())).unwrap().len();
        state.waiting += 1;
        self.changed.notify_all();
        while state.held {
            state = self.changed.wait(state).unwrap();
        }
        state.waiting -= 1;
        if state.broken {
            return Err(io::Error::other("the disk is gone"));
        }
        state.syncs += 1;
        state.safe = state.safe.max(safe);
        Ok(())
    }

    fn hold(&self, held: bool) {
        self.state.lock().unwrap().held = held;
        self.changed.notify_all();
    }

    /// Returns when a sync waits.
    async fn is_asked(self: &Arc<Self>) {
        let disk = Arc::clone(self);
        let asked = tokio::task::spawn_blocking(move || {
            let mut state = disk.state.lock().unwrap();
            while state.waiting == 0 {
                state = disk.changed.wait(state).unwrap();
            }
        });
        asked.await.unwrap();
    }

    fn syncs(&self) -> u32 {
        self.state.lock().unwrap().syncs
    }

    /// The store as it is after the power was cut now.
    async fn after_a_cut(&self) -> SqliteStore {
        let (safe, cuts) = {
            let mut state = self.state.lock().unwrap();
            state.cuts += 1;
            (state.safe, state.cuts)
        };
        let copy = self.folder.path().join(format!("after-{cuts}.db"));
        std::fs::copy(self.path(), &copy).unwrap();
        std::fs::copy(log(&self.path()), log(&copy)).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(log(&copy)).unwrap();
        file.set_len(safe).unwrap();
        SqliteStore::open(&copy).await.unwrap()
    }
}

fn log(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

async fn enqueue(store: Arc<SqliteStore>, n: u64) -> StoreResult<EnvelopeId> {
    let new = suite::message(n);
    let row = store.enqueue(&new, suite::freeze(&new)).await?.into_row().0;
    Ok(row.meta.id)
}

async fn states(store: &SqliteStore) -> Vec<OutboxState> {
    let mut rows = store.outbox_list(&everything()).await.unwrap();
    rows.sort_by_key(|row| row.id);
    rows.iter().map(|row| row.state).collect()
}

fn everything() -> OutboxFilter {
    OutboxFilter { limit: 100, ..OutboxFilter::default() }
}

fn row(arrived: Arrived) -> i64 {
    match arrived {
        Arrived::Inserted(row) => row,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_power_cut_takes_notes_and_no_promise() {
    use OutboxState::{Delivered, Inflight, Pending, Relayed, Sent};
    let disk = Disk::new();
    let store = disk.store().await;
    for n in 1..=4 {
        enqueue(store.clone(), n).await.unwrap();
    }
    let mesh = suite::mesh(1);
    let before = disk.syncs();
    assert_eq!(store.due(&mesh, NOW, 3, Pick::ALL).await.unwrap().len(), 3);
    let sent = |n| suite::step_to(n, Sent).unwrap();
    store.step(&[sent(1), suite::relayed(2), sent(3)]).await.unwrap();
    assert_eq!(disk.syncs(), before, "notes wait for no disk");
    assert_eq!(states(&store).await, [Sent, Relayed, Sent, Pending]);
    assert_eq!(disk.syncs(), before, "and who reads them neither");
    assert_eq!(states(&disk.after_a_cut().await).await, [Pending; 4]);

    store.step(&[suite::step_to(1, Delivered).unwrap()]).await.unwrap();
    assert_eq!(store.due(&mesh, NOW, 1, Pick::ALL).await.unwrap().len(), 1);
    assert_eq!(states(&store).await, [Delivered, Relayed, Sent, Inflight]);
    let after = disk.after_a_cut().await;
    assert_eq!(states(&after).await, [Delivered, Relayed, Sent, Pending], "all before a promise");
    // As at every start.
    after.unsend(&mesh, None).await.unwrap();
    let again = after.due(&mesh, NOW, 10, Pick::ALL).await.unwrap();
    assert_eq!(again.len(), 2, "what has no receipt goes out again, under its id");
}

#[tokio::test]
async fn what_came_in_is_on_disk_after_a_sync_or_when_it_surfaces() {
    let disk = Disk::new();
    let store = disk.store().await;
    let item = |n| (suite::item(7, n), NOW + 160_000);
    let before = disk.syncs();
    let came = store.accept_inbound(&[item(1), item(2)]).await.unwrap();
    assert_eq!(disk.syncs(), before);
    assert_eq!(disk.after_a_cut().await.held().await.unwrap().len(), 0, "nobody has a receipt");
    assert_eq!(store.surface(&[row(came[0])], NOW).await.unwrap().len(), 1);
    assert_eq!(disk.syncs(), before + 1, "one sync for both");
    store.sync().await.unwrap();
    assert_eq!(disk.syncs(), before + 1);
    assert_eq!(disk.after_a_cut().await.held().await.unwrap().len(), 1, "the other one");

    store.accept_inbound(&[item(3)]).await.unwrap();
    store.sync().await.unwrap();
    let after = disk.after_a_cut().await;
    assert_eq!(after.held().await.unwrap().len(), 2);
    let again = after.accept_inbound(&[item(1), item(2), item(3)]).await.unwrap();
    assert_eq!(again, [Arrived::Duplicate; 3]);
}

#[tokio::test]
async fn a_receipt_for_what_came_before_waits_for_the_disk_as_well() {
    let disk = Disk::new();
    let store = disk.store().await;
    let item = suite::item(7, 1);
    store.accept_inbound(&[(item.clone(), NOW + 160_000)]).await.unwrap();
    let before = disk.syncs();
    let again = store.accept_inbound(&[(item.clone(), NOW + 160_000)]).await.unwrap();
    assert_eq!((again, disk.syncs()), (vec![Arrived::Duplicate], before));
    let known = store.seen(&item.mesh, &item.author, &item.id).await.unwrap();
    assert_eq!((known, disk.syncs()), (Some(item.hash), before + 1));
}

#[tokio::test]
async fn promises_made_while_the_disk_is_busy_share_the_next_sync() {
    let disk = Disk::new();
    let store = disk.store().await;
    disk.hold(true);
    let first = tokio::spawn(enqueue(store.clone(), 1));
    disk.is_asked().await;
    let others: Vec<_> = (2..=40).map(|n| tokio::spawn(enqueue(store.clone(), n))).collect();
    // Committed, all of them: what writes does not wait for what syncs.
    let made = async {
        while store.writer.committed() < store.writer.made() || store.writer.made() < 43 {
            tokio::task::yield_now().await;
        }
    };
    made.await;
    assert!(!first.is_finished() && others.iter().all(|task| !task.is_finished()));
    let before = disk.syncs();
    disk.hold(false);
    first.await.unwrap().unwrap();
    for task in others {
        task.await.unwrap().unwrap();
    }
    assert_eq!(disk.syncs(), before + 2);
    assert_eq!(states(&disk.after_a_cut().await).await.len(), 40);
}

#[tokio::test]
async fn nothing_is_shown_or_sent_before_it_is_on_disk() {
    let disk = Disk::new();
    let store = disk.store().await;
    disk.hold(true);
    let mut writing = Box::pin(enqueue(store.clone(), 1));
    tokio::select! {
        _ = &mut writing => panic!("the disk is held up"),
        () = disk.is_asked() => {}
    }
    // Whoever asked may be gone by now.
    drop(writing);
    let filter = everything();
    let mut listing = Box::pin(store.outbox_list(&filter));
    let mesh = suite::mesh(1);
    let mut taking = Box::pin(store.due(&mesh, NOW, 10, Pick::ALL));
    let both = async {
        for _ in 0..200 {
            assert!((&mut listing).now_or_never().is_none());
            assert!((&mut taking).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
    };
    both.await;
    disk.hold(false);
    assert_eq!(listing.await.unwrap().len(), 1);
    assert_eq!(taking.await.unwrap().len(), 1);
    assert_eq!(states(&disk.after_a_cut().await).await.len(), 1);
}

#[tokio::test]
async fn a_sync_that_fails_counts_though_nobody_waits_for_it_any_more() {
    let disk = Disk::new();
    let store = disk.store().await;
    disk.hold(true);
    let mut writing = Box::pin(enqueue(store.clone(), 1));
    tokio::select! {
        _ = &mut writing => panic!("the disk is held up"),
        () = disk.is_asked() => {}
    }
    drop(writing);
    let next = tokio::spawn(enqueue(store.clone(), 2));
    disk.state.lock().unwrap().broken = true;
    disk.hold(false);
    let refused = next.await.unwrap().unwrap_err();
    assert!(matches!(refused, StoreError::Unsynced { .. }), "{refused}");
    disk.state.lock().unwrap().broken = false;
    enqueue(store.clone(), 3).await.unwrap_err();
}

#[tokio::test]
async fn the_log_that_is_synced_is_the_one_beside_the_file_that_a_link_leads_to() {
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real.db"), folder.path().join("node.db"));
    std::fs::write(&real, "").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let store = Arc::new(SqliteStore::open(&link).await.unwrap());
    suite::seed(&(store.clone() as suite::Subject)).await;
    enqueue(store.clone(), 1).await.unwrap();
    assert!(log(&real).exists() && !log(&link).exists());
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_promised() {
    let disk = Disk::new();
    let store = disk.store().await;
    enqueue(store.clone(), 1).await.unwrap();
    disk.state.lock().unwrap().broken = true;
    let refused = enqueue(store.clone(), 2).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unsynced { .. }), "{refused}");
    assert!(refused.to_string().contains("the disk is gone"), "{refused}");
    // What the system has forgotten it does not write with the next sync.
    disk.state.lock().unwrap().broken = false;
    enqueue(store.clone(), 3).await.unwrap_err();
    store.outbox_list(&everything()).await.unwrap_err();
    store.close().await;
    let store = SqliteStore::open(&disk.path()).await.unwrap();
    enqueue(Arc::new(store), 4).await.unwrap();
}

#[tokio::test]
async fn what_the_last_process_left_is_synced_before_it_is_told() {
    let disk = Disk::new();
    let store = disk.store().await;
    let before = disk.syncs();
    store.sync().await.unwrap();
    assert_eq!(disk.syncs(), before, "its own promises are on disk");
    drop(store);
    let path = disk.path();
    let again = {
        let disk = Arc::clone(&disk);
        SqliteStore::open_with(&path, Arc::new(move || disk.sync())).await.unwrap()
    };
    again.outbox_list(&everything()).await.unwrap();
    assert_eq!(disk.syncs(), before + 1);
    again.outbox_list(&everything()).await.unwrap();
    assert_eq!(disk.syncs(), before + 1);
}
