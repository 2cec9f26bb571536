//! Numbers, idempotency, states.

use std::collections::HashSet;

use super::super::{OutboxFilter, Stepped};
use super::*;
use crate::core::outbox::{Repeat, advance};

pub async fn enqueue_stores_what_it_returns(store: Subject) {
    seed(&store).await;
    let new = keyed(1, "once", 3);
    let row = enqueue(&store, new.clone()).await;
    assert_eq!(store.outbox_get(&mesh(1), &id(1)).await.unwrap(), Some(row.clone()));
    let meta = &row.meta;
    assert_eq!((meta.mesh, meta.id, meta.author), (new.mesh, new.id, new.author));
    assert_eq!((&meta.target, meta.recipient), (&new.target, new.recipient));
    assert_eq!((meta.peer_name.as_str(), meta.priority), ("bob", new.priority));
    assert_eq!((meta.state, meta.attempts), (OutboxState::Pending, 0));
    assert_eq!((meta.created_at, meta.expires_at), (new.created_at, new.expires_at));
    assert_eq!((meta.instance, meta.seq), (instance(1), 1));
    assert_eq!(meta.hash, row.envelope.hash(&mesh(1)));
    assert_eq!(meta.idempotency, new.idempotency);
    row.envelope.check(&mesh(1)).unwrap();
}

pub async fn each_counter_numbers_for_itself(store: Subject) {
    seed(&store).await;
    let first = message(1);
    let variants = [
        first.clone(),
        NewOutbox { target: Target::Session { key: public(50) }, ..first.clone() },
        NewOutbox { target: Target::Member { key: public(51) }, ..first.clone() },
        NewOutbox { priority: Priority::Now, ..first.clone() },
        NewOutbox { author: public(2), ..first.clone() },
        NewOutbox { mesh: mesh(2), ..first },
    ];
    for round in 1..=2 {
        for (n, variant) in variants.iter().enumerate() {
            let new = NewOutbox { id: id(round * 100 + n as u64), ..variant.clone() };
            let row = enqueue(&store, new).await;
            assert_eq!(slot_of(&row), format!("{round} 1"), "variant {n}");
        }
    }
}

pub async fn the_floor_is_the_lowest_number_still_alive(store: Subject) {
    seed(&store).await;
    for n in 1..=4 {
        assert_eq!(slot_of(&enqueue(&store, message(n)).await), format!("{n} 1"));
    }
    store.step(&[failed(1), relayed(2)]).await.unwrap();
    assert_eq!(slot_of(&enqueue(&store, message(5)).await), "5 2", "relayed may still arrive");
    store.step(&[step_to(2, OutboxState::Delivered).unwrap()]).await.unwrap();
    store.due(&mesh(1), NOW, 1, Pick::ALL).await.unwrap();
    assert_eq!(slot_of(&enqueue(&store, message(6)).await), "6 3", "inflight may, too");
    // Past their time, though nobody has marked them yet.
    let late = NewOutbox { created_at: NOW + 100_000, expires_at: NOW + 200_000, ..message(7) };
    assert_eq!(slot_of(&enqueue(&store, late).await), "7 7");
}

pub async fn a_failed_freeze_stores_nothing_and_uses_no_number(store: Subject) {
    seed(&store).await;
    let r = store.enqueue(&message(1), Box::new(|_| Err("no key".into()))).await;
    assert!(matches!(&r, Err(e @ StoreError::Freeze(_)) if e.to_string().contains("no key")));
    assert_eq!(store.outbox_get(&mesh(1), &id(1)).await.unwrap(), None);
    assert_eq!(slot_of(&enqueue(&store, message(1)).await), "1 1");
}

pub async fn an_id_is_used_once(store: Subject) {
    seed(&store).await;
    enqueue(&store, message(1)).await;
    let r = try_enqueue(&store, &message(1)).await;
    assert!(matches!(r, Err(StoreError::IdTaken(i)) if i == id(1)));
    enqueue(&store, NewOutbox { mesh: mesh(2), ..message(1) }).await;
    assert_eq!(slot_of(&enqueue(&store, message(2)).await), "2 1", "the failure used no number");
}

