//! Handing rows out.

use super::*;

fn ids(rows: &[OutboxRow]) -> Vec<EnvelopeId> {
    rows.iter().map(|row| row.meta.id).collect()
}

fn retry_at(n: u64, next_attempt_at: u64) -> Step {
    step(n, StepTo::Retry { next_attempt_at, reason: "busy".into() })
}

pub async fn due_hands_out_in_order_and_once(store: Subject) {
    seed(&store).await;
    for n in [3, 1, 2] {
        enqueue(&store, message(n)).await;
    }
    enqueue(&store, NewOutbox { mesh: mesh(2), ..message(9) }).await;
    let first = store.due(&mesh(1), NOW, 2, Pick::ALL).await.unwrap();
    assert_eq!(ids(&first), [3, 1].map(id), "in the order of enqueueing, not of ids");
    assert!(first.iter().all(|r| r.meta.state == OutboxState::Inflight && r.meta.attempts == 1));
    assert_eq!(ids(&store.due(&mesh(1), NOW, 10, Pick::ALL).await.unwrap()), [id(2)]);
    assert!(store.due(&mesh(1), NOW, 10, Pick::ALL).await.unwrap().is_empty());
    assert_eq!(state_of(&store, 3).await, OutboxState::Inflight);
}

pub async fn no_row_overtakes_its_predecessor_that_waits(store: Subject) {
    seed(&store).await;
    for n in 1..=3 {
        enqueue(&store, message(n)).await;
    }
    let urgent = NewOutbox { priority: Priority::Now, ..message(4) };
    enqueue(&store, urgent).await;
    assert_eq!(ids(&store.due(&mesh(1), NOW, 1, Pick::ALL).await.unwrap()), [id(1)]);
    store.step(&[retry_at(1, NOW + 50)]).await.unwrap();

    // 2 and 3 wait for 1; another counter does not.
    assert_eq!(ids(&store.due(&mesh(1), NOW, 10, Pick::ALL).await.unwrap()), [id(4)]);
    assert!(store.due(&mesh(1), NOW + 49, 10, Pick::ALL).await.unwrap().is_empty());
    assert_eq!(store.next_due(&mesh(1), NOW, Pick::ALL).await.unwrap(), Some(NOW + 50));
    assert_eq!(
        ids(&store.due(&mesh(1), NOW + 50, 10, Pick::ALL).await.unwrap()),
        [1, 2, 3].map(id)
    );
    assert_eq!(store.next_due(&mesh(1), NOW, Pick::ALL).await.unwrap(), None);
}

pub async fn an_expired_row_blocks_nobody_and_is_not_handed_out(store: Subject) {
    seed(&store).await;
    enqueue(&store, NewOutbox { expires_at: NOW + 10, ..message(1) }).await;
    enqueue(&store, message(2)).await;
    assert_eq!(ids(&store.due(&mesh(1), NOW, 1, Pick::ALL).await.unwrap()), [id(1)]);
    store.step(&[retry_at(1, NOW + 1_000)]).await.unwrap();
    assert_eq!(store.next_due(&mesh(1), NOW, Pick::ALL).await.unwrap(), Some(NOW + 1_000));
    assert_eq!(store.next_due(&mesh(1), NOW + 10, Pick::ALL).await.unwrap(), Some(NOW));
    assert_eq!(ids(&store.due(&mesh(1), NOW + 10, 10, Pick::ALL).await.unwrap()), [id(2)]);
    assert!(store.due(&mesh(1), NOW + 2_000, 10, Pick::ALL).await.unwrap().is_empty());
}

