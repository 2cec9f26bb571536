//! The queue: accept, claim, answer, receipt, expiry.

use std::collections::HashSet;
use std::sync::Arc;

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::limits::{SKEW, ms};
use meshwire_signaling::{EnvelopeId, Hash, MeshId};

use super::{
    LEASE, MESH, NEW, NOW, accept, answer, claim, claim_of, delegate_of, delivery, found, ids, key,
    plan, vouched,
};
use crate::core::accept::Plan;
use crate::store::{Accepted, Claim, MAX_QUEUE, MAX_QUEUE_PER_AUTHOR, Store};

/// Accepts: dedupe by (mesh, author, id), conflicts, targets, no row for a refusal.
pub async fn accepts(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    assert_eq!(accept(s, &plan(1, 2, 1)).await, NEW);
    assert_eq!(accept(s, &plan(1, 2, 1)).await, Accepted::Duplicate(MessageState::Relayed));
    let other = Plan { hash: Hash([99; 32]), ..plan(1, 2, 1) };
    assert_eq!(accept(s, &other).await, Accepted::Conflict);
    assert_eq!(accept(s, &plan(3, 2, 1)).await, NEW, "another author's id is its own");
    assert_eq!(accept(s, &plan(1, 77, 5)).await, Accepted::UnknownTarget);
    let moved = Plan { to: plan(1, 2, 5).to, ..plan(1, 77, 5) };
    assert_eq!(accept(s, &moved).await, NEW, "a refusal leaves no dedupe row");
    assert_eq!(s.queue_depth().await.unwrap(), 3);
    // Sessions and services.
    let to_session = Plan { to: delegate_of(50), ..plan(1, 50, 6) };
    assert_eq!(accept(s, &to_session).await, Accepted::UnknownTarget);
    let mut tx = s.begin().await.unwrap();
    let session = IdentityKind::Session;
    assert!(tx.delegate(&MESH, &key(50), &vouched(2, session, NOW + 10)).await.unwrap());
    assert!(!tx.delegate(&MESH, &key(50), &vouched(3, session, NOW + 99)).await.unwrap(), "stolen");
    tx.commit().await.unwrap();
    assert_eq!(accept(s, &to_session).await, NEW);
    let mut tx = s.begin().await.unwrap();
    let late = Plan { id: EnvelopeId::new(7, 0), ..to_session.clone() };
    assert_eq!(tx.accept(&late, NOW + 10).await.unwrap(), Accepted::TargetGone(key(2)));
    tx.commit().await.unwrap();
}

