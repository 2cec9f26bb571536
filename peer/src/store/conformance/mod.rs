//! What every [`PeerStore`] must do: each public function is one case, called by the tests of each
//! store with a fresh one. Panics where the store is at fault.

// A suite of assertions; it runs in tests alone.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

mod drain;
mod groups;
mod identities;
mod inbox;
mod meshes;
mod outbox;
mod roster;

use std::sync::Arc;

pub use drain::*;
pub use groups::*;
pub use identities::*;
pub use inbox::*;
pub use meshes::*;
use meshwire_signaling::envelope::{Author, Suite};
use meshwire_signaling::invite::{Chain, Genesis, Role};
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::{
    Channel, Durability, Envelope, EnvelopeId, Hash, Header, InstanceId, MeshId, Priority,
    PublicKey, SecretKey, Target,
};
pub use outbox::*;
pub use roster::*;

use super::{
    Enqueued, Freeze, Idempotency, MeshRow, NewOutbox, OutboxRow, PeerStore, Pick, Requeue, Step,
    StepTo, StoreError, StoreResult,
};
use crate::core::inbox::Item;
use crate::core::outbox::{LATE, OutboxState};

/// A store under test.
pub type Subject = Arc<dyn PeerStore>;

/// When the suite plays.
pub const NOW: u64 = 1_700_000_000_000;

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

fn public(n: u8) -> PublicKey {
    key(n).public()
}

pub(super) fn mesh(n: u8) -> MeshId {
    MeshId([n; 32])
}

fn instance(n: u8) -> InstanceId {
    InstanceId([n; 16])
}

fn id(n: u64) -> EnvelopeId {
    EnvelopeId::new(NOW + n, u128::from(n) * 0x1_0000_0001)
}

fn chain(n: u8) -> Chain {
    let genesis = Genesis {
        name: "lab".into(),
        owner: public(n),
        owner_name: "ana".into(),
        broker: public(99),
        created_at: NOW,
        nonce: Hash([n; 32]),
    };
    Chain::owner(Signed::new(&key(n), domains::GENESIS, &genesis))
}

fn mesh_row(n: u8) -> MeshRow {
    MeshRow {
        mesh: mesh(n),
        name: format!("mesh{n}"),
        broker_url: "https://broker.example:7900".into(),
        broker_key: public(99),
        pin: n.is_multiple_of(2).then_some(Hash([n; 32])),
        chain: chain(n),
        self_key: public(n),
        self_name: "ana".into(),
        role: Role::Owner,
        joined_at: NOW + u64::from(n),
    }
}

/// Puts meshes 1 and 2 into the store.
pub async fn seed(store: &Subject) {
    for n in [1, 2] {
        store.mesh_insert(&mesh_row(n), instance(n)).await.unwrap();
    }
}

pub(super) fn message(n: u64) -> NewOutbox {
    NewOutbox {
        mesh: mesh(1),
        id: id(n),
        author: public(1),
        target: Target::Member { key: public(50) },
        recipient: public(50),
        member: None,
        recipients: Vec::new(),
        peer_name: "bob".into(),
        priority: Priority::Next,
        created_at: NOW,
        expires_at: NOW + 100_000,
        idempotency: None,
        ping: false,
    }
}

fn keyed(n: u64, key: &str, request: u8) -> NewOutbox {
    let idempotency = Idempotency { key: key.into(), fingerprint: Hash([request; 32]) };
    NewOutbox { idempotency: Some(idempotency), ..message(n) }
}

/// Seals nothing: the body says which slot it was made for.
pub(super) fn freeze(new: &NewOutbox) -> Freeze<'static> {
    let new = new.clone();
    Box::new(move |slot| {
        let header = Header {
            channel: Channel::Dm,
            from: Author { key: new.author, instance: slot.instance },
            target: new.target,
            id: new.id,
            priority: new.priority,
            durability: Durability::Queued,
            sent_at: new.created_at,
            expires_at: new.expires_at,
            suite: Suite::Box,
            key_id: vec![0; 8].into(),
            ephemeral: None,
        };
        let body = format!("{} {}", slot.seq, slot.floor).into_bytes();
        Ok(Envelope::sign(&new.mesh, &key(1), &header, body))
    })
}

/// The slot that an envelope was frozen for.
fn slot_of(row: &OutboxRow) -> String {
    String::from_utf8(row.envelope.body.0.clone()).unwrap()
}

async fn enqueue(store: &Subject, new: NewOutbox) -> OutboxRow {
    let (row, duplicate) = try_enqueue(store, &new).await.unwrap().into_row();
    assert!(!duplicate);
    row
}

