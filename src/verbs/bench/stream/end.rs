//! `meshwire bench end`: one of the two nodes of `bench stream`, in a process of its own, with an end of raw quinn
//! beside it.
//!
//! It reads an [`Ask`] a line from standard input and answers each on standard output; when the input ends, so
//! does it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use meshwire_peer::api::{AcceptStream, OpenStream};
use meshwire_peer::node::{Node, PeerStream, StreamHandle};
use meshwire_peer::path::PathMode;
use meshwire_signaling::{Hash, PublicKey};
use meshwire_transport::quic::bare::BareEnd;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::hub::lines;
use super::super::world::{Keep, Member, PATIENCE, join, open};
use super::beside::{Chat, Expected, Way, Ways};
use super::flow::{Times, receive, send};
use super::rss;
use crate::context::Context;
use crate::exit::Exit;

/// Streams that are opened at once.
const AT_ONCE: usize = 8;
/// What streams are called.
const NAME: &str = "bench";

/// Be one of the nodes that bench stream measures (which starts it)
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire bench end")]
pub(in super::super) struct Args {
    /// Which paths it may take
    #[arg(long, default_value_t)]
    paths: PathMode,
}

/// What it is asked. Each is answered with the object that is named, or ends the process with an error.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// Join a mesh: [`Joined`].
    Join { invite: String, name: String },
    /// Wait until a peer is online, and the path to it is as it is to be: [`Done`].
    Meet { peer: PublicKey, path: Expected },
    /// Take so many streams by a peer: [`Done`] when they are complete.
    Receive { peer: PublicKey, streams: u32 },
    /// Open streams to a peer and fill them: [`Sent`].
    Send(Order),
    /// Let an end of raw quinn connect: [`Done`].
    Listen { peer: Hash },
    /// Take one connection of raw quinn with so many streams: [`Done`] when they are complete.
    ReceiveRaw { streams: u32 },
    /// Open streams of raw quinn and fill them: [`Sent`].
    SendRaw { to: SocketAddr, peer: Hash, streams: u32, bytes: u64 },
}

/// Streams that are to be filled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) peer: PublicKey,
    pub(super) streams: u32,
    /// Of all of them together.
    pub(super) bytes: u64,
    pub(super) path: Expected,
    /// Whether messages go beside them.
    pub(super) messages: bool,
}

/// Who it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Joined {
    /// In the mesh.
    pub(super) key: PublicKey,
    /// With raw quinn.
    pub(super) fingerprint: Hash,
    pub(super) addr: SocketAddr,
}

/// It is as it was asked for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Done {
    /// Most resident memory since it was asked, in bytes.
    pub(super) rss: u64,
}

/// How long it took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sent {
    pub(super) times: Times,
    pub(super) ways: Ways,
    /// From sending a message to its receipt.
    pub(super) receipts: Vec<Duration>,
    /// Most resident memory meanwhile, in bytes.
    pub(super) rss: u64,
}

struct End {
    node: Node,
    bare: BareEnd,
    key: Option<PublicKey>,
}

pub(in super::super) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let node = open(&cx.net, Keep::Disk, &cx.home_path()?, args.paths).await?;
    let mut end = End { node, bare: BareEnd::start(&*cx.net)?, key: None };
    let mut lines = lines();
    while let Some(line) = lines.recv().await {
        rss::forget();
        match serde_json::from_str(&line?)? {
            Ask::Join { invite, name } => {
                let key = join(&end.node, &invite, &name).await?;
                end.key = Some(key);
                let (fingerprint, addr) = (end.bare.fingerprint(), end.bare.addr());
                cx.out.object(&Joined { key, fingerprint, addr })?;
            }
            Ask::Meet { peer, path } => {
                end.meet(&peer, path).await?;
                cx.out.object(&Done { rss: rss::own() })?;
            }
            Ask::Receive { peer, streams } => {
                end.receive(&peer, streams).await?;
                cx.out.object(&Done { rss: rss::own() })?;
            }
            Ask::Send(order) => cx.out.object(&end.send(order).await?)?,
            Ask::Listen { peer } => {
                end.bare.listen(peer)?;
                cx.out.object(&Done { rss: rss::own() })?;
            }
            Ask::ReceiveRaw { streams } => {
                receive_raw(&end.bare, streams).await?;
                cx.out.object(&Done { rss: rss::own() })?;
            }
            Ask::SendRaw { to, peer, streams, bytes } => {
                let times = send_raw(&end.bare, to, peer, streams, bytes).await?;
                let (ways, receipts) = Default::default();
                cx.out.object(&Sent { times, ways, receipts, rss: rss::own() })?;
            }
        }
    }
    end.node.close().await;
    Ok(Exit::Ok)
}