/// Claims: a limit, priority then order, leases, release, postponement.
pub async fn claims(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    for id in 1..=6 {
        let priority = if id == 5 { 0 } else { 1 };
        accept(s, &Plan { priority, ..plan(1, 2, id) }).await;
    }
    let first = claim(s, claim_of(2, 1, NOW, 3)).await;
    assert_eq!(ids(&first), vec![5, 1, 2], "the urgent one first, then in order, no more than 3");
    assert_eq!(first[1].envelope, 1u64.to_be_bytes());
    assert!(first.iter().all(|c| c.attempt == 1 && c.accepted_at == NOW));
    assert_eq!(ids(&claim(s, claim_of(2, 2, NOW, 9)).await), vec![3, 4, 6], "disjoint");
    assert!(claim(s, claim_of(3, 3, NOW, 9)).await.is_empty(), "somebody else's mail");
    // A lease that ran out, and a connection that was lost.
    assert!(claim(s, claim_of(2, 3, NOW + LEASE - 1, 9)).await.is_empty());
    let mut tx = s.begin().await.unwrap();
    let nobodys = [(9, MESH, key(2)), (1, MESH, key(3)), (1, MeshId([99; 32]), key(2))];
    for (conn, mesh, recipient) in nobodys {
        assert_eq!(tx.release_for(conn, &mesh, &recipient).await.unwrap(), 0);
    }
    assert_eq!(tx.release_for(1, &MESH, &key(2)).await.unwrap(), 3);
    assert_eq!(tx.release(1).await.unwrap(), 0);
    tx.commit().await.unwrap();
    let again = claim(s, claim_of(2, 3, NOW, 9)).await;
    assert_eq!(ids(&again), vec![5, 1, 2]);
    assert!(again.iter().all(|c| c.attempt == 2));
    assert_eq!(ids(&claim(s, claim_of(2, 4, NOW + LEASE, 2)).await), vec![5, 1]);
    // What waits, and when it can be had.
    let waits =
        async |conn: u64, at: u64| s.waiting(&MESH, &key(2), conn, false, at).await.unwrap();
    let seen = waits(9, NOW + LEASE + 1).await;
    assert!(
        seen.elsewhere && seen.next == Some(NOW + LEASE),
        "2's and 3's leases are over, 4's not"
    );
    assert!(!waits(4, NOW + LEASE + 1).await.elsewhere, "its own claims");
    assert!(!waits(9, NOW + 99_000).await.elsewhere, "all leases are over");
    let nobody = s.waiting(&MESH, &key(3), 1, false, NOW).await.unwrap();
    assert_eq!((nobody.next, nobody.elsewhere), (None, false));
    let urgent = s.waiting(&MESH, &key(2), 9, true, NOW).await.unwrap();
    assert_eq!(urgent.next, Some(NOW + 2 * LEASE), "the urgent one's lease");
    // Not now.
    let mut tx = s.begin().await.unwrap();
    tx.release_all().await.unwrap();
    tx.postpone(&delivery(1, 2, 5), NOW + 500).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(ids(&claim(s, claim_of(2, 5, NOW, 1)).await), vec![1]);
    // Not to be disturbed but by what is urgent.
    let urgent_only = |now| Claim { urgent_only: true, ..claim_of(2, 5, now, 9) };
    assert!(claim(s, urgent_only(NOW)).await.is_empty());
    assert_eq!(ids(&claim(s, urgent_only(NOW + 500)).await), vec![5]);
    assert_eq!(ids(&claim(s, claim_of(2, 5, NOW + 500, 9)).await), vec![2, 3, 4, 6]);
}

/// Answers: one verdict per recipient, receipts until confirmed.
pub async fn answers(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    accept(s, &plan(1, 2, 1)).await;
    accept(s, &plan(1, 2, 2)).await;
    accept(s, &plan(3, 2, 1)).await;
    assert_eq!(claim(s, claim_of(2, 1, NOW, 9)).await.len(), 3);
    assert!(!answer(s, delivery(1, 3, 1), Some(b"r")).await, "not the recipient");
    assert!(answer(s, delivery(1, 2, 1), Some(b"r")).await);
    assert!(!answer(s, delivery(1, 2, 1), Some(b"x")).await, "the first verdict stands");
    assert!(answer(s, delivery(1, 2, 2), None).await);
    assert_eq!(accept(s, &plan(1, 2, 1)).await, Accepted::Duplicate(MessageState::Delivered));
    assert_eq!(accept(s, &plan(1, 2, 2)).await, Accepted::Duplicate(MessageState::Failed));
    assert_eq!(accept(s, &plan(3, 2, 1)).await, Accepted::Duplicate(MessageState::Relayed));
    assert_eq!(s.queue_depth().await.unwrap(), 1);
    assert_eq!(ids(&claim(s, claim_of(2, 2, NOW + LEASE, 9)).await), vec![1], "3's, still waiting");
    let waiting = s.receipts(&MESH, &key(1), None, 9).await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!((waiting[0].id.time(), waiting[0].receipt.as_slice()), (1, &b"r"[..]));
    assert!(s.receipts(&MESH, &key(3), None, 9).await.unwrap().is_empty());
    let mut tx = s.begin().await.unwrap();
    tx.confirm(&delivery(1, 2, 1)).await.unwrap();
    tx.commit().await.unwrap();
    assert!(s.receipts(&MESH, &key(1), None, 9).await.unwrap().is_empty());
}

