//! Both stores pass the same suite; SQLite's also keeps its promises across crashes and bad files.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in their helpers

use std::path::Path;
use std::sync::Arc;

use meshwire_peer::store::conformance::{self, NOW, Subject};
use meshwire_peer::store::{MemoryStore, Pick, SqliteStore, StoreError};

/// A test per case and store.
macro_rules! suite {
    ($($case:ident)*) => {
        mod sqlite {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let home = tempfile::tempdir().unwrap();
                let store = open(&home.path().join("store.db")).await;
                conformance::$case(store.clone()).await;
                store.close().await;
            })*
        }
        mod memory {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                conformance::$case(Arc::new(MemoryStore::new())).await;
            })*
        }
        const CASES: &[&str] = &[$(stringify!($case)),*];
    };
}

suite! {
    meshes_come_back_as_they_were
    a_removed_mesh_takes_everything_along
    hello_counters_grow_and_a_new_instance_begins_anew
    hello_counters_never_repeat_under_concurrency
    an_unknown_mesh_is_an_error_that_names_it
    prune_deletes_what_is_over_and_nothing_else
    enqueue_stores_what_it_returns
    each_counter_numbers_for_itself
    the_floor_is_the_lowest_number_still_alive
    a_failed_freeze_stores_nothing_and_uses_no_number
    an_id_is_used_once
    repeated_requests_follow_the_idempotency_table
    one_key_makes_one_message_under_concurrency
    states_move_as_the_state_machine_allows
    steps_leave_their_traces
    expire_ends_open_rows_past_their_time
    defect_10_requeue_keeps_every_routing_column
    requeue_takes_what_is_pending_or_dead_only
    rows_are_found_by_the_start_of_their_id
    lists_are_filtered_bounded_and_newest_first
    due_hands_out_in_order_and_once
    no_row_overtakes_its_predecessor_that_waits
    an_expired_row_blocks_nobody_and_is_not_handed_out
    defect_11_rows_left_inflight_are_reset
    only_rows_for_whom_there_is_a_path_are_due
    rows_for_whom_is_busy_wait_and_late_ones_do_not
    what_a_lost_path_took_is_due_again
    concurrent_drains_are_disjoint_complete_and_in_order
    what_came_in_comes_back_whole
    copies_are_duplicates_and_other_content_is_a_conflict
    the_same_id_from_another_sender_does_not_suppress
    deleted_inbox_rows_do_not_resurrect
    ids_are_remembered_without_a_message
    one_envelope_makes_one_row_under_concurrency
    surfacing_gives_places_that_never_come_again
    cursors_keep_the_highest_number_per_counter
    lists_filter_page_and_mark_seen
    messages_are_found_by_the_start_of_their_id
    flushing_deletes_surfaced_messages_of_its_scope
    swallowed_rows_are_gone_and_leave_no_hole
    sessions_come_and_go_with_what_they_said_and_read
    ended_sessions_are_remembered_for_their_time
    what_an_ended_session_has_not_read_is_its_members
    presence_comes_back_as_it_was
    the_newest_group_statement_counts
    groups_follow_the_carriers_list_as_far_as_members_say_so
    each_viewer_sees_and_reads_for_itself
    lists_may_be_cut_by_time
    a_groups_message_keeps_its_recipients
    a_groups_message_is_where_its_least_advanced_recipient_is
    the_end_of_a_groups_message_ends_who_is_open
    recipients_change_while_no_path_has_the_message
    defect_10_a_groups_message_is_requeued_whole
    mail_for_an_ended_session_is_redirected_once
    members_come_back_as_they_were
    names_are_pinned_at_first_contact_and_changes_are_loud
    members_are_listed_by_name_and_found_by_key
}

#[test]
fn no_case_is_forgotten() {
    let sources = [
        include_str!("../src/store/conformance/drain.rs"),
        include_str!("../src/store/conformance/groups.rs"),
        include_str!("../src/store/conformance/identities.rs"),
        include_str!("../src/store/conformance/inbox.rs"),
        include_str!("../src/store/conformance/meshes.rs"),
        include_str!("../src/store/conformance/outbox.rs"),
        include_str!("../src/store/conformance/roster.rs"),
    ];
    let defined = sources.iter().map(|s| s.matches("\npub async fn ").count()).sum::<usize>();
    assert_eq!(defined, CASES.len());
}

async fn open(path: &Path) -> Subject {
    Arc::new(SqliteStore::open(path).await.unwrap())
}

