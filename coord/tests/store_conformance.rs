//! Both stores against the same suite.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use meshwire_coord::store::{MemoryStore, SqliteStore, Store, conformance};

async fn sqlite() -> (Arc<dyn Store>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&dir.path().join("broker.db"), true).await.unwrap();
    (Arc::new(store), dir)
}

macro_rules! both {
    ($($name:ident ( $($arg:expr),* )),* $(,)?) => {
        mod memory {
            use super::*;
            $(#[tokio::test]
            async fn $name() {
                let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
                both!(@call store, $name $(, $arg)*);
            })*
        }
        mod sqlite_file {
            use super::*;
            $(#[tokio::test]
            async fn $name() {
                let (store, _dir) = sqlite().await;
                both!(@call store, $name $(, $arg)*);
            })*
        }
    };
    (@call $store:ident, two_concurrent_drains) => {
        conformance::concurrent_drains($store, 2, 10).await
    };
    (@call $store:ident, six_concurrent_drains) => {
        conformance::concurrent_drains($store, 6, 200).await
    };
    (@call $store:ident, $name:ident) => { conformance::$name($store).await };
}

both!(
    members(),
    hellos(),
    invites(),
    accepts(),
    claims(),
    answers(),
    receipts_come_in_pages(),
    expiry(),
    bounds(),
    about(),
    leases(),
    delegates(),
    mail_by_and_to_sessions(),
    statements(),
    group_recipients(),
    group_sends_pass_full_mailboxes(),
    group_states(),
    big_groups(),
    defect_1_offline_recipients_of_a_group_send_keep_theirs(),
    defect_4_a_group_reaches_those_below_it(),
    defect_16_an_answer_ends_one_recipients_delivery(),
    two_concurrent_drains(),
    six_concurrent_drains(),
);

#[tokio::test]
async fn an_uncommitted_transaction_has_not_happened() {
    let (store, _dir) = sqlite().await;
    let mut tx = store.begin().await.unwrap();
    tx.set("a", b"1").await.unwrap();
    drop(tx);
    assert_eq!(store.setting("a").await.unwrap(), None);
}

#[tokio::test]
async fn defect_18_ready_checks_the_migrations_that_were_really_applied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.db");
    let store = SqliteStore::open(&path, true).await.unwrap();
    store.ready().await.unwrap();
    // As if this binary's newest migration had never run here.
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("DELETE FROM _sqlx_migrations").execute(&pool).await.unwrap();
    let error = store.ready().await.unwrap_err();
    assert!(matches!(error, meshwire_coord::store::StoreError::Migrate(_)), "{error}");
}
