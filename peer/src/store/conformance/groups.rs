//! Messages to groups, and messages redirected to a member.

use meshwire_signaling::seal::Wrap;

use super::super::{NewRecipient, OutboxFilter, RecipientRow, Redirect, Rewrap, Stepped};
use super::*;
use crate::core::group::RecipientState;

fn to(n: u8) -> NewRecipient {
    NewRecipient { key: public(n), name: format!("peer{n}") }
}

/// A message to the group `ops`, which is 60, 61 and 62.
fn to_group(n: u64) -> NewOutbox {
    NewOutbox {
        target: Target::Group { name: "ops".into() },
        recipient: public(1),
        peer_name: "@ops".into(),
        recipients: [62, 60, 61].map(to).into(),
        ..message(n)
    }
}

fn wrap(n: u8) -> Wrap {
    Wrap { to: public(n), key: vec![n; 72].into() }
}

fn answer(n: u64, by: u8, to: RecipientState, reason: Option<&str>) -> Step {
    let (key, reason) = (public(by), reason.map(str::to_owned));
    step(n, StepTo::Recipient { key, to, reason, at: NOW + u64::from(by) })
}

async fn row(store: &Subject, n: u64) -> OutboxRow {
    store.outbox_get(&mesh(1), &id(n)).await.unwrap().unwrap()
}

async fn recipients(store: &Subject, n: u64) -> Vec<RecipientRow> {
    store.recipients(row(store, n).await.meta.row).await.unwrap()
}

async fn states(store: &Subject, n: u64) -> Vec<RecipientState> {
    recipients(store, n).await.into_iter().map(|r| r.state).collect()
}

use RecipientState::{Delivered, Expired, Failed, Open};

pub async fn a_groups_message_keeps_its_recipients(store: Subject) {
    seed(&store).await;
    enqueue(&store, message(1)).await;
    assert!(recipients(&store, 1).await.is_empty());
    enqueue(&store, to_group(2)).await;
    let got = recipients(&store, 2).await;
    let keys: Vec<_> = got.iter().map(|r| (r.key, r.name.as_str())).collect();
    assert_eq!(keys, [(public(60), "peer60"), (public(61), "peer61"), (public(62), "peer62")]);
    assert!(got.iter().all(|r| (r.state, &r.reason, r.at) == (Open, &None, None)));
    let meta = store.outbox_meta(&mesh(1), &id(2)).await.unwrap();
    assert_eq!(meta, Some(row(&store, 2).await.meta));
    assert_eq!(store.outbox_meta(&mesh(2), &id(2)).await.unwrap(), None);
    store.mesh_remove(&mesh(1)).await.unwrap();
    assert!(store.recipients(meta.unwrap().row).await.unwrap().is_empty());
}

pub async fn a_groups_message_is_where_its_least_advanced_recipient_is(store: Subject) {
    seed(&store).await;
    enqueue(&store, to_group(1)).await;
    let full = answer(1, 62, Failed, Some("queue_full"));
    let done = store.step(&[relayed(1), full, answer(1, 60, Delivered, None)]).await.unwrap();
    let relayed_still = Stepped::Recipient { state: OutboxState::Relayed };
    assert_eq!(done, [Stepped::Done { from: OutboxState::Pending }, relayed_still, relayed_still]);
    assert_eq!(states(&store, 1).await, [Delivered, Open, Failed]);
    let last = store.step(&[answer(1, 61, Delivered, None)]).await.unwrap();
    assert_eq!(last, [Stepped::Recipient { state: OutboxState::Failed }]);
    let meta = row(&store, 1).await.meta;
    assert_eq!((meta.reason.as_deref(), meta.delivered_at), (Some("1 of 3 refused"), None));
    let got = recipients(&store, 1).await;
    assert_eq!((got[2].reason.as_deref(), got[2].at), (Some("queue_full"), Some(NOW + 62)));

    // A receipt that comes all the same has the last word.
    let late = store.step(&[answer(1, 62, Delivered, None)]).await.unwrap();
    assert_eq!(late, [Stepped::Recipient { state: OutboxState::Delivered }]);
    let meta = row(&store, 1).await.meta;
    assert_eq!((meta.reason, meta.delivered_at), (None, Some(NOW + 62)));
    assert_eq!(recipients(&store, 1).await[2].reason, None);

    // Said is said, and strangers are no recipients.
    let steps = [
        answer(1, 60, Failed, Some("blocked")),
        answer(1, 60, Delivered, None),
        answer(1, 63, Delivered, None),
        answer(9, 60, Delivered, None),
    ];
    let kept = Stepped::Kept { state: OutboxState::Delivered };
    let got = store.step(&steps).await.unwrap();
    assert_eq!(got, [kept, kept, Stepped::Unknown, Stepped::Unknown]);
    enqueue(&store, message(2)).await;
    assert_eq!(store.step(&[answer(2, 60, Delivered, None)]).await.unwrap(), [Stepped::Unknown]);
}

pub async fn the_end_of_a_groups_message_ends_who_is_open(store: Subject) {
    seed(&store).await;
    for n in 1..=3 {
        enqueue(&store, NewOutbox { expires_at: NOW + 10 * n, ..to_group(n) }).await;
        store.step(&[relayed(n), answer(n, 60, Delivered, None)]).await.unwrap();
    }
    assert_eq!(store.expire(NOW + 10, 10).await.unwrap().len(), 1);
    assert_eq!(states(&store, 1).await, [Delivered, Expired, Expired]);
    assert_eq!(recipients(&store, 1).await[1].reason.as_deref(), Some("expired"));
    assert_eq!(state_of(&store, 1).await, OutboxState::Expired);
    store.step(&[failed(2)]).await.unwrap();
    assert_eq!(states(&store, 2).await, [Delivered, Failed, Failed]);
    assert_eq!(states(&store, 3).await, [Delivered, Open, Open]);

    // Late receipts are counted still.
    store.step(&[answer(1, 61, Delivered, None)]).await.unwrap();
    let meta = row(&store, 1).await.meta;
    assert_eq!(meta.reason.as_deref(), Some("1 of 3 expired"));
    store.step(&[answer(1, 62, Delivered, None)]).await.unwrap();
    assert_eq!(state_of(&store, 1).await, OutboxState::Delivered);
}

