//! Sessions and services, their mail, leases, and what identities say of themselves.

use std::sync::Arc;

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::receipt::Verdict;
use meshwire_signaling::{EnvelopeId, InstanceId, MeshId};

use super::{
    MESH, NEW, NOW, accept, answer, claim, claim_of, delegate_of, delivery, found, key, plan,
    vouched,
};
use crate::core::accept::Plan;
use crate::store::{Accepted, DelegateRow, LeaseRow, Store, Vouched};

/// What a member says of itself stays until it says otherwise.
pub async fn about(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    for (about, hidden) in [(b"a", true), (b"b", false)] {
        let mut tx = s.begin().await.unwrap();
        tx.set_about(&MESH, &key(2), about, hidden).await.unwrap();
        tx.commit().await.unwrap();
        let row = s.member(&MESH, &key(2)).await.unwrap().unwrap();
        assert_eq!((row.about.as_deref(), row.hidden), (Some(&about[..]), hidden));
    }
    let other = s.member(&MESH, &key(3)).await.unwrap().unwrap();
    assert_eq!((other.about, other.hidden), (None, false));
}

/// Leases: one per identity, all of them at start-up.
pub async fn leases(store: Arc<dyn Store>) {
    let s = store.as_ref();
    let row = |n: u8, lease: u8| LeaseRow {
        mesh: MESH,
        key: key(n),
        member: key(2),
        kind: if n == 2 { IdentityKind::Member } else { IdentityKind::Service },
        instance: InstanceId([7; 16]),
        lease: InstanceId([lease; 16]),
        since: NOW,
        about: vec![n, lease],
        attestation: (n > 2).then(|| vec![n]),
        features: vec![],
    };
    let elsewhere = LeaseRow { mesh: MeshId([9; 32]), ..row(2, 9) };
    let mut tx = s.begin().await.unwrap();
    for row in [row(2, 1), row(3, 1), row(2, 2), row(4, 1), elsewhere.clone()] {
        tx.lease_put(&row).await.unwrap();
    }
    tx.lease_end(&MESH, &key(4)).await.unwrap();
    tx.lease_end(&MESH, &key(5)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(s.leases().await.unwrap(), vec![row(2, 2), row(3, 1), elsewhere]);
}

/// Sessions and services end, live again, and are remembered while mail for them waits.
pub async fn delegates(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    let bind = async |n: u8, kind: IdentityKind, until: u64| {
        let mut tx = s.begin().await.unwrap();
        assert!(tx.delegate(&MESH, &key(n), &vouched(2, kind, until)).await.unwrap());
        tx.commit().await.unwrap();
    };
    let end = async |n: u8, member: u8, now: u64| {
        let mut tx = s.begin().await.unwrap();
        let ended = tx.end_delegate(&MESH, &key(n), &key(member), now).await.unwrap();
        tx.commit().await.unwrap();
        ended
    };
    let to = |n: u8, id: u64| Plan { to: delegate_of(n), ..plan(1, 0, id) };
    bind(50, IdentityKind::Session, NOW + 1000).await;
    bind(51, IdentityKind::Service, NOW + 10).await;
    bind(52, IdentityKind::Session, NOW + 1000).await;
    let row = |kind, expires_at| Some(DelegateRow { member: key(2), kind, expires_at });
    let of = async |n: u8| s.delegate(&MESH, &key(n)).await.unwrap();
    assert_eq!(of(51).await, row(IdentityKind::Service, NOW + 10));
    assert_eq!(of(2).await, None);
    for (n, id) in [(50, 1), (51, 2)] {
        assert_eq!(accept(s, &to(n, id)).await, NEW);
    }
    assert!(!end(50, 3, NOW).await && !end(60, 2, NOW).await, "somebody else's, nobody's");
    assert_eq!(accept(s, &to(50, 3)).await, NEW);
    assert!(end(50, 2, NOW).await && end(52, 2, NOW).await);
    assert!(end(50, 2, NOW + 9).await, "again");
    assert_eq!(of(50).await, row(IdentityKind::Session, NOW), "the first end counts");
    assert_eq!(accept(s, &to(50, 4)).await, Accepted::TargetGone(key(2)));
    let ended =
        async |member: u8, now: u64| s.ended_with_mail(&MESH, &key(member), now).await.unwrap();
    assert_eq!(ended(2, NOW).await, vec![key(50)], "52 has no mail, 51 lives");
    assert_eq!(ended(2, NOW + 10).await, vec![key(50), key(51)]);
    assert!(ended(3, NOW + 10).await.is_empty());
    assert!(ended(2, NOW + 100_000).await.is_empty(), "the mail has expired");
    let mut tx = s.begin().await.unwrap();
    let again = |issued_at| Vouched { issued_at, ..vouched(2, IdentityKind::Session, NOW + 500) };
    assert!(!tx.delegate(&MESH, &key(50), &again(NOW + 9)).await.unwrap(), "a word from before");
    assert!(tx.delegate(&MESH, &key(50), &again(NOW + 10)).await.unwrap());
    tx.commit().await.unwrap();
    assert!(ended(2, NOW).await.is_empty(), "it lives again");
    assert_eq!(accept(s, &to(50, 4)).await, NEW);
    for id in [1, 3, 4] {
        assert!(answer(s, delivery(1, 50, id), None).await);
    }
    assert!(ended(2, NOW + 900).await == vec![key(51)], "answered");
}

/// Mail by a session carries its attestation; a session's end is confirmed by its member.
pub async fn mail_by_and_to_sessions(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    let by = Plan { author: key(50), attestation: Some(b"word".to_vec()), ..plan(1, 2, 1) };
    assert_eq!(accept(s, &by).await, NEW);
    assert_eq!(accept(s, &plan(1, 2, 1)).await, NEW, "the member's ids are its own");
    let got = claim(s, claim_of(2, 1, NOW, 9)).await;
    let shown = got.iter().map(|c| (c.author, c.attestation.as_deref(), c.wrap.as_deref()));
    let expected = [(key(50), Some(&b"word"[..]), None), (key(1), None, None)];
    assert_eq!(shown.collect::<Vec<_>>(), expected);
    let mut tx = s.begin().await.unwrap();
    let (session, until) = (IdentityKind::Session, NOW + 10);
    assert!(tx.delegate(&MESH, &key(60), &vouched(2, session, until)).await.unwrap());
    let to = Plan { to: delegate_of(60), id: EnvelopeId::new(9, 0), ..plan(3, 0, 9) };
    assert_eq!(tx.accept(&to, NOW).await.unwrap(), NEW);
    assert!(tx.answer(&delivery(3, 60, 9), Verdict::Gone, Some(b"gone")).await.unwrap());
    // Another member's key confirms nothing.
    tx.confirm(&delivery(3, 1, 9)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(s.receipts(&MESH, &key(3), None, 9).await.unwrap().len(), 1);
    let mut tx = s.begin().await.unwrap();
    tx.confirm(&delivery(3, 2, 9)).await.unwrap();
    tx.commit().await.unwrap();
    assert!(s.receipts(&MESH, &key(3), None, 9).await.unwrap().is_empty());
}