impl End {
    fn member(&self) -> anyhow::Result<Member> {
        let key = self.key.context("it has joined nothing")?;
        Ok(Member { node: self.node.clone(), key })
    }

    async fn meet(&self, peer: &PublicKey, path: Expected) -> anyhow::Result<()> {
        let member = self.member()?;
        member.sees(peer).await?;
        if path == Expected::Relay {
            return Ok(());
        }
        member.send(peer, "hello".to_owned()).await?;
        member.is_direct(peer).await
    }

    async fn receive(&self, peer: &PublicKey, streams: u32) -> anyhow::Result<()> {
        let mut all = JoinSet::new();
        for _ in 0..streams {
            let (from, name) = (Some(peer.to_string()), Some(NAME.to_owned()));
            let ask = AcceptStream { from, name, ..AcceptStream::default() };
            let accepted = timeout(PATIENCE, self.node.accept_stream(ask)).await;
            let (read, write) = accepted.context("no stream came")??.split();
            all.spawn(receive(read, write));
        }
        finish(all).await
    }

    async fn send(&self, order: Order) -> anyhow::Result<Sent> {
        let Order { peer, streams, bytes, path, messages } = order;
        let opened: Vec<PeerStream> = stream::iter(0..streams)
            .map(|_| async {
                let (to, name) = (peer.to_string(), NAME.to_owned());
                let ask = OpenStream { to, name, ..Default::default() };
                anyhow::Ok(self.node.open_stream(ask).await?)
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
            .context("opening streams")?;
        let handles: Vec<StreamHandle> = opened.iter().map(PeerStream::handle).collect();
        for handle in &handles {
            let mut paths = handle.paths();
            let up = timeout(PATIENCE, paths.wait_for(|now| *now == Some(path.kind()))).await;
            if !up.is_ok_and(|ended| ended.is_ok()) {
                bail!("a stream does not go over {path} within {PATIENCE:?}");
            }
        }
        let way = Way::watch(&self.node, peer, handles).await;
        let chat = if messages { Some(Chat::start(self.member()?, peer)) } else { None };
        let halves = opened.into_iter().map(PeerStream::split).collect();
        let times = send(halves, bytes).await?;
        let ways = way.seen();
        let receipts = match chat {
            Some(chat) => chat.stop().await?,
            None => Vec::new(),
        };
        path.check(&ways)?;
        Ok(Sent { times, ways, receipts, rss: rss::own() })
    }
}

/// Takes all streams of one connection.
pub(super) async fn receive_raw(bare: &BareEnd, streams: u32) -> anyhow::Result<()> {
    let conn = timeout(PATIENCE, bare.accept()).await.context("nobody connects")??;
    let mut all = JoinSet::new();
    for _ in 0..streams {
        let (write, read) = conn.accept_bi().await?;
        all.spawn(receive(read, write));
    }
    finish(all).await?;
    // The sender closes: by then it has heard of everything.
    conn.closed().await;
    Ok(())
}

pub(super) async fn finish(mut all: JoinSet<anyhow::Result<u64>>) -> anyhow::Result<()> {
    while let Some(one) = all.join_next().await {
        one??;
    }
    Ok(())
}

pub(super) async fn send_raw(
    bare: &BareEnd,
    to: SocketAddr,
    peer: Hash,
    streams: u32,
    bytes: u64,
) -> anyhow::Result<Times> {
    let conn = timeout(PATIENCE, bare.connect(to, peer)).await.context("no connection")??;
    let mut halves = Vec::new();
    for _ in 0..streams {
        let (write, read) = conn.open_bi().await?;
        halves.push((read, write));
    }
    let times = send(halves, bytes).await;
    conn.close(0_u32.into(), b"done");
    times
}
