//! Meshes, instances, ageing.

use super::super::{
    CURSOR_RETENTION_MS, InboxFilter, NewMember, OutboxFilter, Pruned, RETENTION_MS,
};
use super::*;

pub async fn meshes_come_back_as_they_were(store: Subject) {
    seed(&store).await;
    assert_eq!(store.mesh_get(&mesh(1)).await.unwrap(), Some(mesh_row(1)));
    assert_eq!(store.mesh_list().await.unwrap(), [mesh_row(1), mesh_row(2)]);
    assert_eq!(store.mesh_get(&mesh(3)).await.unwrap(), None);
    let again = store.mesh_insert(&mesh_row(1), instance(9)).await;
    assert!(matches!(again, Err(StoreError::MeshExists(m)) if m == mesh(1)));
    assert_eq!(store.next_hello(&mesh(1)).await.unwrap(), (instance(1), 1));
}

pub async fn a_removed_mesh_takes_everything_along(store: Subject) {
    seed(&store).await;
    let other = NewOutbox { mesh: mesh(2), ..message(2) };
    let (_, _) = (enqueue(&store, message(1)).await, enqueue(&store, other).await);
    let row = arrive(&store, item(60, 1)).await;
    store.surface(&[row], NOW).await.unwrap();
    let member = NewMember {
        mesh: mesh(1),
        key: public(60),
        name: "peer".into(),
        role: Role::Member,
        chain: chain(60),
        now: NOW,
    };
    store.upsert_member(&member).await.unwrap();

    assert!(store.mesh_remove(&mesh(1)).await.unwrap());
    assert!(!store.mesh_remove(&mesh(1)).await.unwrap());
    assert_eq!(store.mesh_list().await.unwrap(), [mesh_row(2)]);
    let rest = store.outbox_list(&OutboxFilter { limit: 10, ..Default::default() }).await.unwrap();
    assert_eq!(rest.iter().map(|m| m.id).collect::<Vec<_>>(), [id(2)]);
    let inbox = InboxFilter { limit: 10, ..Default::default() };
    assert!(store.inbox_list(&inbox, None).await.unwrap().is_empty());
    assert!(store.cursors().await.unwrap().is_empty());
    assert!(store.members(None).await.unwrap().is_empty());
    assert_eq!(store.seen(&mesh(1), &public(60), &id(1)).await.unwrap(), None);

    store.mesh_insert(&mesh_row(1), instance(8)).await.unwrap();
    assert_eq!(slot_of(&enqueue(&store, message(3)).await), "1 1", "numbers begin anew");
}

pub async fn hello_counters_grow_and_a_new_instance_begins_anew(store: Subject) {
    seed(&store).await;
    for n in 1..=3 {
        assert_eq!(store.next_hello(&mesh(1)).await.unwrap(), (instance(1), n));
    }
    assert_eq!(store.next_hello(&mesh(2)).await.unwrap(), (instance(2), 1));

    let before = enqueue(&store, message(1)).await;
    store.renew_instance(&mesh(1), instance(7)).await.unwrap();
    assert_eq!(store.next_hello(&mesh(1)).await.unwrap(), (instance(7), 1));
    let after = enqueue(&store, message(2)).await;
    assert_eq!((after.meta.instance, slot_of(&after).as_str()), (instance(7), "1 1"));
    // What was frozen before keeps its instance and number.
    assert_eq!(store.outbox_get(&mesh(1), &id(1)).await.unwrap(), Some(before));
}

pub async fn hello_counters_never_repeat_under_concurrency(store: Subject) {
    seed(&store).await;
    let mut tasks = Vec::new();
    for _ in 0..20 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move { store.next_hello(&mesh(1)).await.unwrap().1 }));
    }
    let mut counters = Vec::new();
    for task in tasks {
        counters.push(task.await.unwrap());
    }
    counters.sort_unstable();
    assert_eq!(counters, (1..=20).collect::<Vec<_>>());
}

pub async fn an_unknown_mesh_is_an_error_that_names_it(store: Subject) {
    seed(&store).await;
    let unknown = |r: Result<(), StoreError>| {
        assert!(matches!(r, Err(StoreError::UnknownMesh(m)) if m == mesh(9)), "{r:?}");
    };
    let stray = NewOutbox { mesh: mesh(9), ..message(1) };
    unknown(try_enqueue(&store, &stray).await.map(drop));
    unknown(store.next_hello(&mesh(9)).await.map(drop));
    unknown(store.renew_instance(&mesh(9), instance(1)).await);
    let stray = Item { mesh: mesh(9), ..item(60, 1) };
    let both = [(item(60, 2), NOW), (stray, NOW)];
    unknown(store.accept_inbound(&both).await.map(drop));
    assert!(store.held().await.unwrap().is_empty(), "all or nothing");
    assert!(store.due(&mesh(9), NOW, 10, Pick::ALL).await.unwrap().is_empty());
}

pub async fn prune_deletes_what_is_over_and_nothing_else(store: Subject) {
    seed(&store).await;
    let surfaced = arrive(&store, item(60, 1)).await;
    arrive(&store, item(60, 2)).await;
    store.surface(&[surfaced], NOW).await.unwrap();
    enqueue(&store, message(1)).await;
    enqueue(&store, message(2)).await;
    store.step(&[failed(1)]).await.unwrap();

    assert_eq!(store.prune(NOW).await.unwrap(), Pruned::default());
    // Ids are remembered up to and including the last moment.
    assert_eq!(store.prune(NOW + 160_000).await.unwrap(), Pruned::default());
    let ids = store.prune(NOW + 160_001).await.unwrap();
    assert_eq!(ids, Pruned { seen: 2, ..Default::default() });
    assert_eq!(store.seen(&mesh(1), &public(60), &id(1)).await.unwrap(), None);

    let month = store.prune(NOW + 100_001 + RETENTION_MS).await.unwrap();
    assert_eq!(month, Pruned { inbox: 1, outbox: 1, ..Default::default() });
    assert_eq!(store.held().await.unwrap().len(), 1, "held rows stay");
    assert_eq!(store.outbox_get(&mesh(1), &id(1)).await.unwrap(), None);
    assert!(store.outbox_get(&mesh(1), &id(2)).await.unwrap().is_some(), "open rows stay");
    let cursors = store.prune(NOW + 1 + CURSOR_RETENTION_MS).await.unwrap();
    assert_eq!(cursors, Pruned { cursors: 1, ..Default::default() });
}
