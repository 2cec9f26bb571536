//! What comes in.

use super::super::{Arrived, InboxDelete, InboxFilter, InboxRow, NewId};
use super::*;

fn all() -> InboxFilter {
    InboxFilter { limit: 100, ..Default::default() }
}

async fn listed(store: &Subject, filter: InboxFilter) -> Vec<u64> {
    let rows = store.inbox_list(&filter, None).await.unwrap();
    rows.iter().map(|row| row.item.seq).collect()
}

/// Accepts and surfaces numbers of author 60, in this order.
async fn surfaced(store: &Subject, seqs: impl IntoIterator<Item = u64>) -> Vec<i64> {
    let mut rows = Vec::new();
    for seq in seqs {
        let row = arrive(store, item(60, seq)).await;
        store.surface(&[row], NOW + 50).await.unwrap();
        rows.push(row);
    }
    rows
}

pub async fn what_came_in_comes_back_whole(store: Subject) {
    seed(&store).await;
    let mut other = item(60, 1);
    (other.reply_to, other.target) = (None, Target::Session { key: public(1) });
    other.member = public(61);
    let row = arrive(&store, other.clone()).await;
    let waiting = store.held().await.unwrap();
    assert_eq!(waiting.len(), 1);
    let first = &waiting[0].waiting;
    assert_eq!((first.row, first.seq, first.floor), (row, 1, 1));
    assert_eq!(first.counter, other.counter());
    let expected = InboxRow {
        row,
        item: other,
        order: Some(1),
        surfaced_at: Some(NOW + 3),
        seen_at: None,
        handed_on: false,
    };
    assert_eq!(waiting[0], expected.arrival());
    let expected = [expected];
    assert_eq!(store.surface(&[row], NOW + 3).await.unwrap(), expected);
    assert_eq!(store.inbox_list(&all(), None).await.unwrap(), expected);
    assert!(store.held().await.unwrap().is_empty());
}

pub async fn copies_are_duplicates_and_other_content_is_a_conflict(store: Subject) {
    seed(&store).await;
    arrive(&store, item(60, 1)).await;
    assert_eq!(accept(&store, item(60, 1)).await, Arrived::Duplicate);
    let forged = Item { hash: Hash([1; 32]), content: b"other".to_vec(), ..item(60, 1) };
    assert_eq!(accept(&store, forged.clone()).await, Arrived::Conflict);
    // Within one batch, too.
    let batch = [item(60, 2), item(60, 2), Item { id: id(2), ..forged }];
    let batch: Vec<_> = batch.into_iter().map(|item| (item, NOW + 100)).collect();
    let got = store.accept_inbound(&batch).await.unwrap();
    assert!(matches!(got[..], [Arrived::Inserted(_), Arrived::Duplicate, Arrived::Conflict]));
    let held = store.held().await.unwrap();
    assert_eq!(held.iter().map(|a| a.waiting.seq).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(store.seen(&mesh(1), &public(60), &id(1)).await.unwrap(), Some(item(60, 1).hash));
    assert!(store.accept_inbound(&[]).await.unwrap().is_empty());
}

pub async fn ids_are_remembered_without_a_message(store: Subject) {
    seed(&store).await;
    let new = |author: u8, n: u64| NewId {
        mesh: mesh(1),
        author: public(author),
        id: id(n),
        hash: Hash([7; 32]),
        keep_until: NOW + 100,
    };
    let fresh = store.remember(&[new(60, 1), new(60, 1), new(61, 1)]).await.unwrap();
    assert_eq!(fresh, [true, false, true], "within one call, too");
    assert_eq!(store.remember(&[new(60, 1), new(60, 2)]).await.unwrap(), [false, true]);
    let forged = NewId { hash: Hash([8; 32]), ..new(60, 1) };
    assert_eq!(store.remember(&[forged]).await.unwrap(), [false], "the id is what counts");
    assert_eq!(store.seen(&mesh(1), &public(60), &id(1)).await.unwrap(), Some(Hash([7; 32])));
    assert!(store.held().await.unwrap().is_empty());
    // One memory for messages and all else.
    assert_eq!(accept(&store, item(60, 1)).await, Arrived::Conflict);
    arrive(&store, item(60, 3)).await;
    assert_eq!(store.remember(&[new(60, 3)]).await.unwrap(), [false]);
    store.prune(NOW + 100).await.unwrap();
    assert_eq!(store.remember(&[new(60, 1)]).await.unwrap(), [false], "until its time");
    store.prune(NOW + 101).await.unwrap();
    assert_eq!(store.remember(&[new(60, 1)]).await.unwrap(), [true]);
    assert!(store.remember(&[]).await.unwrap().is_empty());
    let nowhere = NewId { mesh: mesh(9), ..new(60, 1) };
    let refused = store.remember(&[nowhere]).await;
    assert!(matches!(refused, Err(StoreError::UnknownMesh(m)) if m == mesh(9)));
}

pub async fn the_same_id_from_another_sender_does_not_suppress(store: Subject) {
    seed(&store).await;
    let first = arrive(&store, item(60, 1)).await;
    let second = arrive(&store, item(61, 1)).await;
    let elsewhere = arrive(&store, Item { mesh: mesh(2), ..item(60, 1) }).await;
    let rows = store.surface(&[first, second, elsewhere], NOW).await.unwrap();
    assert_eq!(rows.len(), 3);
}

pub async fn deleted_inbox_rows_do_not_resurrect(store: Subject) {
    seed(&store).await;
    let rows = surfaced(&store, [1, 2]).await;
    assert_eq!(store.inbox_delete(&InboxDelete::Row(rows[0])).await.unwrap(), 1);
    assert_eq!(store.inbox_delete(&InboxDelete::Row(rows[0])).await.unwrap(), 0);
    assert_eq!(accept(&store, item(60, 1)).await, Arrived::Duplicate);
    let forged = Item { hash: Hash([1; 32]), ..item(60, 1) };
    assert_eq!(accept(&store, forged).await, Arrived::Conflict);
    assert!(store.held().await.unwrap().is_empty());
    assert_eq!(listed(&store, all()).await, [2]);
    // The other way round: while the row is there it suppresses, whatever became of its id.
    store.prune(NOW + 200_000).await.unwrap();
    assert_eq!(accept(&store, item(60, 2)).await, Arrived::Duplicate);
}

pub async fn one_envelope_makes_one_row_under_concurrency(store: Subject) {
    seed(&store).await;
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move { accept(&store, item(60, 1)).await }));
    }
    let mut inserted = 0;
    for task in tasks {
        inserted += u32::from(matches!(task.await.unwrap(), Arrived::Inserted(_)));
    }
    assert_eq!(inserted, 1);
}

