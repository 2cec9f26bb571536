//! A broker and two nodes, each in a process of its own, over loopback, in a temporary folder.

use std::time::Duration;

use anyhow::Context as _;
use meshwire_peer::api;
use meshwire_peer::path::PathMode;
use meshwire_signaling::invite::Role;
use serde::Deserialize;
use tempfile::TempDir;

use super::super::worker::Worker;
use super::super::world::{Keep, PATIENCE, open};
use super::beside::Expected;
use super::end::{Ask, Done, Joined, Order, Sent};
use super::rss;
use crate::context::Context;

/// Uses and life of the invite.
const USES: u32 = 2;
const TTL_MS: u64 = 3_600_000;
/// The least that is worth waiting for, in bytes a second.
const SLOWEST: u64 = 2_000_000;

/// What the broker says.
#[derive(Deserialize)]
struct Listening {
    url: String,
    admin_token: Option<String>,
}

/// See the module's documentation.
pub(super) struct Town {
    broker: Worker,
    sender: (Worker, Joined),
    receiver: (Worker, Joined),
    path: Expected,
    // Last: everything that has files in it has ended by then.
    folder: TempDir,
}

/// A round of ours.
pub(super) struct Round {
    pub(super) sent: Sent,
    pub(super) receiver_rss: u64,
}

impl Town {
    /// Starts all, and waits until the two see each other, and have a direct path where they are to have one.
    pub(super) async fn start(cx: &Context, path: Expected) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("meshwire-bench-").tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let listen = ["broker", "--listen", "127.0.0.1:0", "--new-admin-token"];
        let mut broker = Worker::start("broker", &at("broker"), listen)?;
        let listening: Listening = broker.hear(PATIENCE).await?;
        let invite = found(cx, listening, &at("owner")).await?;
        let mode = match path {
            Expected::Direct => PathMode::Auto,
            Expected::Turn => PathMode::HideAddresses,
            Expected::Relay => PathMode::RelayOnly,
        };
        let args = ["bench", "end", "--paths", mode.as_str()];
        let join = async |what: &'static str| {
            let mut end = Worker::start(what, &at(what), args)?;
            let ask = Ask::Join { invite: invite.clone(), name: what.to_owned() };
            let joined: Joined = end.ask(&ask, PATIENCE).await?;
            anyhow::Ok((end, joined))
        };
        let (sender, receiver) = tokio::try_join!(join("sender"), join("receiver"))?;
        let mut town = Self { broker, sender, receiver, path, folder };
        town.meet().await?;
        Ok(town)
    }

    async fn meet(&mut self) -> anyhow::Result<()> {
        let ((sender, near), (receiver, far)) = (&mut self.sender, &mut self.receiver);
        let path = self.path;
        // Each of its waits may take as long.
        let patience = PATIENCE * 3;
        let ask = [Ask::Meet { peer: far.key, path }, Ask::Meet { peer: near.key, path }];
        let _: (Done, Done) =
            tokio::try_join!(sender.ask(&ask[0], patience), receiver.ask(&ask[1], patience))?;
        let listen = Ask::Listen { peer: near.fingerprint };
        let _: Done = receiver.ask(&listen, PATIENCE).await?;
        Ok(())
    }

    /// Streams of the nodes.
    pub(super) async fn ours(
        &mut self,
        streams: u32,
        bytes: u64,
        messages: bool,
    ) -> anyhow::Result<Round> {
        let ((sender, near), (receiver, far)) = (&mut self.sender, &mut self.receiver);
        receiver.tell(&Ask::Receive { peer: near.key, streams }).await?;
        let order = Order { peer: far.key, streams, bytes, path: self.path, messages };
        let (patience, order) = (patience(bytes), Ask::Send(order));
        let (sent, done): (Sent, Done) =
            tokio::try_join!(sender.ask(&order, patience), receiver.hear(patience))?;
        Ok(Round { sent, receiver_rss: done.rss })
    }

    /// Streams of raw quinn.
    pub(super) async fn raw(&mut self, streams: u32, bytes: u64) -> anyhow::Result<Sent> {
        let ((sender, _), (receiver, far)) = (&mut self.sender, &mut self.receiver);
        receiver.tell(&Ask::ReceiveRaw { streams }).await?;
        let order = Ask::SendRaw { to: far.addr, peer: far.fingerprint, streams, bytes };
        let patience = patience(bytes);
        let (sent, _): (Sent, Done) =
            tokio::try_join!(sender.ask(&order, patience), receiver.hear(patience))?;
        Ok(sent)
    }

    /// The most memory that the broker has had, in bytes.
    pub(super) fn broker_rss(&self) -> u64 {
        self.broker.id().map_or(0, |id| rss::of(&id.to_string()))
    }

    pub(super) async fn end(self) -> anyhow::Result<()> {
        tokio::try_join!(self.sender.0.end(), self.receiver.0.end())?;
        self.broker.kill().await?;
        Ok(self.folder.close()?)
    }
}

/// How long a round may take.
fn patience(bytes: u64) -> Duration {
    PATIENCE * 3 + Duration::from_secs(bytes / SLOWEST)
}

/// Founds a mesh; an invite for both nodes.
async fn found(cx: &Context, broker: Listening, home: &std::path::Path) -> anyhow::Result<String> {
    let owner = open(&cx.net, Keep::Memory, home, PathMode::RelayOnly).await?;
    let mesh = api::CreateMesh {
        name: "bench".to_owned(),
        broker_url: broker.url,
        admin_token: broker.admin_token.context("the broker shows no admin token")?,
        member_name: "owner".to_owned(),
    };
    owner.create_mesh(mesh).await?;
    owner.settle(PATIENCE).await;
    let (role, mesh, broker_url) = (Role::Member, None, None);
    let terms = api::CreateInvite { mesh, uses: USES, ttl_ms: TTL_MS, role, broker_url };
    let invite = owner.invite(terms).await?.link;
    owner.close().await;
    Ok(invite)
}