pub async fn repeated_requests_follow_the_idempotency_table(store: Subject) {
    seed(&store).await;
    for (n, state) in (1..).zip(OutboxState::ALL) {
        let key = format!("key {n}");
        in_state(&store, keyed(n, &key, 1), n, state).await;
        let same = try_enqueue(&store, &keyed(n + 100, &key, 1)).await;
        match (Repeat::of(state, true), same) {
            (Repeat::Duplicate, Ok(Enqueued::Duplicate(row))) => {
                assert_eq!((row.meta.id, row.meta.state), (id(n), state));
            }
            (expected, Err(StoreError::Idempotency(conflict))) => {
                assert_eq!((conflict.repeat, conflict.existing.id), (expected, id(n)), "{state}");
                assert!(conflict.word().ends_with("_match"), "{}", conflict.word());
            }
            other => panic!("{state}: {other:?}"),
        }
        let mismatch = try_enqueue(&store, &keyed(n + 200, &key, 2)).await;
        let Err(StoreError::Idempotency(conflict)) = mismatch else { panic!("{mismatch:?}") };
        assert_eq!((conflict.repeat, conflict.existing.state), (Repeat::Mismatch, state));
        assert!(conflict.word().ends_with("_mismatch"), "{}", conflict.word());
        // Keys belong to a mesh.
        let elsewhere = NewOutbox { mesh: mesh(2), ..keyed(n + 300, &key, 2) };
        enqueue(&store, elsewhere).await;
    }
}

pub async fn one_key_makes_one_message_under_concurrency(store: Subject) {
    seed(&store).await;
    let mut tasks = Vec::new();
    for n in 0..8 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let new = keyed(n, "same", 1);
            store.enqueue(&new, freeze(&new)).await.unwrap().into_row()
        }));
    }
    let mut ids = HashSet::new();
    let mut fresh = 0;
    for task in tasks {
        let (row, duplicate) = task.await.unwrap();
        ids.insert(row.meta.id);
        fresh += u32::from(!duplicate);
    }
    assert_eq!((ids.len(), fresh), (1, 1));
}

pub async fn states_move_as_the_state_machine_allows(store: Subject) {
    seed(&store).await;
    let mut n = 0;
    for from in OutboxState::ALL {
        for to in OutboxState::ALL {
            n += 1;
            let Some(next) = step_to(n, to) else { continue };
            in_state(&store, message(n), n, from).await;
            let before = store.outbox_get(&mesh(1), &id(n)).await.unwrap();
            let got = store.step(&[next]).await.unwrap();
            if advance(from, to) {
                assert_eq!(got, [Stepped::Done { from }], "{from} -> {to}");
                assert_eq!(state_of(&store, n).await, to);
            } else {
                assert_eq!(got, [Stepped::Kept { state: from }], "{from} -> {to}");
                let after = store.outbox_get(&mesh(1), &id(n)).await.unwrap();
                assert_eq!(after, before, "{from} -> {to} changed the row");
            }
        }
    }
    assert_eq!(store.step(&[failed(99_999)]).await.unwrap(), [Stepped::Unknown]);
}

pub async fn steps_leave_their_traces(store: Subject) {
    seed(&store).await;
    enqueue(&store, message(1)).await;
    let retry = StepTo::Retry { next_attempt_at: NOW + 77, reason: "busy".into() };
    store.due(&mesh(1), NOW, 1, Pick::ALL).await.unwrap();
    store.step(&[step(1, retry)]).await.unwrap();
    let meta = store.outbox_get(&mesh(1), &id(1)).await.unwrap().unwrap().meta;
    assert_eq!((meta.attempts, meta.next_attempt_at), (1, NOW + 77));
    assert_eq!(meta.reason.as_deref(), Some("busy"));

    // One batch, several steps of one row.
    let delivered = step(1, StepTo::Delivered { at: NOW + 2, path: "relay".into() });
    let both = [relayed(1), delivered, failed(1)];
    let from = OutboxState::Pending;
    let expected = [
        Stepped::Done { from },
        Stepped::Done { from: OutboxState::Relayed },
        Stepped::Kept { state: OutboxState::Delivered },
    ];
    assert_eq!(store.step(&both).await.unwrap(), expected);
    let meta = store.outbox_get(&mesh(1), &id(1)).await.unwrap().unwrap().meta;
    assert_eq!((meta.accepted_at, meta.delivered_at), (Some(NOW + 1), Some(NOW + 2)));
    assert_eq!((meta.path.as_deref(), meta.reason), (Some("relay"), None));
}