async fn try_enqueue(store: &Subject, new: &NewOutbox) -> StoreResult<Enqueued> {
    store.enqueue(new, freeze(new)).await
}

fn step(n: u64, to: StepTo) -> Step {
    Step { mesh: mesh(1), id: id(n), to }
}

pub(super) fn relayed(n: u64) -> Step {
    step(n, StepTo::Relayed { at: NOW + 1, path: "relay".into() })
}

fn failed(n: u64) -> Step {
    step(n, StepTo::Failed { reason: "blocked".into() })
}

/// Sends message `old` anew as `new`.
fn anew(old: u64, new: u64) -> Requeue {
    Requeue {
        mesh: mesh(1),
        old: id(old),
        new: id(new),
        now: NOW + 5,
        expires_at: NOW + 900,
        recipients: Vec::new(),
        redirect: None,
    }
}

async fn requeue(store: &Subject, old: u64, new: u64) -> StoreResult<OutboxRow> {
    try_requeue(store, anew(old, new), new).await
}

async fn try_requeue(store: &Subject, requeue: Requeue, new: u64) -> StoreResult<OutboxRow> {
    let frozen = NewOutbox {
        id: id(new),
        created_at: requeue.now,
        expires_at: requeue.expires_at,
        ..message(new)
    };
    store.requeue(requeue, freeze(&frozen)).await
}

/// The step that leads to a state from pending, where one does.
pub(super) fn step_to(n: u64, state: OutboxState) -> Option<Step> {
    let to = match state {
        OutboxState::Relayed => StepTo::Relayed { at: NOW + 1, path: "relay".into() },
        OutboxState::Sent => StepTo::Sent { at: NOW + 1, path: "memory".into() },
        OutboxState::Delivered => StepTo::Delivered { at: NOW + 2, path: "memory".into() },
        OutboxState::Expired => StepTo::Expired { reason: "expired".into() },
        OutboxState::Failed => StepTo::Failed { reason: "blocked".into() },
        OutboxState::Pending => StepTo::Retry { next_attempt_at: NOW + 9, reason: "busy".into() },
        OutboxState::Inflight | OutboxState::Aborted => return None,
    };
    Some(step(n, to))
}

/// Brings a new message into a state. Uses id `n + 1000` where it must be requeued.
async fn in_state(store: &Subject, new: NewOutbox, n: u64, state: OutboxState) {
    // A counter of its own: no row waits for another's back-off.
    let mut to = [0; 32];
    to[..8].copy_from_slice(&n.to_be_bytes());
    enqueue(store, NewOutbox { target: Target::Member { key: PublicKey(to) }, ..new }).await;
    match state {
        OutboxState::Pending => {}
        OutboxState::Inflight => {
            let due = store.due(&mesh(1), NOW, 100, Pick::ALL).await.unwrap();
            assert_eq!(due.last().unwrap().meta.id, id(n));
        }
        OutboxState::Aborted => {
            requeue(store, n, n + 1000).await.unwrap();
        }
        other => {
            store.step(&[step_to(n, other).unwrap()]).await.unwrap();
        }
    }
    assert_eq!(state_of(store, n).await, state);
}

async fn state_of(store: &Subject, n: u64) -> OutboxState {
    store.outbox_get(&mesh(1), &id(n)).await.unwrap().unwrap().meta.state
}

/// A message that came in: number `seq` of author `author`, with an id of its own.
pub(super) fn item(author: u8, seq: u64) -> Item {
    Item {
        mesh: mesh(1),
        author: public(author),
        id: id(seq),
        hash: Hash::of(format!("{author} {seq}").as_bytes()),
        member: public(author),
        author_name: format!("peer{author}"),
        recipient: public(1),
        channel: Channel::Dm,
        priority: Priority::Next,
        kind: "text/plain".into(),
        content: format!("message {seq}").into_bytes(),
        reply_to: Some(id(7_000 + seq)),
        instance: instance(author),
        seq,
        floor: 1,
        target: Target::Member { key: public(1) },
        sent_at: NOW - 10,
        received_at: NOW + seq,
    }
}

async fn accept(store: &Subject, item: Item) -> super::Arrived {
    store.accept_inbound(&[(item, NOW + 160_000)]).await.unwrap()[0]
}

/// Accepts a new message and returns its row.
async fn arrive(store: &Subject, item: Item) -> i64 {
    match accept(store, item).await {
        super::Arrived::Inserted(row) => row,
        other => panic!("{other:?}"),
    }
}