pub async fn surfacing_gives_places_that_never_come_again(store: Subject) {
    seed(&store).await;
    let (a, b) = (arrive(&store, item(60, 1)).await, arrive(&store, item(60, 2)).await);
    let order = |rows: &[InboxRow]| rows.iter().map(|r| (r.row, r.order)).collect::<Vec<_>>();
    let got = store.surface(&[b, a, b, 9_999], NOW).await.unwrap();
    assert_eq!(order(&got), [(b, Some(1)), (a, Some(2))]);
    assert!(store.surface(&[a, b], NOW + 1).await.unwrap().is_empty(), "only once");
    store.inbox_delete(&InboxDelete::Row(a)).await.unwrap();
    let c = arrive(&store, item(60, 3)).await;
    assert_eq!(order(&store.surface(&[c], NOW).await.unwrap()), [(c, Some(3))]);
}

pub async fn cursors_keep_the_highest_number_per_counter(store: Subject) {
    seed(&store).await;
    let low = arrive(&store, item(60, 2)).await;
    let high = arrive(&store, item(60, 5)).await;
    let other = arrive(&store, item(61, 9)).await;
    store.surface(&[high], NOW).await.unwrap();
    store.surface(&[other], NOW + 1).await.unwrap();
    store.surface(&[low], NOW + 2).await.unwrap();
    let cursors = store.cursors().await.unwrap();
    let expected = [(item(61, 9).counter(), 9), (item(60, 5).counter(), 5)];
    assert_eq!(cursors, expected, "longest silent first");
    // They outlive what they count.
    store.inbox_delete(&InboxDelete::Surfaced { mesh: None, before: None }).await.unwrap();
    assert_eq!(store.cursors().await.unwrap().len(), 2);
}