pub async fn expire_ends_open_rows_past_their_time(store: Subject) {
    seed(&store).await;
    for (n, state) in (1..).zip(OutboxState::ALL) {
        // Aborted rows leave a new one (id + 1000) that ends at NOW + 900.
        in_state(&store, NewOutbox { expires_at: NOW + 500, ..message(n) }, n, state).await;
    }
    assert!(store.expire(NOW + 499, 10).await.unwrap().is_empty());
    let first = store.expire(NOW + 500, 3).await.unwrap();
    let rest = store.expire(NOW + 500, 10).await.unwrap();
    let ids: Vec<_> = first.iter().chain(&rest).map(|meta| meta.id).collect();
    assert_eq!((first.len(), ids), (3, vec![id(1), id(2), id(3), id(4)]));
    assert!(rest.iter().all(|meta| meta.state == OutboxState::Expired));
    for n in 1..=4 {
        assert_eq!(state_of(&store, n).await, OutboxState::Expired);
    }
    assert_eq!(state_of(&store, 5).await, OutboxState::Delivered);
    // A receipt that comes later has the last word.
    let late = step_to(3, OutboxState::Delivered).unwrap();
    let done = Stepped::Done { from: OutboxState::Expired };
    assert_eq!(store.step(&[late]).await.unwrap(), [done]);
}

pub async fn defect_10_requeue_keeps_every_routing_column(store: Subject) {
    seed(&store).await;
    enqueue(&store, message(90)).await;
    let odd = NewOutbox {
        target: Target::Session { key: public(51) },
        recipient: public(51),
        peer_name: "carla".into(),
        priority: Priority::Now,
        author: public(3),
        ..keyed(1, "k", 1)
    };
    let old = enqueue(&store, odd).await;
    store.step(&[failed(1)]).await.unwrap();
    let new = requeue(&store, 1, 2).await.unwrap();
    let kept = |m: &super::super::OutboxMeta| {
        (m.mesh, m.author, m.target.clone(), m.recipient, m.peer_name.clone(), m.priority)
    };
    assert_eq!(kept(&new.meta), kept(&old.meta));
    assert_eq!((new.meta.id, new.meta.state), (id(2), OutboxState::Pending));
    assert_eq!((new.meta.created_at, new.meta.expires_at), (NOW + 5, NOW + 900));
    assert_eq!(slot_of(&new), "2 2", "a number of its own in the same counter");
    assert_eq!(store.outbox_get(&mesh(1), &id(2)).await.unwrap().unwrap(), new);
    let old = store.outbox_get(&mesh(1), &id(1)).await.unwrap().unwrap().meta;
    assert_eq!((old.state, old.superseded_by), (OutboxState::Aborted, Some(id(2))));
    assert_eq!((old.idempotency.is_some(), new.meta.idempotency), (true, None));
    let due = store.due(&mesh(1), NOW + 5, 10, Pick::ALL).await.unwrap();
    assert_eq!(due.iter().map(|r| r.meta.id).collect::<Vec<_>>(), [id(90), id(2)]);
}

