//! What every store must do, as functions over any store. Each takes a fresh, empty one.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed check is meant to panic

use std::collections::HashSet;
use std::sync::Arc;

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::invite::Role;
use meshwire_signaling::limits::{SKEW, ms};
use meshwire_signaling::receipt::Verdict;
use meshwire_signaling::{EnvelopeId, Hash, InstanceId, MeshId, PublicKey, UnixMillis};

use super::{
    Accepted, Claim, Claimed, DeliveryRef, InviteRow, MAX_INSTANCES, MAX_QUEUE,
    MAX_QUEUE_PER_AUTHOR, MemberRow, Store,
};
use crate::core::accept::{Plan, TargetKind};

const NOW: UnixMillis = 1_700_000_000_000;
const LEASE: u64 = 30_000;
const MESH: MeshId = MeshId([1; 32]);

fn key(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

fn member(n: u8) -> MemberRow {
    MemberRow {
        mesh: MESH,
        key: key(n),
        name: format!("m{n}"),
        role: if n == 1 { Role::Owner } else { Role::Member },
        chain: vec![n; 4],
        invite: (n > 1).then(|| key(200)),
        joined_at: NOW + u64::from(n),
        seen_at: None,
    }
}

fn plan(from: u8, to: u8, id: u64) -> Plan {
    Plan {
        mesh: MESH,
        author: key(from),
        id: EnvelopeId::new(id, 0),
        hash: Hash([u8::try_from(id % 251).unwrap(); 32]),
        recipient: key(to),
        target: TargetKind::Member,
        priority: 1,
        expires_at: NOW + 100_000,
        queued: true,
        envelope: id.to_be_bytes().to_vec(),
    }
}

fn delivery(from: u8, to: u8, id: u64) -> DeliveryRef {
    DeliveryRef { mesh: MESH, author: key(from), id: EnvelopeId::new(id, 0), recipient: key(to) }
}

fn claim_of(to: u8, conn: u64, now: UnixMillis, limit: usize) -> Claim {
    Claim { mesh: MESH, recipient: key(to), conn, now, until: now + LEASE, limit }
}

/// A mesh with an owner (1) and two members (2, 3).
async fn found(store: &dyn Store) {
    let mut tx = store.begin().await.unwrap();
    assert!(tx.create_mesh("lab", &member(1)).await.unwrap());
    assert!(!tx.create_mesh("lab", &member(1)).await.unwrap());
    tx.add_member(&member(2)).await.unwrap();
    tx.add_member(&member(3)).await.unwrap();
    tx.commit().await.unwrap();
}

async fn accept(store: &dyn Store, plan: &Plan) -> Accepted {
    let mut tx = store.begin().await.unwrap();
    let outcome = tx.accept(plan, NOW).await.unwrap();
    tx.commit().await.unwrap();
    outcome
}

async fn claim(store: &dyn Store, claim: Claim) -> Vec<Claimed> {
    let mut tx = store.begin().await.unwrap();
    let claimed = tx.claim(claim).await.unwrap();
    tx.commit().await.unwrap();
    claimed
}

async fn answer(store: &dyn Store, d: DeliveryRef, receipt: Option<&[u8]>) -> bool {
    let mut tx = store.begin().await.unwrap();
    let verdict = if receipt.is_some() { Verdict::Delivered } else { Verdict::Refused };
    let done = tx.answer(&d, verdict, receipt).await.unwrap();
    tx.commit().await.unwrap();
    done
}

fn ids(claimed: &[Claimed]) -> Vec<u64> {
    claimed.iter().map(|c| c.id.time()).collect()
}

/// Members, meshes and what is known of them.
pub async fn members(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    assert!(s.has_mesh(&MESH).await.unwrap() && !s.has_mesh(&MeshId([9; 32])).await.unwrap());
    assert_eq!(s.member(&MESH, &key(2)).await.unwrap(), Some(member(2)));
    assert_eq!(s.member(&MeshId([9; 32]), &key(2)).await.unwrap(), None);
    let page = s.members(&MESH, None, 2).await.unwrap();
    assert_eq!(page, vec![member(1), member(2)]);
    assert_eq!(s.members(&MESH, Some(&key(2)), 2).await.unwrap(), vec![member(3)]);
    let mut tx = s.begin().await.unwrap();
    assert_eq!(tx.name_holder(&MESH, "m3").await.unwrap(), Some(key(3)));
    assert_eq!(tx.name_holder(&MESH, "M3").await.unwrap(), None);
    tx.seen(&MESH, &key(2), NOW + 9).await.unwrap();
    tx.set("a", b"1").await.unwrap();
    tx.set("a", b"2").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(s.member(&MESH, &key(2)).await.unwrap().unwrap().seen_at, Some(NOW + 9));
    assert_eq!(s.setting("a").await.unwrap(), Some(b"2".to_vec()));
    s.ready().await.unwrap();
}

/// Hello counters grow per instance, and only so many instances are remembered.
pub async fn hellos(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    let hello = async |instance: u8, counter: u64, at: u64| {
        let mut tx = s.begin().await.unwrap();
        let instance = InstanceId([instance; 16]);
        let grown = tx.hello(&MESH, &key(2), &instance, counter, NOW + at).await.unwrap();
        tx.commit().await.unwrap();
        grown
    };
    assert!(hello(1, 5, 0).await);
    assert!(!hello(1, 5, 1).await, "the same counter again");
    assert!(!hello(1, 4, 1).await, "a restored home");
    assert!(hello(1, 6, 1).await);
    assert_eq!(s.counter(&MESH, &key(2), &InstanceId([1; 16])).await.unwrap(), Some(6));
    for i in 2..u8::try_from(MAX_INSTANCES).unwrap() + 2 {
        assert!(hello(i, 1, u64::from(i)).await);
    }
    assert_eq!(s.counter(&MESH, &key(2), &InstanceId([1; 16])).await.unwrap(), None);
    let last = InstanceId([u8::try_from(MAX_INSTANCES).unwrap() + 1; 16]);
    assert_eq!(s.counter(&MESH, &key(2), &last).await.unwrap(), Some(1));
}

/// Invites: registered once, listed, used, revoked.
pub async fn invites(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    let row = |n: u8| InviteRow {
        invite: key(n),
        mesh: MESH,
        issuer: key(1),
        capability: vec![n],
        uses: 2,
        used: 0,
        expires_at: NOW + 1000,
        created_at: NOW + u64::from(n),
        revoked_at: None,
    };
    let mut tx = s.begin().await.unwrap();
    assert!(tx.create_invite(&row(200)).await.unwrap());
    assert!(!tx.create_invite(&row(200)).await.unwrap());
    assert!(tx.create_invite(&row(201)).await.unwrap());
    tx.use_invite(&key(200)).await.unwrap();
    assert_eq!(tx.invite(&key(200)).await.unwrap().unwrap().used, 1);
    assert!(tx.revoke_invite(&MESH, &key(201), NOW).await.unwrap());
    assert!(tx.revoke_invite(&MESH, &key(201), NOW + 5).await.unwrap());
    assert!(!tx.revoke_invite(&MeshId([9; 32]), &key(200), NOW).await.unwrap(), "another mesh's");
    assert!(!tx.revoke_invite(&MESH, &key(202), NOW).await.unwrap());
    tx.commit().await.unwrap();
    let revoked = InviteRow { revoked_at: Some(NOW), ..row(201) };
    let used = InviteRow { used: 1, ..row(200) };
    assert_eq!(s.invites(&MESH, 10).await.unwrap(), vec![revoked, used]);
    let joined = s.joined(&key(200), 10).await.unwrap();
    assert_eq!(joined.iter().map(|m| m.key).collect::<Vec<_>>(), vec![key(2), key(3)]);
}

/// Accepts: dedupe by (mesh, author, id), conflicts, targets, no row for a refusal.
pub async fn accepts(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    assert_eq!(accept(s, &plan(1, 2, 1)).await, Accepted::New);
    assert_eq!(accept(s, &plan(1, 2, 1)).await, Accepted::Duplicate(MessageState::Relayed));
    let other = Plan { hash: Hash([99; 32]), ..plan(1, 2, 1) };
    assert_eq!(accept(s, &other).await, Accepted::Conflict);
    assert_eq!(accept(s, &plan(3, 2, 1)).await, Accepted::New, "another author's id is its own");
    assert_eq!(accept(s, &plan(1, 77, 5)).await, Accepted::UnknownTarget);
    let moved = Plan { recipient: key(2), ..plan(1, 77, 5) };
    assert_eq!(accept(s, &moved).await, Accepted::New, "a refusal leaves no dedupe row");
    assert_eq!(s.queue_depth().await.unwrap(), 3);
    // Sessions and services.
    let to_session = Plan { target: TargetKind::Delegate, ..plan(1, 50, 6) };
    assert_eq!(accept(s, &to_session).await, Accepted::UnknownTarget);
    let mut tx = s.begin().await.unwrap();
    let session = IdentityKind::Session;
    assert!(tx.delegate(&MESH, &key(50), &key(2), session, NOW + 10).await.unwrap());
    assert!(!tx.delegate(&MESH, &key(50), &key(3), session, NOW + 99).await.unwrap(), "stolen");
    tx.commit().await.unwrap();
    assert_eq!(accept(s, &to_session).await, Accepted::New);
    let mut tx = s.begin().await.unwrap();
    let late = Plan { id: EnvelopeId::new(7, 0), ..to_session };
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
    assert_eq!(tx.release(1).await.unwrap(), 3);
    tx.commit().await.unwrap();
    let again = claim(s, claim_of(2, 3, NOW, 9)).await;
    assert_eq!(ids(&again), vec![5, 1, 2]);
    assert!(again.iter().all(|c| c.attempt == 2));
    assert_eq!(ids(&claim(s, claim_of(2, 4, NOW + LEASE, 2)).await), vec![5, 1]);
    // What waits, and when it can be had.
    let waits = async |conn: u64, at: u64| s.waiting(&MESH, &key(2), conn, at).await.unwrap();
    let seen = waits(9, NOW + LEASE + 1).await;
    assert!(
        seen.elsewhere && seen.next == Some(NOW + LEASE),
        "2's and 3's leases are over, 4's not"
    );
    assert!(!waits(4, NOW + LEASE + 1).await.elsewhere, "its own claims");
    assert!(!waits(9, NOW + 99_000).await.elsewhere, "all leases are over");
    let nobody = s.waiting(&MESH, &key(3), 1, NOW).await.unwrap();
    assert_eq!((nobody.next, nobody.elsewhere), (None, false));
    // Not now.
    let mut tx = s.begin().await.unwrap();
    tx.release_all().await.unwrap();
    tx.postpone(&delivery(1, 2, 5), NOW + 500).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(ids(&claim(s, claim_of(2, 5, NOW, 1)).await), vec![1]);
    assert_eq!(ids(&claim(s, claim_of(2, 5, NOW + 500, 1)).await), vec![5]);
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
        assert_eq!(tx.accept(&plan(1, 2, id + 1), NOW).await.unwrap(), Accepted::New);
    }
    let more = plan(1, 2, share + 1);
    assert_eq!(tx.accept(&more, NOW).await.unwrap(), Accepted::QueueFull, "its author's share");
    assert_eq!(tx.accept(&plan(1, 3, 1 << 20), NOW).await.unwrap(), Accepted::New);
    let authors = u8::try_from(MAX_QUEUE / MAX_QUEUE_PER_AUTHOR).unwrap();
    for author in 10..10 + authors - 1 {
        for id in 0..share {
            assert_eq!(tx.accept(&plan(author, 2, id + 1), NOW).await.unwrap(), Accepted::New);
        }
    }
    assert_eq!(tx.accept(&plan(3, 2, 1), NOW).await.unwrap(), Accepted::QueueFull, "all of it");
    // What has expired but was not swept yet takes no room.
    let later = Plan { expires_at: NOW + 900_000, ..plan(3, 2, 1) };
    assert_eq!(tx.accept(&later, NOW + 100_000).await.unwrap(), Accepted::New);
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