pub async fn defect_11_rows_left_inflight_are_reset(store: Subject) {
    seed(&store).await;
    for n in 1..=3 {
        enqueue(&store, message(n)).await;
    }
    enqueue(&store, NewOutbox { mesh: mesh(2), ..message(9) }).await;
    store.due(&mesh(1), NOW, 10, Pick::ALL).await.unwrap();
    store.due(&mesh(2), NOW, 10, Pick::ALL).await.unwrap();
    store.step(&[relayed(2)]).await.unwrap();
    assert_eq!(store.reset_inflight(&mesh(1)).await.unwrap(), 2);
    assert_eq!(store.reset_inflight(&mesh(1)).await.unwrap(), 0);
    let again = store.due(&mesh(1), NOW, 10, Pick::ALL).await.unwrap();
    assert_eq!(ids(&again), [1, 3].map(id));
    assert_eq!(again[0].meta.attempts, 2);
    assert!(
        store.due(&mesh(2), NOW, 10, Pick::ALL).await.unwrap().is_empty(),
        "another mesh's are not ours"
    );
}

/// Inventory T28: 2 drains of 10 rows and 6 drains of 20 are disjoint, complete and in order.
pub async fn concurrent_drains_are_disjoint_complete_and_in_order(store: Subject) {
    seed(&store).await;
    let mut n = 0;
    for (drains, rows) in [(2, 10), (6, 20)] {
        let mut expected = Vec::new();
        for _ in 0..rows {
            n += 1;
            expected.push(enqueue(&store, message(n)).await.meta.row);
        }
        let mut tasks = Vec::new();
        for _ in 0..drains {
            let store = store.clone();
            tasks.push(tokio::spawn(async move {
                let mut mine = Vec::new();
                loop {
                    let due = store.due(&mesh(1), NOW, 3, Pick::ALL).await.unwrap();
                    if due.is_empty() {
                        return mine;
                    }
                    mine.extend(due.into_iter().map(|row| row.meta.row));
                    tokio::task::yield_now().await;
                }
            }));
        }
        let mut all = Vec::new();
        for task in tasks {
            let mine = task.await.unwrap();
            assert!(mine.is_sorted(), "each drain is in order: {mine:?}");
            all.extend(mine);
        }
        all.sort_unstable();
        assert_eq!(all, expected, "each row exactly once");
        assert!(store.due(&mesh(1), NOW, 10, Pick::ALL).await.unwrap().is_empty());
    }
}

pub async fn only_rows_for_whom_there_is_a_path_are_due(store: Subject) {
    seed(&store).await;
    let other = PublicKey([77; 32]);
    enqueue(&store, message(1)).await;
    enqueue(
        &store,
        NewOutbox { recipient: other, target: Target::Member { key: other }, ..message(2) },
    )
    .await;
    let session = PublicKey([78; 32]);
    let to_session = NewOutbox {
        recipient: session,
        target: Target::Session { key: session },
        member: Some(other),
        ..message(3)
    };
    enqueue(&store, to_session).await;
    let strangers = [PublicKey([99; 32])];
    let nobody = Pick::only(&strangers);
    assert!(store.due(&mesh(1), NOW, 10, nobody).await.unwrap().is_empty());
    assert_eq!(store.next_due(&mesh(1), NOW, nobody).await.unwrap(), None);
    assert_eq!(store.next_due(&mesh(1), NOW, Pick::only(&[other])).await.unwrap(), Some(NOW));
    let theirs = store.due(&mesh(1), NOW, 10, Pick::only(&[other])).await.unwrap();
    assert_eq!(ids(&theirs), [2, 3].map(id), "the member's sessions are behind the same path");
    assert_eq!(ids(&store.due(&mesh(1), NOW, 10, Pick::ALL).await.unwrap()), [id(1)]);
}