pub async fn recipients_change_while_no_path_has_the_message(store: Subject) {
    seed(&store).await;
    enqueue(&store, to_group(1)).await;
    let before = store.due(&mesh(1), NOW, 1, Pick::ALL).await.unwrap().remove(0);
    let change = Rewrap {
        mesh: mesh(1),
        id: id(1),
        wraps: vec![wrap(1), wrap(61), wrap(62), wrap(63)],
        added: vec![to(63), to(62)],
        gone: vec![public(60), public(99)],
    };
    assert!(store.rewrap(&change).await.unwrap());
    let after = row(&store, 1).await;
    assert_eq!(after.envelope.wraps, change.wraps);
    assert_eq!(after.meta, before.meta, "neither state nor hash change");
    assert_eq!(after.envelope.sig, before.envelope.sig);
    let keys = async || recipients(&store, 1).await.into_iter().map(|r| r.key).collect::<Vec<_>>();
    assert_eq!(keys().await, [61, 62, 63].map(public));

    // Who has answered stays.
    store.step(&[answer(1, 61, Delivered, None)]).await.unwrap();
    let less = Rewrap { gone: vec![public(61), public(62)], added: vec![], ..change };
    assert!(store.rewrap(&less).await.unwrap());
    assert_eq!(keys().await, [61, 63].map(public));
    store.step(&[relayed(1)]).await.unwrap();
    assert!(!store.rewrap(&less).await.unwrap(), "a path has it");
    assert!(!store.rewrap(&Rewrap { id: id(9), ..less }).await.unwrap());
}

pub async fn defect_10_a_groups_message_is_requeued_whole(store: Subject) {
    seed(&store).await;
    enqueue(&store, NewOutbox { author: public(3), ..to_group(1) }).await;
    store.step(&[relayed(1), answer(1, 60, Delivered, None), failed(1)]).await.unwrap();
    let now = Requeue { recipients: vec![to(60), to(64)], ..anew(1, 2) };
    let new = try_requeue(&store, now, 2).await.unwrap();
    assert_eq!(new.meta.target, Target::Group { name: "ops".into() });
    assert_eq!((new.meta.author, new.meta.peer_name.as_str()), (public(3), "@ops"));
    let keys: Vec<_> = recipients(&store, 2).await.into_iter().map(|r| r.key).collect();
    assert_eq!(keys, [60, 64].map(public));
    assert_eq!(states(&store, 1).await, [Delivered, Failed, Failed], "kept for audit");
    // What comes for the old one is noted, and changes nothing.
    let late = store.step(&[answer(1, 61, Delivered, None)]).await.unwrap();
    assert_eq!(late, [Stepped::Recipient { state: OutboxState::Aborted }]);
    assert_eq!(row(&store, 1).await.meta.superseded_by, Some(id(2)));
    let by = OutboxFilter { author: Some(public(3)), limit: 9, ..Default::default() };
    enqueue(&store, message(7)).await;
    let ids: Vec<_> =
        store.outbox_list(&by).await.unwrap().into_iter().map(|meta| meta.id).collect();
    assert_eq!(ids, [2, 1].map(id));
}

pub async fn mail_for_an_ended_session_is_redirected_once(store: Subject) {
    seed(&store).await;
    let for_session = |n| NewOutbox {
        target: Target::Session { key: public(50) },
        recipient: public(50),
        member: Some(public(51)),
        peer_name: "bob/agent".into(),
        ..message(n)
    };
    let to_member = |old, new| {
        let redirect = Redirect {
            target: Target::Member { key: public(51) },
            recipient: public(51),
            member: None,
            peer_name: "bob".into(),
        };
        Requeue { redirect: Some(redirect), ..anew(old, new) }
    };
    enqueue(&store, for_session(1)).await;
    assert_eq!(row(&store, 1).await.meta.member, Some(public(51)));
    store.step(&[relayed(1)]).await.unwrap();
    // A path has it: only a redirect may take its place.
    assert!(matches!(requeue(&store, 1, 2).await, Err(StoreError::NotRequeueable { .. })));
    let new = try_requeue(&store, to_member(1, 2), 2).await.unwrap().meta;
    assert_eq!((&new.target, new.recipient), (&Target::Member { key: public(51) }, public(51)));
    assert_eq!((new.member, new.peer_name.as_str()), (None, "bob"));
    assert_eq!((new.author, new.priority), (public(1), Priority::Next));
    let old = row(&store, 1).await.meta;
    assert_eq!((old.state, old.superseded_by), (OutboxState::Aborted, Some(id(2))));
    let again = try_requeue(&store, to_member(1, 3), 3).await;
    assert!(matches!(again, Err(StoreError::NotRequeueable { .. })));
    // One that has arrived stays.
    enqueue(&store, for_session(5)).await;
    store.step(&[step_to(5, OutboxState::Delivered).unwrap()]).await.unwrap();
    let late = try_requeue(&store, to_member(5, 6), 6).await;
    assert!(matches!(late, Err(StoreError::NotRequeueable { .. })));
}