pub async fn lists_filter_page_and_mark_seen(store: Subject) {
    seed(&store).await;
    surfaced(&store, [1, 2, 4, 3]).await;
    arrive(&store, item(60, 8)).await;
    let session = Item { author: public(62), member: public(60), ..item(62, 20) };
    let row = arrive(&store, session).await;
    store.surface(&[row], NOW).await.unwrap();
    let row = arrive(&store, Item { mesh: mesh(2), ..item(61, 30) }).await;
    store.surface(&[row], NOW).await.unwrap();

    assert_eq!(listed(&store, all()).await, [1, 2, 4, 3, 20, 30], "held rows are not shown");
    let two = InboxFilter { limit: 2, ..all() };
    assert_eq!(listed(&store, two.clone()).await, [1, 2]);
    assert_eq!(listed(&store, InboxFilter { newest: true, ..two.clone() }).await, [20, 30]);
    let page = InboxFilter { after_order: Some(2), ..two };
    assert_eq!(listed(&store, page).await, [4, 3]);
    assert_eq!(listed(&store, InboxFilter { mesh: Some(mesh(2)), ..all() }).await, [30]);
    let from = InboxFilter { from: Some(public(60)), ..all() };
    assert_eq!(listed(&store, from).await, [1, 2, 4, 3, 20], "a member's sessions are the member");

    let unread = InboxFilter { unread: true, limit: 2, ..all() };
    let first = store.inbox_list(&unread, Some(NOW + 7)).await.unwrap();
    assert!(first.iter().all(|row| row.seen_at.is_none()), "shown as they were");
    assert_eq!(listed(&store, unread.clone()).await, [4, 3]);
    assert_eq!(listed(&store, InboxFilter { newest: true, ..unread }).await, [20, 30]);
    let again = store.inbox_list(&all(), Some(NOW + 8)).await.unwrap();
    let seen: Vec<_> = again.iter().map(|row| row.seen_at).collect();
    assert_eq!(seen, [Some(NOW + 7), Some(NOW + 7), None, None, None, None]);
    let again = store.inbox_list(&all(), None).await.unwrap();
    assert_eq!(again[0].seen_at, Some(NOW + 7), "the first time counts");
    assert_eq!(again[5].seen_at, Some(NOW + 8));
}

pub async fn messages_are_found_by_the_start_of_their_id(store: Subject) {
    seed(&store).await;
    surfaced(&store, [1, 2]).await;
    arrive(&store, item(60, 3)).await;
    let found = store.inbox_find(None, &id(2).to_string()).await.unwrap();
    assert_eq!(found.item.seq, 2);
    let shared = store.inbox_find(None, &id(2).to_string()[..6]).await;
    assert!(matches!(shared, Err(StoreError::Ambiguous { candidates, .. })
        if candidates == [id(1), id(2)]));
    let held = store.inbox_find(None, &id(3).to_string()).await;
    assert!(matches!(held, Err(StoreError::NotFound(_))));
    let elsewhere = store.inbox_find(Some(&mesh(2)), &id(2).to_string()).await;
    assert!(matches!(elsewhere, Err(StoreError::NotFound(_))));
}

pub async fn flushing_deletes_surfaced_messages_of_its_scope(store: Subject) {
    seed(&store).await;
    surfaced(&store, [1, 2, 3]).await;
    let held = arrive(&store, item(60, 9)).await;
    let row = arrive(&store, Item { mesh: mesh(2), ..item(60, 4) }).await;
    store.surface(&[row], NOW).await.unwrap();
    let flush = async |mesh, before| {
        store.inbox_delete(&InboxDelete::Surfaced { mesh, before }).await.unwrap()
    };
    assert_eq!(flush(Some(mesh(1)), Some(NOW + 2)).await, 1);
    assert_eq!(flush(Some(mesh(2)), None).await, 1);
    assert_eq!(flush(None, None).await, 2);
    assert_eq!(store.inbox_delete(&InboxDelete::Row(held)).await.unwrap(), 0);
    assert_eq!(store.held().await.unwrap().len(), 1, "held rows stay until they have surfaced");
}

pub async fn swallowed_rows_are_gone_and_leave_no_hole(store: Subject) {
    seed(&store).await;
    let shown = surfaced(&store, [1]).await;
    let row = arrive(&store, item(60, 2)).await;
    store.swallow(&[row, shown[0], 9_999], NOW + 60).await.unwrap();
    assert!(store.held().await.unwrap().is_empty());
    assert_eq!(listed(&store, all()).await, [1], "what has surfaced stays");
    assert_eq!(store.cursors().await.unwrap(), [(item(60, 2).counter(), 2)]);
    assert_eq!(accept(&store, item(60, 2)).await, Arrived::Duplicate);
    let next = arrive(&store, item(60, 3)).await;
    let orders: Vec<_> =
        store.surface(&[next], NOW).await.unwrap().into_iter().map(|r| r.order).collect();
    assert_eq!(orders, [Some(2)], "it had no place in the order");
}
