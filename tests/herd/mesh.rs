//! A mesh on a broker in another process, and the relay links of its members.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt as _};
use meshwire::{Net as _, OsNet};
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::http::{ClaimRequest, CreateMesh};
use meshwire_signaling::frame::{Features, feature};
use meshwire_signaling::invite::{AdminToken, Capability, Claim, Genesis, Role, mesh_id};
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::{Hash, InstanceId, MeshId, PublicKey, SecretKey};
use meshwire_transport::http as calls;
use meshwire_transport::link::{LinkEvent, MessageLink as _};
use meshwire_transport::net::random;
use meshwire_transport::relay::{CounterError, HelloCounter, RelayConfig, RelayLink};
use meshwire_transport::url::BaseUrl;
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;

use super::common::Broker;

/// Claims at once.
const CLAIMS: usize = 16;
/// Life of what is signed here.
const HOUR_MS: u64 = 3_600_000;

/// Hello counters, and when a hello was said.
struct Counter {
    instance: InstanceId,
    last: AtomicU64,
    said: Arc<Mutex<Vec<Instant>>>,
}

#[async_trait]
impl HelloCounter for Counter {
    async fn next(&self) -> Result<(InstanceId, u64), CounterError> {
        self.said.lock().unwrap().push(Instant::now());
        Ok((self.instance, self.last.fetch_add(1, Ordering::Relaxed) + 1))
    }
    async fn renew(&self) -> Result<(), CounterError> {
        panic!("no broker has seen this counter before");
    }
}

/// A mesh with members that have no nodes.
pub(super) struct Mesh {
    base: BaseUrl,
    broker: PublicKey,
    mesh: MeshId,
    pub(super) members: Vec<SecretKey>,
    /// When hellos were said, by whomever.
    said: Arc<Mutex<Vec<Instant>>>,
}

fn key() -> SecretKey {
    SecretKey::from_seed(&random(&OsNet))
}

impl Mesh {
    /// Creates a mesh with so many members beside its owner.
    pub(super) async fn create(broker: &Broker, members: usize) -> Self {
        let base: BaseUrl = broker.url.parse().unwrap();
        let token: AdminToken = broker.token.parse().unwrap();
        let (owner, now) = (key(), OsNet.unix_ms());
        let genesis = Genesis {
            name: "herd".into(),
            owner: owner.public(),
            owner_name: "ana".into(),
            broker: broker.key.parse().unwrap(),
            created_at: now,
            nonce: Hash(random(&OsNet)),
        };
        let broker = genesis.broker;
        let genesis = Signed::new(&owner, domains::GENESIS, &genesis);
        let mesh = mesh_id(&genesis);
        calls::create_mesh(&OsNet, &base, &token, &CreateMesh { genesis }).await.unwrap();
        let mut world = Self { base, broker, mesh, members: Vec::new(), said: Arc::default() };
        let invite = world.invite(&owner, members).await;
        world.members = stream::iter(0..members)
            .map(|n| world.join(&invite, n))
            .buffer_unordered(CLAIMS)
            .collect()
            .await;
        world
    }

    async fn invite(&self, owner: &SecretKey, uses: usize) -> SecretKey {
        let (invite, now) = (key(), OsNet.unix_ms());
        let terms = Capability {
            mesh: self.mesh,
            issuer: owner.public(),
            invite: invite.public(),
            role: Role::Member,
            uses: u32::try_from(uses).unwrap(),
            issued_at: now,
            expires_at: now + HOUR_MS,
            broker: self.broker,
        };
        let (link, mut events) = self.link(owner);
        assert!(matches!(events.recv().await, Some(LinkEvent::Up(_))));
        link.invite_create(Signed::new(owner, domains::CAPABILITY, &terms)).await.unwrap();
        link.bye().await.unwrap();
        link.close().await;
        invite
    }

    async fn join(&self, invite: &SecretKey, n: usize) -> SecretKey {
        let member = key();
        let claim = Claim {
            mesh: self.mesh,
            invite: invite.public(),
            member: member.public(),
            name: format!("member-{n}"),
            claimed_at: OsNet.unix_ms(),
        };
        let (claim, proof) = claim.sign(invite, &member);
        let body = ClaimRequest { claim, proof };
        calls::claim(&OsNet, &self.base, None, &invite.public(), &body).await.unwrap();
        member
    }

    /// When hellos were said since the last call, in order.
    pub(super) fn take_said(&self) -> Vec<Instant> {
        let mut said = std::mem::take(&mut *self.said.lock().unwrap());
        said.sort_unstable();
        said
    }

    /// Opens a member's link.
    pub(super) fn link(&self, member: &SecretKey) -> (Arc<RelayLink>, Receiver<LinkEvent>) {
        let instance = InstanceId(random(&OsNet));
        let counter = Counter { instance, last: AtomicU64::new(0), said: self.said.clone() };
        let config = RelayConfig {
            base: self.base.clone(),
            pin: None,
            mesh: self.mesh,
            broker: self.broker,
            identity: member.clone(),
            encoding: Encoding::MsgPack,
            features: Features::new(),
            requires: vec![feature::DEDUPE.into(), feature::RECEIPTS.into()],
            agent: "test/1".into(),
            counter: Arc::new(counter),
        };
        RelayLink::open(Arc::new(OsNet), config)
    }
}