/// However many receipts wait, all are found page by page, in the order of acceptance.
pub async fn receipts_come_in_pages(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    for id in 1..=7 {
        accept(s, &plan(1, 2, id)).await;
    }
    assert_eq!(claim(s, claim_of(2, 1, NOW, 9)).await.len(), 7);
    for id in [7, 3, 1, 2, 5, 6, 4] {
        assert!(answer(s, delivery(1, 2, id), Some(b"r")).await);
    }
    let (mut after, mut ids) = (None, Vec::new());
    loop {
        let page = s.receipts(&MESH, &key(1), after, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.place);
        ids.extend(page.iter().map(|r| r.id.time()));
    }
    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7]);
}

/// Expiry: what ran out is not handed out, then forgotten, and never accepted again as new.
pub async fn expiry(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    accept(s, &Plan { expires_at: NOW + 10, ..plan(1, 2, 1) }).await;
    accept(s, &plan(1, 2, 2)).await;
    assert_eq!(ids(&claim(s, claim_of(2, 1, NOW + 10, 9)).await), vec![2]);
    let sweep = async |at: u64| {
        let mut tx = s.begin().await.unwrap();
        let swept = tx.sweep(at).await.unwrap();
        tx.commit().await.unwrap();
        swept
    };
    assert_eq!(sweep(NOW + 9).await.expired, 0);
    assert_eq!(sweep(NOW + 10).await.expired, 1);
    assert_eq!(accept(s, &plan(1, 2, 1)).await, Accepted::Duplicate(MessageState::Expired));
    assert!(!answer(s, delivery(1, 2, 1), Some(b"r")).await);
    assert_eq!(sweep(NOW + 10 + ms(SKEW)).await.forgotten, 1);
    assert_eq!(s.queue_depth().await.unwrap(), 1);
}

/// A queue is bounded per recipient.
pub async fn bounds(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    let mut tx = s.begin().await.unwrap();
    let share = MAX_QUEUE_PER_AUTHOR as u64;
    for id in 0..share {
        assert_eq!(tx.accept(&plan(1, 2, id + 1), NOW).await.unwrap(), NEW);
    }
    let more = plan(1, 2, share + 1);
    assert_eq!(tx.accept(&more, NOW).await.unwrap(), Accepted::QueueFull, "its author's share");
    assert_eq!(tx.accept(&plan(1, 3, 1 << 20), NOW).await.unwrap(), NEW);
    let authors = u8::try_from(MAX_QUEUE / MAX_QUEUE_PER_AUTHOR).unwrap();
    for author in 10..10 + authors - 1 {
        for id in 0..share {
            assert_eq!(tx.accept(&plan(author, 2, id + 1), NOW).await.unwrap(), NEW);
        }
    }
    assert_eq!(tx.accept(&plan(3, 2, 1), NOW).await.unwrap(), Accepted::QueueFull, "all of it");
    // What has expired but was not swept yet takes no room.
    let later = Plan { expires_at: NOW + 900_000, ..plan(3, 2, 1) };
    assert_eq!(tx.accept(&later, NOW + 100_000).await.unwrap(), NEW);
    tx.commit().await.unwrap();
}

/// `drains` concurrent claimers of `total` deliveries: disjoint, complete, each in order
/// (inventory T28).
pub async fn concurrent_drains(store: Arc<dyn Store>, drains: u64, total: u64) {
    found(store.as_ref()).await;
    for id in 1..=total {
        accept(store.as_ref(), &plan(1, 2, id)).await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for conn in 1..=drains {
        let store = store.clone();
        tasks.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let got = claim(store.as_ref(), claim_of(2, conn, NOW, 3)).await;
                if got.is_empty() {
                    return mine;
                }
                mine.extend(ids(&got));
                tokio::task::yield_now().await;
            }
        });
    }
    let mut seen = HashSet::new();
    while let Some(mine) = tasks.join_next().await {
        let mine = mine.unwrap();
        assert!(mine.is_sorted(), "a drain out of order: {mine:?}");
        for id in mine {
            assert!(seen.insert(id), "{id} was handed out twice");
        }
    }
    assert_eq!(seen.len() as u64, total);
}