async fn open_error(path: &Path) -> StoreError {
    SqliteStore::open(path).await.unwrap_err()
}

/// What a crash would leave: the files as they are on disk while the store is open.
async fn crash(from: &Path, to: &Path) -> Subject {
    for suffix in ["", "-wal"] {
        let name = |path: &Path| format!("{}{suffix}", path.display());
        std::fs::copy(name(from), name(to)).unwrap();
    }
    open(to).await
}

#[tokio::test]
async fn defect_11_rows_left_inflight_by_a_crash_are_reset() {
    let home = tempfile::tempdir().unwrap();
    let first = home.path().join("a.db");
    let store = open(&first).await;
    conformance::defect_11_rows_left_inflight_are_reset(store.clone()).await;
    // The case ends with rows of mesh 1 inflight.
    let mesh = store.mesh_list().await.unwrap()[0].mesh;
    let after = crash(&first, &home.path().join("b.db")).await;
    assert!(
        after.due(&mesh, NOW, 10, Pick::ALL).await.unwrap().is_empty(),
        "they are lost without a reset"
    );
    assert_eq!(after.reset_inflight(&mesh).await.unwrap(), 2);
    let due = after.due(&mesh, NOW, 10, Pick::ALL).await.unwrap();
    assert_eq!(due.len(), 2);
    assert!(due.iter().all(|row| row.envelope.check(&mesh).is_ok()));
}

#[tokio::test]
async fn what_was_returned_survives_a_crash() {
    let home = tempfile::tempdir().unwrap();
    let first = home.path().join("a.db");
    let store = open(&first).await;
    conformance::enqueue_stores_what_it_returns(store.clone()).await;
    let mesh = store.mesh_list().await.unwrap()[0].mesh;
    let (instance, counter) = store.next_hello(&mesh).await.unwrap();
    let after = crash(&first, &home.path().join("b.db")).await;
    assert_eq!(after.next_hello(&mesh).await.unwrap(), (instance, counter + 1));
    assert_eq!(after.due(&mesh, NOW, 10, Pick::ALL).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_reopened_store_is_the_same() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store.db");
    let store = open(&path).await;
    conformance::cursors_keep_the_highest_number_per_counter(store.clone()).await;
    let cursors = store.cursors().await.unwrap();
    store.close().await;
    assert_eq!(open(&path).await.cursors().await.unwrap(), cursors);
}

#[cfg(unix)]
#[tokio::test]
async fn the_files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store.db");
    let store = open(&path).await;
    conformance::seed(&store).await;
    for suffix in ["", "-wal", "-shm"] {
        let file = format!("{}{suffix}", path.display());
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store.db");
    open(&path).await.close().await;
    let url = format!("sqlite://{}", path.display());
    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'of tomorrow', 1, x'00', 0)",
    )
    .execute(&pool)
    .await
    .unwrap();
    pool.close().await;
    let e = open_error(&path).await;
    assert!(matches!(e, StoreError::Newer { found: 9999, .. }), "{e:?}");
    assert!(e.to_string().contains("store.db") && e.to_string().contains("update meshwire"));
}

#[tokio::test]
async fn a_damaged_file_is_named() {
    let home = tempfile::tempdir().unwrap();
    let text = home.path().join("text.db");
    std::fs::write(&text, "this is no database, however long it may be ".repeat(200)).unwrap();
    let e = open_error(&text).await;
    assert!(matches!(e, StoreError::Corrupt { .. }) && e.to_string().contains("text.db"), "{e:?}");

    let path = home.path().join("store.db");
    let store = open(&path).await;
    conformance::states_move_as_the_state_machine_allows(store.clone()).await;
    store.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let e = open_error(&path).await;
    assert!(matches!(e, StoreError::Corrupt { .. }) && e.to_string().contains("store.db"), "{e:?}");

    let nowhere = open_error(&home.path().join("no/such/dir/store.db")).await;
    assert!(matches!(nowhere, StoreError::Open { .. }), "{nowhere:?}");
}

#[tokio::test]
async fn the_database_itself_keeps_delivered_final() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store.db");
    let store = open(&path).await;
    conformance::steps_leave_their_traces(store.clone()).await;
    let url = format!("sqlite://{}", path.display());
    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    let r = sqlx::query("UPDATE outbox SET state = 'failed'").execute(&pool).await;
    assert!(r.unwrap_err().to_string().contains("keeps its state"));
    pool.close().await;
    assert!(store.outbox_list(&Default::default()).await.unwrap().is_empty(), "a limit of 0");
}
