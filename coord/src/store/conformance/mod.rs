//! What every store must do, as functions over any store. Each takes a fresh, empty one.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed check is meant to panic

mod groups;
mod identities;
mod queue;

use std::sync::Arc;

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::invite::Role;
use meshwire_signaling::receipt::Verdict;
use meshwire_signaling::{EnvelopeId, Hash, InstanceId, MeshId, PublicKey, UnixMillis};

use super::{
    Accepted, Claim, Claimed, DeliveryRef, InviteRow, MAX_INSTANCES, MemberRow, Store, Vouched,
};
use crate::core::accept::{Plan, Recipients, TargetKind};

pub use groups::*;
pub use identities::*;
pub use queue::*;

/// Accepted, and nobody's mailbox was full.
const NEW: Accepted = Accepted::New { full: Vec::new() };
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
        about: None,
        hidden: false,
    }
}

fn plan(from: u8, to: u8, id: u64) -> Plan {
    Plan {
        mesh: MESH,
        author: key(from),
        member: key(from),
        id: EnvelopeId::new(id, 0),
        hash: Hash([u8::try_from(id % 251).unwrap(); 32]),
        to: Recipients::One { key: key(to), kind: TargetKind::Member },
        priority: 1,
        expires_at: NOW + 100_000,
        queued: true,
        envelope: id.to_be_bytes().to_vec(),
        attestation: None,
    }
}

fn delegate_of(n: u8) -> Recipients {
    Recipients::One { key: key(n), kind: TargetKind::Delegate }
}

/// Member `n`'s word, given long ago.
fn vouched(n: u8, kind: IdentityKind, expires_at: u64) -> Vouched {
    Vouched { member: key(n), kind, issued_at: NOW - 1_000, expires_at }
}

fn delivery(from: u8, to: u8, id: u64) -> DeliveryRef {
    DeliveryRef { mesh: MESH, author: key(from), id: EnvelopeId::new(id, 0), recipient: key(to) }
}

fn claim_of(to: u8, conn: u64, now: UnixMillis, limit: usize) -> Claim {
    Claim {
        mesh: MESH,
        recipient: key(to),
        conn,
        urgent_only: false,
        now,
        until: now + LEASE,
        limit,
    }
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