pub async fn rows_for_whom_is_busy_wait_and_late_ones_do_not(store: Subject) {
    seed(&store).await;
    let (busy, session) = (PublicKey([77; 32]), PublicKey([78; 32]));
    let to = |n, key| NewOutbox { recipient: key, target: Target::Member { key }, ..message(n) };
    for n in 1..=3 {
        enqueue(&store, to(n, busy)).await;
    }
    let to_session = NewOutbox { member: Some(busy), ..to(4, session) };
    enqueue(&store, to_session).await;
    enqueue(&store, message(5)).await;
    assert_eq!(ids(&store.due(&mesh(1), NOW, 1, Pick::ALL).await.unwrap()), [id(1)]);
    let peers = [busy];
    let others = Pick { only: None, busy: &peers };
    assert_eq!(ids(&store.due(&mesh(1), NOW, 10, others).await.unwrap()), [id(5)]);
    assert_eq!(
        store.next_due(&mesh(1), NOW, others).await.unwrap(),
        None,
        "nothing to wake up for"
    );
    assert_eq!(store.next_due(&mesh(1), NOW, Pick::ALL).await.unwrap(), Some(NOW));

    // Tried again for another reason, it waits with the others.
    store.step(&[retry_at(1, NOW)]).await.unwrap();
    assert!(store.due(&mesh(1), NOW, 10, others).await.unwrap().is_empty());
    assert_eq!(ids(&store.due(&mesh(1), NOW, 1, Pick::ALL).await.unwrap()), [id(1)]);
    store
        .step(&[step(1, StepTo::Retry { next_attempt_at: NOW, reason: LATE.into() })])
        .await
        .unwrap();
    assert_eq!(store.next_due(&mesh(1), NOW, others).await.unwrap(), Some(NOW));
    assert_eq!(ids(&store.due(&mesh(1), NOW, 10, others).await.unwrap()), [id(1)]);
    let both = Pick { only: Some(&peers), busy: &peers };
    assert!(store.due(&mesh(1), NOW, 10, both).await.unwrap().is_empty());
    assert_eq!(ids(&store.due(&mesh(1), NOW, 10, Pick::ALL).await.unwrap()), [2, 3, 4].map(id));
}

pub async fn what_a_lost_path_took_is_due_again(store: Subject) {
    seed(&store).await;
    let other = PublicKey([77; 32]);
    for n in 1..=3 {
        enqueue(&store, message(n)).await;
    }
    enqueue(
        &store,
        NewOutbox { recipient: other, target: Target::Member { key: other }, ..message(4) },
    )
    .await;
    store.due(&mesh(1), NOW, 10, Pick::ALL).await.unwrap();
    let sent = |n| step(n, StepTo::Sent { at: NOW, path: "direct".into() });
    store.step(&[sent(1), relayed(2), sent(3), sent(4)]).await.unwrap();
    store.step(&[step(3, StepTo::Delivered { at: NOW, path: "direct".into() })]).await.unwrap();
    assert_eq!(store.unsend(&mesh(1), Some(&PublicKey([99; 32]))).await.unwrap(), 0);
    assert_eq!(store.unsend(&mesh(1), Some(&other)).await.unwrap(), 1);
    assert_eq!(ids(&store.due(&mesh(1), NOW, 10, Pick::ALL).await.unwrap()), [id(4)]);
    assert_eq!(
        store.unsend(&mesh(1), None).await.unwrap(),
        1,
        "the broker's, and delivered ones stay"
    );
    assert_eq!(ids(&store.due(&mesh(1), NOW, 10, Pick::ALL).await.unwrap()), [id(1)]);
    let again = StepTo::Retry { next_attempt_at: NOW + 30_000, reason: "queue_full".into() };
    store.step(&[step(1, again.clone()), step(4, again)]).await.unwrap();
    assert_eq!(ids(&store.due(&mesh(1), NOW, 10, Pick::ALL).await.unwrap()), []);
    assert_eq!(store.hasten(&mesh(1), &PublicKey([99; 32]), NOW).await.unwrap(), 0);
    assert_eq!(store.hasten(&mesh(1), &other, NOW).await.unwrap(), 1);
    assert_eq!(store.hasten(&mesh(1), &other, NOW).await.unwrap(), 0, "it is due already");
    assert_eq!(ids(&store.due(&mesh(1), NOW, 10, Pick::ALL).await.unwrap()), [id(4)]);
    let (instance, _) = store.next_hello(&mesh(1)).await.unwrap();
    assert_eq!(store.instance(&mesh(1)).await.unwrap(), instance);
}