pub async fn requeue_takes_what_is_pending_or_dead_only(store: Subject) {
    seed(&store).await;
    for (n, state) in (1..).zip(OutboxState::ALL) {
        in_state(&store, message(n), n, state).await;
        let r = requeue(&store, n, n + 500).await;
        match r {
            Ok(row) if state.may_requeue() => assert_eq!(row.meta.id, id(n + 500)),
            Err(StoreError::NotRequeueable { id: i, state: s }) if !state.may_requeue() => {
                assert_eq!((i, s), (id(n), state));
            }
            other => panic!("{state}: {other:?}"),
        }
    }
    assert!(matches!(requeue(&store, 7_777, 1).await, Err(StoreError::NotFound(_))));
    // A failure on the way leaves the old row as it was.
    enqueue(&store, message(50)).await;
    assert!(matches!(requeue(&store, 50, 1).await, Err(StoreError::IdTaken(_))));
    assert_eq!(state_of(&store, 50).await, OutboxState::Pending);
}

pub async fn rows_are_found_by_the_start_of_their_id(store: Subject) {
    seed(&store).await;
    for n in 1..=3 {
        enqueue(&store, message(n)).await;
    }
    enqueue(&store, NewOutbox { mesh: mesh(2), ..message(1) }).await;
    let whole = id(2).to_string();
    assert_eq!(store.outbox_find(None, None, &whole).await.unwrap().meta.id, id(2));
    let lower = whole.to_lowercase();
    assert_eq!(store.outbox_find(Some(&mesh(1)), None, &lower).await.unwrap().meta.id, id(2));
    let shared = &whole[..8];
    let r = store.outbox_find(Some(&mesh(1)), None, shared).await;
    let Err(StoreError::Ambiguous { candidates, .. }) = r else { panic!("{r:?}") };
    assert_eq!(candidates, [id(1), id(2), id(3)]);
    // The same id in two meshes.
    let both = store.outbox_find(None, None, &id(1).to_string()).await;
    assert!(matches!(both, Err(StoreError::Ambiguous { .. })));
    // One author's own, whatever others' start alike.
    let by = public(77);
    enqueue(&store, NewOutbox { author: by, ..message(4) }).await;
    assert_eq!(store.outbox_find(None, Some(&by), shared).await.unwrap().meta.id, id(4));
    let r = store.outbox_find(None, Some(&by), &whole).await;
    assert!(matches!(r, Err(StoreError::NotFound(_))), "{r:?}");
    for absent in ["", "0ZZZ", "%", "x y", &"0".repeat(40), "é"] {
        let r = store.outbox_find(None, None, absent).await;
        assert!(matches!(r, Err(StoreError::NotFound(_))), "{absent}: {r:?}");
    }
}

pub async fn lists_are_filtered_bounded_and_newest_first(store: Subject) {
    seed(&store).await;
    for n in 1..=4 {
        enqueue(&store, message(n)).await;
    }
    let other = NewOutbox { recipient: public(51), ..message(5) };
    enqueue(&store, other).await;
    enqueue(&store, NewOutbox { mesh: mesh(2), ..message(6) }).await;
    store.step(&[failed(2), relayed(3)]).await.unwrap();
    let all = OutboxFilter { limit: 100, ..Default::default() };
    let ids = async |filter: OutboxFilter| {
        let list = store.outbox_list(&filter).await.unwrap();
        list.iter().map(|meta| meta.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(all.clone()).await, [6, 5, 4, 3, 2, 1].map(id));
    assert_eq!(ids(OutboxFilter { limit: 2, ..all.clone() }).await, [6, 5].map(id));
    let one = OutboxFilter { mesh: Some(mesh(2)), ..all.clone() };
    assert_eq!(ids(one).await, [id(6)]);
    let states = vec![OutboxState::Failed, OutboxState::Relayed];
    assert_eq!(ids(OutboxFilter { states, ..all.clone() }).await, [3, 2].map(id));
    assert_eq!(ids(OutboxFilter { recipient: Some(public(51)), ..all.clone() }).await, [id(5)]);
    enqueue(&store, NewOutbox { ping: true, ..message(7) }).await;
    assert_eq!(ids(OutboxFilter { limit: 2, ..all.clone() }).await, [7, 6].map(id));
    let mail = OutboxFilter { limit: 2, without_pings: true, ..all };
    assert_eq!(ids(mail).await, [6, 5].map(id));
}
